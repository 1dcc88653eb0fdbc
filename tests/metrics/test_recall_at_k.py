"""Recall at k: a loop, random embeddings, ties, pools, groups."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict.metrics import _recall_at_k as module
from stpredict.metrics import recall_at_k
from stpredict.metrics._recall_at_k import retrieve


def by_hand(query: np.ndarray, candidates: np.ndarray, k: int, pool: np.ndarray) -> np.ndarray:
    hits = np.zeros(len(query))
    for i in range(len(query)):
        members = [j for j in range(len(query)) if pool[j] == pool[i]]
        cosines = [query[i] @ candidates[j] / np.linalg.norm(query[i]) / np.linalg.norm(candidates[j]) for j in members]
        order = sorted(range(len(members)), key=lambda at: -cosines[at])
        hits[i] = members.index(i) in order[:k]
    return hits


@pytest.mark.parametrize("k", [1, 3, 100])
@pytest.mark.parametrize("block", [1, 7, 1 << 20])
def test_equals_a_loop_whatever_the_block(k: int, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", block)
    rng = np.random.default_rng(0)
    query = rng.normal(size=(40, 5))
    candidates, pool = query + rng.normal(size=(40, 5)), rng.integers(0, 3, 40)
    np.testing.assert_array_equal(
        recall_at_k(query, candidates, k, pool=pool)[:, 0], by_hand(query, candidates, k, pool)
    )


def test_random_embeddings_reach_k_over_the_pool() -> None:
    n, size, repeats = 600, 200, 25
    pool = np.repeat(np.arange(n // size), size)
    found = []
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        found.append(
            recall_at_k(rng.normal(size=(n, 16)), rng.normal(size=(n, 16)), [1, 5, 10], pool=pool).mean(axis=0)
        )
    chance = np.array([1, 5, 10]) / size
    assert (np.abs(np.mean(found, axis=0) - chance) < 3 * np.sqrt(chance * (1 - chance) / (n * repeats))).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_is_all_alike_reaches_chance_exactly(dtype: type) -> None:
    same = np.full((30, 900), 0.1, dtype=dtype)
    np.testing.assert_allclose(recall_at_k(same, same, [1, 5, 40]), np.tile([1 / 30, 5 / 30, 1], (30, 1)))
    np.testing.assert_allclose(retrieve(same, same).rank, 15.5)
    np.testing.assert_allclose(recall_at_k(0 * same, same, 5), 5 / 30)


def test_lengths_do_not_matter_and_order_of_rows_neither() -> None:
    rng = np.random.default_rng(2)
    query, candidates, pool = rng.normal(size=(60, 4)), rng.normal(size=(60, 4)), rng.integers(0, 2, 60)
    found = recall_at_k(query, candidates, [1, 5], pool=pool)
    scaled = recall_at_k(query * rng.uniform(0.1, 9, (60, 1)), candidates * 7, [1, 5], pool=pool)
    np.testing.assert_array_equal(scaled, found)
    order = rng.permutation(60)
    np.testing.assert_array_equal(recall_at_k(query[order], candidates[order], [1, 5], pool=pool[order]), found[order])


def test_groups_of_the_nearest() -> None:
    """Four rows in two groups, each nearest to its partner, then to the other of its group or of the other group."""
    angle = np.deg2rad([0, 10, 90, 105])
    rows = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    found = retrieve(rows, rows, group=list("aabb"))
    np.testing.assert_array_equal(found.better, 0)
    np.testing.assert_array_equal(found.same_group, 1)
    np.testing.assert_array_equal(found.same_group_wrong, 1)
    np.testing.assert_allclose(found.same_group_chance, 0.5)
    np.testing.assert_allclose(found.same_group_wrong_chance, 1 / 3)
    mixed = retrieve(rows, rows, group=list("abab"))
    np.testing.assert_array_equal(mixed.same_group, 1)  # the partner
    np.testing.assert_array_equal(mixed.same_group_wrong, 0)
    alone = retrieve(rows, rows, pool=np.arange(4))
    np.testing.assert_array_equal(alone.hits(1), 1)
    assert np.isnan(alone.same_group_wrong).all()


def test_what_cannot_be_compared_is_refused() -> None:
    rows = np.ones((4, 2))
    with pytest.raises(ValueError, match="one shape"):
        recall_at_k(rows, np.ones((4, 3)))
    with pytest.raises(ValueError, match="finite"):
        recall_at_k(rows, rows * np.nan)
    with pytest.raises(ValueError, match="one pool per row"):
        recall_at_k(rows, rows, pool=[0, 1])
    with pytest.raises(ValueError, match="at least 1"):
        recall_at_k(rows, rows, 0)
