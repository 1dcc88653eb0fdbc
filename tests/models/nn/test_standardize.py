from __future__ import annotations

import torch

from stpredict.models.nn._standardize import Standardize


def taken() -> Standardize:
    layer = Standardize(3)
    layer.take(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 0.0, 1e-30]))
    return layer


def test_what_was_constant_becomes_zero_whatever_it_is_later() -> None:
    values = torch.tensor([[3.0, 2.0, 3.0], [1.0, 1e6, 3.0], [1.0, -3e38, 3.0]])
    torch.testing.assert_close(taken()(values)[:, :2], torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 0.0]]))
    assert all(value.isfinite().all() for value in taken().state_dict().values())


def test_gradients_of_constants_are_zero_and_finite() -> None:
    values = torch.tensor([[3.0, 7.0, 3.0]], requires_grad=True)
    taken()(values)[:, :2].sum().backward()
    assert values.grad[:, :2].tolist() == [[0.5, 0.0]]


def test_values_pass_until_there_are_statistics() -> None:
    values = torch.randn(4, 3)
    torch.testing.assert_close(Standardize(3)(values), values)
