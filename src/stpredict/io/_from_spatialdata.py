"""The table of a SpatialData as an AnnData that carries its positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_positive, few
from stpredict.io._centroids import centroids
from stpredict.io._image import element_names, element_scale, thumbnail_of
from stpredict.io._section import note_patient
from stpredict.io._to_spatialdata import ATTRS, SPOTS
from stpredict.slots._checks import check_obs
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key, escaped
from stpredict.slots._nuclei import nuclei_keys, nuclei_shapes, write_nuclei
from stpredict.slots._sections import kept_sections, section_entry

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


def from_spatialdata(
    sdata: SpatialData,
    table_key: str = Key.TABLE,
    *,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    patient: str | Mapping[str, str] | None = None,
    microns_per_pixel: float | Mapping[str, float] | None = None,
    coordinate_system: str | None = None,
) -> AnnData:
    """Take a table out of a SpatialData, with the positions of the shapes or labels that it annotates.

    Parameters
    ----------
    sdata
        Object whose table annotates shapes (circles or polygons) or labels (the cells of a mask, as readers of Xenium
        have it).
    table_key
        Name of the table.
    sample_key
        Column of `obs` that names the section; where it is missing, the name of the annotated element without `_spots`.
    patient_key
        Column of `obs` that names the patient.
    patient
        Patient of all sections, or a patient per section, for a table without `obs[patient_key]`.
    microns_per_pixel
        µm per full-resolution pixel, for all or by section, where `uns["spatial"]` does not know it.
    coordinate_system
        Coordinate system of the positions, which have to be full-resolution pixels; the coordinates as they are stored
        when `None`, which are pixels of the mask for labels.

    Returns
    -------
    Copy of the table in its order, with

    - `obsm["spatial"]`: x and y of the centroids
    - `obs[sample_key]`, and `obs[patient_key]` where `patient` is given
    - `uns["spatial"][sample]`: `microns_per_pixel` and `spot_diameter_fullres` where known (of labels, that of a
      circle of the median area), and the thumbnail `hires`
      of a downscaled image `{sample}_hires_image` or `{sample}_image`, each where it was missing
    - `uns[key][sample]`: nuclei that :func:`stpredict.pp.nuclei` found, in the shapes `{sample}_{key}`

    Raises
    ------
    TypeError
        When `sdata` is no SpatialData.
    KeyError
        When the table, the annotated element, or the patient of a section are missing.
    ValueError
        When the table annotates nothing, rows have no shape or label, or both `patient` and its column exist.

    Examples
    --------
    >>> import pandas as pd
    >>> import stpredict as stp
    >>> positions = pd.DataFrame({"x": [10.0, 30.0], "y": [20.0, 20.0]}, index=["a", "b"])
    >>> adata = stp.io.from_tables(None, positions, sample="S1", microns_per_pixel=0.5, spot_diameter_um=5)
    >>> stp.io.from_spatialdata(stp.io.to_spatialdata(adata)).obsm["spatial"].tolist()
    [[10.0, 20.0], [30.0, 20.0]]
    """
    import pandas as pd
    from spatialdata import SpatialData

    if not isinstance(sdata, SpatialData):
        raise TypeError(f"expected a SpatialData; found {type(sdata).__name__}")
    adata = get_table(sdata, table_key).copy()
    attrs = adata.uns.pop(ATTRS, None)
    if not isinstance(attrs, Mapping) or not {"region_key", "instance_key"} <= set(attrs):
        raise ValueError(
            f"expected a table that annotates shapes or labels; found no whole uns[{ATTRS!r}] in table {table_key!r}; see "
            "spatialdata.models.TableModel.parse"
        )
    check_obs(adata, attrs["region_key"])
    check_obs(adata, attrs["instance_key"])
    regions = adata.obs[attrs["region_key"]].astype(str).to_numpy()
    names = {region: region.removesuffix(SPOTS) for region in dict.fromkeys(regions)}
    xy, diameters = centroids(sdata, regions, adata.obs[attrs["instance_key"]].to_numpy(), coordinate_system)

    if sample_key not in adata.obs:
        adata.obs[sample_key] = pd.Categorical([names[region] for region in regions])
    samples = adata.obs[sample_key].astype(str)
    note_patient(patient is not None or patient_key in adata.obs, "table")
    if patient is not None:
        if patient_key in adata.obs:
            raise ValueError(f"expected no obs[{patient_key!r}] beside `patient=`; found both; leave one of them out")
        by_sample = patient if isinstance(patient, Mapping) else dict.fromkeys(samples, patient)
        missing = [name for name in dict.fromkeys(samples) if name not in by_sample]
        if missing:
            raise KeyError(f"expected a patient of every section; missing {few(missing)}; add them to `patient=`")
        adata.obs[patient_key] = pd.Categorical(samples.map(by_sample))
    adata.obsm[Key.SPATIAL] = xy

    spatial = dict(adata.uns.get("spatial", {}))
    for sample, region in dict(zip(samples, regions, strict=True)).items():
        section_mpp = microns_per_pixel.get(sample) if isinstance(microns_per_pixel, Mapping) else microns_per_pixel
        entry = section_entry(adata, sample)
        spatial[escaped(sample)] = _entry(sdata, sample, entry, section_mpp, diameters.get(region))
    adata.uns["spatial"] = kept_sections({Key.SPATIAL: spatial}, samples.unique())
    for key in nuclei_keys(adata):
        frames = {name: _placed(nuclei_shapes(sdata, adata, key, name), coordinate_system) for name in samples.unique()}
        if found := {name: frame for name, frame in frames.items() if frame is not None}:
            write_nuclei(adata, adata, key, found)
    return adata


def _placed(frame: Any, coordinate_system: str | None) -> Any:
    """Nuclei in a coordinate system; as they are stored when `None`."""
    if frame is None or coordinate_system is None or not len(frame):
        return frame
    import shapely
    from spatialdata.transformations import get_transformation

    known = get_transformation(frame, get_all=True)
    if coordinate_system not in known:
        raise KeyError(f"expected nuclei in the coordinate system {coordinate_system!r}; found {few(map(repr, known))}")
    matrix = known[coordinate_system].to_affine_matrix(("x", "y"), ("x", "y"))

    def place(points: np.ndarray) -> np.ndarray:
        return points @ matrix[:2, :2].T + matrix[:2, 2]

    frame = frame.copy()
    frame[["x", "y"]] = place(frame[["x", "y"]].to_numpy())
    frame["geometry"] = shapely.transform(frame.geometry.to_numpy(), place)
    return frame


def _entry(
    sdata: SpatialData, sample: str, entry: Mapping[str, Any], mpp: float | None, diameter: float | None
) -> dict[str, Any]:
    """`uns["spatial"][sample]`, completed by what the elements know."""
    images, scalefactors = dict(entry.get("images", {})), dict(entry.get("scalefactors", {}))
    if mpp is not None:
        scalefactors.setdefault("microns_per_pixel", check_positive(mpp, "microns_per_pixel"))
    if diameter:
        scalefactors.setdefault("spot_diameter_fullres", diameter)
    for name in element_names(sample, "_hires_image", "_image"):
        if images or name not in sdata.images:
            continue
        scale = element_scale(sdata.images[name], sample)
        if scale > 1:
            images["hires"] = thumbnail_of(sdata.images[name], sample)
            scalefactors["tissue_hires_scalef"] = 1 / scale
    return {"images": images, "scalefactors": scalefactors, "metadata": dict(entry.get("metadata", {}))}
