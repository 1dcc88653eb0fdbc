from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse

import stpredict as stp
from stpredict.pp import _log_vmr
from stpredict.slots._provenance import read_record


@pytest.fixture
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    rates = (0.3 + rng.gamma(0.5, 4, 30)) * rng.gamma(3, 1 / 3, (90, 1))
    counts = rng.poisson(rates).astype(np.float32)
    counts[:, 0] = 0
    obs = pd.DataFrame({"sample": np.repeat(["A", "B"], [50, 40])}, index=[f"o{i}" for i in range(90)])
    adata = ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(30)]))
    stp.pp.normalize(adata, method="log1p")
    return adata


def test_formula_of_seurat(adata) -> None:
    assert stp.pp.log_vmr(adata) is None
    linear = np.expm1(adata.X.toarray().astype(float))
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(adata.var["log_vmr"], np.log(linear.var(axis=0, ddof=1) / linear.mean(axis=0)))
        for name in ("A", "B"):
            part = linear[adata.obs["sample"] == name]
            np.testing.assert_allclose(
                adata.varm["log_vmr"][name], np.log(part.var(axis=0, ddof=1) / part.mean(axis=0)), rtol=1e-7
            )
    assert np.isnan(adata.var["log_vmr"].iloc[0])
    assert adata.var["log_vmr"].iloc[1:].notna().all()
    assert read_record(adata, "log_vmr")["sections"] == ["A", "B"]


def test_dispersion_of_scanpy(adata) -> None:
    expressed = adata[:, 1:].copy()
    stp.pp.log_vmr(expressed)
    found = sc.pp.highly_variable_genes(expressed, flavor="seurat", inplace=False)
    np.testing.assert_allclose(expressed.var["log_vmr"], found["dispersions"], rtol=1e-5)


@pytest.mark.parametrize("form", [sparse.csc_matrix, lambda x: x.toarray(), lambda x: x.toarray().astype(np.float64)])
def test_dense_and_sparse_agree(adata, form, monkeypatch) -> None:
    expected = stp.pp.log_vmr(adata, copy=True)
    assert "log_vmr" not in adata.var
    monkeypatch.setattr(_log_vmr, "_BLOCK", 7 * 90)
    adata.layers["other"], adata.X = form(adata.X), adata.X * 0
    stp.pp.log_vmr(adata, layer="other", key_added="vmr")
    np.testing.assert_allclose(adata.var["vmr"], expected.var["log_vmr"], rtol=1e-10)
    np.testing.assert_allclose(adata.varm["vmr"], expected.varm["log_vmr"], rtol=1e-10)


def test_residuals_are_read_from_their_counts(adata) -> None:
    expected = stp.pp.log_vmr(adata, copy=True)
    stp.pp.normalize(adata)
    assert adata.X.min() < 0
    stp.pp.log_vmr(adata)
    np.testing.assert_allclose(adata.var["log_vmr"], expected.var["log_vmr"], rtol=1e-5)
    np.testing.assert_allclose(adata.varm["log_vmr"], expected.varm["log_vmr"], rtol=1e-5)


def test_training_observations_only(adata) -> None:
    train = (adata.obs["sample"] == "A").to_numpy()
    expected = stp.pp.log_vmr(adata[train], copy=True)
    adata.X = adata.X.toarray()
    adata.X[~train] = 0
    stp.pp.log_vmr(adata, train=train)
    assert list(adata.varm["log_vmr"]) == ["A"]
    np.testing.assert_allclose(adata.var["log_vmr"], expected.var["log_vmr"])


def test_no_variance_is_undefined() -> None:
    values = np.log1p(np.array([[3.0, 0, 1], [3, 0, 2], [3, 0, 4], [3, 5, 1]], dtype=np.float32))
    adata = ad.AnnData(values, obs=pd.DataFrame({"sample": list("AAAB")}, index=list("abcd")))
    stp.pp.log_vmr(adata)
    assert np.isnan(adata.var["log_vmr"]).tolist() == [True, False, False]
    assert np.isnan(adata.varm["log_vmr"].to_numpy()).tolist() == [[True, True], [True, True], [False, True]]


@pytest.mark.parametrize("change", ["counts", "negative", "nan", "log2"])
def test_other_values_are_refused(adata, change) -> None:
    if change == "counts":
        adata.X = adata.layers["counts"] * 10
    elif change == "log2":
        adata.uns["stpredict"]["normalize"]["method"] = "log2p1"
    else:
        adata.X[0, 3] = -1 if change == "negative" else np.nan
    message = "'log2p1' in uns" if change == "log2" else "run stp.pp.normalize"
    with pytest.raises(ValueError, match=message):
        stp.pp.log_vmr(adata)
    assert "log_vmr" not in adata.var
    assert "log_vmr" not in adata.varm


def test_missing_slots(adata) -> None:
    with pytest.raises(KeyError, match="layers"):
        stp.pp.log_vmr(adata, layer="none")
    with pytest.raises(KeyError, match="slide"):
        stp.pp.log_vmr(adata, sample_key="slide")
