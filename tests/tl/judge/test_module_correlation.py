from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.tl.judge._module_correlation import mantel

MODULES = np.repeat([0, 1, 2], [6, 5, 4])


def sections(noise: float = 0.3, n: int = 15, same: bool = True, seed: int = 0) -> ad.AnnData:
    """Two sections whose genes follow one of three smooth fields; the prediction follows the same ones, or others."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2).astype(float)
    counts, predicted = [], []
    for _ in range(2):

        def fields() -> np.ndarray:
            centers, widths = rng.uniform(0, n, (3, 4, 2)), 3.0
            return sum(np.exp(-((grid[:, None] - centers[:, i]) ** 2).sum(-1) / (2 * widths**2)) for i in range(4))

        truth = fields()
        shown = truth if same else fields()
        own = MODULES if same else rng.permutation(MODULES)
        counts.append(rng.poisson(20 * np.exp(truth[:, MODULES])))
        predicted.append(shown[:, own] + noise * rng.normal(size=(len(grid), len(MODULES))) * 0.1)
    adata = ad.AnnData(
        np.concatenate(counts).astype(np.float32), var=pd.DataFrame(index=[f"G{i}" for i in range(len(MODULES))]),
        obs=pd.DataFrame({"sample": np.repeat(["a", "b"], len(grid))}, index=[str(i) for i in range(2 * len(grid))]),
        obsm={"spatial": np.concatenate([grid, grid])},
    )  # fmt: skip
    stp.pp.normalize(adata)
    adata.obsm["predicted"] = pd.DataFrame(np.concatenate(predicted), adata.obs_names, adata.var_names)
    return adata


def test_genes_that_some_folds_did_not_choose_are_left_out():
    adata = sections()
    names = list(adata.var_names[1:])
    expected = stp.tl.module_correlation(adata, genes=names, n_permutations=9)
    adata.obsm["predicted"].iloc[:225, 0] = np.nan
    with pytest.warns(UserWarning, match="1 of 15 genes .* were not predicted in all observations"):
        found = stp.tl.module_correlation(adata, n_permutations=9)
    pd.testing.assert_frame_equal(found.predicted, expected.predicted)


def test_modules_are_found_and_the_matrices_agree():
    adata = sections()
    found = stp.tl.module_correlation(adata, n_permutations=99)
    assert found.modules.tolist() == (MODULES + 1).tolist()  # larger ones first
    assert found.summary["mantel"] > 0.8
    assert found.summary["p_mantel"] == found.summary["p_turned"] == 0.01
    assert found.summary["mean_turned"] < found.summary["mean_predicted"]
    # The mean of Fisher's z over sections, not the correlation over both.
    values = adata.obsm["predicted"].to_numpy()
    z = [np.arctanh(np.corrcoef(values[rows].T)[0, 7]) for rows in (slice(0, 225), slice(225, 450))]
    assert found.predicted.iloc[0, 7] == pytest.approx(np.tanh(np.mean(z)))
    assert stp.tl.module_correlation(adata, n_modules=2, n_permutations=1).modules.nunique() == 2


def test_smooth_maps_of_nothing_correlate_but_do_not_agree():
    r, p = zip(
        *(
            stp.tl.module_correlation(sections(same=False, seed=seed), n_permutations=49).summary[
                ["mantel", "p_mantel"]
            ]
            for seed in range(12)
        ),
        strict=True,
    )
    assert abs(np.mean(r)) < 0.15
    assert np.mean(np.array(p) < 0.05) <= 2 / 12
    alone = sections(same=False)
    rng = np.random.default_rng(0)
    alone.obsm["predicted"] = alone.obsm["predicted"].apply(
        lambda column: column.iloc[rng.permutation(len(column))].to_numpy()
    )
    shuffled = stp.tl.module_correlation(alone, n_permutations=19).summary
    smooth = stp.tl.module_correlation(sections(same=False), n_permutations=19).summary
    assert smooth["mean_turned"] > 2 * shuffled["mean_turned"]  # smoothness alone


def test_mantel_equals_a_brute_force_permutation():
    rng = np.random.default_rng(0)
    one, other = (np.corrcoef(rng.normal(size=(7, 20))) for _ in range(2))
    r, p = mantel(one, other, 50, np.random.default_rng(1))
    upper, again = np.triu_indices(7, 1), np.random.default_rng(1)
    assert r == pytest.approx(np.corrcoef(one[upper], other[upper])[0, 1])
    drawn = []
    for _ in range(50):
        order = again.permutation(7)
        pairs = [(one[order[i], order[j]], other[i, j]) for i in range(7) for j in range(i + 1, 7)]
        drawn.append(np.corrcoef(np.array(pairs).T)[0, 1])
    assert p == pytest.approx((1 + sum(value >= r for value in drawn)) / 51)


def test_constant_unmeasured_and_background_are_left_out():
    adata = sections()
    frame = adata.obsm["predicted"].assign(G3=1.0)
    adata.obsm["predicted"] = frame.assign(new=frame["G0"])
    adata.obs["in_tissue"] = True
    adata.obs.loc[adata.obs_names[:100], "in_tissue"] = False
    adata.obsm["predicted"].iloc[:100] = 1e6 * np.random.default_rng(0).normal(size=(100, 16))
    found = stp.tl.module_correlation(adata, n_permutations=9)
    assert found.summary["n_left_out"] == 1
    assert "G3" not in found.predicted
    assert found.measured["new"].drop("new").isna().all()
    assert found.summary["mantel"] > 0.8
    blind = ad.AnnData(obs=adata.obs, obsm=dict(adata.obsm))
    without = stp.tl.module_correlation(blind, n_permutations=9)
    assert without.measured is None
    assert np.isnan(without.summary["mantel"])
    with pytest.raises(ValueError, match="varies"):
        stp.tl.module_correlation(adata, genes=["G0", "G1", "G3"])


def test_the_figure_orders_genes_by_modules():
    found = stp.tl.module_correlation(sections(), n_permutations=9)
    figure = stp.pl.module_correlation(found)
    drawn = np.asarray(figure.axes[0].images[0].get_array())
    # Every module is a block on the diagonal.
    edges = np.cumsum([0, 6, 5, 4])
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        across = np.delete(drawn[low:high], np.arange(low, high), axis=1)
        assert drawn[low:high, low:high].min() > across.max()
    assert f"{found.summary['mantel']:.2f}" in figure.get_supxlabel()
    figure.canvas.draw()
    page = figure.bbox
    for ax in figure.axes[:2]:
        title = ax.title.get_window_extent()
        assert title.y1 <= page.y1
    plt.close(figure)
    with pytest.raises(TypeError, match="module_correlation"):
        stp.pl.module_correlation(found.predicted)
