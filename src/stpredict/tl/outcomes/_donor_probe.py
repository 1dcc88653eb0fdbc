"""Logistic regression of a label of patients, such as a mutation, on the mean of their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import few
from stpredict.slots._checks import check_obs, check_patients
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._marks import joint_mark, seen_marks
from stpredict.slots._people import one_name
from stpredict.slots._spread import full_rows
from stpredict.tl.learn._embed import IMAGE, embeddings
from stpredict.tl.learn._splitters import check_folds
from stpredict.tl.learn.inputs._origin import features_seen
from stpredict.tl.learn.targets._base import Keys
from stpredict.tl.outcomes._cohort import stratified_folds

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.cohorts import Fold
    from stpredict.slots._container import Container

_N_INNER = 3


def donor_probe(
    data: Container,
    features: Mapping[str, Any],
    label: str,
    splitter: int | Sequence[Fold] = 5,
    *,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Classify patients, for example by a mutation, from several features, such as those before and after alignment.

    Features are averaged over the observations of a patient, and a logistic regression with balanced classes and a ridge penalty
    is fitted to the patients of the training side; the penalty is chosen on inner folds of these. Folds, penalties and the
    patients drawn for the intervals are the same for all features. Observations of one patient are never on both sides: a label
    of the patient would be read from them, and not from what goes with it.

    Parameters
    ----------
    data
        Sections with features.
    features
        Features by label: slots of `obsm`, or models of :func:`stpredict.tl.align`, one for all folds or one for each, whose
        embeddings of the images are read. All others are compared with the first. Patients without features are left out.
    label
        Column of `obs` with one of two classes for each patient; patients without (`NaN`) are left out.
    splitter
        Number of folds, each with the same share of both classes, fewer where a class has fewer patients; or folds, see
        :class:`stpredict.cohorts.Fold`.
    level
        Level of the bootstrap intervals :cite:p:`efron1993`.
    n_boot
        Number of bootstrap samples of patients.
    seed
        Random seed for folds and intervals.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Table with one row per label of features, over the patients of all test sides; nothing is written to `data`: `features`,
    `auroc` with its bounds `low` and `high`, `delta`, the difference from the first features, with `delta_low` and
    `delta_high` by a paired bootstrap over patients, `auprc`, `balanced_accuracy`, `prevalence` of the second class (in
    alphabetical order), `n_patients`, `n_positive`, and `leaky`: whether the features are of a model that saw test patients.

    Raises
    ------
    KeyError
        When a slot or a column is missing.
    ValueError
        When patients have several labels, there are not two classes with two patients each, a class is absent from a training
        side, or patients are on both sides of a fold.

    Examples
    --------
    >>> import numpy as np, stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=8, n_sections=1, n_spots=12, n_genes=5, microns_per_pixel=4)
    >>> mutated = adata.obs["patient"].isin(["P1", "P3", "P5", "P7"])
    >>> adata.obs["mutation"] = np.where(mutated, "yes", "no")
    >>> adata.obsm["X_own"] = np.random.default_rng(0).normal(size=(96, 3)) + 2.0 * mutated.to_numpy()[:, None]
    >>> table = stp.tl.donor_probe(adata, {"own": "X_own"}, "mutation", 4)
    >>> table["auroc"].tolist(), table["n_patients"].tolist(), table["n_positive"].tolist()
    ([1.0], [8], [4])
    """
    import pandas as pd

    from stpredict.core._table import compact
    from stpredict.metrics._binary import auroc, average_precision, balanced_accuracy
    from stpredict.tl.outcomes._linear import fit_linear_outcome

    adata = get_table(data, table_key)
    keys = Keys(sample_key, patient_key)
    check_patients(adata, sample_key, patient_key)
    if not features:
        raise ValueError("expected features to probe; found none; pass {'before': …, 'after': …}")
    people, names, truth = _labels(adata, label, patient_key)
    folds = _sides(adata, splitter, people, names, truth, seed, patient_key)
    logits: dict[str, np.ndarray] = {}
    marks: dict[str, set[int]] = {}
    for name, entry in features.items():
        logits[name], marks[name] = np.full(len(names), np.nan), set()
        for number, (train, test) in enumerate(folds):
            values, seen = _values(data, adata, entry, number, len(folds), people, names, keys)
            fitted = train & np.isfinite(values).all(axis=1)
            tested = test & np.isfinite(values).all(axis=1)
            if not tested.any():
                continue
            if len(np.unique(truth[fitted])) < 2:
                raise ValueError(
                    f"expected patients of both classes in every training side; found {int(fitted.sum())} of one in fold {number}; "
                    "take fewer folds"
                )
            inner = stratified_folds(names[fitted], truth[fitted], _inner_folds(truth[fitted]), seed)
            model = fit_linear_outcome(values[fitted], inner, label=truth[fitted])
            logits[name][tested] = model(values[tested])
            marks[name].update(seen_marks(names[tested], seen).tolist())
    told = np.logical_and.reduce([np.isfinite(values) for values in logits.values()])
    n = int(told.sum())
    if not n:
        raise ValueError("expected test patients with all features; found none; compute the features first")
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    weights = np.concatenate([np.ones((1, n)), draws])
    y = truth[told] == 1
    areas = {name: auroc(y, values[told], weights) for name, values in logits.items()}
    first = next(iter(features))
    lines = []
    for name, values in logits.items():
        line: dict[str, Any] = {"features": name}
        for columns, drawn in (
            (("auroc", "low", "high"), areas[name]),
            (("delta", "delta_low", "delta_high"), areas[name] - areas[first]),
        ):
            ends = np.nanquantile(drawn[1:], [(1 - level) / 2, (1 + level) / 2])
            line |= dict(zip(columns, map(float, (drawn[0], *ends)), strict=True))
        if name == first:
            line |= dict.fromkeys(("delta", "delta_low", "delta_high"), float("nan"))
        probability = 1 / (1 + np.exp(-values[told]))
        line["auprc"] = float(average_precision(y, probability)[0])
        line["balanced_accuracy"] = float(balanced_accuracy(y, probability)[0])
        line |= {
            "prevalence": float(y.mean()),
            "n_patients": n,
            "n_positive": int(y.sum()),
            "leaky": joint_mark(list(marks[name])),
        }
        lines.append(line)
    shown = [
        "features",
        "auroc",
        "low",
        "high",
        "delta",
        "delta_low",
        "delta_high",
        "prevalence",
        "n_patients",
        "leaky",
    ]
    return compact(pd.DataFrame(lines), shown)


