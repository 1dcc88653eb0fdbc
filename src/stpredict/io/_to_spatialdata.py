"""Sections of an AnnData as a SpatialData."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_finite, check_positive, check_unique, few
from stpredict.io._image import SectionImage, section_image
from stpredict.slots._checks import check_obs, check_obsm
from stpredict.slots._keys import Key, check_key, distinct, storable
from stpredict.slots._nuclei import nuclei_keys, read_nuclei_of, sections_with_nuclei, write_nuclei
from stpredict.slots._positions import positions_of
from stpredict.slots._predicted import predicted_table
from stpredict.slots._prediction import main_predictions
from stpredict.slots._provenance import read_record, write_record
from stpredict.slots._sections import kept_sections, section_entry

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

SPOTS, IMAGE = "_spots", "_image"
_REGION, _INSTANCE = "region", "spot_id"
ATTRS = "spatialdata_attrs"
_CHUNK_PX = 2048
_SHORT = ("label", "model", "allow_leakage")  # of the record of a prediction, which the main table has as a whole


def to_spatialdata(
    adata: AnnData,
    *,
    sample_key: str = Key.SAMPLE,
    images: bool = True,
    full_resolution: bool = False,
    scale_factors: Sequence[int] | None = None,
    radius_px: float | Mapping[str, float] | None = None,
    predictions: bool | str | Sequence[str] = True,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> SpatialData:
    """Convert an AnnData to a SpatialData :cite:p:`marconato2025`.

    Every section has a coordinate system of its own, named after it, in full-resolution pixels.

    Parameters
    ----------
    adata
        Object with `obsm["spatial"]` in full-resolution pixels.
    sample_key
        Column of `obs` that names the section.
    images
        Whether to add the images. Sections without one have none.
    full_resolution
        Whether to add the full-resolution image, which is read when it is needed, instead of the thumbnail.
    scale_factors
        Factors between the levels of a pyramid, such as `[2, 2, 2]`; one level when `None`.
    radius_px
        Radius of the spots in full-resolution pixels, for all or by section; half of `spot_diameter_fullres` when
        `None`.
    predictions
        Slots of predictions to add as tables of their own; all that are in `obsm` (comparators, and what lies beside
        another one, aside) for `True`, none for `False`.
    patient_key
        Column of `obs` that names the patient, for the tables of predictions.
    table_key
        Name of the table.

    Returns
    -------
    SpatialData with

    - per section the circles `{sample}_spots` and the image `{sample}_image` (a thumbnail is scaled to full-resolution
      pixels by its transformation). What SpatialData does not accept in a name becomes `_` there, and stays as it is in
      `obs[sample_key]`;
    - per section the polygons of its nuclei, `{sample}_{key}`, where :func:`stpredict.pp.nuclei` has found some, instead of
      `uns[key]`;
    - the table, a copy of `adata` with the columns `region` and `spot_id` that join it to the circles;
    - a table per prediction, of its name: `X` is the prediction, `var` its genes, `layers["measured"]` what was measured,
      as :func:`stpredict.get.predicted` has them. To draw one:
      `sdata.pl.render_shapes("A1_spots", color="ERBB2", table_name="predicted")`.

    Raises
    ------
    KeyError
        When positions, the section, or a full-resolution image that was asked for are missing.
    ValueError
        When names of observations repeat, names of sections are the same without what SpatialData does not accept in
        them, positions are not finite, the radius is unknown, or the genes of a prediction are.

    Warns
    -----
    UserWarning
        When columns or slots of yours have names that SpatialData does not accept, which get others in the table.

    Examples
    --------
    >>> import pandas as pd
    >>> import stpredict as stp
    >>> positions = pd.DataFrame({"x": [10.0, 30.0], "y": [20.0, 20.0]}, index=["a", "b"])
    >>> adata = stp.io.from_tables(None, positions, sample="S1", microns_per_pixel=0.5, spot_diameter_um=5)
    >>> sdata = stp.io.to_spatialdata(adata)
    >>> list(sdata.shapes)
    ['S1_spots']
    """
    import pandas as pd
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel
    from spatialdata.transformations import Identity

    check_obsm(adata, Key.SPATIAL, "read the data with stp.io, or write x and y in pixels there")
    check_obs(adata, sample_key, "name the sections there, or pass `sample_key=`")
    check_unique(adata.obs_names, "names of observations")
    xy = positions_of(adata)
    check_finite(xy, f"obsm[{Key.SPATIAL!r}]", "drop these observations or correct their positions")
    if adata.obs[sample_key].isna().any():
        raise ValueError(f"expected a section for every observation; found gaps in obs[{sample_key!r}]")
    names = adata.obs[sample_key].astype(str).to_numpy()
    sections = {str(name): np.flatnonzero(names == name) for name in dict.fromkeys(names)}
    stems = distinct(sections)
    if twice := [name for name, stem in stems.items() if stem != storable(name)]:
        raise ValueError(
            f"expected names of sections that differ in letters (whatever their case), digits, '_', '-' or '.'; found "
            f"{few(map(repr, twice))} beside others that are the same in these; rename them in obs[{sample_key!r}]"
        )
    keys = _keys(adata, predictions, table_key)
    radii = {name: _radius(adata, name, radius_px) for name in sections}

    shapes, pictures = {}, {}
    for name, rows in sections.items():
        shapes[stems[name] + SPOTS] = ShapesModel.parse(
            xy[rows],
            geometry=0,
            radius=radii[name],
            index=pd.Index(adata.obs_names[rows].to_numpy(dtype=object)),
            transformations={name: Identity()},
        )
        element = _image_element(adata, name, full_resolution, scale_factors) if images else None
        if element is not None:
            pictures[stems[name] + IMAGE] = element
    region = pd.Categorical([f"{stems[name]}{SPOTS}" for name in names])
    whole = adata.copy()
    if there := kept_sections(adata.uns, sections):
        whole.uns[Key.SPATIAL] = there
    nuclei = {key: sections_with_nuclei(adata, key, sections) for key in nuclei_keys(adata) if key in whole.uns}
    for key in nuclei:
        del whole.uns[key]
    tables = {table_key: whole} | {key: _predicted(adata, key, sample_key, patient_key) for key in keys}
    for key, table in tables.items():
        table.uns.pop(ATTRS, None)
        _rename(table)
        table.obs[_REGION], table.obs[_INSTANCE] = region, adata.obs_names.to_numpy(dtype=object)
        tables[key] = TableModel.parse(table, region=list(shapes), region_key=_REGION, instance_key=_INSTANCE)
    sdata = SpatialData(images=pictures, shapes=shapes, tables=tables)
    for key, names_with in nuclei.items():
        frames = {name: read_nuclei_of(adata, adata, key, name) for name in names_with}
        write_nuclei(sdata, whole, key, frames)
    return sdata


def _keys(adata: AnnData, predictions: bool | str | Sequence[str], table_key: str) -> list[str]:
    """Slots of the predictions that get a table."""
    if isinstance(predictions, bool):
        found = main_predictions(adata) if predictions else []
        return [key for key in found if key != table_key]
    keys = [predictions] if isinstance(predictions, str) else list(predictions)
    for key in keys:
        check_obsm(adata, key, "run stp.tl.predict first, or name others in `predictions=`")
        check_key(key, "predictions")
    check_unique([table_key, *keys], "names of tables")
    return keys


def _predicted(adata: AnnData, key: str, sample_key: str, patient_key: str) -> AnnData:
    """Table of a prediction, with what belongs to it: every column of `obs` would be several files of its own."""
    table = predicted_table(adata, key, sample_key=sample_key)
    columns = [sample_key, patient_key, Key.leaky(key), Key.fold(key)]
    table.obs = table.obs[[name for name in columns if name in table.obs]]
    record = {name: value for name, value in (read_record(adata, key) or {}).items() if name in _SHORT}
    table.uns = {}
    write_record(table, Key.PREDICTION, {"key": key, **record})
    return table


def _rename(table: AnnData) -> None:
    """Give columns and slots names that SpatialData accepts, and say which."""
    renamed: dict[str, str] = {}
    for axis in ("obs", "var"):
        frame = getattr(table, axis)
        names = distinct(frame.columns)
        setattr(table, axis, frame.rename(columns=names))
        renamed |= {old: new for old, new in names.items() if old != new}
    for slots in (table.obsm, table.varm, table.obsp, table.varp, table.layers, table.uns):
        for old, new in distinct(slots).items():
            if old != new:
                slots[new] = slots.pop(old)
                renamed[old] = new
    if renamed:
        shown = few(f"{old!r} as {new!r}" for old, new in renamed.items())
        warnings.warn(
            f"SpatialData does not accept the names of {len(renamed)} columns and slots: {shown}", stacklevel=3
        )


def _radius(adata: AnnData, sample: str, given: float | Mapping[str, float] | None) -> float:
    if isinstance(given, Mapping):
        given = given.get(sample)
    if given is None:
        diameter = section_entry(adata, sample).get("scalefactors", {}).get("spot_diameter_fullres")
        if diameter is None:
            raise ValueError(
                f"expected the spot diameter of section {sample!r} in uns['spatial'][{sample!r}]['scalefactors']"
                "['spot_diameter_fullres']; found none; pass `radius_px=`"
            )
        given = float(diameter) / 2
    return check_positive(given, f"the radius of the spots of section {sample!r}")


def _image_element(adata: AnnData, sample: str, full_resolution: bool, scale_factors: Sequence[int] | None) -> Any:
    """Image element of a section in its coordinate system, or `None` when the section has no image."""
    from spatialdata.models import Image2DModel
    from spatialdata.transformations import Identity, Scale

    entry = section_entry(adata, sample)
    thumbnails = entry.get("images", {})
    if not thumbnails and "source_image_path" not in entry.get("metadata", {}):
        return None
    transformation: Any = Identity()
    if full_resolution:
        pixels = _lazy(section_image(adata, adata, sample))
    else:
        level = "hires" if "hires" in thumbnails else "lowres"
        factor = entry.get("scalefactors", {}).get(f"tissue_{level}_scalef")
        if level not in thumbnails or factor is None:
            return None
        pixels = np.moveaxis(np.asarray(thumbnails[level])[..., :3], -1, 0)
        if float(factor) != 1.0:
            transformation = Scale([1 / float(factor)] * 2, axes=("x", "y"))
    return Image2DModel.parse(
        pixels,
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations={sample: transformation},
        scale_factors=scale_factors,
    )


def _lazy(picture: SectionImage) -> Any:
    """Image (3, h, w) that is decoded when it is computed and dropped afterwards."""
    import dask
    import dask.array as da

    def read() -> np.ndarray:
        pixels = picture.band(0, picture.height)
        picture.close()
        return np.moveaxis(pixels, -1, 0)

    shape = (3, picture.height, picture.width)
    return da.from_delayed(dask.delayed(read)(), shape, dtype=np.uint8).rechunk((3, _CHUNK_PX, _CHUNK_PX))
