"""Folds of genes: whole chromosomes, and no gene on both sides."""

from __future__ import annotations

import numpy as np
import pytest

import stpredict as stp


def test_every_gene_is_tested_once_and_on_no_other_side() -> None:
    genes = stp.datasets.synthetic_genes(50, n_chromosomes=7, width=64)
    for n_folds in (None, 2, 3):
        folds = stp.cohorts.leave_chromosomes_out(genes, n_folds)
        assert len(folds) == (n_folds or 7)
        assert (np.sum([fold.test for fold in folds], axis=0) == 1).all()
        for fold in folds:
            assert not (fold.train & fold.test).any()
            chrom = genes.obs["chrom"].to_numpy()
            assert not set(chrom[fold.train]) & set(chrom[fold.test])
    sizes = [int(fold.test.sum()) for fold in stp.cohorts.leave_chromosomes_out(genes, 3)]
    assert max(sizes) - min(sizes) <= 7  # no more than a chromosome


def test_windows_that_overlap_are_refused_and_those_that_touch_are_not() -> None:
    genes = stp.datasets.synthetic_genes(6, n_chromosomes=1, width=64)
    test = np.arange(6) == 3
    genes.obs["tss"] = [0, 100, 200, 300, 364, 500]
    stp.cohorts.assert_genes_apart(genes, ~test, test)
    genes.obs.loc["G0004", "tss"] = 363
    with pytest.raises(ValueError, match=r"windows of 64 bases that do not overlap.*G0003 and G0004"):
        stp.cohorts.assert_genes_apart(genes, ~test, test)
    genes.obs["chrom"] = ["chr1"] * 3 + ["chr2"] + ["chr1"] * 2
    stp.cohorts.assert_genes_apart(genes, ~test, test)


def test_sequences_of_unknown_bases_are_no_duplicates() -> None:
    genes = stp.datasets.synthetic_genes(6, n_chromosomes=2, width=64)
    genes.obsm["sequence"][:4] = 4
    assert len(stp.cohorts.leave_chromosomes_out(genes)) == 2


@pytest.mark.parametrize("n_folds", [1, 8])
def test_numbers_of_folds(n_folds: int) -> None:
    genes = stp.datasets.synthetic_genes(20, n_chromosomes=3, width=64)
    with pytest.raises(ValueError, match="between 2 folds and one per chromosome"):
        stp.cohorts.leave_chromosomes_out(genes, n_folds)
