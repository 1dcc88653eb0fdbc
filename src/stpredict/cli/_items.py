"""Slides and sections that a command goes through: a file, a folder of them, or a table that names them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SLIDES = (
    ".svs", ".tif", ".tiff", ".ndpi", ".mrxs", ".scn", ".vms", ".vmu", ".bif", ".svslide", ".dcm", ".qptiff", ".czi",
)  # fmt: skip
SECTIONS = (".h5ad", ".zarr")
TABLES = (".csv", ".tsv", ".txt")
_COLUMNS = ("path", "sample", "patient", "microns_per_pixel")


@dataclass(frozen=True)
class Item:
    """One slide, or one object with sections.

    Attributes
    ----------
    path
        Its file (or store).
    name
        What its results are called.
    patient
        Whose it is, where that is known.
    microns_per_pixel
        µm per pixel that the table of slides states, which counts more than the file itself.
    """

    path: Path
    name: str
    patient: str | None = None
    microns_per_pixel: float | None = None

    @property
    def is_slide(self) -> bool:
        """Whether it is a picture, rather than an object with sections."""
        return self.path.suffix.lower() not in SECTIONS


def find_items(where: Path, kinds: Sequence[str] = (*SLIDES, *SECTIONS)) -> list[Item]:
    """What lies at a path.

    Parameters
    ----------
    where
        A file; a folder, whose files count and whose sub-folders and hidden files do not; or a table (comma- or
        tab-separated) with the column `path`, relative to the table, and, where wanted, `sample`, `patient` and `microns_per_pixel`.
    kinds
        Endings of the files of a folder that count.

    Returns
    -------
    The items, in the order of the table, or of their names.

    Raises
    ------
    FileNotFoundError
        When there is nothing, or nothing that counts.
    ValueError
        When the table has no `path`, a cell of it makes no sense, or two items have one name.
    """
    where = where.expanduser()
    suffix = where.suffix.lower()
    if suffix in TABLES and where.is_file():
        items = _of_table(where)
    elif where.is_dir() and suffix not in SECTIONS:
        paths = sorted(path for path in where.iterdir() if path.suffix.lower() in kinds and path.name[0] != ".")
        if not paths:
            raise FileNotFoundError(
                f"expected slides or sections in {where}; found no file that ends in {', '.join(kinds)}; name their "
                "folder, or a table of paths"
            )
        items = [Item(path, path.stem) for path in paths]
    elif where.exists():
        items = [Item(where, where.stem)]
    else:
        raise FileNotFoundError(
            f"expected a file, a folder or a table of slides at {where}; found nothing; correct the path"
        )
    _check_names(items, where)
    return items


def _of_table(table: Path) -> list[Item]:
    import pandas as pd

    from stpredict.core._files import check_columns, parse_table, read_text, separator

    what = f"a table with the columns {', '.join(_COLUMNS)}, of which all but the first may be missing"
    text = read_text(table, what)
    rows = parse_table(
        text, table, what, sep=separator(text, ",", 2), dtype=str, skipinitialspace=True, index_col=False
    )
    rows.columns = [str(name).strip() for name in rows.columns]
    check_columns(rows, ["path"], table)
    if not len(rows):
        raise ValueError(f"expected at least one row in {table}; found none; add the slides")
    items = []
    for number, row in enumerate(rows.to_dict("records"), start=2):
        cell = {name: None if pd.isna(row.get(name)) else str(row[name]).strip() for name in _COLUMNS if name in row}
        if not cell["path"]:
            raise ValueError(f"expected a path in every row of {table}; found none in line {number}; name the file")
        path = Path(cell["path"]).expanduser()
        path = path if path.is_absolute() else table.parent / path
        mpp = _number(cell.get("microns_per_pixel"), table, number)
        items.append(Item(path, cell.get("sample") or path.stem, cell.get("patient"), mpp))
    return items


def _number(text: str | None, table: Path, line: int) -> float | None:
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise ValueError(
            f"expected a positive number as microns_per_pixel in {table}; found {text!r} in line {line}; leave the cell "
            "empty where the file records it"
        )
    return value


def _check_names(items: Sequence[Item], where: Path) -> None:
    """Raise where two items would be written to one place, or a name is a path."""
    seen: dict[str, Any] = {}
    for item in items:
        if Path(item.name).name != item.name or item.name.startswith(".") or not item.name.strip():
            raise ValueError(f"expected plain names of samples in {where}; found {item.name!r}; leave out '/' and dots")
        if item.name in seen:
            raise ValueError(
                f"expected one name for each slide in {where}; found {item.name!r} for {seen[item.name]} and {item.path}; "
                "name them by the column `sample` of a table"
            )
        seen[item.name] = item.path
