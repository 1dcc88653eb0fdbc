"""What a ridge scores on genes without biology: counts redrawn with constant proportions at the real depths.

    python benchmarks/null_genes.py [--models] [--data ../shared/data/her2st] [--out out/null_genes] [--seeds 3] [--figure FILE]

Sections C2 to C5 (one patient) and B4 (another) of the HER2-positive breast cohort, and the 785 genes of the HGGEP line of
work. In each section the counts of every spot are given to genes anew, with the proportions of the section: what is left of
the map of a gene is the depth of the spots, and noise. A ridge (color and texture with context, standardized per section) is
fitted to these counts and compared with them, as it is with the data, under four targets:

- `log1p, size factors of the panel`: counts per 10,000 of the 785 genes, as much of the field does it;
- `log1p, all genes`: counts per 10,000 of all genes;
- `log1p, median depth`: scaled to the median depth of the section;
- `Pearson residuals`: within the section.

`within C` leaves one section out (other sections of the patient stay: leaky), `C to B4` and `B4 to C` keep patients apart.
`null` is the mean r over the null genes, sections and seeds, `data` that of the measured genes; `HGGEP` are the published
correlations on the same sections, of measured genes. A second table gives encoders that cost nothing, on the measured genes:
six color statistics, and filters drawn at random.

`--models` prints another table instead: every regression model in its preset `small`, at most `--epochs` epochs (2 of `stnet`),
on null genes of the synthetic cohort and of these sections, patients apart. Mean r, r with the Pearson residuals and
deviance explained, fitted to Pearson residuals and to log1p values of all genes. `above .02` marks a mean residual r or
deviance explained beyond .02 on either side, which depth should not give under residuals.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from time import perf_counter

import numpy as np
import pandas as pd
from anndata import AnnData

import stpredict as stp

SECTIONS = ["B4", "C2", "C3", "C4", "C5"]
PUBLISHED_ROWS = {"B4": 8, "C2": 12, "C3": 13, "C4": 14, "C5": 15}  # rows A2–A6, B1–B6, C1–C6, …
WIDE = "context"
TARGETS = {
    "log1p, size factors of the panel": {"size_factors": "panel"},
    "log1p, all genes": {},
    "log1p, median depth": {"target_sum": "median"},
    "Pearson residuals": {"method": "pearson_residuals"},
}
ENCODERS = {
    "six color statistics": "color-statistics",
    "random filters": "random-filters",
    "color-texture": "color-texture",
}
DIRECTIONS = ("within C", "C to B4", "B4 to C")
OPTIONS = {"metrics": ["pearson"], "ceiling": False, "baselines": False, "progress": False}

AS_FOUND = ", as found"  # what retrieval networks find, not pulled towards the mean, as published
RETRIEVAL = [f"{name}{how}" for name in ("bleep", "mclstexp") for how in ("", AS_FOUND)]
FIRST = ("mean", "ridge", "mlp", "hist", "egn", *RETRIEVAL)  # in the order of what they cost: features
LAST = ("color", "histogene", "hist2st", "thitogene", "hggep", "stnet")  # pixels
FEW_EPOCHS = {"stnet": 2}
SQUARES = {"neighbors", "neighbor_mask", "section_features", "section_cell"}
AROUND = "color-statistics"  # of 25 tiles around every spot: six numbers of each
NUCLEI = {"nuclei_graph", "n_nuclei", "nuclei_links", "n_links"}
PREPARED = {
    "features",
    "patches",
    "positions",
    "cell",
    "counts",
    "size_factor",
    "gene_table",
    *SQUARES,
    *NUCLEI,
}  # inputs
NULL_SCORES = ("pearson", "pearson_residual", "deviance_explained")


def read(data: Path) -> AnnData:
    """Sections with features of each encoder: of the tile alone, and beside a surrounding three times as wide."""
    adata = stp.io.read_her2st(data, sections=SECTIONS)
    for encoder in ENCODERS.values():
        stp.pp.image_features(adata, encoder, context=(1, 3), key_added=f"{encoder}-{WIDE}")
    return adata


def validate(adata: AnnData, panel: list[str], encoder: str, normalization: dict) -> dict[str, float]:
    """Mean r of the ridge in all three tests."""
    stp.pp.normalize(
        adata,
        **({"method": "log1p"} | normalization),
        panel=panel if normalization.get("size_factors") == "panel" else None,
    )
    spec = {"ridge": {"model": "ridge", "features": {"slot": f"{encoder}-{WIDE}", "scaling": "section"}}}
    inside = adata[adata.obs["patient"] == "C"].copy()
    tables = {
        "within C": stp.tl.cross_validate(inside, spec, "section", target=panel, allow_leakage=True, **OPTIONS),
    }
    both = stp.tl.cross_validate(adata, spec, target=panel, **OPTIONS)
    tables |= {"C to B4": both[both["patient"] == "B"], "B4 to C": both[both["patient"] == "C"]}
    return {name: float(stp.tl.summarize(table, n_boot=1)["pearson"].iloc[0]) for name, table in tables.items()}


def redrawn(adata: AnnData, seed: int) -> AnnData:
    """The same spots with null genes."""
    null = adata.copy()
    counts = null.layers.get("counts", null.X)
    null.X = stp.datasets.null_counts(counts, null.obs["sample"].to_numpy(), seed)
    null.layers.pop("counts", None)
    null.uns["stpredict"] = {k: v for k, v in null.uns["stpredict"].items() if k != "normalize"}
    return null


def rows_of(adata: AnnData, panel: list[str], seeds: int, out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two tables; parts that are in `out` are read."""

    def part(name: str, data: AnnData, encoder: str, target: str) -> pd.Series:
        path = out / f"{name}.csv"
        if not path.is_file():
            pd.Series(validate(data, panel, encoder, TARGETS[target])).to_csv(path)
        return pd.read_csv(path, index_col=0).iloc[:, 0]

    nulls = []
    for seed in range(seeds):
        null = redrawn(adata, seed)
        for target in TARGETS:
            row = part(f"null-{target}-{seed}", null, "color-texture", target)
            nulls.append(row.rename("null").to_frame().assign(target=target, seed=seed))
    data = []
    for target in TARGETS:
        for label, encoder in ENCODERS.items():
            row = part(f"data-{encoder}-{target}", adata, encoder, target)
            data.append(row.rename("data").to_frame().assign(target=target, encoder=label))
    return pd.concat(nulls), pd.concat(data)


