"""Reader of Space Ranger output."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_unique, few
from stpredict.io._lattice import Lattice, pitch_px
from stpredict.io._section import THUMBNAIL_PX, build_section, check_folder, record_reading
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_PITCH_UM = 100.0
_COLUMNS = ["barcode", Key.IN_TISSUE, Key.ARRAY_ROW, Key.ARRAY_COL, "pxl_row_in_fullres", "pxl_col_in_fullres"]
_POSITIONS = ("tissue_positions.parquet", "tissue_positions.csv", "tissue_positions_list.csv")
_COUNTS = ("filtered_feature_bc_matrix.h5", "filtered_feature_bc_matrix")


def read_visium(
    path: str | Path,
    sample: str | None = None,
    patient: str | None = None,
    *,
    count_file: str | Path | None = None,
    image: str | Path | None = None,
    in_tissue_only: bool = True,
    genome: str | None = None,
    microns_per_pixel: float | None = None,
    thumbnail_px: int = THUMBNAIL_PX,
    check: bool = True,
) -> AnnData:
    """Read the output of Space Ranger 1 to 3 for one Visium capture area.

    The µm per pixel come from the lattice, whose spots are 100 µm apart, and not from `spot_diameter_fullres`, which
    spans more than the 55 µm of a spot. Binned data (Visium HD) are read from the folder of one bin size.

    Parameters
    ----------
    path
        Folder of the output, with the folder `spatial` and the counts in it, or the folder above `outs`.
    sample
        Name of the section; the name of the folder when `None`.
    patient
        Name of the patient; `obs["patient"]` is left out when `None`, and splits by patient then raise an error.
    count_file
        Counts as an h5 file or a folder of mtx files, relative to `path`; `filtered_feature_bc_matrix.h5` or the folder
        `filtered_feature_bc_matrix` when `None`.
    image
        Path of the full-resolution image that was given to Space Ranger.
    in_tissue_only
        Whether to keep only spots under tissue. The filtered counts hold no others.
    genome
        Genome to read from an h5 file with several.
    microns_per_pixel
        µm per full-resolution pixel; derived from the lattice when `None`.
    thumbnail_px
        Longest side in pixels of the thumbnail that is made of `image` when Space Ranger's `hires` is missing.
    check
        Whether to refuse positions that lie clearly better on the tissue with x and y exchanged; pass `False` where
        they are right all the same. :func:`stpredict.pp.image_features` and others do not refuse them then either.

    Returns
    -------
    AnnData of spots in the order of the count file, with

    - `X` and `layers["counts"]`: counts, sparse float32
    - `var_names`: gene symbols, made unique; `var["gene_ids"]`
    - `obs["sample"]`, `obs["patient"]` where given, `obs["measured"]`, `obs["in_tissue"]`, `obs["array_row"]`,
      `obs["array_col"]`
    - `obsm["spatial"]`: x and y in full-resolution pixels
    - `uns["spatial"][sample]`: images, Space Ranger's scale factors, `microns_per_pixel`, `source_image_path`
    - `uns["stpredict"]["read"]`: reader and lattice

    Raises
    ------
    FileNotFoundError
        When the folder, the counts, the positions, the scale factors or `image` are missing.
    ValueError
        When no barcode has a position, spots lie outside `image` or look transposed, or the µm per pixel cannot be
        derived.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.io.read_visium("outs", sample="V1", patient="P1", image="he.tif")  # doctest: +SKIP
    """
    root = check_folder(path, "pass Space Ranger's output folder")
    if sample is None:
        name = root.absolute().name
        sample = root.absolute().parent.name if name == "outs" else name
    if not (root / "spatial").is_dir() and (root / "outs").is_dir():
        root = root / "outs"
    folder = check_folder(root / "spatial", "pass Space Ranger's output folder, which holds it")
    positions = _read_positions(folder)
    scalefactors = _read_scalefactors(folder)
    lattice, pitch_um = _lattice(scalefactors)
    if microns_per_pixel is None:
        pixels = pitch_px(
            positions[Key.ARRAY_ROW].to_numpy(), positions[Key.ARRAY_COL].to_numpy(), _xy(positions), lattice
        )
        microns_per_pixel = pitch_um / pixels
    counts = _read_counts(_find_counts(root, count_file), genome)

    place = positions.index.get_indexer(counts.obs_names)
    keep = place >= 0
    if not keep.any():
        raise ValueError(
            f"expected barcodes of the counts among the positions; found none: {few(counts.obs_names, 3)} and "
            f"{few(positions.index, 3)}; check that counts and positions belong to the same capture area"
        )
    if in_tissue_only:
        keep &= positions[Key.IN_TISSUE].to_numpy()[place] == 1
        if not keep.any():
            raise ValueError("expected spots under tissue; found none; pass `in_tissue_only=False`")
    table = positions.iloc[place[keep]]
    adata = build_section(
        counts.X[keep],
        counts.var,
        table[[Key.IN_TISSUE, Key.ARRAY_ROW, Key.ARRAY_COL]].rename_axis(None),
        _xy(table),
        sample=sample,
        patient=patient,
        microns_per_pixel=microns_per_pixel,
        image=image,
        images=_read_images(folder),
        scalefactors=scalefactors,
        thumbnail_px=thumbnail_px,
        check=check,
    )
    record_reading(adata, "read_visium", lattice=lattice, pitch_um=pitch_um)
    return adata


def _xy(positions: pd.DataFrame) -> np.ndarray:
    return positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]].to_numpy(dtype=float)


def _lattice(scalefactors: dict[str, Any]) -> tuple[Lattice, float]:
    """Kind of lattice and distance of neighbors in µm; Visium HD writes its bin size beside the scale factors."""
    if "bin_size_um" in scalefactors:
        return "square", float(scalefactors["bin_size_um"])
    return "hexagonal", _PITCH_UM


def _read_positions(folder: Path) -> pd.DataFrame:
    """Positions of all spots by barcode, from any version's file: with or without a header, csv or parquet."""
    import pandas as pd

    path = next((folder / name for name in _POSITIONS if (folder / name).is_file()), None)
    if path is None:
        raise FileNotFoundError(
            f"expected {', '.join(_POSITIONS[:-1])} or {_POSITIONS[-1]} in {folder}; "
            f"found {few(sorted(item.name for item in folder.iterdir()), 8) or 'an empty folder'}"
        )
    if path.suffix == ".parquet":
        table = pd.read_parquet(path)
        table = table.reset_index() if "barcode" not in table else table
    else:
        try:
            with path.open() as handle:
                header = handle.readline().startswith("barcode")
            table = pd.read_csv(path, header=0 if header else None, names=None if header else _COLUMNS)
        except (pd.errors.EmptyDataError, pd.errors.ParserError) as error:
            raise ValueError(f"expected positions in {path}; found a damaged file ({error})") from error
    if table.empty:
        raise ValueError(f"expected positions in {path}; found an empty file")
    missing = [name for name in _COLUMNS if name not in table]
    if missing:
        raise ValueError(f"expected the columns {', '.join(_COLUMNS)} in {path}; missing {', '.join(missing)}")
    text = [name for name in _COLUMNS[1:] if table[name].dtype.kind not in "iufb"]
    if text or table[_COLUMNS[1:]].isna().to_numpy().any():
        raise ValueError(f"expected numbers without gaps in {path}; found text or gaps ({few(text) or 'NaN'})")
    check_unique(table["barcode"], f"barcodes in {path.name}")
    return table[_COLUMNS].set_index("barcode")


