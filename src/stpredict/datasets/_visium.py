"""Visium sections that 10x Genomics published, with their full-resolution pictures."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict.core._settings import settings
from stpredict.datasets._fetch import Remote, Source, credit, fetch
from stpredict.io import read_visium

if TYPE_CHECKING:
    from anndata import AnnData

_ADDRESS = "https://exampledata.scverse.org/squidpy/10x_genomics"
_SECTIONS = {  # patient; hashes of counts, positions and picture, as in the registry of squidpy
    "V1_Breast_Cancer_Block_A_Section_1": (
        "Block_A",
        "b3cbb6ead60afad848ebcc07a34835613d9d2d79e416ad8300b210d9de584b65",
        "415530a9d31172f63fd358d5d1cefb0798698ef9c0e614f52825894cd45c61bf",
        "73a94ca956d1b5c027dcaf1ac42c15fed4d4a12eefee4b4b597e62f34cc5959e",
    ),
    "V1_Breast_Cancer_Block_A_Section_2": (
        "Block_A",
        "e325b4e53f0036a71904cea6b7cd65945f10c25cf2ef8e2f681de9ac1ff7766c",
        "15fcf837478bcba847b50e393b016f95f02067ea930e81f96b103f2a14bf6db0",
        "1ad96042cba8e05b22566ef5b8197714e06d4a5e98d040e926c8591ffdb48cc7",
    ),
}


def visium(
    sample: str = "V1_Breast_Cancer_Block_A_Section_1",
    *,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> AnnData:
    """Fetch a Visium section of a breast cancer by 10x Genomics, and read it.

    Counts, positions and the full-resolution picture come from the copy that scverse keeps for squidpy
    :cite:p:`palla2022`, are checked by the hashes of its registry, and are kept.

    Parameters
    ----------
    sample
        `"V1_Breast_Cancer_Block_A_Section_1"`, or `…_2`, a section of the same patient.
    folder
        Where files are kept, or were put by hand; `datasets/visium` in `stp.settings.cache_dir` when `None`.
    progress
        Whether to show a bar per file; as in the settings when `None`.

    Returns
    -------
    AnnData of :func:`stpredict.io.read_visium`, with `obs["patient"]`.

    Raises
    ------
    ValueError
        When the section is unknown, or a file has another content than was recorded.
    FileNotFoundError
        When a file is not there and cannot be fetched. The message says which files to put where.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.visium()  # doctest: +SKIP
    """
    if sample not in _SECTIONS:
        raise ValueError(
            f"expected one of {', '.join(_SECTIONS)}; found {sample!r}; squidpy.datasets.visium fetches others: read what it leaves "
            "with stp.io.read_visium(folder)"
        )
    patient, *hashes = _SECTIONS[sample]
    source = Source(sample, "CC BY 4.0", "10x Genomics, Spatial Gene Expression datasets, Space Ranger 1.1.0")
    place = (Path(folder) if folder is not None else settings.cache_dir / "datasets" / "visium") / sample
    names = ("filtered_feature_bc_matrix.h5", "spatial.tar.gz", "image.tif")
    files = {
        name: Remote(f"{_ADDRESS}/{sample}/{sample}_{name}", sha256) for name, sha256 in zip(names, hashes, strict=True)
    }
    paths = fetch(files, place, source, progress=progress)
    if not (place / "spatial" / "scalefactors_json.json").is_file():
        with tarfile.open(paths["spatial.tar.gz"]) as archive:
            archive.extractall(place, filter="data")
    adata = read_visium(place, sample, patient, image=paths["image.tif"])
    credit(adata, source)
    return adata
