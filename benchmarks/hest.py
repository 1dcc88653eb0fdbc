"""HEST-Bench as it is published, and beside it what its numbers are worth.

    python benchmarks/hest.py --data bench_data --encoder uni2-h [--weights uni2-h.bin] [--tasks IDC PRAD] [--metadata
        HEST_v1_1_0.csv] [--out out/hest]

`--data` is the folder of HEST-Bench with a folder per task (or the folder of one task): tables of spots in `adata`, patches in
`patches`, `splits`, and `var_50genes.json`. Features are those of the stored patches, in single precision; the published
ones were computed in half precision by some encoders, which moves r by less than .001.

`HEST-Bench` follows the published protocol to the letter: log1p of counts (of all 50 genes, without regard to depth),
features scaled and reduced to 256 principal components that are fitted on the training spots, ridge without intercept and
with the penalty 100 / (components x genes), Pearson's r per gene over the spots of all test samples together, then the mean
over genes, over splits and over tasks. Encoders of fewer than 256 features keep all components. r over several samples at
once also scores how well samples are told apart, its 50 genes were chosen on all samples, and counts carry the depth of the spot. Its solver (lsqr) stops at a
tolerance of 1e-4: equal features give equal numbers, but features that differ by rounding (1e-7) moved r of a gene by .004
on small made files, so that another batch size or device may move the third digit.

`ours` are the same features, splits and genes: a ridge on features standardized within each sample, its penalty chosen
inside, on the default normalization of the package; r per gene within a sample, then over samples and patients; the partial r
given the depth of the spot; and the scores in which depth has no part (r of Pearson residuals, deviance explained). Patients come
from the metadata (`--metadata`, or HEST's table beside the data); a split with a patient on both sides is told, and its scores
are leaky. Without metadata, samples that are ever tested together count as one patient.

Every line stands beside `six colors` (mean and standard deviation of red, green and blue of the same patches).
"""

from __future__ import annotations

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from torch import Tensor, nn

import stpredict as stp
from stpredict.io._hest_files import read_splits
from stpredict.tl.judge._evaluate import KNOWN_METRICS

GENES = "var_50genes"
# Ours, and their columns; those without depth where the package has them.
OURS = {
    "pearson": "ours: r within a sample", "pearson_given_depth": "given depth", "pearson_residual": "residual r",
    "deviance_explained": "deviance explained",
}  # fmt: skip
OURS = {metric: label for metric, label in OURS.items() if metric in KNOWN_METRICS}
N_COMPONENTS, SEED = 256, 1
COLOR = "six colors"


class SixColors(nn.Module):
    """Mean and standard deviation of red, green and blue."""

    def forward(self, tiles: Tensor) -> Tensor:
        """Six numbers (n, 6) of tiles (n, 3, h, w)."""
        return torch.cat([tiles.mean(dim=(2, 3)), tiles.std(dim=(2, 3))], dim=1)


def published_scores(adata: AnnData, slot: str, splits: dict[str, tuple[list[str], list[str]]]) -> pd.DataFrame:
    """Pearson's r (splits x genes) by the published protocol, of counts in `layers` and features in `obsm`."""
    from scipy.stats import pearsonr
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    genes = adata.var_names[adata.var[GENES]]
    counts = adata[:, genes].layers["counts"].toarray().astype(np.float64)
    expression = np.log1p(counts)
    sample = adata.obs["sample"].astype(str).to_numpy()
    rows = {}
    for split, sides in splits.items():
        # Samples in the order of the files, as sums in single precision depend on it.
        train, test = (np.concatenate([np.flatnonzero(sample == name) for name in names]) for names in sides)
        x_train, x_test = (np.asarray(adata.obsm[slot])[side] for side in (train, test))
        n_components = min(N_COMPONENTS, *x_train.shape)
        steps = [("scaler", StandardScaler()), ("PCA", PCA(n_components=n_components, random_state=SEED))]
        reduce = Pipeline(steps)
        x_train, x_test = reduce.fit_transform(x_train), reduce.transform(x_test)
        alpha = 100 / (n_components * len(genes))
        ridge = Ridge(solver="lsqr", alpha=alpha, random_state=SEED, fit_intercept=False, max_iter=1000)
        predicted = ridge.fit(x_train, expression[train]).predict(x_test)
        rows[split] = [pearsonr(expression[test, gene], predicted[:, gene])[0] for gene in range(len(genes))]
    return pd.DataFrame.from_dict(rows, orient="index", columns=genes)


