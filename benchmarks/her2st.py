"""Predict the 785 genes of the HGGEP line of work on real sections, under splits that leak and splits that do not.

    python benchmarks/her2st.py --data ../shared/data/her2st [--groups main hist sections depth] [--quick] [--out out/her2st]

Sections B4 (one patient) and C2 to C5 (another) of the HER2-positive breast cohort. Two conventions of the size factors:
`panel` (counts of the 785 genes only, as published) and `all` (every gene). Three tests:

- `within C`: leave one section out among C2 to C5. The other sections of the patient are in training: leaky.
- `C to B4` and `B4 to C`: patients apart.

Each line is the mean over genes of Pearson's r within a section, then over sections; in brackets that mean over the mean
noise ceiling; after the bar the mean partial correlation given the depth of the spot (the logarithm of its total counts).
`depth of the spot` is no model: it correlates the measured genes with that depth, which no picture was needed for. `sd` is
over three seeds where a model draws random numbers. `s/epoch` and `GB` are the processor seconds of an epoch and the memory
above what was in use before, when fitting C2 to C4. Results of each part are kept in `--out` and not computed again.

`--groups depth` fits one line of each model to Pearson residuals (the default of `pp.normalize`) and to log1p of all genes,
one seed, cheap lines first, and prints scores that depth does not enter beside those that it does; with `--minutes` no line
is begun later than that, and those that were not run are named.
`--quick` runs one seed, one convention and three epochs, in a folder of its own: it shows that everything runs, and no more.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import pandas as pd
from anndata import AnnData
from her2st_lines import (
    BESIDE,
    CLOSED_FORM,
    DEFAULT,
    DEPTH,
    FREE,
    GROUPS,
    IMAGENET,
    MODELS,
    NEAR,
    ONE_SEED,
    PLAIN,
    RETRIEVAL,
    WIDE,
)

import stpredict as stp

SECTIONS = ["B4", "C2", "C3", "C4", "C5"]
PUBLISHED_ROWS = {"B4": 8, "C2": 12, "C3": 13, "C4": 14, "C5": 15}  # rows A2–A6, B1–B6, C1–C6, …
TARGETS = {"residuals": {"method": "pearson_residuals"}, "log1p": {"method": "log1p"}}
STRATA = ("above .8", ".6 to .8", ".4 to .6", "below .4")
DEPTH_FREE = ("pearson", "pearson_given_depth", "pearson_residual", "deviance_explained")
DIRECTIONS = ("within C (leaky)", "C to B4", "B4 to C")


def read(data: Path, encoders: Sequence[str] = (IMAGENET,)) -> tuple[AnnData, list[str]]:
    """Sections with features, those of further encoders among them, and the published panel."""
    adata = stp.io.read_her2st(data, sections=SECTIONS)
    panel = (data.parent / "published" / "her2st_785_genes.txt").read_text().split()
    stp.pp.image_features(adata, context=(1,))
    stp.pp.image_features(adata, context=(1, 3), key_added=WIDE)
    stp.pp.image_features(adata, key_added=DEFAULT)
    weights = data.parent / "encoders" / "mobilenet_v2.safetensors"
    for encoder in encoders:
        if encoder != IMAGENET:
            stp.pp.image_features(adata, encoder)
        elif weights.is_file():
            stp.pp.image_features(adata, IMAGENET, weights=str(weights))
    adata.obsm["X_" + NEAR] = neighbors_mean(adata)
    stp.pp.grid(adata)
    return adata, panel


def neighbors_mean(adata: AnnData, n_neighbors: int = 8) -> np.ndarray:
    """Mean features of the nearest spots of the same section."""
    from stpredict.pp._spatial_graph import spatial_weights

    result = np.empty_like(adata.obsm["X_" + PLAIN])
    for name in adata.obs["sample"].unique():
        rows = np.flatnonzero(adata.obs["sample"] == name)
        weights = spatial_weights(np.asarray(adata.obsm["spatial"])[rows], n_neighbors=n_neighbors)
        result[rows] = (weights @ adata.obsm["X_" + PLAIN][rows]) / n_neighbors
    return result


def normalize(adata: AnnData, panel: list[str], size_factors: str) -> None:
    """Log1p values under one of the two conventions."""
    stp.pp.normalize(adata, method="log1p", size_factors=size_factors, panel=panel if size_factors == "panel" else None)


def validate(
    adata: AnnData, panel: list[str], label: str, spec: dict, seed: int, metrics: Sequence[str] = DEPTH_FREE[:2]
) -> pd.DataFrame:
    """Scores of one model on the values of `X` in all three tests: one row per direction, section and gene."""
    inside = adata[adata.obs["patient"] == "C"].copy()
    target = spec.get("target", list)(panel)
    spec = {name: value for name, value in spec.items() if name != "target"}
    options = {"target": target, "metrics": metrics, "baselines": False, "seed": seed, "progress": False}
    within = spec
    if spec["model"] in RETRIEVAL:
        within = spec | {"hyperparameters": spec["hyperparameters"] | {"same_patient": True}}
    tables = [stp.tl.cross_validate(inside, {label: within}, "section", allow_leakage=True, **options)]
    tables[0]["direction"] = DIRECTIONS[0]
    for fold in stp.cohorts.leave_one_patient_out(adata):
        direction = DIRECTIONS[1] if fold.name == "B" else DIRECTIONS[2]
        try:
            table = stp.tl.cross_validate(adata, {label: spec}, [fold], **options)
        except ValueError as error:  # a network that needs several sections cannot learn from B4 alone
            print(f"{label}, {direction}: {error}", file=sys.stderr)
            continue
        tables.append(table[table["sample"].isin(adata.obs["sample"][fold.test])].assign(direction=direction))
    return pd.concat(tables).assign(seed=seed)


def cost(adata: AnnData, panel: list[str], spec: dict) -> dict[str, float]:
    """Processor seconds of an epoch on C2 to C4 (of the whole fit in closed form), and the memory it takes in GB.

    For a fresh process: memory that an earlier fit gave back would be taken again unseen.
    """
    import lightning.pytorch  # noqa: F401  before anything is measured

    stp.pp.normalize(adata, method="log1p")
    train = adata.obs["sample"].isin(["C2", "C3", "C4"]).to_numpy()
    options = {name: spec[name] for name in ("features", "hyperparameters") if name in spec}
    if spec["model"] in RETRIEVAL:
        options["hyperparameters"] = options["hyperparameters"] | {"same_patient": True}
    before = resident("VmRSS")
    seconds = []
    for epochs in (1,) if spec["model"] in CLOSED_FORM else (1, 2, 6):  # the first one also warms up
        start = process_time()
        stp.tl.fit(
            adata, spec["model"], train, target=panel, baselines=False,
            training=spec.get("training", {}) | {"max_epochs": epochs, "patience": 0}, **options,
        )  # fmt: skip
        seconds.append(process_time() - start)
    epoch = seconds[0] if len(seconds) == 1 else (seconds[2] - seconds[1]) / 4
    return {"s/epoch": epoch, "GB": resident("VmHWM") - before}


def cost_elsewhere(label: str, data: Path) -> pd.DataFrame:
    """What `cost` returns, from a process of its own."""
    command = [sys.executable, __file__, "--data", str(data), "--cost", label]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return pd.DataFrame([json.loads(printed.splitlines()[-1])])


def resident(name: str) -> float:
    """Resident memory of this process in GB, now (`VmRSS`) or at most (`VmHWM`); NaN where the system does not tell."""
    if not Path("/proc/self/status").is_file():
        return float("nan")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(name)) / 1e6


def kept_at(out: Path, name: str) -> Path:
    """Where the scores of a part are kept."""
    return out / ("".join(c if c.isalnum() else "_" for c in name) + ".csv")


def part(out: Path, name: str, compute: Callable[[], pd.DataFrame]) -> pd.DataFrame:
    """Scores of a part, and the seconds they took: read if they are in `out`, else computed and kept there."""
    path = kept_at(out, name)
    if not path.is_file():
        start = perf_counter()
        compute().assign(seconds=perf_counter() - start).to_csv(path, index=False)
    return pd.read_csv(path)


def run(
    adata: AnnData, panel: list[str], models: dict, data: Path, out: Path, *, seeds: int, quick: bool
) -> pd.DataFrame:
    """Scores of several models, both conventions, all seeds, and what a fit costs; parts that are in `out` are read."""

    def scores(label: str, spec: dict, size_factors: str, seed: int) -> pd.DataFrame:
        normalize(adata, panel, size_factors)
        return validate(adata, panel, label, spec, seed).assign(size_factors=size_factors)

    tables = []
    for label, spec in models.items():
        if quick:
            spec = spec | {"training": spec.get("training", {}) | {"max_epochs": 3}}
        price = part(out, f"cost-{label}", lambda label=label: cost_elsewhere(label, data))
        for size_factors in ("panel",) if quick else ("panel", "all"):
            for seed in range(1 if spec["model"] in ONE_SEED else seeds):
                name = f"{label}-{size_factors}-{seed}"
                table = part(out, name, partial(scores, label, spec, size_factors, seed))
                tables.append(table.assign(**{name: price[name].iloc[0] for name in ("s/epoch", "GB")}))
    return pd.concat(tables, ignore_index=True)


def run_depth(
    adata: AnnData, panel: list[str], out: Path, *, quick: bool, minutes: float
) -> tuple[pd.DataFrame, list[str]]:
    """Scores of one line of each model under each target, one seed, and the lines that there was no time to begin."""

    def scores(label: str, spec: dict, target: str) -> pd.DataFrame:
        stp.pp.normalize(adata, **TARGETS[target])
        return validate(adata, panel, label, spec, 0, DEPTH_FREE).assign(fitted_to=target)

    tables, left, start = [], [], perf_counter()
    for label, spec in DEPTH.items():
        for target in TARGETS:
            if "target" in spec and target != "residuals":  # counts are the target, whatever X holds
                continue
            if quick:
                spec = spec | {"training": spec.get("training", {}) | {"max_epochs": 3}}
            name = f"depth-{label}-{target}"
            if not kept_at(out, name).is_file() and perf_counter() - start > 60 * minutes:
                left.append(f"{label} ({target})")
                continue
            tables.append(part(out, name, partial(scores, label, spec, target)))
    return pd.concat(tables, ignore_index=True), left


def tabulate_depth(scores: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Tables by title: all genes, and for each test the strata of the ceiling, which are the same genes in every line."""
    scores = scores.assign(ceiling=scores["residual_ceiling"], model=scores["model"] + ", " + scores["fitted_to"])

    def cells(columns: Sequence[str], *by: str) -> pd.DataFrame:
        found = stp.tl.summarize(scores, by=["model", "direction", *by], n_boot=1)
        rows = found[list(columns)].to_numpy()
        found["cell"] = [" | ".join("-" if np.isnan(value) else f"{value:.3f}" for value in row) for row in rows]
        found["model"] = pd.Categorical(found["model"], scores["model"].unique())  # in the order of the lines
        table = found.pivot(index="model", columns=["direction", *by], values="cell").fillna("not possible")
        return table.rename_axis(index=None).rename_axis(columns=[None] * table.columns.nlevels)

    n_genes = stp.tl.summarize(scores, by=["stratum"], n_boot=1).set_index("stratum")["n_genes"]
    print("genes by the ceiling of their residuals: " + ", ".join(f"{n_genes.get(name, 0)} {name}" for name in STRATA))
    strata = cells(("pearson", "pearson_residual"), "stratum")
    return {" | ".join(DEPTH_FREE): cells(DEPTH_FREE)[list(DIRECTIONS)]} | {
        f"{direction}, by the ceiling: pearson | pearson_residual": strata[direction][list(STRATA)].rename_axis(
            columns=None
        )
        for direction in DIRECTIONS
    }


