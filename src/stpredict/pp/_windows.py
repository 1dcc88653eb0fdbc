"""Windows around observations, in batches of bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stpredict.io._image import SectionImage

_BATCH_BYTES = 64 * 2**20  # windows at full resolution that are held at once
_BAND_BYTES = 16 * 2**20  # rows of the image that are copied out of it at once, short of one window's height


def windows_around(
    picture: SectionImage, positions: np.ndarray, side: int, batch_size: int = 256
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of the positions (b,) and the windows around them, uint8 (b, side, side, 3), in bounded batches."""
    fitting = max(1, min(batch_size, _BATCH_BYTES // (3 * side**2)))
    # Few spots on a wide image would make the rows between the first and the last of a batch most of the image.
    stripe = positions[:, 1] // max(side, _BAND_BYTES // (3 * picture.width))
    for number in np.unique(stripe):
        rows = np.flatnonzero(stripe == number)
        for index, windows in picture.windows(positions[rows], side, fitting):
            yield rows[index], windows
