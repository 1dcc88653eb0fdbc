"""Patches checked, standardized and varied."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stpredict.encoders._encoder import IMAGENET_MEAN, IMAGENET_STD
from stpredict.models.nn import _augment
from stpredict.models.nn._augment import augmented, check_patches, standardized, symmetry


def patches(n: int = 40, height: int = 6, width: int = 6) -> torch.Tensor:
    values = np.random.default_rng(0).integers(0, 256, (n, 3, height, width), dtype=np.uint8)
    return torch.from_numpy(values)


def pixels(images: torch.Tensor) -> torch.Tensor:
    """Undo the standardization: values in 0–1."""
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return images * std + mean


def test_eight_symmetries() -> None:
    square = torch.arange(9.0).reshape(1, 1, 3, 3)
    views = [symmetry(square, number) for number in range(8)]
    assert torch.equal(views[0], square)
    known = {tuple(view.flatten().tolist()) for view in views}
    assert len(known) == 8
    # The group of the square: closed under composition, and the center stays.
    for first in range(8):
        for second in range(8):
            assert tuple(symmetry(symmetry(square, first), second).flatten().tolist()) in known
    assert all(view[0, 0, 1, 1] == 4 for view in views)
    assert torch.equal(symmetry(square, 4), square.flip(3))


def test_standardized_as_imagenet() -> None:
    images = standardized(patches(3))
    assert images.dtype == torch.float32
    expected = (patches(3)[1, 2, 4, 5] / 255 - 0.406) / 0.225
    torch.testing.assert_close(images[1, 2, 4, 5], expected)


def test_nothing_asked_for_changes_nothing() -> None:
    torch.testing.assert_close(augmented(patches(), symmetries=False, stain_jitter=0.0), standardized(patches()))


@pytest.mark.parametrize(("width", "numbers"), [(6, range(8)), (4, (0, 2, 4, 6))])
def test_every_patch_draws_one_of_the_symmetries(width, numbers) -> None:
    torch.manual_seed(0)
    plain = standardized(patches(width=width))
    turned = augmented(patches(width=width), stain_jitter=0.0)
    views = torch.stack([symmetry(plain, number) for number in numbers])
    same = torch.isclose(views, turned).flatten(2).all(dim=2)
    assert (same.sum(dim=0) == 1).all()  # no two views of noise are alike
    assert same.any(dim=1).all()  # 40 patches draw every symmetry


def test_white_stays_white_and_a_small_jitter_changes_little() -> None:
    white = torch.full((5, 3, 4, 4), 255, dtype=torch.uint8)
    torch.testing.assert_close(augmented(white, stain_jitter=0.5), standardized(white))
    before, after = pixels(standardized(patches())), pixels(augmented(patches(), symmetries=False, stain_jitter=1e-5))
    torch.testing.assert_close(after, before.clamp_min(1 / 255), atol=1e-3, rtol=0)


def test_jitter_changes_the_color_of_each_patch_by_its_own_draw() -> None:
    one = patches(1).repeat(20, 1, 1, 1)
    images = augmented(one, symmetries=False, stain_jitter=0.2)
    assert images.shape == one.shape
    assert images.dtype == torch.float32
    assert torch.isfinite(images).all()
    assert pixels(images).min() > -1e-6
    assert pixels(images).max() < 1 + 1e-6
    assert len(torch.unique(images[:, 0, 0, 0])) > 15
    assert (images - standardized(one)).abs().amax(dim=(1, 2, 3)).min() > 0.01
    # Where a stain lies does not change: light and dark keep their places.
    after = pixels(augmented(one, symmetries=False, stain_jitter=0.05)).mean(dim=1).flatten(1)
    light = torch.cat([pixels(standardized(one[:1])).mean(dim=1).flatten(1), after])
    assert torch.corrcoef(light)[0].min() > 0.95


def test_jitter_is_what_unmixing_by_hand_gives() -> None:
    """Density in the basis of hematoxylin, eosin and their cross product, scaled and shifted."""
    some = patches(4)
    torch.manual_seed(3)
    scale, shift = (0.1 * (2 * torch.rand(2, 4, 3) - 1)).double().numpy()
    torch.manual_seed(3)
    found = pixels(augmented(some, symmetries=False, stain_jitter=0.1)).numpy()
    basis = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0, 0, 0]])
    basis[2] = np.cross(basis[0], basis[1])
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    for i in range(4):
        density = -np.log(np.maximum(some[i].numpy() / 255, 1 / 255)).reshape(3, -1)
        amounts = np.linalg.solve(basis.T, density)
        changed = amounts * (1 + scale[i][:, None]) + shift[i][:, None] * np.minimum(density.mean(axis=0), 1)
        expected = np.exp(-np.maximum(basis.T @ changed, 0)).reshape(3, 6, 6)
        np.testing.assert_allclose(found[i], expected, atol=1e-5)


def test_a_seed_gives_the_same_views_and_another_does_not() -> None:
    def views(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return augmented(patches())

    assert torch.equal(views(1), views(1))
    assert not torch.equal(views(1), views(2))


def test_work_does_not_grow_with_the_number_of_patches(monkeypatch) -> None:
    calls = []
    plain = _augment.symmetry
    monkeypatch.setattr(_augment, "symmetry", lambda images, number: calls.append(number) or plain(images, number))
    augmented(patches(500))
    assert sorted(calls) == list(range(8))


def test_empty_and_single() -> None:
    assert augmented(patches(0)).shape == (0, 3, 6, 6)
    assert augmented(patches(1, 1, 1)).shape == (1, 3, 1, 1)


@pytest.mark.parametrize("function", [check_patches, standardized, augmented])
@pytest.mark.parametrize(
    ("wrong", "error", "match"),
    [
        (torch.zeros(2, 3, 4, 4), TypeError, "uint8"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.int64), TypeError, "int64"),
        (torch.zeros(2, 5, 5, 3, dtype=torch.uint8), ValueError, "permute"),
        (torch.zeros(2, 4, 5, 5, dtype=torch.uint8), ValueError, "fourth channel"),
        (torch.zeros(2, 1, 5, 5, dtype=torch.uint8), ValueError, "color images"),
        (torch.zeros(3, 5, 5, dtype=torch.uint8), ValueError, "n, 3, height, width"),
    ],
)
def test_other_arrays_are_refused(function, wrong, error, match) -> None:
    with pytest.raises(error, match=match):
        function(wrong)


@pytest.mark.parametrize("amount", [-0.1, 1.0])
def test_jitter_out_of_range(amount) -> None:
    with pytest.raises(ValueError, match="stain_jitter"):
        augmented(patches(), stain_jitter=amount)


@pytest.mark.gpu
def test_the_same_views_on_an_accelerator() -> None:
    views = []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        views.append(augmented(patches().to(device)).cpu())
    torch.testing.assert_close(views[0], views[1], atol=1e-4, rtol=0)
