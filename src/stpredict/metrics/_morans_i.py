"""Moran's I of many genes at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import spmatrix


def morans_i(
    values: Any,
    weights: spmatrix,
    *,
    assumption: Literal["randomization", "normality"] = "randomization",
    block_size: int | None = None,
) -> pd.DataFrame:
    r"""Compute Moran's I, its variance and a one-sided p-value for every gene.

    :math:`I = \frac{n}{S_0} \frac{\sum_{ij} w_{ij} z_i z_j}{\sum_i z_i^2}` with z the centered values and
    :math:`S_0` the sum of the weights. Under no spatial structure I has the mean :math:`-1/(n-1)`; the alternative
    is positive autocorrelation :cite:p:`moran1950,cliff1981`.

    Parameters
    ----------
    values
        Values `(n, G)` of n observations, dense or sparse.
    weights
        Sparse weights `(n, n)`, symmetric or not, without self-weights.
    assumption
        Source of the variance: `"randomization"` takes the values as given and their places as random; `"normality"`
        takes the values as draws of a normal distribution.
    block_size
        Number of genes that are made dense at once; as many as fit into 8 MB when `None`.

    Returns
    -------
    Table of G rows with the columns `I`, `expected`, `variance`, `z` and `p`. All but `expected` are NaN for
    genes that do not vary.

    Raises
    ------
    ValueError
        When the shapes do not match, there are fewer than 4 observations, the weights sum to 0, or values are not
        finite.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import diags
    >>> chain = diags([1.0, 1.0], [-1, 1], shape=(6, 6), format="csr")
    >>> morans_i(np.array([[0.0, 0], [0, 1], [0, 0], [1, 1], [1, 0], [1, 1]]), chain)["I"].round(2).tolist()
    [0.6, -1.0]
    """
    import pandas as pd
    from scipy import sparse
    from scipy.stats import norm

    if assumption not in ("randomization", "normality"):
        raise ValueError(f"expected assumption 'randomization' or 'normality'; found {assumption!r}")
    if values.ndim != 2 or weights.shape != (values.shape[0],) * 2:
        raise ValueError(f"expected values (n, G) and weights (n, n); found {values.shape} and {weights.shape}")
    n, n_genes = values.shape
    if n < 4:
        raise ValueError(f"expected at least 4 observations; found {n}")
    weights = sparse.csr_matrix(weights, dtype=np.float64)
    s0 = weights.sum()
    if not s0 > 0:
        raise ValueError(f"expected weights with a positive sum; found {s0}; see pp.spatial_weights")
    is_sparse = sparse.issparse(values)
    values = values.tocsc() if is_sparse else np.asarray(values)
    if not np.isfinite(values.data if is_sparse else values).all():
        raise ValueError("expected finite values; found NaN or infinity; drop these observations first")

    # z'Wz = z'((W + W')/2)z, and each pair needs to be visited once: the upper triangle holds w_ij + w_ji.
    both = weights + weights.T
    upper = sparse.triu(both, k=1, format="csr")
    diagonal = weights.diagonal()[:, None]
    has_diagonal = bool(diagonal.any())
    block_size = block_size or max(1, 2**20 // n)
    cross, second, fourth = np.zeros(n_genes), np.zeros(n_genes), np.zeros(n_genes)
    constant = np.zeros(n_genes, dtype=bool)
    for start in range(0, n_genes, block_size):
        block = slice(start, start + block_size)
        z = values[:, block].toarray().astype(np.float64, copy=False) if is_sparse else values[:, block].astype(float)
        constant[block] = (z == z[:1]).all(axis=0)
        z = np.ascontiguousarray(z)
        z -= z.mean(axis=0)
        cross[block] = np.einsum("ij,ij->j", z, upper @ z)
        z *= z
        if has_diagonal:
            cross[block] += (diagonal * z).sum(axis=0)
        second[block] = z.sum(axis=0)
        fourth[block] = np.einsum("ij,ij->j", z, z)
    second[constant] = np.nan

    expected = -1.0 / (n - 1)
    statistic = n / s0 * cross / second
    s1 = 0.5 * (both.data**2).sum()
    s2 = float(((np.asarray(weights.sum(axis=0)).ravel() + np.asarray(weights.sum(axis=1)).ravel()) ** 2).sum())
    if assumption == "normality":
        variance = (n**2 * s1 - n * s2 + 3 * s0**2) / ((n**2 - 1) * s0**2) - expected**2
        variances = np.where(constant, np.nan, variance)
    else:
        kurtosis = n * fourth / second**2
        variances = (
            n * ((n**2 - 3 * n + 3) * s1 - n * s2 + 3 * s0**2) - kurtosis * ((n**2 - n) * s1 - 2 * n * s2 + 6 * s0**2)
        ) / ((n - 1) * (n - 2) * (n - 3) * s0**2) - expected**2
    z_score = np.divide(
        statistic - expected, np.sqrt(np.maximum(variances, 0)), out=np.full(n_genes, np.nan), where=variances > 0
    )
    columns = {"I": statistic, "expected": expected, "variance": variances, "z": z_score, "p": norm.sf(z_score)}
    return pd.DataFrame(columns, index=pd.RangeIndex(n_genes))
