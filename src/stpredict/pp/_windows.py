"""Sections whose tiles are to be cut, and windows around their observations, in batches of bounded memory."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._keys import Key
from stpredict.slots._positions import positions_of

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.io._image import SectionImage
    from stpredict.slots._container import Container

_BATCH_BYTES = 64 * 2**20  # windows at full resolution that are held at once
_ENOUGH = 20  # observations, to tell cells from spots
_LOOKED_AT = 2000  # observations whose nearest neighbor is looked for
_FAR_BELOW = 4  # tiles that overlap by more than three quarters
_IRREGULAR = 0.1  # spread of the distances over their mean; a lattice has less, cells about 0.4
_BAND_BYTES = 16 * 2**20  # rows of the image that are copied out of it at once, short of one window's height


@dataclass(frozen=True)
class Section:
    """Where tiles of a section are to be cut, with the sides of all contexts, and how its picture is found."""

    name: str
    rows: np.ndarray
    positions: np.ndarray
    microns_per_pixel: float
    sides: tuple[int, ...]
    padded: int
    find: Callable[[], SectionImage]


def sections_of(
    data: Container,
    adata: AnnData,
    image: Any,
    given_microns_per_pixel: float | Mapping[str, float] | None,
    sample_key: str,
    tile_um: float,
    scales: tuple[float, ...],
    check: bool,
) -> list[Section]:
    """Check every section against its image, and say what is to be cut from it."""
    from functools import partial

    from stpredict.io._image import check_positions, microns_per_pixel, positions_are_checked, section_image
    from stpredict.slots._checks import check_obs, check_obsm

    check_obsm(
        adata, Key.SPATIAL, "read the data with stp.io, or set obsm['spatial'] to x, y in full-resolution pixels"
    )
    check_obs(adata, sample_key, f"name the section of every observation in obs[{sample_key!r}], or pass `sample_key=`")
    if adata.obs[sample_key].isna().any():
        missing = int(adata.obs[sample_key].isna().sum())
        raise ValueError(f"expected obs[{sample_key!r}] without gaps; found {missing} missing values")
    if adata.n_obs == 0:
        raise ValueError("expected at least one observation; found none")
    positions = positions_of(adata)
    if positions.ndim != 2 or positions.shape[1] != 2:
        raise ValueError(f"expected obsm['spatial'] of shape (n_obs, 2); found {positions.shape}")
    names = adata.obs[sample_key].astype(str).to_numpy()
    samples = list(dict.fromkeys(names))
    if image is not None and not isinstance(image, Mapping) and len(samples) > 1:
        raise ValueError(
            f"expected `image=` as a mapping by section for {len(samples)} sections; found {type(image).__name__}"
        )
    sections = []
    for sample in samples:
        rows = np.flatnonzero(names == sample)
        find = partial(section_image, data, adata, sample, image)
        mpp = microns_per_pixel(adata, sample, given_microns_per_pixel)
        picture = find()
        if len(samples) == 1:  # what was decoded for the checks is kept for the tiles
            find = partial(_same, picture)
        try:
            check_positions(positions[rows], picture, sample, check=check and positions_are_checked(adata, sample))
            sides = tuple(max(1, round(tile_um * scale / mpp)) for scale in scales)
            padded = int(picture.reaching_beyond(positions[rows], max(sides)).sum())
        finally:
            if len(samples) > 1:
                picture.close()
        sections.append(Section(sample, rows, positions[rows], mpp, sides, padded, find))
    return sections


def warn_if_cells(section: Section, tile_um: float, stacklevel: int = 3) -> None:
    """Say when the observations look like cells that a tile of the default size shows dozens of."""
    from scipy.spatial import KDTree

    if len(section.positions) < _ENOUGH:
        return
    some = np.linspace(0, len(section.positions) - 1, min(len(section.positions), _LOOKED_AT)).astype(int)
    nearest = KDTree(section.positions).query(section.positions[some], k=2)[0][:, 1] * section.microns_per_pixel
    apart = float(np.median(nearest))
    if apart < tile_um / _FAR_BELOW and float(nearest.std()) > _IRREGULAR * float(nearest.mean()):
        warnings.warn(
            f"the observations of section {section.name!r} look like cells: they lie {apart:.2g} µm apart and on no "
            f"lattice, so that neighbors have nearly the same tile of {tile_um:g} µm; pass a smaller one, such as tile_um=30",
            stacklevel=stacklevel,
        )


def _same(picture: SectionImage) -> SectionImage:
    return picture


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
