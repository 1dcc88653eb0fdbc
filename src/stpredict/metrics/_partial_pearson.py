"""Pearson correlation per gene, given covariates of the observations."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._pairs import center, check_pair, dense, gene_blocks
from stpredict.metrics._pearson import correlation

_DEGREE = 2
_NEGLIGIBLE = 1e-10  # share of the variance below which nothing but rounding is left


def partial_pearson(truth: Any, predicted: Any, covariate: np.ndarray) -> np.ndarray:
    """Compute Pearson's correlation of each gene after regressing covariates out of truth and prediction.

    The regression is quadratic in each covariate. With the logarithm of the total counts as covariate, what is left is
    the agreement beyond depth: values normalized by few counts still depend on the depth, and depth depends on the
    density of the tissue, which is visible in the picture. Where depth follows biology, this removes some of the
    biology as well.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse.
    predicted
        Predicted expression of the same shape.
    covariate
        Covariate of each observation (n_obs,), finite, for example `log(total counts)`; or several (n_obs, n_covariates).

    Returns
    -------
    Correlation per gene (n_genes,), float64; NaN where truth or prediction has no variance, or none beyond that of the
    covariate.

    Raises
    ------
    ValueError
        When the shapes differ, or a covariate is not finite.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import partial_pearson
    >>> rng = np.random.default_rng(0)
    >>> depth, signal = rng.normal(size=(2, 500))
    >>> truth = np.stack([depth, signal], axis=1) + 0.1 * rng.normal(size=(500, 2))
    >>> predicted = np.stack([depth, depth + signal], axis=1) + 0.1 * rng.normal(size=(500, 2))
    >>> (partial_pearson(truth, predicted, depth) > 0.5).tolist()
    [False, True]
    """
    truth, predicted = check_pair(truth, predicted)
    covariate = np.asarray(covariate, dtype=np.float64)
    n_obs, n_genes = truth.shape
    if covariate.ndim not in (1, 2) or len(covariate) != n_obs or not np.isfinite(covariate).all():
        raise ValueError(
            f"expected finite covariates of shape ({n_obs},) or ({n_obs}, n_covariates); found shape {covariate.shape} or NaN in it"
        )
    covariate = covariate.reshape(n_obs, -1)
    result = np.full(n_genes, np.nan)
    if n_obs <= _DEGREE * covariate.shape[1] + 1:
        return result
    spread = covariate.std(axis=0)
    standard = (covariate - covariate.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    columns = [np.ones((n_obs, 1)), *(standard**power for power in range(1, _DEGREE + 1))]
    basis, length, _ = np.linalg.svd(np.concatenate(columns, axis=1), full_matrices=False)
    basis = basis[
        :, length > 1e-9 * length[0]
    ]  # a constant covariate, or one that follows from others, spans nothing more
    for genes in gene_blocks(truth.shape):
        x, y = (_left_over(dense(matrix, genes), basis) for matrix in (truth, predicted))
        result[genes] = correlation(*center(x, x.dtype), *center(y, y.dtype))
    return result


def _left_over(values: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """What a basis (n, d) does not explain of columns (n, g), written over them; 0 where that is rounding."""
    whole = np.einsum("ij,ij->j", values, values)
    values -= values.mean(axis=0)
    values -= ((values.T @ basis) @ basis.T).T
    values[:, np.einsum("ij,ij->j", values, values) <= _NEGLIGIBLE * whole] = 0
    return values
