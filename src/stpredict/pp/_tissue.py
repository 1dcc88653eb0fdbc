"""Find the tissue on a slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts._on_sections import is_cohort, write_sections
from stpredict.slots._keys import check_key

if TYPE_CHECKING:
    from spatialdata import SpatialData

MASK_UM = 8.0  # µm per pixel of the picture that tissue is found on
_CLOSING = 3  # dilations, then erosions, as published
_DARK = 50  # gray value below which there is no light: padding, scanner borders, ink
_BRIGHT = 150  # of the darkest channel; glass is at least as bright in every channel
_SMOOTH = 3.5  # standard deviation of gray values within a neighborhood; tissue has more, glass and its stains less
_GLASS_SHARE = 0.005  # of the picture; less is no background to measure the light on
# Saturation and transmission relative to the glass. Otsu's threshold divides any values into two classes; these
# bounds keep it from dividing tissue into pale and dark, or the noise of empty glass into two.
_SATURATION = (0.05, 0.08)
_TRANSMISSION = (0.82, 0.94)
_INK = 1.4  # absorption relative to that of green, beyond any mixture of hematoxylin and eosin


def tissue(
    data: SpatialData,
    *,
    method: str = "otsu",
    min_area_um2: float = 50_000.0,
    min_hole_um2: float = 20_000.0,
    key_added: str = "tissues",
    copy: bool = False,
) -> SpatialData | None:
    """Find the tissue on a slide.

    The rule of SEQUOIA :cite:p:`pizurica2024` on a picture of 8 µm per pixel: tissue is more saturated than Otsu's
    threshold, not brighter than Otsu's threshold in all three channels, and not dark; three dilations and three
    erosions close it. Colors are taken relative to the glass, which may be pink or gray, and both thresholds are kept
    within bounds of absorbance, so that a slide full of tissue is all tissue and an empty one has none. Dark pixels
    (padding, borders of the scan, black ink) and colors that no mixture of hematoxylin and eosin has (blue and green
    ink) are neither.

    Parameters
    ----------
    data
        Slide of :func:`stpredict.io.open_slide`.
    method
        Method of segmentation; `"otsu"` is the only one so far.
    min_area_um2
        Area in µm² below which a piece is left out.
    min_hole_um2
        Area in µm² below which a hole is filled.
    key_added
        Name of the new shapes.
    copy
        Whether to return a changed copy instead of changing `data`.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `shapes[key_added]`: `tissue_id` and polygons with holes in level-0 pixels, the largest first.

    Raises
    ------
    ValueError
        When there is no tissue.
    TypeError
        When `sdata` is not a slide of :func:`stpredict.io.open_slide`.
    FileNotFoundError
        When the file of the slide is missing.
    ImportError
        When wsidata is not installed (extra `wsi`).

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np, tifffile
    >>> import stpredict as stp
    >>> picture = np.full((2048, 2048, 3), 245, np.uint8)
    >>> picture[512:1536, 512:1536] = (190, 100, 160)
    >>> path = Path(tempfile.mkdtemp()) / "slide.tiff"
    >>> tifffile.imwrite(path, picture, tile=(256, 256), photometric="rgb")
    >>> slide = stp.io.open_slide(path, microns_per_pixel=0.5)
    >>> stp.pp.tissue(slide)
    >>> len(slide.shapes["tissues"]), round(float(slide.shapes["tissues"].area.iloc[0]) / 1024**2, 2)
    (1, 1.0)
    """
    if is_cohort(data):
        return write_sections(tissue, locals())
    from stpredict.core._validate import check_choice, check_positive
    from stpredict.io._slide import (
        check_slide,
        shallow_copy,
        slide_microns_per_pixel,
        slide_name,
        slide_reader,
        slide_thumbnail,
    )

    check_key(key_added)
    check_slide(data)
    check_choice(method, ["otsu"], "method")
    mpp = slide_microns_per_pixel(data)
    smallest, hole = check_positive(min_area_um2, "min_area_um2"), check_positive(min_hole_um2, "min_hole_um2")
    with slide_reader(data) as reader:
        picture, factor = slide_thumbnail(reader, mpp, MASK_UM)
    pixel_um = mpp * factor
    mask = tissue_mask(picture, pixel_um, min_area_um2=smallest, min_hole_um2=hole)
    if not mask.any():
        raise ValueError(
            f"expected tissue on slide {slide_name(data)!r}; found none in pieces of {smallest:g} µm² or more; "
            "look at it with stp.pl.slide(sdata), check the µm per pixel, or lower `min_area_um2`"
        )
    frame = _shapes(mask, factor)
    container = shallow_copy(data) if copy else data
    container.shapes[key_added] = frame
    return container if copy else None


def tissue_mask(
    picture: np.ndarray, microns_per_pixel: float, *, min_area_um2: float = 0.0, min_hole_um2: float = 0.0
) -> np.ndarray:
    """Tissue on a small picture of a slide.

    Parameters
    ----------
    picture
        RGB uint8 (h, w, 3).
    microns_per_pixel
        Its µm per pixel, best about 8.
    min_area_um2, min_hole_um2
        Areas in µm² below which pieces are left out and holes filled.

    Returns
    -------
    Boolean (h, w), true on tissue.
    """
    from scipy import ndimage

    # One plane a channel: to reduce the last axis of three takes ten times as long.
    light = np.ascontiguousarray(np.moveaxis(picture, 2, 0), dtype=np.float32)
    lit = light.max(axis=0) > _DARK
    transmission = np.clip(light / _glass(light, lit)[:, None, None], 1e-3, 1.0)
    brightest = transmission.max(axis=0)
    saturation = 1 - transmission.min(axis=0) / brightest
    mask = lit & ~_ink(light, transmission) & (saturation > _bounded_otsu(saturation[lit], _SATURATION))
    pale = np.ones_like(mask)
    for values in transmission:
        pale &= values > _bounded_otsu(values[lit], _TRANSMISSION)
    mask &= ~pale
    cross = ndimage.generate_binary_structure(2, 1)
    mask = ndimage.binary_dilation(mask, cross, iterations=_CLOSING)
    mask = ndimage.binary_erosion(mask, cross, iterations=_CLOSING, border_value=1)
    pixel = microns_per_pixel**2
    mask = _without_small(mask, min_area_um2 / pixel)
    return ~_without_small(~mask, min_hole_um2 / pixel)


def _without_small(mask: np.ndarray, pixels: float) -> np.ndarray:
    """Mask without the connected pieces of fewer pixels."""
    from scipy import ndimage

    pieces, _ = ndimage.label(mask)
    large = np.bincount(pieces.ravel()) >= pixels
    large[0] = False
    return large[pieces]


def _glass(light: np.ndarray, lit: np.ndarray) -> np.ndarray:
    """Color (3,) of empty glass on planes (3, h, w): that of bright and even parts, or white where there are none."""
    from scipy import ndimage

    gray = light.mean(axis=0)
    spread = np.sqrt(np.maximum(ndimage.uniform_filter(gray**2, 5) - ndimage.uniform_filter(gray, 5) ** 2, 0))
    even = lit & (light.min(axis=0) >= _BRIGHT) & (spread < _SMOOTH)
    padding = (light == 255).all(axis=0)  # white that the scanner software filled in
    real = even & ~padding
    if real.sum() < _GLASS_SHARE * real.size:
        return np.full(3, 255.0, dtype=np.float32)
    # The most frequent brightness: eosin that bled into the glass around tissue is even as well, but covers less.
    levels = np.bincount(gray[real].astype(np.int64), minlength=256).astype(float)
    mode = int(np.argmax(np.convolve(levels, np.ones(7), mode="same")))
    near = real & (np.abs(gray - mode) <= 6)
    return np.median(light[:, near], axis=1).astype(np.float32)


def _ink(light: np.ndarray, transmission: np.ndarray) -> np.ndarray:
    """Dark gray, and colors that absorb clearly more red than green: black, blue and green ink."""
    density = -np.log(transmission)
    gray = (light.max(axis=0) <= 110) & (np.ptp(light, axis=0) <= 20)
    return gray | ((density.max(axis=0) > 0.25) & (density[0] > _INK * density[1]))


def _bounded_otsu(values: np.ndarray, bounds: tuple[float, float]) -> float:
    """Otsu's threshold, kept within bounds."""
    from skimage.filters import threshold_otsu

    if values.size == 0 or np.ptp(values) == 0:
        return bounds[0]
    return float(np.clip(threshold_otsu(values), *bounds))


def _shapes(mask: np.ndarray, factor: float) -> Any:
    """Outlines of a mask as a table of polygons with holes, in pixels `factor` times smaller."""
    import geopandas as gpd
    import shapely
    from skimage.measure import find_contours
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import Identity

    outlines = find_contours(np.pad(mask, 1).astype(np.float32), 0.5)
    # Contours run through the middle between pixels; 1 for the padding, 0.5 from pixel centers to corners.
    rings = [shapely.LinearRing((line[:, ::-1] - 0.5) * factor) for line in outlines if len(line) > 3]
    areas = shapely.build_area(shapely.GeometryCollection(rings))
    parts = shapely.get_parts(shapely.make_valid(areas))
    parts = parts[(shapely.get_type_id(parts) == 3) & (shapely.area(parts) > 0)]
    parts = parts[np.argsort(-shapely.area(parts), kind="stable")]
    frame = gpd.GeoDataFrame({"tissue_id": np.arange(len(parts)), "geometry": parts})
    return ShapesModel.parse(frame, transformations={"global": Identity()})
