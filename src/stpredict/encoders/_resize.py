"""Windows of an image to the tiles that an encoder takes."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

    from stpredict.core._stain import Recoloring

_COARSE = 2.0  # pixels that an encoder wants per pixel that there is, beyond which it sees blur


def warn_if_coarse(what: str, side_px: float, tile_px: int, *, stacklevel: int = 2) -> None:
    """Warn where windows have much fewer pixels than an encoder takes, which it cannot make up.

    Parameters
    ----------
    what
        What the windows were cut from.
    side_px
        Side of a window in pixels of the picture.
    tile_px
        Side of the encoder's input.
    stacklevel
        Frames between the user and the caller.
    """
    if side_px * _COARSE < tile_px:
        warnings.warn(
            f"{what} is much coarser than its encoder or network wants: {side_px:g} px are enlarged to {tile_px} px; "
            "take an image of higher resolution, or a larger field of view",
            stacklevel=stacklevel + 1,
        )


def resized(windows: np.ndarray, tile_px: int, device: torch.device, stain: Recoloring | None = None) -> torch.Tensor:
    """Resize windows uint8 (b, side, side, 3) to uint8 tiles (b, 3, tile_px, tile_px), bilinear with antialiasing.

    With `stain` they are recolored: the one place where pixels of tiles get the stains of a reference.
    """
    tiles = _resized(windows, tile_px, device)
    return tiles if stain is None else stain.tiles(tiles)


def _resized(windows: np.ndarray, tile_px: int, device: torch.device) -> torch.Tensor:
    import torch

    tiles = torch.from_numpy(windows).permute(0, 3, 1, 2)
    if windows.shape[1] == tile_px:
        return tiles.contiguous().to(device)
    if device.type == "cpu":  # integer arithmetic, several times faster; accelerators have it for floats only
        return torch.nn.functional.interpolate(tiles, size=(tile_px, tile_px), mode="bilinear", antialias=True)
    tiles = torch.nn.functional.interpolate(
        tiles.to(device).float(), size=(tile_px, tile_px), mode="bilinear", antialias=True
    )
    return tiles.round_().clamp_(0, 255).to(torch.uint8)
