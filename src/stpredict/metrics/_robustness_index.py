"""Whether neighbors agree in biology or in where they come from."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.metrics._batch_mixing import neighbors


def robustness_index(values: Any, label: Any, batch: Any, *, n_neighbors: int = 50) -> float:
    """Weigh neighbors that share biology against neighbors that share the batch :cite:p:`dejong2025`.

    Among the nearest other rows of all rows, those of the same label and another batch are counted (SO), and those of another
    label and the same batch (OS): the index is SO / (SO + OS). Neighbors that share both, or neither, say nothing.

    Parameters
    ----------
    values
        Features (n, d).
    label
        Biological class (n,) of each row. Where labels differ in frequency between batches, so does the index of features
        that know neither: compare with shuffled features of the same rows.
    batch
        Batch (n,) of each row: its donor, its center.
    n_neighbors
        Nearest other rows that are looked at. Time grows with the square of the number of rows, memory does not.

    Returns
    -------
    1 where neighbors share the label and not the batch, 0 where it is the other way round; NaN where no neighbor shares one
    of the two alone.

    Raises
    ------
    ValueError
        When shapes differ, values are not finite, or there are fewer than three rows.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import robustness_index
    >>> label, batch = np.tile([0, 1], 50), np.repeat([0, 1], 50)
    >>> noise = np.random.default_rng(0).normal(0, 0.1, (100, 1))
    >>> [robustness_index(of[:, None] + noise, label, batch, n_neighbors=20) for of in (label, batch)]
    [1.0, 0.0]
    """
    values, label, batch = np.asarray(values, dtype=np.float64), np.asarray(label), np.asarray(batch)
    if values.ndim != 2 or len(values) < 3:
        raise ValueError(f"expected values of shape (n, d) with at least three rows; found {values.shape}")
    if label.shape != (len(values),) or batch.shape != (len(values),):
        raise ValueError(
            f"expected one label and one batch per row ({len(values)}); found shapes {label.shape} and {batch.shape}"
        )
    if not np.isfinite(values).all():
        raise ValueError("expected finite values; found NaN or infinity; leave these rows out")
    near = neighbors(values, n_neighbors)
    same_label, same_batch = label[near] == label[:, None], batch[near] == batch[:, None]
    so, os = int((same_label & ~same_batch).sum()), int((~same_label & same_batch).sum())
    return so / (so + os) if so + os else float("nan")
