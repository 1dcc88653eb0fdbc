"""Energy score: all genes of an observation together."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._pairs import dense
from stpredict.metrics._samples import check_samples

_BLOCK = 2**21  # values per block of observations


def energy_score(truth: Any, samples: Any, *, fair: bool = True) -> np.ndarray:
    r"""Score the samples of all genes together :cite:p:`gneiting2007`, per observation; the lower, the better.

    :math:`\mathrm{mean}\,\lVert x_s - y \rVert - \tfrac12\,\mathrm{mean}\,\lVert x_s - x_{s'} \rVert` with the Euclidean
    distance over genes: what :func:`stpredict.metrics.crps` is for one gene. It also sees whether genes vary together as they
    should. Genes that vary more count more; divide truth and samples by the spread of each gene for equal weights.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse.
    samples
        Samples (n_obs, n_samples, n_genes) in the same unit.
    fair
        Whether the second mean leaves out the pairs of a sample with itself, as in :func:`stpredict.metrics.crps`.

    Returns
    -------
    Score per observation (n_obs,), float64, in the unit of the values; NaN where one of its values is NaN.

    Raises
    ------
    ValueError
        When the shapes do not belong together.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import energy_score
    >>> energy_score(np.array([[3.0, 4.0]]), np.zeros((1, 2, 2)))
    array([5.])
    """
    truth, samples = check_samples(truth, samples)
    n_obs, n_samples, n_genes = samples.shape
    y, result = dense(truth, slice(None)), np.empty(n_obs)
    pairs = n_samples * (n_samples - 1) if fair and n_samples > 1 else n_samples**2
    step = max(1, _BLOCK // (n_samples * max(n_genes, n_samples)))
    for start in range(0, n_obs, step):
        rows = slice(start, start + step)
        # From the measured value on: distances between samples then lose no digits to a common level.
        apart = samples[rows] - y[rows, None]
        squares = np.einsum("nsg,nsg->ns", apart, apart)
        between = squares[:, :, None] + squares[:, None] - 2 * apart @ apart.transpose(0, 2, 1)
        between[:, np.arange(n_samples), np.arange(n_samples)] = 0.0
        spread = np.sqrt(np.maximum(between, 0)).sum(axis=(1, 2)) / pairs
        result[rows] = np.sqrt(squares).mean(axis=1) - spread / 2
    return result