def tabulate(scores: pd.DataFrame) -> pd.DataFrame:
    """r, r / ceiling and their spread over seeds: one row per model and convention."""
    rows = []
    for (label, size_factors), part in scores.groupby(["model", "size_factors"], sort=False):
        row: dict[str, object] = {"model": label, "size factors": size_factors}
        for direction in DIRECTIONS:
            by_seed = [
                stp.tl.summarize(table, n_boot=1).iloc[0]
                for _, table in part[part["direction"] == direction].groupby("seed")
            ]
            columns = ("pearson", "r_over_ceiling", "pearson_given_depth")
            r, ratio, partial = (np.array([s[c] for s in by_seed], dtype=float) for c in columns)
            if np.isnan(r).all():  # a constant prediction, or none
                row[direction] = "undefined"
                continue
            spread = f" sd {r.std(ddof=1):.3f}" if len(r) > 1 else ""
            row[direction] = f"{r.mean():.3f} [{ratio.mean():.2f}] | {partial.mean():.3f}{spread}"
        row["s"] = f"{part.groupby('seed')['seconds'].first().mean():.0f}"
        row |= {name: f"{part[name].iloc[0]:.2f}" for name in ("s/epoch", "GB")}
        rows.append(row)
    return pd.DataFrame(rows)


def depth_of_the_spot(adata: AnnData, panel: list[str]) -> pd.DataFrame:
    """Correlation of the measured genes with the logarithm of the spot's counts, per convention and section."""
    rows = {}
    for size_factors in ("panel", "all"):
        normalize(adata, panel, size_factors)
        counts = adata[:, panel].layers["counts"] if size_factors == "panel" else adata.layers["counts"]
        depth = np.asarray(counts.sum(axis=1)).ravel()
        row: dict[str, str] = {}
        for section in SECTIONS:
            here = (adata.obs["sample"] == section).to_numpy()
            truth = adata[here, panel].X.toarray()
            oracle = np.repeat(np.log1p(depth[here])[:, None], len(panel), axis=1)
            row[section] = f"{np.nanmean(stp.metrics.pearson(truth, oracle)):.3f} ({np.median(depth[here]):.0f} counts)"
        rows[size_factors] = row
    return pd.DataFrame(rows).T


