"""Squares of tiles around observations: tiles that several squares share are cut and encoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_finite, check_positive
from stpredict.pp._encode_sections import encoded_around
from stpredict.pp._image_features import encoder_for
from stpredict.slots._keys import Key, check_key
from stpredict.slots._stain import recorded_reference, stain_facts

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from anndata import AnnData

    from stpredict.encoders import Encoder
    from stpredict.io._image import SectionImage
    from stpredict.pp._cache import FeatureCache
    from stpredict.pp._windows import Section
    from stpredict.slots._container import Container


@dataclass(frozen=True)
class Plan:
    """What the squares of an object are cut and encoded by.

    Attributes
    ----------
    table, sections
        The observations, and their sections.
    encoder
        As it was asked for; `at_scale` is the one for tiles of `tile_um`.
    at_scale
        Its input size is that of `tile_um`.
    tile_um
        Side of a tile in µm.
    grid
        Side of the square in tiles.
    key
        Slot of the features beside which these are written.
    batch_size
        Tiles encoded at once.
    store
        Cache; `None` for none.
    """

    table: AnnData
    sections: Sequence[Section]
    encoder: Encoder
    at_scale: Encoder
    tile_um: float
    grid: int
    key: str
    batch_size: int
    store: FeatureCache | None

    def empty(self) -> np.ndarray:
        """Room for the features of all observations (n_obs, grid², dim)."""
        return np.empty((self.table.n_obs, self.grid**2, self.encoder.dim), dtype=np.float32)

    def record(self) -> dict[str, Any]:
        """What is written down of features of squares, whatever was encoded."""
        return {
            "encoder": self.encoder.name,
            "fingerprint": self.encoder.fingerprint,
            "dim": self.encoder.dim,
            "tile_um": self.tile_um,
            "tile_px": self.encoder.tile_px,
            "grid": self.grid,
            "microns_per_pixel": {section.name: section.microns_per_pixel for section in self.sections},
            **stain_facts(recorded_reference(self.table)),
        }


def plan_squares(
    data: Container,
    encoder: str | Encoder | Callable[[torch.Tensor], torch.Tensor],
    grid: int,
    *,
    image: Any,
    tile_um: float | None,
    tile_px: int | None,
    microns_per_pixel: float | Mapping[str, float] | None,
    weights: str | Path | None,
    sample_key: str,
    batch_size: int,
    device: str | torch.device | None,
    cache: bool,
    check: bool,
    key_added: str | None,
    table_key: str,
) -> Plan:
    """Check what :func:`stpredict.pp.neighbor_features` and its like are called with, and find sections and encoder."""
    from stpredict.pp._cache import FeatureCache
    from stpredict.pp._windows import sections_of
    from stpredict.slots._container import get_table

    check_key(key_added)
    if isinstance(grid, bool) or int(grid) != grid or grid < 1 or grid % 2 == 0:
        raise ValueError(f"expected grid to be an odd number of tiles, such as 5; found {grid!r}")
    if int(batch_size) != batch_size or batch_size < 1:
        raise ValueError(f"expected batch_size to be a positive whole number; found {batch_size!r}")
    network = encoder_for(encoder, weights, device, tile_px, key_added)
    width_um = network.tile_um if tile_um is None else check_positive(tile_um, "tile_um")
    table = get_table(data, table_key)
    sections = sections_of(data, table, image, microns_per_pixel, sample_key, width_um, (1.0,), check)
    store = FeatureCache() if cache and network.reproducible else None
    key = key_added or Key.features(network.name)
    return Plan(table, sections, network, network.for_side(width_um), width_um, int(grid), key, int(batch_size), store)


@dataclass(frozen=True)
class Squares:
    """Tiles of `grid` x `grid` around the observations of a section, side by side without a gap.

    Attributes
    ----------
    centers
        (u, 2) x and y of the middle of every different tile, in full-resolution pixels.
    tile
        (n, grid²) int64 number of the tile at each place, row by row; -1 outside the image.
    side
        Side of a tile in full-resolution pixels.
    """

    centers: np.ndarray
    tile: np.ndarray
    side: int

    @property
    def mask(self) -> np.ndarray:
        """Which places (n, grid²) have a tile."""
        return self.tile >= 0

    def spread(self, values: np.ndarray) -> np.ndarray:
        """Values (u, d) of the tiles at their places (n, grid², d); 0 where there is no tile."""
        spread = values[self.tile]
        spread[~self.mask] = 0
        return spread


def squares_around(picture: SectionImage, positions: np.ndarray, side: int, grid: int) -> Squares:
    """Find the different tiles of the squares around positions (n, 2).

    Tiles lie on whole pixels, so that those of neighbors on a lattice coincide where its pitch is a multiple of the
    tile. A tile that reaches beyond the image is none, but for the one in the middle.
    """
    step = (np.arange(grid) - grid // 2) * side
    offset = np.stack(np.meshgrid(step, step), axis=2).reshape(-1, 2)  # x changes first: row by row
    corner = picture.corners(positions, side)[:, None] + offset
    flat = corner.reshape(-1, 2)
    inside = ~picture.reaching_beyond(_centers(picture, flat, side), side).reshape(corner.shape[:2])
    inside[:, grid**2 // 2] = True
    different, number = np.unique(corner[inside], axis=0, return_inverse=True)
    tile = np.full(inside.shape, -1, dtype=np.int64)
    tile[inside] = number.ravel()
    return Squares(_centers(picture, different, side), tile, side)


def _centers(picture: SectionImage, corner: np.ndarray, side: int) -> np.ndarray:
    """Middles (u, 2) of windows with these corners, as positions."""
    return np.asarray(corner + picture.origin + side / 2)


def features_of_squares(
    plan: Plan,
    picture: SectionImage,
    section: Section,
    squares: Squares,
    done: Callable[[int], Any],
    *,
    drawing: str = "",
    drawn: Callable[[torch.Tensor], torch.Tensor] | None = None,
    source: tuple[SectionImage, float] | None = None,
) -> np.ndarray:
    """Features (u, dim) of the different tiles of a section, from the cache where it has them.

    Parameters
    ----------
    plan
        Encoder, tiles and cache.
    picture, section, squares
        Where the tiles are.
    done
        Told how many tiles are done.
    drawing
        What else the features depend on, for the cache.
    drawn
        What is drawn of tiles uint8 (b, 3, px, px), and encoded in their place.
    source
        Another picture of the section, and how many of its pixels one of `picture` is.
    """
    from stpredict.pp._cache import cache_key

    encoder = plan.at_scale

    def compute() -> np.ndarray:
        found = np.empty((len(squares.centers), encoder.dim), dtype=np.float32)
        where, scale = (picture, 1.0) if source is None else source
        centers = squares.centers if source is None else (squares.centers - picture.origin) * scale
        side = max(1, round(squares.side * scale))
        for rows, features in encoded_around(where, centers, side, encoder, plan.batch_size, drawn):
            found[rows] = features
            done(len(rows))
        check_finite(
            found, f"features of section {section.name!r}", f"encoder {encoder.name!r} or its weights are broken"
        )
        return found

    if plan.store is None:
        return compute()
    key = cache_key(
        {
            "image": picture.fingerprint(),
            "encoder": encoder.fingerprint,
            "centers": squares.centers,
            "tile_um": plan.tile_um,
            "tile_px": encoder.tile_px,
            "microns_per_pixel": section.microns_per_pixel,
            "drawing": drawing,
        }
    )
    features, found = plan.store.get_or_compute(key, (len(squares.centers), encoder.dim), compute)
    if found:
        done(len(features))
    return features
