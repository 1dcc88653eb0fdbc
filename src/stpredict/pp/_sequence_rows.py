"""Rows of genes from what a network of DNA says of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_unique, few
from stpredict.slots._checks import check_obsm
from stpredict.slots._keys import Key
from stpredict.slots._matrix import single_precision
from stpredict.slots._provenance import read_record
from stpredict.slots._unit import unit_of

if TYPE_CHECKING:
    from anndata import AnnData

_CALL = "run stp.tl.gene_descriptors(genes, model), and pass descriptors=genes"


def sequence_rows(
    descriptors: AnnData | None, genes: Sequence[str], record: dict[str, Any]
) -> tuple[np.ndarray, dict[str, Any]]:
    """Descriptors (n_genes, d) float32 of genes, NaN for those that are not described, and the record of the table."""
    if descriptors is None or not hasattr(descriptors, "obsm") or unit_of(descriptors) != "gene":
        found = "none" if descriptors is None else type(descriptors).__name__
        raise ValueError(f"expected descriptors= as a table whose rows are genes; found {found}; {_CALL}")
    key = Key.DESCRIPTORS
    check_obsm(descriptors, key, _CALL)
    said = read_record(descriptors, key)
    if said is None or "hash" not in said:
        raise KeyError(f"expected the record of obsm[{key!r}], which says of which network it is; found none; {_CALL}")
    check_unique(descriptors.obs_names, "genes of the descriptors")
    values = single_precision(descriptors.obsm[key], f"obsm[{key!r}] of the descriptors")
    at = descriptors.obs_names.get_indexer(list(genes))
    if (at < 0).all():
        raise ValueError(
            f"expected descriptors of the genes ({few(genes)}); found none of these among {few(descriptors.obs_names)}; name the "
            "genes the same way"
        )
    rows = np.where(at[:, None] >= 0, values[np.maximum(at, 0)], np.float32(np.nan))
    column = Key.seen(key)
    seen = (
        descriptors.obs[column].to_numpy(dtype=bool)[at[at >= 0]]
        if column in descriptors.obs
        else np.ones(0, dtype=bool)
    )
    record |= {"encoder": str(said["model"]), "hash": str(said["hash"]), "n_seen": int(seen.sum())}
    return rows, record
