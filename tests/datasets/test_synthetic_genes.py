"""Genes whose expression follows from one element."""

from __future__ import annotations

import numpy as np
import pytest

import stpredict as stp
from stpredict.slots._sequences import encoded


def test_only_the_motifs_of_the_element_count() -> None:
    genes = stp.datasets.synthetic_genes(200, width=256, noise=0.1)
    start, stop = genes.uns["element"]
    views = np.lib.stride_tricks.sliding_window_view(genes.obsm["sequence"], 8, axis=1)
    hits = (views == encoded("TGACTCAT")).all(axis=2)
    inside, outside = hits[:, start : stop - 7].sum(axis=1), hits.sum(axis=1) - hits[:, start : stop - 7].sum(axis=1)
    assert np.corrcoef(inside, genes.obs["expr"])[0, 1] > 0.98
    assert abs(np.corrcoef(outside, genes.obs["expr"])[0, 1]) < 0.2
    assert 0.5 < outside.mean() / inside.mean() < 2
    assert set(genes.obs["chrom"].value_counts()) == {50}


def test_the_same_seed_is_the_same_genome() -> None:
    one, other, third = (stp.datasets.synthetic_genes(20, width=64, n_conditions=2, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.obsm["sequence"], other.obsm["sequence"])
    np.testing.assert_array_equal(one.X, other.X)
    assert not np.array_equal(one.obsm["sequence"], third.obsm["sequence"])
    assert one.shape == (20, 2)


@pytest.mark.parametrize("element", [(0, 8), (-1, 30), (30, 65), (40, 20)])
def test_elements_outside_or_too_short_are_refused(element: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="an element inside the 64 bases"):
        stp.datasets.synthetic_genes(10, width=64, element=element)
