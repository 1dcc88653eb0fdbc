"""Summaries of the nuclei around every observation, from nuclei that are known already."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts._on_sections import is_cohort, write_sections
from stpredict.core._validate import check_positive
from stpredict.encoders._summarize_nuclei import summarize_nuclei
from stpredict.slots._keys import Key, check_key

if TYPE_CHECKING:
    from stpredict.slots._container import Container

_REVISION = 1  # raised when summaries change


def nuclei_features(
    data: Container,
    *,
    tile_um: float = 112.0,
    context: Sequence[float] = (1.0,),
    types: Sequence[str] | None = None,
    nuclei_key: str = "nuclei",
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
    tile_key: str = "tiles",
    key_added: str | None = None,
    copy: bool = False,
) -> Container | None:
    """Summarize the nuclei around every observation, or those of the tiles of a slide.

    The numbers are those of the encoder `"nuclei"`, which looks for nuclei in every tile by itself. Here they come from
    :func:`stpredict.pp.nuclei`, so that segmentations of other tools and types of nuclei count, nuclei at the border of
    a tile are whole, and wide surroundings cost nothing.

    Parameters
    ----------
    data
        AnnData or SpatialData, or a slide with tiles, after :func:`stpredict.pp.nuclei`.
    tile_um
        Side of a tile in µm; on a slide its tiles decide.
    context
        Fields of view as multiples of `tile_um`, whose summaries are concatenated.
    types
        Types of nuclei to count, those of all sections by default. A model needs the same ones at prediction.
    nuclei_key
        Name of the nuclei.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.
    tile_key
        Name of the shapes with the tiles of a slide.
    key_added
        Slot in `obsm`, beginning with `"X_"`; `"X_{nuclei_key}"` when `None`.
    copy
        Whether to return a changed copy instead of changing `data`.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obsm[key_added]`: float32 (n_obs, n_contexts times 38 and two more for every type), in the order of
      :func:`stpredict.encoders.nuclei_names`; then the density and the share of every type.
    - `uns["stpredict"][key_added]`: like that of :func:`stpredict.pp.image_features`, with `types`.

    On a slide it writes `tables["{nuclei_key}_{tile_key}"]`, like :func:`stpredict.pp.image_features`.

    Raises
    ------
    KeyError
        When nuclei, positions, sections or tiles are missing.
    ValueError
        When a size is not positive, or a type has no nuclei that could be of it because none have types.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 4, n_spots=4)
    >>> stp.pp.nuclei(adata)
    >>> stp.pp.nuclei_features(adata, context=(1, 3))
    >>> adata.obsm["X_nuclei"].shape
    (4, 76)
    """
    if is_cohort(data):
        return write_sections(nuclei_features, locals())
    from stpredict.io._slide import is_slide
    from stpredict.slots._checks import check_obs, check_obsm
    from stpredict.slots._container import begin, find_table, get_table
    from stpredict.slots._content import seal_features
    from stpredict.slots._nuclei import read_nuclei_of
    from stpredict.slots._positions import positions_of
    from stpredict.slots._provenance import read_record, write_record

    key = f"X_{nuclei_key}" if key_added is None else key_added
    check_key(key, "key_added")
    width, scales = (
        check_positive(tile_um, "tile_um"),
        tuple(check_positive(s, "every value of context") for s in context),
    )
    if not scales or len(set(scales)) != len(scales):
        raise ValueError(f"expected one or more different multiples of tile_um in context; found {tuple(context)}")
    if is_slide(data) and table_key not in data.tables:
        return _of_slide(data, key, scales, types, nuclei_key, tile_key, copy)
    adata = get_table(data, find_table(data, table_key))
    check_obs(adata, sample_key, f"name the section of every observation in obs[{sample_key!r}], or pass `sample_key=`")
    check_obsm(adata, Key.SPATIAL, "read the data with stp.io, which writes positions")
    record = read_record(adata, nuclei_key)
    if record is None:
        raise KeyError(f"expected a record of {nuclei_key!r}; found none; run stp.pp.nuclei first")
    names, positions = adata.obs[sample_key].astype(str).to_numpy(), positions_of(adata)
    frames = {name: read_nuclei_of(data, adata, nuclei_key, name, outlines=False) for name in dict.fromkeys(names)}
    kinds = _types(types, frames.values())
    features = np.empty((len(names), len(scales) * (38 + 2 * len(kinds))), np.float32)
    mpp = {name: float(record["microns_per_pixel"][name]) for name in frames}
    for name, frame in frames.items():
        rows = names == name
        features[rows] = tiles_of(frame, positions[rows], mpp[name], width, scales, kinds)
    container, table = begin(data, copy, table_key)
    table.obsm[key] = features
    made = _made(record["method"], kinds, features.shape[1], width, scales)
    seal = seal_features(features, table.obs[sample_key])
    write_record(table, key, {**made, **seal, "microns_per_pixel": mpp, "padded": dict.fromkeys(mpp, 0)})
    return container if copy else None


def tiles_of(
    frame: Any,
    positions: np.ndarray,
    microns_per_pixel: float,
    tile_um: float,
    scales: Sequence[float],
    kinds: Sequence[str],
) -> np.ndarray:
    """Summaries (n, d) of the nuclei in squares around positions (n, 2), of all scales side by side."""
    from scipy.spatial import KDTree

    xy = frame[["x", "y"]].to_numpy(dtype=np.float64) * microns_per_pixel
    centers = np.asarray(positions, dtype=np.float64) * microns_per_pixel
    measures = {name: frame[name].to_numpy(dtype=np.float64) for name in frame.select_dtypes("number").columns}
    of_kind = [np.asarray(frame["type"] == kind) if "type" in frame else np.zeros(len(frame)) for kind in kinds]
    found = []
    for scale in scales:
        side = tile_um * scale
        inside = KDTree(xy).query_ball_point(centers, side / 2, p=np.inf) if len(xy) else [[]] * len(centers)
        tile = np.repeat(np.arange(len(centers)), [len(index) for index in inside])
        index = np.concatenate([np.asarray(part, dtype=np.int64) for part in inside]) if len(tile) else tile
        chosen = {name: values[index] for name, values in measures.items()}
        offset = xy[index] - centers[tile]
        found.append(
            summarize_nuclei(chosen, tile, offset, len(centers), side, kinds=[values[index] for values in of_kind])
        )
    return np.concatenate(found, axis=1)


def _types(types: Sequence[str] | None, frames: Any) -> list[str]:
    known = sorted({str(kind) for frame in frames if "type" in frame for kind in frame["type"].unique()})
    if types is None:
        return known
    if types and not known:
        raise ValueError(f"expected nuclei with types to count {list(types)}; found none with any; leave `types=` out")
    return [str(kind) for kind in types]


def _made(method: str, kinds: list[str], dim: int, tile_um: float, scales: tuple[float, ...]) -> dict[str, Any]:
    """How the features were made, in the words of image features."""
    described = f"nuclei {_REVISION} {method} {kinds}"
    return {
        "encoder": "nuclei (known)",
        "fingerprint": hashlib.sha256(described.encode()).hexdigest(),
        "dim": dim,
        "tile_um": tile_um,
        "context": scales,
        "types": kinds,
    }


def _of_slide(
    slide: Any,
    key: str,
    scales: tuple[float, ...],
    types: Sequence[str] | None,
    nuclei_key: str,
    tile_key: str,
    copy: bool,
) -> Any:
    from stpredict.io._slide import shallow_copy, slide_microns_per_pixel, slide_name, slide_reader, tile_frame
    from stpredict.pp._tile_features import tile_squares, tile_table
    from stpredict.slots._content import seal_features
    from stpredict.slots._nuclei import read_nuclei_of
    from stpredict.slots._provenance import write_record

    name, mpp, squares = slide_name(slide), slide_microns_per_pixel(slide), tile_frame(slide, tile_key)
    frame = read_nuclei_of(slide, None, nuclei_key, name)
    center, side = tile_squares(squares.geometry, tile_key)
    width = float(slide.attrs.get(Key.UNS, {}).get(tile_key, {}).get("tile_um", side * mpp))
    kinds = _types(types, [frame])
    features = tiles_of(frame, center, mpp, width, scales, kinds)
    with slide_reader(slide) as reader:
        table = tile_table(slide, reader, squares, features, center, side, mpp, tile_key)
    method = slide.attrs.get(Key.UNS, {}).get(nuclei_key, {}).get("method", "given")
    made = _made(method, kinds, features.shape[1], width, scales)
    seal = seal_features(table.X, table.obs[Key.SAMPLE])
    write_record(table, key, {**made, **seal, "microns_per_pixel": {name: mpp}, "padded": {name: 0}})
    container = shallow_copy(slide) if copy else slide
    container.tables[f"{key.removeprefix('X_')}_{tile_key}"] = table
    return container if copy else None
