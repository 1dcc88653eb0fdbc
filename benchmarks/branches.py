"""Networks of branches, gene tables, samples and auxiliary genes on real sections, with patients apart.

    python benchmarks/branches.py --data ../shared/data/her2st [--lines ridge triplex ...] [--encoders mobilenet_v2 ...]
        [--seeds 3] [--minutes M] [--quick] [--out out/branches]

Sections B4 (one patient) and C2 to C5 (another) of the HER2-positive breast cohort; C predicts B4, and B4 predicts C. The genes
that are scored are every eighth of a published list of 785, so that no expression has a part in their choice; what trains on
auxiliary genes has the other 687 for that. Features are those of encoders whose weights come with the data, standardized
within each section; tables of genes are memberships in gene sets. Sizes and numbers of epochs are small, what two cores can
do, and were not chosen on these sections.

Each cell is Pearson's r, mean over genes within a section, then over sections; after the bars the partial correlation given
the depth of the spot, the correlation of Pearson residuals and the deviance explained; `sd` of the first over the seeds.
Targets are the default of `pp.normalize` and log1p. Beside the networks stand the mean, the ridge, the ridge on null genes
(counts redrawn without biology at the real depths: what depth alone gives), an `mlp` of the scored genes alone, and `dkan` with
the rows of its table given to other genes. `s/epoch` and `GB` are the processor seconds of an epoch and the memory above what
was in use before, when fitting C2 to C5, in a process of its own.

Parts are kept in `--out` and not computed again. With `--minutes` no part is begun later than that, and those that were not run
are named. `--quick` runs one seed, one target and two epochs on a quarter of two sections, in a folder of its own, and does
not measure: it shows that everything runs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path
from time import perf_counter, process_time

import numpy as np
import pandas as pd
from anndata import AnnData
from her2st import kept_at, part, resident

import stpredict as stp

SECTIONS = ["B4", "C2", "C3", "C4", "C5"]
DIRECTIONS = {"B": "C to B4", "C": "B4 to C"}
ENCODERS = ("mobilenet_v2", "shufflenet_g2_lc25000")
TARGETS = {"residuals": {"method": "pearson_residuals"}, "log1p": {"method": "log1p"}}
METRICS = ("pearson", "pearson_given_depth", "pearson_residual", "deviance_explained")
GENE_SETS = "enrichr.GO_Biological_Process_2021.gmt"
NULL = "ridge (null genes)"
CLOSED_FORM = {"mean", "ridge"}
_SHORT = {"max_epochs": 30, "patience": 8}
_BRANCHES = {"dim": 64, "depth": (1, 1, 1), "heads": (4, 4, 4)}
COMTIP = {"dim": 64, "depth": 1, "heads": 4, "n_embedding": 64}
LINES = {
    "mean": {"model": "mean"},
    "ridge": {"model": "ridge"},
    "mlp": {"model": "mlp"},
    "mlp, all genes": {"model": "mlp", "training": {"auxiliary": "all"}},
    "mlp, dkgsb": {"model": "mlp", "training": {"auxiliary": "dkgsb"}},
    "triplex": {"model": "triplex", "hyperparameters": _BRANCHES, "training": _SHORT},
    "bg_triplex": {"model": "bg_triplex", "hyperparameters": _BRANCHES, "training": _SHORT},
    "dkan": {"model": "dkan", "hyperparameters": _BRANCHES, "training": _SHORT},
    "dkan, permuted table": {
        "model": "dkan",
        "hyperparameters": _BRANCHES | {"gene_table": "permuted"},
        "training": _SHORT,
    },
    "comtip": {"model": "comtip", "hyperparameters": COMTIP, "training": _SHORT},
    "comtip, permuted table": {
        "model": "comtip",
        "hyperparameters": COMTIP | {"gene_table": "permuted"},
        "training": _SHORT,
    },
    "stem": {
        "model": "stem",
        "hyperparameters": {"hidden": 48, "depth": 2, "heads": 4, "spacing": "20", "n_samples": 8},
        "training": {"max_epochs": 60, "patience": 15},
    },
}


def scored(panel: list[str]) -> list[str]:
    """The genes that are scored: every eighth, whatever they are."""
    return sorted(panel)[::8]


def read(data: Path, encoder: str, models: set[str], *, quick: bool = False) -> tuple[AnnData, list[str]]:
    """Sections with what the networks read, and the panel of all genes."""
    adata = stp.io.read_her2st(data, sections=SECTIONS[:2] if quick else SECTIONS)
    stp.pp.grid(adata)
    if quick:
        adata = adata[::4].copy()
    panel = (data.parent / "published" / "her2st_785_genes.txt").read_text().split()
    weights = data.parent / "encoders" / f"{encoder}.safetensors"
    stp.pp.image_features(adata, encoder, weights=weights)
    if models & {"triplex", "bg_triplex", "dkan", "comtip"}:
        stp.pp.neighbor_features(adata, encoder, weights=weights)
    if "bg_triplex" in models:
        stp.pp.nuclei(adata)
        stp.pp.boundary_features(adata, encoder, weights=weights)
    if models & {"dkan", "comtip"}:
        stp.pp.gene_table(adata, data.parent / "genesets" / GENE_SETS, n_components=64, missing="nan")
        known = np.isfinite(adata.varm["gene_table"]).all(axis=1)
        if not known.all():  # genes that are in no set: a row of zeros says just that
            adata.varm["rows"] = np.where(known[:, None], adata.varm["gene_table"], 0)
            stp.pp.gene_table(adata, np.asarray(adata.varm.pop("rows")))
        stp.pp.gene_table(adata, "permuted", key_added="permuted")
    return adata, panel


def spec_of(label: str, encoder: str, panel: list[str], *, quick: bool) -> tuple[dict, list[str]]:
    """What is fitted, and the genes that it is told of."""
    spec = dict(LINES[label])
    if spec["model"] != "mean":
        spec["features"] = {"slot": encoder, "scaling": "section"}
    training = dict(spec.get("training", {}))
    genes = scored(panel)
    if "auxiliary" in training:
        training["primary"], genes = genes, panel
    if quick:
        training["max_epochs"] = 2
    return ({**spec, "training": training} if training else spec), genes


def validate(
    adata: AnnData, panel: list[str], label: str, encoder: str, target: str, seed: int, *, quick: bool
) -> pd.DataFrame:
    """Scores of a line in both directions: one row per section and gene."""
    stp.pp.normalize(adata, **TARGETS[target])
    spec, genes = spec_of(label, encoder, panel, quick=quick)
    tables = []
    for fold in stp.cohorts.leave_one_patient_out(adata):
        table = stp.tl.cross_validate(
            adata, {label: spec}, [fold], target=genes, metrics=METRICS, seed=seed, progress=False,
            baselines=[NULL] if label == "ridge" else False,
        )  # fmt: skip
        table = table[table["model"].isin([label, NULL]) & table["sample"].isin(adata.obs["sample"][fold.test])]
        tables.append(table.assign(direction=DIRECTIONS[fold.name], seed=seed, fitted_to=target))
    return pd.concat(tables)


def cost(adata: AnnData, panel: list[str], label: str, encoder: str) -> dict[str, float]:
    """Processor seconds of an epoch on C2 to C5 (of the whole fit in closed form), and memory in GB; for a fresh process."""
    from stpredict.core._optional import mend_torchvision

    mend_torchvision()
    import lightning.pytorch  # noqa: F401  before anything is measured

    stp.pp.normalize(adata)
    train = (adata.obs["patient"] == "C").to_numpy()
    spec, genes = spec_of(label, encoder, panel, quick=False)
    options = {name: spec[name] for name in ("features", "hyperparameters") if name in spec}
    before, seconds = resident("VmRSS"), []
    few, many = 2, 12  # the cut begins to move after the first epoch; the first fit warms up
    for epochs in (1,) if spec["model"] in CLOSED_FORM else (1, few, many):
        training = spec.get("training", {}) | {"max_epochs": epochs, "patience": 0}
        start = process_time()
        stp.tl.fit(adata, spec["model"], train, target=genes, baselines=False, training=training, **options)
        seconds.append(process_time() - start)
    epoch = seconds[0] if len(seconds) == 1 else (seconds[2] - seconds[1]) / (many - few)
    return {"s/epoch": epoch, "GB": resident("VmHWM") - before}


def cost_elsewhere(label: str, encoder: str, data: Path) -> pd.DataFrame:
    """What `cost` returns, from a process of its own."""
    command = [sys.executable, __file__, "--data", str(data), "--encoders", encoder, "--cost", label]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return pd.DataFrame([json.loads(printed.splitlines()[-1])])


def run(data: Path, out: Path, options: argparse.Namespace) -> tuple[pd.DataFrame, list[str]]:
    """Scores of all lines and what they take, and the parts that there was no time to begin."""
    tables, left, start = [], [], perf_counter()
    for encoder in options.encoders:
        adata, panel = read(data, encoder, {LINES[label]["model"] for label in options.lines}, quick=options.quick)
        for label in options.lines:
            names = [
                (f"{encoder}-{label}-{target}-{seed}", target, seed)
                for target in list(TARGETS)[: 1 if options.quick else None]
                for seed in range(1 if options.quick or LINES[label]["model"] in CLOSED_FORM else options.seeds)
            ]
            price = None
            for name, target, seed in names:
                if not kept_at(out, name).is_file() and perf_counter() - start > 60 * options.minutes:
                    left.append(name)
                    continue
                if price is None and not options.quick:
                    price = part(out, f"cost-{encoder}-{label}", partial(cost_elsewhere, label, encoder, data))
                compute = partial(validate, adata, panel, label, encoder, target, seed, quick=options.quick)
                found = part(out, name, compute).assign(encoder=encoder)
                none = {"s/epoch": np.nan, "GB": np.nan}
                tables.append(found.assign(**(none if price is None else dict(price[list(none)].iloc[0]))))
    return pd.concat(tables, ignore_index=True), left


def tabulate(scores: pd.DataFrame) -> pd.DataFrame:
    """One row per encoder, target and line; one column per direction."""
    rows = []
    for (encoder, target, label), table in scores.groupby(["encoder", "fitted_to", "model"], sort=False):
        row: dict[str, object] = {"encoder": encoder, "target": target, "line": label}
        for direction in DIRECTIONS.values():
            seeds = [
                stp.tl.summarize(one, n_boot=1).iloc[0]
                for _, one in table[table["direction"] == direction].groupby("seed")
            ]
            cells = np.array([[found[metric] for metric in METRICS] for found in seeds], dtype=float)
            if not len(cells) or np.isnan(cells[:, 0]).all():  # a constant prediction
                row[direction] = "undefined"
                continue
            spread = f" sd {cells[:, 0].std(ddof=1):.3f}" if len(cells) > 1 else ""
            first, *others = cells.mean(axis=0)
            row[direction] = f"{first:.3f}{spread} | " + " | ".join(f"{value:.3f}" for value in others)
        null = label == NULL  # fitted beside the ridge, and not measured by itself
        row |= {name: "" if null else f"{table[name].iloc[0]:.2f}" for name in ("s/epoch", "GB")}
        rows.append(row)
    return pd.DataFrame(rows)


def main() -> None:
    warnings.filterwarnings("ignore")
    known = [label for label, line in LINES.items() if line["model"] in stp.models.list_models().index]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/her2st"))
    parser.add_argument("--out", type=Path, default=Path("out/branches"))
    parser.add_argument("--lines", nargs="+", choices=known, default=known)
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS[:1]))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no part later than that")
    parser.add_argument("--quick", action="store_true", help="one seed, one target, two epochs")
    parser.add_argument("--cost", metavar="LINE", help="only print what a fit of this line takes")
    options = parser.parse_args()
    stp.settings.progress = sys.stderr.isatty() and not options.cost
    if options.cost:
        adata, panel = read(options.data, options.encoders[0], {LINES[options.cost]["model"]})
        print(json.dumps(cost(adata, panel, options.cost, options.encoders[0])))
        return
    out = options.out / "quick" if options.quick else options.out
    out.mkdir(parents=True, exist_ok=True)
    scores, left = run(options.data, out, options)
    print(f"{' | '.join(METRICS)}\n{tabulate(scores).to_string(index=False)}")
    print(f"\nnot run: {', '.join(left) or 'none'}")


if __name__ == "__main__":
    main()
