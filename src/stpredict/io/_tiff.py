"""TIFF files that Pillow does not read, or reads wrongly: planes, 16 bits, floats, pages after the first, large sizes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from stpredict.io._pixels import MAX_CHANNELS, check_array

_PLAIN = ("NONE", "LZW", "DEFLATE", "ADOBE_DEFLATE", "PACKBITS", "JPEG", "CCITTRLE", "CCITT_T4", "CCITT_T6")
_COLORS = ("MINISBLACK", "MINISWHITE", "RGB", "PALETTE", "SEPARATED", "YCBCR")
_PLANES = "CSIQ"  # axes along which planes of color lie; along depth or time they would be other pictures
_ALPHA = (1, 2)  # kinds of extra samples: alpha multiplied into the colors, or not


@dataclass(frozen=True)
class TiffPicture:
    """Largest picture of a TIFF file.

    Attributes
    ----------
    path
        The file.
    series
        Number of the picture in the file, as tifffile counts.
    axes, shape
        Its axes (`"CYX"`, …) and their sizes, without those of size 1 beside y and x.
    dtype
        Type of its values.
    photometric
        What the values mean.
    order
        Order in which the planes are red, green and blue.
    orientation
        Tag of the file: how to turn the picture.
    """

    path: Path
    series: int
    axes: str
    shape: tuple[int, ...]
    dtype: np.dtype
    photometric: str
    order: tuple[int, ...] | None
    orientation: int

    @property
    def size(self) -> tuple[int, int]:
        """Width and height, turned."""
        height, width = self.shape[self.axes.index("Y")], self.shape[self.axes.index("X")]
        return (height, width) if self.orientation in (5, 6, 7, 8) else (width, height)

    @property
    def name(self) -> str:
        """What the values are, in Pillow's words."""
        return "mode 'F'" if self.dtype.kind == "f" else f"axes {self.axes}"

    def read(self) -> np.ndarray:
        """Pixels (h, w) or (h, w, c), as they are stored."""
        import tifffile

        try:
            with tifffile.TiffFile(self.path) as file:
                values = file.series[self.series].asarray(squeeze=True).reshape(self.shape)
                table = file.series[self.series].keyframe.colormap
        except Exception as error:
            # tifffile and its codecs raise exceptions of many kinds.
            raise ValueError(
                f"expected a complete image at {self.path}; found a truncated or damaged file, or a compression that "
                f"needs the extra `wsi` ({type(error).__name__}: {error}); copy it again, or install the extra"
            ) from error
        values = np.moveaxis(values, [self.axes.index(axis) for axis in "YX"], [0, 1])
        if self.order is not None:
            values = values[..., list(self.order)]
        if self.photometric == "MINISWHITE":
            values = ~values if values.dtype.kind in "bu" else values
        if self.photometric == "PALETTE" and table is not None:
            values = np.moveaxis(table[:, values], 0, -1) >> 8
            values = values.astype(np.uint8)
        if values.dtype == bool:
            values = values.astype(np.uint8) * np.uint8(255)
        return values


def tiff_picture(path: Path) -> TiffPicture | None:
    """Picture of a TIFF that is to be read here; `None` for other formats, and for files that Pillow reads right."""
    import tifffile
    from PIL import Image

    with path.open("rb") as handle:
        if handle.read(4) not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            return None
    try:
        with tifffile.TiffFile(path) as file:
            sizes = [_area(series) for series in file.series]
            number = int(np.argmax(sizes))
            series, page = file.series[number], cast("Any", file.series[number].keyframe)
            limit = Image.MAX_IMAGE_PIXELS  # Pillow counts tiles too
            rows_of_tile = page.tilelength * page.tilewidth if page.is_tiled else 0
            if (
                page.index == 0
                and len(series.pages) == 1
                and series.axes in ("YX", "YXS")
                and page.dtype in (np.uint8, bool)
                and page.planarconfig == 1
                and page.photometric.name in _COLORS
                and page.compression.name in _PLAIN
                and page.samplesperpixel in (1, 2, 3, 4)
                and (limit is None or max(sizes[number], rows_of_tile) <= limit)
            ):
                return None
            orientation = page.tags.get("Orientation")
            return _described(path, number, series, page, file, 1 if orientation is None else int(orientation.value))
    except ValueError as error:
        if str(error).startswith("expected"):
            raise
        return None  # a dialect or a damage that Pillow is to tell about
    except Exception as error:  # noqa: BLE001
        # Same reason: the libraries raise exceptions of many kinds, and what Pillow says is the message.
        del error
        return None


def _area(series: Any) -> int:
    if not {"Y", "X"} <= set(series.axes):
        return 0
    return int(series.shape[series.axes.index("Y")]) * int(series.shape[series.axes.index("X")])


def _described(path: Path, number: int, series: Any, page: Any, file: Any, orientation: int) -> TiffPicture:
    kept = [(axis, int(n)) for axis, n in zip(series.axes, series.shape, strict=True) if n != 1 or axis in "YX"]
    axes, shape = "".join(axis for axis, _ in kept), tuple(n for _, n in kept)
    others = [(axis, n) for axis, n in kept if axis not in "YX"]
    found = f"found {len(series.pages)} pages with axes {axes}, {' x '.join(map(str, shape))}"
    if len(others) > 1 or (others and others[0][0] not in _PLANES):
        raise ValueError(f"expected one picture at {path}; {found}; save the one that is meant as a file of its own")
    n_channels = others[0][1] if others else 1
    order = None
    if n_channels > 1:
        alpha = bool(set(map(int, page.extrasamples or ())) & set(_ALPHA))
        names = _channel_names(file)
        order = _order(names, n_channels)
        if n_channels == MAX_CHANNELS and order is None and not alpha and page.photometric.name != "RGB":
            raise ValueError(
                f"expected three planes (red, green and blue) at {path}; {found}"
                f"{f', named {names}' if names else ''}; pass three of these channels as an array"
            )
        if (n_channels == 2 and not alpha) or n_channels > MAX_CHANNELS:
            raise ValueError(
                f"expected three channels (red, green and blue) at {path}; {found}; pass three of them as an array"
            )
    if page.photometric.name not in (*_COLORS[:4], "YCBCR"):
        raise ValueError(
            f"expected RGB or gray at {path}; found {page.photometric.name} in {page.dtype}; convert it to 8-bit RGB"
        )
    dtype = np.dtype(np.uint8) if page.dtype == bool else np.dtype(page.dtype)
    if page.photometric.name != "PALETTE":
        height, width = (shape[axes.index(axis)] for axis in "YX")
        check_array((height, width, n_channels), dtype)
    return TiffPicture(path, number, axes, shape, dtype, page.photometric.name, order, orientation)


def _channel_names(file: Any) -> list[str]:
    return re.findall(r"<Channel\b[^>]*?\bName=\"([^\"]*)\"", file.ome_metadata or "")


def _order(names: list[str], n_channels: int) -> tuple[int, ...] | None:
    """Places of red, green and blue (and alpha) where the channels are named after them; `None` elsewhere."""
    words = [name.strip().lower() for name in names]
    if len(words) != n_channels:
        return None
    letters = [word[:1] if word in ("r", "g", "b", "a", "red", "green", "blue", "alpha") else "" for word in words]
    wanted = "rgba"[:n_channels]
    return tuple(letters.index(letter) for letter in wanted) if set(letters) == set(wanted) else None
