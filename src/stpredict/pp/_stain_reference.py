"""Find the stains of sections that others are to be given."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from stpredict.core._validate import check_choice
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    from stpredict.core._stain import StainMethod
    from stpredict.slots._container import Container
    from stpredict.slots._stain import StainReference


def stain_reference(
    data: Container,
    method: StainMethod = "macenko",
    *,
    white: str = "published",
    image: Any = None,
    microns_per_pixel: float | Mapping[str, float] | None = None,
    n_tiles: int = 64,
    seed: int = 0,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
    tile_key: str = "tiles",
) -> StainReference:
    """Find the stains of sections, to give them to others with :func:`stpredict.pp.normalize_stain`.

    Pass training sections only: whoever has a part in a reference is marked as seen in every prediction that reads
    features made with it. The reference is the mean over patients of the mean over their sections.

    Parameters
    ----------
    data
        AnnData or SpatialData with `obsm["spatial"]` and `obs[sample_key]`, or a slide with tiles and without the table
        `table_key`.
    method
        `"macenko"` :cite:p:`macenko2009`, `"vahadane"` :cite:p:`vahadane2016` or `"reinhard"` :cite:p:`reinhard2001`.
    white
        `"published"`: light through glass is 240. `"section"`: that of the glass of the sections, see
        :func:`stpredict.pp.normalize_stain`.
    image, microns_per_pixel
        Images and scales that the object does not record, as in :func:`stpredict.pp.image_features`.
    n_tiles
        Tiles of 112 µm around observations that the stains of a section are found in.
    seed
        Random seed of their choice.
    sample_key, patient_key
        Columns of `obs` with the section and the patient. Without the latter, patients are `"unknown"`, and so are leaks.
    table_key
        Table of a SpatialData.
    tile_key
        Name of the shapes with the tiles of a slide.

    Returns
    -------
    The reference. Nothing is written to `data`.

    Raises
    ------
    KeyError
        When positions, sections or an image are missing.
    ValueError
        When a section is gray or holds hardly any tissue, or no glass where its light is to be found, µm per pixel is not known, or the method is unknown.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=40, n_genes=5)
    >>> train = adata.obs["patient"] == "P1"
    >>> reference = stp.pp.stain_reference(adata[train])
    >>> reference.patients
    ('P1',)
    """
    from stpredict.core._stain import METHODS
    from stpredict.pp._stain_pixels import on_slide, people_behind, reference_of, slide_person, stains_of
    from stpredict.slots._container import get_table

    check_choice(method, METHODS, "method")
    stains = stains_of(
        data, method, white=white, image=image, microns_per_pixel=microns_per_pixel, n_tiles=n_tiles, seed=seed,
        sample_key=sample_key, table_key=table_key, tile_key=tile_key,
    )  # fmt: skip
    if on_slide(data, table_key):
        who = slide_person(data)
    else:
        who = people_behind(get_table(data, table_key), sample_key, patient_key)
    return reference_of(stains, list(stains), who)
