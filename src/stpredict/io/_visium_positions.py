"""Where the spots, bins and cells of Space Ranger's output lie."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._files import (
    check_columns,
    find_file,
    numbers,
    parse_table,
    read_json,
    read_parquet,
    read_text,
    separator,
)
from stpredict.core._validate import check_unique, few
from stpredict.slots._booleans import read_bool
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    import pandas as pd

X_PX, Y_PX = "pxl_col_in_fullres", "pxl_row_in_fullres"
CELLS = "cell_segmentations.geojson"
_COLUMNS = ["barcode", Key.IN_TISSUE, Key.ARRAY_ROW, Key.ARRAY_COL, Y_PX, X_PX]
_POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
_NUMBER = re.compile(r"0*(\d+?)(?:-\d+)?$")  # of cellid_000000012-1


def read_positions(folder: Path) -> pd.DataFrame:
    """Positions of all spots by barcode, from any version's file: with or without a header, csv or parquet.

    The columns are a boolean `in_tissue`, the array positions and the pixels.
    """
    path = find_file(folder, _POSITIONS)
    if path is None:
        raise FileNotFoundError(
            f"expected {', '.join(_POSITIONS[:-1])} or {_POSITIONS[-1]} in {folder}; "
            f"found {few(sorted(item.name for item in folder.iterdir()), 8) or 'an empty folder'}"
        )
    if path.suffix == ".parquet":
        table = read_parquet(path, "positions")
        table = table.reset_index() if "barcode" not in table else table
    else:
        table = _read_csv(path)
    if table.empty:
        raise ValueError(f"expected positions in {path}; found an empty file")
    check_columns(table, _COLUMNS, path)
    places = {name: numbers(table[name]) for name in _COLUMNS[2:]}
    text = [name for name, column in places.items() if column is None]
    try:
        on_tissue = read_bool(table[Key.IN_TISSUE], f"the column in_tissue of {path}")
    except (TypeError, ValueError) as error:
        raise ValueError(f"expected numbers without gaps in {path}; found text or gaps ({error})") from error
    if text or table["barcode"].isna().any():
        raise ValueError(f"expected numbers without gaps in {path}; found text or gaps ({few(text) or 'in barcode'})")
    found = table[["barcode"]].assign(**{Key.IN_TISSUE: on_tissue}, **places)
    found["barcode"] = [name.decode() if isinstance(name, bytes) else str(name).strip() for name in table["barcode"]]
    check_unique(found["barcode"], f"barcodes in {path.name}")
    return found.set_index("barcode")


def read_cells(path: Path, names: pd.Index) -> tuple[pd.DataFrame, float]:
    """Centroids of segmented cells by the names that the counts give them, and the median diameter in pixels.

    Raises `ValueError` when the file is damaged.
    """
    import pandas as pd

    features = read_json(path, "outlines of cells (GeoJSON)").get("features")
    if not isinstance(features, list) or not features:
        raise ValueError(f"expected outlines of cells (GeoJSON) in {path}; found no list of features")
    numbers_of_cells, places = [], np.empty((len(features), 3))
    for row, feature in enumerate(features):
        try:
            outline = feature["geometry"]
            rings = outline["coordinates"] if outline["type"] == "MultiPolygon" else [outline["coordinates"]]
            places[row] = _centroid([np.array(polygon[0], dtype=float)[:, :2] for polygon in rings])
            numbers_of_cells.append(int(feature["properties"]["cell_id"]))
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise ValueError(
                f"expected polygons with the property cell_id in {path}; found {type(error).__name__} ({error}) in feature "
                f"{row}; fetch it again"
            ) from error
    if not np.isfinite(places).all():
        raise ValueError(f"expected finite outlines of cells in {path}; found NaN or infinity")
    check_unique(numbers_of_cells, f"cells in {path.name}")
    matches = [_NUMBER.search(str(name)) for name in names]
    wanted = np.array([int(match[1]) if match else -1 for match in matches])
    place = pd.Index(numbers_of_cells).get_indexer(pd.Index(wanted))
    found = pd.DataFrame(places[place[place >= 0], :2], index=names[place >= 0], columns=[X_PX, Y_PX])
    return found, float(2 * np.sqrt(np.median(places[:, 2]) / np.pi))


def _read_csv(path: Path) -> pd.DataFrame:
    text = read_text(path, "positions")
    if not text.strip():
        raise ValueError(f"expected positions in {path}; found an empty file")
    sep = separator(text, ",", len(_COLUMNS) - 1)
    table = parse_table(
        text, path, "positions", sep=sep, header=None, dtype=str, na_filter=False, skipinitialspace=True
    )  # fmt: skip
    if sep == ";":  # spreadsheets of many countries, which write a comma for the decimal point
        table = table.apply(lambda column: column.str.replace(r"^(-?\d+),(\d+)$", r"\1.\2", regex=True))
    first = [str(cell).strip().casefold() for cell in table.iloc[0]]
    if not _is_header(first):
        if table.shape[1] != len(_COLUMNS):
            raise ValueError(
                f"expected the columns {', '.join(_COLUMNS)} in {path}; found {table.shape[1]} columns without a header"
            )
        return table.set_axis(_COLUMNS, axis=1)
    table = table.iloc[1:].reset_index(drop=True)
    if "barcode" not in first and first[0] in ("", "x", "rownames"):  # the row names of R
        first[0] = "barcode"
    if repeated := [name for name in _COLUMNS if first.count(name) > 1]:
        raise ValueError(f"expected every column once in {path}; found {few(repeated)} more than once")
    return table.set_axis(first, axis=1)


def _is_header(cells: list[str]) -> bool:
    """Whether a first line names columns: of a line of data, all cells but the barcode are numbers or booleans."""
    return any(name in cells for name in _COLUMNS)


def _centroid(polygons: list[np.ndarray]) -> Any:
    """Centroid x, y and area of the outlines (n, 2) of one cell."""
    parts = []
    for outline in polygons:
        origin = outline.mean(axis=0)  # keeps the products small
        x, y = (outline - origin).T
        cross = x * np.roll(y, -1) - np.roll(x, -1) * y
        area = cross.sum() / 2
        if area == 0:  # a line or a point
            parts.append((*origin, 0.0))
            continue
        center = [((axis + np.roll(axis, -1)) * cross).sum() / (6 * area) for axis in (x, y)]
        parts.append((origin[0] + center[0], origin[1] + center[1], abs(area)))
    table = np.array(parts)
    weight = table[:, 2] if table[:, 2].any() else np.ones(len(table))
    return *np.average(table[:, :2], axis=0, weights=weight), table[:, 2].sum()
