"""Reader of Spatial Transcriptomics, the arrays before Visium."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._files import check_columns, find_file, parse_table, read_text, separator
from stpredict.core._validate import check_positive, check_unique, few
from stpredict.io._lattice import axis_pitches_px
from stpredict.io._section import THUMBNAIL_PX, check_folder, is_hidden, join_sections, record_reading
from stpredict.io._square_pixels import SQUARE
from stpredict.io._st_tables import Spots, find_image, read_spots, spots_section

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_SPOTS = re.compile(r"(.+?)_(?:spots|selection)\.(?:tsv|txt|csv)(?:\.gz)?")
_COUNTS = tuple(name + ending for ending in (".tsv", ".txt", ".csv") for name in ("{}", "{}_counts", "{}_stdata"))
_FOLDERS = ("", "counts", "spots", "images")
_GENES = "genes.tsv"
_STEP_UM = 200.0  # of arrays with about 1,000 spots
_CHECKERBOARD_UM = 100.0  # of arrays with about 2,000, where every other place has a spot
_SPOT_UM = 100.0


def read_st(
    path: str | Path,
    sections: str | Sequence[str] | None = None,
    *,
    patient: str | Mapping[str, str] | None = None,
    images: str | Path | Mapping[str, str | Path] | None = None,
    genes: str | Path | Mapping[str, str] | None = None,
    pitch_um: float | None = None,
    microns_per_pixel: float | tuple[float, float] | None = None,
    thumbnail_px: int = THUMBNAIL_PX,
    check: bool = True,
) -> AnnData:
    """Read arrays of Spatial Transcriptomics, which came before Visium :cite:p:`stahl2016`.

    For each section there are counts (`{section}.tsv`; rows named `{x}x{y}` by array position, columns genes), a table
    of the spots (`{section}_spots.tsv` or `{section}_selection.tsv`; columns x, y, pixel_x, pixel_y, and selected where
    some lie off the tissue) and an image `{section}.jpg`, all in one folder, or in its folders `counts`, `spots` and
    `images`. Files may be plain or gzip. Spots that are not selected, or are in one table only, are left out. Genes
    that a section does not list are zero there.

    Images of these arrays were often stored in another ratio than they were taken in, so that a pixel is not as wide as
    it is high. The lattice of the spots tells. Where the two differ by more than 3 %, everything in the object is in
    *square pixels* as fine as the finer side, and the image is stretched to them wherever the package reads it: tiles,
    neighbors and maps are then true to the tissue.

    Parameters
    ----------
    path
        Folder of the data.
    sections
        Names of the sections to read; all that have counts and spots when `None`.
    patient
        Name of the patient or animal, or a mapping by section; when `None`, `obs["patient"]` is left out, with a note,
        since names of sections do not tell.
    images
        Folder of the images, or a path per section; where the counts are when `None`. Sections without an image are
        read all the same.
    genes
        Symbols of the genes by the identifier in the counts, as a mapping or the path of a table with the columns
        `gene_id` and `gene_name`; the file `genes.tsv` of the folder, where there is one, when `None`.
    pitch_um
        µm of a step of the array positions. When `None`, 100 where the spots are a checkerboard (x + y all even or all
        odd, arrays with about 2,000 spots, neighbors 141 µm apart on the diagonals), and 200 otherwise.
    microns_per_pixel
        µm per pixel of the image, or along x and along y; derived from the lattice when `None`.
    thumbnail_px
        Longest side of the thumbnail in pixels.
    check
        Whether to refuse positions that lie clearly better on the tissue with x and y exchanged; pass `False` where
        they are right all the same. :func:`stpredict.pp.image_features` and others do not refuse them then either.

    Returns
    -------
    AnnData of all sections, observations named `{section}_{x}x{y}`, with

    - `X` and `layers["counts"]`: counts, sparse float32
    - `var_names`: symbols where known, made unique, with the identifiers in `var["gene_ids"]`
    - `obs["sample"]`, `obs["patient"]` where given, `obs["measured"]`, `obs["array_row"]` (y), `obs["array_col"]` (x)
    - `obsm["spatial"]`: x and y in square pixels, which are those of the image where these are square
    - `uns["spatial"][section]`: thumbnail `hires`, `tissue_hires_scalef`, `spot_diameter_fullres` (100 µm),
      `microns_per_pixel` (of square pixels), `source_image_path`; `source_microns_per_pixel_x` and `_y` of the pixels of
      the image where they are not square
    - `uns["stpredict"]["read"]`: reader and lattice

    Raises
    ------
    FileNotFoundError
        When the folder, or the counts or spots of a section, are missing.
    KeyError
        When a section has no patient in a mapping.
    ValueError
        When a file is empty or damaged or holds no counts, nothing joins, spots lie outside the image or look transposed, the
        image is damaged, or the µm per pixel cannot be derived.

    Warns
    -----
    UserWarning
        When some spots of the counts are not in the file of the spots; those that it lists and does not select are left
        out without a word.

    See Also
    --------
    stpredict.io.read_her2st : the same arrays with pathologists' labels, in the folders of that data.
    stpredict.io.from_tables : from tables of any other origin.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.io.read_st("st_mob", patient={"MOB1": "1", "MOB2": "1", "MOB3": "2", "MOB4": "2"})  # doctest: +SKIP
    """
    root = check_folder(path, "pass the folder that holds the counts")
    counts, spots = _pairs(root)
    to_read = list(counts) if sections is None else [sections] if isinstance(sections, str) else list(sections)
    check_unique(to_read, "sections")
    missing = [name for name in to_read if name not in counts]
    if missing or not to_read:
        raise FileNotFoundError(
            f"expected counts (NAME.tsv) and spots (NAME_spots.tsv or NAME_selection.tsv) of "
            f"{few(missing) or 'at least one section'} in {root}; found counts of {few(counts, 12) or 'none'} and spots of "
            f"{few(spots, 12) or 'none'}"
        )
    people = {name: patient.get(name) if isinstance(patient, Mapping) else patient for name in to_read}
    if isinstance(patient, Mapping) and (unknown := [name for name, person in people.items() if person is None]):
        raise KeyError(f"expected the patient of every section in `patient=`; missing {few(unknown)}")
    if isinstance(images, Mapping):
        pictures: dict[str, Any] = {name: images.get(name) for name in to_read}
    else:
        pictures = {name: _image(root, images, name) for name in to_read}
    symbols = _symbols(root, genes)

    parts, steps = [], set()
    for name in to_read:
        table = read_spots(spots[name])
        step, mpp = _scale(table, name, pitch_um, microns_per_pixel)
        steps.add(step)
        parts.append(
            spots_section(
                name,
                counts[name],
                table,
                patient=people[name],
                microns_per_pixel=mpp,
                spot_um=_SPOT_UM,
                image=pictures[name],
                thumbnail_px=thumbnail_px,
                check=check,
                genes=symbols,
            )
        )
    adata = join_sections(parts)
    record_reading(
        adata, "read_st", lattice="square", pitch_um=steps.pop() if len(steps) == 1 else None,
        microns_per_pixel=microns_per_pixel,
    )  # fmt: skip
    return adata


def _pairs(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Counts and spots by section, in natural order; counts only where there are spots."""
    folders = [root / name for name in _FOLDERS if (root / name).is_dir()]
    spots = {
        match[1]: item
        for folder in folders
        for item in sorted(folder.iterdir())
        if (match := _SPOTS.fullmatch(item.name)) and not is_hidden(item, root)
    }
    counts = {}
    for name in sorted(spots, key=_natural):
        files = [find_file(folder, [form.format(name) for form in _COUNTS]) for folder in folders]
        if found := [path for path in files if path is not None]:
            counts[name] = found[0]
    return counts, spots


