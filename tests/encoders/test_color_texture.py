from __future__ import annotations

import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.encoders._color_texture import ColorTexture, _gaussian, _running_maximum, _smoothed, _uniform_patterns

NAMES = stp.encoders.color_texture_names()


def tissue(seed: int = 0, n_nuclei: int = 40, side: int = 112) -> np.ndarray:
    """Pink tile with purple disks of 7 px, float (3, side, side) in 0–1."""
    rng = np.random.default_rng(seed)
    stain_h, stain_e = np.array([0.65, 0.70, 0.29]), np.array([0.07, 0.99, 0.11])
    y, x = np.mgrid[:side, :side]
    centers = rng.uniform(0, side, (n_nuclei, 2))
    distance = (
        np.min([(x - a) ** 2 + (y - b) ** 2 for a, b in centers], axis=0) if n_nuclei else np.full((side, side), 1e9)
    )
    hematoxylin = 0.05 + 0.6 * (distance < 3.5**2)
    density = hematoxylin[..., None] * stain_h + 0.2 * stain_e
    return (10**-density).transpose(2, 0, 1).astype(np.float32)


def features(*tiles: np.ndarray) -> dict[str, np.ndarray]:
    with torch.inference_mode():
        values = ColorTexture()(torch.from_numpy(np.stack(tiles))).numpy()
    assert values.shape == (len(tiles), len(NAMES))
    return dict(zip(NAMES, values.T, strict=True))


def test_names_are_unique_and_as_many_as_dimensions():
    assert len(NAMES) == len(set(NAMES)) == ColorTexture().dim
    assert 100 <= len(NAMES) <= 200


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_constant_tiles_are_finite_and_structureless(level):
    found = features(np.full((3, 112, 112), level, dtype=np.float32))
    assert all(np.isfinite(values).all() for values in found.values())
    for name in NAMES:
        if name.endswith(("skewness", "coherence", "blocks_sd", "surround")) or "peaks" in name:
            assert abs(found[name][0]) < 1e-3, name
    assert found["pattern_r1_0"][0] == 1


def test_stains_are_separated():
    found = features(tissue(n_nuclei=0))
    np.testing.assert_allclose(found["hematoxylin_mean"], 0.05, atol=0.01)
    np.testing.assert_allclose(found["eosin_mean"], 0.2, atol=0.01)
    np.testing.assert_allclose(found["residual_mean"], 0, atol=0.01)


def test_agrees_with_skimage_on_hematoxylin_of_two_stains():
    from skimage.color import rgb_from_hed

    tile = tissue()
    vectors = rgb_from_hed[:2] / np.linalg.norm(rgb_from_hed[:2], axis=1, keepdims=True)
    density = -np.log10((tile.reshape(3, -1) * 255 + 1) / 256)
    expected = np.linalg.lstsq(vectors.T, density, rcond=None)[0]
    found = features(tile)
    # The residual is orthogonal to both stains, so unmixing is least squares on the two.
    np.testing.assert_allclose(found["hematoxylin_mean"], expected[0].mean(), atol=2e-3)
    np.testing.assert_allclose(found["eosin_sd"], expected[1].std(), atol=2e-3)


def test_distributions_agree_with_numpy_and_scipy():
    from scipy.stats import skew

    tile = np.random.default_rng(0).beta(2, 5, (3, 112, 112)).astype(np.float32)
    found = features(tile)
    red = tile[0].ravel()
    np.testing.assert_allclose(found["red_mean"], red.mean(), rtol=1e-4)
    np.testing.assert_allclose(found["red_sd"], red.std(), rtol=1e-3)
    np.testing.assert_allclose(found["red_skewness"], skew(red), rtol=2e-2)
    for p in (5, 25, 50, 75, 95):
        np.testing.assert_allclose(found[f"red_p{p:02d}"], np.percentile(red, p), atol=2e-3)


def test_patterns_follow_their_definition():
    image = np.random.default_rng(1).normal(size=(112, 112)).astype(np.float32)
    found = ColorTexture()._pattern(torch.from_numpy(image)[None] * 1e4, 1)[0].numpy()
    y, x = np.mgrid[1:111, 1:111]
    ring = [(0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1)]
    bits = np.stack([image[y + a, x + b] > image[y, x] for a, b in ring])
    changes = (bits != np.roll(bits, 1, axis=0)).sum(axis=0)
    kinds = np.where(changes <= 2, bits.sum(axis=0), 9)
    np.testing.assert_allclose(found, np.bincount(kinds.ravel(), minlength=10) / kinds.size, atol=2e-4)