def _labels(adata: AnnData, label: str, patient_key: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patient of each observation, labelled patients, and the class of each, 0 or 1."""
    check_obs(adata, label, "name a column with one class for each patient")
    people = one_name(adata.obs[patient_key])
    told = adata.obs[label].notna().to_numpy()
    pairs = adata.obs.loc[told, [label]].astype(str).assign(person=people[told]).drop_duplicates()
    twice = pairs["person"][pairs["person"].duplicated()].unique()
    if len(twice):
        raise ValueError(
            f"expected one class in obs[{label!r}] for each patient; found several in {few(twice)}; classes of observations are a "
            "target of stp.tl.cross_validate"
        )
    classes, truth = np.unique(pairs[label], return_inverse=True)
    if len(classes) != 2 or np.bincount(truth).min() < 2:
        raise ValueError(
            f"expected two classes with two patients each in obs[{label!r}]; found {few(classes)} in {len(pairs)} patients"
        )
    return people, pairs["person"].to_numpy().astype(str), truth


def _inner_folds(truth: np.ndarray) -> int:
    return max(2, min(_N_INNER, int(np.bincount(truth).min())))


def _sides(
    adata: AnnData, splitter: Any, people: np.ndarray, names: np.ndarray, truth: np.ndarray, seed: int, patient_key: str
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Masks (n_patients,) of the training and the test side of each fold."""
    if isinstance(splitter, int | np.integer):
        n = min(int(splitter), int(np.bincount(truth).min()))
        if n < 2:
            raise ValueError(f"expected at least 2 folds; found {splitter}")
        fold = stratified_folds(names, truth, n, seed)
        return [(fold != number, fold == number) for number in np.unique(fold)]
    listed = list(splitter)
    check_folds(adata, listed, patient_key, allow_leakage=False)
    return [(np.isin(names, people[each.train]), np.isin(names, people[each.test])) for each in listed]


def _values(
    data: Container,
    adata: AnnData,
    entry: Any,
    number: int,
    n_folds: int,
    people: np.ndarray,
    names: np.ndarray,
    keys: Keys,
) -> tuple[np.ndarray, list[str]]:
    """Mean features (n_patients, d) of patients, NaN without any, and whose expression had a part in them."""
    import pandas as pd

    if isinstance(entry, list | tuple):
        if len(entry) != n_folds:
            raise ValueError(f"expected one model for each of the {n_folds} folds; found {len(entry)}")
        entry = entry[number]
    if isinstance(entry, str):
        slot = entry if entry in adata.obsm else Key.features(entry)
        rows, values = full_rows(adata, slot, np.arange(adata.n_obs))
        seen = sorted(features_seen(adata, [slot]))
    else:
        embedded = embeddings(entry, data, adata, keys, only=IMAGE)[IMAGE]
        assert embedded is not None  # every observation has an image
        rows, values, seen = np.arange(adata.n_obs), embedded, entry.training.patients_seen
    return pd.DataFrame(values).groupby(people[rows]).mean().reindex(names).to_numpy(), seen
