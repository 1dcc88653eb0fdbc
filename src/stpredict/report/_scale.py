"""Counts that nobody has normalized, on the scale of a prediction."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict.slots._features import is_tile_table
from stpredict.slots._prediction import main_predictions
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    from anndata import AnnData


def normalize_like(adata: AnnData, method: str | None = None) -> None:
    """Normalize the counts of an object where there is no record of it.

    Parameters
    ----------
    adata
        Object; changed where it has measured genes.
    method
        Method of :func:`stpredict.pp.normalize`; that of the prediction in the object when `None`, or else its default.
    """
    import stpredict as stp

    if not adata.n_vars or is_tile_table(adata) or read_record(adata, "normalize") is not None:
        return
    units = [(read_record(adata, key) or {}).get("unit") for key in main_predictions(adata)]
    known = [unit["method"] for unit in units if isinstance(unit, dict) and "method" in unit]
    stp.pp.normalize(adata, method=method or next(iter(known), None))  # type: ignore[arg-type]
