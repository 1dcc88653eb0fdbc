"""Values in columns of `obs` and slots of `obsm`."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stpredict.slots._values import content_of, read_values, value_names


@pytest.fixture
def table() -> ad.AnnData:
    adata = ad.AnnData(obs=pd.DataFrame(index=[f"o{i}" for i in range(30)]))
    adata.obsm["scores"] = np.random.default_rng(0).random((30, 2))
    return adata


KINDS: dict[str, Any] = {
    "float16": lambda x: x.astype(np.float16),
    "float64": lambda x: x,
    "integers": lambda x: (100 * x).astype(np.int16),
    "objects": lambda x: x.astype(object),
    "sparse": sparse.csr_matrix,
    "sparse columns": sparse.csc_array,
    "frame": lambda x: pd.DataFrame(x, [f"o{i}" for i in range(30)], ["a", "b"]),
    "nullable": lambda x: pd.DataFrame(x, [f"o{i}" for i in range(30)], ["a", "b"]).astype("Float64"),
    "mixed": lambda x: pd.DataFrame({"a": x[:, 0], "b": (9 * x[:, 1]).astype(int)}, [f"o{i}" for i in range(30)]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_slots_of_any_number_type(table: ad.AnnData, kind: str) -> None:
    values = table.obsm["scores"].copy()
    table.obsm["scores"] = KINDS[kind](values)
    frame = read_values(table, "scores")
    expected = KINDS[kind](values)
    expected = expected.toarray() if sparse.issparse(expected) else np.asarray(expected)
    np.testing.assert_allclose(frame.to_numpy(), expected.astype(np.float64))
    assert frame.to_numpy().dtype == np.float64
    assert list(frame.index) == list(table.obs_names)
    assert list(frame.columns) == (
        ["scores_0", "scores_1"] if not hasattr(table.obsm["scores"], "iloc") else ["a", "b"]
    )


def test_names_stand_in_the_frame_or_in_uns(table: ad.AnnData) -> None:
    table.uns["scores_names"] = np.array(["OPC", "hypoxia"])
    assert value_names(table, "scores") == ["OPC", "hypoxia"]
    assert list(read_values(table, "scores", ["hypoxia"])) == ["hypoxia"]
    np.testing.assert_array_equal(read_values(table, "scores", ["hypoxia"])["hypoxia"], table.obsm["scores"][:, 1])
    table.uns["scores_names"] = ["OPC"]
    with pytest.raises(ValueError, match=r"one name for each of the 2 columns.*uns\['scores_names'\]; found 1"):
        read_values(table, "scores")
    table.uns["scores_names"] = ["OPC", "OPC"]
    with pytest.raises(ValueError, match="unique names of the columns"):
        read_values(table, "scores")


def test_gaps_are_kept(table: ad.AnnData) -> None:
    table.obs["a"] = pd.array([1.5, None] * 15, dtype="Float32")
    table.obs["b"] = pd.array([1, None] * 15, dtype="Int8")
    frame = read_values(table, "obs", ["a", "b"])
    assert frame.isna().sum().tolist() == [15, 15]
    assert frame.iloc[0].tolist() == [1.5, 1]


WRONG: dict[str, tuple[Any, type[Exception], str]] = {
    "booleans": (lambda x: x > 0.5, TypeError, "found booleans.*Classes"),
    "text": (lambda x: x.astype(str), TypeError, "expected numbers"),
    "complex": (lambda x: x + 1j, TypeError, "complex"),
    "three axes": (lambda x: x[..., None], ValueError, r"\(n_obs, n_values\).*shape \(30, 2, 1\)"),
    "infinite": (lambda x: np.where(x > x.max() - 1e-9, np.inf, x), ValueError, r"infinity in 1 rows.*'scores_"),
    "nothing": (lambda x: x[:, :0], ValueError, "shape"),
    "categories": (
        lambda x: pd.DataFrame({"a": pd.Categorical(x[:, 0])}, [f"o{i}" for i in range(30)]), TypeError, "found categories",
    ),
    "nullable booleans": (
        lambda x: pd.DataFrame({"a": pd.array(x[:, 0] > 0.5, dtype="boolean")}, [f"o{i}" for i in range(30)]),
        TypeError, "found booleans",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", WRONG)
def test_what_are_no_values_is_named(table: ad.AnnData, kind: str) -> None:
    make, error, message = WRONG[kind]
    table.obsm["scores"] = make(table.obsm["scores"])
    with pytest.raises(error, match=message):
        read_values(table, "scores")


def test_what_is_missing_is_named(table: ad.AnnData) -> None:
    for call in (lambda: read_values(table, "nowhere"), lambda: read_values(table, "obs", ["nowhere"])):
        with pytest.raises(KeyError, match="nowhere"):
            call()
    with pytest.raises(KeyError, match="scores_0, scores_1; found scores_2"):
        read_values(table, "scores", ["scores_2"])
    with pytest.raises(KeyError, match="an empty list"):
        read_values(table, "scores", [])


COLUMNS: dict[str, tuple[Any, str]] = {
    "booleans": ([True, False] * 15, "classes"),
    "booleans with gaps": (pd.array([True, None] * 15, dtype="boolean"), "classes"),
    "objects of booleans": (np.array([True, None] * 15, dtype=object), "classes"),
    "text": (["fat", "stroma"] * 15, "classes"),
    "clusters, as scanpy names them": (pd.Categorical([str(i % 6) for i in range(30)]), "classes"),
    "categories of whole numbers": (pd.Categorical([i % 3 for i in range(30)]), "classes"),
    "fractions": (np.linspace(0, 1, 30), "numbers"),
    "half precision": (np.linspace(0, 1, 30).astype(np.float16), "numbers"),
    "objects of numbers": (np.array([0.5, None, 3] * 10, dtype=object), "numbers"),
    "whole numbers of many kinds": (np.arange(30), "numbers"),
    "nullable fractions": (pd.array([0.5, None] * 15, dtype="Float64"), "numbers"),
    "nothing known": (np.full(30, np.nan), "numbers"),
    "whole numbers of few kinds": (np.arange(30) % 4, "either"),
    "0 and 1": (np.arange(30) % 2, "either"),
    "0 and 1 with gaps": (np.where(np.arange(30) % 7, np.arange(30) % 2, np.nan), "either"),
    "nullable whole numbers": (pd.array([1, None] * 15, dtype="Int64"), "either"),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_what_a_column_holds(table: ad.AnnData, kind: str) -> None:
    values, content = COLUMNS[kind]
    table.obs["column"] = values
    assert content_of(table.obs["column"], "obs['column']") == content


@pytest.mark.parametrize(
    "values",
    [
        [f"{i / 10}" for i in range(30)],
        [str(i) for i in range(30)],
        pd.Categorical(np.linspace(0, 1, 30)),
        pd.array([f"{i / 7:.2f}" for i in range(30)], dtype="string"),
        [0.5, "0.25"] * 15,
    ],
    ids=["fractions", "whole numbers", "categories", "string type", "both"],
)
def test_text_that_reads_as_numbers_is_refused(table: ad.AnnData, values: Any) -> None:
    table.obs["column"] = values
    with pytest.raises(ValueError, match=r"obs\['column'\]; found .* that reads as numbers.*to_numeric.*Classes"):
        content_of(table.obs["column"], "obs['column']")
