"""A whole slide behind a SpatialData: its reader, its scale, and windows of it read in bounded memory."""

from __future__ import annotations

import copy as copying
import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.io._read_level import read_level
from stpredict.slots._container import is_spatialdata
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    from spatialdata import SpatialData

_PROPERTIES = "slide_properties"  # wsidata's place for what it knows about a slide
_READING = b"2"  # raised when slides are read otherwise than before, so that nothing made from them is found again
_BLOCK_PX = 2048  # side of what is read from a slide at once
_STRIP_BYTES = 48 * 2**20  # rows of a level that are read at once for a thumbnail
_TILE_PX = 256  # usual side of the compressed tiles of a slide; part of every read beyond what was asked for


def is_slide(data: Any) -> bool:
    """Whether `data` is a SpatialData with a whole slide behind it."""
    return is_spatialdata(data) and _PROPERTIES in data.attrs


def check_slide(data: Any) -> SpatialData:
    """Raise `TypeError` unless `data` is a SpatialData with a whole slide behind it."""
    if not is_slide(data):
        what = "SpatialData without a slide" if is_spatialdata(data) else type(data).__name__
        raise TypeError(f"expected a slide of stp.io.open_slide; found {what}")
    slide: SpatialData = data
    return slide


def slide_microns_per_pixel(sdata: SpatialData) -> float:
    """µm per pixel of level 0; an error when unknown."""
    from stpredict.core._validate import check_positive

    value = sdata.attrs[_PROPERTIES].get("mpp")
    if value is None:
        raise ValueError(
            "expected the µm per pixel of the slide; found none in attrs['slide_properties']; "
            "open it with stp.io.open_slide(path, microns_per_pixel=...)"
        )
    return check_positive(float(value), "µm per pixel of the slide")


def slide_size(sdata: SpatialData) -> tuple[int, int]:
    """Width and height of level 0 in pixels."""
    height, width = sdata.attrs[_PROPERTIES]["shape"]
    return int(width), int(height)


def slide_name(sdata: SpatialData) -> str:
    """Name of the slide: the one given at opening, or the stem of its file."""
    record = sdata.attrs.get(Key.UNS, {})
    if record.get("sample"):
        return str(record["sample"])
    reader = getattr(sdata, "reader", None)
    return "slide" if reader is None else Path(str(reader.file)).stem


def slide_path(sdata: SpatialData) -> Path:
    """File of the slide; an error when it is not known."""
    reader = getattr(sdata, "reader", None)
    path = reader.file if reader is not None else sdata.attrs.get(Key.UNS, {}).get("source_image_path")
    if path is None:
        raise KeyError(
            "expected the path of the slide in attrs['stpredict']['source_image_path']; found none; "
            "open the slide with stp.io.open_slide, or set it"
        )
    return Path(str(path))


@contextmanager
def slide_reader(sdata: SpatialData) -> Iterator[Any]:
    """Reader of the slide's file, as in wsidata: that of the object, or a new one for an object read from Zarr."""
    reader = getattr(sdata, "reader", None)
    if reader is not None:
        yield reader
        return
    from stpredict.io._open_slide import open_reader

    path = slide_path(sdata)
    if not path.is_file():
        raise FileNotFoundError(
            f"expected the slide at {path}; found no file; correct attrs['stpredict']['source_image_path']"
        )
    reader = open_reader(path)
    try:
        expected, found = list(sdata.attrs[_PROPERTIES]["shape"]), list(reader.properties.shape)
        if expected != found:
            raise ValueError(f"expected a slide of {expected} px (height, width) at {path}; found {found}")
        yield reader
    finally:
        reader.detach_reader()