def published(data: Path) -> pd.DataFrame:
    """The stored per-gene results of HGGEP on the same sections, leave one section out of 32 (leaky)."""
    values = np.load(data.parent / "published" / "hggep_her2_pearson.npy")
    means = {section: np.nanmean(values[row]) for section, row in PUBLISHED_ROWS.items()}
    return pd.DataFrame({"HGGEP, published": means})


def beside_published(scores: pd.DataFrame, data: Path) -> pd.DataFrame:
    """Mean r by section of the ridge with context, in the split that leaks and with patients apart."""
    chosen = scores[(scores["size_factors"] == "panel") & (scores["model"] == "ridge, context, per section")]
    leaky = chosen["direction"] == DIRECTIONS[0]
    parts = {"ridge, leaky split": chosen[leaky], "ridge, patients apart": chosen[~leaky]}
    ours = pd.DataFrame({name: part.groupby("sample")["pearson"].mean() for name, part in parts.items()})
    return published(data).join(ours).round(3)


def main() -> None:
    warnings.filterwarnings("ignore")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/her2st"))
    parser.add_argument("--out", type=Path, default=Path("out/her2st"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--groups", nargs="+", choices=[*GROUPS, "depth", "all"], default=["main", "tried"])
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no line of depth later than that")
    parser.add_argument("--quick", action="store_true", help="one seed, one convention, three epochs")
    parser.add_argument("--cost", metavar="MODEL", help="only print what a fit of this line takes")
    options = parser.parse_args()
    stp.settings.progress = sys.stderr.isatty() and not options.cost
    out = options.out / "quick" if options.quick else options.out
    out.mkdir(parents=True, exist_ok=True)
    groups = [*GROUPS, "depth"] if "all" in options.groups else options.groups
    adata, panel = read(options.data, FREE if groups == ["depth"] else (IMAGENET, *FREE))
    if options.cost:
        print(
            json.dumps(cost(adata, panel, {k: v for group in GROUPS.values() for k, v in group.items()}[options.cost]))
        )
        return
    seeds = 1 if options.quick else options.seeds
    for group in groups:
        if group == "depth":
            scores, left = run_depth(adata, panel, out, quick=options.quick, minutes=options.minutes)
            print("\ndepth")
            for title, table in tabulate_depth(scores).items():
                print(f"\n{title}\n{table.to_string()}")
            print(f"\nnot run: {', '.join(left) or 'none'}")
            continue
        beside = {} if group in ("main", "tried") else {label: MODELS[label] for label in BESIDE}
        scores = run(adata, panel, beside | GROUPS[group], options.data, out, seeds=seeds, quick=options.quick)
        print(f"\n{group}")
        print(tabulate(scores).to_string(index=False))
        if group == "main":
            print("\ndepth of the spot: mean r of the measured genes with it, and its median")
            print(depth_of_the_spot(adata, panel).to_string())
            print("\nridge with context against the published numbers, panel size factors, mean r by section")
            print(beside_published(scores, options.data).to_string())


if __name__ == "__main__":
    main()
