"""How well the correlation between genes is kept."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._pairs import center, check_matrix, gene_blocks
from stpredict.metrics._samples import check_samples


def correlation_distance(truth: Any, predicted: Any) -> np.ndarray:
    r"""Root mean square difference between measured and predicted correlations of each gene with all others.

    :math:`\sqrt{\mathrm{mean}_{h \ne g} (\hat C_{gh} - C_{gh})^2}`, whose quadratic mean over genes is the Frobenius distance of
    the two matrices over the root of the number of pairs. Means are smoother than measurements and correlate more; samples
    need not.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse.
    predicted
        Samples (n_obs, n_samples, n_genes), whose correlation over observations is averaged over the samples, or means
        (n_obs, n_genes), in any unit.

    Returns
    -------
    Distance per gene (n_genes,), float64: between 0 and 2. NaN for a gene that is constant on either side (for samples, in one of
    them), or holds a NaN, which counts for no other gene; and with fewer than two genes that are left.

    Raises
    ------
    ValueError
        When the shapes do not belong together.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import correlation_distance
    >>> truth = np.array([[0.0, 0.0], [1.0, 1.0]])
    >>> correlation_distance(truth, truth), correlation_distance(truth, truth * [1, -1])
    (array([0., 0.]), array([2., 2.]))
    """
    truth, samples = check_samples(truth, predicted, means=True)
    result = np.full(truth.shape[1], np.nan)
    if len(samples) < 2:
        return result
    n_samples = samples.shape[1]
    y = _standard(truth.toarray() if hasattr(truth, "toarray") else truth)
    x = _standard(samples.reshape(len(samples), -1)).reshape(samples.shape)
    known = np.isfinite(y).all(axis=0) & np.isfinite(x).all(axis=(0, 1))
    if known.sum() < 2:
        return result
    y, drawn = y[:, known], x[:, :, known].reshape(-1, int(known.sum()))
    found = np.empty(drawn.shape[1])
    for genes in gene_blocks((len(found), len(found)), copies=2):
        apart = drawn[:, genes].T @ drawn / n_samples - y[:, genes].T @ y
        apart[np.arange(len(apart)), np.arange(genes.start, genes.start + len(apart))] = 0.0
        found[genes] = np.sqrt(np.square(apart).sum(axis=1) / (len(found) - 1))
    result[known] = found
    return result


def _standard(values: Any) -> np.ndarray:
    """Columns (n, g) of mean 0 and length 1; NaN where they are constant."""
    values = check_matrix(values, "values")
    block, squares = center(values.astype(np.float64), values.dtype)
    return block / np.sqrt(np.where(squares > 0, squares, np.nan))
