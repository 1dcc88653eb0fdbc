"""Features of the edges and of the nuclei in the tiles around every observation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts._on_sections import is_cohort, write_sections
from stpredict.slots._keys import Key

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
    if is_cohort(data):
        return write_sections(boundary_features, locals())
    from functools import partial

    from tqdm.auto import tqdm

    from stpredict.core._settings import settings
    from stpredict.encoders._edges import edges_by_differences, edges_by_network
    from stpredict.pp._squares import features_of_squares, plan_squares, squares_around
    from stpredict.slots._container import begin
    from stpredict.slots._nuclei import read_nuclei_of
    from stpredict.slots._provenance import write_record

    draw, drawing = edges_by_differences, "differences"
    if edge_weights is not None:
        draw, digest = edges_by_network(edge_weights)  # type: ignore[assignment]
        drawing = f"pidinet {digest}"
    plan = plan_squares(
        data,
        encoder,
        grid,
        image=image,
        tile_um=tile_um,
        tile_px=tile_px,
        microns_per_pixel=microns_per_pixel,
        weights=weights,
        sample_key=sample_key,
        batch_size=batch_size,
        device=device,
        cache=cache,
        check=check,
        key_added=key_added,
        table_key=table_key,
    )
    nuclei = {section.name: read_nuclei_of(data, plan.table, nuclei_key, section.name) for section in plan.sections}
    drawn = partial(draw, um_per_px=plan.tile_um / plan.at_scale.tile_px)
    edges, filled = plan.empty(), plan.empty()
    mask = np.empty(edges.shape[:2], dtype=bool)
    show = settings.progress if progress is None else progress
    with tqdm(unit="tile", desc=f"{plan.encoder.name}, drawn", disable=not show) as bar:
        for section in plan.sections:
            picture = section.find()
            try:
                squares = squares_around(picture, section.positions, section.sides[0], plan.grid)
                encode = partial(features_of_squares, plan, picture, section, squares, bar.update)
                edges[section.rows] = squares.spread(encode(drawing=drawing, drawn=drawn))
                scale = min(1.0, section.microns_per_pixel / _UM_PER_PX)
                source = (drawn_nuclei(nuclei[section.name].geometry.to_numpy(), picture, scale), scale)
                found = encode(drawing=f"nuclei {source[0].fingerprint()}", source=source)
                filled[section.rows], mask[section.rows] = squares.spread(found), squares.mask
            finally:
                picture.close()

    container, adata = begin(data, copy, table_key)
    adata.obsm[Key.boundary_mask(plan.key)] = mask
    for slot, values, what in (
        (Key.edges(plan.key), edges, drawing), (Key.nuclei_drawn(plan.key), filled, nuclei_key)
    ):  # fmt: skip
        adata.obsm[slot] = values
        write_record(adata, slot, plan.record() | {"drawing": what})
    return container if copy else None


def drawn_nuclei(outlines: np.ndarray, picture: SectionImage, scale: float) -> SectionImage:
    """Nuclei black on white, `scale` times the size of the picture of their section."""
    import shapely

    from stpredict.io._image import SectionImage
    from stpredict.pp._tissue_share import raster

    moved = shapely.transform(outlines, lambda points: points - picture.origin)
    inside = raster(moved, (picture.width, picture.height), scale)
    return SectionImage(np.where(inside, 0, 255).astype(np.uint8)[:, :, None].repeat(3, axis=2))