def name_patients(adata: AnnData, splits: dict[str, tuple[list[str], list[str]]]) -> str:
    """Give every sample a patient where the metadata do not, and say where they come from."""
    if "patient" in adata.obs and not adata.obs["patient"].isna().any():
        return "metadata"
    together = {name: name for _, test in splits.values() for name in test}
    for _, test in splits.values():
        first = together[test[0]]
        merged = {together[name] for name in test}
        together = {name: first if group in merged else group for name, group in together.items()}
    adata.obs["patient"] = [together.get(name, name) for name in adata.obs["sample"].astype(str)]
    return "splits"


def our_scores(adata: AnnData, slots: Sequence[str]) -> tuple[pd.DataFrame, list[str]]:
    """Scores of a ridge per sample and gene, and the splits that have a patient on both sides."""
    stp.pp.normalize(adata)
    folds = stp.cohorts.recorded_folds(adata)
    leaky = [fold.name for fold in folds if fold.leaky]
    models = {slot: {"model": "ridge", "features": {"slot": slot, "scaling": "section"}} for slot in slots}
    parts = []
    for fold in folds:  # a sample may be tested in several
        scores = stp.tl.cross_validate(
            adata, models, [fold], target=GENES, metrics=list(OURS), baselines=False,
            allow_leakage=bool(leaky),
        )  # fmt: skip
        tested = adata.obs["sample"][fold.test].astype(str).unique()
        parts.append(scores[scores["sample"].isin(tested)].assign(split=fold.name))
    return pd.concat(parts), leaky


def run(task: Path, options: argparse.Namespace) -> pd.DataFrame:
    """One row per encoder of a task."""
    adata = stp.io.read_hest(
        task, encoder=options.encoder, weights=options.weights, metadata=options.metadata, device=options.device
    )
    colors = stp.encoders.get_encoder(SixColors(), tile_px=224, name="colors", device=options.device)
    adata.obsm["X_colors"] = stp.io.read_hest(task, encoder=colors, metadata=options.metadata).obsm["X_colors"]
    own = next(name for name in adata.obsm if name.startswith("X_") and name != "X_colors")
    splits = read_splits(task)
    source = name_patients(adata, splits)
    labels = {own.removeprefix("X_"): own.removeprefix("X_"), COLOR: "colors"}
    ours, leaky = our_scores(adata, list(labels.values()))
    table = stp.tl.summarize(ours, n_boot=1).set_index("model")
    rows = []
    for label, slot in labels.items():
        published = published_scores(adata, f"X_{slot}", splits)
        rows.append(
            {
                "task": task.name,
                "encoder": label,
                "HEST-Bench": published.mean(axis=1).mean(),
                "undefined": int(published.isna().to_numpy().sum()),
                **{label: table.loc[slot, metric] for metric, label in OURS.items()},
                "patients": f"{adata.obs['patient'].nunique()} ({source})",
                "leaky splits": f"{len(leaky)} of {len(splits)}",
            }
        )
        if options.out:
            options.out.mkdir(parents=True, exist_ok=True)
            published.to_csv(options.out / f"{task.name}-{slot}-hest-bench.csv")
    if options.out:
        ours.to_csv(options.out / f"{task.name}-ours.csv", index=False)
    return pd.DataFrame(rows)


def tasks_of(data: Path, names: Sequence[str] | None) -> list[Path]:
    """Folders of the tasks: `data` itself where it has splits, or those in it."""
    folders = [data] if (data / "splits").is_dir() else sorted(path.parent for path in data.glob("*/splits"))
    chosen = [folder for folder in folders if names is None or folder.name in names]
    if not chosen or (names is not None and len(chosen) < len(set(names))):
        found = ", ".join(folder.name for folder in folders) or "no folder with splits"
        sys.exit(f"expected the tasks {', '.join(names or ['of HEST-Bench'])} in {data}; found {found}")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of HEST-Bench, or of one task")
    parser.add_argument("--encoder", default="color-texture")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--metadata", type=Path, help="HEST's table of all samples, or its folder of metadata")
    parser.add_argument("--device", help="cuda, cpu, …")
    parser.add_argument("--out", type=Path, help="folder for the scores of every gene")
    options = parser.parse_args()
    stp.settings.progress = sys.stderr.isatty()
    table = pd.concat([run(task, options) for task in tasks_of(options.data, options.tasks)], ignore_index=True)
    print(table.round(4).to_string(index=False))
    scores = ["HEST-Bench", *OURS.values()]
    print("\nmean over tasks")
    print(table.groupby("encoder", sort=False)[scores].mean().round(4).to_string())


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    logging.getLogger("stpredict").setLevel(logging.ERROR)
    main()
