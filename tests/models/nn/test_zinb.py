"""Zero-inflated negative binomial counts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from stpredict.models.nn._zinb import ZINBHead, zinb_loss


def reference(counts, mean, dispersion, zero):
    """Mixture of scipy's negative binomial and extra zeros."""
    probability = (1 - zero) * stats.nbinom.pmf(counts, dispersion, dispersion / (dispersion + mean))
    return -np.log(np.where(counts == 0, zero + probability, probability)).mean()


def test_equals_scipy():
    rng = np.random.default_rng(0)
    mean, dispersion = rng.gamma(1, 8, (40, 7)) + 1e-3, rng.gamma(1, 3, (40, 7)) + 1e-2
    zero = rng.uniform(0.01, 0.9, (40, 7))
    counts = rng.negative_binomial(dispersion, dispersion / (dispersion + mean)) * (rng.random((40, 7)) > zero)
    assert (counts == 0).any()
    assert (counts > 20).any()
    ours = zinb_loss(
        *(torch.tensor(v, dtype=torch.float64) for v in (counts, mean, dispersion, np.log(zero / (1 - zero))))
    )
    np.testing.assert_allclose(float(ours), reference(counts, mean, dispersion, zero), rtol=1e-9)


@pytest.mark.parametrize("count", [0.0, 1.0, 1e6])
@pytest.mark.parametrize("mean", [1e-5, 1.0, 1e6])
@pytest.mark.parametrize("dispersion", [1e-4, 1e4])
@pytest.mark.parametrize("logit", [-60.0, 0.0, 60.0])
def test_finite_with_finite_gradients_at_the_bounds(count, mean, dispersion, logit):
    values = [torch.tensor([[v]], requires_grad=True) for v in (mean, dispersion, logit)]
    loss = zinb_loss(torch.tensor([[count]]), *values)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(v.grad).all() for v in values)


def test_head_stays_within_its_bounds_for_any_input():
    torch.manual_seed(0)
    head = ZINBHead(4, 3)
    hidden = torch.randn(5, 4) * 1e4
    hidden.requires_grad_()
    zinb = head(hidden)
    assert (zinb.mean > 0).all()
    assert (zinb.mean <= 1.001e6).all()
    assert (zinb.dispersion >= 1e-4).all()
    assert (zinb.dispersion <= 1e4).all()
    zinb_loss(torch.tensor([[0.0, 3.0, 1e5]]).expand(5, 3), *zinb).backward()
    assert torch.isfinite(hidden.grad).all()


def test_recovers_the_mean_and_the_share_of_zeros():
    rng = np.random.default_rng(1)
    n, mean, dispersion, zero = 4000, 6.0, 2.0, 0.3
    counts = rng.negative_binomial(dispersion, dispersion / (dispersion + mean), (n, 1)) * (rng.random((n, 1)) > zero)
    parameters = torch.tensor([0.0, 0.0, 0.0], requires_grad=True)
    optimizer = torch.optim.LBFGS([parameters], max_iter=60)

    def closure():
        optimizer.zero_grad()
        loss = zinb_loss(torch.tensor(counts).float(), parameters[0].exp(), parameters[1].exp(), parameters[2])
        loss.backward()
        return loss

    optimizer.step(closure)
    assert float(parameters[0].detach().exp()) == pytest.approx(mean, rel=0.1)
    assert float(parameters[2].detach().sigmoid()) == pytest.approx(zero, abs=0.05)
