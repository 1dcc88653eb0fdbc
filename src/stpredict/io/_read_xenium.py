"""Reader of Xenium: cells with their counts, on the H&E image that was aligned to them."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._files import check_columns, find_file, numbers, parse_table, read_json, read_parquet, read_text
from stpredict.core._validate import check_positive, check_unique, few
from stpredict.io._counts_h5 import read_counts_h5
from stpredict.io._counts_mtx import read_counts_mtx
from stpredict.io._section import THUMBNAIL_PX, build_section, check_folder, check_joined, record_reading
from stpredict.io._square_pixels import SQUARE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_SPECS = "experiment.xenium"
_CELLS = ("cells.parquet", "cells.csv")
_COUNTS = ("cell_feature_matrix.h5", "cell_feature_matrix")
_IMAGES = ("*he_image.ome.tif", "*he_image.ome.tiff", "*he_image.tif", "*he_image.tiff")
_ALIGNMENT = "*he_imagealignment.csv"
_PLACES = ("x_centroid", "y_centroid")
_NUCLEUS = "nucleus_area"
_MORE = ("transcript_counts", "cell_area", _NUCLEUS)


def read_xenium(
    path: str | Path,
    sample: str | None = None,
    patient: str | None = None,
    *,
    image: str | Path | None = None,
    alignment: str | Path | np.ndarray | None = None,
    min_counts: int = 0,
    thumbnail_px: int = THUMBNAIL_PX,
    check: bool = True,
) -> AnnData:
    """Read the cells of a Xenium run, and lay them on the H&E image of the same section.

    The image is stained after the run and aligned to it in Xenium Explorer, which exports a matrix from its pixels to
    those of the run. Positions are taken the other way, to pixels of the H&E image, which is never resampled unless its
    pixels are not square. Only genes are kept, no controls.

    Parameters
    ----------
    path
        Output folder of the run, with `experiment.xenium`, `cells.parquet` or `cells.csv.gz`, and `cell_feature_matrix.h5` or
        the folder `cell_feature_matrix`.
    sample
        Name of the section; the name of the folder when `None`.
    patient
        Name of the patient; `obs["patient"]` is left out when `None`, and splits by patient then raise an error.
    image
        H&E image; when `None`, the one in the folder that is named `*he_image.ome.tif` or `*he_image.tif`. Without one,
        positions are in pixels of the run.
    alignment
        Matrix (3, 3) from pixels of the image to those of the run, or its CSV file; when `None`, the file named
        `*he_imagealignment.csv` beside the image or in the folder.
    min_counts
        Smallest number of counts of genes of a cell that is kept.
    thumbnail_px
        Longest side of the thumbnail in pixels.
    check
        Whether to refuse positions that lie clearly better on the tissue with x and y exchanged; pass `False` where
        they are right all the same. :func:`stpredict.pp.image_features` and others do not refuse them then either.

    Returns
    -------
    AnnData of cells in the order of the counts, with

    - `X` and `layers["counts"]`: counts, sparse float32
    - `var_names`: gene symbols, made unique; `var["gene_ids"]`
    - `obs["sample"]`, `obs["patient"]` where given, `obs["measured"]`, and `transcript_counts`, `cell_area` and `nucleus_area`
      (µm²) where the files have them
    - `obsm["spatial"]`: x and y in full-resolution pixels of the H&E image, or of the run without one
    - `uns["spatial"][sample]`: thumbnail `hires`, `tissue_hires_scalef`, `spot_diameter_fullres` (that of a circle with the
      median area of a cell), `microns_per_pixel`, `source_image_path`
    - `uns["stpredict"]["read"]`: reader, and whether positions were aligned

    Raises
    ------
    FileNotFoundError
        When the folder or one of its files, the image or the matrix are missing.
    ValueError
        When a file is damaged, cells and counts have nothing in common, the matrix is none, no cell is left, or cells lie
        outside the image or look transposed.

    Warns
    -----
    UserWarning
        When some cells of the counts have no position and are left out.

    Notes
    -----
    The other elements of a run (outlines, transcripts, images of fluorescence) are read by `spatialdata_io.xenium`, whose
    result :func:`stpredict.io.from_spatialdata` takes.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.io.read_xenium("outs", "X1", "P1", image="he_image.ome.tif")  # doctest: +SKIP
    """
    root = check_folder(path, "pass the output folder of the run")
    specs = find_file(root, (_SPECS,))
    if specs is None:
        raise FileNotFoundError(
            f"expected {_SPECS} in {root}; found {few(sorted(item.name for item in root.iterdir()), 8) or 'an empty folder'}; "
            "pass the output folder of the run"
        )
    facts = read_json(specs, "the description of a run", gaps=True)
    if "pixel_size" not in facts:
        raise ValueError(f"expected pixel_size (µm) in {specs}; found {few(facts, 8) or 'nothing'}")
    run_um = check_positive(facts["pixel_size"], f"pixel_size in {specs}")
    cells, counts = _read_cells(root), _read_counts(root)
    place = cells.index.get_indexer(counts.obs_names)
    keep = place >= 0
    check_joined(
        keep,
        counts.obs_names,
        cells.index,
        "cells of the counts",
        "position",
        "check that both are of one run",
        most=True,
    )
    keep &= np.asarray(counts.X.sum(axis=1)).ravel() >= min_counts
    if not keep.any():
        raise ValueError(f"expected cells with at least {min_counts} counts; found none; pass a smaller `min_counts=`")
    table = cells.iloc[place[keep]]
    xy = table[list(_PLACES)].to_numpy(dtype=float) / run_um
    mpp: float | tuple[float, float] = run_um
    image = _find_image(root) if image is None else image
    matrix = None
    if image is not None:
        matrix = _matrix(alignment, Path(image), root)
        inverse = np.linalg.inv(matrix)
        xy = xy @ inverse[:2, :2].T + inverse[:2, 2]
        mpp = _scale(matrix[:2, :2] * run_um)
    elif alignment is not None:
        raise ValueError("expected an image with `alignment=`; found none; pass `image=`")
    area = table["cell_area"].median() if "cell_area" in table else np.nan
    counts.var_names_make_unique()
    adata = build_section(
        counts.X[keep],
        counts.var[["gene_ids"]],
        table.drop(columns=list(_PLACES)).rename_axis(None),
        xy,
        sample=root.absolute().name if sample is None else sample,
        patient=patient,
        microns_per_pixel=mpp,
        spot_diameter_um=float(2 * np.sqrt(area / np.pi)) if area > 0 else None,
        image=image,
        thumbnail_px=thumbnail_px,
        check=check,
    )
    record_reading(adata, "read_xenium", aligned=matrix is not None, pixel_size_um=run_um)
    return adata


def _read_cells(root: Path) -> pd.DataFrame:
    """Positions (µm) of the cells, and areas and counts where they are, by name."""
    import pandas as pd

    path = find_file(root, _CELLS)
    if path is None:
        raise FileNotFoundError(
            f"expected {' or '.join(_CELLS)} in {root}; found {few(sorted(item.name for item in root.iterdir()), 8)}"
        )
    if path.suffix == ".parquet":
        table = read_parquet(path, "cells")
    else:
        table = parse_table(read_text(path, "cells"), path, "cells", dtype={"cell_id": str})
    check_columns(table, ("cell_id", *_PLACES), path)
    columns = [*_PLACES, *(name for name in _MORE if name in table)]
    kept: dict[str, Any] = {}
    for name in columns:
        gaps = table[name].isna() if name == _NUCLEUS else None  # a cell without a nucleus has no area of one
        column = numbers(table[name] if gaps is None else table[name].fillna(0))
        if column is None or not len(table):
            raise ValueError(f"expected numbers in {few(columns)} of {path}; found text, gaps or no line")
        kept[name] = column if gaps is None else column.astype(float).mask(gaps)
    names = [name.decode() if isinstance(name, bytes) else str(name) for name in table["cell_id"]]
    check_unique(names, f"cells in {path.name}")
    return pd.DataFrame(kept).set_axis(pd.Index(names, dtype=object), axis=0)


def _read_counts(root: Path) -> AnnData:
    path = next((root / name for name in _COUNTS if (root / name).exists()), None)
    if path is None:
        raise FileNotFoundError(
            f"expected {' or '.join(_COUNTS)} in {root}; found {few(sorted(item.name for item in root.iterdir()), 8)}"
        )
    return read_counts_mtx(path) if path.is_dir() else read_counts_h5(path)


def _find_image(root: Path) -> Path | None:
    found = sorted({path for pattern in _IMAGES for path in root.glob(pattern) if not path.name.startswith(".")})
    if len(found) > 1:
        raise ValueError(f"expected one H&E image in {root}; found {few(path.name for path in found)}; pass `image=`")
    return found[0] if found else None


def _matrix(alignment: str | Path | np.ndarray | None, image: Path, root: Path) -> np.ndarray:
    """Matrix (3, 3) from pixels of the image to those of the run."""
    where = "alignment"
    if alignment is None:
        found = sorted({path for folder in (image.parent, root) for path in folder.glob(_ALIGNMENT)})
        if len(found) != 1:
            raise FileNotFoundError(
                f"expected one file {_ALIGNMENT} beside {image} or in {root}; found "
                f"{few(path.name for path in found) or 'none'}; pass `alignment=`, or numpy.eye(3) where the image has the "
                "pixels of the run"
            )
        alignment = found[0]
    if isinstance(alignment, (str, Path)):
        where = str(alignment)
        if not Path(alignment).is_file():
            raise FileNotFoundError(f"expected the matrix of an alignment at {alignment}; found no file")
        rows = [row for row in csv.reader(read_text(Path(alignment), "a matrix").splitlines()) if row]
        try:
            matrix = np.array([[float(cell) for cell in row] for row in rows])
        except ValueError as error:
            raise ValueError(f"expected a matrix of 3 x 3 numbers in {where}; found {error}") from error
    else:
        matrix = np.asarray(alignment, dtype=float)
    usable = matrix.shape == (3, 3) and np.isfinite(matrix).all() and np.allclose(matrix[2], (0, 0, 1))
    if not usable or abs(np.linalg.det(matrix)) < 1e-12:
        raise ValueError(
            f"expected a matrix of 3 x 3 numbers in {where} that ends with 0, 0, 1 and can be inverted; found "
            f"{_shown(matrix)}; export it from Xenium Explorer again"
        )
    return matrix


def _shown(matrix: Any) -> str:
    return f"{matrix.tolist()}" if matrix.size <= 9 else f"an array of shape {matrix.shape}"


def _scale(linear: np.ndarray) -> float | tuple[float, float]:
    """µm per pixel of an image, from the matrix (2, 2) that takes its pixels to µm; along x and y where they differ."""
    x, y = np.linalg.norm(linear, axis=0)
    if max(x, y) <= SQUARE * min(x, y):
        return float(np.sqrt(abs(np.linalg.det(linear))))
    return float(x), float(y)
