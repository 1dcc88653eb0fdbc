"""Features of the tiles around every observation."""

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
    from stpredict.slots._container import Container


def neighbor_features(
    data: Container,
    encoder: str | Encoder | Callable[[torch.Tensor], torch.Tensor] = "color-texture",
    grid: int = 5,
    *,
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
    """Compute image features of a square of tiles around every observation, its own tile in the middle.

    Networks that read the surroundings of a spot, such as `"triplex"`, find them there, beside the features of
    :func:`stpredict.pp.image_features`, with whose first field of view the tile in the middle agrees. Tiles lie side by side on whole pixels. One that
    the squares of several observations share is read and encoded once: on a lattice whose pitch is a multiple of the
    tile, inner tiles cost as little as without a square.

    Parameters
    ----------
    data
        AnnData or SpatialData with `obsm["spatial"]` (x, y in full-resolution pixels) and `obs[sample_key]`.
    encoder
        As in :func:`stpredict.pp.image_features`; a network of your own needs `tile_px` and `key_added`.
    grid
        Side of the square in tiles, odd; networks take 5.
    image
        Image of the section, or a mapping from section to it; when `None`, it is found as in
        :func:`stpredict.pp.image_features`.
    tile_um
        Side of a tile in µm, the same as of the features beside these; the encoder's field of view by default.
    tile_px
        Side of a tile in pixels, for a network of your own.
    microns_per_pixel
        µm per full-resolution pixel, or a mapping by section; by default read from
        `uns["spatial"][sample]["scalefactors"]`.
    weights
        Weight file of the encoder; the published weights, which are downloaded, when `None`.
    sample_key
        Column of `obs` that names the section.
    batch_size
        Number of tiles encoded at once.
    device
        Device to run the encoder on; `settings.device` when `None`.
    cache
        Whether to read features from `settings.cache_dir` and write them there.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.
    check
        Whether to refuse positions that lie clearly better on the tissue with x and y exchanged.
    key_added
        Slot of the features beside which these are written, beginning with `"X_"`; `"X_{encoder}"` when `None`.
    table_key
        Table of a SpatialData.
    copy
        Whether to return a changed copy instead of changing `data`.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obsm["{key_added}_neighbors"]`: features, float32 (n_obs, grid², dim), row by row from the upper left; 0 where
      there is no tile.
    - `obsm["{key_added}_neighbor_mask"]`: bool (n_obs, grid²), which tiles there are. One that reaches beyond the image
      is none; the one in the middle always is, filled by reflection.
    - `uns["stpredict"]["{key_added}_neighbors"]`: encoder, its fingerprint, dim, tile_um, tile_px, grid, and per section
      microns_per_pixel, the number of different tiles (`n_tiles`), and of places without one (`masked`).

    Raises
    ------
    KeyError
        When positions, sections or an image are missing.
    ValueError
        When `grid` is even, µm per pixel is not known, positions do not fit the image, the image is damaged, or features
        are not finite.
    FileNotFoundError
        When an image is missing, or weights are needed and neither given nor reachable.
    RuntimeError
        When the weights of the encoder are gated.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 4, n_spots=9)
    >>> stp.pp.neighbor_features(adata, cache=False)
    >>> adata.obsm["X_color-texture_neighbors"].shape
    (9, 25, 153)
    >>> bool(adata.obsm["X_color-texture_neighbor_mask"][:, 12].all())
    True
    """
    if is_cohort(data):
        return write_sections(neighbor_features, locals())
    from tqdm.auto import tqdm

    from stpredict.core._settings import settings
    from stpredict.encoders._resize import warn_if_coarse
    from stpredict.pp._squares import features_of_squares, plan_squares, squares_around
    from stpredict.slots._container import begin
    from stpredict.slots._provenance import write_record

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
    for section in plan.sections:
        warn_if_coarse(f"the image of section {section.name!r}", min(section.sides), plan.at_scale.tile_px)
    features = plan.empty()
    mask = np.empty(features.shape[:2], dtype=bool)
    n_tiles: dict[str, int] = {}
    show = settings.progress if progress is None else progress
    with tqdm(unit="tile", desc=plan.encoder.name, disable=not show) as bar:
        for section in plan.sections:
            picture = section.find()
            try:
                squares = squares_around(picture, section.positions, section.sides[0], plan.grid)
                found = features_of_squares(plan, picture, section, squares, bar.update)
            finally:
                picture.close()
            features[section.rows], mask[section.rows] = squares.spread(found), squares.mask
            n_tiles[section.name] = len(squares.centers)

    container, adata = begin(data, copy, table_key)
    adata.obsm[Key.neighbors(plan.key)], adata.obsm[Key.neighbor_mask(plan.key)] = features, mask
    masked = {section.name: int((~mask[section.rows]).sum()) for section in plan.sections}
    write_record(adata, Key.neighbors(plan.key), plan.record() | {"n_tiles": n_tiles, "masked": masked})
    return container if copy else None
