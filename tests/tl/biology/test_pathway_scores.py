from __future__ import annotations

import anndata as ad
import gseapy
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import stpredict as stp
from stpredict.tl.biology._set_scores import expression_bins, linear_score, within_bins

N, G = 30, 60
GENES = [f"G{i}" for i in range(G)]
SETS = {"low": GENES[:8], "mixed": GENES[4:60:6], "high": GENES[50:58]}


@pytest.fixture
def slides() -> ad.AnnData:
    rng = np.random.default_rng(0)
    values = rng.normal(np.linspace(0, 5, G), 1, (N, G)).astype(np.float32)
    adata = ad.AnnData(values, var=pd.DataFrame(index=GENES))
    adata.obsm["predicted"] = pd.DataFrame(values[:, ::-1] + 1, adata.obs_names, GENES[::-1])
    return adata


@pytest.mark.parametrize("method", ["gsva", "ssgsea"])
def test_equals_gseapy_called_directly(slides, method: str) -> None:
    stp.tl.pathway_scores(slides, SETS, method=method, use="measured")
    table = slides.to_df().T.astype(float)
    call = gseapy.gsva if method == "gsva" else gseapy.ssgsea
    found = call(table, SETS, outdir=None, min_size=1, threads=1).res2d
    column = "ES" if method == "gsva" else "NES"
    expected = found.pivot(index="Name", columns="Term", values=column).loc[slides.obs_names, list(SETS)]
    np.testing.assert_allclose(slides.obsm["pathways_measured"], expected.to_numpy(float), rtol=1e-5, atol=1e-6)


def test_mean_less_controls_of_the_same_bin(slides) -> None:
    stp.tl.pathway_scores(slides, SETS, use="measured")
    x = slides.X.astype(float)
    bins = expression_bins(x.mean(axis=0))
    assert np.bincount(bins).tolist() == [5] * 12
    for column, genes in enumerate(SETS.values()):
        inside = np.isin(GENES, genes)
        controls = [x[:, (bins == bins[g]) & ~inside] for g in np.flatnonzero(inside)]
        control = np.mean([c.mean(axis=1) if c.shape[1] else np.zeros(N) for c in controls], axis=0)
        expected = x[:, inside].mean(axis=1) - control
        np.testing.assert_allclose(slides.obsm["pathways_measured"][:, column], expected, rtol=1e-5, atol=1e-5)


def test_follows_scanpy(slides) -> None:
    """Scanpy draws controls; ours are all that it draws from."""
    import scanpy as sc

    rng = np.random.default_rng(1)
    slides.X[:, :8] += rng.normal(size=(N, 1))
    stp.tl.pathway_scores(slides, SETS, use="measured")
    sc.tl.score_genes(slides, SETS["low"], n_bins=12, ctrl_size=5)
    assert np.corrcoef(slides.obs["score"], slides.obsm["pathways_measured"][:, 0])[0, 1] > 0.95


def test_predicted_and_its_names(slides) -> None:
    stp.tl.pathway_scores(slides, SETS)
    assert slides.uns["pathways_names"].tolist() == list(SETS)
    record = slides.uns["stpredict"]["pathways"]
    assert record["sizes"].tolist() == [8, 10, 8]
    assert (record["method"], record["use"], record["n_genes"]) == ("mean", "predicted", G)
    frame = slides.obsm["predicted"].copy()
    del slides.obsm["predicted"]
    # Genes in another order, and controls from the same bins: the same scores, but for the unit shift of all genes.
    slides.X = frame[GENES].to_numpy()
    stp.tl.pathway_scores(slides, SETS, use="measured")
    np.testing.assert_allclose(slides.obsm["pathways"], slides.obsm["pathways_measured"], atol=1e-5)
    assert stp.tl.pathway_scores(slides, SETS, use="measured", key_added="again", copy=True).obsm["again"].shape == (
        N,
        3,
    )
    assert "again" not in slides.obsm


def test_controls_are_alike_in_counts(slides) -> None:
    """Residuals have no mean; their counts say which genes are alike."""
    slides.layers["counts"] = np.random.default_rng(0).poisson(np.arange(1, G + 1), (N, G))
    level = slides.layers["counts"].mean(axis=0)
    slides.X = slides.X - slides.X.mean(axis=0)
    stp.tl.pathway_scores(slides, {"t": GENES[:8]}, use="measured")
    member = sparse.csr_array((np.arange(G) < 8)[None].astype(float))
    expected = linear_score(member, expression_bins(level))(slides.X.astype(float))
    np.testing.assert_allclose(slides.obsm["pathways_measured"], expected, rtol=1e-5, atol=1e-6)


