"""Reader of the HER2-positive breast Spatial Transcriptomics data."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_positive, check_unique, few
from stpredict.io._lattice import pitch_px
from stpredict.io._section import THUMBNAIL_PX, check_folder, join_sections, record_reading
from stpredict.io._st_tables import check_numbers, find_image, read_numbers, read_spots, spots_section

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_PITCH_UM, _SPOT_UM = 200.0, 100.0
_REFINED = ("new_x", "new_y")  # array positions by which spots and labels are joined
_FOLDERS = {  # what: names in the order in which they are looked for
    "counts": ("counts", "ST-cnts"),
    "spots": ("spots", "ST-spotfiles"),
    "labels": ("labels", "ST-pat/lbl"),
    "images": ("images", "ST-imgs"),
}


def read_her2st(
    path: str | Path,
    sections: str | Sequence[str] | None = None,
    *,
    images: str | Path | Mapping[str, str | Path] | None = None,
    microns_per_pixel: float | None = None,
    thumbnail_px: int = THUMBNAIL_PX,
    check: bool = True,
) -> AnnData:
    """Read HER2-positive breast tumors measured by Spatial Transcriptomics :cite:p:`andersson2021`.

    Two layouts are read: folders `counts`, `spots`, `labels` and `images`, and that of the original repository
    (`ST-cnts`, `ST-spotfiles`, `ST-pat/lbl`, `ST-imgs`, at the top or under `data`). Spots and counts are joined by
    their array position, and spots that occur in only one of the two files are left out. Genes that a section does not
    list were not detected there and are zero. Other data in the same format can be read as well: the letters of a
    section's name are taken as its patient.

    Parameters
    ----------
    path
        Folder of the data.
    sections
        Names of the sections to read, such as `["B4", "C2"]`; all that have counts and spots when `None`.
    images
        Folder of the images, or a path per section; the folder beside the counts when `None`. Sections without an image
        are read all the same.
    microns_per_pixel
        µm per full-resolution pixel; derived from the 200 µm between neighboring spots when `None`.
    thumbnail_px
        Longest side of the thumbnail in pixels.
    check
        Whether to refuse positions that lie clearly better on the tissue with x and y exchanged; pass `False` where
        they are right all the same. :func:`stpredict.pp.image_features` and others do not refuse them then either.

    Returns
    -------
    AnnData of all sections, observations named `{section}_{x}x{y}`, with

    - `X` and `layers["counts"]`: counts, sparse float32
    - `obs["sample"]`, `obs["patient"]`, `obs["measured"]`, `obs["array_row"]` (y), `obs["array_col"]` (x), and
      `obs["label"]` where a pathologist's labels exist, missing elsewhere
    - `obsm["spatial"]`: x and y in full-resolution pixels
    - `uns["spatial"][section]`: thumbnail `hires`, `tissue_hires_scalef`, `spot_diameter_fullres` (100 µm),
      `microns_per_pixel`, `source_image_path`
    - `uns["stpredict"]["read"]`: reader and lattice

    Raises
    ------
    FileNotFoundError
        When the folder, or the counts or spots of a section, are missing.
    ValueError
        When a file is empty or damaged or holds no counts, nothing joins, spots lie outside the image or look transposed, the
        image is damaged, or the µm per pixel cannot be derived.

    Warns
    -----
    UserWarning
        When some spots of the counts are not in the file of the spots; those that it lists and does not select are left
        out without a word.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.io.read_her2st("her2st", ["B4", "C2"])  # doctest: +SKIP
    """
    root = check_folder(path, "pass the folder that holds the counts")
    if not any((root / name).is_dir() for name in _FOLDERS["counts"]) and (root / "data").is_dir():
        root = root / "data"
    folders = {what: _first_folder(root, names) for what, names in _FOLDERS.items()}
    for what in ("counts", "spots"):
        if folders[what] is None:
            raise FileNotFoundError(
                f"expected a folder {' or '.join(map(repr, _FOLDERS[what]))} in {root}; "
                f"found {few(sorted(item.name for item in root.iterdir()))}; pass the folder that holds them"
            )
    if isinstance(images, (str, Path)):
        folders["images"] = check_folder(images, "pass the folder of the images")
    if microns_per_pixel is not None:
        check_positive(microns_per_pixel, "microns_per_pixel")

    counts = _by_section(folders["counts"], r"\.tsv(\.gz)?")
    spots = _by_section(folders["spots"], r"_selection\.tsv(\.gz)?")
    labels = _by_section(folders["labels"], r"_labeled_coordinates\.tsv(\.gz)?")
    if sections is None:
        to_read = [name for name in counts if name in spots]
    else:
        to_read = [sections] if isinstance(sections, str) else list(sections)
        check_unique(to_read, "sections")
    missing = [name for name in to_read if name not in counts or name not in spots]
    if missing or not to_read:
        raise FileNotFoundError(
            f"expected counts and spots of {few(missing) or 'at least one section'}; found counts of "
            f"{few(counts, 12) or 'none'} and spots of {few(spots, 12) or 'none'} in {root}"
        )
    if isinstance(images, Mapping):
        pictures: dict[str, Any] = {name: images.get(name) for name in to_read}
    else:
        pictures = {name: find_image(folders["images"], name) for name in to_read}

    adata = join_sections(
        [
            _read_section(
                name,
                counts[name],
                spots[name],
                labels.get(name),
                pictures[name],
                microns_per_pixel,
                thumbnail_px,
                check,
            )
            for name in to_read
        ]
    )
    record_reading(adata, "read_her2st", lattice="square", pitch_um=_PITCH_UM, microns_per_pixel=microns_per_pixel)
    return adata


def _read_section(
    name: str,
    counts_path: Path,
    spots_path: Path,
    labels_path: Path | None,
    image: Any,
    microns_per_pixel: float | None,
    thumbnail_px: int,
    check: bool,
) -> AnnData:
    spots = read_spots(spots_path)
    if microns_per_pixel is None:
        try:
            microns_per_pixel = _PITCH_UM / pitch_px(spots.row, spots.col, spots.xy, "square")
        except ValueError as error:
            raise ValueError(f"section {name!r}: {error}") from error
    letters = re.match(r"[A-Za-z]+", name)
    return spots_section(
        name,
        counts_path,
        spots,
        labels=None if labels_path is None else lambda table: _read_labels(labels_path, table, spots_path),
        patient=letters.group() if letters else name,
        microns_per_pixel=microns_per_pixel,
        spot_um=_SPOT_UM,
        image=image,
        thumbnail_px=thumbnail_px,
        check=check,
    )


def _read_labels(path: Path, spots: pd.DataFrame, spots_path: Path) -> Any:
    """Labels of the spots, joined through the refined array positions, which both files carry with three decimals."""
    import pandas as pd

    table = read_numbers(path, ("x", "y", "label")).dropna(subset=["x", "y", "label"])
    check_numbers(spots, _REFINED, spots_path)
    keys = pd.MultiIndex.from_arrays([_thousandths(table["x"]), _thousandths(table["y"])])
    table = table[~keys.duplicated()]
    keys = keys[~keys.duplicated()]
    place = keys.get_indexer(pd.MultiIndex.from_arrays([_thousandths(spots["new_x"]), _thousandths(spots["new_y"])]))
    if (place < 0).all():
        raise ValueError(f"expected labels of these spots in {path}; found none at their positions")
    labels = table["label"].astype(str).to_numpy(dtype=object)[place]
    labels[place < 0] = None
    return pd.Categorical(labels)


def _thousandths(values: pd.Series) -> np.ndarray:
    return np.round(values.to_numpy(dtype=float) * 1000)


def _first_folder(root: Path, names: Sequence[str]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _by_section(folder: Path | None, ending: str) -> dict[str, Path]:
    """Files of a folder by section, in natural order (C2 before C10)."""
    if folder is None:
        return {}
    matches = ((re.fullmatch(rf"([A-Za-z]+)(\d+){ending}", item.name), item) for item in folder.iterdir())
    found = {(match[1], int(match[2])): (match[1] + match[2], item) for match, item in matches if match}
    return dict(found[key] for key in sorted(found))
