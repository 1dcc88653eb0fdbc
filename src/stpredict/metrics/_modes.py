"""Waves of a section: orthogonal maps from coarse to fine, in which a smooth field has its variance in the coarse ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import spmatrix

_DENSE_UP_TO = 1500  # observations; a full decomposition of more is slower than the search for some of the modes
_ZERO = 1e-9  # eigenvalues of levels of pieces
_SAME = 1e-6  # difference of eigenvalues that rounding leaves
MOST_MODES = 400


def spatial_modes(weights: spmatrix, n_modes: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Compute the smoothest orthogonal maps on a graph: eigenvectors of its Laplacian.

    On a rectangle these are the cosines of a Fourier series. The constant map is not among them.

    Parameters
    ----------
    weights
        Neighbors `(n, n)` of each observation of a section, sparse; taken as links in both directions.
    n_modes
        Number of modes; when `None` half of the observations, at most 400.

    Returns
    -------
    Modes `(n, k)` float32, orthonormal and of mean 0, smoothest first; and a number `(k,)` of the wave that each belongs to:
    modes of one eigenvalue are one wave in several directions, and could as well be any rotation of each other.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.sparse import diags
    >>> modes, _ = spatial_modes(diags([1.0, 1.0], [-1, 1], shape=(6, 6), format="csr"), 2)
    >>> bool((np.diff(modes[:, 0]) * np.sign(modes[-1, 0]) > 0).all())  # half a wave along the chain
    True
    """
    from scipy import linalg, sparse
    from scipy.sparse.linalg import eigsh

    n = weights.shape[0]
    wanted = min(n // 2, MOST_MODES) if n_modes is None else min(n_modes, n - 1)
    links = sparse.csr_array(((weights + weights.T) > 0).astype(np.float64))
    laplacian = sparse.diags_array(np.asarray(links.sum(axis=1)).ravel()) - links
    if n <= _DENSE_UP_TO:
        values, vectors = linalg.eigh(laplacian.toarray(), subset_by_index=[0, wanted])
    else:
        start = np.random.default_rng(0).normal(size=n)
        values, vectors = eigsh(laplacian.tocsc(), wanted + 1, sigma=-1e-3, v0=start)
        order = np.argsort(values, kind="stable")
        values, vectors = values[order], vectors[:, order]
    # In pieces of tissue that no link connects, the constant map is any mixture of the vectors of eigenvalue 0.
    level = values < _ZERO
    pieces = vectors[:, level] - vectors[:, level].mean(axis=0)
    left, size, _ = np.linalg.svd(pieces, full_matrices=False)
    modes = np.column_stack([left[:, size > 0.5], vectors[:, ~level]])
    steps = np.diff(np.concatenate([np.zeros((size > 0.5).sum()), values[~level]]))
    return modes.astype(np.float32), np.concatenate([[0], np.cumsum(steps > _SAME)])
