"""Sequences as numbers: strands, windows, one-hot, digests."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from stpredict.slots._sequences import encoded, reverse_complement, sequence_codes, sequence_digests, window_of


def test_letters_and_the_other_strand() -> None:
    codes = encoded("ACGTacgtNnRU")
    assert codes.tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 4, 4, 4, 4]
    assert reverse_complement(codes).tolist() == [4, 4, 4, 4, 0, 1, 2, 3, 0, 1, 2, 3]
    np.testing.assert_array_equal(reverse_complement(reverse_complement(codes)), codes)


@pytest.mark.parametrize("width", [2, 3, 10, 11])
def test_the_start_is_in_the_middle_on_both_strands(width: int) -> None:
    start, stop = window_of(np.array([100, 100]), np.array(["+", "-"]), width)
    assert (stop - start == width).all()
    assert start[0] + width // 2 == 99  # counted from 0
    assert stop[1] - 1 - width // 2 == 99


def test_digests_are_those_of_both_strands_and_of_no_unknown_bases() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 5, (3, 30)).astype(np.uint8)
    both = sequence_digests(np.concatenate([codes, reverse_complement(codes)]))
    assert both[:3].tolist() == both[3:].tolist()
    assert len(set(both)) == 3
    assert sequence_digests(np.full((1, 5), 4, dtype=np.uint8)).tolist() == [""]


@pytest.mark.parametrize(
    "values",
    [
        np.full((2, 5), 5),
        np.full((2, 5), -1),
        np.zeros((2, 5)),
        np.ones((2, 5, 4)),
        np.zeros((2, 5, 3)),
        np.zeros((2, 0), int),
    ],
)
def test_what_are_no_codes_is_refused(values: np.ndarray) -> None:
    adata = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
    adata.obsm["sequence"] = values
    with pytest.raises(ValueError, match="obsm\\['sequence'\\]"):
        sequence_codes(adata, np.arange(2))
