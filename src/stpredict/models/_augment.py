"""Patches as networks read them: checked, standardized, and varied in training."""

from __future__ import annotations

import torch
from torch import Tensor

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Optical density of hematoxylin, eosin and what is left, rows of unit length (Ruifrok & Johnston).
_STAINS = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105), (0.268, 0.570, 0.776))
_WHITE = 255.0


def check_patches(patches: Tensor) -> None:
    """Raise unless patches are (n, 3, h, w) uint8.

    Raises
    ------
    TypeError
        When they are no uint8.
    ValueError
        When they have another shape, for example channels last.
    """
    if patches.dtype != torch.uint8:
        raise TypeError(f"expected patches as uint8 in 0–255; found {patches.dtype}; pass them as they are in the image")
    if patches.dim() != 4 or patches.shape[1] != 3:
        raise ValueError(
            f"expected patches (n, 3, h, w) with the channels red, green, blue second; found {tuple(patches.shape)}; "
            "call patches.permute(0, 3, 1, 2) where channels come last"
        )


def standardized(patches: Tensor) -> Tensor:
    """Patches (n, 3, h, w) uint8 as float32, standardized like the images of ImageNet."""
    check_patches(patches)
    return _standardized(patches.float() / _WHITE)


def augmented(patches: Tensor, *, symmetries: bool = True, stain_jitter: float = 0.05) -> Tensor:
    """Vary patches, each by its own draw, and standardize them.

    Parameters
    ----------
    patches
        (n, 3, h, w) uint8.
    symmetries
        Draw one of the eight rotations by right angles and reflections (the four that keep the shape, where a patch is
        not square).
    stain_jitter
        Largest relative change, and largest shift, of the optical density of each stain; white stays white.
    """
    check_patches(patches)
    images = patches.float() / _WHITE
    if stain_jitter > 0:
        images = _jittered(images, stain_jitter)
    if symmetries:
        numbers = range(8) if images.shape[2] == images.shape[3] else (0, 2, 4, 6)
        drawn = torch.randint(len(numbers), (len(images),), device=images.device)
        turned = torch.empty_like(images)
        for i, number in enumerate(numbers):
            turned[drawn == i] = symmetry(images[drawn == i], number)
        images = turned
    return _standardized(images)


def symmetry(images: Tensor, number: int) -> Tensor:
    """One of the eight symmetries of the square, `number` 0–7, of (n, c, h, w) images; 0 leaves them as they are."""
    turned = torch.rot90(images, number % 4, dims=(2, 3))
    return turned.flip(3) if number >= 4 else turned


def _standardized(images: Tensor) -> Tensor:
    mean, std = (images.new_tensor(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def _jittered(images: Tensor, amount: float) -> Tensor:
    """Scale and shift the amount of each stain (n, 3, h, w in 0–1)."""
    basis = torch.nn.functional.normalize(images.new_tensor(_STAINS), dim=1)
    density = -torch.log(images.clamp_min(1 / _WHITE))
    stains = torch.einsum("nchw,cs->nshw", density, torch.linalg.inv(basis))
    scale, shift = ((torch.rand(2, len(images), 3, 1, 1, device=images.device) * 2 - 1) * amount).unbind(0)
    # A shift in proportion to the staining of a pixel, at most as large as the shift itself: glass has none.
    changed = stains * (1 + scale) + shift * density.mean(dim=1, keepdim=True).clamp_max(1)
    return torch.exp(-torch.einsum("nshw,sc->nchw", changed, basis)).clamp(0, 1)
