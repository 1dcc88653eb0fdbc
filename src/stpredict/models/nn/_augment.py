"""Patches as networks read them: checked, standardized, and varied in training."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from stpredict.encoders._encoder import IMAGENET_MEAN, IMAGENET_STD

_WHITE = 255.0
# Optical density of hematoxylin and eosin in red, green and blue (Ruifrok & Johnston); what is left is across both.
_HEMATOXYLIN, _EOSIN = (0.650, 0.704, 0.286), (0.072, 0.990, 0.105)
_MAX_DENSITY = 1.0  # of a pixel, above which a shift grows no further


def check_patches(patches: Tensor) -> None:
    """Raise unless patches are (n, 3, h, w) uint8.

    Raises
    ------
    TypeError
        When they are not uint8.
    ValueError
        When they have another shape, for example channels last.
    """
    if patches.dtype != torch.uint8:
        raise TypeError(
            f"expected patches as uint8 in 0–255; found {patches.dtype}; pass pixels as they are in the image"
        )
    if patches.dim() == 4 and patches.shape[1] == 3:
        return
    call = "pass color images, red, green and blue"
    if patches.dim() == 4 and patches.shape[3] == 3:
        call = "channels come last: call patches.permute(0, 3, 1, 2)"
    elif patches.dim() == 4 and 4 in (patches.shape[1], patches.shape[3]):
        call = "drop the fourth channel, which holds no color"
    raise ValueError(f"expected patches (n, 3, height, width); found {tuple(patches.shape)}; {call}")


def standardized(patches: Tensor) -> Tensor:
    """Patches (n, 3, h, w) uint8 as float32, standardized like the images of ImageNet."""
    check_patches(patches)
    return _standardized(patches.float() / _WHITE)


def augmented(patches: Tensor, *, symmetries: bool = True, stain_jitter: float = 0.05) -> Tensor:
    """Vary patches, each by its own draw, and standardize them.

    Numbers are drawn from torch's generator on the CPU, so that a seed gives the same views on every device.

    Parameters
    ----------
    patches
        (n, 3, h, w) uint8.
    symmetries
        Draw one of the eight rotations by right angles and reflections (the four that keep the shape, where patches are
        not square).
    stain_jitter
        Largest relative change `j` of the amount of hematoxylin, eosin and what is left of the color in the optical
        density :cite:p:`ruifrok2001`, and largest shift between them, in units of the pixel's own mean density (up to
        1). White has no density and stays white.
    """
    check_patches(patches)
    if not 0 <= stain_jitter < 1:
        raise ValueError(f"expected stain_jitter in [0, 1); found {stain_jitter}")
    if symmetries:
        patches = _turned(patches)
    images = patches.float() / _WHITE
    return _standardized(_jittered(images, stain_jitter) if stain_jitter > 0 else images)


def symmetry(images: Tensor, number: int) -> Tensor:
    """One of the eight symmetries of the square, `number` 0–7, of (n, c, h, w) images; 0 leaves them as they are."""
    turned = torch.rot90(images, number % 4, dims=(2, 3))
    return turned.flip(3) if number >= 4 else turned


def _standardized(images: Tensor) -> Tensor:
    mean, std = (images.new_tensor(values).reshape(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    return (images - mean) / std


def _turned(images: Tensor) -> Tensor:
    """Apply a symmetry drawn for each image."""
    possible = torch.arange(8) if images.shape[2] == images.shape[3] else torch.tensor([0, 2, 4, 6])
    drawn = possible[torch.randint(len(possible), (len(images),))]
    turned = torch.empty_like(images)
    for number in drawn.unique().tolist():
        rows = (drawn == number).nonzero().squeeze(1).to(images.device)
        turned[rows] = symmetry(images[rows], number)
    return turned


def _jittered(images: Tensor, amount: float) -> Tensor:
    """Scale and shift the stains of images (n, 3, h, w) in 0–1, by one draw for each image."""
    stain = torch.tensor([_HEMATOXYLIN, _EOSIN])
    basis = F.normalize(torch.cat([stain, torch.linalg.cross(stain[0], stain[1]).unsqueeze(0)]), dim=1)
    scale, shift = amount * (2 * torch.rand(2, len(images), 3) - 1)
    # Unmixing, scaling and mixing again are one product per pixel.
    mixing = (torch.linalg.inv(basis) * (1 + scale).unsqueeze(1)) @ basis
    density = -torch.log(images.clamp_min(1 / _WHITE)).flatten(2)
    # A shift of the same size everywhere would color the glass.
    own = density.mean(dim=1, keepdim=True).clamp_max(_MAX_DENSITY)
    changed = mixing.transpose(1, 2).to(density) @ density + (shift @ basis).unsqueeze(2).to(density) * own
    return torch.exp(-changed.clamp_min(0)).reshape(images.shape)
