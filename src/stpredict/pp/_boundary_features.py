"""Features of the edges and of the nuclei in the tiles around every observation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._keys import Key, check_key

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from stpredict.encoders import Encoder
    from stpredict.io._image import SectionImage
    from stpredict.slots._container import Container

_UM_PER_PX = 1.0  # at which nuclei are drawn, where the picture is finer


def boundary_features(
    data: Container,
    encoder: str | Encoder | Callable[[torch.Tensor], torch.Tensor] = "color-texture",
    grid: int = 5,
    *,
    edge_weights: str | Path | None = None,
    nuclei_key: str = "nuclei",
    image: Any = None,
    tile_um: float | None = None,
    tile_px: int | None = None,
    microns_per_pixel: float | Mapping[str, float] | None = None,
    weights: str | Path | None = None,
    sample_key: str = Key.SAMPLE,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    cache: bool = True,
    progress: bool | None = None,
    check: bool = True,
    key_added: str | None = None,
    table_key: str = Key.TABLE,
    copy: bool = False,
) -> Container | None:
    """Draw the edges and the nuclei in a square of tiles around every observation, and encode the drawings.

    What the network `"bg_triplex"` :cite:p:`qu2024` is guided by. Both drawings are dark on white and go through the
    encoder of the picture. Edges are central differences of hematoxylin, or the strength that a PiDiNet
    :cite:p:`su2021` gives, whose weights you pass. Nuclei are the outlines of :func:`stpredict.pp.nuclei`, filled. The squares are
    those of :func:`stpredict.pp.neighbor_features`; a tile that several share is drawn and encoded once.

    Parameters
    ----------
    data
        AnnData or SpatialData with sections and their images, after :func:`stpredict.pp.nuclei`.
    encoder
        As in :func:`stpredict.pp.image_features`; a network of your own needs `tile_px` and `key_added`.
    grid
        Side of the square in tiles, odd; networks take 5.
    edge_weights
        File with the weights of PiDiNet (the largest, `table5_pidinet`); central differences when `None`.
    nuclei_key
        Name of the nuclei.
    image, tile_um, tile_px, microns_per_pixel, weights, sample_key, batch_size, device, cache, progress, check, key_added
        As in :func:`stpredict.pp.neighbor_features`.
    table_key
        Table of a SpatialData.
    copy
        Whether to return a changed copy instead of changing `data`.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obsm["{key_added}_edges"]`, `obsm["{key_added}_nuclei"]`: features of the drawings, float32 (n_obs, grid², dim), row
      by row from the upper left; 0 where there is no tile.
    - `obsm["{key_added}_boundary_mask"]`: bool (n_obs, grid²), which tiles there are.
    - `uns["stpredict"]` under the names of the first two: encoder, its fingerprint, dim, tile_um, tile_px, grid,
      `drawing` (`"differences"`, `"pidinet"` with its digest, or the name of the nuclei), and microns_per_pixel.

    Raises
    ------
    KeyError
        When nuclei, positions, sections or an image are missing.
    ValueError
        When `grid` is even, µm per pixel is not known, positions do not fit the image, an image or the weights are
        damaged, or features are not finite.
    FileNotFoundError
        When an image or weights are missing.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 4, n_spots=4)
    >>> stp.pp.nuclei(adata)
    >>> stp.pp.boundary_features(adata, cache=False)
    >>> adata.obsm["X_color-texture_edges"].shape, adata.obsm["X_color-texture_nuclei"].shape
    ((4, 25, 153), (4, 25, 153))
    """
    from functools import partial

    from tqdm.auto import tqdm

    from stpredict.core._settings import settings
    from stpredict.core._validate import check_positive
    from stpredict.encoders._edges import edges_by_differences, edges_by_network
    from stpredict.pp._cache import FeatureCache
    from stpredict.pp._image_features import encoder_for
    from stpredict.pp._neighbor_features import check_grid
    from stpredict.pp._squares import features_of_squares, record_of, squares_around
    from stpredict.pp._windows import sections_of
    from stpredict.slots._container import begin, get_table
    from stpredict.slots._nuclei import read_nuclei_of
    from stpredict.slots._provenance import write_record

    check_key(key_added)
    check_grid(grid, batch_size)
    draw, drawing = edges_by_differences, "differences"
    if edge_weights is not None:
        draw, digest = edges_by_network(edge_weights)  # type: ignore[assignment]
        drawing = f"pidinet {digest}"
    network = encoder_for(encoder, weights, device, tile_px, key_added)
    width_um = network.tile_um if tile_um is None else check_positive(tile_um, "tile_um")
    part, key = network.for_side(width_um), key_added or Key.features(network.name)
    table = get_table(data, table_key)
    sections = sections_of(data, table, image, microns_per_pixel, sample_key, width_um, (1.0,), check)
    nuclei = {section.name: read_nuclei_of(data, table, nuclei_key, section.name) for section in sections}
    drawn = partial(draw, um_per_px=width_um / part.tile_px)
    store = FeatureCache() if cache and network.reproducible else None
    edges, filled = (np.empty((table.n_obs, grid**2, network.dim), dtype=np.float32) for _ in range(2))
    mask = np.empty(edges.shape[:2], dtype=bool)
    show = settings.progress if progress is None else progress
    with tqdm(unit="tile", desc=f"{network.name}, drawn", disable=not show) as bar:
        for section in sections:
            picture = section.find()
            try:
                squares = squares_around(picture, section.positions, section.sides[0], grid)
                options = (picture, section, squares, part, width_um, int(batch_size), store, bar.update)
                found = features_of_squares(*options, drawing=drawing, drawn=drawn)
                edges[section.rows], mask[section.rows] = squares.spread(found), squares.mask
                scale = min(1.0, section.microns_per_pixel / _UM_PER_PX)
                outlines = nuclei[section.name].geometry.to_numpy()
                source = (drawn_nuclei(outlines, picture, scale), scale)
                found = features_of_squares(*options, drawing=f"nuclei {source[0].fingerprint()}", source=source)
                filled[section.rows] = squares.spread(found)
            finally:
                picture.close()

    container, adata = begin(data, copy, table_key)
    adata.obsm[Key.boundary_mask(key)] = mask
    for slot, values, what in (
        (Key.edges(key), edges, drawing), (Key.nuclei_drawn(key), filled, nuclei_key)
    ):  # fmt: skip
        adata.obsm[slot] = values
        write_record(adata, slot, record_of(network, width_um, grid, sections) | {"drawing": what})
    return container if copy else None


def drawn_nuclei(outlines: np.ndarray, picture: SectionImage, scale: float) -> SectionImage:
    """Nuclei black on white, `scale` times the size of the picture of their section."""
    import shapely

    from stpredict.io._image import SectionImage
    from stpredict.pp._tissue_share import raster

    moved = shapely.transform(outlines, lambda points: points - picture.origin)
    inside = raster(moved, (picture.width, picture.height), scale)
    return SectionImage(np.where(inside, 0, 255).astype(np.uint8)[:, :, None].repeat(3, axis=2))
