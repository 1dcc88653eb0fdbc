"""The ladder of inflation: one dataset, one ridge, and one published habit added at a time.

    python benchmarks/inflation.py [--data ../shared/data/her2st] [--out out/inflation] [--genes 785]

Sections B4 (one patient) and C2 to C5 (another) of the HER2-positive breast cohort, and the 785 genes of the HGGEP line of
work; color and texture with context, standardized per section. Each line keeps what the lines above it did and adds one habit:

- `honest`: patients apart, Pearson residuals within the section, all genes;
- `log1p`: log1p of counts per 10,000 of all genes, which carries the depth of the spot;
- `library size on the panel`: counts per 10,000 of the 785 genes;
- `targets smoothed`: the mean over 3 × 3 spots, in training and in the test;
- `sections instead of patients`: one section left out, other sections of its patient stay;
- `genes ranked on the test section`: the 50 genes that came out best in each;
- `a network, its epoch chosen inside`, and then `epoch chosen on the test section`;
- `background counted`: the empty slide around the tissue counts as zeros.

`r` is the mean over genes within a section, then over the five sections. The second table leaves one section out and changes
the target alone: what smoothing and the panel do to one ridge, for the 785 genes, and for the 250 genes with the most counts on
the spot's own tile, of which log1p values are less noisy. Settings of the network are its defaults; nothing was chosen on
these sections but what a line says is chosen on them.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

import stpredict as stp

SECTIONS = ["B4", "C2", "C3", "C4", "C5"]
WIDE, SPOT = "context", "spot"
N_COUNTED = 250
EPOCHS = (2, 5, 10, 20, 40, 80)
N_RANKED = 50
_OPTIONS: dict[str, Any] = {"metrics": ["pearson"], "ceiling": False, "baselines": False, "progress": False}
#: Layers by the habits that made them.
LAYERS = {"panel": ["panel"], "smoothed": ["smoothed"], "panel_and_smoothed": ["panel", "smoothed"]}


def read(data: Path) -> AnnData:
    """Sections with features, a grid, and each target in a layer."""
    adata = stp.io.read_her2st(data, sections=SECTIONS)
    stp.pp.image_features(adata, context=(1, 3), key_added=WIDE)
    stp.pp.image_features(adata, context=(1,), key_added=SPOT)
    stp.pp.grid(adata)
    return adata


def add_targets(adata: AnnData, panel: list[str], counted: list[str]) -> None:
    """Normalize the counts, and write each published target into a layer, for a panel and for the genes with the most counts."""
    stp.pp.normalize(adata, method="pearson_residuals")
    adata.layers["residuals"] = adata.X.copy()
    stp.pp.normalize(adata, method="log1p")
    adata.layers["log1p"] = adata.X.copy()
    for name, habits in LAYERS.items():
        stp.pp.published_target(adata, habits, panel=panel, key_added=name)
        stp.pp.published_target(adata, habits, panel=counted, key_added=f"{name}_of_counted")


def scores_of(
    adata: AnnData, panel: list[str], layer: str, splitter: str, spec: dict[str, Any], slot: str = WIDE, **options: Any
) -> pd.DataFrame:
    """Scores of a model on a target, one row per section and gene."""
    target = stp.targets.Expression(panel=panel, layer=layer)
    models = {"model": spec | {"features": {"slot": slot, "scaling": "section"}}}
    leaky = splitter == "section"
    return stp.tl.cross_validate(adata, models, splitter, target=target, allow_leakage=leaky, **(_OPTIONS | options))


def mean_r(scores: pd.DataFrame, column: str = "pearson", ranked: bool = False) -> float:
    """Mean over genes within a section, or over those ranked highest in it, then over sections."""
    by_section = scores.groupby("sample")[column]
    return float((by_section.apply(lambda r: r.nlargest(N_RANKED).mean()) if ranked else by_section.mean()).mean())


def best_epoch(tables: dict[int, pd.DataFrame]) -> pd.DataFrame:
    """For each section the scores at the epoch that came out best on it."""
    r = pd.DataFrame({epochs: table.groupby("sample")["pearson"].mean() for epochs, table in tables.items()})
    chosen = r.idxmax(axis=1)
    return pd.concat([tables[epochs][tables[epochs]["sample"] == name] for name, epochs in chosen.items()])


def ladder(adata: AnnData, panel: list[str], part: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    """One row per habit."""
    ridge, mlp = {"model": "ridge"}, {"model": "mlp"}
    both = "panel_and_smoothed"
    honest = part("residuals-patient", "residuals", "patient", ridge)
    rows = [("honest: Pearson residuals, patients apart", mean_r(honest))]
    rows.append(("+ log1p, which carries depth", mean_r(part("log1p-patient", "log1p", "patient", ridge))))
    rows.append(("+ library size on the panel", mean_r(part("panel-patient", "panel", "patient", ridge))))
    rows.append(("+ targets smoothed over 3 × 3 spots", mean_r(part("both-patient", both, "patient", ridge))))
    leaky = part("both-section", both, "section", ridge)
    rows.append(("+ sections instead of patients", mean_r(leaky)))
    rows.append(("+ genes ranked on the test section", mean_r(leaky, ranked=True)))
    inside = part("mlp", both, "section", mlp)
    rows.append(("  a network instead, its epoch chosen inside", mean_r(inside, ranked=True)))
    metrics = ["pearson", "pearson_with_background"]
    tables = {
        epochs: part(
            f"mlp-{epochs}", both, "section", mlp | {"training": {"max_epochs": epochs, "patience": 0}}, metrics=metrics
        )
        for epochs in EPOCHS
    }
    chosen = best_epoch(tables)
    rows.append(("+ epoch chosen on the test section", mean_r(chosen, ranked=True)))
    rows.append(("+ background counted", mean_r(chosen, "pearson_with_background", ranked=True)))
    return pd.DataFrame(rows, columns=["habit", "r"]).set_index("habit")


def known_size(part: Callable[..., pd.DataFrame]) -> pd.DataFrame:
    """One section left out: the target alone changes, for both sets of genes."""
    names = {"log1p": "measured", "smoothed": "smoothed", "panel": "panel", "panel_and_smoothed": "panel and smoothed"}
    ridge = {"model": "ridge"}
    found: dict[str, dict[str, float]] = {"785 genes, context": {}, f"{N_COUNTED} genes, spot alone": {}}
    for layer, shown in names.items():
        few = layer if layer == "log1p" else f"{layer}_of_counted"
        tables = (
            part(f"known-{layer}", layer, "section", ridge),
            part(f"counted-{layer}", few, "section", ridge, slot=SPOT),
        )
        for column, table in zip(found, tables, strict=True):
            found[column][shown] = mean_r(table)
    return pd.DataFrame(found)


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/her2st"))
    parser.add_argument("--out", type=Path, default=Path("out/inflation"))
    parser.add_argument("--genes", type=int, help="the first so many of the panel, to see that everything runs")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    stp.settings.progress = False
    panel = (args.data.parent / "published" / "her2st_785_genes.txt").read_text().split()[: args.genes]
    adata = read(args.data)
    counts = np.asarray(adata.layers["counts"].mean(axis=0)).ravel()
    counted = list(adata.var_names[np.argsort(-counts, kind="stable")[: min(N_COUNTED, args.genes or N_COUNTED)]])
    add_targets(adata, panel, counted)

    def part(name: str, layer: str, splitter: str, spec: dict[str, Any], **options: Any) -> pd.DataFrame:
        path = args.out / f"{name}.csv"
        if not path.is_file():
            genes = counted if options.get("slot") == SPOT else panel
            scores_of(adata, genes, layer, splitter, spec, **options).to_csv(path, index=False)
        return pd.read_csv(path)

    table = ladder(adata, panel, part)
    table["times honest"] = table["r"] / table["r"].iloc[0]
    print(f"{len(panel)} genes, sections {', '.join(SECTIONS)}\n{table.round(3).to_string()}")
    print(f"\none section left out, the target alone changes\n{known_size(part).round(3).to_string()}")
    honest = part("residuals-patient", "residuals", "patient", {"model": "ridge"})
    per_patient = honest.groupby(["patient", "sample"])["pearson"].mean().groupby("patient").mean()
    print("\nhonest, by test patient: " + ", ".join(f"{name} {np.round(r, 3)}" for name, r in per_patient.items()))


if __name__ == "__main__":
    main()
