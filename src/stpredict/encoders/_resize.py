"""Windows of an image to the tiles that an encoder takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch


def resized(windows: np.ndarray, tile_px: int, device: torch.device) -> torch.Tensor:
    """Resize windows uint8 (b, side, side, 3) to uint8 tiles (b, 3, tile_px, tile_px), bilinear with antialiasing."""
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
