"""Bags of tokens of each slide."""

from __future__ import annotations

from typing import Any

from stpredict.core._validate import check_finite
from stpredict.slots._checks import check_obsm
from stpredict.slots._keys import Key
from stpredict.slots._matrix import single_precision
from stpredict.tl.learn.inputs._reader import Reader, Source


class Tokens(Reader):
    """`obsm["X_{encoder}_bag"]` and the number of tiles behind each token, as :func:`stpredict.pp.bag` writes them."""

    names = ("tokens", "token_size")

    def read(self, source: Source) -> dict[str, Any]:
        """Tokens (n, n_tokens, d) of each slide and the number of tiles behind each (n, n_tokens), both float32."""
        adata, key = source.adata, source.slots[0]
        check_obsm(adata, Key.bag_size(key), f"run stp.pp.bag(slides, {key.removeprefix('X_')!r})")
        slots = Key.bag(key), Key.bag_size(key)
        bag, size = (single_precision(adata.obsm[slot][source.rows.index], f"obsm[{slot!r}]") for slot in slots)
        if bag.ndim != 3 or size.shape != bag.shape[:2]:
            raise ValueError(
                f"expected bags (n_slides, n_tokens, d) in obsm[{Key.bag(key)!r}] and their sizes (n_slides, n_tokens) "
                f"beside them; found {bag.shape} and {size.shape}; run stp.pp.bag"
            )
        check_finite(bag.reshape(len(bag), -1), f"tokens in obsm[{Key.bag(key)!r}]", "run stp.pp.bag again")
        empty = int((size <= 0).all(axis=1).sum())
        if empty:
            raise ValueError(
                f"expected at least one token in every bag; found {empty} slides without any; leave them out"
            )
        return {"tokens": bag, "token_size": size}
