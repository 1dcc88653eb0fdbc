"""Which folder of Space Ranger's output holds the section: of spots, of bins of one size, or of cells."""

from __future__ import annotations

import re
from pathlib import Path

from stpredict.core._validate import few
from stpredict.io._section import check_folder

COUNTS = (
    "filtered_feature_bc_matrix.h5",
    "filtered_feature_bc_matrix",
    "filtered_feature_cell_matrix.h5",
    "filtered_feature_cell_matrix",
)
_BINS, CELLS_FOLDER = "binned_outputs", "segmented_outputs"
_CALL = "pass Space Ranger's output folder"


def find_output(path: str | Path, bin_um: float | None = None) -> Path:
    """Folder that holds `spatial` and the counts, below what the user names.

    Raises `FileNotFoundError` when there is none, and `ValueError` when one of several has to be chosen.
    """
    root = check_folder(path, _CALL)
    for base in (root, root / "outs"):
        if not base.is_dir():
            continue
        bins, cells = bin_folders(base), base / CELLS_FOLDER
        if bin_um is not None and bins:
            if bin_um not in bins:
                raise ValueError(f"expected bin_um among {few(f'{size:g}' for size in bins)}; found {bin_um!r}")
            return bins[bin_um]
        folders = [*bins.values(), *([cells] if cells.is_dir() else [])]
        if bin_um is None and folders and not _is_section(base):
            if len(folders) > 1:
                usual = 8.0 if 8.0 in bins else max(bins)
                raise ValueError(
                    f"expected one section in {base}; found {few((folder.name for folder in folders), 9)}; pass the bin size, "
                    f"as in `bin_um={usual:g}`, or the path of one of them, such as {folders[-1]}"
                )
            return folders[0]
    if bin_um is not None and root.name != f"square_{int(bin_um):03d}um":
        raise ValueError(
            f"expected folders like {_BINS}/square_{int(bin_um):03d}um in {root}; found "
            f"{few(sorted(item.name for item in root.iterdir()), 8) or 'an empty folder'}; leave `bin_um` out for other data"
        )
    if not (root / "spatial").is_dir() and (root / "outs").is_dir():
        root = root / "outs"
    return root


def bin_folders(base: Path) -> dict[float, Path]:
    """Folders of bins by their size in µm."""
    folder = base if base.name == _BINS else base / _BINS
    if not folder.is_dir():
        return {}
    matches = ((re.fullmatch(r"square_(\d+)um", item.name), item) for item in sorted(folder.iterdir()))
    return {float(match[1]): item for match, item in matches if match and item.is_dir()}


def _is_section(base: Path) -> bool:
    return any((base / name).exists() for name in COUNTS)
