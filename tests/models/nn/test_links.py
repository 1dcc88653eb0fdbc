"""Links between outputs and values with a range."""

from __future__ import annotations

import pytest
import torch

from stpredict.models.nn._links import LINKS, SHARE


def drawn(link: str, n: int = 300, k: int = 4, seed: int = 0) -> torch.Tensor:
    """Values of a range, a third of them at its lower end."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.rand((n, k), generator=generator, dtype=torch.float64) * torch.linspace(0.2, 1, k)
    values[torch.rand((n, k), generator=generator) < 0.3] = 0
    values[:, -1] += 1e-3
    return values / values.sum(dim=1, keepdim=True) if link == "softmax" else values.clamp_max(1)


@pytest.mark.parametrize("link", LINKS)
def test_values_are_in_range_whatever_the_outputs(link: str) -> None:
    outputs = torch.linspace(-60, 60, 40).reshape(-1, 4)
    values = LINKS[link].values(outputs)
    assert bool((values >= 0).all())
    if link != "log":
        assert bool((values <= 1).all())
    if link == "softmax":
        torch.testing.assert_close(values.sum(dim=1), torch.ones(10))


@pytest.mark.parametrize("link", LINKS)
def test_inverse_undoes_the_link(link: str) -> None:
    values = drawn(link).clamp_min(1e-3)
    values = values / values.sum(dim=1, keepdim=True) if link == "softmax" else values.clamp_max(0.999)
    torch.testing.assert_close(LINKS[link].values(LINKS[link].inverse(values)), values, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("link", LINKS)
def test_outputs_of_the_ends_of_the_range_are_finite_and_ordered(link: str) -> None:
    values = drawn(link)
    mean = values.mean(dim=0)
    outputs = LINKS[link].outputs(values, mean)
    assert bool(outputs.isfinite().all())
    zero, more = outputs[values[:, 0] == 0, 0], outputs[values[:, 0] > 2 * SHARE * mean[0], 0]
    assert float(zero.median()) < float(more.median())
    # What least squares aim at is nearly the value itself, as far as it lies from the ends.
    near = LINKS[link].values(outputs)
    assert float((near - values).abs().mean()) < SHARE


@pytest.mark.parametrize("link", LINKS)
def test_shift_makes_the_means_agree(link: str) -> None:
    values = drawn(link)
    mean = values.mean(dim=0)
    outputs = LINKS[link].outputs(values, mean) * 0.4 - 1
    before = (LINKS[link].values(outputs).mean(dim=0) - mean).abs().max()
    shift = LINKS[link].shift(outputs, mean)
    after = LINKS[link].values(outputs + shift).mean(dim=0)
    assert float(before) > 0.02
    torch.testing.assert_close(after, mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("link", LINKS)
def test_the_loss_is_least_at_the_mean_and_its_gradient_is_the_error(link: str) -> None:
    values = drawn(link)
    mean = values.mean(dim=0)
    outputs = LINKS[link].inverse(mean).expand_as(values).clone().requires_grad_()
    loss = LINKS[link].loss(outputs, values, mean)
    assert float(loss.detach().min()) > -1e-9 or link == "softmax"  # of fractions, rows are, and not single values
    assert float(loss.detach().sum(dim=1).min()) > -1e-9
    loss.sum().backward()
    assert outputs.grad is not None
    torch.testing.assert_close(outputs.grad.sum(dim=0), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-6)
    unit = {"log": 1 / mean, "logit": torch.ones(4), "softmax": torch.full((4,), 4.0)}[link]
    torch.testing.assert_close(outputs.grad, (mean - values) * unit)
    perfect = LINKS[link].loss(LINKS[link].inverse(values.clamp(1e-9, 1 - 1e-9)), values, mean)
    assert float(perfect.abs().max()) < 1e-4


@pytest.mark.parametrize("link", LINKS)
def test_slope_is_the_derivative(link: str) -> None:
    outputs = torch.linspace(-2, 2, 12, dtype=torch.float64).reshape(3, 4)
    jacobian = torch.autograd.functional.jacobian(LINKS[link].values, outputs)
    own = torch.stack([torch.stack([jacobian[i, j, i, j] for j in range(4)]) for i in range(3)])
    torch.testing.assert_close(LINKS[link].slope(LINKS[link].values(outputs)), own)
