"""Neighbor weights between observations of one section."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def spatial_weights(xy_um: np.ndarray, n_neighbors: int = 15) -> csr_matrix:
    """Connect each observation to its nearest neighbors with weight 1.

    Parameters
    ----------
    xy_um
        Positions `(n, 2)` in µm. Any unit that is the same along x and y gives the same neighbors.
    n_neighbors
        Neighbors of each observation, at most `n - 1`.

    Returns
    -------
    Weights `(n, n)`: row i holds a 1 for each neighbor of observation i, never for itself. The relation is not
    symmetric: an observation at the edge has neighbors that do not count it among theirs.

    Raises
    ------
    ValueError
        When the positions have another shape, are not finite, or are fewer than two.

    Examples
    --------
    >>> import numpy as np
    >>> spatial_weights(np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]]), n_neighbors=1).toarray()
    array([[0., 1., 0.],
           [1., 0., 0.],
           [0., 1., 0.]])
    """
    from scipy.sparse import csr_matrix
    from scipy.spatial import cKDTree

    xy_um = np.asarray(xy_um, dtype=float)
    if xy_um.ndim != 2 or xy_um.shape[1] != 2:
        raise ValueError(f"expected positions of shape (n, 2); found {xy_um.shape}")
    if not np.isfinite(xy_um).all():
        raise ValueError("expected finite positions; found NaN or infinity; drop these observations first")
    n = len(xy_um)
    if n < 2 or n_neighbors < 1:
        raise ValueError(f"expected at least 2 observations and 1 neighbor; found {n} and {n_neighbors}")
    k = min(int(n_neighbors), n - 1)
    _, nearest = cKDTree(xy_um).query(xy_um, k=k + 1)
    # Where positions coincide, an observation need not come first in its own list, or be in it at all.
    is_self = nearest == np.arange(n)[:, None]
    is_self[~is_self.any(axis=1), -1] = True
    neighbors = nearest[~is_self]
    weights = csr_matrix((np.ones(n * k), neighbors, np.arange(0, n * k + 1, k)), shape=(n, n))
    weights.sort_indices()
    return weights
