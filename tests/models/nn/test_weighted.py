from __future__ import annotations

import torch

from stpredict.models.nn._weighted import correlation_loss, weighted_mean
from stpredict.models.nn._zinb import zinb_loss


def test_correlation_loss_leaves_out_genes_that_do_not_vary() -> None:
    target = torch.randn(20, 3)
    target[:, 1] = 4.0
    assert correlation_loss(target, target) < 0.01
    assert correlation_loss(-target, target) > 1.98
    assert correlation_loss(torch.randn(20, 3), torch.ones(20, 3)) == 0
    assert correlation_loss(torch.randn(1, 3), torch.randn(1, 3)) == 0
    flat = torch.zeros(20, 3, requires_grad=True)
    correlation_loss(flat, target).backward()
    assert torch.isfinite(flat.grad).all()


def test_weights_of_genes_are_those_of_the_mean() -> None:
    torch.manual_seed(0)
    losses, weight = torch.rand(4, 7, 3), torch.tensor([1.0, 0.5, 0.0])
    wanted = (losses[..., 0].mean() + 0.5 * losses[..., 1].mean()) / 1.5
    torch.testing.assert_close(weighted_mean(losses, weight), wanted)
    assert torch.equal(weighted_mean(losses, None), losses.mean())
    torch.testing.assert_close(weighted_mean(losses, torch.full((3,), 0.2)), losses.mean())


def test_a_weight_of_zero_takes_a_gene_out() -> None:
    torch.manual_seed(0)
    prediction, target = torch.randn(20, 3), torch.randn(20, 3)
    weight = torch.tensor([1.0, 1.0, 0.0])
    torch.testing.assert_close(
        correlation_loss(prediction, target, weight), correlation_loss(prediction[:, :2], target[:, :2])
    )
    counts, mean, size, zero = torch.randint(0, 5, (20, 3)).float(), *torch.rand(3, 20, 3)
    first = (values[:, :2] for values in (counts, mean, size, zero))
    torch.testing.assert_close(zinb_loss(counts, mean, size, zero, weight), zinb_loss(*first))


def test_a_gene_that_does_not_vary_takes_no_weight_from_the_others() -> None:
    torch.manual_seed(0)
    prediction, target = torch.randn(20, 3), torch.randn(20, 3)
    target[:, 2] = 1.0
    wanted = correlation_loss(prediction[:, :2], target[:, :2], torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(correlation_loss(prediction, target, torch.tensor([1.0, 0.5, 9.0])), wanted)
    assert correlation_loss(prediction, target, torch.tensor([0.0, 0.0, 1.0])) == 0
