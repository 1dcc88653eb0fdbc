"""What an object says of the observations of a section, beside their expression: for scores that need more than two maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._covariates import is_number, read_covariates
from stpredict.slots._depth import depth_of
from stpredict.slots._expression import in_tissue
from stpredict.slots._keys import Key
from stpredict.slots._provenance import read_record
from stpredict.slots._unit import unit_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_GRID_MULTIPLE = 16  # published grids are padded to it: 78 × 64 to 80 × 64


def lattice_positions(adata: AnnData, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Row and column of observations on the array; `None` where these are no lattice with one of them per position."""
    if not {Key.ARRAY_ROW, Key.ARRAY_COL} <= set(adata.obs.columns):
        return None
    import pandas as pd

    columns = (pd.to_numeric(adata.obs[key].iloc[rows], errors="coerce") for key in (Key.ARRAY_ROW, Key.ARRAY_COL))
    row, col = (column.to_numpy(dtype=np.float64, na_value=np.nan) for column in columns)
    row_col = np.column_stack([row, col])
    whole = np.isfinite(row_col).all() and (row_col == np.round(row_col)).all()
    return (row, col) if whole and len(np.unique(row_col, axis=0)) == len(row_col) else None


def n_background(adata: AnnData, rows: np.ndarray, sample_key: str) -> int | None:
    """Cells without tissue in the padded grid of the section of these rows; `None` where it has no grid."""
    sample = adata.obs[sample_key].astype(str).to_numpy()
    name = sample[rows[0]]
    shape = (read_record(adata, "grid") or {}).get("shape", {}).get(name)
    if shape is None:
        return None
    n_cells = np.prod([-(-int(side) // _GRID_MULTIPLE) * _GRID_MULTIPLE for side in shape])
    return int(n_cells - ((sample == name) & in_tissue(adata)).sum())


def log_depth(adata: AnnData, rows: np.ndarray) -> np.ndarray | None:
    """Logarithm of the counts (n,) behind each size factor; `None` where there are no counts."""
    depth = depth_of(adata)
    return None if depth is None else np.log1p(depth[rows])


def given_columns(adata: AnnData, given: Sequence[str]) -> pd.DataFrame | None:
    """The columns of `obs` that are to be given; `None` without any. An error says where one has no numbers."""
    names = [given] if isinstance(given, str) else list(given)
    if not names:
        return None
    frame = read_covariates(adata, names, "name columns of obs with numbers, for example the density of nuclei")
    text = [name for name in names if not is_number(frame[name])]
    if text:
        raise TypeError(f"expected numbers in the columns of `given`; found {', '.join(text)} with something else")
    return frame


def check_maps(adata: AnnData, **options: Sequence[str]) -> None:
    """Raise where options that read a map are asked for of slides or genes."""
    if (unit := unit_of(adata)) == "observation":
        return
    for option, names in options.items():
        if len(names):
            found = names if isinstance(names, str) else ", ".join(names)
            raise ValueError(f"expected no {option} for {unit}s, which have no map; found {found}; leave them out")


def read_given(adata: AnnData, given: Sequence[str]) -> tuple[np.ndarray, str] | None:
    """Covariates (n_obs, d) of observations, their depth and columns of `obs`, with their names; `None` without columns.

    Depth stands first, where there are counts, as it does for every score that is to say more than depth does.
    """
    frame = given_columns(adata, given)
    if frame is None:
        return None
    values, names = frame.to_numpy(dtype=np.float64, na_value=np.nan), list(frame.columns)
    depth = log_depth(adata, np.arange(adata.n_obs))
    if depth is not None:
        values, names = np.column_stack([depth, values]), [Key.DEPTH, *names]
    return values, ", ".join(names)
