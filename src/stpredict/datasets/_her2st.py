"""HER2-positive breast cancer sections, from where their authors keep them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict.core._settings import settings
from stpredict.core._validate import check_unique, few
from stpredict.datasets._fetch import Remote, Source, credit, fetch
from stpredict.io import read_her2st

if TYPE_CHECKING:
    from anndata import AnnData

_ADDRESS = "https://raw.githubusercontent.com/almaan/her2st/85df7411b987a7dec3feff9718b869a7a82091ec"
_SOURCE = Source(
    "her2st",
    "public, without a stated license",
    "Andersson et al. 2021, Nature Communications 12, 6012, doi:10.1038/s41467-021-26271-2",
)
_SECTIONS = {  # picture in the repository; hashes of counts, spots and picture
    "B4": (
        "B/B4/BT10737_D2_HE.jpg",
        "e38231c2a38c9bc7e6d550eec0e527c1869ee0e525fc913e708d1323c34f5ebb",
        "192b46f3ca414c85753a01a4fb5760a697ca6c0a1aadb949c4687cc6efa9faa0",
        "3cb165614ce2a13426381e450220dccac980cc9bda6a90fb041c28ca0e2c753d",
    ),
    "C2": (
        "C/C2/5714_HE_BT_C2.jpg",
        "c1c59ea6cffae36b9ecb561b8e2a97e3aa5f4085f748e991a0e330ed9d09773d",
        "235b5f4306b3b57c628ffc82c98c7109602474fbcc79a917b9c50517f99b6b1c",
        "26e2f73ae840cdd46c5bba405aae181f13a56a376b9848dff23f7a9c5de7f19e",
    ),
    "C3": (
        "C/C3/5714_HE_BT_D1.jpg",
        "e00c55a3eb9caac5d9c71b8906aae8be8b38f93e23938f4a0ebee17683ef6a2a",
        "7fd76c13370b7804ac3bb377b846d22485cf9223f9dd8dfc25be06e5aaf65755",
        "0005a92674014d473040a28f0afca89ce5fa5c44019b479b638ceb3272ceb568",
    ),
    "C4": (
        "C/C4/5714_HE_BT_D2.jpg",
        "33201f76d41d7131dc600a0f87d9a70383af3503e81698b4d11e6f2e8d73e9da",
        "47e79f3b9dbfa3a8c18af9e948ba7ba4bf0a75ea1b4c292bc714ced7d0917d4c",
        "f40607eb1d5f0d125decd71c48b0c5d29cf6776ad92297fd185631208c82d6f2",
    ),
    "C5": (
        "C/C5/5714_HE_BT_E1.jpg",
        "c0f310315ca6110d74dbdf7011e5b42432ba0b8eb5f001824764911988f39338",
        "2114cc3b4da759772112897f1e247d5443c9f8c808e6a9a952eb4fda379a194c",
        "34028ea41e376396b50c42b0a11a7e689c85be4a8022e668d0a09cc128c04c65",
    ),
}


def her2st(
    sections: str | Sequence[str] = ("B4", "C2", "C3", "C4", "C5"),
    *,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> AnnData:
    """Fetch sections of two HER2-positive breast tumors :cite:p:`andersson2021`, and read them.

    Counts, positions and full-resolution pictures come from the repository of the authors, are checked by their hashes, and are
    kept. The license and what to cite are printed, and stay in `uns["stpredict"]["dataset"]`.

    Parameters
    ----------
    sections
        Some of B4 of one patient, and C2 to C5 of another; about 5 MB each.
    folder
        Where files are kept, or were put by hand; `datasets/her2st` in `stp.settings.cache_dir` when `None`.
    progress
        Whether to show a bar per file; as in the settings when `None`.

    Returns
    -------
    AnnData of :func:`stpredict.io.read_her2st`.

    Raises
    ------
    ValueError
        When a section is unknown, or a file has another content than was recorded.
    FileNotFoundError
        When a file is not there and cannot be fetched. The message says which files to put where.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.her2st(["B4", "C2"])  # doctest: +SKIP
    """
    names = [sections] if isinstance(sections, str) else list(sections)
    check_unique(names, "sections")
    if unknown := [name for name in names if name not in _SECTIONS] or ([] if names else ["none"]):
        raise ValueError(
            f"expected sections among {', '.join(_SECTIONS)}; found {few(unknown)}; the others of the study have no full-resolution "
            "picture at this address: download them, and call stp.io.read_her2st(folder)"
        )
    files = {}
    for name in names:
        picture, counts, spots, image = _SECTIONS[name]
        files[f"counts/{name}.tsv.gz"] = Remote(f"{_ADDRESS}/data/ST-cnts/{name}.tsv.gz", counts)
        files[f"spots/{name}_selection.tsv"] = Remote(f"{_ADDRESS}/data/ST-spotfiles/{name}_selection.tsv", spots)
        files[f"images/{name}.jpg"] = Remote(f"{_ADDRESS}/data/ST-imgs/{picture}", image)
    place = Path(folder) if folder is not None else settings.cache_dir / "datasets" / "her2st"
    fetch(files, place, _SOURCE, progress=progress)
    adata = read_her2st(place, names)
    credit(adata, _SOURCE)
    return adata
