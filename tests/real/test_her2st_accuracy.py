"""Accuracy metrics and domains on measured sections of her2st."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc

from stpredict import metrics
from stpredict.slots._provenance import read_record
from stpredict.tl.biology._domains import domains
from stpredict.tl.judge._emd import emd

ROOT = Path(__file__).parents[3] / "shared" / "data" / "her2st"
pytestmark = pytest.mark.skipif(not ROOT.exists(), reason="needs ../shared/data/her2st")


@pytest.fixture(scope="module")
def section():
    """Section H1 with its pathologist's labels; the "prediction" is the mean of each spot's neighbors."""
    counts = pd.read_csv(ROOT / "counts" / "H1.tsv.gz", sep="\t", index_col=0)
    labels = pd.read_csv(ROOT / "labels" / "H1_labeled_coordinates.tsv", sep="\t").dropna(subset=["x", "y"])
    names = [f"{x}x{y}" for x, y in labels[["x", "y"]].round().astype(int).to_numpy()]
    label = pd.Series(labels["label"].to_numpy(), index=names)
    shared = counts.index.intersection(label.index)
    adata = ad.AnnData(counts.loc[shared].astype(np.float32))
    adata.obs["sample"], adata.obs["label"] = "H1", label[shared]
    place = np.array([name.split("x") for name in shared], dtype=int)
    adata.obs["array_col"], adata.obs["array_row"] = place.T
    adata.obsm["spatial"] = place * 292.0
    sc.pp.filter_genes(adata, min_cells=len(adata) // 5)
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    near = np.square(place[:, None] - place[None]).sum(axis=2) <= 2
    np.fill_diagonal(near, val=False)
    smooth = near @ adata.X / np.maximum(near.sum(axis=1, keepdims=True), 1)
    adata.obsm["predicted"] = pd.DataFrame(smooth, adata.obs_names, adata.var_names)
    spatial = metrics.pearson(adata.X, smooth) > 0.4
    assert 20 < spatial.sum() < adata.n_vars
    adata.obsm["predicted"] = adata.obsm["predicted"].loc[:, spatial]
    return adata


def test_spatial_genes_score_above_permuted_spots(section):
    predicted = section.obsm["predicted"].to_numpy()
    truth = section[:, section.obsm["predicted"].columns].X
    row, col = section.obs["array_row"].to_numpy(), section.obs["array_col"].to_numpy()
    shuffled = predicted[np.random.default_rng(0).permutation(len(predicted))]
    for score in (metrics.pearson, metrics.spearman):
        assert score(truth, predicted).mean() > 0.35
        assert abs(score(truth, shuffled).mean()) < 0.1
    similar = metrics.ssim(truth, predicted, row, col)
    assert (similar > metrics.ssim(truth, shuffled, row, col)).mean() > 0.8
    assert (metrics.variance_ratio(truth, predicted) < 1).all()


def test_emd_of_spatial_genes_beats_the_uniform_map(section):
    genes = list(section.obsm["predicted"].columns[:20])
    exact, sliced = (emd(section, genes=genes, method=method) for method in ("exact", "sliced"))
    assert (sliced["emd"] <= exact["emd"] * 1.0001).all()
    assert np.corrcoef(exact["emd"], sliced["emd"])[0, 1] > 0.9
    assert exact["emd"].mean() < exact["emd_uniform"].mean()
    assert sliced["emd"].mean() < sliced["emd_uniform"].mean()


def test_domains_of_measured_expression_agree_with_the_pathologist(section):
    n_labels = section.obs["label"][section.obs["label"] != "undetermined"].nunique()
    changed = domains(section, use="measured", n_domains=n_labels, label_key="label", copy=True)
    record = read_record(changed, "domain")
    assert record["n_found"] == n_labels
    assert record["n_unlabeled"] == (section.obs["label"] == "undetermined").sum()
    assert record["ari"] > 0.15
