"""Matrices of the types that other programs leave in X, layers and obsm; objects that stay in their file."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import stpredict as stp
from stpredict.slots._container import get_table
from stpredict.slots._features import feature_matrix
from stpredict.slots._matrix import check_float32, dense_matrix, numeric_matrix

VALUES = np.array([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]])
SAME = {
    "float16": VALUES.astype(np.float16),
    "objects": VALUES.astype(int).astype(object),
    "csr": sparse.csr_matrix(VALUES),
    "csc array": sparse.csc_array(VALUES.astype(np.int16)),
    "coo": sparse.coo_matrix(VALUES),
    "frame": pd.DataFrame(VALUES),
    "nullable frame": pd.DataFrame(VALUES).astype({0: "Int64", 1: "Float32"}),
    "arrow frame": pd.DataFrame(VALUES).astype("double[pyarrow]"),
    "sparse frame": pd.DataFrame.sparse.from_spmatrix(sparse.csr_matrix(VALUES)),
    "frame of objects": pd.DataFrame(VALUES.astype(object)),
    "bool": VALUES > 0,
}


@pytest.mark.parametrize("values", SAME.values(), ids=SAME)
def test_same_numbers(values) -> None:
    found = dense_matrix(values, "x")
    assert isinstance(found, np.ndarray)
    assert found.dtype.kind in "iufb"
    assert found.dtype != np.float16
    np.testing.assert_array_equal(found, VALUES > 0 if found.dtype == bool else VALUES)


def test_plain_matrices_are_not_copied() -> None:
    for values in (VALUES, VALUES.astype(np.float32), sparse.csr_matrix(VALUES)):
        assert numeric_matrix(values, "x") is values


def test_missing_numbers_stay_missing() -> None:
    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": [None, 2.0]})
    np.testing.assert_array_equal(dense_matrix(frame, "x"), [[1, np.nan], [np.nan, 2]])


@pytest.mark.parametrize(
    "values",
    [
        np.array([["1", "2"]]),
        np.array([[1.0, "two"]], dtype=object),
        np.array([[1 + 2j]]),
        sparse.csr_matrix(np.array([[1j]])),
        pd.DataFrame({"a": ["x"]}),
        pd.DataFrame({"a": pd.Categorical([1])}),
        pd.DataFrame({"a": pd.array(["x"], dtype="string")}),
        pd.DataFrame({"a": pd.to_datetime(["2020-01-01"])}),
    ],
)
def test_what_is_no_number_is_refused_by_name(values) -> None:
    with pytest.raises(TypeError, match=r"expected numbers in obsm\['X_f'\]; found"):
        dense_matrix(values, "obsm['X_f']")


def test_numbers_beyond_single_precision() -> None:
    check_float32(np.array([[1e38, np.nan, np.inf]]), "counts")
    for values in (np.array([[1e308]]), np.array([[-1e39]]), sparse.csr_matrix([[1e39]])):
        with pytest.raises(ValueError, match="expected counts of at most"):
            check_float32(values, "counts")


@pytest.mark.parametrize("form", ["float16", "csr", "nullable frame", "arrow frame"])
def test_features_of_any_form(form) -> None:
    adata = ad.AnnData(obs=pd.DataFrame(index=["a", "b"]))
    values = SAME[form]
    if hasattr(values, "set_axis"):
        values = values.set_axis(adata.obs_names).rename(columns=str)
    adata.obsm["X_f"] = values
    np.testing.assert_array_equal(feature_matrix(adata, "X_f"), VALUES)


@pytest.mark.parametrize("dtype", [np.float16, object, np.int8, np.uint16, np.float64])
@pytest.mark.parametrize("make", [np.asarray, sparse.csr_matrix, sparse.csc_matrix])
def test_counts_of_any_type_are_normalized_alike(dtype, make) -> None:
    counts = np.random.default_rng(0).poisson(4, (6, 5))
    if make is not np.asarray and dtype in (np.float16, object):
        matrix = make(counts).astype(np.float32)
        matrix.data = matrix.data.astype(dtype)
    else:
        matrix = make(counts.astype(dtype))
    found, wanted = (ad.AnnData(np.zeros((6, 5), np.float32), layers={"raw": x}) for x in (matrix, counts))
    for adata in (found, wanted):
        stp.pp.normalize(adata, layer="raw")
    np.testing.assert_array_equal(dense_matrix(found.X, "X"), dense_matrix(wanted.X, "X"))


@pytest.fixture
def backed(tmp_path):
    adata = ad.AnnData(
        sparse.csr_matrix(np.ones((4, 3), np.float32)), obs=pd.DataFrame({"sample": "a"}, index=list("wxyz"))
    )
    adata.layers["counts"] = adata.X.copy()
    adata.write_h5ad(tmp_path / "a.h5ad")
    opened = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    yield opened
    opened.file.close()


@pytest.mark.parametrize("layer", [None, "counts"])
def test_backed_objects_are_refused_by_what_to_call(backed, layer) -> None:
    calls = (
        lambda data: stp.pp.normalize(data, layer=layer),
        lambda data: stp.pp.select_genes(data, "mean", n_genes=1),
        lambda data: stp.pp.filter_genes(data, gene_types=None, min_median=0),
        lambda data: stp.get.predicted(data),
        lambda data: stp.io.from_tables(
            data, pd.DataFrame({"x": 1.0, "y": 1.0}, index=list("wxyz")), microns_per_pixel=1
        ),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"backed by .*a\.h5ad.*to_memory\(\)"):
            call(backed)
    with pytest.raises(ValueError, match="backed"):
        get_table(backed[:2])
    stp.pp.normalize(backed.to_memory())
