"""Dynamic convolution and capsules."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stpredict.models.nn._capsules import CapsuleEncoder, DynamicConv2d, RoutedCapsules, squash


def convolution(n_kernels=4):
    torch.manual_seed(0)
    return DynamicConv2d(3, 5, kernel=4, stride=4, n_kernels=n_kernels, n_squeezed=7).eval()


def test_dynamic_convolution_equals_one_kernel_per_image_built_by_hand():
    net = convolution()
    images = torch.randn(6, 3, 18, 21)  # two rows and a column are left over
    squeezed = net.squeeze(images)
    kernels, filters = net.kernels(squeezed).softmax(dim=1), net.filters(squeezed).sigmoid()
    channels, positions = net.channels(squeezed).sigmoid(), net.positions(squeezed).sigmoid()
    expected = []
    for i in range(6):
        weight = torch.zeros(5, 3, 4, 4)
        for f in range(5):
            for c in range(3):
                for place in range(16):
                    row, col = divmod(place, 4)
                    mixed = (kernels[i] * net.weight[:, f, c, row, col]).sum()
                    weight[f, c, row, col] = mixed * filters[i, f] * channels[i, c] * positions[i, place]
        expected.append(F.conv2d(images[i : i + 1], weight, stride=4))
    torch.testing.assert_close(net(images), torch.cat(expected), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_dynamic_convolution_treats_each_image_on_its_own():
    net = convolution()
    images = torch.randn(6, 3, 16, 16)
    alone = torch.cat([net(image) for image in images.split(1)])
    torch.testing.assert_close(net(images), alone, atol=1e-5, rtol=1e-5)


def test_dynamic_convolution_is_dynamic_and_one_of_equal_kernels_is_plain():
    net = convolution()
    one, two = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert (net((one + two)[None]) - net(one[None]) - net(two[None])).abs().max() > 1e-3  # not linear
        for attention in (net.filters, net.channels, net.positions):
            attention.weight.zero_()
            attention.bias.fill_(30.0)  # all weights 1
        net.weight[:] = net.weight[:1]
        torch.testing.assert_close(net(one[None]), F.conv2d(one[None], net.weight[0], stride=4), atol=1e-5, rtol=1e-5)


def test_squash_keeps_directions_and_shortens():
    vectors = torch.randn(50, 8).double() * torch.logspace(-3, 2, 50)[:, None]
    short = squash(vectors)
    length = vectors.norm(dim=1)
    torch.testing.assert_close(short.norm(dim=1), 1 - torch.exp(-length), atol=1e-9, rtol=1e-5)
    torch.testing.assert_close(F.cosine_similarity(short, vectors), torch.ones(50).double())
    assert (short.norm(dim=1) <= 1).all()


def test_squash_of_zero_has_a_gradient():
    zero = torch.zeros(2, 8, requires_grad=True)
    squash(zero).sum().backward()
    assert torch.equal(squash(zero), torch.zeros(2, 8))
    assert torch.isfinite(zero.grad).all()


def test_routing_equals_the_formula_written_out():
    torch.manual_seed(0)
    net = RoutedCapsules(4, 3, 5, 6)
    torch.nn.init.normal_(net.prior)
    capsules = torch.randn(7, 4, 3)
    with torch.no_grad():
        output = net(capsules).numpy()
    weight, prior, below = net.weight.detach().numpy(), net.prior.detach().numpy()[:, 0].T, capsules.numpy()
    for n in range(7):
        votes = np.array([[below[n, i] @ weight[i, :, j] for i in range(4)] for j in range(5)])  # (j, i, d)
        pairs = np.array([votes[j] @ votes[j].T for j in range(5)]) / np.sqrt(6)  # (j, i, k)
        coupling = np.exp(pairs.sum(axis=2))
        coupling = coupling / coupling.sum(axis=0) + prior
        total = np.array([coupling[j] @ votes[j] for j in range(5)])
        length = np.linalg.norm(total, axis=1, keepdims=True)
        np.testing.assert_allclose(output[n], total * (1 - np.exp(-length)) / length, rtol=1e-4, atol=1e-5)


def test_published_sizes():
    with torch.device("meta"):
        net = CapsuleEncoder(16, 28, 20, 64)
        shapes = {name: tuple(p.shape) for name, p in net.named_parameters() if p.dim() > 1}
        output = net(torch.empty(3, 16, 28, 28))
    assert shapes == {
        "stem.0.weight": (32, 16, 5, 5),
        "stem.3.weight": (64, 32, 3, 3),
        "stem.6.weight": (64, 64, 3, 3),
        "stem.9.weight": (128, 64, 3, 3),
        "whole": (128, 9, 9),
        "routing.weight": (16, 8, 20, 64),
        "routing.prior": (16, 1, 20),
    }
    assert output.shape == (3, 20, 64)


@torch.no_grad()
def test_weighted_sum_is_the_depth_wise_convolution_over_the_whole_map():
    torch.manual_seed(0)
    net = CapsuleEncoder(2, 16, 3, 4).eval()
    torch.nn.init.normal_(net.offset)
    images = torch.randn(5, 2, 16, 16)
    primary = F.conv2d(net.stem(images), net.whole[:, None], net.offset, groups=128).reshape(5, 16, 8)
    torch.testing.assert_close(net(images), net.routing(squash(primary)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("side", [1, 2, 3, 7, 10, 11, 12, 16, 31])
def test_maps_of_any_side(side):
    torch.manual_seed(0)
    net = CapsuleEncoder(2, side, 3, 4)
    images = torch.randn(2, 2, side, side)
    capsules = net(images)
    assert capsules.shape == (2, 3, 4)
    assert (capsules.norm(dim=2) < 1).all()
    capsules.square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters())


@torch.no_grad()
def test_capsules_of_an_image_do_not_depend_on_the_others():
    torch.manual_seed(0)
    net = CapsuleEncoder(2, 14, 3, 4)
    net(torch.randn(20, 2, 14, 14) + 1)  # statistics of training
    net.eval()
    images = torch.randn(5, 2, 14, 14)
    alone = torch.cat([net(image) for image in images.split(1)])
    torch.testing.assert_close(net(images), alone, atol=1e-5, rtol=1e-5)


def test_a_single_image_trains():
    torch.manual_seed(0)
    convolve, net = convolution().train(), CapsuleEncoder(5, 3, 3, 4)
    net(convolve(torch.randn(1, 3, 12, 12))).square().sum().backward()
    for module in (convolve, net):
        assert all(torch.isfinite(p.grad).all() for p in module.parameters())
