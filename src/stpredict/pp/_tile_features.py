"""Run an encoder over the tiles of a whole slide, in bounded memory."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.pp._tile_chunks import encode_windows
from stpredict.slots._keys import Key, escaped
from stpredict.slots._made import same_size
from stpredict.slots._stain import STAIN, StainReference, recoloring, stain_facts

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from stpredict.encoders import Encoder


def tile_features(
    sdata: SpatialData,
    encoder: Encoder,
    key: str,
    *,
    tile_um: float | None,
    context: tuple[float, ...],
    tile_key: str,
    batch_size: int,
    cache: bool,
    progress: bool | None,
    client: Any = None,
) -> tuple[str, AnnData]:
    """Compute the features of a slide's tiles.

    Tiles are read block by block from the coarsest pyramid level that still has the resolution of the encoder, and
    encoded in batches while the next block is read. Finished chunks of tiles are cached, so that an interrupted run
    continues where it stopped.

    Parameters
    ----------
    sdata
        Slide with `shapes[tile_key]`.
    encoder
        From tiles to features.
    key
        Name of the features, `X_{encoder}`.
    tile_um
        Side of a tile in µm as asked for, which must be that of the tiles.
    context
        Fields of view around the center of each tile, as multiples of its side.
    tile_key
        Name of the tiles.
    batch_size
        Tiles encoded at once.
    cache
        Whether chunks are read from and written to the cache.
    progress
        Whether to show a progress bar.
    client
        Client or address whose workers encode a chunk of tiles each at a time.

    Returns
    -------
    Name of the table and the table.
    """
    from stpredict.encoders._resize import warn_if_coarse
    from stpredict.io._slide import (
        slide_microns_per_pixel,
        slide_name,
        slide_path,
        slide_reader,
        tile_frame,
        windows_of,
    )

    mpp = slide_microns_per_pixel(sdata)
    frame = tile_frame(sdata, tile_key)
    if frame["tile_id"].duplicated().any():
        raise ValueError(
            f"expected unique tile_id in shapes[{tile_key!r}]; found repeated ones; run stp.pp.tiles(sdata)"
        )
    center, side = tile_squares(frame.geometry, tile_key)
    width_um = side * mpp
    if tile_um is not None and not same_size(tile_um, width_um):
        raise ValueError(
            f"expected tiles of tile_um={tile_um:g} in shapes[{tile_key!r}]; found {width_um:.4g} µm; the tiles of a slide "
            f"decide the field of view, lay others with stp.pp.tiles(sdata, tile_um={tile_um:g})"
        )
    recorded_um = sdata.attrs.get(Key.UNS, {}).get(tile_key, {}).get("tile_um")
    if recorded_um is not None and same_size(float(recorded_um), width_um):
        width_um = float(recorded_um)
    parts, beyond = [], np.zeros(len(center), dtype=bool)
    stain = recoloring(sdata.attrs.get(Key.UNS, {}).get(STAIN), slide_name(sdata))
    left: list[int | None] = []
    with slide_reader(sdata) as reader:
        for scale in context:
            fitting = encoder.for_side(width_um * scale)
            windows = windows_of(reader, center, side * scale, fitting.tile_px)
            height, width = reader.properties.level_shape[windows.level]
            outside = (windows.corner < 0) | (windows.corner + windows.side > np.array([width, height]))
            beyond |= outside.any(axis=1)
            parts.append(
                encode_windows(
                    reader, slide_path(sdata), windows, fitting, batch_size, cache, progress, stain, left, client
                )
            )
            if scale == min(context):
                warn_if_coarse(f"slide {slide_name(sdata)!r}", windows.side, fitting.tile_px, stacklevel=3)
        features = np.concatenate(parts, axis=1)
        table = tile_table(sdata, reader, frame, features, center, side, mpp, tile_key)
    _record(table, key, encoder, width_um, context, mpp, int(beyond.sum()), stain_of_slide(sdata, left))
    return f"{key.removeprefix('X_')}_{tile_key}", table


def tile_squares(geometry: Any, tile_key: str) -> tuple[np.ndarray, float]:
    """Centers (n, 2) and common side of square tiles, in level-0 pixels."""
    bounds = geometry.bounds.to_numpy(dtype=np.float64)
    sides = bounds[:, 2:] - bounds[:, :2]
    side = float(np.median(sides))
    if not side > 0 or not all(same_size(side, float(limit)) for limit in (sides.min(), sides.max())):
        raise ValueError(
            f"expected square tiles of one size in shapes[{tile_key!r}]; found sides from {sides.min():.4g} to "
            f"{sides.max():.4g} px; lay tiles with stp.pp.tiles(sdata)"
        )
    return (bounds[:, :2] + bounds[:, 2:]) / 2, side


def stain_of_slide(sdata: SpatialData, left: list[int | None]) -> dict[str, Any]:
    """What the record of features says of the stains that the tiles of a slide were given."""
    from stpredict.io._slide import slide_name

    entry = sdata.attrs.get(Key.UNS, {}).get(STAIN)
    if entry is None:
        return {}
    known = [count for count in left if count is not None]
    total = sum(known) if len(known) == len(left) else None
    return stain_facts(StainReference.from_dict(entry["reference"]), {slide_name(sdata): total})


def tile_table(
    sdata: SpatialData,
    reader: Any,
    frame: Any,
    features: np.ndarray,
    center: np.ndarray,
    side: float,
    mpp: float,
    tile_key: str,
) -> AnnData:
    """Tile table in the layout of wsidata, with positions and a picture as scanpy has them."""
    import pandas as pd
    from anndata import AnnData
    from spatialdata.models import TableModel

    from stpredict.io._section import THUMBNAIL_PX
    from stpredict.io._section_image import GRAY
    from stpredict.io._slide import slide_name, slide_path, slide_thumbnail

    sample = slide_name(sdata)
    record = sdata.attrs.get(Key.UNS, {})
    identity = frame["tile_id"].to_numpy()
    obs = pd.DataFrame(
        {
            Key.TILE_ID: identity,
            "library_id": pd.Categorical([tile_key] * len(frame)),
            Key.SAMPLE: pd.Categorical([sample] * len(frame)),
        },
        index=[f"{sample}_{name}" for name in identity],
    )
    if record.get("patient"):
        obs[Key.PATIENT] = pd.Categorical([str(record["patient"])] * len(frame))
    for name in (Key.ARRAY_ROW, Key.ARRAY_COL, "tissue_fraction"):
        if name in frame:
            obs[name] = frame[name].to_numpy()
    table = AnnData(features, obs=obs, obsm={Key.SPATIAL: center})
    picture, factor = slide_thumbnail(reader, mpp, mpp, max_side=THUMBNAIL_PX)
    if (picture[..., :1] == picture).all():
        warnings.warn(f"slide {sample!r}: {GRAY}", stacklevel=4)
    table.uns["spatial"] = {
        escaped(sample): {
            "images": {"hires": picture},
            "scalefactors": {
                "tissue_hires_scalef": 1 / factor,
                "spot_diameter_fullres": side,
                "microns_per_pixel": mpp,
            },
            "metadata": {"source_image_path": str(slide_path(sdata))},
        }
    }
    parsed: AnnData = TableModel.parse(table, region=tile_key, region_key="library_id", instance_key=Key.TILE_ID)
    return parsed


def _record(
    table: AnnData,
    key: str,
    encoder: Encoder,
    tile_um: float,
    context: tuple[float, ...],
    mpp: float,
    padded: int,
    stain: dict[str, Any],
) -> None:
    from stpredict.slots._content import seal_features
    from stpredict.slots._provenance import write_record

    sample = str(table.obs[Key.SAMPLE].iloc[0])
    write_record(
        table,
        key,
        {
            "encoder": encoder.name,
            "fingerprint": encoder.fingerprint,
            "dim": table.n_vars,
            **seal_features(table.X, table.obs[Key.SAMPLE]),
            "tile_um": tile_um,
            "tile_px": encoder.tile_px,
            "context": context,
            "microns_per_pixel": {sample: mpp},
            "padded": {sample: padded},
            **stain,
        },
    )
