from __future__ import annotations

import numpy as np
import pytest
import torch

from stpredict.core._stain import PUBLISHED, WHITE, Recoloring, Stain, bare_tiles, find_light, find_stain, mean_stain

MACENKO = Stain("macenko", PUBLISHED["macenko"])


def painted(matrix: np.ndarray, n: int = 40_000, seed: int = 0, strength: float = 1.0) -> np.ndarray:
    """Pixels (n, 3) with random amounts of two stains, half of them of one stain only."""
    rng = np.random.default_rng(seed)
    amounts = rng.gamma(2.0, 0.35 * strength, (n, 2))
    amounts[: n // 4, 0] = amounts[n // 4 : n // 2, 1] = 0
    return np.clip(np.round(WHITE * np.exp(-amounts @ matrix.T) - 1), 0, 255).astype(np.uint8)


def picture(matrix: np.ndarray = MACENKO.matrix, seed: int = 0) -> np.ndarray:
    return painted(matrix, 64 * 64, seed).reshape(64, 64, 3)


def angle(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Degrees between the columns of two matrices."""
    cosine = (one * other).sum(0) / np.linalg.norm(one, axis=0) / np.linalg.norm(other, axis=0)
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
def test_published_stains_are_found_in_pixels_painted_with_them(method: str) -> None:
    found = find_stain(painted(MACENKO.matrix), method)
    assert angle(found.matrix, MACENKO.matrix).max() < (2 if method == "macenko" else 6)


def test_macenko_equals_the_reference_implementation() -> None:
    """The numpy code of torchstain, a port of the published one: stain matrix, largest amounts, and pixels."""
    torchstain = pytest.importorskip("torchstain")
    turned = np.array([[0.62, 0.16], [0.67, 0.90], [0.41, 0.41]])
    pixels = picture(turned)
    reference = torchstain.normalizers.MacenkoNormalizer(backend="numpy")
    np.testing.assert_allclose(MACENKO.matrix, reference.HERef)
    np.testing.assert_allclose(MACENKO.amounts, reference.maxCRef)
    expected, _, _ = reference.normalize(pixels, stains=False)
    reference.fit(pixels)
    found = find_stain(pixels.reshape(-1, 3), "macenko")
    np.testing.assert_allclose(found.matrix, reference.HERef, atol=1e-12)
    np.testing.assert_allclose(found.amounts, reference.maxCRef, atol=1e-12)
    # Their code cuts decimals off, and adds 1 to every value that it does not take away again.
    assert np.abs(Recoloring(found, MACENKO).pixels(pixels).astype(int) - expected).max() <= 1


def test_vahadane_is_the_minimum_of_its_objective() -> None:
    """Small turns of either direction do not lower half the squared error plus 0.1 times the amounts."""
    from stpredict.core._stain import _density

    pixels = painted(MACENKO.matrix, 4000)
    density = np.maximum(_density(pixels[pixels.max(1) <= 205]), 0)

    def objective(matrix: np.ndarray) -> float:
        matrix = matrix / np.linalg.norm(matrix, axis=0)
        amounts = np.zeros((len(density), 2))
        gram, shared = matrix.T @ matrix, density @ matrix - 0.1
        for _ in range(200):  # coordinate descent of the code
            for k in (0, 1):
                amounts[:, k] = np.maximum(shared[:, k] - amounts[:, 1 - k] * gram[0, 1], 0)
        return float(0.5 * ((density - amounts @ matrix.T) ** 2).sum() + 0.1 * amounts.sum())

    found = find_stain(pixels, "vahadane").matrix
    best = objective(found)
    rng = np.random.default_rng(0)
    turned = [objective(np.maximum(found + 0.1 * rng.normal(size=(3, 2)), 0)) for _ in range(20)]
    assert min(turned) > best * 0.999
    assert np.median(turned) > best * 1.05


@pytest.mark.parametrize("method", ["macenko", "vahadane", "reinhard"])
def test_the_stains_of_the_reference_are_found_in_what_was_recolored(method: str) -> None:
    source, wanted = painted(MACENKO.matrix), painted(np.array([[0.62, 0.16], [0.67, 0.90], [0.41, 0.41]]), seed=1)
    found, reference = find_stain(source, method), find_stain(wanted, method)
    changed = Recoloring(found, reference).pixels(source[None])[0]
    again = find_stain(changed, method)
    before = np.abs(np.subtract(found.values, reference.values))
    after = np.abs(np.subtract(again.values, reference.values))
    assert after.sum() < before.sum() / 3


def test_reinhard_matches_means_and_deviations_of_tissue() -> None:
    """By the formulas of the paper, pixel by pixel."""
    source, wanted = painted(MACENKO.matrix, 3000), painted(MACENKO.matrix, 3000, 1, 0.6)
    cones = np.array([[0.3811, 0.5783, 0.0402], [0.1967, 0.7244, 0.0782], [0.0241, 0.1288, 0.8444]])
    l_m_s = np.log(source @ cones.T + 1)
    axes = np.stack([l_m_s.sum(1) / 3**0.5, (l_m_s @ [1, 1, -2]) / 6**0.5, (l_m_s @ [1, -1, 0]) / 2**0.5], axis=1)
    tissue = source.min(1) <= 205  # eosin alone leaves red bright
    found, reference = find_stain(source, "reinhard"), find_stain(wanted, "reinhard")
    np.testing.assert_allclose(found.values, [*axes[tissue].mean(0), *axes[tissue].std(0)])
    target = np.array(reference.values).reshape(2, 3)
    moved = (axes - axes[tissue].mean(0)) / axes[tissue].std(0) * target[1] + target[0]
    a, b, c = moved[:, 0] / 3**0.5, moved[:, 1] / 6**0.5, moved[:, 2] / 2**0.5
    back = (np.exp(np.stack([a + b + c, a + b - c, a - 2 * b], axis=1)) - 1) @ np.linalg.inv(cones).T
    expected = np.clip(np.round(back), 0, 255)
    assert np.abs(Recoloring(found, reference).pixels(source[None])[0] - expected).max() <= 1


def test_white_stays_white_and_black_black() -> None:
    stain = find_stain(painted(np.array([[0.62, 0.16], [0.67, 0.90], [0.41, 0.41]])), "macenko")
    edge = np.array([[[239, 239, 239], [0, 0, 0]]], dtype=np.uint8)
    changed = Recoloring(stain, MACENKO).pixels(edge)
    assert changed[0, 0].min() >= 238
    assert changed[0, 1].max() < 60


LIGHT = np.array([232.0, 206.0, 236.0])


def tinted(pixels: np.ndarray) -> np.ndarray:
    """The same through pink glass."""
    return np.clip(np.round((pixels + 1.0) * LIGHT / WHITE - 1), 0, 255).astype(np.uint8)


def section_with(share: float, seed: int = 0) -> np.ndarray:
    """Picture (100, 100, 3) through pink glass, of which some share shows, with noise, dust and a filled-in stripe."""
    rng = np.random.default_rng(seed)
    pixels = tinted(painted(MACENKO.matrix, 10_000, strength=1.5)).reshape(100, 100, 3)
    rows = round(100 * share)
    pixels[:rows] = np.clip(np.round(LIGHT + rng.normal(0, 1.5, (rows, 100, 3))), 0, 255)
    pixels[: rows // 2, :3] = (250, 252, 251)  # a lamp
    pixels[-10:] = 255
    return pixels


@pytest.mark.parametrize("share", [0.05, 0.3, 0.8])
def test_light_is_that_of_the_glass(share: float) -> None:
    np.testing.assert_allclose(find_light(section_with(share)), LIGHT, atol=1)


def test_without_glass_there_is_no_light() -> None:
    for picture in (section_with(0), np.full((50, 50, 3), 255, np.uint8), np.full((50, 50, 3), 120, np.uint8)):
        with pytest.raises(ValueError, match="no glass"):
            find_light(picture)


@pytest.mark.parametrize("method", ["macenko", "vahadane"])
def test_a_tinted_slide_becomes_the_one_without_tint(method: str) -> None:
    """With the light of the glass, tiles with and without tissue; as published, glass stays pink."""
    plain = np.stack([picture(), np.full((64, 64, 3), 239, np.uint8)])
    pixels = plain[0].reshape(-1, 3)
    there = find_stain(pixels, method, light=(WHITE,) * 3)
    found = find_stain(tinted(pixels), method, light=tuple(LIGHT))
    np.testing.assert_allclose(found.values[:8], there.values[:8], atol=0.03)
    tiles = torch.from_numpy(tinted(plain)).permute(0, 3, 1, 2)
    changed = Recoloring(found, there).tiles(tiles).permute(0, 2, 3, 1).numpy().astype(int)
    assert np.abs(changed - Recoloring(there, there).tiles(torch.from_numpy(plain).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).numpy()).mean() < 2  # fmt: skip
    np.testing.assert_allclose(changed[1], 239, atol=1)
    published = Recoloring(find_stain(tinted(pixels), method), MACENKO).tiles(tiles)
    assert torch.equal(published[1], tiles[1])


def test_tiles_without_tissue_are_left_as_they_are_and_counted() -> None:
    tiles = torch.from_numpy(np.stack([picture(), np.full((64, 64, 3), 230, np.uint8)])).permute(0, 3, 1, 2)
    tiles[1, :, :3, :3] = 40  # 9 of 4096 pixels: dust
    change = Recoloring(Stain("macenko", (*PUBLISHED["macenko"][:6], 1.0, 0.5)), MACENKO)
    changed = change.tiles(tiles)
    assert bare_tiles(tiles, change.source).tolist() == [False, True]
    assert torch.equal(changed[1], tiles[1])
    assert (changed[0].int() - tiles[0].int()).abs().float().mean() > 5
    assert change.n_left == 1
    np.testing.assert_array_equal(changed[0].permute(1, 2, 0).numpy(), change.pixels(picture()))


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.full((1000, 3), 240, np.uint8), "0 pixels of tissue"),
        (np.repeat(np.random.default_rng(0).integers(20, 200, (1000, 1)), 3, 1).astype(np.uint8), "gray"),
    ],
)
@pytest.mark.parametrize("method", ["macenko", "vahadane", "reinhard"])
def test_glass_and_gray_pictures_have_no_stains(pixels: np.ndarray, message: str, method: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_stain(pixels, method)


def test_a_mean_has_directions_of_unit_length() -> None:
    other = Stain("macenko", (0.62, 0.67, 0.41, 0.16, 0.90, 0.41, 1.0, 1.0))
    mean = mean_stain([MACENKO, other], np.array([1, 3]))
    np.testing.assert_allclose(np.linalg.norm(mean.matrix, axis=0), 1)
    np.testing.assert_allclose(mean.amounts, np.array([1.9705, 1.0308]) / 4 + 0.75)
    assert mean.digest != other.digest
