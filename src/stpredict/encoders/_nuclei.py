"""The nuclei of a tile as an encoder: found, measured and summarized, without weights."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from stpredict.encoders._measure_nuclei import distances, measure_nuclei
from stpredict.encoders._segment_nuclei import UM_PER_PX, segment_nuclei, stain_densities
from stpredict.encoders._summarize_nuclei import nuclei_names, summarize_nuclei


class Nuclei(nn.Module):
    """Nuclei of H&E tiles, summarized.

    `forward` takes RGB in 0–1, float (b, 3, side, side) of 0.5 µm per pixel, and returns (b, dim); dimensions are those
    of :func:`stpredict.encoders.nuclei_names`. It runs on the processor, whatever device the tiles are on.
    """

    #: Raised when features change with the same source of this class, so that cached ones are not taken for them.
    revision: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.dim = len(nuclei_names())
        self.register_buffer("revision", torch.tensor(1))

    def forward(self, tiles: Tensor) -> Tensor:
        """Features (b, dim) of tiles (b, 3, side, side) with values in 0–1."""
        pictures = (tiles * 255).round().clamp(0, 255).to("cpu", torch.uint8).permute(0, 2, 3, 1).numpy()
        return torch.from_numpy(tile_summary(pictures)).to(tiles.device)


def tile_summary(pictures: np.ndarray) -> np.ndarray:
    """Features float32 (b, dim) of pictures uint8 (b, side, side, 3)."""
    side = pictures.shape[1]
    found, whole = [], []
    for picture in pictures:
        stains = stain_densities(picture)
        labels = segment_nuclei(picture, stains[0])
        nuclei = measure_nuclei(labels, stains)
        xy = np.column_stack([nuclei["x"], nuclei["y"]]) * UM_PER_PX
        found.append(nuclei | distances(xy))
        cut = np.concatenate([labels[0], labels[-1], labels[:, 0], labels[:, -1]])
        inside = np.ones(len(xy) + 1, bool)
        inside[cut] = False
        whole.append(inside[1:])
    tile = np.repeat(np.arange(len(found)), [len(part) for part in whole])
    together = {name: np.concatenate([nuclei[name] for nuclei in found]) for name in found[0]}
    offset = (np.column_stack([together["x"], together["y"]]) - side / 2) * UM_PER_PX
    return summarize_nuclei(together, tile, offset, len(found), side * UM_PER_PX, whole=np.concatenate(whole))
