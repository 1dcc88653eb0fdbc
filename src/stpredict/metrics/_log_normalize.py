"""Library-size normalization and log1p of a count matrix."""

from __future__ import annotations

from typing import Any

import numpy as np


def log_normalize(counts: Any, totals: np.ndarray, target_sum: float | np.ndarray = 1e4) -> Any:
    """Scale every observation to the same total and take log1p.

    Parameters
    ----------
    counts
        Counts `(n, G)`, dense or sparse. Sparse stays sparse; float32 stays float32, all else becomes float64.
    totals
        Size factor of each observation `(n,)`, as a number of counts. Observations with a total of 0 become 0.
    target_sum
        Counts that every observation is scaled to, or one number for each `(n,)`.

    Returns
    -------
    `log1p(counts / totals * target_sum)`, of the shape of `counts`. A row with NaN in `totals` is NaN if dense.

    Examples
    --------
    >>> import numpy as np
    >>> log_normalize(np.array([[1.0, 3.0], [0.0, 0.0]]), np.array([4.0, 0.0]), target_sum=4).round(3)
    array([[0.693, 1.386],
           [0.   , 0.   ]])
    """
    from scipy import sparse

    totals = np.asarray(totals, dtype=float).ravel()
    if totals.shape != (counts.shape[0],):
        raise ValueError(f"expected one total for each of {counts.shape[0]} observations; found {totals.shape}")
    scale = np.divide(target_sum, totals, out=np.zeros_like(totals), where=totals != 0)
    dtype = np.float32 if counts.dtype == np.float32 else np.float64
    if sparse.issparse(counts):
        result: Any = counts.copy() if counts.format in {"csr", "csc"} else counts.tocsr()
        result = result.astype(dtype, copy=False)
        rows = result.indices if result.format == "csc" else np.repeat(np.arange(len(totals)), np.diff(result.indptr))
        result.data = np.log1p(result.data * scale.astype(dtype)[rows])
        result.eliminate_zeros()
        return result
    result = np.asarray(counts, dtype=dtype) * scale.astype(dtype)[:, None]
    return np.log1p(result, out=result)
