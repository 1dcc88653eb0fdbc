"""Folds that somebody else has chosen, from columns of `obs`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from stpredict.cohorts._splits import Fold
from stpredict.core._validate import few
from stpredict.slots._checks import check_obs
from stpredict.slots._keys import Key
from stpredict.slots._people import among

if TYPE_CHECKING:
    from anndata import AnnData

_COLUMN = re.compile(r"split_\d+")


def recorded_folds(
    adata: AnnData, columns: Sequence[str] | None = None, *, patient_key: str = Key.PATIENT
) -> list[Fold]:
    """Make folds of columns that say which observations are for training and which for test.

    Parameters
    ----------
    adata
        Object with such columns, as :func:`stpredict.io.read_hest` writes them.
    columns
        Columns of `obs` with the values `"train"`, `"test"`, or none; all that are named `split_0`, `split_1` and so on
        when `None`.
    patient_key
        Column of `obs` with the patient, by which a fold counts as leaky.

    Returns
    -------
    One :class:`Fold` per column, named after it, with boolean masks (n_obs,); nothing is written to `adata`.

    Raises
    ------
    KeyError
        When a column, or one with patients, is missing.
    ValueError
        When a column holds other values, or observations of one side only.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=40)
    >>> adata.obs["split_0"] = ["train" if patient == "P1" else "test" for patient in adata.obs["patient"]]
    >>> [(fold.name, int(fold.test.sum()), fold.leaky) for fold in stp.cohorts.recorded_folds(adata)]
    [('split_0', 40, False)]
    """
    if columns is None:
        columns = [name for name in map(str, adata.obs.columns) if _COLUMN.fullmatch(name)]
        if not columns:
            raise KeyError(
                f"expected columns split_0, split_1, … in obs; found {few(adata.obs.columns, 8)}; read a task of HEST-Bench "
                "with stp.io.read_hest, or name the columns"
            )
    check_obs(adata, patient_key, "name the person of every observation there, or pass `patient_key=`")
    folds = []
    for name in columns:
        check_obs(adata, name, "name columns with the values 'train' and 'test'")
        side = adata.obs[name].astype(object)
        strange = set(side.dropna().unique()) - {"train", "test"}
        train, test = (side == "train").to_numpy(), (side == "test").to_numpy()
        if strange or not train.any() or not test.any():
            found = (
                few(map(repr, sorted(map(str, strange))))
                or f"{int(train.sum())} for training and {int(test.sum())} for test"
            )
            raise ValueError(f"expected the values 'train' and 'test' in obs[{name!r}]; found {found}")
        patient = adata.obs[patient_key].astype(str)
        folds.append(Fold(name, train, test, leaky=bool(among(patient[test].unique(), patient[train].unique()).any())))
    return folds
