"""Descriptors of genes, and the tables of sections that are made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp

FIT: dict[str, Any] = {
    "target": "expr", "hyperparameters": "small", "training": {"max_epochs": 2, "patience": 0}, "baselines": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def genes() -> ad.AnnData:
    return stp.datasets.synthetic_genes(40, width=64)


@pytest.fixture(scope="module")
def model(genes: ad.AnnData) -> Any:
    return stp.tl.fit(genes.copy(), "gta", (genes.obs["chrom"] != "chr1").to_numpy(), seed=3, **FIT)


def test_descriptors_follow_from_the_seed_and_carry_the_hash(genes: ad.AnnData, model: Any, tmp_path: Path) -> None:
    again = stp.tl.fit(genes.copy(), "gta", (genes.obs["chrom"] != "chr1").to_numpy(), seed=3, **FIT)
    other = stp.tl.fit(genes.copy(), "gta", (genes.obs["chrom"] != "chr1").to_numpy(), seed=4, **FIT)
    model.save(tmp_path / "model")
    found = {}
    for name, each in (("first", model), ("again", again), ("other", other), ("saved", tmp_path / "model")):
        adata = genes.copy()
        stp.tl.gene_descriptors(adata, each)
        found[name] = adata.obsm["descriptors"], adata.uns["stpredict"]["descriptors"]["hash"]
    values, digest = found["first"]
    assert values.shape == (40, 32)
    assert values.dtype == np.float32
    assert len(digest) == 64
    for name in ("again", "saved"):
        np.testing.assert_array_equal(found[name][0], values)
        assert found[name][1] == digest
    assert found["other"][1] != digest
    assert not np.allclose(found["other"][0], values)
    few = genes[::-3].copy()  # a gene is described by itself, whichever others there are
    stp.tl.gene_descriptors(few, model, batch_size=2)
    np.testing.assert_allclose(few.obsm["descriptors"], values[::-3], rtol=1e-4, atol=1e-5)
    assert few.obs["descriptors_seen"].tolist() == (few.obs["chrom"] != "chr1").tolist()


def test_expression_is_not_needed_and_not_read(genes: ad.AnnData, model: Any) -> None:
    adata = genes.copy()
    adata.X[:], adata.obs["expr"] = np.nan, np.nan
    found = stp.tl.gene_descriptors(adata, model, copy=True)
    stp.tl.gene_descriptors(whole := genes.copy(), model)
    np.testing.assert_array_equal(found.obsm["descriptors"], whole.obsm["descriptors"])
    assert "descriptors" not in adata.obsm


def test_tables_of_sections_know_genes_by_their_dna(genes: ad.AnnData, model: Any) -> None:
    spots = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=40, n_genes=12)
    described = genes[:14].copy()
    described.obs_names = [*spots.var_names, "other", "another"]
    stp.tl.gene_descriptors(described, model)
    stp.pp.gene_table(spots, "sequence", descriptors=described[::-1])
    np.testing.assert_array_equal(spots.varm["gene_table"], described.obsm["descriptors"][:12])
    record = spots.uns["stpredict"]["gene_table"]
    assert (record["method"], record["encoder"], record["n_seen"]) == ("sequence", "gta", 9)
    assert record["hash"] == described.uns["stpredict"]["descriptors"]["hash"]
    with pytest.raises(ValueError, match=r"a row for each of 12 genes; found none for 2"):
        stp.pp.gene_table(spots, "sequence", descriptors=described[:10].copy(), key_added="short")
    stp.pp.gene_table(spots, "sequence", descriptors=described[:10].copy(), missing="nan", key_added="short")
    assert np.isnan(spots.varm["short"]).all(axis=1).sum() == 2
    # A network of sections predicts a gene that it never saw, by its DNA.
    stp.pp.image_features(spots)
    stp.pp.neighbor_features(spots)
    stp.pp.grid(spots)
    stp.pp.normalize(spots)
    panel = list(spots.var_names[:8])
    quick = {"max_epochs": 1, "patience": 0}
    fitted = stp.tl.fit(spots, "dkan", target=panel, hyperparameters="small", training=quick, baselines=False)
    stp.tl.predict(spots, fitted, genes=list(spots.var_names[8:]))
    assert spots.obsm["predicted"].shape == (80, 4)


def test_faults_are_named(genes: ad.AnnData, model: Any) -> None:
    spots = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=30, n_genes=5)
    with pytest.raises(ValueError, match="rows are genes"):
        stp.tl.gene_descriptors(spots, model)
    adata = genes.copy()
    del adata.obsm["sequence_features"]
    with pytest.raises(KeyError, match="sequence_features"):
        stp.tl.gene_descriptors(adata, model)
    with pytest.raises(ValueError, match="descriptors= as a table whose rows are genes; found none"):
        stp.pp.gene_table(spots, "sequence")
    with pytest.raises(KeyError, match="gene_descriptors"):
        stp.pp.gene_table(spots, "sequence", descriptors=genes)
    with pytest.raises(ValueError, match="descriptors= with the source 'sequence'"):
        stp.pp.gene_table(spots, "random", descriptors=genes)
    stp.pp.dna_features(adata := genes.copy(), 2)
    ridge = stp.tl.fit(adata, "ridge", target="expr", baselines=False)
    with pytest.raises(TypeError, match="reads the DNA of genes and describes them"):
        stp.tl.gene_descriptors(adata, ridge)
