"""Continuous ranked probability score per gene."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._pairs import check_pair
from stpredict.metrics._samples import check_samples, sample_blocks


def crps(truth: Any, samples: Any, *, fair: bool = True) -> np.ndarray:
    r"""Score samples by the continuous ranked probability score :cite:p:`gneiting2007`, per gene; the lower, the better.

    It is the distance between the distribution of the samples and the measured value, in the unit of both:
    :math:`\mathrm{mean}\,|x_s - y| - \tfrac12\,\mathrm{mean}\,|x_s - x_{s'}|`. A distribution that is too narrow pays for
    its errors, one that is too wide for its width. That of a single value is the absolute error, so that predictions with
    and without samples can be compared.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse.
    samples
        Samples (n_obs, n_samples, n_genes) in the same unit.
    fair
        Whether the second mean leaves out the pairs of a sample with itself :cite:p:`ferro2014`, so that the score does
        not depend on the number of samples but for noise. With one sample there are no others, and it is left out.

    Returns
    -------
    Mean over observations per gene (n_genes,), float64; NaN where truth or samples hold a NaN.

    Raises
    ------
    ValueError
        When the shapes do not belong together.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import crps
    >>> crps(np.array([[1.0]]), np.array([[[0.0], [2.0]]]))
    array([0.])
    >>> crps(np.array([[1.0]]), np.array([[[0.0], [2.0]]]), fair=False)
    array([0.5])
    """
    truth, samples = check_samples(truth, samples)
    n_samples = samples.shape[1]
    result = np.full(truth.shape[1], np.nan)
    if not len(samples):
        return result
    # Of sorted values, the sum over pairs of what is between them weighs each by how many lie below and above.
    weight = 2 * np.arange(1, n_samples + 1) - n_samples - 1.0
    pairs = n_samples * (n_samples - 1) if fair and n_samples > 1 else n_samples**2
    for genes, y, x in sample_blocks(truth, samples):
        error = np.abs(x - y[:, None]).mean(axis=(0, 1))
        x.sort(axis=1)
        result[genes] = error - np.einsum("s,nsg->g", weight, x) / (pairs * len(x))
    return result


def crps_normal(truth: Any, mean: Any, std: Any) -> np.ndarray:
    """Score normal distributions by the continuous ranked probability score :cite:p:`gneiting2007`, per gene.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse.
    mean, std
        Predicted mean and standard deviation of the same shape, in the same unit.

    Returns
    -------
    Mean over observations per gene (n_genes,), float64; NaN where a value is NaN or a standard deviation is negative. Where it
    is 0, the absolute error.

    Raises
    ------
    ValueError
        When the shapes differ or are not two-dimensional.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import crps_normal
    >>> crps_normal(np.array([[0.0]]), np.array([[0.0]]), np.array([[1.0]])).round(4)
    array([0.2337])
    """
    from scipy.special import ndtr

    truth, mean = check_pair(truth, mean)
    std = np.asarray(check_pair(truth, std)[1], dtype=np.float64)
    error = np.asarray(truth.toarray() if hasattr(truth, "toarray") else truth, dtype=np.float64) - mean
    z = np.divide(error, std, out=np.zeros_like(error), where=std > 0)
    density = np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)
    scores = error * (2 * ndtr(z) - 1) + std * (2 * density - 1 / np.sqrt(np.pi))
    scores = np.where(std > 0, scores, np.where(std == 0, np.abs(error), np.nan))
    return scores.mean(axis=0) if len(scores) else np.full(scores.shape[1], np.nan)
