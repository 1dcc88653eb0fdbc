"""Beta distributions of a mask."""

from __future__ import annotations

import pytest
import torch
from torch.distributions import Beta, kl_divergence

from stpredict.models.nn._beta import as_bases, combined, divergence, opened, packed, prior_of, sample_beta, track_betas

LEVELS, WEIGHT = torch.tensor([1.5, 0.2, 1.0]), torch.tensor([0.4, 0.4, 0.2])


@pytest.mark.parametrize(("floor", "scale"), [(0.0, 1.0), (1.0, 10.0)])
def test_without_signals_the_mean_is_that_of_the_sequence_against_the_levels(floor: float, scale: float) -> None:
    own = torch.rand(2, 7, 2, generator=torch.Generator().manual_seed(0)) * 5 + floor
    tracks = track_betas(torch.zeros(2, 7, 3), LEVELS, floor, scale)
    alpha, beta = combined(own, tracks, WEIGHT, 1.0)
    added = scale * floor  # of each of the two, weights sum to 1
    against = float((WEIGHT * LEVELS).sum()) * scale
    expected = (own[..., 0] + added) / (own.sum(dim=-1) + 2 * added + against)
    torch.testing.assert_close(alpha / (alpha + beta), expected, rtol=0, atol=1e-6)
    if not floor:
        assert torch.allclose(alpha, own[..., 0], atol=1e-7)


def test_the_combination_is_the_product_of_the_densities() -> None:
    """Up to a constant: parameters less 1 add up, so that of the sums these are too many by the weights."""
    own, signals = torch.rand(1, 1, 2) * 3 + 1, torch.rand(1, 1, 3) * 4
    tracks = track_betas(signals, LEVELS, 1.0, 10.0)
    alpha, beta = combined(own, tracks, WEIGHT, 1.0)
    at = torch.linspace(0.1, 0.9, 9)
    logs = Beta(*own[0, 0]).log_prob(at)
    for k in range(3):
        logs = logs + WEIGHT[k] * Beta(tracks[0][0, 0, k], tracks[1][k]).log_prob(at)
    logs = logs + at.log() + torch.log1p(-at)
    wanted = Beta(alpha[0, 0], beta[0, 0]).log_prob(at)
    torch.testing.assert_close(logs - logs[0], wanted - wanted[0], rtol=1e-3, atol=1e-3)


def test_a_position_is_as_likely_open_as_closed_where_signals_have_their_levels() -> None:
    own = torch.full((1, 1, 2), 0.7)
    alpha, beta = combined(own, track_betas(LEVELS.expand(1, 1, 3), LEVELS, 1.0, 10.0), WEIGHT, 1.0)
    torch.testing.assert_close(alpha, beta)


@pytest.mark.parametrize(("mean", "scale"), [(0.1, 10.0), (0.45, 0.1)])
def test_divergence_is_that_of_torch_and_never_below_0(mean: float, scale: float) -> None:
    values = torch.tensor([1e-8, 1e-3, 0.1, 1.0, 7.0, 300.0], requires_grad=True)
    alpha, beta = torch.meshgrid(values, values, indexing="ij")
    prior = Beta(torch.tensor(scale), torch.tensor((1 - mean) / mean * scale))
    assert prior_of(mean, scale)[0] / sum(prior_of(mean, scale)) == pytest.approx(mean)
    found = divergence(alpha, beta, mean, scale)
    torch.testing.assert_close(found, kl_divergence(Beta(alpha, beta), prior))
    assert found.min() >= 0
    same = divergence(*(torch.tensor([value]) for value in prior_of(mean, scale)), mean, scale)
    torch.testing.assert_close(same, torch.zeros(1), rtol=0, atol=1e-5)


@pytest.mark.parametrize("small", [1e-3, 1e-8])
def test_gradients_of_divergence_and_samples_are_finite_next_to_0(small: float) -> None:
    torch.manual_seed(0)
    for other in (small, 1.0, 50.0):
        alpha, beta = (torch.full((5000,), value, requires_grad=True) for value in (small, other))
        share = sample_beta(alpha, beta)
        assert share.isfinite().all()
        assert ((share >= 0) & (share <= 1)).all()
        (share.mean() + divergence(alpha, beta, 0.45, 0.1).mean()).backward()
        assert alpha.grad.isfinite().all()
        assert beta.grad.isfinite().all()
        assert alpha.grad.abs().sum() > 0


@pytest.mark.parametrize(("alpha", "beta"), [(0.3, 0.5), (2.0, 5.0), (40.0, 60.0)])
def test_samples_have_the_moments_and_the_gradient_of_their_distribution(alpha: float, beta: float) -> None:
    torch.manual_seed(0)
    a, b = (torch.full((200_000,), value, requires_grad=True) for value in (alpha, beta))
    share, known = sample_beta(a, b), Beta(alpha, beta)
    error = float((known.variance / len(share)) ** 0.5)
    assert share.mean().item() == pytest.approx(float(known.mean), abs=5 * error)
    assert share.var().item() == pytest.approx(float(known.variance), rel=0.02)
    share.sum().backward()
    # The mean is α / (α + β).
    assert float(a.grad.mean()) == pytest.approx(beta / (alpha + beta) ** 2, rel=0.03)
    assert float(b.grad.mean()) == pytest.approx(-alpha / (alpha + beta) ** 2, rel=0.03)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("threshold", [0.5, 0.1])
def test_a_hard_mask_is_exactly_0_or_1_and_passes_gradients(threshold: float, dtype: torch.dtype) -> None:
    share = torch.rand(10_000, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    mask = opened(share, threshold)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(mask.bool(), share >= threshold)
    mask.sum().backward()
    assert torch.equal(share.grad, torch.ones_like(share))


def test_open_positions_are_packed_in_their_order_and_none_is_lost() -> None:
    sequence = torch.arange(1.0, 13).view(2, 6, 1)
    open_ = torch.tensor([[0, 1, 1, 0, 0, 1], [1, 0, 0, 0, 0, 0]]).bool()
    rows, kept, place = packed(sequence, open_)
    assert rows.squeeze(-1).tolist() == [[2, 3, 6], [7, 0, 0]]
    assert kept.tolist() == [[True, True, True], [True, False, False]]
    assert place[kept].tolist() == [1, 2, 5, 0]
    nothing = packed(sequence, torch.zeros_like(open_))
    assert not nothing[1].any()
    assert nothing[0].shape == (2, 1, 1)


def test_bases_are_those_of_a_linear_layer_on_one_of_four() -> None:
    layer, codes = torch.nn.Linear(4, 3), torch.tensor([[0, 1, 2, 3, 4]], dtype=torch.uint8)
    hot = torch.cat([torch.eye(4), torch.zeros(1, 4)]).unsqueeze(0)
    torch.testing.assert_close(as_bases(codes, layer.weight, layer.bias), layer(hot))
    torch.testing.assert_close(as_bases(codes, layer.weight, None), layer(hot) - layer.bias)
