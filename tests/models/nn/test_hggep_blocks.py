"""Blocks of HGGEP on images against what their formulas say, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from stpredict.models.nn._hggep_blocks import CBAM, CrossDifferenceConv, GradientEnhancement

AROUND = {0: (-1, 0), 1: (0, -1), 2: (0, 0), 3: (0, 1), 4: (1, 0)}  # above, left, itself, right, below


def by_loop(images, weight, theta, stride):
    """(1 - θ) times the plain response plus θ times that to the differences, one output pixel at a time."""
    images, weight = images.numpy().astype(float), weight.detach().numpy().astype(float)
    n, _, height, width = images.shape
    out = np.zeros((n, len(weight), -(-height // stride), -(-width // stride)))

    def pixel(i, c, y, x):
        inside = 0 <= y < height and 0 <= x < width
        return images[i, c, y, x] if inside else 0.0

    for i, o, y, x in np.ndindex(*out.shape):
        plain = difference = 0.0
        for c in range(images.shape[1]):
            center = pixel(i, c, y * stride, x * stride)
            for p, (dy, dx) in AROUND.items():
                value = pixel(i, c, y * stride + dy, x * stride + dx)
                plain += weight[o, c, p] * value
                difference += weight[o, c, p] * (value - center)
        out[i, o, y, x] = (1 - theta) * plain + theta * difference
    return torch.from_numpy(out).float()


@pytest.fixture
def images():
    return torch.randn(2, 3, 6, 5, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("theta", [0.0, 0.7, 1.0])
def test_cross_difference_equals_a_loop_over_pixels(images, stride, theta):
    torch.manual_seed(1)
    conv = CrossDifferenceConv(3, 4, stride=stride, theta=theta)
    torch.testing.assert_close(conv(images), by_loop(images, conv.weight, theta, stride), rtol=1e-4, atol=1e-5)


def test_cross_difference_equals_the_two_convolutions_of_the_reference(images):
    torch.manual_seed(1)
    conv = CrossDifferenceConv(3, 4, stride=2, theta=0.7)
    kernel = torch.zeros(4, 3, 3, 3)
    for p, (dy, dx) in AROUND.items():
        kernel[:, :, 1 + dy, 1 + dx] = conv.weight.detach()[:, :, p]
    two = F.conv2d(images, kernel, stride=2, padding=1)
    two = two - 0.7 * F.conv2d(images, kernel.sum(dim=(2, 3), keepdim=True), stride=2)
    torch.testing.assert_close(conv(images), two, rtol=1e-4, atol=1e-5)


def test_without_differences_it_is_a_plain_convolution_over_a_plus(images):
    torch.manual_seed(1)
    conv = CrossDifferenceConv(3, 3, theta=0.0)
    kernel = torch.zeros(3, 3, 9)
    kernel[:, :, [1, 3, 4, 5, 7]] = conv.weight.detach()
    torch.testing.assert_close(conv(images), F.conv2d(images, kernel.unflatten(2, (3, 3)), padding=1))


def test_differences_alone_do_not_see_a_constant():
    conv = CrossDifferenceConv(3, 3, theta=1.0)
    response = conv(torch.full((1, 3, 5, 5), 4.0))
    assert response[:, :, 1:-1, 1:-1].abs().max() < 1e-5
    assert response.abs().max() > 1e-3  # but the border, beyond which there are zeros


def test_cross_difference_has_five_weights_per_pair_and_all_learn(images):
    conv = CrossDifferenceConv(3, 4)
    assert conv.weight.shape == (4, 3, 5)
    conv(images).square().sum().backward()
    assert (conv.weight.grad.abs() > 0).all()


@pytest.mark.parametrize(("px", "after"), [(112, 58), (56, 30), (33, 19), (8, 6)])
def test_gradient_enhancement_halves_and_pads(px, after):
    images = torch.randn(2, 3, px, px)
    enhanced = GradientEnhancement(0.7)(images)
    assert enhanced.shape == (2, 3, after, after)
    assert enhanced.min() >= 0
    assert enhanced.max() <= 6


def test_gradient_enhancement_reads_both_branches():
    torch.manual_seed(0)
    block = GradientEnhancement(0.7).eval()
    images = torch.randn(2, 3, 12, 12)
    with torch.no_grad():
        both = torch.cat([block.plain(images), block.difference(images)], dim=1)
        torch.testing.assert_close(block(images), block.join(both))
        block.join[0].weight[:, :3] = 0
        without_plain = block(images)
        block.plain[0].weight.zero_()
        torch.testing.assert_close(block(images), without_plain)
        block.difference[0].weight.mul_(-2)
        assert (block(images) - without_plain).abs().max() > 1e-3


def test_attention_is_the_product_of_two_gates():
    torch.manual_seed(0)
    block = CBAM(32)
    maps = torch.randn(3, 32, 6, 6)
    with torch.no_grad():
        first, _, second = block.channel
        gate = sum(
            F.linear(torch.relu(F.linear(values, first.weight)), second.weight)
            for values in (maps.flatten(2).mean(dim=2), maps.flatten(2).max(dim=2).values)
        )
        weighed = maps * torch.sigmoid(gate)[:, :, None, None]
        summary = torch.stack([weighed.mean(dim=1), weighed.max(dim=1).values], dim=1)
        expected = weighed * torch.sigmoid(F.conv2d(summary, block.pixel.weight, block.pixel.bias, padding=3))
        torch.testing.assert_close(block(maps), expected)
        assert (block(maps).abs() <= maps.abs()).all()
    assert block.channel[0].out_features == 2
    assert CBAM(8).channel[0].out_features == 1
