"""Booleans as other programs write them: the only place that turns the values of a column into a mask."""

from __future__ import annotations

from typing import Any

import numpy as np

_TRUE = frozenset({"true", "t", "yes", "y", "1", "1.0"})
_FALSE = frozenset({"false", "f", "no", "n", "0", "0.0"})
_GAPS = frozenset({"", "na", "n/a", "nan", "<na>", "none", "null", "nat"})


def read_bool(column: Any, name: str, *, gaps: bool | None = None) -> np.ndarray:
    """Read a column of booleans, whatever it went through: a CSV, R, a join, pandas' own types.

    The truth of a text is never asked for, since that of `"False"` and `"0"` is true.

    Parameters
    ----------
    column
        (n,) booleans, the numbers 0 and 1, or text such as `"TRUE"`, `"no"` or `"0"`; as an array, a list or a Series of
        any type, categories, Arrow and nullable types included.
    name
        What the column is called in messages, such as `"obs['in_tissue']"`.
    gaps
        What a missing value stands for; an error when `None`.

    Returns
    -------
    Array (n,) of booleans.

    Raises
    ------
    TypeError
        When a value is neither of the two.
    ValueError
        When values are missing and `gaps` is `None`.
    """
    import pandas as pd

    series = column if isinstance(column, pd.Series) else pd.Series(_one_axis(column, name))
    if series.dtype == bool:
        return series.to_numpy(copy=True)
    # Few values are distinct: each is looked at once, and the categories that no row has are not.
    try:
        codes, values = pd.factorize(np.asarray(series.astype(object), dtype=object), use_na_sentinel=True)
    except TypeError as error:  # lists or other values that cannot be compared
        raise TypeError(f"expected {name} to be boolean; found {series.dtype} with other values ({error})") from error
    meaning = np.array([_meaning(value) for value in values], dtype=np.int8)  # 1, 0, -1 for a gap, -2 for neither
    if (meaning == -2).any():
        strange = values[int(np.argmax(meaning == -2))]
        raise TypeError(
            f"expected {name} to be boolean; found {series.dtype} with the value {strange!r}; write True and False, or 1 "
            "and 0"
        )
    found = np.append(meaning, -1)[codes]
    missing = found == -1
    if missing.any() and gaps is None:
        raise ValueError(
            f"expected {name} to be boolean without gaps; found {int(missing.sum())} of {len(found)} values missing; fill "
            "them with True or False"
        )
    return np.where(missing, bool(gaps), found == 1)


def _one_axis(column: Any, name: str) -> Any:
    array = column if hasattr(column, "dtype") else np.asarray(column, dtype=object)
    if getattr(array, "ndim", 1) != 1:
        raise TypeError(f"expected {name} to be boolean, one value per row; found an array of shape {array.shape}")
    return array


def _meaning(value: Any) -> int:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "replace")
    if isinstance(value, str):
        word = value.strip().strip("\"'").casefold()
        return 1 if word in _TRUE else 0 if word in _FALSE else -1 if word in _GAPS else -2
    if isinstance(value, bool | int | float | np.bool_ | np.integer | np.floating):
        return 1 if value == 1 else 0 if value == 0 else -2
    return -2
