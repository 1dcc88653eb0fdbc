from __future__ import annotations

import numpy as np
import torch

from stpredict.models.nn import AboveLowest


def bent(*lowest: float) -> AboveLowest:
    layer = AboveLowest(len(lowest))
    layer.take(torch.tensor(lowest))
    return layer


def test_without_a_lowest_outputs_are_values() -> None:
    outputs = torch.linspace(-50, 50, 21)[:, None].repeat(1, 2)
    fresh = AboveLowest(2)
    assert torch.equal(fresh(outputs), outputs)
    fresh.take(None)
    assert torch.equal(fresh(outputs), outputs)
    assert torch.equal(fresh.shift(outputs, torch.tensor([3.0, -9.0])), torch.zeros(2))
    assert torch.equal(bent(-torch.inf, -torch.inf)(outputs), outputs)


def test_values_are_squares_of_shifted_roots_and_never_below_the_lowest() -> None:
    layer = bent(-4.0, -0.5)
    outputs = torch.linspace(-50, 50, 2001)[:, None].repeat(1, 2)
    values = layer(outputs)
    for column, room in enumerate((4.0, 0.5)):
        root = np.maximum(1 + outputs[:, column].numpy() / (2 * room), 0)
        np.testing.assert_allclose(values[:, column].numpy(), room * (root**2 - 1), rtol=1e-5, atol=1e-5)
        assert float(values[:, column].min()) == -room
        assert (values[:, column].diff() >= 0).all()


def test_small_outputs_stay_and_gradients_are_finite() -> None:
    layer = bent(-4.0, -torch.inf)
    outputs = torch.full((3, 2), 0.01, requires_grad=True)
    values = layer(outputs)
    torch.testing.assert_close(values, outputs, rtol=1e-3, atol=0)
    values.sum().backward()
    torch.testing.assert_close(outputs.grad, torch.tensor([[1 + 0.01 / 8, 1.0]]).repeat(3, 1))


def test_shift_gives_values_the_mean_that_is_asked_for() -> None:
    outputs = torch.from_numpy(np.random.default_rng(0).normal(0, 0.8, (500, 3))).float()
    layer, mean = bent(-4.0, -3.0, -torch.inf), torch.tensor([0.0, 0.4, 7.0])
    moved = layer(outputs + layer.shift(outputs, mean)).mean(dim=0)
    torch.testing.assert_close(moved[:2], mean[:2], rtol=0, atol=1e-4)
    assert float(moved[2]) == float(outputs[:, 2].mean())
