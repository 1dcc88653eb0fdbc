"""Sections of an AnnData as a SpatialData."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_finite, check_positive, check_unique, few
from stpredict.io._image import SectionImage, section_image
from stpredict.slots._checks import check_obs, check_obsm
from stpredict.slots._keys import Key
from stpredict.slots._positions import positions_of

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

SPOTS, IMAGE = "_spots", "_image"
_REGION, _INSTANCE = "region", "spot_id"
ATTRS = "spatialdata_attrs"
_CHUNK_PX = 2048


def to_spatialdata(
    adata: AnnData,
    *,
    sample_key: str = Key.SAMPLE,
    images: bool = True,
    full_resolution: bool = False,
    scale_factors: Sequence[int] | None = None,
    radius_px: float | Mapping[str, float] | None = None,
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
    table_key
        Name of the table.

    Returns
    -------
    SpatialData with, per section, the circles `{sample}_spots` and the image `{sample}_image` (a thumbnail is scaled to
    full-resolution pixels by its transformation), and the table, a copy of `adata` with the columns `region` and
    `spot_id` that join it to the circles.

    Raises
    ------
    KeyError
        When positions, the section, or a full-resolution image that was asked for are missing.
    ValueError
        When names of observations repeat, names of sections hold characters that files cannot, positions are not
        finite, or the radius is unknown.

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
    if odd := [name for name in sections if not re.fullmatch(r"[\w.-]+", name) or name.startswith("__")]:
        raise ValueError(
            f"expected names of sections made of letters, digits, '_', '-' and '.'; found {few(map(repr, odd))}; "
            f"rename them in obs[{sample_key!r}] and uns['spatial']"
        )
    radii = {name: _radius(adata, name, radius_px) for name in sections}

    shapes, pictures = {}, {}
    for name, rows in sections.items():
        shapes[name + SPOTS] = ShapesModel.parse(
            xy[rows],
            geometry=0,
            radius=radii[name],
            index=pd.Index(adata.obs_names[rows].to_numpy(dtype=object)),
            transformations={name: Identity()},
        )
        element = _image_element(adata, name, full_resolution, scale_factors) if images else None
        if element is not None:
            pictures[name + IMAGE] = element
    table = adata.copy()
    table.uns.pop(ATTRS, None)
    table.obs[_REGION] = pd.Categorical([f"{name}{SPOTS}" for name in names])
    table.obs[_INSTANCE] = adata.obs_names.to_numpy(dtype=object)
    table = TableModel.parse(table, region=list(shapes), region_key=_REGION, instance_key=_INSTANCE)
    return SpatialData(images=pictures, shapes=shapes, tables={table_key: table})


def _radius(adata: AnnData, sample: str, given: float | Mapping[str, float] | None) -> float:
    if isinstance(given, Mapping):
        given = given.get(sample)
    if given is None:
        diameter = adata.uns.get("spatial", {}).get(sample, {}).get("scalefactors", {}).get("spot_diameter_fullres")
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

    entry = adata.uns.get("spatial", {}).get(sample, {})
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
