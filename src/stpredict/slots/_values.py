"""Values of observations in columns of `obs` and slots of `obsm`: their names, the numbers, and what a column holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from stpredict.core._validate import check_unique, few
from stpredict.slots._checks import check_obs, check_obsm
from stpredict.slots._matrix import dense_matrix

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: Where the values stand whose slot is recorded as this: each in a column of its own.
OBS = "obs"
#: The matrix itself, of tables whose rows are genes: its columns are conditions, and nobody recorded a normalization.
MATRIX = "X"
_FEW = 20  # whole numbers of so few kinds may be names of classes as well
Content = Literal["numbers", "classes", "either"]


def read_values(
    adata: AnnData, slot: str, columns: Sequence[str] | None = None, *, what: str | None = None
) -> pd.DataFrame:
    """Values (n_obs, n_values) float64 with their names, NaN where one is not known.

    Parameters
    ----------
    adata
        The table.
    slot
        `"obs"`, a slot of `obsm`, or `"X"`, the matrix, where no slot of `obsm` is called so.
    columns
        Names of the values; all of a slot when `None`.
    what
        What to do where there are none.

    Raises
    ------
    KeyError
        When the slot or a column is missing.
    TypeError
        For what are no numbers, such as text, categories, booleans or dates.
    ValueError
        When names repeat, do not go with the slot, or values are infinite.
    """
    import pandas as pd

    call = what or "name a column of obs with numbers, or a slot of obsm"
    if slot == OBS:
        names = list(columns or ())
        for name in names:
            check_obs(adata, name, call)
        check_unique(names, "columns of obs")
        found = {name: _numbers(adata.obs[name], f"obs[{name!r}]") for name in names}
        return _finite(pd.DataFrame(found, index=adata.obs_names), "obs")
    if slot == MATRIX and slot not in adata.obsm:
        if adata.X is None:
            raise KeyError(f"expected values in X; found none; {call}")
        check_unique(adata.var_names, "var_names (adata.var_names_make_unique() does that)")
        values, where, names = adata.X, MATRIX, [str(name) for name in adata.var_names]
    else:
        check_obsm(adata, slot, call)
        values, where = adata.obsm[slot], f"obsm[{slot!r}]"
        names = value_names(adata, slot)
    if hasattr(values, "iloc"):
        for name in values.columns:
            _refuse(values[name], f"{where}[{name!r}]")
    elif getattr(values, "dtype", np.dtype(float)).kind == "b":
        raise TypeError(_no_numbers(where, "booleans"))
    frame = pd.DataFrame(dense_matrix(values, where).astype(np.float64), index=adata.obs_names, columns=names)
    if columns is not None:
        missing = [name for name in columns if name not in frame]
        if missing or not len(columns):
            raise KeyError(
                f"expected columns of {where}: {few(names, 8)}; found {few(missing) or 'an empty list'}; {call}"
            )
        check_unique(columns, f"columns of {where}")
        frame = frame[list(columns)]
    return _finite(frame, where)


def value_names(adata: AnnData, slot: str) -> list[str]:
    """Names of the columns of `obsm[slot]`: its own, those of `uns["{slot}_names"]`, or the slot and their number."""
    values = adata.obsm[slot]
    shape = np.shape(values)
    if len(shape) != 2 or not shape[1]:
        raise ValueError(f"expected values (n_obs, n_values) in obsm[{slot!r}]; found shape {shape}; keep two axes")
    key = f"{slot}_names"
    if hasattr(values, "iloc"):
        names = [str(name) for name in values.columns]
    elif key in adata.uns:
        names = [str(name) for name in np.atleast_1d(adata.uns[key])]
        if len(names) != shape[1]:
            raise ValueError(
                f"expected one name for each of the {shape[1]} columns of obsm[{slot!r}] in uns[{key!r}]; found {len(names)}; "
                "correct them, or put a DataFrame into the slot"
            )
    else:
        names = [f"{slot}_{number}" for number in range(shape[1])]
    check_unique(names, f"names of the columns of obsm[{slot!r}]")
    return names


def content_of(column: pd.Series, what: str) -> Content:
    """Whether a column holds numbers, classes, or whole numbers of so few kinds that they may be either.

    `ValueError` for text and categories that are numbers beyond doubt: fractions, or whole numbers of many kinds.
    """
    import pandas as pd

    known = column.dropna()
    if isinstance(column.dtype, pd.CategoricalDtype) or not pd.api.types.is_numeric_dtype(known.infer_objects()):
        values = pd.to_numeric(pd.Series(known.astype(str).unique()), errors="coerce")
        if len(values) and values.notna().all() and ((values % 1 != 0).any() or len(values) > _FEW):
            raise ValueError(
                f"expected numbers or classes in {what}; found {_kind(column)} that reads as numbers, of {len(values)} kinds; "
                "make numbers of it, pandas.to_numeric(column.astype(str)), or say that these are classes: "
                "stp.targets.Classes(…)"
            )
        return "classes"
    if pd.api.types.is_bool_dtype(known.infer_objects()):
        return "classes"
    numbers = known.to_numpy(dtype=np.float64)
    return "either" if len(numbers) and not (numbers % 1).any() and len(np.unique(numbers)) <= _FEW else "numbers"


def _numbers(column: pd.Series, what: str) -> np.ndarray:
    """Values (n_obs,) float64 of a column."""
    _refuse(column, what)
    return dense_matrix(column, what)[:, 0].astype(np.float64)


def _refuse(column: pd.Series, what: str) -> None:
    """Raise where a column holds booleans or categories, which are classes, or text."""
    import pandas as pd

    dtype = column.dtype
    if isinstance(dtype, pd.CategoricalDtype) or not (
        pd.api.types.is_numeric_dtype(dtype) or (dtype.kind == "O" and not isinstance(dtype, pd.StringDtype))
    ):
        raise TypeError(_no_numbers(what, _kind(column)))
    if pd.api.types.is_bool_dtype(column.dropna().infer_objects()) and column.notna().any():
        raise TypeError(_no_numbers(what, "booleans"))


def _no_numbers(what: str, found: str) -> str:
    return (
        f"expected numbers in {what}; found {found}; convert it, column.astype(float), or take a column of obs as classes: "
        "stp.targets.Classes(…)"
    )


def _kind(column: pd.Series) -> str:
    import pandas as pd

    if isinstance(column.dtype, pd.CategoricalDtype):
        return "categories"
    return "text" if column.dtype.kind == "O" or isinstance(column.dtype, pd.StringDtype) else str(column.dtype)


def _finite(frame: pd.DataFrame, where: str) -> pd.DataFrame:
    infinite = np.isinf(frame.to_numpy())
    if infinite.any():
        row, column = np.argwhere(infinite)[0]
        raise ValueError(
            f"expected finite values in {where}, or NaN for what was not measured; found infinity in {int(infinite.any(1).sum())} "
            f"rows (first: {frame.index[row]!r}, {frame.columns[column]!r}); correct them"
        )
    return frame
