"""Give the pictures of all sections the stains of one reference."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.core._validate import check_choice
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    from stpredict.slots._container import Container
    from stpredict.slots._stain import StainReference

NONE = "none"


def normalize_stain(
    data: Container,
    method: str | None = None,
    *,
    reference: Any = None,
    white: str | None = None,
    image: Any = None,
    microns_per_pixel: float | Mapping[str, float] | None = None,
    n_tiles: int = 64,
    seed: int = 0,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
    tile_key: str = "tiles",
    copy: bool = False,
) -> Container | None:
    """Give the pictures of all sections, or of a slide, the stains of a reference wherever tiles are read from now on.

    The stains of each section are found once, in a sample of its tiles, and written down; no picture is changed or copied.
    Tiles are recolored as they are cut: by :func:`stpredict.pp.image_features`, :func:`stpredict.pp.neighbor_features`,
    :func:`stpredict.pp.boundary_features`, :func:`stpredict.pp.dense_features`, :func:`stpredict.pp.patches` and by networks that
    read pixels. Tiles of which less than 1 % is tissue are left as they are. What was computed before keeps the stains
    that it was made with, and says so in its record. Nuclei are looked for, and figures drawn, in the pictures as they are.

    Parameters
    ----------
    data
        AnnData or SpatialData with `obsm["spatial"]` and `obs[sample_key]`, or a slide with tiles and without the table
        `table_key`.
    method
        `"macenko"` :cite:p:`macenko2009`, whose reference is published; `"vahadane"` :cite:p:`vahadane2016` or `"reinhard"`
        :cite:p:`reinhard2001`, which need a `reference`; `"none"` to read pictures as they are again. That of the reference, or
        `"macenko"`, when `None`.
    reference
        Reference of :func:`stpredict.pp.stain_reference`, the path of a saved one, or a model of :func:`stpredict.tl.fit` whose reference
        is taken; the published one when `None`.
    white
        `"published"`: light through glass is 240 everywhere, and tinted glass stays tinted. `"section"`: the light of each
        section is found in its glass, and becomes that of the reference, of tiles without tissue as well; for
        `"macenko"` and `"vahadane"`, in pictures with some glass. As the `reference` has it, `"published"` without one, when
        `None`.
    image, microns_per_pixel
        Images and scales that the object does not record, as in :func:`stpredict.pp.image_features`.
    n_tiles
        Tiles of 112 µm around observations that the stains of a section are found in.
    seed
        Random seed of their choice.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.
    tile_key
        Name of the shapes with the tiles of a slide.
    copy
        Whether to return a changed copy instead of changing `data`.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `uns["stpredict"]["stain"]` (of a slide, `attrs["stpredict"]["stain"]`): the `reference` with its method, numbers,
      digest, sections and patients; the numbers of each section; `n_tiles` and `seed`.

    Features that are made from then on hold the reference in their record as `stain`, the number of tiles that were left
    as they are as `left`, and the patients of the reference as `patients_seen`.

    Raises
    ------
    KeyError
        When positions, sections or an image are missing.
    ValueError
        When the method or the reference is unknown or they do not go together, a section is gray or holds hardly any
        tissue, or no glass where its light is to be found, or µm per pixel is not known.
    TypeError
        When `data` is neither AnnData nor SpatialData, or `reference` is something else.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=40, n_genes=5)
    >>> stp.pp.normalize_stain(adata, reference=stp.pp.stain_reference(adata[adata.obs["patient"] == "P1"], "reinhard"))
    >>> stp.pp.image_features(adata)
    >>> adata.uns["stpredict"]["X_color-texture"]["stain"]["method"]
    'reinhard'
    """
    from stpredict.core._stain import METHODS
    from stpredict.pp._stain_pixels import on_slide, stains_of
    from stpredict.slots._container import begin
    from stpredict.slots._provenance import drop_records, write_record
    from stpredict.slots._stain import STAIN, stain_entry

    if method is not None:
        check_choice(method, (*METHODS, NONE), "method")
    entry = None
    if method != NONE:
        wanted = _wanted(method, reference, white)
        stains = stains_of(
            data, wanted.method, white=wanted.white, image=image, microns_per_pixel=microns_per_pixel, n_tiles=n_tiles, seed=seed,
            sample_key=sample_key, table_key=table_key, tile_key=tile_key,
        )  # fmt: skip
        entry = stain_entry(wanted, stains, n_tiles, seed)
    elif reference is not None or white is not None:
        raise ValueError("expected neither `reference=` nor `white=` with method='none'; found one")
    if on_slide(data, table_key):
        from stpredict.io._slide import shallow_copy

        slide = shallow_copy(data) if copy else data
        record = {name: value for name, value in slide.attrs.get(Key.UNS, {}).items() if name != STAIN}
        slide.attrs[Key.UNS] = record | ({} if entry is None else {STAIN: entry})
        return slide if copy else None
    container, adata = begin(data, copy, table_key)
    if entry is None:
        drop_records(adata, [STAIN])
    else:
        write_record(adata, STAIN, entry)
    return container if copy else None


def _wanted(method: str | None, reference: Any, white: str | None) -> StainReference:
    """The reference that is meant."""
    from stpredict.core._stain import WHITES
    from stpredict.slots._stain import PUBLISHED_NAME, StainReference, model_reference

    if reference is None or reference == PUBLISHED_NAME:
        return StainReference.published(method or "macenko", white or WHITES[0])
    if isinstance(reference, (str, Path)):
        if not Path(reference).is_file():
            raise ValueError(
                "expected `reference` as one of stp.pp.stain_reference, the path of a saved one, a model, or 'published'; found "
                f"{str(reference)!r}, which is no file"
            )
        found = StainReference.load(reference)
    elif isinstance(reference, StainReference):
        found = reference
    elif isinstance(getattr(reference, "features", None), dict):
        found = model_reference(reference)
    else:
        raise TypeError(
            "expected `reference` as one of stp.pp.stain_reference, the path of a saved one, a model, or 'published'; found "
            f"{type(reference).__name__}"
        )
    if method is not None and method != found.method:
        raise ValueError(f"expected a reference of {method!r}; found one of {found.method!r}; leave `method` out")
    if white is not None and check_choice(white, WHITES, "white") != found.white:
        raise ValueError(
            f"expected a reference with white={white!r}; found {found.white!r}; leave `white` out, or fit another: "
            f"stp.pp.stain_reference(…, white={white!r})"
        )
    return found
