"""Slides, their maps and the outcomes of their patients as arrays, and folds of the patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._validate import check_unique, few
from stpredict.slots._checks import check_obs
from stpredict.slots._covariates import read_covariates
from stpredict.slots._marks import worst_marks
from stpredict.slots._outcome import patients_of, read_outcome
from stpredict.targets import Classes, FollowUp
from stpredict.tl.outcomes._clinical import check_leaks
from stpredict.tl.outcomes._maps import DenseMaps, Maps, dense_maps

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.training.targets import Target


@dataclass
class Cohort:
    """Slides as arrays: what is read, and what is predicted.

    Attributes
    ----------
    patient, slide
        (n,) names.
    maps
        Maps of the slides.
    clinical
        Covariates, one row per slide.
    leaky
        (n,) marks of the slides: 1 where a score is too good to be true, 0 where it is not, -1 where that is unknown.
    target
        What is predicted: follow-up, or two classes.
    values
        (n, 2) float32 time and event, or (n,) int64 classes, 1 for the second.
    leaky_covariates
        Whether a covariate determines the outcome.
    """

    patient: np.ndarray
    slide: list[str]
    maps: DenseMaps
    clinical: pd.DataFrame
    leaky: np.ndarray
    target: Target
    values: np.ndarray
    leaky_covariates: bool = False

    @property
    def is_risk(self) -> bool:
        """Whether follow-up is predicted, and not classes."""
        return self.target.kind == "follow_up"

    @property
    def stratum(self) -> np.ndarray:
        """Event or class of each slide (n,)."""
        return (self.values[:, 1] if self.is_risk else self.values).astype(int)


def read_cohort(
    adata: AnnData,
    request: FollowUp | Classes,
    maps: Maps,
    channels: str | Sequence[str],
    clinical: str | Sequence[str] | None,
    features: str | None,
    *,
    allow_leakage: bool,
    sample_key: str,
    patient_key: str,
    table_key: str,
) -> Cohort:
    """Outcome, covariates and maps of all slides; an error for covariates that leak."""
    from stpredict.training.targets import ClassTarget, FollowUpTarget

    patient = patients_of(adata, patient_key)
    target: Target
    if isinstance(request, FollowUp):
        keys = [request.time, request.event]
        target = FollowUpTarget(*keys)
        values = np.column_stack(read_outcome(adata, *keys, patient_key=patient_key)).astype(np.float32)
        events, times = values[:, 1], {request.time: values[:, 0]}
    else:
        keys = [request.key]
        values, classes = read_response(adata, request.key, patient)
        target = ClassTarget(request.key, classes)
        events, times = values, {}
    columns = [clinical] if isinstance(clinical, str) else list(clinical or ())
    check_unique(columns, "clinical columns")
    frame = read_covariates(adata, columns, "name the columns with covariates of the patients")
    first = np.unique(patient, return_index=True)[1]
    telling = False
    try:
        outcomes = {keys[-1]: events[first]}, {name: column[first] for name, column in times.items()}
        check_leaks(frame.iloc[first], keys, *outcomes)
    except ValueError:
        if not allow_leakage:
            raise
        telling = True
    names = slide_names(adata, sample_key)
    wanted = [channels] if isinstance(channels, str) else list(channels)
    features = features or next((name for name in wanted if name.startswith("X_")), None)
    dense = dense_maps(maps, names, wanted, features, sample_key=sample_key, table_key=table_key)
    return Cohort(
        patient, names, dense, frame, worst_marks(dense.leaky, telling), target, values, leaky_covariates=telling
    )


def slide_names(adata: AnnData, sample_key: str) -> list[str]:
    """Name of each slide: `obs[sample_key]`, or that of the row where there is no such column."""
    names = adata.obs[sample_key].astype(str).to_list() if sample_key in adata.obs else list(adata.obs_names)
    check_unique(names, "slides")
    return names


def read_response(adata: AnnData, key: str, patient: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Classes (n,) int64, 1 for the second of two, and their names; the slides of a patient must agree."""
    import pandas as pd

    check_obs(adata, key, "put the two classes there, or name their column with `target=`")
    column = adata.obs[key]
    if column.isna().any():
        raise ValueError(
            f"expected a response of every slide in obs[{key!r}]; found {int(column.isna().sum())} missing "
            f"(first {adata.obs_names[column.isna()][0]!r}); leave these slides out"
        )
    if isinstance(column.dtype, pd.CategoricalDtype):
        names = [name for name in column.cat.categories if (column == name).any()]
    else:
        names = sorted(column.unique())
    if len(names) != 2:
        raise ValueError(f"expected two classes in obs[{key!r}]; found {len(names)}: {few(names)}")
    label = (column == names[1]).to_numpy().astype(np.int64)
    differing = pd.Series(label).groupby(patient).nunique()
    if (differing > 1).any():
        raise ValueError(
            f"expected one response per patient in obs[{key!r}]; found slides that disagree in "
            f"{few(differing.index[differing > 1])}"
        )
    return label, tuple(str(name) for name in names)


def stratified_folds(patient: np.ndarray, stratum: np.ndarray, n_folds: int, seed: int) -> np.ndarray:
    """Fold (n,) of each slide: patients are shuffled within their stratum, and dealt to the folds in turn."""
    names, first, of = np.unique(patient, return_index=True, return_inverse=True)
    shuffled = np.random.default_rng(seed).permutation(len(names))
    dealt = shuffled[np.argsort(stratum[first][shuffled], kind="stable")]
    fold = np.empty(len(names), dtype=np.int64)
    fold[dealt] = np.arange(len(names)) % n_folds
    return fold[of]


def check_folds(cohort: Cohort, fold: np.ndarray, n_folds: int, n_inner: int, keys: Sequence[str]) -> None:
    """Raise unless training sides can be divided into inner folds which all have an event, or both classes."""
    n_patients = len(np.unique(cohort.patient))
    if not 2 <= n_folds <= n_patients or n_inner < 2:
        raise ValueError(
            f"expected between 2 folds and one per patient ({n_patients}), and at least 2 inner folds; found "
            f"n_folds={n_folds} and n_inner={n_inner}"
        )
    codes = (1,) if cohort.is_risk else (0, 1)
    for number in range(n_folds):
        train = fold != number
        for code in codes:
            n = len(np.unique(cohort.patient[train & (cohort.stratum == code)]))
            if n < n_inner:
                what = "events" if cohort.is_risk else "of each class"
                raise ValueError(
                    f"expected at least n_inner={n_inner} patients {'with ' if cohort.is_risk else ''}{what} in "
                    f"obs[{keys[0]!r}] in the training side of every fold; found {n} in fold {number}; add patients, or "
                    "use fewer folds"
                )
