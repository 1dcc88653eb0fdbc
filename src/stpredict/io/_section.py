"""What the readers share: the AnnData of one section, and the AnnData of many."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_counts, check_finite, check_positive, check_unique, few
from stpredict.io._check_positions import UNCHECKED, check_positions
from stpredict.io._placement import stretched
from stpredict.io._square_pixels import source_scale, square_pixels
from stpredict.slots._keys import Key, escaped
from stpredict.slots._matrix import check_float32, numeric_matrix
from stpredict.slots._provenance import write_record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

THUMBNAIL_PX = 1500
logger = logging.getLogger(__name__)
READ = "read"


def build_section(
    counts: Any,
    var: pd.DataFrame,
    obs: pd.DataFrame,
    xy: np.ndarray,
    *,
    sample: str,
    patient: str | None,
    microns_per_pixel: float | tuple[float, float],
    spot_diameter_um: float | None = None,
    image: Any = None,
    images: dict[str, np.ndarray] | None = None,
    scalefactors: dict[str, float] | None = None,
    metadata: Mapping[str, str] | None = None,
    thumbnail_px: int = THUMBNAIL_PX,
    measured: bool = True,
    raw: bool = True,
    check: bool = True,
) -> AnnData:
    """Check and assemble one section.

    Parameters
    ----------
    counts
        (n, G) whole numbers, dense or sparse; any numbers where they are not `raw`.
    var, obs
        One row per gene and one per spot, with unique names.
    xy
        (n, 2) x and y in pixels of the image.
    sample, patient
        Names for `obs`; without a patient the column is left out, because a guess would break splits by patient.
    microns_per_pixel
        µm per pixel of the image; along x and along y where its pixels are not square. Everything in the object is then in
        square pixels, as fine as the finer side, and the image is stretched to them wherever it is read.
    spot_diameter_um
        Diameter of a spot in µm.
    image
        Path or array of the full-resolution image.
    images, scalefactors
        Entry of the platform for `uns["spatial"][sample]`; a thumbnail is added where `hires` is missing.
    metadata
        More of that entry, such as the path of a slide that is not opened here.
    thumbnail_px
        Longest side of that thumbnail in pixels.
    measured
        Whether the counts were measured, for `obs["measured"]`.
    raw
        Whether they are raw counts, which are kept in `layers["counts"]` as well.
    check
        Whether to compare the positions with the tissue in the image; where not, it is noted in the metadata.
    """
    from anndata import AnnData
    from scipy import sparse

    if len(obs) == 0:
        raise ValueError(f"expected at least one spot in section {sample!r}; found none")
    check_unique(obs.index, f"spots of section {sample!r}")
    check_unique(var.index, f"genes of section {sample!r}")
    xy = np.asarray(xy, dtype=float)
    check_finite(xy, f"positions of section {sample!r}", "drop these spots or correct their positions")
    counts = numeric_matrix(counts, f"counts of section {sample!r}")
    if raw:
        check_counts(counts, f"counts of section {sample!r}")
    check_float32(counts, f"counts of section {sample!r}")
    images, scalefactors = dict(images or {}), dict(scalefactors or {})
    scalefactors |= square_pixels(microns_per_pixel)
    scale = source_scale(scalefactors)
    xy = xy * scale
    if spot_diameter_um is not None:
        diameter = check_positive(spot_diameter_um, "the spot diameter")
        scalefactors["spot_diameter_fullres"] = diameter / scalefactors["microns_per_pixel"]
    metadata = dict(metadata or {})
    if image is not None:
        picture = stretched(image, scale)
        check_positions(xy, picture, sample, check=check)
        if "hires" not in images:
            images["hires"], scalefactors["tissue_hires_scalef"] = picture.thumbnail(thumbnail_px)
        if isinstance(image, (str, Path)):
            metadata["source_image_path"] = os.path.abspath(image)
        picture.close()
    if not check:
        metadata[UNCHECKED] = "true"

    obs = obs.assign(**{Key.SAMPLE: _constant(sample, len(obs))})
    if patient is not None:
        obs[Key.PATIENT] = _constant(str(patient), len(obs))
    note_patient(Key.PATIENT in obs, f"section {sample!r}")
    obs[Key.MEASURED] = np.full(len(obs), measured)
    dense = not raw and not sparse.issparse(counts)  # normalized values are seldom 0, and may be missing
    matrix = np.asarray(counts, dtype=np.float32) if dense else sparse.csr_matrix(counts, dtype=np.float32)
    adata = AnnData(matrix, obs=obs, var=var)
    if raw:
        adata.layers[Key.COUNTS] = adata.X.copy()
    adata.obsm[Key.SPATIAL] = xy
    adata.uns["spatial"] = {escaped(sample): {"images": images, "scalefactors": scalefactors, "metadata": metadata}}
    return adata


def join_sections(sections: Sequence[AnnData]) -> AnnData:
    """Put sections into one AnnData: the union of their genes in sorted order, zero where a section lacks a gene."""
    import anndata
    import pandas as pd

    adata = anndata.concat(sections, join="outer", fill_value=0) if len(sections) > 1 else sections[0]
    adata = adata[:, np.sort(adata.var_names.to_numpy(dtype=str))].copy()
    if any(section.var.shape[1] for section in sections):
        genes = pd.concat([section.var for section in sections])
        adata.var = genes[~genes.index.duplicated()].loc[adata.var_names]
    for name, column in adata.obs.items():
        if column.dtype == object:
            adata.obs[name] = pd.Categorical(column)
    adata.uns["spatial"] = {name: entry for section in sections for name, entry in section.uns["spatial"].items()}
    return adata


def note_patient(named: bool, what: str = "section") -> None:
    """Note at reading, before minutes of features, that nobody is named: splits are by patient. Nothing is wrong yet."""
    if not named:
        logger.warning(
            "the %s names no patient: training and scores split by patient, so pass `patient=` here, or set "
            "obs['patient'] before stp.tl.fit",
            what,
        )


def record_reading(adata: AnnData, reader: str, **entry: Any) -> None:
    """Note in `uns["stpredict"]["read"]` which reader made the object and what it assumed."""
    write_record(adata, READ, {"reader": reader, **entry})


def check_folder(path: str | Path, call: str) -> Path:
    """Return the folder as a `Path`, or say that it is missing."""
    folder = Path(path)
    if not folder.is_dir():
        what = "a file" if folder.exists() else "nothing"
        raise FileNotFoundError(f"expected a folder at {folder}; found {what}; {call}")
    return folder


def check_joined(
    known: np.ndarray,
    names: Iterable[Any],
    others: Iterable[Any],
    what: str,
    lacking: str,
    call: str,
    *,
    most: bool = False,
) -> None:
    """Say how many of some names found no partner in another table, and raise an error when none did.

    Parameters
    ----------
    known
        (n,) bool, whether a name has a partner.
    names, others
        The names, and those of the other table, of which messages show the first.
    what, lacking
        What the names are, and what they lack.
    call
        What to do.
    most
        Whether most must have a partner, as where one program wrote both tables.
    """
    lost = int((~known).sum())
    if not lost and len(known):
        return
    lonely = few((name for name, has in zip(names, known, strict=True) if not has), 3)
    if lost == len(known):
        raise ValueError(
            f"expected {what} among those with a {lacking}; found none: {lonely or 'no barcodes'} and "
            f"{few(others, 3) or 'no barcodes'}; {call}"
        )
    if most and 2 * lost > len(known):
        raise ValueError(
            f"expected a {lacking} for most {what}; found none for {lost} of {len(known)} ({lonely}); {call}"
        )
    warnings.warn(
        f"{lost} of {len(known)} {what} have no {lacking} and are left out ({lonely}); {call}",
        UserWarning,
        stacklevel=3,
    )


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a file of a folder, or a folder between, is hidden; a Mac leaves `._name` beside every file it copies."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.relative_to(folder).parts)


def _constant(name: str, n: int) -> Any:
    import pandas as pd

    return pd.Categorical([name] * n, categories=[name])
