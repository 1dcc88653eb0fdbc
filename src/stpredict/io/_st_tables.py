"""What arrays of Spatial Transcriptomics were shared as: counts by array position, and a table of the spots."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._files import check_columns, parse_table, read_text, separator
from stpredict.core._validate import check_unique, few
from stpredict.io._lattice import LARGEST_PX
from stpredict.io._section import build_section, check_joined, is_hidden
from stpredict.slots._booleans import read_bool
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

IMAGES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")
_PLACES = ("x", "y", "pixel_x", "pixel_y")


@dataclass(frozen=True)
class Spots:
    """Selected spots of a section.

    Attributes
    ----------
    path
        File of the table.
    table
        Its rows (n) by `{x}x{y}`, x and y rounded.
    listed
        Names of all rows, selected or not.
    row, col
        (n,) whole numbers, y and x.
    xy
        (n, 2) pixels of the image.
    """

    path: Path
    table: pd.DataFrame
    listed: pd.Index
    row: np.ndarray
    col: np.ndarray
    xy: np.ndarray


def read_spots(path: Path) -> Spots:
    """Read the table of the spots: x, y, pixel_x, pixel_y, and where it has it, which were selected."""
    table = read_numbers(path, _PLACES).dropna(subset=list(_PLACES))
    largest = np.abs(table[list(_PLACES)].to_numpy(dtype=float)).max(initial=0)
    if not largest < LARGEST_PX:  # numbers that no array and no image has, which integers could not hold
        raise ValueError(f"expected array positions and pixels below {LARGEST_PX:.0e} in {path}; found {largest:g}")
    listed = _array_names(table)
    if "selected" in table:
        try:
            table = table[read_bool(table["selected"], f"the column selected of {path}", gaps=False)]
        except TypeError as error:
            raise ValueError(str(error)) from error
    col, row = (table[axis].round().astype(int).to_numpy() for axis in ("x", "y"))
    table.index = _array_names(table)
    check_unique(table.index, f"spots in {path.name}")
    return Spots(path, table, listed, row, col, table[["pixel_x", "pixel_y"]].to_numpy(dtype=float))


def spots_section(
    name: str,
    counts_path: Path,
    spots: Spots,
    *,
    patient: str | None,
    microns_per_pixel: float | tuple[float, float],
    spot_um: float,
    image: Any,
    thumbnail_px: int,
    check: bool,
    labels: Callable[[pd.DataFrame], Any] | None = None,
    genes: Callable[[pd.Index], pd.DataFrame] | None = None,
) -> AnnData:
    """Join the counts of a section to its spots; `labels` and `genes` give a label per spot, and the table of the genes."""
    import pandas as pd

    counts = _read_counts(counts_path)
    table, spots_path = spots.table, spots.path
    shared = table.index[table.index.isin(counts.index)]
    if len(shared) == 0:
        raise ValueError(
            f"expected spots that occur in {counts_path.name} and {spots_path.name}; found none in common: "
            f"{few(counts.index, 3)} and {few(table.index, 3)}"
        )
    check_joined(
        counts.index.isin(spots.listed), counts.index, spots.listed, f"spots of {counts_path.name}",
        f"line in {spots_path.name}", "check that both belong to the same section",
    )  # fmt: skip
    keep = table.index.get_indexer(shared)
    obs = pd.DataFrame({Key.ARRAY_ROW: spots.row[keep], Key.ARRAY_COL: spots.col[keep]})
    obs.index = pd.Index(f"{name}_" + shared.to_numpy(dtype=object))
    if labels is not None:
        obs[Key.LABEL] = labels(table.iloc[keep])
    return build_section(
        counts.to_numpy()[counts.index.get_indexer(shared)],
        pd.DataFrame(index=counts.columns) if genes is None else genes(counts.columns),
        obs,
        spots.xy[keep],
        sample=name,
        patient=patient,
        microns_per_pixel=microns_per_pixel,
        spot_diameter_um=spot_um,
        image=image,
        thumbnail_px=thumbnail_px,
        check=check,
    )


def _array_names(table: pd.DataFrame) -> pd.Index:
    """Names of spots, `{x}x{y}`."""
    import pandas as pd

    col, row = (table[axis].round().astype(np.int64).astype(str) for axis in ("x", "y"))
    return pd.Index(col + "x" + row)


def _read_counts(path: Path) -> pd.DataFrame:
    """Counts of a section, spots × genes, with the gene names exactly as in the file."""
    import pandas as pd

    what = "counts"
    text = read_text(path, what)
    sep = separator(text, "\t")
    genes = next(csv.reader([text.partition("\n")[0]], delimiter=sep), [])
    counts = parse_table(text, path, what, sep=sep, header=None, skiprows=1, index_col=0, low_memory=False)
    if len(genes) - counts.shape[1] not in (0, 1):  # R writes no name above the row names
        raise ValueError(f"expected {counts.shape[1]} genes in the first line of {path}; found {len(genes)}")
    counts.columns = pd.Index(genes[len(genes) - counts.shape[1] :])
    if not all(dtype.kind in "iuf" for dtype in counts.dtypes.unique()):
        strange = counts.columns[[dtype.kind not in "iuf" for dtype in counts.dtypes]]
        raise ValueError(f"expected numbers in {path}; found text in the columns {few(strange)}")
    if gaps := int(counts.isna().to_numpy().any(axis=1).sum()):
        raise ValueError(f"expected a count of every gene in {path}; found gaps in {gaps} spots, a cut or damaged file")
    counts.index = counts.index.astype(str)
    check_unique(counts.index, f"spots in {path.name}")
    return counts


def read_numbers(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Table with some columns of numbers; that of labels holds text."""
    text = read_text(path, "a table")
    table = parse_table(text, path, "a table", sep=separator(text, "\t"))
    check_numbers(table, columns, path)
    return table


def check_numbers(table: pd.DataFrame, columns: Sequence[str], path: Path) -> None:
    """Refuse a table without some columns, or with text in them."""
    check_columns(table, columns, path)
    for name in columns:
        if name != Key.LABEL and table[name].dtype.kind not in "iuf":
            raise ValueError(f"expected numbers in column {name!r} of {path}; found text")


def find_image(folder: Path | None, name: str) -> Path | None:
    """`{name}.jpg` of a folder, or the only image of its folder `{letters}/{name}` or `{name}`."""
    if folder is None:
        return None
    for ending in IMAGES:
        if (folder / f"{name}{ending}").is_file():
            return folder / f"{name}{ending}"
    for inner in (folder / name.rstrip("0123456789") / name, folder / name):
        if inner.is_dir():
            images = sorted(
                item for item in inner.iterdir() if item.suffix.lower() in IMAGES and not is_hidden(item, inner)
            )
            if len(images) > 1:
                raise ValueError(
                    f"expected one image in {inner}; found {few(item.name for item in images)}; "
                    f"pass `images={{{name!r}: …}}`"
                )
            if images:
                return images[0]
    return None
