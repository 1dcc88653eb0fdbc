"""Score one ridge on real sections under each target: log1p, log1p to the median depth, Pearson residuals, counts.

    python benchmarks/depth.py --data ../shared/data/her2st [--genes 785] [--null]

Sections C2 to C5 (one patient) and B4 (another) of the HER2-positive breast cohort; features are color-texture with
context, standardized per section. Within C one section is left out at a time, which is leaky; C to B4 and B4 to C are
patients apart. Each entry is Pearson's r on the scale of the target | r given the depth of the spot | r with Pearson
residuals | deviance explained in percent, mean over genes, then sections. `--null` redraws the counts with one constant
proportion per section and gene at the real depths: whatever is not 0 there is depth. `--genes` takes the published panel
(785) or all genes seen in a tenth of the spots (all).
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from anndata import AnnData

import stpredict as stp

SECTIONS = ["B4", "C2", "C3", "C4", "C5"]
WIDE = "context"
FEATURES = {"slot": WIDE, "scaling": "section"}
COLUMNS = ("pearson", "pearson_given_depth", "pearson_residual", "deviance_explained")
TARGETS = {
    "log1p per 10,000": ({"method": "log1p"}, None),
    "log1p to the median depth": ({"method": "log1p", "target_sum": "median"}, None),
    "Pearson residuals": ({"method": "pearson_residuals"}, None),
    "counts": ({"method": "pearson_residuals"}, "counts"),
}


def read(data: Path, genes: str) -> tuple[AnnData, list[str]]:
    """Sections with features, and the genes to predict."""
    adata = stp.io.read_her2st(data, sections=SECTIONS)
    stp.pp.image_features(adata, context=(1, 3), key_added=WIDE)
    if genes == "all":
        seen = np.asarray((adata.layers["counts"] > 0).mean(axis=0)).ravel()
        return adata, list(adata.var_names[seen > 0.1])
    return adata, (data.parent / "published" / "her2st_785_genes.txt").read_text().split()


def scores(adata: AnnData, panel: list[str], model: str, target: str | None) -> pd.DataFrame:
    """Scores in all three tests, one row per direction, section and gene."""
    asked = stp.targets.Counts(panel) if target == "counts" else panel
    options = {
        "features": FEATURES, "target": asked, "metrics": COLUMNS, "baselines": False, "ceiling": True, "progress": False,
    }  # fmt: skip
    inside = adata[adata.obs["patient"] == "C"].copy()
    tables = [stp.tl.cross_validate(inside, [model], "section", allow_leakage=True, **options).assign(test="within C")]
    apart = stp.tl.cross_validate(adata, [model], **options)
    tables += [
        apart[apart["patient"] == "B"].assign(test="C to B4"),
        apart[apart["patient"] == "C"].assign(test="B4 to C"),
    ]
    return pd.concat(tables)


def row(table: pd.DataFrame) -> dict[str, str]:
    """One line: an entry per test."""
    found = stp.tl.summarize(table, by=["test"], n_boot=1).set_index("test")
    scale = {"deviance_explained": 100.0}
    return {
        test: " | ".join(f"{found.loc[test, name] * scale.get(name, 1.0):.3f}" for name in COLUMNS)
        for test in ("within C", "C to B4", "B4 to C")
    }


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/her2st"))
    parser.add_argument("--genes", choices=["785", "all"], default="785")
    parser.add_argument("--model", default="ridge")
    parser.add_argument("--null", action="store_true", help="counts without biology")
    options = parser.parse_args()
    adata, panel = read(options.data, options.genes)
    if options.null:
        section = adata.obs["sample"].astype(str).to_numpy()
        adata.layers["counts"] = stp.datasets.null_counts(adata.layers["counts"], section, rng=0)
    rows, strata = {}, {}
    for label, (how, target) in TARGETS.items():
        start = perf_counter()
        stp.pp.normalize(adata, layer="counts", **how)
        table = scores(adata, panel, options.model, target)
        rows[label] = row(table) | {"s": f"{perf_counter() - start:.0f}"}
        if label in ("Pearson residuals", "counts"):
            strata[label] = stp.tl.summarize(table, by=["test", "stratum"], n_boot=1)
    print(f"{options.model}, {len(panel)} genes{', null' if options.null else ''}: " + " | ".join(COLUMNS) + " (%)")
    print(pd.DataFrame(rows).T.to_string())
    for label, table in strata.items():
        print(f"\n{label}, by the noise ceiling of the gene (of residuals, pooled over sections)")
        columns = [
            "test",
            "stratum",
            "n_genes",
            "pearson_residual",
            "residual_ceiling",
            "deviance_explained",
            "deviance_ceiling",
        ]
        print(table.sort_values(["test", "stratum"])[columns].round(3).to_string(index=False))


if __name__ == "__main__":
    main()
