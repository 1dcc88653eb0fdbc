"""Segmentations of nuclei from other tools."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stpredict.core._files import damage_named, read_text
from stpredict.core._validate import check_positive, few
from stpredict.io._outlines import outlines

_FORMS = (
    "GeoJSON (QuPath, StarDist, Space Ranger 4), the JSON of HoVer-Net, a label image (.tif, .png, .npy), the outlines of "
    "Cellpose (.txt), the coordinates of StarDist, or a GeoDataFrame"
)
_IMAGES = {".tif", ".tiff", ".png"}
_TYPE, _PROBABILITY, _ID = "type", "type_probability", "source_id"


def read_nuclei(
    source: Any, *, scale: float | tuple[float, float] | None = None, types: Mapping[Any, str] | None = None
) -> Any:
    """Read nuclei that another tool has segmented.

    Parameters
    ----------
    source
        One of

        - a GeoJSON file: of QuPath (a cell gives its nucleus where it has one), of StarDist through QuPath, or of
          Space Ranger 4 (`segmented_outputs/nucleus_segmentations.geojson` and the annotated ones);
        - the JSON of HoVer-Net, with types and their probabilities;
        - a label image, as a path (`.tif`, `.png`, `.npy`) or as an array (h, w) of whole numbers, as StarDist and
          Cellpose write them (`_cp_masks.png`);
        - the outlines of Cellpose (`_cp_outlines.txt`);
        - the second result of StarDist's `predict_instances`, a mapping with `"coord"` (n, 2, n_rays);
        - a GeoDataFrame of polygons, with a column `type` where known.
    scale
        Full-resolution pixels of the section per pixel of the segmentation, or along x and along y; 1 when `None`. A
        HoVer-Net file of a whole slide names a magnification instead of a scale, and needs it. Pixels of a section are square:
        a segmentation of an image whose pixels are not needs two numbers, the µm of its pixels along x and y over
        `microns_per_pixel` of the section.
    types
        Names of the types in the file, such as `{1: "neoplastic", 2: "inflammatory"}`.

    Returns
    -------
    GeoDataFrame of polygons in full-resolution pixels, with `type` (categorical), `type_probability` and `source_id` (the
    name or number of a nucleus, as text) where the file has them, for :func:`stpredict.pp.nuclei`.

    Raises
    ------
    FileNotFoundError
        When the file is missing.
    ValueError
        When the file is damaged or of another kind, or a scale is needed.
    TypeError
        When `source` is something else.

    Examples
    --------
    >>> import numpy as np
    >>> import stpredict as stp
    >>> labels = np.zeros((40, 40), int)
    >>> labels[5:15, 5:15], labels[20:36, 18:34] = 1, 2
    >>> nuclei = stp.io.read_nuclei(labels)
    >>> nuclei.area.round().tolist()
    [100.0, 256.0]
    """
    import geopandas as gpd
    import pandas as pd
    import shapely
    from shapely import affinity

    factors = _factors(scale)
    where = str(source) if isinstance(source, (str, Path)) else type(source).__name__
    shapes, columns = _parts(source, scale)
    geometry = [_polygon(shape) for shape in shapes]
    there = [row for row, shape in enumerate(geometry) if shape is not None]
    if geometry and not there:
        raise ValueError(f"expected polygons in {where}; found none among {len(geometry)} shapes; pass {_FORMS}")
    frame = gpd.GeoDataFrame(geometry=[geometry[row] for row in there])
    if factors != (1.0, 1.0):
        frame["geometry"] = [affinity.scale(shape, *factors, origin=(0, 0)) for shape in frame.geometry]
    if not np.isfinite(shapely.bounds(frame.geometry.to_numpy())).all():
        raise ValueError(f"expected finite coordinates in {where}; found others; write the file again")
    columns = {name: [values[row] for row in there] for name, values in columns.items()}
    if any(kind is not None for kind in columns.get(_TYPE, [])):
        frame[_TYPE] = pd.Categorical([_named(kind, types) for kind in columns[_TYPE]])
    if any(share is not None for share in columns.get(_PROBABILITY, [])):
        frame[_PROBABILITY] = np.array(columns[_PROBABILITY], dtype=np.float32)  # None becomes NaN
    if any(name is not None for name in columns.get(_ID, [])):
        frame[_ID] = [str(name) for name in columns[_ID]]
    return frame


def _factors(scale: Any) -> tuple[float, float]:
    if scale is None:
        return 1.0, 1.0
    pair = tuple(scale) if isinstance(scale, Sequence) else (scale, scale)
    if len(pair) != 2:
        raise ValueError(f"expected scale as one number, or along x and along y; found {scale!r}")
    return check_positive(pair[0], "scale along x"), check_positive(pair[1], "scale along y")


def _named(value: Any, types: Mapping[Any, str] | None) -> str:
    """Name of a type; numbers of files are keys of mappings as numbers or as text."""
    for key in (value, str(value)):
        if types is not None and key in types:
            return str(types[key])
    return "unknown" if value is None else str(value)


def _polygon(shape: Any) -> Any:
    """The largest polygon of a shape without its holes, valid; `None` where there is none."""
    import shapely

    if shape is None or shape.is_empty:
        return None
    if not shape.is_valid:
        shape = shapely.make_valid(shape)
    pieces = [piece for piece in shapely.get_parts(shape) if piece.geom_type == "Polygon" and piece.area > 0]
    return shapely.Polygon(max(pieces, key=lambda piece: piece.area).exterior) if pieces else None


_Parts = tuple[list[Any], dict[str, list[Any]]]  # shapes, and what is known of each


def _parts(source: Any, scale: Any) -> _Parts:
    if hasattr(source, "geometry"):
        return list(source.geometry), {
            name: list(source[name]) for name in (_TYPE, _PROBABILITY, _ID) if name in source
        }
    if isinstance(source, Mapping):
        if "coord" not in source:
            raise TypeError(
                f"expected a mapping of StarDist with 'coord'; found {few(map(str, source))}; pass {_FORMS}"
            )
        coordinates = np.asarray(source["coord"], dtype=np.float64)
        if coordinates.ndim != 3 or coordinates.shape[1] != 2:
            raise ValueError(f"expected 'coord' of shape (n, 2, n_rays), y before x; found {coordinates.shape}")
        # StarDist counts from the centers of pixels.
        return _rings(coordinates[:, ::-1].transpose(0, 2, 1) + 0.5), {}
    if not isinstance(source, (str, Path)):
        if not hasattr(source, "shape"):
            raise TypeError(f"expected {_FORMS}; found {type(source).__name__}")
        return _labels(np.asarray(source), type(source).__name__)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(f"expected a segmentation at {path}; found no file")
    suffix = path.suffix.lower()
    if suffix in _IMAGES or suffix == ".npy":
        return _labels(_label_image(path), str(path))
    if suffix == ".txt":
        return _rings(_lines(path)), {}
    if suffix in (".json", ".geojson"):
        return _json(path, scale)
    raise ValueError(f"expected {_FORMS}; found {path.name}")


def _rings(points: Any) -> list[Any]:
    import shapely

    return [shapely.Polygon(ring) if len(ring) > 2 else None for ring in points]


def _labels(labels: np.ndarray, where: str) -> _Parts:
    labels = labels.squeeze()
    if labels.ndim != 2 or labels.dtype.kind not in "uib":
        raise ValueError(
            f"expected a label image (h, w) of whole numbers in {where}; found {labels.dtype} of shape {labels.shape}; "
            f"pass {_FORMS}"
        )
    numbers, shapes = outlines(labels)
    return list(shapes), {_ID: numbers.tolist()}


def _label_image(path: Path) -> np.ndarray:
    with damage_named(path, "a label image"):
        if path.suffix.lower() == ".npy":
            try:
                return np.asarray(np.load(path, allow_pickle=False))
            except ValueError as error:
                raise ValueError(
                    f"expected an array in {path}; found Python objects, which are not read because they may run code; "
                    "save the masks of Cellpose with cellpose.io.save_masks, and pass the image"
                ) from error
        if path.suffix.lower() == ".png":
            from PIL import Image

            with Image.open(path) as image:
                return np.asarray(image)
        import tifffile

        return np.asarray(tifffile.imread(path))


def _lines(path: Path) -> Iterator[np.ndarray]:
    """Outlines of Cellpose: x, y, x, y, … of one nucleus in a line."""
    for line in read_text(path, "outlines of Cellpose").splitlines():
        if line.strip():
            with damage_named(path, "outlines of Cellpose"):
                values = np.array(line.split(","), dtype=np.float64)
                yield values.reshape(-1, 2) + 0.5


def _json(path: Path, scale: Any) -> _Parts:
    with damage_named(path, "a segmentation in JSON"):
        content = json.loads(path.read_bytes())
    if isinstance(content, Mapping) and "nuc" in content:
        if content.get("mag") is not None and scale is None:
            raise ValueError(
                f"expected `scale=` for {path}: its coordinates are at magnification {content['mag']}; pass the "
                "full-resolution pixels per pixel at it, such as scale=1 where the slide was scanned at it"
            )
        return _hover_net(content["nuc"], path)
    features = content.get("features") if isinstance(content, Mapping) else content
    if isinstance(features, list):
        return _geojson(features, path)
    raise ValueError(
        f"expected {_FORMS}; found JSON with {few(content) if isinstance(content, Mapping) else 'no list'}"
    )


def _hover_net(nuclei: Mapping[str, Any], path: Path) -> _Parts:
    with damage_named(path, "nuclei of HoVer-Net"):
        entries = list(nuclei.values())
        rings = _rings(np.asarray(entry["contour"], dtype=np.float64) + 0.5 for entry in entries)
        kinds, shares = ([entry.get(name) for entry in entries] for name in ("type", "type_prob"))
    return rings, {_TYPE: kinds, _PROBABILITY: shares, _ID: list(nuclei)}


def _geojson(features: list[Any], path: Path) -> _Parts:
    import shapely

    with damage_named(path, "GeoJSON"):
        shapes, kinds, names = [], [], []
        for feature in features:
            properties = feature.get("properties") or {}
            if properties.get("objectType", properties.get("object_type")) == "annotation":
                continue  # regions that somebody drew
            geometry = feature.get("nucleusGeometry") or feature.get("geometry")
            shapes.append(None if geometry is None else shapely.from_geojson(json.dumps(geometry)))
            kind = properties.get("classification", properties.get("type"))
            kinds.append(kind.get("name") if isinstance(kind, Mapping) else kind)
            names.append(properties.get("cell_id", feature.get("id")))
    return shapes, {_TYPE: kinds, _ID: names}
