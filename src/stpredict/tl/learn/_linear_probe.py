"""Ridge regression on several features, such as those before and after alignment, on the same folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from stpredict.core._validate import check_choice
from stpredict.slots._checks import check_patients
from stpredict.slots._container import beside, get_table
from stpredict.slots._content import seal_features
from stpredict.slots._keys import Key, check_key, distinct
from stpredict.slots._marks import sections_record, table_mark
from stpredict.slots._provenance import write_record
from stpredict.tl.judge._evaluate import KNOWN_METRICS, evaluate
from stpredict.tl.learn._embed import IMAGE, embeddings
from stpredict.tl.learn._folds import run_folds
from stpredict.tl.learn._out_of_fold import write_out_of_fold
from stpredict.tl.learn._splitters import Splitter, check_folds, make_folds
from stpredict.tl.learn._task import make_task
from stpredict.tl.learn.inputs._slots import split_features
from stpredict.tl.learn.targets._base import Keys, slots_for
from stpredict.tl.learn.targets._parse import parse_target

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.cohorts import Fold
    from stpredict.slots._container import Container
    from stpredict.training import FittedModel

Probed: TypeAlias = "str | Sequence[str] | FittedModel | Sequence[FittedModel] | Mapping[str, Any]"
_ALIGNED = "X_probed"


def linear_probe(
    data: Container,
    features: Mapping[str, Probed],
    splitter: Splitter = "patient",
    *,
    target: Any = None,
    hyperparameters: Mapping[str, Any] | str | None = None,
    metrics: Sequence[str] = ("pearson", "pearson_residual", "deviance_explained"),
    allow_leakage: bool = False,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
    key_added: str = "probe",
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Ask how much of the expression a ridge reads from several features, and what changes from the first to the others.

    The folds, the genes, the penalties to choose from and the way that these are chosen (inner folds by patient) are the same for
    all features. Does alignment help or hurt the prediction of expression? Pass the features as they were, and the models that
    aligned them: `{"before": "X_uni", "after": models}`, with one model for each fold, trained on its training side.

    Parameters
    ----------
    data
        Sections with features and normalized expression in `X` (n_obs, n_genes), or what else is to be predicted.
    features
        Features by label: encoders or slots of `obsm`, with a scaling if need be, as in :func:`stpredict.tl.fit`; or models of
        :func:`stpredict.tl.align`, one for all folds or one for each, whose embeddings of the images are read. All others are
        compared with the first.
    splitter
        Folds by patient as in :func:`stpredict.tl.cross_validate`: `"patient"`, a number, folds, or a function.
    target
        What to predict, as in :func:`stpredict.tl.fit`; a selection of genes runs inside each fold.
    hyperparameters
        Departures from the defaults of the ridge, for all features.
    metrics
        Scores as in :func:`stpredict.tl.evaluate`.
    allow_leakage
        Whether to accept folds with a patient on both sides; scores are then marked as leaky. Features of models that saw
        patients of the test side are marked in any case.
    level
        Level of the bootstrap intervals :cite:p:`efron1993`.
    n_boot
        Number of bootstrap samples.
    seed
        Random seed for folds and intervals.
    key_added
        Beginning of the slots with predictions.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Table with one row per metric and label: `metric`, `features`, `score` (over genes, then sections, then patients) with its
    bounds `low` and `high`; `delta`, the same of the differences from the first features gene by gene and section by section,
    with `delta_low` and `delta_high` by a paired bootstrap over patients; `n_scores`, `n_undefined` (scores left out, such as
    correlations of constants), `n_genes`, `n_patients` and `leaky`. Bounds are NaN with one patient.

    Writes the predictions out of fold as :func:`stpredict.tl.cross_validate` does, in `obsm["{key_added}_{label}"]`, from which
    :func:`stpredict.tl.evaluate` takes scores per gene.

    Raises
    ------
    KeyError
        When features, normalization or a gene of the panel are missing.
    TypeError
        When a model has no common space of images and expression.
    ValueError
        When there are no features, as many models are given as there are folds of another number, or as in
        :func:`stpredict.tl.cross_validate`.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> folds = stp.cohorts.leave_one_patient_out(adata)
    >>> models = [stp.tl.align(adata, train=fold.train, training={"max_epochs": 2}) for fold in folds]
    >>> table = stp.tl.linear_probe(adata, {"before": "X_color-texture", "after": models}, folds, metrics=["pearson"])
    >>> table["features"].tolist(), table["n_patients"].tolist()
    (['before', 'after'], [2, 2])
    """
    from stpredict.core._device import resolve_device

    check_key(key_added)
    adata = get_table(data, table_key)
    keys = Keys(sample_key, patient_key)
    check_patients(adata, sample_key, patient_key)
    for metric in metrics:
        check_choice(metric, KNOWN_METRICS, "metrics")
    if not features:
        raise ValueError("expected features to probe; found none; pass {'before': …, 'after': …}")
    request = parse_target(adata, target)
    reader = slots_for(request)
    if not reader.quantities:
        raise ValueError(
            f"expected expression or values for a ridge; found {reader.kind.replace('_', '-')}; call stp.tl.donor_probe for "
            "classes of patients"
        )
    folds = make_folds(adata, splitter, seed, keys, {})
    if any(fold.within for fold in folds):
        raise ValueError("expected folds by patient; found blocks of sections; aligned features have no field of view")
    check_folds(adata, folds, patient_key, allow_leakage=allow_leakage)
    given = {str(label): _one_each(entry, folds, str(label)) for label, entry in features.items()}
    results = []
    for number, fold in enumerate(folds):
        # The space of an aligned model is its own: what is fitted in one is of no use in another.
        for label, parts in given.items():
            view = _view(data, adata, parts[number], keys)
            read = parts[number]
            if _is_model(read):  # scaled as what was aligned
                read = {"slot": _ALIGNED, "scaling": read.features["scaling"]}
            slot, scaling = split_features(read)
            task = make_task(view, "ridge", reader, features=slot, scaling=scaling, hyperparameters=hyperparameters)
            (found,) = run_folds(
                view, view, {label: task}, [fold], request, keys,
                allow_leakage=allow_leakage, device=resolve_device("cpu"), seed=seed,
                progress=False,
            )  # fmt: skip
            results.append(replace(found, number=number))
    slots = {label: f"{key_added}_{name}" for label, name in distinct(given).items()}
    for label, key in slots.items():
        own = [result for result in results if result.label == label]
        record = {
            "label": label, "model": "ridge", "folds": [fold.name for fold in folds],
            **sections_record(adata, sample_key), "allow_leakage": allow_leakage, "target": reader.kind,
            "normalization": own[0].target.to_dict().get("normalization", {}).get("method"),
            **reader.record(own[0].target), "seed": seed,
        }  # fmt: skip
        write_out_of_fold(adata, key, own, folds, keys, record)
    scores = evaluate(
        adata, list(slots.values()), layer=getattr(request, "layer", None), metrics=metrics, ceiling=False,
        baselines=False, sample_key=sample_key, patient_key=patient_key, seed=seed,
    )  # fmt: skip
    return compared(scores, metrics, list(slots), level=level, n_boot=n_boot, seed=seed)


