"""Open whole slides."""

from __future__ import annotations

import math
import struct
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._optional import optional_import
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    from spatialdata import SpatialData

_PROBE_PX = 256
_COARSEST = 20.0  # µm per pixel; a TIFF that states more holds the resolution of a screen or printer, not of a scan
_TOLERANCE = 0.05
_TILE_PX = 2**26  # pixels that a tile may have, which the libraries decode at once


def open_slide(
    path: str | Path,
    microns_per_pixel: float | None = None,
    *,
    sample: str | None = None,
    patient: str | None = None,
) -> SpatialData:
    """Open a whole slide without decoding it.

    The slide is opened by wsidata, with openslide :cite:p:`goode2013` first and tiffslide for TIFF files that openslide
    refuses, such as those without tiles or pyramid. Nothing is written beside the slide. The function checks that the
    file is complete: it compares its directory of tiles with its size, and reads corners of every level.

    Parameters
    ----------
    path
        File of the slide (SVS, NDPI, MRXS, pyramidal TIFF and other formats that one of the two libraries reads).
    microns_per_pixel
        µm per pixel at full resolution; read from the file when `None`. Where both are known and differ by more than 5
        %, a warning says so and the given value is used.
    sample
        Name of the slide; the name of the file without its ending by default.
    patient
        Name of the patient.

    Returns
    -------
    A SpatialData (`wsidata.WSIData`) without elements, with `attrs["slide_properties"]` (size, levels and `mpp`, the µm
    per pixel) and `attrs["stpredict"]` (`sample`, `patient` where given, `source_image_path`).

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When no library can read it, it is truncated or damaged, or its µm per pixel is neither recorded nor given.
    ImportError
        When wsidata is not installed (extra `wsi`).

    Warns
    -----
    UserWarning
        When the given µm per pixel differ from those in the file by more than 5 %.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np, tifffile
    >>> import stpredict as stp
    >>> path = Path(tempfile.mkdtemp()) / "slide.tiff"
    >>> tifffile.imwrite(path, np.full((600, 800, 3), 240, np.uint8), tile=(256, 256), photometric="rgb")
    >>> slide = stp.io.open_slide(path, microns_per_pixel=0.5, patient="P1")
    >>> slide.attrs["slide_properties"]["mpp"], slide.attrs["stpredict"]["sample"]
    (0.5, 'slide')
    """
    from stpredict.core._validate import check_positive

    if microns_per_pixel is not None:
        microns_per_pixel = check_positive(microns_per_pixel, "microns_per_pixel")
    path = Path(path).expanduser().resolve()
    if not path.is_file():
        found = "a folder" if path.is_dir() else "no file"
        raise FileNotFoundError(f"expected a slide at {path}; found {found}; correct the path")
    if path.name.startswith("._"):
        raise ValueError(
            f"expected a slide at {path}; found a hidden file, as a Mac leaves beside those that it copies; "
            f"open {path.name[2:]!r}"
        )
    reader = open_reader(path)
    try:
        recorded = recorded_scale(reader)
        chosen = recorded if microns_per_pixel is None else microns_per_pixel
        if chosen is None:
            raise ValueError(
                f"expected the µm per pixel of {path.name}; found none in its file; pass `microns_per_pixel=` "
                "(a scan at 40x has about 0.25, at 20x about 0.5)"
            )
        if recorded is not None and abs(chosen / recorded - 1) > _TOLERANCE:
            warnings.warn(
                f"{path.name} records {recorded:g} µm per pixel, {chosen:g} was given; the given one is used",
                stacklevel=2,
            )
        from spatialdata import SpatialData

        slide: Any = optional_import("wsidata", "wsi").WSIData.from_spatialdata(SpatialData(), reader)
        slide.set_mpp(float(chosen))
    except BaseException:
        reader.detach_reader()
        raise
    record = {"sample": path.stem if sample is None else str(sample), "source_image_path": str(path)}
    if patient is not None:
        record["patient"] = str(patient)
    slide.attrs[Key.UNS] = record
    opened: SpatialData = slide
    return opened


def recorded_scale(reader: Any) -> float | None:
    """µm per pixel that a file states, where it can be that of a scan."""
    found = reader.properties.mpp
    return float(found) if found is not None and 0 < float(found) <= _COARSEST else None


def open_reader(path: Path) -> Any:
    """Reader of a complete slide; `ValueError` when none of the libraries opens it, or it is truncated."""
    optional_import("wsidata", "wsi")
    readers = optional_import("wsidata.reader", "wsi").READERS
    _check_complete(path)  # before a library is led by sizes that are absurd
    try:
        # openslide scales 16 bits by their full range, which cameras do not use: the slide would be dark.
        deep, orientation = _header(path)
        reader = readers.try_open(path, reader="tiffslide" if deep else None)
    except Exception as error:
        # wsidata and the libraries behind it raise exceptions of many kinds for files they do not know.
        tried = "; ".join(f"{name}: {_refusal(readers, name, path)}" for name in ("openslide", "tiffslide"))
        raise ValueError(
            f"expected a whole slide at {path}; found a file that cannot be opened (tried {tried}); "
            "copy it again, or convert it to a pyramidal TIFF"
        ) from error
    try:
        if reader.name == "tiffslide":  # openslide knows all of these
            _check_colors(path)
        _probe(reader)
        if orientation != 1:
            warnings.warn(
                f"{path.name} states that it is to be turned (orientation {orientation}); slides are read as they are stored, "
                "and so are positions on them",
                stacklevel=3,
            )
    except BaseException:
        reader.detach_reader()
        raise
    return reader


