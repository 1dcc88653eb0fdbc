"""Covariates of patients in columns of `obs`: numbers, or categories."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._checks import check_obs
from stpredict.slots._matrix import check_float32

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_DATES = datetime.date | datetime.timedelta | np.datetime64 | np.timedelta64 | np.complexfloating


def read_covariates(adata: AnnData, columns: Sequence[str], call: str) -> pd.DataFrame:
    """Columns of `obs`, each of numbers or of categories; numbers among objects are numbers.

    Raises `KeyError` for a missing column, `TypeError` for dates and complex numbers, and `ValueError` for numbers that
    are infinite or that single precision cannot hold.
    """
    for name in columns:
        check_obs(adata, name, call)
    frame = adata.obs[list(columns)].copy()
    for name in columns:
        column = frame[name]
        what = f"numbers or categories in obs[{name!r}]"
        known = column.dropna()
        if getattr(column.dtype, "kind", "") in "cmM" or (
            column.dtype == object and any(isinstance(value, _DATES | complex) for value in known)
        ):
            raise TypeError(f"expected {what}; found {column.dtype}; convert them, for example to years")
        if column.dtype == object and len(known) and all(_is_plain_number(value) for value in known):
            frame[name] = column.astype(np.float64)
        if is_number(frame[name]):
            values = frame[name].to_numpy(np.float64, na_value=np.nan)
            if np.isinf(values).any():
                raise ValueError(f"expected {what}; found infinity; correct it, or set it to missing")
            check_float32(values, what)
    return frame


def _is_plain_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def is_number(column: pd.Series) -> bool:
    """Whether a covariate is standardized instead of split into categories."""
    import pandas as pd

    return pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype)
