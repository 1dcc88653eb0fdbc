"""Splits of a cohort into training and test observations, by patient unless the name says otherwise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._checks import check_obs, check_patients
from stpredict.slots._keys import Key
from stpredict.slots._people import one_name
from stpredict.slots._unit import unit_of

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Fold:
    """Training and test observations of one split.

    Attributes
    ----------
    name
        Name of the fold, for tables.
    train, test
        Boolean masks (n_obs,); an observation may be in neither.
    leaky
        Whether a patient of the test observations has training observations too.
    within
        Whether training and test are parts of one section, apart by more than the fields of view of what a model reads, as
        :func:`stpredict.cohorts.spatial_blocks` makes them. Scores are then marked as `"within section"`, and where the
        parts are too close, or other sections of the patient are in training, the fold is refused.
    buffer_um
        Width of the buffer between parts of a section. The inner validation of a fit to the rest of the section has one of
        the same width, or of the fields of view where these are wider.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.cohorts import Fold
    >>> Fold("P1", train=np.array([False, True]), test=np.array([True, False])).leaky
    False
    """

    name: str
    train: np.ndarray
    test: np.ndarray
    leaky: bool = False
    within: bool = False
    buffer_um: float = 0.0


def assert_disjoint(adata: AnnData, train: np.ndarray, test: np.ndarray, *, patient_key: str = Key.PATIENT) -> None:
    """Raise when a patient is on both sides of a split.

    Parameters
    ----------
    adata
        Object with the observations.
    train, test
        Boolean masks (n_obs,) of the training and of the test observations.
    patient_key
        Column of `obs` that names the patient.

    Returns
    -------
    `None`; nothing is written to `adata`.

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
    patient = one_name(adata.obs[patient_key])
    shared = sorted(set(patient[train]) & set(patient[test]))
    if shared and unit_of(adata) == "gene":
        raise ValueError(
            f"expected chromosomes on one side of the split only; found {', '.join(shared)} in training and test; hold out whole "
            "ones (stp.cohorts.leave_chromosomes_out), name a column of obs with groups of genes that share nothing as "
            "`patient_key=`, or pass allow_leakage=True and have every score marked as leaky"
        )
    if shared:
        raise ValueError(
            f"expected patients on one side of the split only; found {', '.join(shared)} in training and test; split by "
            "patient (stp.cohorts.leave_one_patient_out), or pass allow_leakage=True and have every score marked as leaky"
        )


def _fold(adata: AnnData, name: str, test: np.ndarray, patient_key: str) -> Fold:
    patient = one_name(adata.obs[patient_key])
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
    One :class:`Fold` per patient, with boolean masks (n_obs,), in order of their names; nothing is written to `adata`.

    Raises
    ------
    KeyError
        When `obs[sample_key]` or `obs[patient_key]` is missing.
    ValueError
        When there is only one patient, names are missing, or a section belongs to several patients.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_genes=5, n_spots=30)
    >>> [fold.name for fold in stp.cohorts.leave_one_patient_out(adata)]
    ['P1', 'P2']
    """
    check_patients(adata, sample_key, patient_key)
    patient = one_name(adata.obs[patient_key])
    names = np.unique(patient)
    if len(names) < 2:
        raise ValueError(
            f"expected at least two patients in obs[{patient_key!r}]; found {', '.join(names)}; add patients. Of "
            "one patient, splitter='blocks' (stp.cohorts.spatial_blocks) holds out blocks of each section behind a buffer, and "
            "scores are marked as within section; splitter='section' (stp.cohorts.leave_one_section_out) leaves out sections, needs "
            "allow_leakage=True, and scores are marked as leaky"
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
        Number of folds, at least 2 and at most one per patient.
    seed
        Random seed for the shuffle of the patients.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.

    Returns
    -------
    One :class:`Fold` per part, with boolean masks (n_obs,), named after its test patients; nothing is written to
    `adata`.

    Raises
    ------
    KeyError
        When `obs[sample_key]` or `obs[patient_key]` is missing.
    ValueError
        When there are fewer patients than folds, or fewer than two folds, names are missing, or a section belongs to
        several patients.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_genes=5, n_spots=30)
    >>> len(stp.cohorts.grouped_k_fold(adata, n_folds=2))
    2
    """
    check_patients(adata, sample_key, patient_key)
    patient = one_name(adata.obs[patient_key])
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
    One :class:`Fold` per section, with boolean masks (n_obs,), in order of their names; `leaky` is `True` where its
    patient has other sections. Nothing is written to `adata`.

    Raises
    ------
    KeyError
        When `obs[sample_key]` or `obs[patient_key]` is missing.
    ValueError
        When there is only one section, names are missing, or a section belongs to several patients.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=1, n_sections=2, n_genes=5, n_spots=30)
    >>> [fold.leaky for fold in stp.cohorts.leave_one_section_out(adata)]
    [True, True]
    """
    check_patients(adata, sample_key, patient_key)
    sample = adata.obs[sample_key].astype(str).to_numpy()
    names = np.unique(sample)
    if len(names) < 2:
        raise ValueError(f"expected at least two sections in obs[{sample_key!r}]; found {', '.join(names)}")
    return [_fold(adata, name, sample == name, patient_key) for name in names]
