"""Lay tiles over the tissue of a slide."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts._on_sections import is_cohort, write_sections
from stpredict.core._validate import few
from stpredict.pp._tile_layout import Layout, candidates, check_counts, covering, tile_shapes
from stpredict.slots._keys import Key, check_key

if TYPE_CHECKING:
    from spatialdata import SpatialData

_TILE_UM, _TILE_PX = 128.0, 256  # where nothing else is asked for
_CONTRAST_UM = 2.0  # µm per pixel that contrast is measured at, where the slide has such a level
_BATCH = 512  # tiles whose contrast is measured before the next are read
_UPSAMPLED = 0.95  # of the pixels asked for; less is worth a warning
_GRAY = np.array([0.2125, 0.7154, 0.0721])  # weights of scikit-image


def tiles(
    data: SpatialData,
    *,
    tile_um: float | None = None,
    tile_px: int | None = None,
    stride_um: float | None = None,
    like: Any = None,
    grid: tuple[int, int] | None = None,
    segments: int = 1,
    max_background: float = 0.2,
    min_contrast: float = 0.1,
    max_tiles: int | None = 4000,
    min_tiles: int = 1,
    seed: int = 0,
    tissue_key: str = "tissues",
    key_added: str = "tiles",
    copy: bool = False,
) -> SpatialData | None:
    """Lay tiles over the tissue of a slide.

    Tiles lie on a lattice that starts at the top left corner of the slide; position (row, column) is exactly
    `stride_um` times row and column away from it, also where that is no whole number of pixels. Of the tiles with
    enough tissue, in an order drawn by `seed`, the first `max_tiles` with enough contrast are kept, and sorted by
    position.

    With `grid` the tiles are as large as it takes to cover the tissue with so many of them, as HiST lays them
    :cite:p:`li2026`. They then differ in size between slides, and a network sees nuclei of one slide larger than those
    of another; predicting slides with a model of other tiles is refused. Tiles of a fixed size have a physical scale.

    Parameters
    ----------
    data
        Slide of :func:`stpredict.io.open_slide` with the tissue of :func:`stpredict.pp.tissue`.
    tile_um
        Side of a tile in µm, 128 by default. With `grid` it follows from the tissue.
    tile_px
        Number of pixels that a tile should have across; 256, or what the encoder of `like` reads, when `None`. It is
        recorded for readers of tiles, and a warning is given when the scan has fewer.
    stride_um
        Distance between tiles in µm; `tile_um` by default, so that they touch and do not overlap.
    like
        Model (its path, or models of :func:`stpredict.tl.fit_folds`) that is to predict the slide: tiles are as large as those
        that it was trained on, in place of `tile_um`, and :func:`stpredict.pp.image_features` reads the same surroundings.
    grid
        Numbers of tiles along the two sides of the tissue, such as (80, 64). The box around the tissue is padded on
        both sides to this ratio, upright or rotated by 90°, whichever takes the smaller tiles, and the first tile lies
        in its top left corner.
    segments
        Number of segments of `grid` that cover the tissue, a square number: 4 give 160 × 128 tiles.
    max_background
        Largest share of a tile, 0–1, that may lie outside the tissue or the slide.
    min_contrast
        Smallest difference between the 1st and the 99th percentile of gray values, as a share of 255. The default is
        what `skimage.exposure.is_low_contrast` means by its 0.05 on an RGB image, whose gray values it takes to lie
        between -1 and 1. Measured on about 2 µm per pixel, read in batches. 0 keeps all and reads nothing.
    max_tiles
        Largest number of tiles to keep; all when `None`. With `grid`, the tiles left out are holes in the map, and a
        warning is given.
    min_tiles
        Smallest number of tiles that is accepted.
    seed
        Random seed for the order of the draw.
    tissue_key
        Name of the shapes with the tissue.
    key_added
        Name of the new shapes.
    copy
        Whether to return a changed copy instead of changing `data`.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `shapes[key_added]`: `tile_id`, `x` and `y` (level-0 pixels of the top left corner, with fractions), `tissue_id`,
      `array_row`, `array_col`, `tissue_fraction`, and squares in level-0 pixels
    - `attrs["tile_spec"][key_added]`: size, stride and resolution in the layout of wsidata
    - `attrs["stpredict"][key_added]`: the parameters, and how many tiles had enough tissue; with `grid` its rows and
      columns on this slide, and the size of its tiles as `tile_um`

    Raises
    ------
    KeyError
        When the tissue is missing.
    ValueError
        When there are fewer tiles than `min_tiles`, a tile is smaller than a pixel, `grid` or `like` comes with a size
        of tiles, or `like` reads tiles of several sizes.
    TypeError
        When `data` is not a slide of :func:`stpredict.io.open_slide`, or `like` no model.
    FileNotFoundError
        When the file of the slide is missing.
    ImportError
        When wsidata is not installed (extra `wsi`).

    Warns
    -----
    UserWarning
        When tiles have fewer pixels than `tile_px` asks for, or `max_tiles` leaves holes in a `grid`.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np, tifffile
    >>> import stpredict as stp
    >>> picture = np.full((2048, 2048, 3), 245, np.uint8)
    >>> noise = np.random.default_rng(0).integers(-30, 30, (1024, 1024, 1))
    >>> picture[512:1536, 512:1536] = np.array([190, 100, 160]) + noise
    >>> path = Path(tempfile.mkdtemp()) / "slide.tiff"
    >>> tifffile.imwrite(path, picture, tile=(256, 256), photometric="rgb")
    >>> slide = stp.io.open_slide(path, microns_per_pixel=0.5)
    >>> stp.pp.tissue(slide)
    >>> stp.pp.tiles(slide)
    >>> len(slide.shapes["tiles"])
    16
    """
    if is_cohort(data):
        return write_sections(tiles, locals())
    from stpredict.core._validate import check_positive
    from stpredict.io._slide import (
        check_slide,
        shallow_copy,
        slide_microns_per_pixel,
        slide_name,
        slide_reader,
        slide_size,
    )

    check_key(key_added)
    check_slide(data)
    mpp = slide_microns_per_pixel(data)
    context: dict[str, list[float]] = {}
    if like is not None:
        if tile_um is not None or grid is not None:
            raise ValueError(
                f"expected neither tile_um nor grid with `like`, which says the size; found tile_um={tile_um} and "
                f"grid={grid}; leave them out"
            )
        tile_um, own_px, context = _size_of(like)
        tile_px = own_px if tile_px is None else tile_px
    tile_px = _TILE_PX if tile_px is None else tile_px
    check_counts(tile_px=tile_px, min_tiles=min_tiles, max_tiles=max_tiles, segments=segments)
    for name, value in (("max_background", max_background), ("min_contrast", min_contrast)):
        if not 0 <= value <= 1:
            raise ValueError(f"expected {name} between 0 and 1; found {value!r}")
    if tissue_key not in data.shapes:
        raise KeyError(f"expected shapes[{tissue_key!r}]; found {sorted(data.shapes)}; run stp.pp.tissue(sdata) first")
    if grid is None:
        if segments != 1:
            raise ValueError(f"expected segments=1 without `grid`; found {segments}; pass grid=(80, 64)")
        width_um = _TILE_UM if tile_um is None else check_positive(tile_um, "tile_um")
        step_um = width_um if stride_um is None else check_positive(stride_um, "stride_um")
        layout = Layout(width_um / mpp, step_um / mpp)
    else:
        if tile_um is not None or stride_um is not None:
            raise ValueError(
                "expected neither tile_um nor stride_um with `grid`, from which they follow; found "
                f"tile_um={tile_um} and stride_um={stride_um}; leave them out"
            )
        layout = covering(data.shapes[tissue_key].total_bounds, grid, segments)
        width_um = step_um = layout.side * mpp
    side, step = layout.side, layout.step
    if min(side, step) < 1:
        raise ValueError(
            f"expected tiles of at least a pixel; found {width_um:g} µm every {step_um:g} µm at {mpp:g} µm per pixel"
        )
    if side < _UPSAMPLED * tile_px:
        warnings.warn(
            f"tiles of {width_um:g} µm have {side:.4g} pixels across at {mpp:g} µm per pixel, not {tile_px}; "
            "networks that ask for more see them enlarged",
            stacklevel=2,
        )

    position, fraction = candidates(data.shapes[tissue_key], slide_size(data), layout, float(max_background))
    enough = len(position)
    order = np.random.default_rng(seed).permutation(enough)
    with slide_reader(data) as reader:
        chosen = np.sort(_contrasting(reader, position, order, layout, width_um, float(min_contrast), max_tiles))
    if len(chosen) < min_tiles:
        raise ValueError(
            f"expected at least {min_tiles} tiles on slide {slide_name(data)!r}; found {len(chosen)}: {enough} have at "
            f"most {max_background:.0%} background, and {len(chosen)} of these a contrast of {min_contrast:g}; take "
            "smaller tiles, or allow more background"
        )

    if grid is not None and max_tiles is not None and len(chosen) == max_tiles < enough:
        warnings.warn(
            f"max_tiles={max_tiles} leaves out tiles by chance, of {enough} with enough tissue; they are holes in the map; "
            "pass max_tiles=None",
            stacklevel=2,
        )
    frame = tile_shapes(position[chosen], fraction[chosen], layout, data.shapes[tissue_key])
    container = shallow_copy(data) if copy else data
    container.shapes[key_added] = frame
    level, downsample = _level(container, side / tile_px)
    stride_px = max(1, round(tile_px * step / side))
    container.attrs.setdefault("tile_spec", {})[key_added] = {
        "height": int(tile_px), "width": int(tile_px), "stride_height": stride_px, "stride_width": stride_px,
        "mpp": width_um / tile_px, "ops_level": level, "ops_downsample": side / tile_px / downsample,
        "base_level": 0, "base_downsample": side / tile_px, "tissue_name": tissue_key,
    }  # fmt: skip
    container.attrs.setdefault(Key.UNS, {})[key_added] = {
        "tile_um": width_um, "tile_px": int(tile_px), "stride_um": step_um, "max_background": float(max_background),
        "min_contrast": float(min_contrast), "max_tiles": max_tiles, "seed": int(seed), "with_tissue": enough,
        "grid": layout.cells, "context": context,
    }  # fmt: skip
    return container if copy else None


def _size_of(like: Any) -> tuple[float, int | None, dict[str, list[float]]]:
    """Side in µm and in pixels of the tiles that a model, or each of several, was trained on, and the context by encoder."""
    from stpredict.training import FittedModel

    models = list(like) if isinstance(like, list | tuple) else [like]
    models = [FittedModel.load(model) if isinstance(model, str | Path) else model for model in models]
    if not models or not all(isinstance(getattr(model, "features", None), dict) for model in models):
        raise TypeError(
            f"expected `like` as a model of stp.tl.fit, several, or the path of a saved one; found {type(like).__name__}; "
            "pass `tile_um=`"
        )
    entries = [entry for model in models for entry in model.features.get("slots", {}).values()]
    sizes = {entry.get("tile_um") for entry in entries}
    if len(sizes) != 1 or None in sizes:
        raise ValueError(
            f"expected one size of tiles in the features that `like` reads; found {few(sizes) or 'none'}; pass `tile_um=`"
        )
    tile_um = sizes.pop()
    pixels = [
        int(entry["tile_px"]) for entry in entries if entry.get("tile_px") is not None
    ]  # encoders resize what is there
    context = {
        str(entry["encoder"]): [float(scale) for scale in entry["context"]]
        for entry in entries
        if "encoder" in entry and "context" in entry
    }
    return float(tile_um), max(pixels, default=None), context


def _level(sdata: SpatialData, downsample: float) -> tuple[int, float]:
    """Level that wsidata would read tiles from, and its downsample."""
    downsamples = [
        1.0 if value is None else float(value) for value in sdata.attrs["slide_properties"]["level_downsample"]
    ]
    fitting = [level for level, value in enumerate(downsamples) if value <= downsample * (1 + 1e-6)]
    level = max(fitting, key=lambda index: downsamples[index]) if fitting else 0
    return level, downsamples[level]


def _contrasting(
    reader: Any,
    position: np.ndarray,
    order: np.ndarray,
    layout: Layout,
    tile_um: float,
    min_contrast: float,
    max_tiles: int | None,
) -> np.ndarray:
    """The first of the tiles, in the given order, that have enough contrast."""
    from stpredict.io._slide import windows_of

    limit = len(order) if max_tiles is None else min(int(max_tiles), len(order))
    if min_contrast == 0:
        return order[:limit]
    windows = windows_of(
        reader, layout.top_left(position) + layout.side / 2, layout.side, max(1, round(tile_um / _CONTRAST_UM))
    )
    chosen: list[np.ndarray] = []
    n_found = start = 0
    while n_found < limit and start < len(order):
        part = order[start : start + max(_BATCH, limit - n_found)]
        good = np.zeros(len(position), dtype=bool)
        for rows, pixels in windows.read(reader, part[windows.order(part)]):
            good[rows] = _contrast(pixels) >= min_contrast
        passing = part[good[part]]
        chosen.append(passing)
        n_found += len(passing)
        start += len(part)
    return np.concatenate(chosen)[:limit] if chosen else np.empty(0, dtype=np.int64)


def _contrast(pixels: np.ndarray) -> np.ndarray:
    """Range from the 1st to the 99th percentile of gray values, 0–1 (b,), of windows uint8 (b, side, side, 3)."""
    gray = (pixels.reshape(len(pixels), -1, 3) @ _GRAY.astype(np.float32)) / 255
    low, high = np.percentile(gray, [1, 99], axis=1)
    return high - low
