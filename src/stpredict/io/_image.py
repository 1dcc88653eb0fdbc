"""The door through which the image of a section comes, and its scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.io._check_positions import check_positions, positions_are_checked
from stpredict.io._placement import COARSEST, element_matrix, is_full_resolution, matrix_scale, placed, stretched
from stpredict.io._section_image import SectionImage
from stpredict.io._square_pixels import source_scale
from stpredict.slots._container import is_spatialdata
from stpredict.slots._keys import storable
from stpredict.slots._provenance import read_record
from stpredict.slots._sections import microns_per_pixel, section_entry
from stpredict.slots._stain import STAIN, recoloring

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container

__all__ = [
    "SectionImage",
    "check_positions",
    "element_names",
    "element_scale",
    "microns_per_pixel",
    "positions_are_checked",
    "section_image",
    "thumbnail_of",
]


def section_image(data: Container, adata: AnnData, sample: str, image: Any = None) -> SectionImage:
    """Find the full-resolution image of a section.

    In this order: `image` (a path, an array, an image element, or a mapping from section to one of them), the path in
    `uns["spatial"][sample]["metadata"]["source_image_path"]`, the SpatialData image element of the section, placed as
    its transformation says, unless that makes it a thumbnail, and `uns["spatial"][sample]["images"]["hires"]` where it
    is stored at full resolution (scale factor 1). A file or array whose pixels are not square, as the scale factors of the
    section say, is stretched to the square ones of the positions.

    Its `stain` is that of :func:`stpredict.pp.normalize_stain`, where the object says so.
    """
    picture = _found(data, adata, sample, image)
    picture.stain = recoloring(read_record(adata, STAIN), sample)
    return picture


def _found(data: Container, adata: AnnData, sample: str, image: Any) -> SectionImage:
    if isinstance(image, Mapping) and not hasattr(image, "dims") and not hasattr(image, "groups"):
        if sample not in image:
            raise KeyError(f"expected an image of section {sample!r}; found {sorted(image)}; add it to `image=`")
        image = image[sample]
    entry = section_entry(adata, sample)
    scale = source_scale(entry.get("scalefactors", {}))
    if image is not None:
        return _given(image, sample, scale)
    path = entry.get("metadata", {}).get("source_image_path")
    if path is not None and (Path(str(path)).is_file() or not entry.get("images")):
        return stretched(str(path), scale)
    thumbnails = []
    if is_spatialdata(data):
        for name in element_names(sample, "_full_image", "_image", ""):
            if name in data.images:
                matrix = element_matrix(element := data.images[name], sample)
                # A registration may enlarge a little; what is scaled and nothing else is a thumbnail.
                if is_full_resolution(matrix) or (name.endswith("_full_image") and matrix_scale(matrix) <= COARSEST):
                    return placed(element, matrix)
                thumbnails.append(f"{name!r} is {matrix_scale(matrix):.3g} times coarser by its transformation")
    if "hires" in entry.get("images", {}) and float(entry["scalefactors"].get("tissue_hires_scalef", 0)) == 1.0:
        return SectionImage(entry["images"]["hires"])
    if path is not None:
        return stretched(str(path), scale)
    raise KeyError(
        f"expected a full-resolution image of section {sample!r}; found none in "
        f"uns['spatial'][{sample!r}] or the SpatialData{f' ({thumbnails[0]})' if thumbnails else ''}; "
        "pass `image=` (a path, an array, or a mapping by section)"
    )


def element_names(sample: str, *endings: str) -> list[str]:
    """Names that an element of a section may have in a SpatialData, which does not accept every name of a section."""
    return list(dict.fromkeys(base + ending for base in (sample, storable(sample)) for ending in endings))


def _given(image: Any, sample: str, scale: tuple[float, float]) -> SectionImage:
    """Image that a user passed, or that was opened; an element of a SpatialData lies where its transformation says."""
    if isinstance(image, SectionImage):
        return image
    if hasattr(image, "groups") or "transform" in getattr(image, "attrs", {}):
        return placed(image, element_matrix(image, sample))
    return stretched(image, scale)


def element_scale(element: Any, sample: str) -> float:
    """Full-resolution pixels per pixel of a SpatialData image element, from its transformation.

    Taken from the coordinate system named after the section, or else `"global"`; 1 where the element has neither.
    """
    return matrix_scale(element_matrix(element, sample))


def thumbnail_of(element: Any, sample: str) -> np.ndarray:
    """Picture uint8 (h, w, 3) of a downscaled element in its own resolution, from the origin of the coordinates on.

    What the element does not cover, because it was cropped or turned, is white.
    """
    matrix = element_matrix(element, sample)
    scale = matrix_scale(matrix)
    picture = placed(
        element["scale0"]["image"] if hasattr(element, "groups") else element,
        np.diag([1 / scale, 1 / scale, 1]) @ matrix,
    )
    left, top = np.round(picture.origin).astype(int)
    band = picture.band(0, picture.height)[max(-top, 0) :, max(-left, 0) :]
    canvas = np.full((max(top, 0) + band.shape[0], max(left, 0) + band.shape[1], 3), 255, dtype=np.uint8)
    canvas[max(top, 0) :, max(left, 0) :] = band
    return canvas
