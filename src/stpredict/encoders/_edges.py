"""What is drawn of a tile before it is encoded: the edges of hematoxylin, dark on white."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

_STEEP = 0.25  # optical density of hematoxylin per µm that is drawn black; the border of a dark nucleus has about that


def edges_by_differences(tiles: Tensor, um_per_px: float) -> Tensor:
    """Draw where hematoxylin changes, by central differences.

    Parameters
    ----------
    tiles
        uint8 (b, 3, h, w).
    um_per_px
        Size of a pixel, so that a drawing does not depend on the resolution.

    Returns
    -------
    uint8 (b, 3, h, w): white where nothing changes, black where the density changes by 0.25 per µm or more.
    """
    import torch
    from torch.nn import functional as F

    from stpredict.encoders._segment_nuclei import stain_unmixing

    density = -((tiles.float() + 1) / 256).log10()
    unmixing = torch.from_numpy(stain_unmixing()[:, :1]).to(density)
    hematoxylin = F.pad(torch.einsum("bchw,cs->bshw", density, unmixing), (1, 1, 1, 1), mode="replicate")
    across = (hematoxylin[..., 1:-1, 2:] - hematoxylin[..., 1:-1, :-2]) / 2
    down = (hematoxylin[..., 2:, 1:-1] - hematoxylin[..., :-2, 1:-1]) / 2
    return drawing(torch.hypot(across, down) / um_per_px / _STEEP)


def edges_by_network(weights: str | Path) -> tuple[Callable[[Tensor, float], Tensor], str]:
    """Draw edges by a PiDiNet of given weights.

    Returns
    -------
    A function like :func:`edges_by_differences`, and what to know the weights by.
    """
    import hashlib

    import torch

    from stpredict.encoders._encoder import IMAGENET_MEAN, IMAGENET_STD
    from stpredict.encoders._pidinet import PiDiNet

    network = PiDiNet().eval()
    network.load(weights)
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in network.state_dict().values())).hexdigest()

    def draw(tiles: Tensor, um_per_px: float) -> Tensor:
        mean, std = (torch.tensor(v, device=tiles.device).reshape(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
        with torch.inference_mode():
            return drawing(network.to(tiles.device)((tiles.float() / 255 - mean) / std))

    return draw, digest


def drawing(strength: Tensor) -> Tensor:
    """Strengths (b, 1, h, w), cut at 0 and 1, as uint8 (b, 3, h, w), dark on white."""
    import torch

    return (255 * (1 - strength.clamp(0, 1))).round().to(torch.uint8).expand(-1, 3, -1, -1).contiguous()
