from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from stpredict.models import Batch, Color, Shape
from stpredict.models._color import _HEMATOXYLIN_EOSIN, ColorConfig, _rectified_mean
from stpredict.training import ArraySet, predict_arrays
from stpredict.training._data import summarize

STAINS = np.array(_HEMATOXYLIN_EOSIN)
UNMIX = np.linalg.pinv(STAINS).T


def stained(n: int, px: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Patches of pixels with known concentrations of hematoxylin and eosin, and the mean of the first (n,)."""
    rng = np.random.default_rng(seed)
    level = rng.uniform(0.1, 0.6, (n, 1, 1, 2))
    amounts = level * rng.uniform(0, 2, (n, px, px, 2))
    pixels = np.clip(np.round(256 * 10 ** -(amounts @ STAINS) - 1), 0, 255).astype(np.uint8)
    return pixels, amounts[..., 0].mean(axis=(1, 2))


def random_batch(n: int = 5, px: int = 12, seed: int = 0) -> Batch:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 3, px, px), dtype=np.uint8)
    none = torch.zeros(n, dtype=torch.long)
    return Batch(none, none, {"patches": torch.from_numpy(pixels)})


def jittered(variant: str, n_genes: int, stride: int = 1) -> Color:
    network = Color(ColorConfig(variant=variant, stride=stride), Shape(n_genes))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        network.target_std.copy_(torch.linspace(0.5, 2, n_genes))
    return network.eval()


@pytest.mark.parametrize("variant", ["rectified", "full"])
@pytest.mark.parametrize("n_genes", [1, 7])
def test_eleven_weights_per_gene(variant: str, n_genes: int) -> None:
    network = Color(ColorConfig(variant=variant), Shape(n_genes))
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == 11 * n_genes


@pytest.mark.parametrize("variant", ["rectified", "full"])
def test_known_mixture_is_recovered(variant: str) -> None:
    pixels, amount = stained(96)
    target = np.stack([2 * amount - 0.5, 1.5 - amount], axis=1).astype(np.float32)
    codes = np.zeros(len(pixels), dtype=np.int64)
    data = ArraySet(codes, codes, {"patches": pixels}, target=target)
    network = Color(ColorConfig(variant=variant, stride=1), Shape(2))
    network.prepare(summarize(data))
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-2)
    batch = data.batch(np.arange(96))
    for _ in range(400 if variant == "rectified" else 1500):
        optimizer.zero_grad()
        network.loss(network(batch), batch)["total"].backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)  # as the training loop does
        optimizer.step()
    fresh, truth = stained(96, seed=1)
    mean = predict_arrays(network, ArraySet(codes, codes, {"patches": fresh})).mean
    assert np.corrcoef(mean[:, 0], 2 * truth - 0.5)[0, 1] > 0.99
    assert np.corrcoef(mean[:, 1], 1.5 - truth)[0, 1] > 0.99
    # What is determined is the slope of the prediction in optical density, within the plane of the two stains: the two
    # rectified channels may share it between them. It is the row of the pseudo-inverse, which reads hematoxylin and
    # not eosin; the absorbance vector itself would read both.
    with torch.no_grad():
        if variant == "rectified":
            learned = (network.weight[0, :, None] * network.deconvolution[0]).sum(dim=0).numpy()
        else:
            learned = torch.linalg.inv(network.stain_matrix[0])[:, 0].numpy() * float(network.weight[0, 0])
    plane = np.linalg.qr(STAINS.T)[0]
    row, wanted = plane @ (plane.T @ learned), UNMIX[0]
    angle = np.degrees(np.arccos(row @ wanted / np.linalg.norm(row) / np.linalg.norm(wanted)))
    assert angle < 5


@pytest.mark.parametrize("variant", ["rectified", "full"])
def test_order_of_pixels_does_not_matter(variant: str) -> None:
    network, batch = jittered(variant, 4), random_batch()
    with torch.no_grad():
        before = network(batch).mean
        order = torch.randperm(144, generator=torch.Generator().manual_seed(1))
        batch.inputs["patches"] = batch["patches"].flatten(2)[:, :, order].reshape(batch["patches"].shape)
        after = network(batch).mean
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_averaging_pixels_does_matter() -> None:
    network, batch = jittered("rectified", 4), random_batch()
    with torch.no_grad():
        before = network(batch).mean
        batch.inputs["patches"] = nn.functional.avg_pool2d(batch["patches"].float(), 2).round().to(torch.uint8)
        assert (network(batch).mean - before).abs().max() > 0.01


@pytest.mark.parametrize("variant", ["rectified", "full"])
def test_all_genes_at_once_equal_one_after_the_other(variant: str) -> None:
    network, batch = jittered(variant, 6), random_batch()
    with torch.no_grad():
        together = network(batch).mean
        for gene in range(6):
            alone = Color(ColorConfig(variant=variant, stride=1), Shape(1))
            state = network.state_dict()
            alone.load_state_dict({name: state[name][gene : gene + 1] for name in state})
            torch.testing.assert_close(alone(batch).mean[:, 0], together[:, gene], rtol=1e-6, atol=1e-6)


def test_by_hand() -> None:
    """One gene, pixel by pixel, in numpy."""
    network, batch = jittered("rectified", 3), random_batch(2)
    density = -np.log10((batch["patches"].numpy().astype(float) + 1) / 256).reshape(2, 3, -1)
    p = {name: value.detach().numpy() for name, value in network.named_parameters()}
    channels = np.einsum("gsc,ncp->ngsp", p["deconvolution"], density) + p["offset"][None, :, :, None]
    value = (np.maximum(channels, 0).mean(axis=3) * p["weight"]).sum(axis=2) + p["bias"]
    with torch.no_grad():
        np.testing.assert_allclose(network(batch).mean.numpy(), value * network.target_std.numpy(), rtol=1e-4)


def test_mean_and_gradients_equal_a_plain_rectification() -> None:
    """Large enough to be computed in several chunks."""
    generator = torch.Generator().manual_seed(0)
    density = torch.rand(60, 3, 900, generator=generator)
    ours = [torch.randn(4, 2, 3, generator=generator), torch.randn(4, 2, generator=generator)]
    plain = [values.clone().requires_grad_() for values in ours]
    ours = [values.requires_grad_() for values in ours]
    mean = _rectified_mean(density, *ours)
    channels = torch.einsum("gsc,ncp->ngsp", plain[0], density) + plain[1][None, :, :, None]
    expected = torch.relu(channels).mean(dim=3)
    torch.testing.assert_close(mean, expected)
    weight = torch.randn(expected.shape, generator=generator)
    (mean * weight).sum().backward()
    (expected * weight).sum().backward()
    for one, other in zip(ours, plain, strict=True):
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-4)


def test_stride_reads_every_nth_pixel() -> None:
    network, batch = jittered("rectified", 2, stride=3), random_batch()
    with torch.no_grad():
        before = network(batch).mean
        changed = batch["patches"].clone()
        changed[:, :, 1::3, :] = 0
        changed[:, :, :, 2::3] = 0
        batch.inputs["patches"] = changed
        torch.testing.assert_close(network(batch).mean, before)


def test_starts_near_the_training_mean() -> None:
    pixels, amount = stained(32)
    target = np.stack([amount + 5, 3 * amount], axis=1).astype(np.float32)
    codes = np.zeros(32, dtype=np.int64)
    data = ArraySet(codes, codes, {"patches": pixels}, target=target)
    network = Color(ColorConfig(stride=1), Shape(2))
    network.prepare(summarize(data))
    with torch.no_grad():
        mean = network(data.batch(np.arange(32))).mean.numpy()
    assert (np.abs(mean.mean(axis=0) - target.mean(axis=0)) < 0.05 * target.std(axis=0)).all()
