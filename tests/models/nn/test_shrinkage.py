"""Predictions that are pulled towards the mean."""

from __future__ import annotations

import numpy as np
import torch

from stpredict.models.nn._shrinkage import SMALLEST, Shrinkage

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
    expected = [(a @ b) / (a @ a) for a, b in zip(x.T[:4], y.T[:4], strict=True)]
    assert expected[0] < 0
    assert expected[3] > 1
    np.testing.assert_allclose(shrinkage.slope, [*np.clip(expected, SMALLEST, 1), 1.0], rtol=1e-5)
    assert shrinkage.known
    assert shrinkage.fitted_on == "held-out"


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