def test_there_are_58_uniform_patterns():
    assert int(_uniform_patterns()[:, :9].sum()) == 58


@pytest.mark.parametrize("sigma", [1.0, 2.5, 10.0])
def test_smoothing_agrees_with_scipy(sigma):
    from scipy.ndimage import gaussian_filter

    image = np.random.default_rng(2).normal(size=(112, 112)).astype(np.float32)
    matrix = _gaussian(112, sigma).numpy()
    np.testing.assert_allclose(
        matrix @ image @ matrix.T, gaussian_filter(image, sigma, mode="reflect", truncate=5), atol=1e-3
    )


@pytest.mark.parametrize("step", [1, 2])
def test_images_are_smoothed_along_both_axes_by_every_kernel(step):
    kernels = torch.stack([_gaussian(24, sigma, step) for sigma in (1.0, 2.0, 3.0)])
    images = torch.randn(5, 2, 24, 24, generator=torch.Generator().manual_seed(0))
    expected = torch.einsum("kpi,bcij,kqj->bckpq", kernels, images, kernels)
    torch.testing.assert_close(_smoothed(images, kernels), expected, atol=1e-6, rtol=1e-5)


def test_the_size_of_a_chunk_changes_nothing():
    tiles = torch.from_numpy(np.stack([tissue(seed, n_nuclei=10 * seed) for seed in range(7)]))
    encoder, found = ColorTexture(), []
    for encoder.chunk in (1, 3, 8):
        with torch.inference_mode():
            found.append(encoder(tiles))
    torch.testing.assert_close(found[0], found[2], atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found[1], found[2], atol=1e-6, rtol=1e-6)


def test_running_maximum_agrees_with_scipy():
    from scipy.ndimage import maximum_filter1d

    values = np.random.default_rng(3).normal(size=(4, 50)).astype(np.float32)
    for window in (5, 7):
        found = _running_maximum(torch.from_numpy(values), window).numpy()
        np.testing.assert_array_equal(found, maximum_filter1d(values, window, mode="nearest"))


def test_more_nuclei_raise_the_nuclear_proxies():
    found = features(tissue(n_nuclei=5), tissue(n_nuclei=60))
    for name in (
        "nuclear_fraction_0.35",
        "nuclear_peaks_large_0.05",
        "hematoxylin_blob_2.5_4_energy",
        "hematoxylin_p95",
    ):
        assert found[name][1] > found[name][0], name


def test_peaks_count_blobs():
    tile = tissue(n_nuclei=0)
    stain = np.array([0.65, 0.70, 0.29])
    y, x = np.mgrid[:112, :112]
    for a in (20, 50, 80):
        for b in (20, 50, 80):
            inside = (x - a) ** 2 + (y - b) ** 2 < 16
            tile[:, inside] *= (10 ** (-0.6 * stain))[:, None].astype(np.float32)
    np.testing.assert_allclose(features(tile)["nuclear_peaks_large_0.05"], 9 / (112**2 / 1000), rtol=1e-5)


def test_rotations_and_reflections_change_nothing():
    tile = tissue(3)
    found = features(tile, np.rot90(tile, axes=(1, 2)).copy(), tile[:, :, ::-1].copy())
    values = np.stack(list(found.values()))
    np.testing.assert_allclose(values[:, 1], values[:, 0], atol=2e-3)
    np.testing.assert_allclose(values[:, 2], values[:, 0], atol=2e-3)


def test_a_dark_center_shows_in_the_contrast():
    tile = tissue(n_nuclei=0)
    tile[:, 46:66, 46:66] *= 0.4
    found = features(tile)
    assert found["hematoxylin_center_minus_surround"][0] > 0.02
    assert found["hematoxylin_blocks_sd"][0] > 5 * features(tissue(n_nuclei=0))["hematoxylin_blocks_sd"][0] + 0.01


def test_side_must_be_divisible():
    with pytest.raises(ValueError, match="divisible by 8"):
        ColorTexture(100)
