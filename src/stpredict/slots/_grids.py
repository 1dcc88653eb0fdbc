"""What the dense map of a section is made of: the cells of its observations, and the values on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._cells import Shape
from stpredict.core._validate import check_unique, few
from stpredict.slots._checks import check_obs
from stpredict.slots._expression import measured_matrix, to_dense
from stpredict.slots._keys import Key
from stpredict.slots._matrix import dense_matrix
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    from anndata import AnnData


def cells_of(table: AnnData, sample: str | None, sample_key: str) -> tuple[np.ndarray, np.ndarray, Shape]:
    """Rows (n,) of a section, their cells (n, 2), and the shape of its grid."""
    call = "run stp.pp.grid(adata) first"
    for key in (Key.GRID_ROW, Key.GRID_COL):
        check_obs(table, key, call)
    check_obs(table, sample_key, "name the sections there, or pass `sample_key=`")
    samples = table.obs[sample_key].astype(str).to_numpy()
    names = list(dict.fromkeys(samples.tolist()))
    if sample is None:
        if len(names) != 1:
            raise ValueError(f"expected the name of a section, `sample=`; found {len(names)} sections: {few(names)}")
        sample = names[0]
    if sample not in names:
        raise KeyError(f"expected a section among {few(names)}; found {sample!r}")
    rows = np.flatnonzero(samples == sample)
    cell = table.obs[[Key.GRID_ROW, Key.GRID_COL]].to_numpy(dtype=np.int64)[rows]
    shape = ((read_record(table, Key.GRID) or {}).get("shape") or {}).get(sample)
    if shape is None:
        raise KeyError(f"expected the shape of section {sample!r} in uns['stpredict']['grid']; found none; {call}")
    if (cell < 0).any() or (cell >= shape).any():
        raise ValueError(f"expected cells within {shape[0]} × {shape[1]} in section {sample!r}; found others; {call}")
    return rows, cell, (int(shape[0]), int(shape[1]))


def rows_of(table: AnnData, values: Any, rows: np.ndarray, layer: str | None) -> np.ndarray:
    """Values (n, k) of some rows, from a slot, columns, genes or an array."""
    what = "the values"
    if isinstance(values, str) and values in table.obsm:
        found, what = table.obsm[values], f"obsm[{values!r}]"
    elif isinstance(values, str) or (isinstance(values, Sequence) and all(isinstance(name, str) for name in values)):
        names = [values] if isinstance(values, str) else list(values)
        check_unique(names, "names of values")
        if layer is None and names and all(name in table.obs for name in names):
            found, what = table.obs[names].iloc[rows], f"obs {few(names)}"
            if any(dtype.kind not in "iufb" for dtype in found.dtypes):
                raise TypeError(f"expected numbers or booleans in {what}; found {few(found.dtypes)}; encode them first")
            return dense_matrix(found, what).astype(np.float32)
        unknown = [name for name in names if name not in table.var_names]
        if unknown or not names:
            raise KeyError(
                f"expected a key of obsm ({few(sorted(table.obsm))}), columns of obs ({few(table.obs.columns)}) or genes; "
                f"found {few(unknown) or 'an empty list'}"
            )
        return to_dense(measured_matrix(table, names, rows, layer))
    else:
        found = values
    if hasattr(found, "iloc"):
        if not table.obs_names.equals(found.index):
            raise ValueError(
                f"expected the index of {what} to be the obs_names of the object, in their order; found another; align it "
                "first: values.reindex(adata.obs_names)"
            )
        found = dense_matrix(found, what)
    array = found if hasattr(found, "tocsr") else np.asarray(found)
    if array.shape[:1] != (table.n_obs,) or array.ndim > 2:
        raise ValueError(f"expected {what} of shape ({table.n_obs}, k), one row per observation; found {array.shape}")
    if array.dtype.kind not in "iufb":
        raise TypeError(f"expected numbers or booleans in {what}; found {array.dtype}")
    return to_dense(array[rows]).reshape(len(rows), -1)