def slide_fingerprint(path: Path) -> str:
    """SHA-256 of the slide's file, and of the names and sizes in the folder of the same name, if there is one."""
    digest = hashlib.sha256(_READING)
    with path.open("rb") as file:
        while piece := file.read(1 << 22):
            digest.update(piece)
    folder = path.with_suffix("")
    if path.suffix.lower() == ".mrxs" and folder.is_dir():  # such a file is only the index of its folder
        for part in sorted(folder.iterdir()):
            digest.update(f"{part.name} {part.stat().st_size}".encode())
    return digest.hexdigest()


def shallow_copy(sdata: SpatialData) -> SpatialData:
    """New object with the same elements and an own copy of the attributes."""
    from spatialdata import SpatialData

    parts = {name: dict(getattr(sdata, name)) for name in ("images", "labels", "points", "shapes", "tables")}
    plain = SpatialData(**parts, attrs=copying.deepcopy(dict(sdata.attrs)))
    reader = getattr(sdata, "reader", None)
    if reader is None:
        return plain
    from wsidata import WSIData

    slide: SpatialData = WSIData.from_spatialdata(plain, reader)
    return slide


def slide_thumbnail(
    reader: Any, microns_per_pixel: float, target_um: float, max_side: int | None = None
) -> tuple[np.ndarray, float]:
    """Picture of the whole slide by area averages, read in strips.

    Parameters
    ----------
    reader
        Reader of the slide.
    microns_per_pixel
        µm per pixel of level 0.
    target_um
        µm per pixel of the picture; the result is as near to it as a whole reduction of a level comes, but not coarser.
    max_side
        Longest side in pixels, which makes the picture coarser where needed.

    Returns
    -------
    Picture, uint8 (h, w, 3), and level-0 pixels per pixel of it.
    """
    from PIL import Image

    height, width = reader.properties.shape
    downsample = target_um / microns_per_pixel
    if max_side is not None:
        downsample = max(downsample, max(height, width) / max_side)
    level = sufficient_level(reader, downsample)
    scale = float(reader.properties.level_downsample[level])
    ratio = downsample / scale
    factor = max(1, int(np.ceil(ratio - 1e-6)) if max_side is not None else int(ratio + 1e-6))
    rows, columns = reader.properties.level_shape[level]
    step = max(1, _STRIP_BYTES // (3 * columns * factor)) * factor
    strips = []
    for top in range(0, rows, step):
        strip = read_level(reader, level, 0, top, columns, min(step, rows - top))
        strips.append(np.asarray(Image.fromarray(strip).reduce(factor)) if factor > 1 else strip)
    return np.concatenate(strips), scale * factor


def sufficient_level(reader: Any, downsample: float) -> int:
    """Coarsest level that is not coarser than `downsample` (1 % allowed); level 0 where all are."""
    downsamples = np.array([1.0 if value is None else float(value) for value in reader.properties.level_downsample])
    fitting = np.flatnonzero(downsamples <= downsample * 1.01)
    return int(fitting[np.argmax(downsamples[fitting])]) if len(fitting) else 0


@dataclass(frozen=True)
class Windows:
    """Square windows of one level of a slide.

    Attributes
    ----------
    level
        Level of the pyramid.
    corner
        (n, 2) x and y of the top left pixels, in pixels of the level.
    side
        Side in pixels of the level.
    """

    level: int
    corner: np.ndarray
    side: int

    def take(self, rows: np.ndarray) -> Windows:
        """Some of the windows."""
        return Windows(self.level, self.corner[rows], self.side)

    def order(self, rows: np.ndarray | None = None) -> np.ndarray:
        """Order in which reading them, or some of them, decodes the least: block by block (n,)."""
        corner = self.corner if rows is None else self.corner[rows]
        block = corner // self._block()
        return np.lexsort((corner[:, 0], corner[:, 1], block[:, 0], block[:, 1]))

    def _block(self) -> int:
        return max(1, _BLOCK_PX // self.side) * self.side

    def read(self, reader: Any, rows: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read some windows, those of a block at once where they lie close together.

        Parameters
        ----------
        reader
            Reader of the slide.
        rows
            (m,) which windows, best in the order of `order`.

        Yields
        ------
        Indices of windows (b,) and their pixels, uint8 (b, side, side, 3). What lies beyond the border of the slide
        is filled by reflection.
        """
        block = self.corner[rows] // self._block()
        ends = np.flatnonzero((np.diff(block, axis=0) != 0).any(axis=1)) + 1
        for part in np.split(rows, ends):
            corner = self.corner[part]
            low, high = corner.min(axis=0), corner.max(axis=0) + self.side
            together = np.prod(high - low + _TILE_PX)
            if len(part) > 1 and together > len(part) * (self.side + _TILE_PX) ** 2:
                for row in part:
                    yield np.array([row]), self._padded(reader, self.corner[row], self.corner[row] + self.side)[None]
                continue
            region = self._padded(reader, low, high)
            views = np.lib.stride_tricks.sliding_window_view(region, (self.side, self.side), axis=(0, 1))
            x, y = (corner - low).T
            yield part, np.ascontiguousarray(views[y, x].transpose(0, 2, 3, 1))

    def _padded(self, reader: Any, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Region of the level, reflected where it lies beyond the border."""
        height, width = reader.properties.level_shape[self.level]
        size = np.array([width, height])
        start = np.clip(low, 0, size - 1)
        stop = np.clip(high, start + 1, size)
        before, after = np.maximum(start - low, 0), np.maximum(high - stop, 0)
        if before.any() or after.any():  # what is reflected must be read as well
            start = np.maximum(np.minimum(start, size - 1 - after), 0)
            stop = np.minimum(np.maximum(stop, before + 1), size)
        region = read_level(reader, self.level, int(start[0]), int(start[1]), *map(int, stop - start))
        if not (before.any() or after.any()):
            return region
        region = np.pad(
            region, ((before[1], after[1]), (before[0], after[0]), (0, 0)), mode=_reflection(region, before, after)
        )
        # Reading more for the reflection moved the origin of the region.
        offset = low - (start - before)
        width_px, height_px = high - low
        return region[offset[1] : offset[1] + height_px, offset[0] : offset[0] + width_px]


def _reflection(region: np.ndarray, before: np.ndarray, after: np.ndarray) -> Any:
    region_size = np.array([region.shape[1], region.shape[0]])
    return "reflect" if (np.maximum(before, after) < region_size).all() else "symmetric"


def windows_of(reader: Any, center: np.ndarray, side_px: float, wanted_px: int) -> Windows:
    """Windows around centers on the coarsest level that still has the wanted resolution.

    Parameters
    ----------
    reader
        Reader of the slide.
    center
        (n, 2) x and y in level-0 pixels.
    side_px
        Side of a window in level-0 pixels.
    wanted_px
        Pixels that a window should have across.
    """
    level = sufficient_level(reader, side_px / wanted_px)
    scale = float(reader.properties.level_downsample[level])
    side = max(1, round(side_px / scale))
    corner = np.round(np.asarray(center, dtype=np.float64) / scale - side / 2).astype(np.int64)
    return Windows(level, corner, side)


def tile_frame(sdata: SpatialData, tile_key: str) -> Any:
    """Return the table of the slide's tiles, written by stp.pp.tiles or another tool in its layout; raise without it."""
    if tile_key not in sdata.shapes:
        raise KeyError(f"expected shapes[{tile_key!r}]; found {sorted(sdata.shapes)}; run stp.pp.tiles(sdata) first")
    frame = sdata.shapes[tile_key]
    missing: Sequence[str] = [name for name in ("tile_id", "geometry") if name not in frame]
    if missing:
        raise KeyError(
            f"expected {missing} in shapes[{tile_key!r}]; found {list(frame.columns)}; run stp.pp.tiles(sdata)"
        )
    if not len(frame):
        raise ValueError(f"expected at least one tile in shapes[{tile_key!r}]; found none; run stp.pp.tiles(sdata)")
    return frame
