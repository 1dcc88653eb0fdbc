"""How often the partner of a row is among the nearest candidates of a pool."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_BLOCK = 1 << 24  # similarities that are held at once
_MARGIN = 1e-12  # of similarities that count as equal


@dataclass(frozen=True)
class Retrieved:
    """What :func:`retrieve` found of each query.

    Attributes
    ----------
    better, tied
        (n,) other candidates of the pool that are nearer than the partner, and as near.
    pool_size
        (n,) candidates of the pool, the partner among them.
    same_group, same_group_chance
        (n,) share of the nearest candidates (several where they are tied) that are of the group of the query, and the
        share of all candidates that are.
    same_group_wrong, same_group_wrong_chance
        (n,) the same of candidates other than the partner; NaN where there is no other.
    """

    better: np.ndarray
    tied: np.ndarray
    pool_size: np.ndarray
    same_group: np.ndarray
    same_group_chance: np.ndarray
    same_group_wrong: np.ndarray
    same_group_wrong_chance: np.ndarray

    @property
    def rank(self) -> np.ndarray:
        """Rank (n,) of the partner from 1 on, in the middle of those that it is tied with."""
        return 1 + self.better + self.tied / 2

    def hits(self, k: int) -> np.ndarray:
        """Probability (n,) that the partner is among the first `k`, ties broken at random."""
        return np.clip((k - self.better) / (self.tied + 1), 0, 1)


def retrieve(query: Any, candidates: Any, pool: Any = None, group: Any = None) -> Retrieved:
    """Look the partner of each row up among the candidates of its pool, by the cosine.

    Parameters
    ----------
    query, candidates
        (n, d) each; row i of one is the partner of row i of the other.
    pool
        Pool (n,) of each row; one for all when `None`. Time grows with the sum of the squares of their sizes; memory does
        not, similarities are computed a block of rows at a time.
    group
        Group (n,) of each row, such as the donor; one for all when `None`.

    Returns
    -------
    What was found of each row, in their order.
    """
    query, candidates = _directions(query, "queries"), _directions(candidates, "candidates")
    if query.shape != candidates.shape:
        raise ValueError(f"expected queries and candidates of one shape; found {query.shape} and {candidates.shape}")
    n = len(query)
    pools, groups = (_codes(values, n, name) for values, name in ((pool, "pool"), (group, "group")))
    found = np.full((7, n), np.nan)
    for code in np.unique(pools):
        members = np.flatnonzero(pools == code)
        others = candidates[members]
        step = max(1, _BLOCK // len(members))
        for start in range(0, len(members), step):
            rows = members[start : start + step]
            own = np.arange(start, start + len(rows))
            found[:, rows] = _looked_up(query[rows] @ others.T, own, groups[rows, None] == groups[members])
    return Retrieved(found[0].astype(int), found[1].astype(int), found[2].astype(int), *found[3:])


def _looked_up(similarity: np.ndarray, own: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Fields (7, m) of :class:`Retrieved` of some queries; `own` (m,) are the places of their partners."""
    row, size = np.arange(len(own)), similarity.shape[1]
    partner = similarity[row, own]
    # Equal vectors may differ in their last digit where a product is summed in blocks.
    margin = _MARGIN
    better = similarity > partner[:, None] + margin
    tied = (similarity >= partner[:, None] - margin) & ~better
    shares = []
    for wrong in (False, True):
        if wrong:
            similarity[row, own] = -np.inf
        top = similarity >= similarity.max(axis=1, keepdims=True) - margin
        n_others = size - wrong
        n_same = same.sum(axis=1) - wrong
        with np.errstate(invalid="ignore", divide="ignore"):
            shares += [(top & same).sum(axis=1) / top.sum(axis=1), n_same / n_others]
        if not n_others:
            shares[-2:] = [np.full(len(own), np.nan)] * 2
    return np.stack([better.sum(axis=1), tied.sum(axis=1) - 1, np.full(len(own), size), *shares])


def recall_at_k(query: Any, candidates: Any, k: int | Sequence[int] = (1, 5, 10), *, pool: Any = None) -> np.ndarray:
    """Look up each row among the candidates of its pool: is its partner among the `k` nearest by the cosine?

    The pool is fixed by the caller, so that the score does not depend on how rows are divided for the computation, as recall
    within training batches does. Without any information recall is `k` over the size of the pool; rows that are all alike
    reach exactly that, as ties are broken by their expectation.

    Parameters
    ----------
    query, candidates
        (n, d) each; row i of one is the partner of row i of the other. Their lengths do not matter.
    k
        Numbers of nearest candidates.
    pool
        Pool (n,) of each row; one for all when `None`. Time grows with the sum of the squares of the sizes of the pools.

    Returns
    -------
    Hits (n, n_k) between 0 and 1: the probability that the partner of a row is among the `k` nearest.

    Raises
    ------
    ValueError
        When shapes differ, values are not finite, or a `k` is below 1.

    Examples
    --------
    >>> import numpy as np
    >>> from stpredict.metrics import recall_at_k
    >>> rows = np.random.default_rng(0).normal(size=(200, 8))
    >>> recall_at_k(rows, rows + 0.1, [1]).mean().round(2), recall_at_k(rows, np.ones((200, 8)), [1, 5]).mean(axis=0)
    (np.float64(1.0), array([0.005, 0.025]))
    """
    numbers = [k] if isinstance(k, int | np.integer) else list(k)
    if not numbers or min(numbers) < 1:
        raise ValueError(f"expected k of at least 1; found {k!r}")
    found = retrieve(query, candidates, pool)
    return np.stack([found.hits(number) for number in numbers], axis=1)


def _directions(values: Any, what: str) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"expected {what} of shape (n, d) with at least one row; found {values.shape}")
    values = values.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite {what}; found NaN or infinity; leave these rows out")
    length = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(length > 0, length, 1)


def _codes(values: Any, n: int, name: str) -> np.ndarray:
    if values is None:
        return np.zeros(n, dtype=np.int64)
    values = np.asarray(values)
    if values.shape != (n,):
        raise ValueError(f"expected one {name} per row ({n}); found shape {values.shape}")
    return np.unique(values, return_inverse=True)[1]
