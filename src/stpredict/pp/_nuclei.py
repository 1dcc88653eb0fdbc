"""Find the nuclei of sections and slides, or take those that another tool has found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts._on_sections import is_cohort, write_sections
from stpredict.encoders._segment_nuclei import MAX_AREA_UM2, MIN_AREA_UM2, UM_PER_PX
from stpredict.slots._keys import Key, check_key

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from stpredict.io._image import SectionImage
    from stpredict.pp._find_nuclei import Picture
    from stpredict.slots._container import Container

_AROUND_UM = 300.0  # around observations, within which nuclei of a section are looked for


def nuclei(
    data: Container,
    segmentation: Any = None,
    *,
    image: Any = None,
    microns_per_pixel: float | Mapping[str, float] | None = None,
    sample_key: str = Key.SAMPLE,
    min_area_um2: float = MIN_AREA_UM2,
    max_area_um2: float = MAX_AREA_UM2,
    chunk_um: float = 768.0,
    tissue_key: str = "tissues",
    table_key: str = Key.TABLE,
    progress: bool | None = None,
    key_added: str = "nuclei",
    copy: bool = False,
) -> Container | None:
    """Find the nuclei of sections or of a whole slide, and measure them.

    Hematoxylin is separated by color deconvolution :cite:p:`ruifrok2001`, thresholded against its surroundings, and
    touching nuclei are parted by a watershed; all at 0.5 µm per pixel, whatever the scan. That needs no weights and
    finds dark and medium nuclei; pale ones with an open chromatin are often missed. A segmentation of another tool is
    measured in the same way: pass it as `segmentation`. Gray and empty pictures have no nuclei.

    The picture is read in chunks that overlap, so that memory is bounded by a chunk; a nucleus at the border of one is
    found once, whole. Of a section the surroundings of its observations are looked at, of a slide its tissue, where
    :func:`stpredict.pp.tissue` has found it.

    Parameters
    ----------
    data
        AnnData or SpatialData with sections and their images, or a slide of :func:`stpredict.io.open_slide` without the
        table `table_key`.
    segmentation
        What :func:`stpredict.io.read_nuclei` reads or has read, in full-resolution pixels, or a mapping from section to
        it. Sections that are not in the mapping are left as they are.
    image
        Image of the section, or a mapping from section to it; when `None`, it is found as in
        :func:`stpredict.pp.image_features`.
    microns_per_pixel
        µm per full-resolution pixel, or a mapping by section; by default read from
        `uns["spatial"][sample]["scalefactors"]`.
    sample_key
        Column of `obs` that names the section.
    min_area_um2, max_area_um2
        Areas beyond which something is no nucleus. Of a given segmentation all nuclei are kept.
    chunk_um
        Side of a chunk; memory grows with its square.
    tissue_key
        Name of the shapes with the tissue of a slide.
    table_key
        Table of a SpatialData.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.
    key_added
        Name of the nuclei.
    copy
        Whether to return a changed copy instead of changing `data`.

    Returns
    -------
    `None`, or the changed copy. Writes

    - a table of polygons in full-resolution pixels: of a SpatialData `shapes["{sample}_{key_added}"]`, of a slide
      `shapes[key_added]`, of an AnnData arrays in `uns[key_added][sample]`. :func:`stpredict.get.nuclei` returns it. Its
      columns are `nucleus_id`, `x` and `y` (center, in full-resolution pixels), `area_um2`, `perimeter_um`, `major_um`,
      `minor_um` (axes of the ellipse of the same moments), `elongation` (their ratio), `circularity` (1 is a disk),
      `angle` (of the long axis, radians), `hematoxylin`, `hematoxylin_sd`, `eosin` (optical density), `contrast` (of
      hematoxylin to the 2 µm around), `gradient` (of hematoxylin per µm), `nearest_um`, `neighbors_um` (distance to the
      nearest nucleus, mean of those to the five nearest; at most 100), `n_near` (nuclei within 25 µm), and `type`,
      `type_probability` and `source_id` where a segmentation has them.
    - `uns["stpredict"][key_added]` (`attrs["stpredict"][key_added]` of a slide): method, parameters, and the number of
      nuclei by section.

    Raises
    ------
    KeyError
        When positions, sections or an image are missing, or a segmentation is of no section.
    ValueError
        When µm per pixel is not known, positions do not fit the image, or a segmentation is damaged or lies beyond the
        image.
    FileNotFoundError
        When an image or a segmentation is missing.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 4, n_spots=4)
    >>> stp.pp.nuclei(adata)
    >>> found = stp.get.nuclei(adata)
    >>> bool((found["area_um2"] >= 10).all()), "nearest_um" in found
    (True, True)
    """
    if is_cohort(data):
        return write_sections(nuclei, locals())
    from stpredict.core._validate import check_positive
    from stpredict.io._slide import is_slide
    from stpredict.slots._nuclei import write_nuclei

    check_key(key_added)
    low, high = check_positive(min_area_um2, "min_area_um2"), check_positive(max_area_um2, "max_area_um2")
    if low >= high:
        raise ValueError(f"expected min_area_um2 below max_area_um2; found {low:g} and {high:g}")
    options = {"chunk_um": check_positive(chunk_um, "chunk_um"), "min_area_um2": low, "max_area_um2": high}
    if is_slide(data) and table_key not in data.tables:
        for name, value in (("image", image), ("microns_per_pixel", microns_per_pixel)):
            if value is not None:
                raise ValueError(f"expected no `{name}=` with a slide, which was opened with it; found one")
        return _of_slide(data, segmentation, tissue_key, progress, key_added, copy, options)

    from stpredict.pp._windows import sections_of
    from stpredict.slots._container import begin, find_table, get_table
    from stpredict.slots._provenance import write_record

    table = get_table(data, find_table(data, table_key))
    sections = sections_of(data, table, image, microns_per_pixel, sample_key, 2 * _AROUND_UM, (1.0,), True)
    given = _by_section(segmentation, [section.name for section in sections])
    if given is not None:
        sections = [section for section in sections if section.name in given]
    frames = {}
    for section in sections:
        picture = section.find()
        try:
            around = section.positions - picture.origin
            reach = _AROUND_UM / section.microns_per_pixel

            def wanted(box: np.ndarray, around: np.ndarray = around, reach: float = reach) -> bool:
                return bool(((around >= box[:2] - reach) & (around < box[2:] + reach)).all(axis=1).any())

            frames[section.name] = _found(
                _picture_of(picture, section.microns_per_pixel), picture.origin, 1.0,
                None if given is None else given[section.name], wanted, progress, options, section.name,
            )  # fmt: skip
        finally:
            picture.close()
    container, adata = begin(data, copy, table_key)
    write_nuclei(container, adata, key_added, frames)
    mpp = {section.name: section.microns_per_pixel for section in sections}
    write_record(adata, key_added, _record(given is not None, options, frames, mpp))
    return container if copy else None


def _record(given: bool, options: Mapping[str, float], frames: Mapping[str, Any], mpp: Mapping[str, float]) -> Any:
    areas = {} if given else {name: options[name] for name in ("min_area_um2", "max_area_um2")}
    types = sorted({str(kind) for frame in frames.values() if "type" in frame for kind in frame["type"].unique()})
    return {
        "method": "given" if given else "watershed",
        "um_per_px": UM_PER_PX,
        **areas,
        **({"types": types} if types else {}),
        "microns_per_pixel": dict(mpp),
        "n_nuclei": {name: len(frame) for name, frame in frames.items()},
    }


def _by_section(segmentation: Any, names: list[str]) -> dict[str, Any] | None:
    """Nuclei that were given, by section; `None` where none were."""
    from stpredict.io._read_nuclei import read_nuclei

    if segmentation is None:
        return None
    single = not isinstance(segmentation, Mapping) or "coord" in segmentation
    if single and len(names) > 1:
        raise ValueError(
            f"expected `segmentation=` as a mapping by section for {len(names)} sections; found "
            f"{type(segmentation).__name__}"
        )
    by_name = {names[0]: segmentation} if single else {str(name): item for name, item in segmentation.items()}
    if unknown := sorted(set(by_name) - set(names)):
        raise KeyError(f"expected segmentations of sections {sorted(names)}; found one of {unknown[0]!r}")
    return {name: read_nuclei(item) for name, item in by_name.items()}


def _picture_of(image: SectionImage, mpp: float) -> Picture:
    from stpredict.pp._find_nuclei import Picture

    def read(left: int, top: int, right: int, bottom: int) -> np.ndarray:
        return np.ascontiguousarray(image.band(top, bottom)[:, left:right])

    return Picture(image.width, image.height, mpp, read)


def _found(
    picture: Picture,
    origin: np.ndarray,
    scale: float,
    given: Any,
    wanted: Callable[[np.ndarray], bool] | None,
    progress: bool | None,
    options: dict[str, float],
    name: str,
) -> Any:
    """Nuclei in full-resolution pixels; a pixel of the picture is `scale` of them wide."""
    import shapely
    from tqdm.auto import tqdm

    from stpredict.core._settings import settings
    from stpredict.pp._find_nuclei import chunks, find_nuclei

    if given is not None:
        given = given.copy()
        given["geometry"] = shapely.transform(given.geometry.to_numpy(), lambda points: (points - origin) / scale)
        _check_inside(given, picture, name)
    show = settings.progress if progress is None else progress
    total = sum(1 for _ in chunks(picture, max(1, round(options["chunk_um"] / UM_PER_PX))))
    with tqdm(total=total, unit="chunk", desc=f"nuclei of {name}", disable=not show) as bar:
        frame = find_nuclei(picture, given=given, wanted=wanted, done=bar.update, **options)
    frame[["x", "y"]] = frame[["x", "y"]].to_numpy() * scale + origin
    frame["geometry"] = shapely.transform(frame.geometry.to_numpy(), lambda points: points * scale + origin)
    return frame


def _check_inside(given: Any, picture: Picture, name: str) -> None:
    """Raise where nuclei lie beyond the picture: their scale is another one."""
    if not len(given):
        return
    centers = given.geometry.centroid
    inside = (centers.x >= 0) & (centers.x <= picture.width) & (centers.y >= 0) & (centers.y <= picture.height)
    if inside.mean() < 0.5:
        low, high = given.total_bounds[:2], given.total_bounds[2:]
        raise ValueError(
            f"expected nuclei of {name!r} on its picture of {picture.width} x {picture.height} px; found "
            f"{int((~inside).sum())} of {len(given)} beyond it, between {low.round().tolist()} and "
            f"{high.round().tolist()}; read them with stp.io.read_nuclei(source, scale=...)"
        )


def _of_slide(
    slide: SpatialData,
    segmentation: Any,
    tissue_key: str,
    progress: bool | None,
    key: str,
    copy: bool,
    options: dict[str, float],
) -> Container | None:
    import shapely

    from stpredict.io._read_level import read_level
    from stpredict.io._slide import shallow_copy, slide_microns_per_pixel, slide_name, slide_reader, sufficient_level
    from stpredict.pp._find_nuclei import Picture
    from stpredict.slots._nuclei import write_nuclei

    mpp, name = slide_microns_per_pixel(slide), slide_name(slide)
    given = _by_section(segmentation, [name])
    with slide_reader(slide) as reader:
        level = sufficient_level(reader, UM_PER_PX / mpp)
        scale = float(reader.properties.level_downsample[level] or 1)
        height, width = reader.properties.level_shape[level]

        def read(left: int, top: int, right: int, bottom: int) -> np.ndarray:
            return read_level(reader, level, left, top, right - left, bottom - top)

        wanted = None
        if tissue_key in slide.shapes:
            tissue = shapely.union_all(slide.shapes[tissue_key].geometry.to_numpy())
            shapely.prepare(tissue)

            def wanted(box: np.ndarray) -> bool:
                return bool(shapely.intersects(tissue, shapely.box(*(box * scale))))

        picture = Picture(int(width), int(height), mpp * scale, read)
        taken = None if given is None else given[name]
        frame = _found(picture, np.zeros(2), scale, taken, wanted if given is None else None, progress, options, name)
    container = shallow_copy(slide) if copy else slide
    write_nuclei(container, None, key, {name: frame})
    container.attrs.setdefault(Key.UNS, {})[key] = _record(given is not None, options, {name: frame}, {name: mpp})
    return container if copy else None
