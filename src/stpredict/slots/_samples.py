"""Samples and quantiles of a prediction: in the object beside it, or in a Zarr group that its record names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import few
from stpredict.slots._keys import Key
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Samples:
    """Samples of all observations, read some rows at a time.

    Attributes
    ----------
    values
        (n_obs, n_samples, n_genes), in memory or not.
    rows
        (n_obs,) where in `values` each observation of the object is.
    genes
        Names along the last axis.
    """

    values: Any
    rows: np.ndarray
    genes: Sequence[str]

    @property
    def n_samples(self) -> int:
        """Samples of each observation."""
        return int(self.values.shape[1])

    def read(self, rows: np.ndarray, genes: Sequence[str] | None = None) -> np.ndarray:
        """Samples (k, n_samples, n_genes) of some rows of the object."""
        rows = self.rows[rows]
        found = self.values[rows] if isinstance(self.values, np.ndarray) else self.values.oindex[rows]
        if genes is None or list(genes) == list(self.genes):
            return np.asarray(found)
        place = {name: number for number, name in enumerate(self.genes)}
        return np.asarray(found)[:, :, [place[name] for name in genes]]


def samples_of(adata: AnnData, key: str) -> Samples | None:
    """Samples of a prediction; `None` where it has none, or those of its record are no longer where it says.

    Raises
    ------
    ValueError
        When there are samples that are not those of the prediction: of other genes, or, in a store, of other observations.
    """
    genes = [str(name) for name in prediction_frame(adata, key).columns]
    slot = Key.samples(key)
    if slot in adata.obsm:
        return Samples(_checked(adata, slot, len(genes), key), np.arange(adata.n_obs), genes)
    record = read_record(adata, key) or {}
    path = record.get("store")
    if not record.get("n_samples") or path is None or not (Path(str(path)) / "zarr.json").is_file():
        return None
    import pandas as pd
    import zarr

    group: Any = zarr.open_group(str(path), mode="r")
    if list(group.attrs["genes"]) != genes:
        raise ValueError(_others(key, f"the genes {few(group.attrs['genes'])} in {path}"))
    rows = pd.Index(group.attrs["obs_names"]).get_indexer(adata.obs_names)
    if (rows < 0).any():
        raise ValueError(_others(key, f"{int((rows < 0).sum())} observations without any in {path}"))
    return Samples(group["samples"], rows, genes)


def quantiles_of(adata: AnnData, key: str, levels: Sequence[float]) -> np.ndarray:
    """Quantiles (n_obs, n_levels, n_genes) of the samples of a prediction: those that were written, or of the samples.

    Raises
    ------
    KeyError
        When there are neither.
    """
    from stpredict.metrics import sample_quantiles

    written = np.atleast_1d(np.asarray((read_record(adata, key) or {}).get("quantiles", []), dtype=np.float64))
    slot = Key.quantiles(key)
    if slot in adata.obsm and written.size:
        near = np.abs(written[None] - np.asarray(levels)[:, None])
        if (near.min(axis=1) < 1e-9).all():
            n_genes = prediction_frame(adata, key).shape[1]
            return _checked(adata, slot, n_genes, key)[:, near.argmin(axis=1)]
    samples = samples_of(adata, key)
    if samples is None:
        told = few(f"{level:g}" for level in levels)
        found = few(f"{level:g}" for level in written) if slot in adata.obsm else "none"
        raise KeyError(
            f"expected the quantiles {told} of obsm[{key!r}], or samples to take them of; found {found}; call "
            f"stp.tl.predict with n_samples= and quantiles=[{told}]"
        )
    return sample_quantiles(samples.read(np.arange(adata.n_obs)), levels)


def joined_samples(parts: Mapping[str, AnnData], key: str, genes: Sequence[str]) -> dict[str, np.ndarray]:
    """Samples and quantiles of a prediction of several objects, by slot, where all of them have as many."""
    import pandas as pd

    found = {}
    for slot in (Key.samples(key), Key.quantiles(key)):
        if any(slot not in part.obsm for part in parts.values()):
            continue
        if len({part.obsm[slot].shape[1] for part in parts.values()}) > 1:
            continue
        arrays = []
        for part in parts.values():
            columns = prediction_frame(part, key).columns
            values = _checked(part, slot, len(columns), key)
            at = columns.get_indexer(pd.Index(list(genes)))
            arrays.append(np.where(at >= 0, values[:, :, np.maximum(at, 0)], np.float32(np.nan)))
        found[slot] = np.concatenate(arrays)
    return found


def _checked(adata: AnnData, slot: str, n_genes: int, key: str) -> np.ndarray:
    values = np.asarray(adata.obsm[slot])
    if values.ndim != 3 or values.shape[2] != n_genes:
        raise ValueError(_others(key, f"an array of shape {values.shape} in obsm[{slot!r}] for {n_genes} genes"))
    return values


def _others(key: str, found: str) -> str:
    return f"expected the samples of the prediction in obsm[{key!r}]; found {found}; predict again, or delete them"
