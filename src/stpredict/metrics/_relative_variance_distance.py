"""Relative variance distance per gene."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._pairs import center
from stpredict.metrics._samples import check_samples, sample_blocks


def relative_variance_distance(truth: Any, predicted: Any) -> np.ndarray:
    r"""Squared relative error of the variance over observations, :math:`(\hat\sigma^2 - \sigma^2)^2 / \sigma^4`, per gene.

    Its mean over genes is the distance of :cite:t:`zhu2025`, who take it on the mean of the samples of each observation. A mean
    varies less than what it is the mean of, so that a perfect model would have a distance above 0: take it on samples to
    judge a model that draws them, and on means to compare with models that draw none, and with published numbers.

    Parameters
    ----------
    truth
        Measured expression (n_obs, n_genes), dense or sparse.
    predicted
        Samples (n_obs, n_samples, n_genes), whose variance over observations is averaged over the samples, or means
        (n_obs, n_genes), in the same unit.

    Returns
    -------
    Distance per gene (n_genes,), float64: 0 for the right variance, 1 for a constant prediction. NaN where the truth is
    constant (up to rounding of its dtype), and where a value is NaN.

    Raises
    ------
    ValueError
        When the shapes do not belong together.
    TypeError
        When the values are not real numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import relative_variance_distance
    >>> truth = np.array([[0.0], [2.0]])
    >>> (
    ...     relative_variance_distance(truth, truth / 2),
    ...     relative_variance_distance(truth, np.stack([truth, -truth], axis=1)),
    ... )
    (array([0.5625]), array([0.]))
    """
    truth, samples = check_samples(truth, predicted, means=True)
    result = np.full(truth.shape[1], np.nan)
    if len(samples) < 2:
        return result
    for genes, y, x in sample_blocks(truth, samples):
        variance = center(y, truth.dtype)[1] / len(y)
        found = x.var(axis=0).mean(axis=0)
        ratio = np.divide(found, variance, out=np.full(len(found), np.nan), where=variance > 0)
        result[genes] = (ratio - 1) ** 2
    return result
