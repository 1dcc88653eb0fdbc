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

from stpredict.pp._normalize import normalize
from stpredict.slots._provenance import read_record, write_record


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
    assert normalize(adata, method="log1p") is None
    np.testing.assert_allclose(adata.X, reference.X, rtol=1e-5)
    np.testing.assert_array_equal(adata.layers["counts"], original)
    assert adata.X.dtype == np.float32
    record = read_record(adata, "normalize")
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
    normalize(dense, method="log1p")
    normalize(thin, method="log1p")
    assert sparse.issparse(thin.X)
    assert thin.X.dtype == np.float32
    np.testing.assert_allclose(thin.X.toarray(), dense.X, rtol=1e-6)


def test_panel_size_factors() -> None:
    adata = counts_table()
    counts = adata.X.copy()
    normalize(adata, size_factors="panel", panel=["G1", "G4", "G5"], method="log1p", target_sum=100)
    totals = counts[:, [1, 4, 5]].sum(axis=1, keepdims=True)
    expected = np.log1p(np.divide(counts * 100, totals, out=np.zeros_like(counts), where=totals > 0))
    np.testing.assert_allclose(adata.X, expected, rtol=1e-5)
    assert read_record(adata, "normalize")["panel"] == ["G1", "G4", "G5"]


def test_repeating_starts_from_the_counts() -> None:
    adata = counts_table()
    normalize(adata, method="log1p")
    once = adata.X.copy()
    normalize(adata, method="log1p", target_sum=10)
    assert not np.allclose(adata.X, once)
    normalize(adata, method="log1p")
    np.testing.assert_array_equal(adata.X, once)


def test_copy_leaves_the_original() -> None:
    adata = counts_table()
    before = adata.X.copy()
    changed = normalize(adata, method="log1p", copy=True)
    np.testing.assert_array_equal(adata.X, before)
    assert "counts" not in adata.layers
    assert not adata.uns
    normalize(adata, method="log1p")
    np.testing.assert_array_equal(changed.X, adata.X)


def test_empty_observations_are_zero_and_warned_about() -> None:
    adata = counts_table()
    adata.X[3] = 0
    with pytest.warns(UserWarning, match="1 of 12 observations have no counts"):
        normalize(adata, method="log1p")
    assert (adata.X[3] == 0).all()
    assert read_record(adata, "normalize")["n_empty"] == 1


def test_large_residuals_are_announced_before_they_take_memory(monkeypatch) -> None:
    monkeypatch.setattr("stpredict.pp._normalize._LARGE_GIB", 100 / 2**30)  # 5 × 5 values of 4 bytes
    table = ad.AnnData(sparse.csr_matrix(np.arange(1.0, 31.0).reshape(5, 6)))
    with warnings.catch_warnings():  # an error stops where the warning is: before anything was made
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match=r"5 observations and 6 genes.*GiB.*filter_genes.*method='log1p'"):
            normalize(table)
        assert "counts" not in table.layers
        normalize(table, method="log1p", copy=True)
        fewer = table[:, :5].copy()
        normalize(fewer)
    with pytest.warns(UserWarning, match="take 0.0 GiB"):
        normalize(table)
    assert isinstance(table.X, np.ndarray)


def test_unmeasured_observations_stay_as_they_are() -> None:
    adata = counts_table()
    adata.X[2] = np.nan
    adata.X[5] = 0
    adata.obs["measured"] = ~np.isin(np.arange(12), [2, 5])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        normalize(adata, method="log1p")
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
        (lambda x: x, {"method": "log1p", "target_sum": 0}, ValueError, "target_sum"),
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
            normalize(adata, method="log1p", target_sum=target_sum)
            normalize(adata, method="log1p", target_sum=target_sum)  # starts from the counts again
        return np.asarray(adata.X.toarray() if sparse.issparse(adata.X) else adata.X)

    values = normalized(counts)
    filled = counts.sum(axis=1) > 0
    # Every spot holds the target in all, and depth does not matter.
    np.testing.assert_allclose(np.expm1(values.astype(np.float64)).sum(axis=1)[filled], target_sum, rtol=1e-4)
    assert (values[~filled] == 0).all()
    np.testing.assert_allclose(normalized(counts * times), values, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(normalized(sparse.csr_matrix(counts)), values, rtol=1e-6)


def bulk_table(thin: bool = False) -> ad.AnnData:
    values = np.random.default_rng(1).gamma(0.5, 400.0, (8, 5)).astype(np.float32)
    values[values < 20] = 0
    names = [f"G{i}" for i in range(5)]
    return ad.AnnData(sparse.csr_matrix(values) if thin else values, var=pd.DataFrame(index=names))


@pytest.mark.parametrize("thin", [False, True])
@pytest.mark.parametrize(("unit", "layer"), [("fpkm-uq", "fpkm_uq"), ("tpm", "tpm")])
def test_log2_of_bulk_expression(unit: str, layer: str, thin: bool) -> None:
    adata = bulk_table(thin)
    linear = bulk_table().X
    assert normalize(adata, unit=unit) is None
    values = adata.X.toarray() if thin else adata.X
    assert sparse.issparse(adata.X) == thin
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, np.log2(linear.astype(float) + 1), rtol=1e-6)
    kept = adata.layers[layer].toarray() if thin else adata.layers[layer]
    np.testing.assert_array_equal(kept, linear)
    record = read_record(adata, "normalize")
    assert (record["method"], record["unit"], record["n_empty"]) == ("log2p1", unit, 0)
    assert not {"size_factors", "target_sum", "panel"} & set(record)
    normalize(adata, unit=unit)  # starts from the layer
    np.testing.assert_array_equal(adata.X.toarray() if thin else adata.X, values)


