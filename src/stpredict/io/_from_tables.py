"""One section from tables of counts and positions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_positive, check_unique, few
from stpredict.io._lattice import Lattice, long_lattice, pitch_px
from stpredict.io._section import THUMBNAIL_PX, build_section, check_joined, record_reading
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._matrix import dense_matrix
from stpredict.slots._provenance import write_record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def from_tables(
    counts: pd.DataFrame | AnnData | None,
    positions: pd.DataFrame,
    image: str | Path | np.ndarray | None = None,
    *,
    microns_per_pixel: float | tuple[float, float] | None = None,
    sample: str = "sample",
    patient: str | None = None,
    pitch_um: float | None = None,
    lattice: Lattice = "square",
    spot_diameter_um: float | None = None,
    normalized: bool = False,
    thumbnail_px: int = THUMBNAIL_PX,
    check: bool = True,
) -> AnnData:
    """Make the AnnData of one section from counts, positions and an image.

    Counts and positions are joined by barcode, whatever their order; spots that lack either are left out. Values that are no
    expression (scores, fractions, proteins) need no counts: put them into a slot afterwards,
    `adata.obsm["scores"] = scores.reindex(adata.obs_names)`, and predict them as `target="scores"`.

    Parameters
    ----------
    counts
        Raw counts, spots × genes, as a DataFrame indexed by barcode or an AnnData (`layers["counts"]` where it exists,
        else `X`; its `obs` and `var` columns are kept). `None` stands for a section without expression, which has no genes.
    positions
        Positions, a DataFrame indexed by barcode with the columns `x` and `y` in full-resolution pixels, and optionally
        `array_row` and `array_col`.
    image
        Full-resolution image as a path, which is remembered, or an array (height, width, 3), of which only a thumbnail
        is kept.
    microns_per_pixel
        µm per full-resolution pixel; a pair, along x and along y, where pixels are not square: positions are then turned into
        square pixels as fine as the finer side, and the image is stretched to them wherever it is read.
    sample
        Name of the section.
    patient
        Name of the patient; `obs["patient"]` is left out when `None`, and splits by patient then raise an error.
    pitch_um
        Distance of neighboring spots in µm, from which, with `array_row` and `array_col`, the µm per pixel are derived.
    lattice
        Kind of lattice for `pitch_um`: `"square"` or `"hexagonal"` (Visium; `"hex"` for short).
    spot_diameter_um
        Diameter of a spot in µm.
    normalized
        Whether `counts` hold expression that is normalized already, such as an object that scanpy has normalized: it stays
        as it is in `X` (of an AnnData, whatever its layers), and there are no raw counts. Scores then come without noise
        ceiling and without depth.
    thumbnail_px
        Longest side of the thumbnail in pixels.
    check
        Whether to refuse positions that lie clearly better on the tissue with x and y exchanged; pass `False` where
        they are right all the same. :func:`stpredict.pp.image_features` and others do not refuse them then either.

    Returns
    -------
    AnnData in the order of the counts, or of the positions without counts, with

    - `X` and `layers["counts"]`: counts, sparse float32; of normalized values `X` alone
    - `obs["sample"]`, `obs["patient"]` where given, `obs["measured"]` (whether counts were given), `obs["array_row"]`
      and `obs["array_col"]` where given
    - `obsm["spatial"]`: x and y in full-resolution pixels
    - `uns["spatial"][sample]`: thumbnail `hires`, `tissue_hires_scalef`, `spot_diameter_fullres` where known,
      `microns_per_pixel`, `source_image_path`
    - `uns["stpredict"]["read"]`: reader and lattice

    Raises
    ------
    TypeError
        When `counts` or `positions` are of another type.
    KeyError
        When `positions` lack a column.
    ValueError
        When barcodes repeat or have nothing in common, positions are no finite numbers, counts are negative or
        fractional, the µm per pixel are unknown, spots lie outside the image or look transposed, or the image is
        damaged.
    FileNotFoundError
        When there is no image at the path.

    Warns
    -----
    UserWarning
        When some barcodes of the counts have no position and are left out.
        When the image of a section is gray, uses fewer bits than its values have, or is resampled; once per section.

    Examples
    --------
    >>> import pandas as pd
    >>> import stpredict as stp
    >>> counts = pd.DataFrame({"ERBB2": [5, 0], "GNAS": [1, 2]}, index=["a", "b"])
    >>> positions = pd.DataFrame({"x": [10.0, 30.0], "y": [20.0, 20.0]}, index=["b", "a"])
    >>> adata = stp.io.from_tables(counts, positions, microns_per_pixel=0.5, patient="P1")
    >>> adata.obsm["spatial"].tolist()
    [[30.0, 20.0], [10.0, 20.0]]
    """
    import pandas as pd
    from anndata import AnnData

    if not isinstance(positions, pd.DataFrame):
        raise TypeError(f"expected positions as a DataFrame indexed by barcode; found {type(positions).__name__}")
    missing = [name for name in ("x", "y") if name not in positions]
    if missing:
        raise KeyError(
            f"expected the columns x and y (pixels) in positions; missing {', '.join(missing)}; "
            f"found {few(positions.columns, 8)}"
        )
    arrays = [name for name in (Key.ARRAY_ROW, Key.ARRAY_COL) if name in positions]
    columns = {name: _plain(positions, name) for name in ["x", "y", *arrays]}
    gaps = np.any([np.isnan(values) for values in columns.values()], axis=0)
    if gaps.any():
        bad = positions.index[gaps]
        raise ValueError(f"expected positions without gaps; found NaN for {few(bad)}; drop these spots")
    positions = positions.assign(**columns)[list(columns)]
    check_unique(positions.index, "barcodes in positions")

    if counts is None:
        values, var = np.zeros((len(positions), 0), dtype=np.float32), pd.DataFrame(index=pd.Index([], dtype=str))
        obs = pd.DataFrame(index=positions.index)
    elif isinstance(counts, AnnData):
        table = get_table(counts)
        values = table.X if normalized else table.layers.get(Key.COUNTS, table.X)
        var, obs = table.var.copy(), table.obs.copy()
    elif isinstance(counts, pd.DataFrame):
        text = [name for name, dtype in counts.dtypes.items() if dtype.kind not in "iufb"]
        if text:
            raise ValueError(f"expected numbers in counts; found other values in the columns {few(text)}")
        values, var, obs = _counts_of(counts), pd.DataFrame(index=counts.columns), pd.DataFrame(index=counts.index)
    else:
        raise TypeError(f"expected counts as a DataFrame, an AnnData or None; found {type(counts).__name__}")
    if values is None:
        raise ValueError("expected counts in layers['counts'] or X of the AnnData; found none; pass None if unmeasured")
    check_unique(obs.index, "barcodes in counts")
    obs.index, positions = obs.index.astype(str), positions.set_axis(positions.index.astype(str))
    var.index = var.index.astype(str)
    place = positions.index.get_indexer(obs.index)
    keep = np.flatnonzero(place >= 0)
    check_joined(
        place >= 0, obs.index, positions.index, "barcodes of the counts", "position",
        "check that both tables belong to the same section, or cut the counts to it",
    )  # fmt: skip
    obs, table = obs.iloc[keep].copy(), positions.iloc[place[keep]]

    if microns_per_pixel is None:
        if pitch_um is None or len(arrays) < 2:
            raise ValueError(
                "expected the µm per pixel; found neither it nor a lattice to derive it from; pass `microns_per_pixel=`, "
                "or `pitch_um=` and positions with array_row and array_col"
            )
        row, col = positions[Key.ARRAY_ROW].to_numpy(), positions[Key.ARRAY_COL].to_numpy()
        pixels = pitch_px(row, col, positions[["x", "y"]].to_numpy(dtype=float), lattice)
        microns_per_pixel = check_positive(pitch_um, "pitch_um") / pixels
    for name in arrays:
        obs[name] = table[name].to_numpy()
    adata = build_section(
        values[keep],
        var,
        obs,
        table[["x", "y"]].to_numpy(dtype=float),
        sample=sample,
        patient=patient,
        microns_per_pixel=microns_per_pixel,
        spot_diameter_um=spot_diameter_um,
        image=image,
        thumbnail_px=thumbnail_px,
        measured=counts is not None,
        raw=not normalized or counts is None,
        check=check,
    )
    if normalized and counts is not None:
        if isinstance(counts, AnnData) and "log1p" in counts.uns:
            adata.uns["log1p"] = dict(counts.uns["log1p"])
        else:
            write_record(adata, "normalize", {"method": "given"})
    record_reading(
        adata, "from_tables", lattice=long_lattice(lattice) if pitch_um is not None else None, pitch_um=pitch_um
    )
    return adata


def _plain(positions: pd.DataFrame, name: str) -> np.ndarray:
    """Column of numbers, whatever type holds them; whole numbers stay whole."""
    column = positions[name]
    if column.dtype.kind not in "iuf":
        raise ValueError(f"expected numbers in positions[{name!r}]; found {column.dtype}")
    if column.dtype.kind in "iu" and not column.isna().any():
        return column.to_numpy(dtype=np.int64)
    return column.to_numpy(dtype=np.float64, na_value=np.nan)


def _counts_of(counts: pd.DataFrame) -> Any:
    """Matrix of a DataFrame, sparse where all of its columns are."""
    import pandas as pd

    if counts.shape[1] and all(isinstance(dtype, pd.SparseDtype) for dtype in counts.dtypes):
        accessor: Any = counts.sparse
        return accessor.to_coo().tocsr()
    return dense_matrix(counts, "counts")
