"""Reader of Space Ranger output."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._files import find_file, read_json
from stpredict.core._validate import check_positive, few
from stpredict.io._counts_h5 import read_counts_h5
from stpredict.io._counts_mtx import read_counts_mtx
from stpredict.io._lattice import Lattice, pitch_px
from stpredict.io._section import THUMBNAIL_PX, build_section, check_folder, check_joined, record_reading
from stpredict.io._visium_folders import COUNTS, find_output
from stpredict.io._visium_positions import CELLS, X_PX, Y_PX, read_cells, read_positions
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_PITCH_UM = 100.0
_POSITIVE = ("bin_size_um", "microns_per_pixel", "spot_diameter_fullres", "tissue_hires_scalef", "tissue_lowres_scalef")


def read_visium(
    path: str | Path,
    sample: str | None = None,
    patient: str | None = None,
    *,
    bin_um: float | None = None,
    count_file: str | Path | None = None,
    image: str | Path | None = None,
    in_tissue_only: bool = True,
    genome: str | None = None,
    microns_per_pixel: float | None = None,
    thumbnail_px: int = THUMBNAIL_PX,
    check: bool = True,
) -> AnnData:
    """Read the output of Space Ranger 1 to 4 for one Visium capture area: spots, bins of one size, or cells.

    The µm per pixel come from the lattice, whose spots are 100 µm apart, and not from `spot_diameter_fullres`, which
    spans more than the 55 µm of a spot. Of Visium HD, the bins of one size are read (`bin_um`), or the cells of
    `segmented_outputs`, whose positions are the centroids of their outlines. Tables may be plain or gzip, with or without
    a header and quotes, in any usual encoding.

    Parameters
    ----------
    path
        Folder of the output, with the folder `spatial` and the counts in it, or the folder above `outs`. Of Visium HD,
        the folder `outs`, or that of one bin size (`binned_outputs/square_008um`) or of the cells (`segmented_outputs`).
    sample
        Name of the section; the name of the folder when `None`.
    patient
        Name of the patient; `obs["patient"]` is left out when `None`, and splits by patient then raise an error.
    bin_um
        Bin size of Visium HD in µm; not needed where the folder holds one only.
    count_file
        Counts as an h5 file or a folder of mtx files, relative to `path`; `filtered_feature_bc_matrix.h5` or the folder
        `filtered_feature_bc_matrix` (for cells, `filtered_feature_cell_matrix`) when `None`.
    image
        Path of the full-resolution image that was given to Space Ranger.
    in_tissue_only
        Whether to keep only spots under tissue. The filtered counts hold no others. Cells are all kept.
    genome
        Genome to read from an h5 file with several.
    microns_per_pixel
        µm per full-resolution pixel; derived from the lattice when `None`, and for cells read from the scale factors.
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
    - `obs["sample"]`, `obs["patient"]` where given, `obs["measured"]`; but for cells, `obs["in_tissue"]`,
      `obs["array_row"]` and `obs["array_col"]`
    - `obsm["spatial"]`: x and y in full-resolution pixels
    - `uns["spatial"][sample]`: images, Space Ranger's scale factors, `microns_per_pixel`, `source_image_path`
    - `uns["stpredict"]["read"]`: reader and lattice

    Raises
    ------
    FileNotFoundError
        When the folder, the counts, the positions, the scale factors or `image` are missing.
    ValueError
        When most barcodes have no position, a file is damaged, the bin size has to be chosen, spots lie outside `image`
        or look transposed, or the µm per pixel cannot be derived.

    Warns
    -----
    UserWarning
        When some barcodes of the counts have no position and are left out.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.io.read_visium("outs", sample="V1", patient="P1", image="he.tif")  # doctest: +SKIP
    """
    if sample is None:
        named = check_folder(path, "pass Space Ranger's output folder").absolute()
        sample = named.parent.name if named.name == "outs" else named.name
    root = find_output(path, bin_um)
    folder = check_folder(root / "spatial", "pass Space Ranger's output folder, which holds it")
    scalefactors = _read_scalefactors(folder)
    if cells := find_file(root, (CELLS,)):
        counts = _read_counts(_find_counts(root, count_file), genome)
        positions, diameter = read_cells(cells, counts.obs_names)
        scalefactors.setdefault("spot_diameter_fullres", diameter)
        lattice, pitch_um = None, None
        if microns_per_pixel is None:
            if "microns_per_pixel" not in scalefactors:
                raise ValueError(
                    f"expected microns_per_pixel in the scale factors in {folder}; found {few(scalefactors, 8)}; pass "
                    "`microns_per_pixel=`"
                )
            microns_per_pixel = scalefactors["microns_per_pixel"]
    else:
        positions = read_positions(folder)
        lattice, pitch_um = _lattice(scalefactors)
        if microns_per_pixel is None:
            row, col = positions[Key.ARRAY_ROW].to_numpy(), positions[Key.ARRAY_COL].to_numpy()
            try:
                microns_per_pixel = pitch_um / pitch_px(row, col, _xy(positions), lattice)
            except ValueError as error:
                raise ValueError(f"positions in {folder}: {error}") from error
        counts = _read_counts(_find_counts(root, count_file), genome)

    place = positions.index.get_indexer(counts.obs_names)
    keep = place >= 0
    check_joined(
        keep, counts.obs_names, positions.index, "barcodes of the counts", "position",
        "check that counts and positions belong to the same capture area", most=True,
    )  # fmt: skip
    if in_tissue_only and Key.IN_TISSUE in positions:
        keep &= positions[Key.IN_TISSUE].to_numpy()[place]
        if not keep.any():
            raise ValueError("expected spots under tissue; found none; pass `in_tissue_only=False`")
    table = positions.iloc[place[keep]]
    obs = table.drop(columns=[X_PX, Y_PX]).rename_axis(None)
    if Key.IN_TISSUE in obs:
        obs[Key.IN_TISSUE] = obs[Key.IN_TISSUE].astype(np.int64)  # 0 and 1, as Space Ranger and scanpy have it
    adata = build_section(
        counts.X[keep],
        counts.var,
        obs,
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
    return positions[[X_PX, Y_PX]].to_numpy(dtype=float)


def _lattice(scalefactors: dict[str, Any]) -> tuple[Lattice, float]:
    """Kind of lattice and distance of neighbors in µm; Visium HD writes its bin size beside the scale factors."""
    if "bin_size_um" in scalefactors:
        return "square", float(scalefactors["bin_size_um"])
    return "hexagonal", _PITCH_UM


def _read_scalefactors(folder: Path) -> dict[str, Any]:
    path = find_file(folder, ("scalefactors_json.json",))
    if path is None:
        raise FileNotFoundError(
            f"expected scale factors at {folder / 'scalefactors_json.json'}; found no file among "
            f"{few(sorted(item.name for item in folder.iterdir()), 8) or 'an empty folder'}"
        )
    factors = read_json(path, "scale factors")
    for name in _POSITIVE:
        if name in factors:
            factors[name] = check_positive(factors[name], f"{name} in {path}")
    unusable = [name for name, value in factors.items() if isinstance(value, float) and not np.isfinite(value)]
    if unusable:
        raise ValueError(f"expected finite scale factors in {path}; found infinity in {few(unusable)}; fetch it again")
    return factors


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
    count_paths = [root / name for name in COUNTS if (root / name).exists()]
    if not count_paths:
        raise FileNotFoundError(
            f"expected {' or '.join(COUNTS[:2])} in {root}; found {few(sorted(item.name for item in root.iterdir()), 8)}; "
            "pass `count_file=`"
        )
    return count_paths[0]


def _read_counts(path: Path, genome: str | None) -> AnnData:
    import warnings

    if path.is_dir() and genome is not None:
        raise ValueError(f"expected an h5 file to choose genome {genome!r} from; found the folder {path}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Variable names are not unique")  # they are made so below
        counts = read_counts_mtx(path) if path.is_dir() else read_counts_h5(path, genome)
    counts.var_names_make_unique()
    return counts