def _natural(name: str) -> list[Any]:
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", name) if part]


def _image(root: Path, images: str | Path | None, name: str) -> Path | None:
    if images is not None:
        return find_image(check_folder(images, "pass the folder of the images"), name)
    found = (find_image(root / inner, name) for inner in ("", "images") if (root / inner).is_dir())
    return next((path for path in found if path is not None), None)


def _scale(
    spots: Spots, name: str, pitch_um: float | None, given: float | tuple[float, float] | None
) -> tuple[float, float | tuple[float, float]]:
    """µm of a step of the array, and of a pixel: one number, or along x and y where pixels are not square."""
    parity = np.unique((spots.row + spots.col) % 2)
    if pitch_um is None:
        pitch_um = _CHECKERBOARD_UM if len(parity) == 1 else _STEP_UM
    step = check_positive(pitch_um, "pitch_um")
    if given is not None:
        return step, given
    try:
        x, y = axis_pitches_px(spots.row, spots.col, spots.xy)
    except ValueError as error:
        raise ValueError(f"section {name!r}: {error}") from error
    if max(x, y) <= SQUARE * min(x, y):
        return step, step / float(np.sqrt(x * y))
    return step, (step / x, step / y)


def _symbols(root: Path, genes: str | Path | Mapping[str, str] | None) -> Callable[[pd.Index], pd.DataFrame] | None:
    """From identifiers of genes to the table of `var`; `None` where symbols are not known."""
    import pandas as pd

    if genes is None:
        genes = find_file(root, (_GENES,))
        if genes is None:
            return None
    if isinstance(genes, Mapping):
        names = {str(key): str(value) for key, value in genes.items()}
    else:
        path = Path(genes)
        if not path.is_file():
            raise FileNotFoundError(
                f"expected a table of genes at {path}; found none; leave `genes=` out for names as they are"
            )
        text = read_text(path, "a table of genes")
        table = parse_table(text, path, "a table of genes", sep=separator(text, "\t"), dtype=str, na_filter=False)
        check_columns(table, ("gene_id", "gene_name"), path)
        names = dict(zip(table["gene_id"], table["gene_name"], strict=True))

    def var(identifiers: pd.Index) -> pd.DataFrame:
        from anndata.utils import make_index_unique

        symbols = [names.get(name) or name for name in identifiers]
        return pd.DataFrame(
            {"gene_ids": identifiers.to_numpy(dtype=object)}, index=make_index_unique(pd.Index(symbols))
        )

    return var
