"""Reader of Visium HD: bins of one size, or segmented cells."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.core._validate import few
from stpredict.io._read_visium import read_visium
from stpredict.io._section import THUMBNAIL_PX, check_folder
from stpredict.io._visium_folders import CELLS_FOLDER, bin_folders
from stpredict.slots._provenance import read_record, write_record

if TYPE_CHECKING:
    from anndata import AnnData


def read_visium_hd(
    path: str | Path,
    sample: str | None = None,
    patient: str | None = None,
    *,
    bin_um: float = 8.0,
    cells: bool = False,
    image: str | Path | None = None,
    in_tissue_only: bool = True,
    genome: str | None = None,
    microns_per_pixel: float | None = None,
    thumbnail_px: int = THUMBNAIL_PX,
    check: bool = True,
) -> AnnData:
    """Read one capture area of Visium HD: bins of one size, or the cells that Space Ranger 4 segments.

    The same files are read by :func:`stpredict.io.read_visium`; this one has the usual choice of bins, and says so where
    the folder holds spots of Visium.

    Bins lie closer together than the 112 µm of a tile, so that neighbors see nearly the same picture: take a smaller
    field of view, as in `stp.pp.image_features(adata, tile_um=32, context=(1, 3))`.

    Parameters
    ----------
    path
        Folder `outs`, the folder above it, or one that holds `binned_outputs` or `segmented_outputs`.
    sample
        Name of the section; the name of the folder, or of the one above `outs`, when `None`.
    patient
        Name of the patient; `obs["patient"]` is left out when `None`, and splits by patient then raise an error.
    bin_um
        Size of the bins in µm: 2, 8, 16, or another that Space Ranger was asked for.
    cells
        Whether to read segmented cells instead of bins.
    image
        Path of the full-resolution image that was given to Space Ranger.
    in_tissue_only
        Whether to keep only bins under tissue. Cells are all kept.
    genome, microns_per_pixel, thumbnail_px, check
        As in :func:`stpredict.io.read_visium`.

    Returns
    -------
    AnnData as of :func:`stpredict.io.read_visium`; `uns["stpredict"]["read"]` has `bin_um`, or `cells`.

    Raises
    ------
    FileNotFoundError
        When the folder holds no Visium HD, no cells, or lacks a file.
    ValueError
        When there are no bins of that size, or a file is damaged; as in :func:`stpredict.io.read_visium`.

    Warns
    -----
    UserWarning
        When some barcodes of the counts have no position and are left out.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.io.read_visium_hd("outs", "HD1", "P1", image="he.tif")  # doctest: +SKIP
    >>> cells = stp.io.read_visium_hd("outs", "HD1", "P1", image="he.tif", cells=True)  # doctest: +SKIP
    """
    root = check_folder(path, "pass the folder 'outs' of Space Ranger").absolute()
    if sample is None:
        sample = root.parent.name if root.name == "outs" else root.name
    base = next(
        (place for place in (root, root / "outs") if bin_folders(place) or (place / CELLS_FOLDER).is_dir()), None
    )
    if base is None:
        raise FileNotFoundError(
            f"expected binned_outputs or {CELLS_FOLDER} in {root}; found "
            f"{few(sorted(item.name for item in root.iterdir()), 8) or 'an empty folder'}; read the spots of Visium, or one "
            "folder of bins, with stp.io.read_visium"
        )
    options: dict[str, Any] = {
        "image": image, "in_tissue_only": in_tissue_only, "genome": genome, "microns_per_pixel": microns_per_pixel,
        "thumbnail_px": thumbnail_px, "check": check,
    }  # fmt: skip
    bins = bin_folders(base)
    if cells:
        if not (base / CELLS_FOLDER).is_dir():
            raise FileNotFoundError(
                f"expected {CELLS_FOLDER} in {base}; found {few(sorted(item.name for item in base.iterdir()), 8)}; Space "
                "Ranger writes it from version 4 on; pass `cells=False` for bins"
            )
        adata = read_visium(base / CELLS_FOLDER, sample, patient, **options)
    elif bin_um not in bins:
        raise ValueError(
            f"expected bin_um among {few(f'{size:g}' for size in bins) or 'none (pass cells=True)'}; found {bin_um!r}"
        )
    else:
        adata = read_visium(bins[bin_um], sample, patient, **options)
    chosen = {"cells": True} if cells else {"bin_um": float(bin_um)}
    write_record(adata, "read", (read_record(adata, "read") or {}) | {"reader": "read_visium_hd"} | chosen)
    return adata
