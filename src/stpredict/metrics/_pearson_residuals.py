"""Pearson residuals of counts: how far each count is from that of a constant proportion, in units of its noise."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.core._file_rows import in_files
from stpredict.core._moments import row_slices
from stpredict.core._validate import check_positive

_BLOCK = 2**18  # numbers worked on at a time, which stay in the cache of a processor


def pearson_residuals(
    counts: Any,
    depth: np.ndarray,
    *,
    theta: float = 100.0,
    clip: float | None = None,
    proportions: np.ndarray | None = None,
) -> np.ndarray:
    r"""Compute the Pearson residuals of counts :cite:p:`lause2021`.

    With the depth :math:`n_i` of an observation and the proportion :math:`p_g` of a gene,

    .. math:: \mu_{ig} = n_i p_g, \qquad z_{ig} = \frac{x_{ig} - \mu_{ig}}{\sqrt{\mu_{ig} + \mu_{ig}^2 / \theta}},

    cut off at ± `clip`. A gene whose proportion is the same everywhere has residuals of mean 0 at any depth: what is left
    is how the proportion of a gene varies, and noise.

    Parameters
    ----------
    counts
        Raw counts `(n, G)`, dense or sparse, of observations of one section.
    depth
        Total counts `(n,)` of each observation, over all genes that were measured.
    theta
        Inverse dispersion of the counts: their variance is taken to be :math:`\mu + \mu^2 / \theta`; infinity for Poisson.
    clip
        Largest residual; the square root of the number of observations when `None`, infinity for none.
    proportions
        Proportion of each gene `(G,)`; by default that over all observations, `counts.sum(0) / depth.sum()`.

    Returns
    -------
    Residuals `(n, G)` float32, dense. Genes of proportion 0 and observations of depth 0 have 0; an observation whose
    depth is NaN has NaN.

    Raises
    ------
    ValueError
        When the shapes do not fit, or a parameter is not positive.

    Examples
    --------
    >>> import numpy as np, stpredict as stp
    >>> counts = np.array([[8.0, 2.0], [40.0, 60.0]])
    >>> stp.metrics.pearson_residuals(counts, counts.sum(axis=1), theta=np.inf).round(1)
    array([[ 1.4, -1.4],
           [-0.6,  0.5]], dtype=float32)
    """
    from scipy import sparse

    depth = np.asarray(depth, dtype=np.float64).ravel()
    n_obs, n_genes = counts.shape
    if depth.shape != (n_obs,):
        raise ValueError(f"expected one depth for each of {n_obs} observations; found {depth.shape}")
    if not theta > 0:
        raise ValueError(f"expected theta to be a positive number, or infinity; found {theta!r}")
    limit = np.sqrt(max(n_obs, 1)) if clip is None else clip if clip == np.inf else check_positive(clip, "clip")
    share = proportions_of(counts, depth) if proportions is None else np.asarray(proportions, dtype=np.float64)
    if share.shape != (n_genes,):
        raise ValueError(f"expected one proportion for each of {n_genes} genes; found {share.shape}")
    rows: Any = counts.tocsr() if sparse.issparse(counts) else np.asarray(counts)
    result = np.empty((n_obs, n_genes), dtype=np.float32)
    step = max(_BLOCK // max(n_genes, 1), 1)
    for start in range(0, n_obs, step):
        part = rows[start : start + step]
        # In float64, part by part: the difference of large numbers is small.
        found = part.toarray().astype(np.float64) if sparse.issparse(part) else part.astype(np.float64)
        expected = depth[start : start + step, None] * share
        found -= expected
        found /= np.sqrt(np.where(expected == 0, 1.0, expected + expected**2 / theta))
        found[expected == 0] = 0
        result[start : start + step] = np.clip(found, -limit, limit, out=found)
    return result


def proportions_of(counts: Any, depth: np.ndarray) -> np.ndarray:
    """Share of each gene (G,) in all counts of observations (n, G) of a depth (n,); 0 where there are none."""
    total = float(np.nansum(depth))
    known = np.isfinite(depth)
    if in_files(counts):
        found = [counts[part][known[part]].sum(axis=0, dtype=np.float64) for part in row_slices(len(counts))]
        sums = np.sum(found, axis=0) if found else np.zeros(counts.shape[1])
    else:
        sums = np.asarray((counts if known.all() else counts[known]).sum(axis=0, dtype=np.float64)).ravel()
    return sums / total if total > 0 else np.zeros_like(sums)