def test_bulk_from_a_named_layer_and_unmeasured_slides() -> None:
    adata = bulk_table()
    adata.layers["raw"] = adata.X.copy()
    adata.X[:] = 0
    adata.layers["raw"][3] = np.nan
    adata.layers["raw"][5, 2] = -7.0
    adata.obs["measured"] = np.arange(8) != 5
    normalize(adata, unit="fpkm-uq", layer="raw")
    assert np.isnan(adata.X[3]).all()
    others = [0, 1, 2, 4, 6, 7]
    np.testing.assert_allclose(adata.X[others], np.log2(bulk_table().X[others] + 1), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a: a.X.__setitem__((2, 1), -0.5), "non-negative FPKM-UQ values on the linear scale; found -0.5"),
        (lambda a: a.X.__setitem__((2, 1), np.nan), r"found NaN or infinity in 1 rows \(first: 2\)"),
        (lambda a: a.X.__setitem__((2, 1), np.inf), "found NaN or infinity"),
        (lambda a: write_record(a, "normalize", {"method": "log1p"}), r"layers\['fpkm_uq'\].*\(log1p, counts\)"),
    ],
)
def test_bulk_that_cannot_be(change: object, message: str, frozen: object) -> None:
    adata = bulk_table()
    change(adata)
    before = frozen(adata)
    with pytest.raises(ValueError, match=message):
        normalize(adata, unit="fpkm-uq")
    assert frozen(adata) == before


@pytest.mark.parametrize(
    "option", [{"size_factors": "panel", "panel": ["G1"]}, {"panel": ["G1"]}, {"target_sum": 1e6}, {"method": "log1p"}]
)
def test_options_without_sense_for_bulk(option: dict) -> None:
    with pytest.raises(ValueError, match="with unit='tpm', which is scaled already"):
        normalize(bulk_table(), unit="tpm", **option)


def test_bulk_warnings() -> None:
    adata = bulk_table()
    adata.X = np.log2(adata.X + 1)
    with pytest.warns(UserWarning, match="looks like log2 of FPKM-UQ"):
        normalize(adata, unit="fpkm-uq")
    adata = bulk_table()
    adata.X[4] = 0
    with pytest.warns(UserWarning, match="1 of 8 observations have no expression"):
        normalize(adata, unit="fpkm-uq")
    with pytest.raises(ValueError, match="expected unit to be one of"):
        normalize(bulk_table(), unit="fpkm")
    with pytest.raises(KeyError, match=r"layers\['raw'\]"):
        normalize(bulk_table(), unit="tpm", layer="raw")


def test_a_model_of_bulk_expression_refuses_counts() -> None:
    from stpredict.tl.learn.targets._base import slots_of
    from stpredict.training.targets import ExpressionTarget

    bulk, counts = bulk_table(), counts_table()
    normalize(bulk, unit="fpkm-uq")
    normalize(counts, method="log1p")
    fitted = ExpressionTarget(tuple(bulk.var_names), read_record(bulk, "normalize"))
    slots_of("expression").check(bulk, fitted)
    with pytest.raises(ValueError, match="'method': 'log2p1'.*'method': 'log1p'"):
        slots_of("expression").check(counts, fitted)


def sections_table(thin: bool = False) -> ad.AnnData:
    """Three sections of different depths and proportions; some spots of the last are off tissue or not measured."""
    rng = np.random.default_rng(0)
    share = rng.dirichlet(np.full(8, 6.0), 3)[np.repeat([0, 1, 2], 10)]
    counts = rng.poisson(share * rng.uniform(20, 90, (30, 1)) * np.repeat([1, 3, 2], 10)[:, None]).astype(np.float32)
    obs = {"sample": np.repeat(["a", "b", "c/1"], 10), "in_tissue": np.arange(30) < 28, "measured": np.arange(30) != 21}
    adata = ad.AnnData(
        sparse.csr_matrix(counts) if thin else counts, obs=pd.DataFrame(obs, index=[str(i) for i in range(30)])
    )
    adata.var_names = [f"G{i}" for i in range(8)]
    return adata


