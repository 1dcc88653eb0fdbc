"""Run an encoder over the tiles around every observation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeGuard

from stpredict.cohorts._on_sections import is_cohort, write_sections
from stpredict.core._engine import check_client
from stpredict.encoders._resize import warn_if_coarse
from stpredict.pp._encode_sections import encode_sections, found_there
from stpredict.pp._windows import sections_of, warn_if_cells
from stpredict.slots._keys import Key, check_key
from stpredict.slots._stain import recorded_reference, stain_facts

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from spatialdata import SpatialData

    from stpredict.encoders import Encoder
    from stpredict.slots._container import Container


def image_features(
    data: Container,
    encoder: str | Encoder | Callable[[torch.Tensor], torch.Tensor] = "color-texture",
    *,
    image: Any = None,
    tile_um: float | None = None,
    tile_px: int | None = None,
    context: Sequence[float] | None = None,
    microns_per_pixel: float | Mapping[str, float] | None = None,
    weights: str | Path | None = None,
    sample_key: str = Key.SAMPLE,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    client: Any = None,
    cache: bool = True,
    progress: bool | None = None,
    check: bool = True,
    key_added: str | None = None,
    table_key: str = Key.TABLE,
    tile_key: str = "tiles",
    copy: bool = False,
) -> Container | None:
    """Compute image features of the tile around every observation, or of the tiles of a whole slide.

    Each section's full-resolution image is decoded once, read in bands and closed before the next. Tiles are cut to a
    size in µm, whatever the resolution of the scan, and resized (bilinear, antialiased) to the input of the encoder.
    What lies beyond the border of the image is filled by reflection, and counted. All sections are checked before the
    first is encoded.

    On a whole slide (:func:`stpredict.io.open_slide`, :func:`stpredict.pp.tiles`) its tiles are read block by block
    from the coarsest pyramid level that still has the resolution of the encoder, and finished chunks are cached, so
    that an interrupted run continues where it stopped. The tiles decide the field of view.

    Embedded encoders take 112 µm at once and cost about 3 ms for each of these; `"color-texture"` also reads the surroundings
    of a spot, which doubles that and needs pixels from five times as far away. What that gains is in the documentation
    (results, how the defaults were chosen).

    Parameters
    ----------
    data
        AnnData or SpatialData with `obsm["spatial"]` (x, y in full-resolution pixels) and `obs[sample_key]`, or a slide
        with tiles and without the table `table_key`.
    encoder
        Name of an encoder of :func:`stpredict.encoders.list_encoders`, `"timm:NAME"`, `"torchvision:NAME"`, an encoder
        of :func:`stpredict.encoders.get_encoder`, or an `nn.Module` or function from normalized float tiles (b, 3,
        tile_px, tile_px) to features (b, dim); a module or function needs `tile_px` and `key_added`.
    image
        Image of the section (a path or an array), or a mapping from section to either; when `None`, the image is found
        through `uns["spatial"]` or the SpatialData.
    tile_um
        Side of a tile in µm; the encoder's field of view by default (112 µm for most). That is for spots; for cells
        take about 30 µm, or `context=(1, 3)` around that, since neighboring cells otherwise have the same tile.
    tile_px
        Side of a tile in pixels, for a network of your own.
    context
        Fields of view as multiples of `tile_um`, all around the same center. Features of several are concatenated:
        `(1, 3)` adds the surroundings, three times as wide, and doubles the number of features. When `None`, those of the
        encoder: `(1, 5)` for `"color-texture"` and `(1,)` for most; on a slide those of the model that the tiles were laid
        for (`stp.pp.tiles(slide, like=model)`), else `(1,)`.
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
    client
        A `dask.distributed.Client`, or the address of a scheduler, whose workers compute the sections of an AnnData, or chunks
        of 512 tiles of a slide, one each at a time; the files of images and slides must be at the same paths there. The result
        does not depend on it.
    cache
        Whether to read features from `settings.cache_dir` and write them there. They are found by content: image file,
        encoder with weights, positions and tile size.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.
    check
        Whether to refuse positions that lie clearly better on the tissue with x and y exchanged; sections that were read
        with `check=False` are not refused in any case.
    key_added
        Slot in `obsm`; `"X_{encoder}"` when `None`.
    table_key
        Table of a SpatialData.
    tile_key
        Name of the shapes with the tiles of a slide.
    copy
        Whether to return a changed copy instead of changing `data`.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obsm[key_added]`: features, float32 (n_obs, dim of the encoder times the number of contexts).
    - `uns["stpredict"][key_added]`: encoder, its fingerprint, dim, tile_um, tile_px, context, and per section
      microns_per_pixel and the number of padded tiles; after :func:`stpredict.pp.normalize_stain` also its reference as
      `stain`, and per section the number of tiles without tissue as `left`.

    On a slide it writes

    - `tables["{encoder}_tiles"]` in the layout of wsidata: features (n_tiles, dim) in `X`; `tile_id`, `sample`,
      `patient`, `array_row`, `array_col` and `tissue_fraction` in `obs` where known; centers of the tiles in
      `obsm["spatial"]`; a picture of the slide in `uns["spatial"]`; and the same record in `uns["stpredict"]`.

    Raises
    ------
    KeyError
        When positions, sections or an image are missing.
    ValueError
        When µm per pixel is not known, positions do not fit the image, the image is damaged, or features are not
        finite.
    FileNotFoundError
        When an image is missing, or weights are needed and neither given nor reachable.
    RuntimeError
        When the weights of the encoder are gated.
    TypeError
        When `data` is neither AnnData nor SpatialData. Also when an image holds neither uint8, uint16 nor floats.
    ImportError
        When a package that the encoder or the slide needs is not installed (extra `encoders` or `wsi`).

    Warns
    -----
    UserWarning
        When the image of a section is gray, uses fewer bits than its values have, or is resampled,
        or when it is much coarser than the encoder wants; once per section. When observations look like cells and
        `tile_um` is not given.

    Examples
    --------
    >>> import anndata, numpy as np, pandas as pd
    >>> import stpredict as stp
    >>> image = np.random.default_rng(0).integers(0, 255, (400, 500, 3), dtype=np.uint8)
    >>> adata = anndata.AnnData(
    ...     np.zeros((2, 1)),
    ...     obs=pd.DataFrame({"sample": "s1"}, index=["a", "b"]),
    ...     obsm={"spatial": np.array([[90, 200], [300, 150]])},
    ... )
    >>> stp.pp.image_features(adata, image=image, microns_per_pixel=0.5, cache=False, progress=False)
    >>> adata.obsm["X_color-texture"].shape
    (2, 306)
    """
    if is_cohort(data):
        return write_sections(image_features, locals())
    from stpredict.core._validate import check_positive
    from stpredict.slots._container import begin, get_table
    from stpredict.slots._content import seal_features
    from stpredict.slots._provenance import write_record

    check_key(key_added)
    check_client(client)
    if int(batch_size) != batch_size or batch_size < 1:
        raise ValueError(f"expected batch_size to be a positive whole number; found {batch_size!r}")
    network = encoder_for(encoder, weights, device, tile_px, key_added)
    width_um = network.tile_um if tile_um is None else check_positive(tile_um, "tile_um")
    key = key_added or Key.features(network.name)
    on_slide = _has_tiles(data, table_key)
    scales = _scales(context, data, network, tile_key if on_slide else None)
    if on_slide:
        for name, value in (("image", image), ("microns_per_pixel", microns_per_pixel)):
            if value is not None:
                raise ValueError(f"expected no `{name}=` with a slide, which was opened with it; found one")
        from stpredict.io._slide import shallow_copy
        from stpredict.pp._tile_features import tile_features

        name, table = tile_features(
            data, network, key, tile_um=tile_um, context=scales, tile_key=tile_key, batch_size=int(batch_size),
            cache=cache, progress=progress, client=client,
        )  # fmt: skip
        slide = shallow_copy(data) if copy else data
        slide.tables[name] = table
        return slide if copy else None

    sections = sections_of(
        data, get_table(data, table_key), image, microns_per_pixel, sample_key, width_um, scales, check
    )
    for section in sections:
        least_px = network.for_side(width_um * min(scales)).tile_px
        warn_if_coarse(f"the image of section {section.name!r}", min(section.sides), least_px)
        if tile_um is None:
            warn_if_cells(section, width_um)
    if client is not None and len(sections) > 1:
        sections = [replace(section, find=found_there(data, section.name, image)) for section in sections]
    features, left = encode_sections(sections, network, width_um, scales, int(batch_size), cache, progress, client)

    container, adata = begin(data, copy, table_key)
    adata.obsm[key] = features
    write_record(
        adata,
        key,
        {
            "encoder": network.name,
            "fingerprint": network.fingerprint,
            "dim": features.shape[1],
            **seal_features(features, adata.obs[sample_key]),
            "tile_um": width_um,
            "tile_px": network.tile_px,
            "context": scales,
            "microns_per_pixel": {section.name: section.microns_per_pixel for section in sections},
            "padded": {section.name: section.padded for section in sections},
            **stain_facts(recorded_reference(adata), left),
        },
    )
    return container if copy else None


def _has_tiles(data: Any, table_key: str) -> TypeGuard[SpatialData]:
    """Whether features are to be computed for the tiles of a whole slide."""
    from stpredict.io._slide import is_slide

    return is_slide(data) and table_key not in data.tables


def _scales(
    context: Sequence[float] | None, data: Container, encoder: Encoder, tile_key: str | None
) -> tuple[float, ...]:
    """Fields of view as multiples: those asked for, those of the encoder, or on a slide those that its tiles are laid for."""
    from stpredict.core._validate import check_positive

    if context is None and tile_key is not None:
        recorded = data.attrs.get(Key.UNS, {}).get(tile_key, {}).get("context") or {}
        context = recorded.get(encoder.name, (1.0,))
    asked = encoder.context if context is None else context
    scales = tuple(check_positive(scale, "every value of context") for scale in asked)
    if not scales or len(set(scales)) != len(scales):
        raise ValueError(f"expected one or more different multiples of tile_um in context; found {tuple(asked)}")
    return scales


def encoder_for(encoder: Any, weights: Any, device: Any, tile_px: int | None, key_added: str | None) -> Encoder:
    """The encoder of this name, or around a network of the user, which needs a size and a slot."""
    from stpredict.encoders import Encoder, get_encoder

    if isinstance(encoder, (str, Encoder)):
        network = get_encoder(encoder, weights, device)
        if tile_px not in {None, network.tile_px}:
            raise ValueError(
                f"expected tile_px={network.tile_px} for encoder {network.name!r}; found {tile_px}; its input size is "
                "fixed, the field of view is set with `tile_um=`"
            )
        return network
    if key_added is None:
        raise ValueError("expected `key_added=` (the slot in obsm) with a network of your own; found none")
    return get_encoder(encoder, weights, device, tile_px=tile_px, name=key_added.removeprefix("X_"))