def _read_scalefactors(folder: Path) -> dict[str, Any]:
    path = folder / "scalefactors_json.json"
    if not path.is_file():
        raise FileNotFoundError(f"expected scale factors at {path}; found no file")
    try:
        return dict(json.loads(path.read_text()))
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}; found {error}") from error


def _read_images(folder: Path) -> dict[str, np.ndarray]:
    """Space Ranger's downscaled images, as far as they exist."""
    from stpredict.io._section_image import SectionImage

    images = {}
    for name in ("hires", "lowres"):
        path = folder / f"tissue_{name}_image.png"
        if path.is_file():
            picture = SectionImage(path)
            images[name] = np.array(picture.band(0, picture.height))
    return images


def _find_counts(root: Path, count_file: str | Path | None) -> Path:
    if count_file is not None:
        path = root / count_file
        if not path.exists():
            raise FileNotFoundError(f"expected counts at {path}; found nothing")
        return path
    count_paths = [root / name for name in _COUNTS if (root / name).exists()]
    if not count_paths:
        raise FileNotFoundError(
            f"expected {' or '.join(_COUNTS)} in {root}; found {few(sorted(item.name for item in root.iterdir()), 8)}; "
            "pass `count_file=`"
        )
    return count_paths[0]


def _read_counts(path: Path, genome: str | None) -> AnnData:
    import warnings

    import scanpy as sc

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # they are made so below
        if path.is_dir():
            if genome is not None:
                raise ValueError(f"expected an h5 file to choose genome {genome!r} from; found the folder {path}")
            counts = sc.read_10x_mtx(path, make_unique=False)
        else:
            counts = sc.read_10x_h5(path, genome=genome)
    counts.var_names_make_unique()
    return counts
