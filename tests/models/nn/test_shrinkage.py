"""Predictions that are pulled towards the mean."""

from __future__ import annotations

import numpy as np
import torch

from stpredict.models.nn._shrinkage import SMALLEST, Shrinkage, pooled

N, GENES = 300, 5


def pairs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Predictions of which the truth holds -0.5, 0.2, 0.6 and 1.5 times the map, beside levels of the sections; a constant."""
    rng = np.random.default_rng(seed)
    section = np.arange(N) % 3
    level = 10.0 * section[:, None] * rng.normal(size=(2, 1, GENES))
    x = rng.normal(size=(N, GENES))
    x[:, 4] = 0
    y = x * [-0.5, 0.2, 0.6, 1.5, 1] + rng.normal(size=(N, GENES)) / 5
    arrays = (x + level[0], y + level[1], section)
    return tuple(torch.from_numpy(values) for values in arrays)  # type: ignore[return-value]


def test_slopes_are_those_within_sections_and_stay_between_the_least_and_1() -> None:
    predicted, truth, section = pairs()
    shrinkage = Shrinkage(GENES)
    assert not shrinkage.known
    shrinkage.fit([(predicted, truth, section)], "held-out")
    x, y = predicted.numpy(), truth.numpy()
    for number in range(3):
        rows = section.numpy() == number
        x[rows] -= x[rows].mean(axis=0)
        y[rows] -= y[rows].mean(axis=0)
    expected = np.array([(a @ b) / (a @ a) for a, b in zip(x.T[:4], y.T[:4], strict=True)])
    assert expected[0] < 0
    assert expected[3] > 1
    found = shrinkage.slope.numpy()
    np.testing.assert_allclose(found[:4], np.clip(expected, SMALLEST, 1), atol=0.02)  # 300 spots: hardly pulled
    assert expected[:4].min() < found[4] < expected[:4].max()  # a constant takes the mean of the others
    assert shrinkage.known
    assert shrinkage.fitted_on == "held-out"


def test_noise_of_few_spots_has_small_slopes() -> None:
    rng = np.random.default_rng(0)
    truth = rng.poisson(0.1, (25, 400)) * 1.0  # many genes were seen once or never
    predicted = rng.poisson(0.1, (25, 400)) / 3
    shrinkage = Shrinkage(400)
    shrinkage.fit([(torch.from_numpy(predicted), torch.from_numpy(truth), torch.zeros(25))], "held-out")
    x, y = predicted - predicted.mean(axis=0), truth - truth.mean(axis=0)
    alone = (x * y).sum(axis=0) / np.maximum((x * x).sum(axis=0), 1e-12)
    assert np.clip(alone, 0, 1).mean() > 0.1
    assert shrinkage.slope.max() < 0.1


def test_pooled_slopes_are_nearly_as_near_to_the_truth_as_if_their_spread_were_known() -> None:
    rng = np.random.default_rng(1)
    variance = rng.uniform(0.005, 0.3, 2000)
    for mean, spread in ((0.4, 0.15), (0.1, 0.05), (0.0, 0.0)):
        truth = rng.normal(mean, spread, 2000)
        seen = rng.normal(truth, np.sqrt(variance))
        found = pooled(torch.from_numpy(seen), torch.from_numpy(variance)).numpy()
        ideal = (seen * spread**2 + mean * variance) / (variance + spread**2)
        errors = [np.square(values - truth).mean() for values in (seen, ideal, found)]
        assert errors[2] < errors[1] + 0.02 * errors[0]


def test_of_what_nothing_is_known() -> None:
    unknown = torch.full((3,), torch.inf)
    assert pooled(torch.tensor([0.3, 0.7, 0.1]), unknown).eq(0).all()
    one = pooled(torch.tensor([0.3, 0.7, 0.1]), torch.tensor([torch.inf, 0.2, torch.inf]))
    torch.testing.assert_close(one, torch.full((3,), 0.7))


def test_parts_change_nothing() -> None:
    whole, parts = Shrinkage(GENES), Shrinkage(GENES)
    whole.fit([pairs()], "held-out")
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    parts.fit(zip(*(values[order].split(70) for values in pairs()), strict=True), "held-out")
    torch.testing.assert_close(whole.slope, parts.slope)


def test_values_move_towards_the_center_in_their_order() -> None:
    shrinkage = Shrinkage(2)
    shrinkage.center = torch.tensor([1.0, 2.0])
    shrinkage.slope = torch.tensor([0.5, SMALLEST])
    moved = shrinkage(torch.tensor([[3.0, 12.0], [-1.0, 2.0]]))
    torch.testing.assert_close(moved, torch.tensor([[2.0, 2.1], [0.0, 2.0]]))
