"""The main job from end to end, as a user would write it: read, featurize, cross-validate, judge, look."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_FEATURES = "color-texture"
# Features of another kind beside these; every kind has the same weight.
_BESIDE = {
    "ridge + nuclei": ["nuclei"],
    "ridge + random-filters": ["random-filters"],
    "ridge + both": ["nuclei", "random-filters"],
}
_MODELS: dict[str, Any] = {"color": "color", "mlp": "mlp"} | {
    name: {"model": "ridge", "features": [_FEATURES, *others], "hyperparameters": {"kinds": "slots"}}
    for name, others in _BESIDE.items()
}
_PANEL: dict[str, Any] = {"method": "moran", "min_i": 0.05, "n_genes": 200}
_N_RANKED = 15  # genes in the figure of the best
_SHOWN = (
    "model",
    "pearson",
    "low",
    "high",
    "r_over_ceiling",
    "pearson_given_depth",
    "deviance_explained",
    "spearman",
    "rmse_iqr",
    "ssim",
    "emd",
    "n_undefined",
    "leaky",
)


def run_demo(data: Path | None, out: Path, *, n_jobs: int = 2, seed: int = 0) -> pd.DataFrame:
    """Run the demonstration and write `predicted.h5ad`, `scores.csv`, figures and `report.html`.

    Parameters
    ----------
    data
        Folder in the her2st layout, or `None` for a synthetic cohort.
    out
        Folder for the results.
    n_jobs
        Number of processes for the cross-validation.
    seed
        Random seed for the simulation, the folds, the models and the intervals.

    Returns
    -------
    The summary table.
    """
    import stpredict as stp
    from stpredict.demo._report import write_report

    started = time.perf_counter()
    adata = read_sections(data, out, seed)
    print(
        f"{adata.n_obs} spots of {adata.obs['sample'].nunique()} sections and {adata.obs['patient'].nunique()} patients"
    )
    prepare(adata)
    # What can be learned at all, before anything is trained.
    learnable = stp.tl.predictability(adata, _FEATURES)

    splitter = _splitter(adata)
    scores = judge(adata, n_jobs=n_jobs, seed=seed)
    summary = stp.tl.summarize(scores, seed=seed)
    best = next(model for model in summary["model"] if model in {*_MODELS, "ridge"})

    # Domains on what the best model predicted without having seen the patient.
    key = scores.attrs["keys"][best]
    frame = stp.get.predicted(adata, key).to_df().dropna(axis=1)
    n_domains = 4 if "label" not in adata.obs else max(2, adata.obs["label"].nunique())
    stp.tl.domains(
        adata, key, genes=list(frame.columns), n_domains=n_domains, seed=seed,
        label_key="label" if "label" in adata.obs else None,
    )  # fmt: skip
    stp.pp.spatially_variable(adata, genes=list(frame.columns))

    out.mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(out / "predicted.h5ad")
    learnable.to_csv(out / "predictability.csv", index=False)
    scores.to_csv(out / "scores.csv", index=False)
    summary.to_csv(out / "summary.csv", index=False)
    figures = _figures(adata, learnable, scores, best, out, n_jobs, seed)
    report_table = summary[[column for column in _SHOWN if column in summary]]
    print("\n" + report_table.round(3).to_string(index=False))
    print(f"\nwhat features of other kinds add to a ridge on {_FEATURES}\n{_what_kinds_add(summary).to_string()}")
    if best_domains := adata.uns["stpredict"]["domain"].get("ari"):
        print(f"\ndomains on out-of-fold predictions against the labels: ARI {float(best_domains):.2f}")
    facts = {
        "Data": "synthetic cohort" if data is None else str(data),
        "Sections": ", ".join(sorted(map(str, adata.obs["sample"].unique()))),
        "Patients": ", ".join(sorted(map(str, adata.obs["patient"].unique()))),
        "Target": "Pearson residuals of the counts, within each section",
        "Genes": f"{scores['gene'].nunique()} in all, selected by Moran's I inside each fold",
        "Learnable": f"{int((learnable['q'] < 0.05).sum())} of {len(learnable)} genes at a false-discovery rate of 0.05, "
        "before training",
        "Split": "leave one patient out" if splitter == "patient" else "blocks of each section: within section",
        "Interval": f"95 % bootstrap over {summary['interval_over'].iloc[0]}",
    }
    path = write_report(out / "report.html", facts, report_table, figures)
    print(f"\nreport: {path} ({time.perf_counter() - started:.0f} s)")
    return summary


def prepare(adata: AnnData) -> None:
    """Features of three kinds, and the target."""
    import stpredict as stp

    for encoder in (_FEATURES, "nuclei", "random-filters"):
        stp.pp.image_features(adata, encoder)
    stp.pp.normalize(adata)


def judge(adata: AnnData, *, n_jobs: int = 1, seed: int = 0, client: Any = None) -> pd.DataFrame:
    """The cross-validation of the demonstration, here or on the workers of a client.

    Genes, scalers, penalties and epochs are chosen inside each fold; no patient is on both sides of one.
    """
    import stpredict as stp

    return stp.tl.cross_validate(
        adata, _MODELS, _splitter(adata), features=_FEATURES, target={"panel": _PANEL}, n_jobs=n_jobs, seed=seed,
        client=client,
    )  # fmt: skip


def _splitter(adata: AnnData) -> str:
    """With one patient blocks of each section are held out, and every table says so."""
    return "patient" if adata.obs["patient"].nunique() > 1 else "blocks"


def _what_kinds_add(summary: pd.DataFrame) -> pd.DataFrame:
    """Scores of the ridge on color and texture, and what features of other kinds beside these add to them."""
    import pandas as pd

    known = {"pearson": "r", "deviance_explained": "deviance explained"}
    scores = summary.set_index("model")[[name for name in known if name in summary]].rename(columns=known)
    rows = {_FEATURES: scores.loc["ridge"].map("{:.3f}".format)}
    for name, others in _BESIDE.items():
        rows[" ".join(f"+ {other}" for other in others)] = (scores.loc[name] - scores.loc["ridge"]).map(
            "{:+.3f}".format
        )
    return pd.DataFrame(rows).T


def read_sections(data: Path | None, out: Path, seed: int) -> AnnData:
    """Real sections that have an image, or synthetic ones."""
    import stpredict as stp

    if data is None:
        return stp.datasets.synthetic_cohort(
            n_patients=4, n_sections=2, n_genes=120, n_spots=150, seed=seed, image_dir=out / "images"
        )
    adata = stp.io.read_her2st(data)
    pictured = [
        name for name, entry in adata.uns["spatial"].items() if entry.get("metadata", {}).get("source_image_path")
    ]
    if not pictured:
        raise FileNotFoundError(f"expected images of the sections in {data}; found none; add them under images/")
    left_out = sorted(set(adata.obs["sample"]) - set(pictured))
    if left_out:
        print(f"left out, having no image: {', '.join(left_out)}")
    adata = adata[adata.obs["sample"].isin(pictured)].copy()
    if "label" in adata.obs and adata.obs["label"].isna().all():
        del adata.obs["label"]
    adata.uns["spatial"] = {name: adata.uns["spatial"][name] for name in pictured}
    return adata


def _typical(scores: pd.DataFrame, model: str) -> tuple[str, str]:
    """Section in the middle of all by its score, and its patient: one of those without whom most is left to rank genes on."""
    ours = scores[scores["model"] == model]
    sizes = ours.groupby("patient", observed=True)["sample"].nunique()
    means = (
        ours[ours["patient"].map(sizes) == sizes.min()].groupby(["sample", "patient"], observed=True)["pearson"].mean()
    )
    order = means.dropna().sort_values(kind="stable").index
    section, patient = order[len(order) // 2]
    return str(section), str(patient)


def _ranked(
    adata: AnnData, scores: pd.DataFrame, model: str, patient: str, n_jobs: int, seed: int
) -> tuple[list[str], str]:
    """Genes that come first in a ranking without a patient, and how they were ranked; those that he has predictions of.

    The scores of the other patients in the main table come from models that were trained on this one, too.
    """
    import stpredict as stp

    shown = (scores["patient"].astype(str) == patient) & (scores["model"] == model)
    predicted = scores.loc[shown, "gene"]
    others = adata[adata.obs["patient"].astype(str) != patient].copy()
    if others.obs["patient"].nunique() > 1:
        ranking = stp.tl.cross_validate(
            others, {model: _MODELS.get(model, model)}, features=_FEATURES, target={"panel": _PANEL},
            baselines=False, n_jobs=n_jobs, seed=seed,
        )  # fmt: skip
        genes = stp.get.top_genes(ranking[ranking["gene"].isin(predicted)], _N_RANKED, model=model)
        return genes, "cross-validated among the other patients"
    alone = not others.n_obs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "there is one patient")
        table = stp.tl.predictability(adata if alone else others, _FEATURES)
    genes = table.loc[table["gene"].isin(predicted), "gene"].tolist()[:_N_RANKED]
    return (
        genes,
        f"by what places that look alike share within the {'same' if alone else 'other'} patient ({table['neighbors_from'].iloc[0]})",
    )


def _figures(
    adata: AnnData, learnable: pd.DataFrame, scores: pd.DataFrame, best: str, out: Path, n_jobs: int, seed: int
) -> dict[str, Path]:
    """Draw every figure of the report; return captions and files."""
    import matplotlib.pyplot as plt

    import stpredict as stp

    key = scores.attrs["keys"][best]
    section, patient = _typical(scores, best)
    top, how = _ranked(adata, scores, best, patient, n_jobs, seed)
    has_label = "label" in adata.obs
    # One more fit, on half of the patients, to show how training went.
    patients = sorted(adata.obs["patient"].unique())
    train = adata.obs["patient"].isin(patients[: max(1, len(patients) // 2)]).to_numpy()
    genes = list(stp.get.predicted(adata, key).to_df().dropna(axis=1).columns)
    network = stp.tl.fit(adata, "mlp", train, features=_FEATURES, target=genes, baselines=(), seed=seed)
    drawings = {
        "scores": ("Correlation per gene, by model", lambda: stp.pl.scores(scores)),
        "predictability": (
            "Before training: what spots share with those of other patients that look alike, against the noise ceiling",
            lambda: stp.pl.predictability(learnable),
        ),
        "rank_genes": (
            f"Genes ranked {'before training' if len(patients) == 1 else f'without patient {patient}'}, {how}, as {best} predicts them there",
            lambda: stp.pl.rank_genes(scores, top, shown=patient if len(patients) > 1 else None, model=best),
        ),
        "genes": (
            f"The first three of them, {best}, section {section} ({_unseen(patients)})",
            lambda: stp.pl.genes(adata, top[:3], key=key, sample=section),
        ),
        "ceiling": (f"Correlation against the noise ceiling, {best}", lambda: stp.pl.ceiling(scores, model=best)),
        "domains": (
            f"Domains on the prediction, section {section}",
            lambda: stp.pl.domains(adata, sample=section, label_key="label" if has_label else None),
        ),
        "spatially_variable": (
            "Moran's I of the measured genes: median and range over sections",
            lambda: stp.pl.spatially_variable(adata),
        ),
        "features": (
            "Image features, by section: what separates is staining before it is biology",
            lambda: stp.pl.features(adata, _FEATURES),
        ),
        "history": ("Training of the multilayer perceptron", lambda: stp.pl.history(network)),
    }
    files = {}
    for name, (caption, draw) in drawings.items():
        drawn: Any = draw()
        first = drawn.flat[0] if isinstance(drawn, np.ndarray) else drawn
        path = out / f"{name}.png"
        first.figure.savefig(path, dpi=110, bbox_inches="tight")
        plt.close(first.figure)
        files[caption] = path
    return files


def _unseen(patients: list[str]) -> str:
    """What is said of the patient of a picture."""
    return "its patient was neither in training nor in the ranking" if len(patients) > 1 else "within section"
