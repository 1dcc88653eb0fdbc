"""A section's full-resolution image: decoded once, read in bands, cut into windows without a loop over spots."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from stpredict.core._stain import Recoloring
from stpredict.io._image_file import ImageFile
from stpredict.io._pixel_source import ArrayPixels, PillowPixels, Pixels
from stpredict.io._pixels import Depth, depth_is_known, measure, to_rgb

_READING = b"2"  # raised when a picture is read otherwise than before, so that nothing made from it is found again
GRAY = "its image is gray; encoders were made for the colors of hematoxylin and eosin"
_BAND_BYTES = 32 * 2**20  # rows that are converted at once when the whole picture is gone through


class SectionImage:
    """An RGB image behind one interface, whatever holds it.

    Parameters
    ----------
    source
        Path of an image file; a Pillow image; an array (h, w), (h, w, 3) or with alpha, of numpy, dask or Zarr; or an
        xarray DataArray with the dimensions y, x and c. Integers of 16 bits and floats in 0–1 are brought to 8 bits,
        transparent pixels are white, and files are turned as their orientation tag says.
    origin
        Position (x, y) of its top left corner; what lies beyond is not in the image.
    area
        Where the image is less than a rectangle, and its pixels are computed: tells by `inside` for positions (n, 2)
        which lie on it (n,), and drops the pixels by `release`.
    remark
        What is to be said about the image where it is used.

    Attributes
    ----------
    height, width
        Size in pixels.
    origin
        Position (x, y) of the top left corner.
    stain
        How the pixels of its tiles are recolored after these are cut, if they are.
    """

    def __init__(self, source: Any, *, origin: Any = (0.0, 0.0), area: Any = None, remark: str | None = None) -> None:
        self._file: ImageFile | None = None
        self._pixels: Pixels | None = None
        self._depth: Depth | None = None
        self._remark, self._area = remark, area
        self.origin = np.asarray(origin, dtype=np.float64)
        self.stain: Recoloring | None = None
        if isinstance(source, (str, Path)):
            self._file = ImageFile(Path(source))
            self.width, self.height = self._file.width, self._file.height
        else:
            self._pixels = _pixels_of(source)
            self.width, self.height = self._pixels.width, self._pixels.height

    def _decoded(self) -> Pixels:
        """Decoded pixels, which are kept until `close`."""
        if self._pixels is None:
            assert self._file is not None
            self._pixels = self._file.decode()
        return self._pixels

    @property
    def deep(self) -> bool:
        """Whether values may have more than 8 bits, as far as that is known without decoding."""
        return self._file.deep if self._file is not None else self._decoded().dtype.itemsize > 1

    @property
    def gray(self) -> bool:
        """Whether there is one channel of color."""
        return self._file.gray if self._file is not None else self._decoded().n_channels in (1, 2)

    @property
    def depth(self) -> Depth:
        """Bits of the picture; where they are not obvious, all pixels are looked at once."""
        if self._depth is None:
            pixels = self._decoded()
            if depth_is_known(pixels.dtype, pixels.n_channels):
                self._depth = Depth(16 if self.deep else 8)
            else:
                self._depth = measure((pixels.rows(*rows) for rows in self._strips()), pixels.name)
        return self._depth

    @depth.setter
    def depth(self, depth: Depth) -> None:
        self._depth = depth

    def _strips(self) -> Iterator[tuple[int, int]]:
        step = max(1, _BAND_BYTES // (8 * self.width))
        for top in range(0, self.height, step):
            yield top, min(top + step, self.height)

    def band(self, top: int, bottom: int) -> np.ndarray:
        """Rows `top` to `bottom` (exclusive) as uint8 (bottom - top, width, 3)."""
        depth = self.depth
        return to_rgb(self._decoded().rows(top, bottom), depth)

    def inside(self, xy: np.ndarray) -> np.ndarray:
        """Which positions (n, 2) lie on the image (n,)."""
        local = np.asarray(xy, dtype=np.float64) - self.origin
        within = np.all((local >= 0) & (local < [self.width, self.height]), axis=1)
        return within if self._area is None else within & self._area.inside(xy)

    def corners(self, centers: np.ndarray, side: int) -> np.ndarray:
        """Top left pixels (n, 2) of square windows around positions (n, 2), as column and row of the image."""
        # A whole number is subtracted after rounding: half pixels are rounded as they are without an origin.
        whole = np.floor(self.origin)
        corner = np.round(np.asarray(centers, dtype=np.float64) - (self.origin - whole) - side / 2) - whole
        return corner.astype(np.int64)

    def reaching_beyond(self, centers: np.ndarray, side: int) -> np.ndarray:
        """Which of the windows around positions (n, 2) reach beyond the border of the image (n,)."""
        corner = self.corners(centers, side)
        beyond = np.any((corner < 0) | (corner + side > [self.width, self.height]), axis=1)
        if self._area is not None:
            for x in (1, side - 1):
                for y in (1, side - 1):
                    beyond |= ~self._area.inside(corner + self.origin + [x, y])
        return beyond

    def windows(self, centers: np.ndarray, side: int, batch_size: int = 256) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Cut square windows around centers, in batches ordered from the top of the image.

        Parameters
        ----------
        centers
            (n, 2) x and y in pixels.
        side
            Side of a window in pixels.
        batch_size
            Windows per batch.

        Yields
        ------
        Indices into `centers` (b,) and the windows as uint8 (b, side, side, 3). What lies beyond the border of the
        image is filled by reflection.
        """
        corner = self.corners(centers, side)
        order = np.argsort(corner[:, 1], kind="stable")
        for start in range(0, len(order), batch_size):
            index = order[start : start + batch_size]
            x, y = corner[index, 0], corner[index, 1]
            pad_y = (max(-int(y.min()), 0), max(int(y.max()) + side - self.height, 0))
            pad_x = (max(-int(x.min()), 0), max(int(x.max()) + side - self.width, 0))
            # The band holds all rows that are reflected, so that a window does not depend on the others of its batch.
            top = max(min(int(y.min()), self.height - 1 - pad_y[1]), 0)
            bottom = min(max(int(y.max()) + side, pad_y[0] + 1), self.height)
            band = self.band(top, bottom)
            if any(pad_x + pad_y):
                mode: Any = "reflect" if max(pad_y) < self.height and max(pad_x) < self.width else "symmetric"
                band = np.pad(band, (pad_y, pad_x, (0, 0)), mode=mode)
            views = np.lib.stride_tricks.sliding_window_view(band, (side, side), axis=(0, 1))
            rows, columns = y - (top - pad_y[0]), x + pad_x[0]
            yield index, np.ascontiguousarray(views[rows, columns].transpose(0, 2, 3, 1))

    def thumbnail(self, max_side: int = 1000) -> tuple[np.ndarray, float]:
        """Downscaled image, uint8 (h, w, 3), and the factor from full-resolution to thumbnail pixels.

        A JPEG is decoded at reduced size, in a fraction of the memory and time of the full image; other files are
        decoded once and kept until `close`.
        """
        factor = min(1.0, max_side / max(self.height, self.width))
        size = (max(1, round(self.width * factor)), max(1, round(self.height * factor)))
        if self._pixels is None and self._file is not None:
            reduced = self._file.reduced(size)
            if reduced is not None:
                depth = Depth() if depth_is_known(reduced.dtype, reduced.n_channels) else self.depth
                return _averages(reduced, depth, size), factor
        return _averages(self._decoded(), self.depth, size), factor

    def remarks(self) -> list[str]:
        """What a user should know about the picture: that it is gray, or how its values were read."""
        said = [] if self._remark is None else [self._remark]
        if self.gray:
            said.append(GRAY)
        if self._pixels is None and not self.deep:
            return said  # of 8 bits: nothing to be said that would be worth decoding it for
        pixels = self._decoded()
        if pixels.dtype.kind == "u" and pixels.dtype.itemsize > 1 and self.depth.bits < 16:
            said.append(
                f"the values of its 16-bit image end below {2**self.depth.bits:,}; they are read as a range of "
                f"{self.depth.bits} bits; pass an image of 8 bits where that is not so"
            )
        if self.depth.empty_alpha:
            said.append("the alpha channel of its image is zero everywhere and is left out")
        return said

    def fingerprint(self) -> str:
        """SHA-256 of the file, or of the pixels where there is no file, and of how tiles are recolored."""
        digest = hashlib.sha256(_READING)
        if self.stain is not None:
            digest.update(self.stain.digest.encode())
        if self._file is not None:
            with self._file.path.open("rb") as handle:
                while chunk := handle.read(1 << 22):
                    digest.update(chunk)
        else:
            digest.update(f"{self.height}x{self.width}".encode())
            if self.origin.any():
                digest.update(self.origin.tobytes())
            for top, bottom in self._strips():
                digest.update(np.ascontiguousarray(self.band(top, bottom)).tobytes())
        return digest.hexdigest()

    def close(self) -> None:
        """Drop what was decoded or computed; it is made again when needed."""
        if self._file is not None:
            self._pixels = None
        if self._area is not None:
            self._area.release()


