"""How far rows of different batches lie apart."""

from __future__ import annotations

from typing import Any

import numpy as np


def batch_mixing(values: Any, batch: Any, *, n_neighbors: int = 30) -> dict[str, np.ndarray]:
    """Tell for each row how far the batches lie apart around it.

    Parameters
    ----------
    values
        Features or predictions (n, d).
    batch
        Batch (n,) of each row: its donor, its section.
    n_neighbors
        Nearest other rows that are looked at, fewer where there are fewer rows. Time grows with the square of the number of
        rows, memory does not: pass a sample of rows.

    Returns
    -------
    Arrays (n,) by name; NaN with a single batch.

    - `silhouette`: that of the batches :cite:p:`rousseeuw1987`: 1 where a row lies among its own batch and far from others,
      0 where batches overlap. A row that is alone in its batch has 0.
    - `mixing`: neighbors of other batches, over their number if all rows were mixed at random: 1 for perfect mixing, 0 where
      a row is among its own batch only.
    - `lisi`: effective number of batches among the neighbors (inverse Simpson index) over that of all rows, both less 1:
      1 for perfect mixing, 0 where all neighbors are of one batch. After :cite:t:`korsunsky2019`, with all neighbors
      weighing the same.

    Raises
    ------
    ValueError
        When shapes differ, values are not finite, or there are fewer than three rows.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import batch_mixing
    >>> rng = np.random.default_rng(0)
    >>> batch, rows = np.repeat([0, 1], 100), rng.normal(size=(200, 3))
    >>> apart = batch_mixing(rows + 9 * batch[:, None], batch)
    >>> bool(batch_mixing(rows, batch)["mixing"].mean() > 0.9), bool(apart["mixing"].mean() < 0.1)
    (True, True)
    """
    from sklearn.metrics import silhouette_samples

    values, codes, counts = _checked(values, batch)
    n = len(values)
    if len(counts) < 2:
        return {name: np.full(n, np.nan) for name in ("silhouette", "mixing", "lisi")}
    near = codes[neighbors(values, n_neighbors)]
    expected = (n - counts[codes]) / (n - 1)
    share = counts / n
    composition = np.stack([(near == code).mean(axis=1) for code in range(len(counts))], axis=1)
    silhouette = np.zeros(n)
    if len(counts) < n:  # otherwise every row is alone
        silhouette = silhouette_samples(values, codes)
    return {
        "silhouette": silhouette,
        "mixing": (near != codes[:, None]).mean(axis=1) / expected,
        "lisi": (1 / (composition**2).sum(axis=1) - 1) / (1 / (share**2).sum() - 1),
    }


def batch_variance(values: Any, batch: Any) -> float:
    """Share of the variance of all columns together that lies between batches.

    Of the principal components it is the same as of the columns: the measure is that of a regression of the components on
    the batch, weighted by their variances :cite:p:`buttner2019`. Labels without information reach about the number of
    batches less 1, over the number of rows less 1.

    Parameters
    ----------
    values
        Features or predictions (n, d).
    batch
        Batch (n,) of each row.

    Returns
    -------
    Between 0 and 1; NaN where nothing varies.

    Raises
    ------
    ValueError
        When shapes differ, values are not finite, or there are fewer than three rows.

    Examples
    --------
    >>> from stpredict.metrics import batch_variance
    >>> batch_variance([[0.0], [0.0], [1.0], [1.0]], list("aabb"))
    1.0
    """
    values, codes, counts = _checked(values, batch)
    values = values - values.mean(axis=0)
    total = float((values**2).sum())
    sums = np.zeros((len(counts), values.shape[1]))
    np.add.at(sums, codes, values)
    return float((sums**2 / counts[:, None]).sum() / total) if total > 0 else float("nan")


def neighbors(values: np.ndarray, n_neighbors: int) -> np.ndarray:
    """Nearest other rows (n, k) of each row (n, d); all others where there are no more than `n_neighbors`."""
    from sklearn.neighbors import NearestNeighbors

    k = min(n_neighbors, len(values) - 1)
    # Without a query, no row is its own neighbor, also where several are alike.
    return NearestNeighbors(n_neighbors=k).fit(values).kneighbors(return_distance=False)


def _checked(values: Any, batch: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values (n, d), code (n,) of each row and number of rows of each code."""
    values, batch = np.asarray(values, dtype=np.float64), np.asarray(batch)
    if values.ndim != 2 or len(values) < 3:
        raise ValueError(f"expected values of shape (n, d) with at least three rows; found {values.shape}")
    if batch.shape != (len(values),):
        raise ValueError(f"expected one batch per row ({len(values)}); found shape {batch.shape}")
    if not np.isfinite(values).all():
        raise ValueError("expected finite values; found NaN or infinity; leave these rows out")
    codes, counts = np.unique(batch, return_inverse=True, return_counts=True)[1:]
    return values, codes, counts
