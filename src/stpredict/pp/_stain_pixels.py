"""Pixels of tissue that the stains of a section or a slide are found in."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._stain import WHITES, Stain, StainMethod, find_light, find_stain, mean_stain
from stpredict.core._validate import check_choice
from stpredict.pp._tissue import MASK_UM
from stpredict.slots._keys import Key
from stpredict.slots._stain import StainReference

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container

TILE_UM, _TILE_PX = 112.0, 224
_SMALL_PX = 700  # longer side of the picture that glass is looked for in
_EVERY = 3  # pixels of a tile in each direction of which one is taken


def stains_of(
    data: Container,
    method: StainMethod,
    *,
    white: str,
    image: Any,
    microns_per_pixel: Any,
    n_tiles: int,
    seed: int,
    sample_key: str,
    table_key: str,
    tile_key: str,
) -> dict[str, Stain]:
    """Stains of each section, or of a slide, from a sample of tiles around its observations.

    The sample does not depend on the order of the observations, nor on other sections.
    """
    if int(n_tiles) != n_tiles or n_tiles < 1:
        raise ValueError(f"expected n_tiles to be a positive whole number; found {n_tiles!r}")
    found = {}
    own_light = check_choice(white, WHITES, "white") == "section"
    if own_light and method == "reinhard":
        raise ValueError(
            "expected white='published' with 'reinhard', which moves the glass with the tissue; found 'section'"
        )
    every = _pixels(
        data, int(n_tiles), seed, image, microns_per_pixel, sample_key, table_key, tile_key, small=own_light
    )
    for name, pixels, whole in every:
        light = None if whole is None else _light(name, whole)
        try:
            found[name] = find_stain(pixels, method, light=light, seed=seed)
        except ValueError as error:
            raise ValueError(
                f"expected section {name!r} stained with hematoxylin and eosin; {error}; leave it out: "
                f"adata[adata.obs[{sample_key!r}] != {name!r}], or read pictures as they are"
            ) from error
    return found


def _light(name: str, whole: np.ndarray) -> tuple[float, float, float]:
    try:
        return find_light(whole)
    except ValueError as error:
        raise ValueError(
            f"expected glass around the tissue of section {name!r}, a color of at least 180 in red, green and blue that 2 % of its "
            f"picture have; {error}; take the light as published: white='published'"
        ) from error


def on_slide(data: Any, table_key: str) -> bool:
    """Whether tiles of a whole slide are meant."""
    from stpredict.io._slide import is_slide

    return is_slide(data) and table_key not in data.tables


def _pixels(
    data: Any,
    n_tiles: int,
    seed: int,
    image: Any,
    mpp: Any,
    sample_key: str,
    table_key: str,
    tile_key: str,
    *,
    small: bool,
) -> Iterator[tuple[str, np.ndarray, np.ndarray | None]]:
    """Name, and pixels (n, 3) uint8 of tiles, of each section; one section is in memory at a time.

    With the small picture (h, w, 3) of the whole of it where that is asked for.
    """
    from stpredict.pp._windows import sections_of, windows_around
    from stpredict.slots._container import get_table

    if on_slide(data, table_key):
        if image is not None or mpp is not None:
            raise ValueError("expected neither `image=` nor `microns_per_pixel=` with a slide; found one")
        yield _slide_pixels(data, n_tiles, seed, tile_key, small=small)
        return
    adata = _as_they_are(get_table(data, table_key))
    for section in sections_of(data, adata, image, mpp, sample_key, TILE_UM, (1.0,), True):
        picture = section.find()
        try:
            some = _drawn(section.positions, section.name, n_tiles, seed)
            parts = [
                _thinned(windows) for _, windows in windows_around(picture, section.positions[some], section.sides[0])
            ]
            whole = picture.thumbnail(_SMALL_PX)[0] if small else None
        finally:
            picture.close()
        yield section.name, np.concatenate(parts), whole


def _as_they_are(adata: AnnData) -> AnnData:
    """The same table without stains: what was found before has no part in what is found now."""
    from stpredict.slots._container import beside
    from stpredict.slots._provenance import drop_records
    from stpredict.slots._stain import STAIN

    plain = beside(adata)
    drop_records(plain, [STAIN])
    return plain


def _slide_pixels(
    sdata: Any, n_tiles: int, seed: int, tile_key: str, *, small: bool
) -> tuple[str, np.ndarray, np.ndarray | None]:
    from stpredict.io._slide import (
        slide_microns_per_pixel,
        slide_name,
        slide_reader,
        slide_thumbnail,
        tile_frame,
        windows_of,
    )

    bounds = tile_frame(sdata, tile_key).geometry.bounds.to_numpy(dtype=np.float64)
    center = (bounds[:, :2] + bounds[:, 2:]) / 2
    name = slide_name(sdata)
    mpp = slide_microns_per_pixel(sdata)
    side = TILE_UM / mpp
    with slide_reader(sdata) as reader:
        windows = windows_of(reader, center[_drawn(center, name, n_tiles, seed)], side, _TILE_PX)
        parts = [_thinned(pixels) for _, pixels in windows.read(reader, windows.order())]
        whole = slide_thumbnail(reader, mpp, MASK_UM)[0] if small else None
    return name, np.concatenate(parts), whole


def _drawn(positions: np.ndarray, name: str, n: int, seed: int) -> np.ndarray:
    """Rows of some positions, by where these are."""
    order = np.lexsort(positions.T)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return np.asarray(order[np.sort(rng.choice(len(order), min(n, len(order)), replace=False))])


def _thinned(windows: np.ndarray) -> np.ndarray:
    """Pixels (m, 3) of windows (b, side, side, 3) at about the resolution of encoders."""
    import torch

    from stpredict.encoders._resize import resized

    # What is coarse is not enlarged: that would add pixels, and no color.
    tiles = resized(windows, min(_TILE_PX, windows.shape[1]), torch.device("cpu"))
    step = _EVERY if tiles.shape[2] > _TILE_PX // 2 else 1
    return np.asarray(tiles[:, :, ::step, ::step].permute(0, 2, 3, 1).reshape(-1, 3).numpy())


def reference_of(stains: dict[str, Stain], names: Sequence[str], who: Mapping[str, str]) -> StainReference:
    """Reference of some sections: the mean over patients of the mean over their sections."""
    people = [who[name] for name in names]
    weights = np.array([1 / people.count(person) for person in people])
    mean = mean_stain([stains[name] for name in names], weights)
    return StainReference(mean, sections=tuple(sorted(names)), patients=tuple(sorted(set(people))))


def people_behind(adata: AnnData, sample_key: str, patient_key: str) -> dict[str, str]:
    """Patient of each section; unknown where nobody says."""
    from stpredict.slots._marks import UNKNOWN

    sample = adata.obs[sample_key].astype(str)
    if patient_key not in adata.obs:
        return dict.fromkeys(sample, UNKNOWN)
    return dict(zip(sample, adata.obs[patient_key].astype(str), strict=True))


def slide_person(sdata: Any) -> dict[str, str]:
    """Patient of a slide; unknown where nobody says."""
    from stpredict.io._slide import slide_name
    from stpredict.slots._marks import UNKNOWN

    return {slide_name(sdata): str(sdata.attrs.get(Key.UNS, {}).get("patient") or UNKNOWN)}