def _pixels_of(source: Any) -> Pixels:
    """Pixels of what is no path."""
    if hasattr(source, "getbands"):  # a Pillow image
        if source.mode in ("I", "F") or source.mode.startswith("I;16"):
            return ArrayPixels(np.asarray(source), f"mode {source.mode!r}")
        return PillowPixels(source)
    if hasattr(source, "isel"):
        return ArrayPixels(element_array(source))
    if not (hasattr(source, "shape") and hasattr(source, "dtype")) or isinstance(source, np.ma.MaskedArray):
        source = np.asarray(np.ma.filled(source, 0) if isinstance(source, np.ma.MaskedArray) else source)
    return ArrayPixels(source)


def element_array(element: Any) -> Any:
    """Array (y, x, c) or (y, x) of an xarray DataArray, not computed; its channels in the order of red, green, blue."""
    if not {"y", "x"} <= set(element.dims) <= {"c", "y", "x"}:
        raise ValueError(f"expected an image element with dimensions c, y, x; found {tuple(element.dims)}")
    if "c" not in element.dims:
        return element.transpose("y", "x")
    if "c" in element.coords:
        names = [str(name).strip().lower() for name in element.coords["c"].values]
        letters = [name[:1] if name in ("r", "g", "b", "a", "red", "green", "blue", "alpha") else "" for name in names]
        if set("rgb") <= set(letters) and len(set(letters)) == len(letters):
            wanted = [letters.index(letter) for letter in ("rgba" if "a" in letters else "rgb")]
            element = element.isel(c=wanted) if wanted != list(range(len(names))) else element
        elif len(names) == 4 and not all(name.isdigit() for name in names):
            raise ValueError(
                f"expected an image element with the channels r, g, b; found {names}; pass three of them as an array"
            )
    return element.transpose("y", "x", "c")


def _averages(pixels: Pixels, depth: Depth, size: tuple[int, int]) -> np.ndarray:
    """Area averages of a picture, uint8 (h, w, 3), made strip by strip."""
    from PIL import Image

    width, height = size
    ratio = pixels.height / height
    step = max(1, int(_BAND_BYTES / (8 * pixels.width * ratio)))
    out = np.empty((height, width, 3), dtype=np.uint8)
    for start in range(0, height, step):
        stop = min(start + step, height)
        top, bottom = start * ratio, stop * ratio
        first, last = int(top), min(int(np.ceil(bottom - 1e-6)), pixels.height)
        strip = Image.fromarray(to_rgb(pixels.rows(first, last), depth))
        box = (0.0, top - first, float(pixels.width), min(bottom - first, float(last - first)))
        if strip.size == (width, stop - start):
            out[start:stop] = np.asarray(strip)
        else:
            out[start:stop] = np.asarray(strip.resize((width, stop - start), Image.Resampling.BOX, box=box))
    return out