def _header(path: Path) -> tuple[bool, int]:
    """Whether a TIFF holds values of more than 8 bits, and its orientation tag."""
    tifffile = optional_import("tifffile", "wsi")
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages.first
            tag = page.tags.get("Orientation")
            return bool(np.dtype(page.dtype).itemsize > 1), 1 if tag is None else int(tag.value)
    except Exception as error:  # noqa: BLE001
        # Not a TIFF, or a damaged one, which the slide libraries are to tell about; tifffile raises many kinds.
        del error
        return False, 1


def _refusal(readers: Any, name: str, path: Path) -> str:
    """Why a library refuses a file."""
    try:
        readers.try_open(path, reader=name).detach_reader()
    except Exception as error:  # noqa: BLE001
        # Same reason as above: this only collects what to tell.
        return f"{type(error).__name__}, {error}"
    return "opens it"


def _check_complete(path: Path) -> None:
    """Raise `ValueError` when a TIFF points beyond its own end.

    Libraries notice this late, when the missing part is read, or not at all: where a directory is missing, a truncated
    slide looks like a whole one with fewer levels.
    """
    tifffile = optional_import("tifffile", "wsi")
    size = path.stat().st_size
    message = f"expected a complete slide at {path}; found a truncated file: "
    try:
        with tifffile.TiffFile(path) as file:
            pages = list(file.pages)
            if not pages:
                return
            tiled = [page for page in pages if page.is_tiled]
            lacking = [page for page in tiled if len(page.dataoffsets) < math.prod(page.chunked)]
            huge = [
                page
                for page in tiled
                if page.tilewidth * page.tilelength > max(_TILE_PX, 4 * math.prod(page.shape[:2]))
            ]
            ends = [
                int(np.max(np.add(page.dataoffsets, page.databytecounts, dtype=np.int64)))
                for page in pages
                if len(page.dataoffsets) and len(page.dataoffsets) == len(page.databytecounts)
            ]
            handle, layout = file.filehandle, file.tiff
            handle.seek(file.pages.next_page_offset)
            (following,) = struct.unpack(layout.offsetformat, handle.read(layout.offsetsize))
    except (tifffile.TiffFileError, struct.error, IndexError, OSError):
        return  # not a TIFF, or a dialect of it that only the slide libraries know
    except (TypeError, ValueError, AttributeError, ArithmeticError, LookupError) as error:
        raise ValueError(
            f"expected a complete slide at {path}; found a damaged file ({type(error).__name__}: {error}); copy it again"
        ) from error
    if huge:
        raise ValueError(
            f"expected a complete slide at {path}; found a damaged file: its header speaks of tiles of {huge[0].tilewidth:,} x "
            f"{huge[0].tilelength:,} px; copy it again"
        )
    if lacking:
        page = lacking[0]
        raise ValueError(
            f"{message}its header says {page.imagewidth:,} x {page.imagelength:,} px, and it has {len(page.dataoffsets):,} of "
            f"{math.prod(page.chunked):,} tiles; copy it again"
        )
    if max(ends, default=0) > size:
        raise ValueError(f"{message}it should have at least {max(ends):,} bytes and has {size:,}; copy it again")
    if following:
        raise ValueError(f"{message}{len(pages)} of its images are there and the next is missing; copy it again")


def _check_colors(path: Path) -> None:
    """Raise `ValueError` when the values of a TIFF are neither gray nor red, green and blue."""
    tifffile = optional_import("tifffile", "wsi")
    with tifffile.TiffFile(path) as file:
        series = file.series[0]
        page, channels = (
            series.keyframe,
            max((n for axis, n in zip(series.axes, series.shape, strict=True) if axis in "CS"), default=1),
        )
        alpha = any(int(kind) in (1, 2) for kind in page.extrasamples or ())
        kind = getattr(page.photometric, "name", str(page.photometric))
    if (
        kind not in ("MINISBLACK", "RGB", "YCBCR")
        or channels > 4
        or (channels in (2, 4) and not alpha and kind != "RGB")
    ):
        raise ValueError(
            f"expected a slide in RGB or gray at {path}; found {kind} with {channels} channels; convert it to 8-bit RGB"
        )


def _probe(reader: Any) -> None:
    """Read the first, middle and last pixels of every level; `ValueError` when one cannot be read."""
    from stpredict.io._read_level import read_level

    for level, (height, width) in enumerate(reader.properties.level_shape):
        w, h = min(_PROBE_PX, width), min(_PROBE_PX, height)
        for x, y in {(0, 0), ((width - w) // 2, (height - h) // 2), (width - w, height - h)}:
            read_level(reader, level, x, y, w, h)
