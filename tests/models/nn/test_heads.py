from __future__ import annotations

import pytest
import torch

from stpredict.models import Prediction
from stpredict.models.nn._heads import RegressionHead, regression_loss


def test_head_starts_at_the_training_mean_and_spread() -> None:
    head = RegressionHead(4, 3, heteroscedastic=True)
    mean, std = torch.tensor([1.0, -2.0, 5.0]), torch.tensor([0.5, 1.0, 3.0])
    prediction = head(torch.randn(6, 4), mean, std)
    torch.testing.assert_close(prediction.mean, mean.expand(6, 3))
    torch.testing.assert_close(prediction.std, (1.01 * std).expand(6, 3), rtol=1e-3, atol=1e-3)
    assert RegressionHead(4, 3)(torch.randn(6, 4), mean, std).std is None


def test_output_is_in_units_of_the_target() -> None:
    head = RegressionHead(2, 1, zero_init=False)
    hidden = torch.randn(5, 2)
    raw = hidden @ head.mean.weight.T + head.mean.bias
    torch.testing.assert_close(head(hidden, torch.tensor([3.0]), torch.tensor([2.0])).mean, 3 + 2 * raw)


def test_spread_stays_positive() -> None:
    head = RegressionHead(1, 1, heteroscedastic=True)
    with torch.no_grad():
        head.spread.bias.fill_(-100.0)
    assert head(torch.zeros(1, 1), torch.zeros(1), torch.ones(1)).std.item() == pytest.approx(0.01)


def test_squared_error_in_units_of_the_scale() -> None:
    mean, target = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 12.0]])
    loss = regression_loss(Prediction(mean), target, torch.tensor([1.0, 10.0]))
    assert loss.item() == pytest.approx((4 + 1) / 2)


def test_beta_likelihood_value() -> None:
    """Against torch's Gaussian likelihood, weighted by std ** (2 β) with β = 0.5."""
    generator = torch.Generator().manual_seed(0)
    mean, target = torch.randn(8, 3, generator=generator), torch.randn(8, 3, generator=generator)
    std, scale = torch.rand(8, 3, generator=generator) + 0.2, torch.tensor([1.0, 2.0, 0.5])
    nll = torch.nn.functional.gaussian_nll_loss(mean / scale, target / scale, (std / scale) ** 2, reduction="none")
    expected = (nll * (std / scale)).mean()
    torch.testing.assert_close(regression_loss(Prediction(mean, std=std), target, scale), expected)


def test_beta_likelihood_gradients() -> None:
    """With β = 0.5 the gradient of the mean is the error over the std, and the weight itself carries none."""
    mean = torch.tensor([[0.5]], requires_grad=True)
    std = torch.tensor([[2.0]], requires_grad=True)
    regression_loss(Prediction(mean, std=std), torch.tensor([[1.5]]), torch.ones(1)).backward()
    assert mean.grad.item() == pytest.approx(-1.0 / 2.0)
    assert std.grad.item() == pytest.approx((1 / 2.0 - 1 / 2.0**3) * 2.0)
