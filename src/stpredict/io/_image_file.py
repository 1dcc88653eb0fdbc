"""Decode image files: one function, whatever the format, that touches no global setting of the libraries."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from stpredict.io._pixel_source import ArrayPixels, PillowPixels
from stpredict.io._tiff import TiffPicture, tiff_picture

MAX_PIXELS = 2**31  # beyond this the libraries' own arrays overflow; such images belong in a pyramid
_PLAUSIBLE_FROM = 50_000_000  # pixels from which a header is compared with the size of its file
# Pixels that a byte can stand for at most: deflate packs 1032 bytes into one, a JPEG some hundred pixels, others more.
_DENSEST = {"PNG": 1032 * 8, "JPEG": 1024, "MPO": 1024}
_DENSEST_OTHER = 20_000
_ORIENTATION = 0x0112  # tag of EXIF and TIFF
_TURNED = (5, 6, 7, 8)  # orientations that exchange rows and columns
_FULL = 64  # upper bytes below this leave 14 bits or fewer, and the lower ones count
_UPPER = ("RGB;16B", "RGBA;16B", "LA;16B")  # what Pillow keeps of 16 bits in a PNG: the upper byte


class ImageFile:
    """An image file whose size is known and whose pixels are decoded when they are needed.

    Parameters
    ----------
    path
        The file.

    Attributes
    ----------
    width, height
        Size in pixels, upright as its orientation tag says.
    gray, deep
        Whether it has no color, and whether its values may have more than 8 bits, as far as the header says.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._tiff: TiffPicture | None = tiff_picture(path)
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"expected an image at {path}; found no file; pass `image=` or correct metadata.source_image_path"
            ) from error
        except (IsADirectoryError, PermissionError) as error:
            raise ValueError(f"expected an image at {path}; found {error.strerror}; pass the path of a file") from error
        if self._tiff is not None:
            (self.width, self.height), kind = self._tiff.size, "TIFF"
            self.gray = self._tiff.axes == "YX" and self._tiff.photometric != "PALETTE"
            self.deep = self._tiff.dtype.itemsize > 1
        else:
            with self._open() as image:
                self.width, self.height = image.size
                kind = str(image.format)
                numbers = image.mode in ("I", "F") or image.mode.startswith("I;16")
                self.deep = numbers or _has_upper_bytes(image)
                self.gray = numbers or image.mode in ("1", "L", "LA", "La")
                if kind != "TIFF" and _orientation(image) in _TURNED:  # Pillow turns a TIFF, and its size, itself
                    self.width, self.height = self.height, self.width
        self._check_size(kind)

    def decode(self) -> ArrayPixels | PillowPixels:
        """All pixels, upright."""
        if self._tiff is not None:
            return ArrayPixels(_upright(self._tiff.read(), self._tiff.orientation), self._tiff.name)
        image = self._open()
        partial, mode = _has_upper_bytes(image), image.tile[0][3] if image.tile else None
        self._load(image)
        colors = [name for name in image.getbands() if name != "A"]
        if partial and max(image.getchannel(name).getextrema()[1] for name in colors) < _FULL:
            if mode == "LA;16B":
                raise ValueError(
                    f"expected an image at {self.path} that uses 8 or 16 bits; found gray with alpha that uses fewer of 16; "
                    "save it without alpha, or with 8 bits"
                )
            # The camera used 14 bits or fewer: the lower bytes hold most of the picture.
            lower = self._open()
            name, box, offset, _ = lower.tile[0]
            lower.tile = [(name, box, offset, str(mode).replace("16B", "16L"))]
            self._load(lower)
            return ArrayPixels(np.asarray(image).astype(np.uint16) << 8 | np.asarray(lower), "16 bits")
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return ArrayPixels(_numbers(np.asarray(image), image.mode), f"mode {image.mode!r}")
        return PillowPixels(image)

    def reduced(self, size: tuple[int, int]) -> PillowPixels | None:
        """Pixels of at least this size (width, height) where the format can leave out the others; `None` elsewhere."""
        if self._tiff is not None:
            return None
        image = self._open()
        if image.format not in ("JPEG", "MPO"):
            image.close()
            return None
        image.draft(None, size[::-1] if _orientation(image) in _TURNED else size)
        if image.size[0] * image.size[1] >= self.width * self.height:
            image.close()
            return None
        self._load(image)
        return PillowPixels(image)

    def _load(self, image: Any) -> None:
        """Decode, and turn upright."""
        from PIL import ImageOps

        try:
            image.load()
            if image.format != "TIFF":
                ImageOps.exif_transpose(image, in_place=True)
            if image.mode in ("P", "PA") and image.palette is None:
                raise ValueError("its palette is lost")
        except Exception as error:
            # Each format raises exceptions of its own for a damaged file.
            raise ValueError(
                f"expected a complete image at {self.path}; found a truncated or damaged file ({error}); copy it again"
            ) from error
        finally:
            if getattr(image, "fp", None) is not None:
                image.fp.close()
                image.fp = None

    def _open(self) -> Any:
        """Pillow image that is not decoded yet; as `Image.open`, without its limit, which all threads share."""
        from PIL import Image

        with self.path.open("rb") as handle:
            prefix = handle.read(16)
        reasons = []
        for prepare in (Image.preinit, Image.init):
            prepare()
            for name in dict.fromkeys(Image.ID):
                factory, accept = Image.OPEN[name]
                make: Any = factory  # takes a path as well as a file, and closes it then
                try:
                    accepted = accept is None or accept(prefix)
                    if not accepted or isinstance(accepted, str):
                        continue
                    return make(str(self.path), "")
                except Image.DecompressionBombError as error:
                    raise ValueError(
                        f"expected an image at {self.path} that Pillow takes; found a {name} too large for it ({error}); "
                        "convert it to TIFF"
                    ) from error
                except (SyntaxError, LookupError, TypeError, EOFError, struct.error, OSError, ValueError) as error:
                    reasons.append(f"{name}: {error}")  # another one may know it
        hidden = "; a name that begins with ._ is that of a hidden file of a Mac" if self.path.name[:2] == "._" else ""
        raise ValueError(
            f"expected an image at {self.path}; found a file that Pillow cannot read"
            f"{f' ({reasons[0]})' if reasons else ''}{hidden}"
        )

    def _check_size(self, kind: str) -> None:
        """Refuse sizes that cannot be held, or cannot be true, before memory is taken."""
        pixels, size = self.width * self.height, self.path.stat().st_size
        if pixels > MAX_PIXELS:
            raise ValueError(
                f"expected an image of at most {MAX_PIXELS:,} pixels at {self.path}; found {self.width:,} x "
                f"{self.height:,}; convert it to a pyramid and use stp.io.open_slide, or scale it down"
            )
        if pixels > max(_PLAUSIBLE_FROM, size * _DENSEST.get(kind, _DENSEST_OTHER)):
            raise ValueError(
                f"expected a complete image at {self.path}; found a truncated or damaged file (its header says "
                f"{self.width:,} x {self.height:,} px, and it has {size:,} bytes); copy it again"
            )


def _has_upper_bytes(image: Any) -> bool:
    """Whether Pillow keeps only the upper byte of every value."""
    return image.format == "PNG" and bool(image.tile) and image.tile[0][3] in _UPPER


def _orientation(image: Any) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION) or 1)
    except Exception as error:  # noqa: BLE001
        # A damaged tag is no tag; the libraries behind it raise exceptions of many kinds.
        del error
        return 1


def _upright(values: np.ndarray, orientation: int) -> np.ndarray:
    """View of an array as its orientation tag says."""
    if orientation in _TURNED:
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):  # after the exchange of axes: the rows run upward
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def _numbers(values: np.ndarray, mode: str) -> np.ndarray:
    """Pixels that Pillow holds as numbers: 16 bits, floats, or whole numbers that fit into 16 bits."""
    if values.dtype.kind != "i":
        return values
    if values.min() < 0 or values.max() >= 2**16:
        raise ValueError(
            f"expected an image of 8 or 16 bits per channel; found mode {mode!r} with values from {values.min()} to "
            f"{values.max()}; convert it first"
        )
    return values.astype(np.uint16)