def _is_model(entry: Any) -> bool:
    from stpredict.training import FittedModel

    return isinstance(entry, FittedModel)


def _one_each(entry: Any, folds: Sequence[Fold], label: str) -> list[Any]:
    """What is read in each fold: features, or a model."""
    listed = list(entry) if isinstance(entry, list | tuple) else []
    if not listed or not any(map(_is_model, listed)):
        return [entry] * len(folds)
    if not all(map(_is_model, listed)) or len(listed) != len(folds):
        raise ValueError(
            f"expected one model for each of the {len(folds)} folds as features {label!r}; found {len(listed)}; align one on the "
            "training side of each fold"
        )
    return listed


def _view(data: Any, adata: AnnData, entry: Any, keys: Keys) -> AnnData:
    """The table as it is, or beside its slots with the embeddings of the images by a model; the table itself stays."""
    if not _is_model(entry):
        return adata
    values = embeddings(entry, data, adata, keys, only=IMAGE)[IMAGE]
    view = beside(adata, **{_ALIGNED: values})
    made = {"encoder": entry.model, "patients_seen": entry.training.patients_seen}
    write_record(view, _ALIGNED, made | seal_features(values, adata.obs[keys.sample]))
    return view


def compared(
    scores: pd.DataFrame, metrics: Sequence[str], labels: Sequence[str], *, level: float, n_boot: int, seed: int
) -> pd.DataFrame:
    """Means of scores per gene and section by label, and of their differences from those of the first label."""
    import pandas as pd

    from stpredict.core._table import compact
    from stpredict.metrics import bootstrap_mean

    at = ["sample", "patient", "gene"]
    lines = []
    for metric in metrics:
        wide = scores.pivot(index=at, columns="model", values=metric)[list(labels)]
        marks = {label: table_mark(part) for label, part in scores.groupby("model")}
        for label in labels:
            line: dict[str, Any] = {"metric": metric, "features": label}
            both = wide[[label]] if label == labels[0] else wide[[labels[0], label]]
            both = both.replace([np.inf, -np.inf], np.nan)
            told = wide[label].dropna()
            pairs = both.dropna()
            for name, values in (("score", told), ("delta", pairs[label] - pairs[labels[0]])):
                means = values.groupby(level=["sample", "patient"], observed=True).mean()
                ends: tuple[Any, ...] = (float("nan"),) * 3
                if len(means):
                    people = means.index.get_level_values("patient").astype(str)
                    ends = bootstrap_mean(means.to_numpy(), people, level=level, n_boot=n_boot, seed=seed)
                line |= dict(zip(_columns(name), map(float, ends), strict=True))
            line |= {
                "n_scores": len(wide), "n_undefined": len(wide) - len(told),
                "n_genes": wide.index.get_level_values("gene").nunique(),
                "n_patients": wide.index.get_level_values("patient").nunique(), "leaky": marks[label],
            }  # fmt: skip
            lines.append(line)
    table = pd.DataFrame(lines)
    first = table["features"] == labels[0]
    table.loc[first, list(_columns("delta"))] = np.nan  # from itself
    return compact(table, ["metric", "features", *_columns("score"), *_columns("delta"), "n_patients", "leaky"])


def _columns(name: str) -> tuple[str, str, str]:
    return ("score", "low", "high") if name == "score" else ("delta", "delta_low", "delta_high")