def null_scores(
    null: AnnData, genes: list[str], model: str, target: str, features: dict | str, epochs: int
) -> pd.Series:
    """Mean scores of one model on null genes, patients apart, and over how many patients."""
    stp.pp.normalize(null, **({"method": "log1p"} | TARGETS[target]))
    spec = {"model": model.removesuffix(AS_FOUND), "features": features}
    if model not in ("mean", "ridge"):
        spec |= {"hyperparameters": "small", "training": {"max_epochs": epochs}}
    if model.endswith(AS_FOUND):
        spec["hyperparameters"] = dict(stp.models.get_model(spec["model"]).cls.small) | {"shrink": False}
    tables = []
    for fold in stp.cohorts.leave_one_patient_out(null):
        try:
            table = stp.tl.cross_validate(
                null, {model: spec}, [fold], target=genes, **OPTIONS | {"metrics": NULL_SCORES}
            )
        except ValueError as error:  # what looks up sections of other patients has none where only one is trained on
            print(f"{model}, fold {fold.name}: {error}", file=sys.stderr)
            continue
        tables.append(table[table["sample"].isin(null.obs["sample"][fold.test])])
    found = stp.tl.summarize(pd.concat(tables), n_boot=1).iloc[0]
    return found[[*NULL_SCORES, "n_patients"]].astype(float)


def every_model(
    adata: AnnData, panel: list[str], epochs: int, minutes: float, out: Path, *, only: Sequence[str] = ()
) -> tuple[pd.DataFrame, list[str]]:
    """Scores of all models, or of some, on null genes of simulated and of real sections, and the lines there was no time to begin."""
    needs = stp.models.list_models()["needs"].str.split(", ")
    known = [name for name, inputs in needs.items() if set(inputs) - {""} <= PREPARED]
    names = [*FIRST, *sorted(set(known) - {*FIRST, *LAST}), *LAST]
    names = [name for name in names if not only or name.removesuffix(AS_FOUND) in only]
    made = redrawn(stp.datasets.synthetic_cohort(), 0)
    stp.pp.image_features(made)
    for data in (made, adata):
        stp.pp.grid(data)
        stp.pp.gene_table(data, "random", n_components=16)
        stp.pp.image_features(data, AROUND)
        stp.pp.neighbor_features(data, AROUND)
        if not only or "igi_dl" in only:
            stp.pp.nuclei(data)
    cohorts = {
        "synthetic cohort": (made, list(made.var_names), "color-texture"),
        "her2st": (redrawn(adata, 0), panel, {"slot": f"color-texture-{WIDE}", "scaling": "section"}),
    }
    rows, left, start = {}, [], perf_counter()
    for name, data, target in product(names, cohorts, ("Pearson residuals", "log1p, all genes")):
        null, genes, features = cohorts[data]
        if SQUARES & set(needs[name.removesuffix(AS_FOUND)]):
            features = AROUND
        path = out / f"model-{data}-{name}-{target}-{epochs}.csv"
        if not path.is_file() and perf_counter() - start > 60 * minutes:
            left.append(f"{name} ({data}, {target})")
            continue
        if not path.is_file():
            found = null_scores(null, genes, name, target, features, min(epochs, FEW_EPOCHS.get(name, epochs)))
            found.to_csv(path)
        rows[data, name, target] = pd.read_csv(path, index_col=0).iloc[:, 0]
    table = pd.DataFrame(rows).T.sort_index(level=0, ascending=False, sort_remaining=False)
    table = table.rename_axis(["null genes of", "model", "fitted to"])
    table["above .02"] = np.where(
        table[["pearson_residual", "deviance_explained"]].abs().gt(0.02).any(axis=1), "yes", ""
    )
    return table.astype({"n_patients": int}), left


