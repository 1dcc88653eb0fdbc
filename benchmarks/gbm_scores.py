"""Five programme scores of a glioblastoma section, predicted from its picture: no counts, one section, blocks held out.

Run with: python benchmarks/gbm_scores.py --data ../shared/data/gbm_visium [--figure maps.png]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pandas as pd

import stpredict as stp

POSITIONS = ["barcode", "in_tissue", "array_row", "array_col", "y", "x"]


def read_gbm(data: Path, every: int = 1):
    """The section with its scores in `obsm["scores"]`; of the spots, one in `every` by array row."""
    scores = pd.read_csv(data / "programme_scores.csv", index_col="barcodes").iloc[:, 1:]
    positions = pd.read_csv(data / "tissue_positions_list.csv", names=POSITIONS, index_col=0).loc[scores.index]
    positions = positions[positions["array_row"] // 2 % every == 0]
    # The picture at hand is the hires one; positions are in pixels of full resolution.
    factors = json.loads((data / "scalefactors_json.json").read_text())
    positions[["x", "y"]] *= factors["tissue_hires_scalef"]
    adata = stp.io.from_tables(
        None, positions[["x", "y", "array_row", "array_col"]], data / "tissue_hires_image.png",
        pitch_um=100, lattice="hexagonal", sample="243_T", patient="243",
    )  # fmt: skip
    adata.obsm["scores"] = scores.reindex(adata.obs_names)
    return adata


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder gbm_visium")
    parser.add_argument("--link", choices=["identity", "logit"], default="identity")
    parser.add_argument("--models", nargs="+", default=["ridge", "mlp", "hist"])
    parser.add_argument("--figure", type=Path, help="where to write the maps of the ridge")
    options = parser.parse_args()
    stp.settings.progress = False
    adata = read_gbm(options.data)
    stp.pp.image_features(adata)
    stp.pp.grid(adata)
    target = stp.targets.Values(obsm="scores", link=options.link)
    table = stp.tl.cross_validate(adata, options.models, target=target, splitter="blocks")
    pd.set_option("display.width", 200)
    columns = ["model", "pearson", "low", "high", "interval_over", "rmse", "ssim", "leaky", "target"]
    print(stp.tl.summarize(table)[columns].round(3).to_string(index=False))
    print(table.pivot_table(index="gene", columns="model", values="pearson").round(3).to_string())
    if options.figure is not None:
        axes = stp.pl.genes(adata, list(adata.obsm["scores"]), key="predicted_ridge")
        axes.flat[0].figure.savefig(options.figure, dpi=120)


if __name__ == "__main__":
    main()
