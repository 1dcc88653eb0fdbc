"""Words of DNA as features."""

from __future__ import annotations

import numpy as np
import pytest

import stpredict as stp


def test_shares_are_those_of_a_count_by_hand() -> None:
    genes = stp.datasets.synthetic_genes(6, width=40, element=(0, 20))
    genes.obsm["sequence"][0, 10] = 4
    stp.pp.dna_features(genes, 2, n_windows=2)
    for row, codes in enumerate(genes.obsm["sequence"]):
        counts = np.zeros((2, 16))
        for at in range(39):
            if max(codes[at : at + 2]) < 4:
                counts[at * 2 // 39, 4 * codes[at] + codes[at + 1]] += 1
        np.testing.assert_allclose(
            genes.obsm["X_dna"][row], (counts / counts.sum(axis=1, keepdims=True)).ravel(), rtol=1e-6
        )


def test_one_hot_is_read_and_unknown_bases_leave_zeros() -> None:
    genes = stp.datasets.synthetic_genes(6, width=40, element=(0, 20))
    genes.obsm["sequence"][0] = 4
    hot = genes.copy()
    hot.obsm["sequence"] = (genes.obsm["sequence"][..., None] == np.arange(4)).astype(np.float32)
    for adata in (genes, hot):
        stp.pp.dna_features(adata)
    np.testing.assert_array_equal(hot.obsm["X_dna"], genes.obsm["X_dna"])
    assert not genes.obsm["X_dna"][0].any()


def test_the_mean_of_windows_and_the_ridge_on_it() -> None:
    genes = stp.datasets.synthetic_genes(60, width=128)
    stp.pp.dna_features(genes, None)
    np.testing.assert_allclose(genes.obsm["X_dna"], genes.obsm["sequence_features"].mean(axis=1), rtol=1e-5)
    scores = stp.tl.cross_validate(genes, ["ridge"], target="expr", baselines=False, progress=False)
    assert set(scores["leaky"]) == {False}  # their record says that nobody's expression is in them


@pytest.mark.parametrize("options", [{"k": 0}, {"k": 7}, {"n_windows": 0}, {"n_windows": 20}])
def test_faults_are_named(options: dict[str, int]) -> None:
    genes = stp.datasets.synthetic_genes(6, width=40, element=(0, 20))
    with pytest.raises(ValueError, match=f"expected .*{next(iter(options)).split('_')[-1]}"):
        stp.pp.dna_features(genes, **options)
    assert "X_dna" not in genes.obsm
