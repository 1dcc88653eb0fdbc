from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
from scipy import sparse, stats

from stpredict.metrics._morans_i import morans_i
from stpredict.pp._spatial_graph import spatial_weights


@pytest.fixture
def setting() -> tuple[np.ndarray, sparse.csr_matrix]:
    rng = np.random.default_rng(0)
    xy = rng.random((80, 2))
    values = rng.poisson(1 + 3 * xy[:, :1] * rng.random(12), (80, 12)).astype(float)
    return values, spatial_weights(xy, 6)


def direct(x: np.ndarray, w: np.ndarray) -> tuple[float, float, float]:
    """I and both variances, term by term."""
    n, z = len(x), x - x.mean()
    s0 = w.sum()
    statistic = n / s0 * sum(w[i, j] * z[i] * z[j] for i in range(n) for j in range(n)) / (z**2).sum()
    s1 = 0.5 * ((w + w.T) ** 2).sum()
    s2 = ((w.sum(0) + w.sum(1)) ** 2).sum()
    b = n * (z**4).sum() / (z**2).sum() ** 2
    e = -1 / (n - 1)
    randomization = (
        n * ((n * n - 3 * n + 3) * s1 - n * s2 + 3 * s0**2) - b * ((n * n - n) * s1 - 2 * n * s2 + 6 * s0**2)
    ) / ((n - 1) * (n - 2) * (n - 3) * s0**2) - e**2
    normality = (n * n * s1 - n * s2 + 3 * s0**2) / ((n * n - 1) * s0**2) - e**2
    return statistic, randomization, normality


def test_matches_the_definition(setting) -> None:
    values, weights = setting
    randomization = morans_i(values, weights)
    normality = morans_i(values, weights, assumption="normality")
    expected = np.array([direct(x, weights.toarray()) for x in values.T])
    np.testing.assert_allclose(randomization["I"], expected[:, 0], atol=1e-12)
    np.testing.assert_allclose(randomization["variance"], expected[:, 1], rtol=1e-10)
    np.testing.assert_allclose(normality["variance"], expected[:, 2], rtol=1e-10)
    z = (expected[:, 0] + 1 / 79) / np.sqrt(expected[:, 1])
    np.testing.assert_allclose(randomization["p"], stats.norm.sf(z), rtol=1e-8)


def test_matches_squidpy(setting) -> None:
    import squidpy as sq

    values, weights = setting
    adata = ad.AnnData(values, obsp={"spatial_connectivities": weights})
    reference = sq.gr.spatial_autocorr(
        adata, mode="moran", transformation=False, n_perms=None, copy=True, show_progress_bar=False
    ).loc[adata.var_names]
    ours = morans_i(values, weights, assumption="normality")
    np.testing.assert_allclose(ours["I"], reference["I"], atol=1e-8)
    np.testing.assert_allclose(ours["variance"], reference["var_norm"], atol=1e-8)


def test_variance_matches_permutations(setting) -> None:
    values, weights = setting
    rng = np.random.default_rng(1)
    shuffled = np.stack([rng.permutation(values[:, 0]) for _ in range(4000)], axis=1)
    table = morans_i(shuffled, weights)
    assert table["I"].var() == pytest.approx(table["variance"][0], rel=0.1)
    assert table["I"].mean() == pytest.approx(-1 / 79, abs=0.003)
    assert (table["p"] < 0.05).mean() == pytest.approx(0.05, abs=0.02)


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_sparse_and_blocks_equal_dense(setting, form) -> None:
    values, weights = setting
    expected = morans_i(values, weights)
    for block_size in (None, 1, 5):
        np.testing.assert_allclose(morans_i(form(values), weights, block_size=block_size), expected, rtol=1e-10)


def test_self_weights_count(setting) -> None:
    values, weights = setting
    weights = weights + sparse.diags(np.arange(80.0))
    expected = [direct(x, weights.toarray())[0] for x in values.T]
    np.testing.assert_allclose(morans_i(values, weights)["I"], expected, atol=1e-12)


def test_constant_genes_are_undefined(setting) -> None:
    values, weights = setting
    values[:, 3] = 0.1
    for assumption in ("randomization", "normality"):
        table = morans_i(values, weights, assumption=assumption)
        assert table.loc[3, ["I", "variance", "z", "p"]].isna().all()
        assert table.drop(index=3).notna().all(axis=None)


def test_input_is_not_changed(setting) -> None:
    values, weights = setting
    before = values.copy()
    morans_i(values, weights)
    np.testing.assert_array_equal(values, before)


def test_errors(setting) -> None:
    values, weights = setting
    with pytest.raises(ValueError, match="weights"):
        morans_i(values[:-1], weights)
    with pytest.raises(ValueError, match="positive sum"):
        morans_i(values, weights * 0)
    with pytest.raises(ValueError, match="assumption"):
        morans_i(values, weights, assumption="none")
    with pytest.raises(ValueError, match="4 observations"):
        morans_i(values[:3], weights[:3, :3])
    values[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite"):
        morans_i(values, weights)
