"""How far batches lie apart: loops, extremes, and the robustness index."""

from __future__ import annotations

import numpy as np
import pytest

from stpredict.metrics import batch_mixing, batch_variance, robustness_index


def rows(n: int = 90, shift: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 3, n)
    return rng.normal(size=(n, 4)) + shift * batch[:, None], batch


def nearest(values: np.ndarray, i: int, k: int) -> np.ndarray:
    distance = np.linalg.norm(values - values[i], axis=1)
    distance[i] = np.inf
    return np.argsort(distance)[:k]


def test_equals_a_loop() -> None:
    values, batch = rows()
    found = batch_mixing(values, batch, n_neighbors=7)
    n = len(values)
    for i in range(0, n, 5):
        near = batch[nearest(values, i, 7)]
        others = (batch != batch[i]).sum() / (n - 1)
        np.testing.assert_allclose(found["mixing"][i], np.mean(near != batch[i]) / others)
        inverse = [1 / sum(np.mean(of == code) ** 2 for code in range(3)) for of in (near, batch)]
        np.testing.assert_allclose(found["lisi"][i], (inverse[0] - 1) / (inverse[1] - 1))
        far = [
            np.linalg.norm(values[(batch == code) & (np.arange(n) != i)] - values[i], axis=1).mean()
            for code in range(3)
        ]
        own, other = far[batch[i]], min(far[code] for code in range(3) if code != batch[i])
        np.testing.assert_allclose(found["silhouette"][i], (other - own) / max(other, own))


def test_mixed_and_apart() -> None:
    mixed, apart = (batch_mixing(*rows(600, shift)) for shift in (0.0, 50.0))
    assert abs(mixed["mixing"].mean() - 1) < 0.05
    assert 0.9 < mixed["lisi"].mean() < 1.05
    assert abs(mixed["silhouette"].mean()) < 0.05
    assert apart["mixing"].max() == 0
    assert apart["lisi"].max() == 0
    assert apart["silhouette"].min() > 0.9


def test_rows_that_are_alike_are_mixed() -> None:
    """Every row has others at distance 0: it is not its own neighbor."""
    batch = np.arange(40) % 2
    found = batch_mixing(np.zeros((40, 3)), batch, n_neighbors=39)
    np.testing.assert_allclose(found["mixing"], 1)


def test_one_batch_and_batches_of_one() -> None:
    values, _ = rows(20)
    assert all(np.isnan(of).all() for of in batch_mixing(values, np.zeros(20)).values())
    single = batch_mixing(values, np.arange(20), n_neighbors=50)
    np.testing.assert_array_equal(single["silhouette"], 0)
    np.testing.assert_allclose(single["mixing"], 1)


def test_share_of_variance() -> None:
    values, batch = rows()
    between = sum((batch == c).sum() * ((values[batch == c].mean(0) - values.mean(0)) ** 2).sum() for c in range(3))
    np.testing.assert_allclose(batch_variance(values, batch), between / ((values - values.mean(0)) ** 2).sum())
    shuffled = [batch_variance(values, np.random.default_rng(seed).permutation(batch)) for seed in range(300)]
    assert abs(np.mean(shuffled) - 2 / 89) < 0.003
    assert np.isnan(batch_variance(np.ones((5, 2)), np.arange(5)))


def test_robustness_index_equals_a_loop() -> None:
    values, batch = rows()
    label = np.random.default_rng(3).integers(0, 2, len(values))
    so = os = 0
    for i in range(len(values)):
        near = nearest(values, i, 9)
        so += ((label[near] == label[i]) & (batch[near] != batch[i])).sum()
        os += ((label[near] != label[i]) & (batch[near] == batch[i])).sum()
    assert robustness_index(values, label, batch, n_neighbors=9) == so / (so + os)


def test_robustness_index_of_what_knows_neither_is_chance() -> None:
    rng = np.random.default_rng(4)
    values, label, batch = rng.normal(size=(2000, 3)), rng.integers(0, 2, 2000), rng.integers(0, 2, 2000)
    assert abs(robustness_index(values, label, batch) - 0.5) < 0.02
    assert np.isnan(robustness_index(values, np.zeros(2000), np.zeros(2000)))


@pytest.mark.parametrize("measure", [batch_mixing, batch_variance, lambda v, b: robustness_index(v, b, b)])
def test_what_cannot_be_compared_is_refused(measure) -> None:
    with pytest.raises(ValueError, match="three rows"):
        measure(np.ones((2, 2)), [0, 1])
    with pytest.raises(ValueError, match="per row"):
        measure(np.ones((4, 2)), [0, 1])
    with pytest.raises(ValueError, match="finite"):
        measure(np.full((4, 2), np.nan), [0, 1, 0, 1])
