"""Splits of a cohort into training and test observations, by patient unless the name says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._checks import check_obs, check_patients
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Fold:
    """One split.

    Attributes
    ----------
    name
        Name of the fold, for tables.
    train, test
        (n_obs,) boolean masks; an observation may be in neither.
    leaky
        Whether a test patient is in training.
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    leaky: bool = False


def assert_disjoint(adata: AnnData, train: np.ndarray, test: np.ndarray, *, patient_key: str = Key.PATIENT) -> None:
    """Raise when a patient is on both sides of a split.

    Parameters
    ----------
    adata
        Object with the observations.
    train, test
        (n_obs,) boolean masks.
    patient_key
        Column of `obs` with the patient.

    Raises
    ------
    KeyError
        When `obs[patient_key]` is missing.
    ValueError
        When a patient has observations in both; the message names the patients.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=40)
    >>> train = (adata.obs["patient"] == "P1").to_numpy()
    >>> stp.cohorts.assert_disjoint(adata, train, ~train)
    """
    check_obs(adata, patient_key, "name the person of every observation there, or pass `patient_key=`")
    patient = adata.obs[patient_key].astype(str).to_numpy()
    shared = sorted(set(patient[train]) & set(patient[test]))
    if shared:
        raise ValueError(
            f"expected patients on one side of the split only; found {', '.join(shared)} in training and test; split by "
            "patient (stp.cohorts.leave_one_patient_out), or pass allow_leakage=True and have every score marked as leaky"
        )


def _fold(adata: AnnData, name: str, test: np.ndarray, patient_key: str) -> Fold:
    patient = adata.obs[patient_key].astype(str).to_numpy()
    return Fold(name, ~test, test, leaky=bool(set(patient[~test]) & set(patient[test])))


def leave_one_patient_out(
    adata: AnnData, *, sample_key: str = Key.SAMPLE, patient_key: str = Key.PATIENT
) -> list[Fold]:
    """Hold out one patient at a time.

    Parameters
    ----------
    adata
        Object with several patients.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.

    Returns
    -------
    One fold per patient, in order of their names.

    Raises
    ------
    ValueError
        When there is one patient only.
    """
    check_patients(adata, sample_key, patient_key)
    patient = adata.obs[patient_key].astype(str).to_numpy()
    names = np.unique(patient)
    if len(names) < 2:
        raise ValueError(
            f"expected at least two patients in obs[{patient_key!r}]; found {', '.join(names)}; add patients, or call "
            "stp.cohorts.leave_one_section_out and read its scores as leaky"
        )
    return [_fold(adata, name, patient == name, patient_key) for name in names]


def grouped_k_fold(
    adata: AnnData,
    n_folds: int = 5,
    *,
    seed: int = 0,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
) -> list[Fold]:
    """Split the patients into folds of about equal numbers of patients.

    Parameters
    ----------
    adata
        Object with at least `n_folds` patients.
    n_folds
        Number of folds.
    seed
        Of the shuffle of the patients.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.

    Returns
    -------
    The folds.

    Raises
    ------
    ValueError
        When there are fewer patients than folds.
    """
    check_patients(adata, sample_key, patient_key)
    patient = adata.obs[patient_key].astype(str).to_numpy()
    names = np.unique(patient)
    if not 2 <= n_folds <= len(names):
        raise ValueError(
            f"expected between 2 folds and one per patient ({len(names)}); found n_folds={n_folds}; "
            "with few patients call stp.cohorts.leave_one_patient_out"
        )
    parts: Sequence[np.ndarray] = np.array_split(np.random.default_rng(seed).permutation(names), n_folds)
    return [_fold(adata, "+".join(sorted(part)), np.isin(patient, part), patient_key) for part in parts]


def leave_one_section_out(
    adata: AnnData, *, sample_key: str = Key.SAMPLE, patient_key: str = Key.PATIENT
) -> list[Fold]:
    """Hold out one section at a time, as much of the field does; leaky where other sections of its patient stay.

    Parameters
    ----------
    adata
        Object with several sections.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.

    Returns
    -------
    One fold per section; `leaky` is `True` where its patient has other sections.

    Raises
    ------
    ValueError
        When there is one section only.
    """
    check_patients(adata, sample_key, patient_key)
    sample = adata.obs[sample_key].astype(str).to_numpy()
    names = np.unique(sample)
    if len(names) < 2:
        raise ValueError(f"expected at least two sections in obs[{sample_key!r}]; found {', '.join(names)}")
    return [_fold(adata, name, sample == name, patient_key) for name in names]
