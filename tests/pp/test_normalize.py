from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from scipy import sparse

from stpredict import _provenance
from stpredict.pp._normalize import normalize


def counts_table(dense: bool = True) -> ad.AnnData:
    counts = np.random.default_rng(0).poisson(2.0, (12, 6)).astype(np.float32)
    names = [f"G{i}" for i in range(6)]
    return ad.AnnData(counts if dense else sparse.csr_matrix(counts), var=pd.DataFrame(index=names))


def test_matches_scanpy() -> None:
    import scanpy as sc

    adata = counts_table()
    reference = adata.copy()
    sc.pp.normalize_total(reference, target_sum=1e4)
    sc.pp.log1p(reference)
    original = adata.X.copy()
    assert normalize(adata) is None
    np.testing.assert_allclose(adata.X, reference.X, rtol=1e-5)
    np.testing.assert_array_equal(adata.layers["counts"], original)
    assert adata.X.dtype == np.float32
    record = _provenance.read(adata, "normalize")
    assert record is not None
    assert (record["method"], record["size_factors"], record["target_sum"], record["n_empty"]) == (
        "log1p",
        "all",
        1e4,
        0,
    )
    assert "panel" not in record


@pytest.mark.parametrize("form", [sparse.csr_matrix, sparse.csc_matrix, sparse.csr_array])
def test_sparse_equals_dense_and_stays_sparse(form: type) -> None:
    dense, thin = counts_table(), counts_table()
    thin.X = form(thin.X)
    normalize(dense)
    normalize(thin)
    assert sparse.issparse(thin.X)
    assert thin.X.dtype == np.float32
    np.testing.assert_allclose(thin.X.toarray(), dense.X, rtol=1e-6)


def test_panel_size_factors() -> None:
    adata = counts_table()
    counts = adata.X.copy()
    normalize(adata, size_factors="panel", panel=["G1", "G4", "G5"], target_sum=100)
    totals = counts[:, [1, 4, 5]].sum(axis=1, keepdims=True)
    expected = np.log1p(np.divide(counts * 100, totals, out=np.zeros_like(counts), where=totals > 0))
    np.testing.assert_allclose(adata.X, expected, rtol=1e-5)
    assert _provenance.read(adata, "normalize")["panel"] == ["G1", "G4", "G5"]


def test_repeating_starts_from_the_counts() -> None:
    adata = counts_table()
    normalize(adata)
    once = adata.X.copy()
    normalize(adata, target_sum=10)
    assert not np.allclose(adata.X, once)
    normalize(adata)
    np.testing.assert_array_equal(adata.X, once)


def test_copy_leaves_the_original() -> None:
    adata = counts_table()
    before = adata.X.copy()
    changed = normalize(adata, copy=True)
    np.testing.assert_array_equal(adata.X, before)
    assert "counts" not in adata.layers
    assert not adata.uns
    normalize(adata)
    np.testing.assert_array_equal(changed.X, adata.X)


def test_empty_observations_are_zero_and_warned_about() -> None:
    adata = counts_table()
    adata.X[3] = 0
    with pytest.warns(UserWarning, match="1 of 12 observations have no counts"):
        normalize(adata)
    assert (adata.X[3] == 0).all()
    assert _provenance.read(adata, "normalize")["n_empty"] == 1


def test_unmeasured_observations_stay_as_they_are() -> None:
    adata = counts_table()
    adata.X[2] = np.nan
    adata.X[5] = 0
    adata.obs["measured"] = ~np.isin(np.arange(12), [2, 5])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        normalize(adata)
    assert np.isnan(adata.X[2]).all()
    assert (adata.X[5] == 0).all()
    assert np.isfinite(np.delete(adata.X, 2, axis=0)).all()


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda x: x + 0.5, {}, ValueError, "whole-number"),
        (lambda x: x - 5, {}, ValueError, "non-negative"),
        (lambda x: np.where(np.eye(12, 6) > 0, np.nan, x), {}, ValueError, "finite"),
        (lambda x: x, {"size_factors": "panel"}, ValueError, "panel"),
        (lambda x: x, {"size_factors": "panel", "panel": ["G1", "other"]}, KeyError, "other"),
        (lambda x: x, {"panel": ["G1"]}, ValueError, "size_factors='panel'"),
        (lambda x: x, {"size_factors": "none"}, ValueError, "size_factors"),
        (lambda x: x, {"target_sum": 0}, ValueError, "target_sum"),
        (lambda x: x, {"layer": "raw"}, KeyError, "raw"),
    ],
)
def test_errors_leave_the_object(change, options, error, match) -> None:
    adata = counts_table()
    adata.X = change(adata.X).astype(np.float32)
    before = adata.X.copy()
    with pytest.raises(error, match=match):
        normalize(adata, **options)
    np.testing.assert_array_equal(adata.X, before)
    assert not adata.uns
    assert not adata.layers


tables = arrays(np.int64, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=8), elements=st.integers(0, 500))


@settings(max_examples=40, deadline=None)
@given(counts=tables, target_sum=st.sampled_from([1.0, 1e4, 1e6]), times=st.integers(2, 5))
def test_properties_of_normalized_values(counts, target_sum, times):
    def normalized(values):
        adata = ad.AnnData(values.astype(np.float32))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # spots without counts are counted, and warned about
            normalize(adata, target_sum=target_sum)
            normalize(adata, target_sum=target_sum)  # starts from the counts again
        return np.asarray(adata.X.toarray() if sparse.issparse(adata.X) else adata.X)

    values = normalized(counts)
    filled = counts.sum(axis=1) > 0
    # Every spot holds the target in all, and depth does not matter.
    np.testing.assert_allclose(np.expm1(values.astype(np.float64)).sum(axis=1)[filled], target_sum, rtol=1e-4)
    assert (values[~filled] == 0).all()
    np.testing.assert_allclose(normalized(counts * times), values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(normalized(sparse.csr_matrix(counts)), values, rtol=1e-6)
