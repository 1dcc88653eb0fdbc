"""Where pixels come from: an array of any library, or a decoded image, read row by row."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np

from stpredict.io._pixels import check_array


class Pixels(Protocol):
    """Decoded pixels of a picture, from top to bottom."""

    name: str
    width: int
    height: int
    n_channels: int
    dtype: np.dtype

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Some rows, (h, w) or (h, w, c) of uint8, uint16 or floats."""
        ...


class ArrayPixels:
    """Pixels of an array: numpy, dask, Zarr, xarray, or another that is cut by slices.

    Parameters
    ----------
    array
        (h, w) or (h, w, c).
    name
        What it is, for messages.
    """

    def __init__(self, array: Any, name: str = "") -> None:
        self.array, self.name = array, name
        self.dtype = np.dtype(array.dtype)
        check_array(tuple(array.shape), self.dtype)
        self.height, self.width = map(int, array.shape[:2])
        self.n_channels = 1 if len(array.shape) == 2 else int(array.shape[2])

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Some rows."""
        if isinstance(self.array, np.ndarray):
            return self.array[top:bottom]
        try:
            part = self.array[top:bottom]
            return np.asarray(getattr(part, "values", part))
        except Exception as error:
            # Pixels of a store are read here at last, and every store raises exceptions of its own for damaged ones.
            raise ValueError(
                f"expected the pixels of an image; found that rows {top} to {bottom} cannot be read "
                f"({type(error).__name__}: {error}); copy the store that holds it again"
            ) from error


class PillowPixels:
    """Pixels of a decoded Pillow image, kept in its own mode and converted row by row.

    Parameters
    ----------
    image
        The image.
    """

    def __init__(self, image: Any) -> None:
        self.image, self.name = image, f"mode {image.mode!r}"
        self.dtype = np.dtype(np.uint8)
        self.width, self.height = image.size
        gray = image.mode in ("1", "L", "LA", "La")
        transparent = image.has_transparency_data or image.mode in ("La", "RGBa")
        self.n_channels = (1 if gray else 3) + transparent
        self._mode = ("L" if gray else "RGB") + ("A" if transparent else "")

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Some rows."""
        from PIL import Image

        part = self.image
        if (top, bottom) != (0, self.height):
            # Not `crop`, which refuses sizes beyond a limit that all threads share.
            box = (0, top, self.width, bottom)
            part = part.transform((self.width, bottom - top), Image.Transform.EXTENT, box)
        return np.asarray(part if part.mode == self._mode else part.convert(self._mode))
