"""Bags of tokens of each slide."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._file_rows import FileBags, FileRows, read_rows, rows_in_file
from stpredict.core._validate import check_finite
from stpredict.slots._checks import check_obsm
from stpredict.slots._keys import Key
from stpredict.slots._matrix import single_precision
from stpredict.tl.learn.inputs._reader import Reader, Source

if TYPE_CHECKING:
    from anndata import AnnData


class Tokens(Reader):
    """`obsm["X_{encoder}_bag"]` and the number of tiles behind each token, as :func:`stpredict.pp.bag` writes them."""

    names = ("tokens", "token_size")

    def read(self, source: Source) -> dict[str, Any]:
        """Tokens (n, n_tokens, d) of each slide and the number of tiles behind each (n, n_tokens), both float32.

        Tokens that are in a file stay there.
        """
        adata, key = source.adata, source.slots[0]
        check_obsm(adata, Key.bag_size(key), f"run stp.pp.bag(slides, {key.removeprefix('X_')!r})")
        index, whole = source.rows.index, rows_in_file(adata.obsm[Key.bag(key)])
        size = _in_memory(adata, Key.bag_size(key), index)
        bag = FileBags(whole, index) if isinstance(whole, FileRows) else _in_memory(adata, Key.bag(key), index)
        if bag.ndim != 3 or size.shape != bag.shape[:2]:
            raise ValueError(
                f"expected bags (n_slides, n_tokens, d) in obsm[{Key.bag(key)!r}] and their sizes (n_slides, n_tokens) "
                f"beside them; found {bag.shape} and {size.shape}; run stp.pp.bag"
            )
        every: Any = (
            bag.tokens(np.ones(size.shape, dtype=bool)) if isinstance(bag, FileBags) else bag.reshape(len(bag), -1)
        )
        check_finite(every, f"tokens in obsm[{Key.bag(key)!r}]", "run stp.pp.bag again")
        empty = int((size <= 0).all(axis=1).sum())
        if empty:
            raise ValueError(
                f"expected at least one token in every bag; found {empty} slides without any; leave them out"
            )
        return {"tokens": bag, "token_size": size}


def _in_memory(adata: AnnData, slot: str, index: np.ndarray) -> np.ndarray:
    return single_precision(read_rows(adata.obsm[slot], index), f"obsm[{slot!r}]")