def shown(table: pd.DataFrame, value: str, by: list[str]) -> pd.DataFrame:
    """Mean over seeds: one row per group, one column per test."""
    means = table.rename_axis("test").reset_index().groupby([*by, "test"], sort=False)[value].mean()
    return means.unstack("test")[list(DIRECTIONS)].round(3)


def draw(both: pd.DataFrame, published: dict[str, float], path: Path) -> None:
    """Mean r of null genes and of the data, one panel per test."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(DIRECTIONS), figsize=(8, 2.8), sharex=True, sharey=True, layout="constrained")
    places = np.arange(len(both))[::-1]
    for ax, direction in zip(axes, DIRECTIONS, strict=True):
        for name, color, offset in (("null genes", "#d55e00", 0.18), ("data", "#0072b2", -0.18)):
            ax.barh(places + offset, both[name, direction], 0.34, color=color, label=name)
        sections = ["B4"] if direction == "C to B4" else ["C2", "C3", "C4", "C5"]
        if (
            published and direction != "B4 to C"
        ):  # one section left out of 32, other sections of the patient in training
            r = np.mean([published[name] for name in sections])
            ax.axvline(r, color="#4a5560", lw=1, ls="--", label="HGGEP, published")
        ax.axvline(0, color="black", lw=0.6)
        ax.set_title(direction.replace(" to ", " → "), fontsize=9)
        ax.set_yticks(places, both.index)
        ax.tick_params(labelsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    axes[1].set_xlabel("mean r over 785 genes", fontsize=9)
    handles, labels = axes[1].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/her2st"))
    parser.add_argument("--out", type=Path, default=Path("out/null_genes"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--figure", type=Path, help="draw the first table into this file")
    parser.add_argument("--genes", type=int, help="the first so many of the panel, to see that everything runs")
    parser.add_argument(
        "--models", nargs="*", help="only these models on null genes, every regression model if none is named"
    )
    parser.add_argument("--epochs", type=int, default=10, help="of the networks of --models")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no line of --models later than that")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    stp.settings.progress = False
    panel = (args.data.parent / "published" / "her2st_785_genes.txt").read_text().split()[: args.genes]
    if args.models is not None:
        table, left = every_model(read(args.data), panel, args.epochs, args.minutes, args.out, only=args.models)
        print(f"null genes, at most {args.epochs} epochs, patients apart\n{table.round(4).to_string()}")
        print(f"not run: {', '.join(left) or 'none'}")
        return
    nulls, data = rows_of(read(args.data), panel, args.seeds, args.out)
    ridge = shown(data[data["encoder"] == "color-texture"], "data", ["target"])
    both = pd.concat({"null genes": shown(nulls, "null", ["target"]), "data": ridge}, axis=1)
    both = both.loc[list(TARGETS)]
    print(f"mean r of a ridge, {len(panel)} genes\n{both.to_string()}")
    if args.seeds > 1:
        spread = nulls.rename_axis("test").reset_index().groupby(["target", "test"])["null"].std().max()
        print(f"largest standard deviation over {args.seeds} draws: {spread:.4f}")
    path = args.data.parent / "published" / "hggep_her2_pearson.npy"
    published: dict[str, float] = {}
    if path.is_file():
        values = np.load(path)
        published = {name: float(np.nanmean(values[row])) for name, row in PUBLISHED_ROWS.items()}
        print("HGGEP as published (measured genes): " + ", ".join(f"{n} {r:.3f}" for n, r in published.items()))
    if args.figure:
        draw(both, published, args.figure)
    print(f"\nencoders that cost nothing, measured genes\n{shown(data, 'data', ['target', 'encoder']).to_string()}")


if __name__ == "__main__":
    main()