def test_rows_without_expression_stay_without(slides) -> None:
    expected = stp.tl.pathway_scores(slides[3:].copy(), SETS, copy=True).obsm["pathways"]
    slides.obsm["predicted"].iloc[:3] = np.nan
    stp.tl.pathway_scores(slides, SETS)
    assert np.isnan(slides.obsm["pathways"][:3]).all()
    # Levels are means over rows with values: the measured rows decide.
    np.testing.assert_allclose(slides.obsm["pathways"][3:], expected, atol=1e-5)


def test_unmeasured_rows_have_no_measured_score(slides) -> None:
    slides.obs["measured"] = np.arange(N) > 2
    expected = stp.tl.pathway_scores(slides[3:].copy(), SETS, use="measured", copy=True).obsm["pathways_measured"]
    slides.X[:3] = 0
    stp.tl.pathway_scores(slides, SETS, use="measured")
    assert np.isnan(slides.obsm["pathways_measured"][:3]).all()
    np.testing.assert_allclose(slides.obsm["pathways_measured"][3:], expected, atol=1e-5)


def test_sparse_equals_dense(slides) -> None:
    slides.X = np.maximum(slides.X, 0)
    dense = stp.tl.pathway_scores(slides, SETS, use="measured", copy=True).obsm["pathways_measured"]
    slides.X = sparse.csr_matrix(slides.X)
    stp.tl.pathway_scores(slides, SETS, use="measured")
    np.testing.assert_allclose(slides.obsm["pathways_measured"], dense, rtol=1e-5, atol=1e-6)


def test_scores_are_targets(toy) -> None:
    stp.pp.normalize(toy, method="log1p")
    stp.tl.pathway_scores(toy, {"t": toy.var_names[:3]}, use="measured", min_size=1)
    model = stp.tl.fit(toy, "ridge", target="pathways_measured", baselines=False)
    assert model.panel == ["t"]


def test_random_sets_keep_size_and_expression() -> None:
    bins = expression_bins(np.random.default_rng(0).normal(size=100))
    place = within_bins(bins, np.random.default_rng(0))
    assert sorted(place) == list(range(100))
    assert (bins[place] == bins).all()
    assert (place != np.arange(100)).mean() > 0.5
    member = sparse.csr_array(np.random.default_rng(0).random((3, 100)) < 0.2).astype(float)
    values = np.random.default_rng(1).normal(size=(7, 100))
    moved = sparse.lil_array((3, 100))
    for row, gene in zip(*member.nonzero(), strict=True):
        moved[row, place[gene]] = 1
    score = linear_score(member, bins)
    np.testing.assert_allclose(score.moved(place)(values), linear_score(moved.tocsr(), bins)(values), atol=1e-12)
    np.testing.assert_allclose(score.moved(np.arange(100))(values), score(values))


def test_memory_is_guarded(slides, frozen) -> None:
    before = frozen(slides)
    with pytest.raises(
        MemoryError, match=r"30 observations × 60 genes × 3 gene sets.*score slides.*method='mean'.*linear"
    ):
        stp.tl.pathway_scores(slides, SETS, method="gsva", max_gb=1e-6)
    assert frozen(slides) == before
    stp.tl.pathway_scores(slides, SETS, max_gb=1e-6)


def test_errors(slides, frozen) -> None:
    before = frozen(slides)
    with pytest.raises(ValueError, match="'plage'"):
        stp.tl.pathway_scores(slides, SETS, method="plage")
    with pytest.raises(KeyError, match="'guess'"):
        stp.tl.pathway_scores(slides, SETS, key="guess")
    with pytest.raises(ValueError, match="genes with predicted expression.*Ensembl genes"):
        stp.tl.pathway_scores(slides, {"t": [f"ENSG{i:011d}" for i in range(9)]})
    with pytest.raises(ValueError, match="key_added"):
        stp.tl.pathway_scores(slides, SETS, key_added="a/b")
    assert frozen(slides) == before
    slides.X[0, 0] = np.nan
    with pytest.raises(ValueError, match="finite expression"):
        stp.tl.pathway_scores(slides, SETS, use="measured")