@pytest.mark.parametrize("thin", [False, True])
def test_residuals_are_of_each_section_by_itself(thin: bool) -> None:
    import scanpy as sc

    adata = sections_table(thin)
    dense = np.asarray(sections_table().X)
    normalize(adata, method="pearson_residuals", theta=20)
    assert adata.X.dtype == np.float32
    for name, rows in (("a", slice(0, 10)), ("b", slice(10, 20))):
        reference = ad.AnnData(dense[rows])
        sc.experimental.pp.normalize_pearson_residuals(reference, theta=20)
        np.testing.assert_allclose(adata.X[rows], reference.X, rtol=1e-4, atol=1e-5, err_msg=name)
    # In the third, what is measured on tissue says what a proportion is, and all spots are compared with it.
    inside = np.setdiff1d(np.arange(20, 28), [21])
    share = dense[inside].sum(axis=0) / dense[inside].sum()
    mean = dense[29].sum() * share
    expected = np.clip((dense[29] - mean) / np.sqrt(mean + mean**2 / 20), -np.sqrt(7), np.sqrt(7))
    np.testing.assert_allclose(adata.X[29], expected, rtol=1e-4)
    record = read_record(adata, "normalize")
    found = {name: record[name] for name in ("method", "theta", "size_factors", "sample_key", "n_empty")}
    assert found == {
        "method": "pearson_residuals", "theta": 20.0, "size_factors": "all", "sample_key": "sample", "n_empty": 0,
    }  # fmt: skip
    assert "target_sum" not in record
    np.testing.assert_array_equal(adata.obs["depth"], dense.sum(axis=1))
    np.testing.assert_array_equal(np.asarray(adata[:, :3].obs["depth"]), dense.sum(axis=1))


def test_median_of_the_section() -> None:
    adata = sections_table()
    counts = adata.X.copy()
    normalize(adata, method="log1p", target_sum="median")
    depth = counts.sum(axis=1)
    medians = [np.median(depth[:10]), np.median(depth[10:20]), np.median(depth[np.setdiff1d(np.arange(20, 28), [21])])]
    expected = np.log1p(counts / depth[:, None] * np.repeat(medians, 10)[:, None])
    np.testing.assert_allclose(adata.X, expected, rtol=1e-5)
    record = read_record(adata, "normalize")
    assert record["target_sum"] == "median"
    assert record["section_sums"] == dict(zip(["a", "b", "c/1"], map(float, medians), strict=True))
    one = sections_table()
    del one.obs["sample"]
    normalize(one, method="log1p", target_sum="median")
    assert list(read_record(one, "normalize")["section_sums"]) == [""]


@pytest.mark.parametrize("target_sum", [1e4, 100, "median"])
def test_a_total_asks_for_log1p(target_sum) -> None:
    adata, named = sections_table(), sections_table()
    normalize(adata, target_sum=target_sum)
    normalize(named, method="log1p", target_sum=target_sum)
    np.testing.assert_array_equal(adata.X, named.X)
    assert read_record(adata, "normalize") == read_record(named, "normalize")


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "sqrt"}, "method"),
        ({"method": "pearson_residuals", "target_sum": "median"}, "expected method='log1p' with target_sum='median'"),
        ({"method": "log1p", "theta": 10}, "no theta with method='log1p'"),
        ({"method": "pearson_residuals", "theta": 0}, "theta"),
        ({"method": "pearson_residuals", "clip": -1}, "clip"),
        ({"method": "log1p", "target_sum": "mean"}, "target_sum"),
    ],
)
def test_options_that_do_not_go_together(options: dict, match: str) -> None:
    adata = sections_table()
    before = adata.copy()
    with pytest.raises(ValueError, match=match):
        normalize(adata, **options)
    np.testing.assert_array_equal(adata.X, before.X)
    assert list(adata.obs) == list(before.obs)
    assert not adata.layers


def test_residuals_of_empty_sections_and_unmeasured_spots() -> None:
    adata = sections_table()
    adata.X[:10] = 0
    adata.X[12] = np.nan
    with pytest.warns(UserWarning, match="10 of 28 observations have no counts"):
        normalize(adata, method="pearson_residuals")
    assert not adata.X[:10].any()
    assert np.isnan(adata.X[12]).all()
    assert np.isfinite(np.delete(adata.X, 12, axis=0)).all()
    assert adata.X[10:12].any()


def test_slides_are_compared_with_each_other() -> None:
    """A slide is no section: alone, it would have no residuals."""
    from stpredict.slots._unit import say_slides

    adata = sections_table()[:12].copy()
    adata.obs["sample"] = adata.obs_names
    say_slides(adata)
    normalize(adata, method="pearson_residuals")
    assert np.abs(adata.X).max() > 0.5
