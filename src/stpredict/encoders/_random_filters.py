"""A bank of random convolutions: texture that nobody has named, without weights to download."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from stpredict.encoders._segment_nuclei import stain_unmixing

_FIRST, _SECOND = 48, 96  # filters of the two layers
_SEED = 0


def _filters(rng: np.random.RandomState, shape: tuple[int, ...]) -> Tensor:
    """Filters (out, in, k, k) of mean 0 in every channel and norm 1."""
    values = rng.standard_normal(shape)
    values -= values.mean(axis=(2, 3), keepdims=True)
    values /= np.sqrt((values**2).sum(axis=(1, 2, 3), keepdims=True))
    return torch.from_numpy(values.astype(np.float32))


class RandomFilters(nn.Module):
    """Two layers of random convolutions on the densities of the stains, and the mean and spread of what they answer.

    `forward` takes RGB in 0–1, float (b, 3, side, side), and returns (b, 288). The filters are drawn from a generator
    whose numbers are the same everywhere. Means of a stain, which color encoders know already, do not pass the filters.
    """

    unmixing: Tensor
    first: Tensor
    second: Tensor

    def __init__(self) -> None:
        super().__init__()
        rng = np.random.RandomState(_SEED)  # frozen by NumPy, as those of `default_rng` and torch are not
        self.register_buffer("unmixing", torch.from_numpy(stain_unmixing()))
        self.register_buffer("first", _filters(rng, (_FIRST, 3, 7, 7)))
        self.register_buffer("second", _filters(rng, (_SECOND, _FIRST, 5, 5)))
        self.dim = 2 * (_FIRST + _SECOND)

    def forward(self, tiles: Tensor) -> Tensor:
        """Features (b, 288) of tiles (b, 3, side, side) with values in 0–1."""
        density = -torch.log10((tiles * 255 + 1) / 256)
        stains = torch.einsum("cs,bchw->bshw", self.unmixing, density)
        found = []
        for filters in (self.first, self.second):
            stains = nn.functional.conv2d(stains, filters, stride=2).relu()
            flat = stains.flatten(2)
            found += [flat.mean(dim=2), flat.std(dim=2, correction=0)]
        return torch.cat(found, dim=1)
