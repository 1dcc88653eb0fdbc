"""Booleans as R, spreadsheets, joins and pandas leave them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from stpredict.slots._booleans import read_bool
from stpredict.slots._checks import as_mask
from stpredict.slots._expression import in_tissue, marked_measured

WANTED = np.array([True, False, False, True])
FORMS = {
    "bool": [True, False, False, True],
    "int": [1, 0, 0, 1],
    "float": [1.0, 0.0, 0.0, 1.0],
    "R": ["TRUE", "FALSE", "F", "T"],
    "words": ["yes", "No", "n", " Y "],
    "numbers as text": ["1", "0", "0.0", "1.0"],
    "quoted text": ['"True"', '"False"', "'0'", "'1'"],
    "bytes": [b"1", b"0", b"False", b"True"],
    "mixed": [True, "0", 0, "yes"],
}


@pytest.mark.parametrize("values", FORMS.values(), ids=FORMS)
def test_forms_mean_the_same(values) -> None:
    for column in (values, pd.Series(values), pd.Series(values, dtype=object), pd.Series(pd.Categorical(values))):
        np.testing.assert_array_equal(read_bool(column, "x"), WANTED)


@pytest.mark.parametrize(
    ("values", "dtype"),
    [
        ([1, 0, 0, 1], "uint8"),
        ([1, 0, 0, 1], "float16"),
        ([True, False, False, True], "boolean"),
        ([1, 0, 0, 1], "Int64"),
        (["1", "0", "0", "1"], "string"),
        (["true", "false", "false", "true"], "string[pyarrow]"),
        ([True, False, False, True], "bool[pyarrow]"),
        ([1, 0, 0, 1], "int64[pyarrow]"),
    ],
)
def test_types_of_pandas(values, dtype) -> None:
    np.testing.assert_array_equal(read_bool(pd.Series(values, dtype=dtype), "x"), WANTED)


GAPS = {
    "nan": pd.Series([1.0, np.nan, 0.0]),
    "none": pd.Series([True, None, False], dtype=object),
    "nullable": pd.Series([True, pd.NA, False], dtype="boolean"),
    "arrow": pd.Series(["1", None, "0"], dtype="string[pyarrow]"),
    "text": pd.Series(["TRUE", "NA", "FALSE"]),
    "empty text": pd.Series(["1", "", "0"]),
    "category": pd.Series(pd.Categorical(["1", None, "0"])),
}


@pytest.mark.parametrize("column", GAPS.values(), ids=GAPS)
def test_gaps_are_an_error_or_what_they_stand_for(column) -> None:
    with pytest.raises(ValueError, match=r"expected obs\['x'\].*found 1 of 3 values missing"):
        read_bool(column, "obs['x']")
    assert read_bool(column, "x", gaps=True).tolist() == [True, True, False]
    assert read_bool(column, "x", gaps=False).tolist() == [True, False, False]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([0, 2], "2"),
        ([0.5, 1.0], "0.5"),
        (["in", "out"], "'in'"),
        (["0", "maybe"], "'maybe'"),
        ([[1], [0, 2]], "other"),
    ],
)
def test_other_values_are_refused_by_name(values, found) -> None:
    with pytest.raises(TypeError, match=rf"expected obs\['x'\] to be boolean; found .*{found}"):
        read_bool(pd.Series(values), "obs['x']")


def test_unused_categories_have_no_say() -> None:
    column = pd.Series(pd.Categorical(["0", "1"], categories=["0", "1", "unknown"]))
    assert read_bool(column, "x").tolist() == [False, True]


def test_nothing_is_read_as_nothing() -> None:
    assert read_bool([], "x").shape == (0,)


@pytest.fixture
def adata() -> ad.AnnData:
    return ad.AnnData(obs=pd.DataFrame(index=list("abcd")))


@pytest.mark.parametrize("values", FORMS.values(), ids=FORMS)
def test_columns_of_an_object(adata, values) -> None:
    for key, read in (("in_tissue", in_tissue), ("measured", marked_measured)):
        adata.obs[key] = pd.Series(values, index=adata.obs_names, dtype=object)
        np.testing.assert_array_equal(read(adata), WANTED)
        np.testing.assert_array_equal(as_mask(adata, key), WANTED)


def test_where_a_column_says_nothing(adata) -> None:
    adata.obs["in_tissue"] = ["0", "1", None, "NA"]
    assert in_tissue(adata).tolist() == [False, True, True, True]
    with pytest.raises(ValueError, match="2 of 4 values missing"):
        as_mask(adata, "in_tissue")
    adata.obs["measured"] = "unknown"
    with pytest.raises(TypeError, match=r"obs\['measured'\].*'unknown'"):
        marked_measured(adata)


def test_masks_and_what_may_be_indices(adata) -> None:
    assert as_mask(adata, ["True", "False", "False", "True"]).tolist() == WANTED.tolist()
    assert as_mask(adata, pd.Series(WANTED, index=adata.obs_names, dtype="boolean")).tolist() == WANTED.tolist()
    with pytest.raises(ValueError, match="found int64"):
        as_mask(adata, np.array([1, 0, 0, 1]))


def test_after_a_text_file(adata, tmp_path) -> None:
    """A column that went through a CSV and h5ad: the same observations."""
    adata.obs["in_tissue"] = WANTED
    adata.obs.to_csv(tmp_path / "obs.csv")
    adata.obs = pd.read_csv(tmp_path / "obs.csv", index_col=0, dtype=str)
    adata.write_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(in_tissue(ad.read_h5ad(tmp_path / "a.h5ad")), WANTED)
