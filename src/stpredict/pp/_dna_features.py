"""What the ridge and other networks on features read of the DNA of genes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._checks import check_obsm
from stpredict.slots._container import begin
from stpredict.slots._content import seal_features
from stpredict.slots._keys import Key, check_key
from stpredict.slots._matrix import single_precision
from stpredict.slots._provenance import write_record
from stpredict.slots._sequences import UNKNOWN_BASE, sequence_codes
from stpredict.slots._unit import check_chromosomes

if TYPE_CHECKING:
    from stpredict.slots._container import Container

_CHUNK = 256  # genes at a time
_LARGEST = 6


def dna_features(
    data: Container,
    k: int | None = 3,
    *,
    n_windows: int = 1,
    key_added: str = "X_dna",
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Write shares of short words in the DNA of genes, or the mean of their windows, as features like any other.

    They are what a network of DNA has to beat: fit `"ridge"` to them, on the same folds.

    Parameters
    ----------
    data
        Table whose rows are genes.
    k
        Length of the words, between 1 and 6; `None` for the mean of `obsm["sequence_features"]` over its windows instead.
    n_windows
        Parts of each sequence, from 5' to 3', that words are counted in.
    key_added
        Name of the slot.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obsm[key_added]`: (n_genes, n_windows · 4ᵏ) float32, the share of each word among those without an unknown base, or
      (n_genes, d);
    - `uns["stpredict"][key_added]`: how they were made.

    Raises
    ------
    KeyError
        When there are no sequences, or no windows.
    ValueError
        When a number is out of range.

    Examples
    --------
    >>> import stpredict as stp
    >>> genes = stp.datasets.synthetic_genes(n_genes=20, width=128)
    >>> stp.pp.dna_features(genes, 2, n_windows=4)
    >>> genes.obsm["X_dna"].shape
    (20, 64)
    """
    check_key(key_added)
    container, adata = begin(data, copy, table_key)
    check_chromosomes(adata, Key.CHROM)
    if k is None:
        check_obsm(adata, Key.SEQUENCE_FEATURES, "put features (n_genes, n_windows, d) there, or count words with k=3")
        windows = single_precision(adata.obsm[Key.SEQUENCE_FEATURES], f"obsm[{Key.SEQUENCE_FEATURES!r}]")
        values, made = windows.mean(axis=1, dtype=np.float64).astype(np.float32), {"encoder": "mean of windows"}
    else:
        for name, number, top in (("k", k, _LARGEST), ("n_windows", n_windows, 10**6)):
            if isinstance(number, bool) or int(number) != number or not 1 <= number <= top:
                raise ValueError(f"expected {name} to be a whole number between 1 and {top}; found {number!r}")
        parts = [
            _shares(sequence_codes(adata, np.arange(start, min(start + _CHUNK, adata.n_obs))), int(k), int(n_windows))
            for start in range(0, adata.n_obs, _CHUNK)
        ]
        values, made = np.concatenate(parts), {"encoder": f"words of {k} bases in {n_windows} windows"}
    adata.obsm[key_added] = values
    chrom = adata.obs[Key.CHROM].astype(str).to_numpy()
    write_record(adata, key_added, {**made, "dim": values.shape[1], **seal_features(values, chrom)})
    return container if copy else None


def _shares(codes: np.ndarray, k: int, n_windows: int) -> np.ndarray:
    """Shares (n, n_windows · 4ᵏ) of the words of codes (n, length); 0 where a window holds none."""
    n, length = codes.shape
    if length // n_windows < k:
        raise ValueError(f"expected windows of at least k={k} bases; found {n_windows} windows in {length} bases")
    views = np.lib.stride_tricks.sliding_window_view(codes, k, axis=1)
    word = (np.minimum(views, 3).astype(np.int64) * 4 ** np.arange(k)[::-1]).sum(axis=2)
    known = (views < UNKNOWN_BASE).all(axis=2)
    window = np.arange(word.shape[1]) * n_windows // word.shape[1]
    place = (np.arange(n)[:, None] * n_windows + window) * 4**k + word
    counts = np.bincount(place[known], minlength=n * n_windows * 4**k).reshape(n, n_windows, 4**k).astype(np.float64)
    return (counts / np.maximum(counts.sum(axis=2, keepdims=True), 1)).reshape(n, -1).astype(np.float32)
