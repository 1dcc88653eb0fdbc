from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from stpredict.slots._covariates import read_covariates
from stpredict.tl.outcomes._clinical import ClinicalEncoder


def encoded(training: Any, later: Any) -> np.ndarray:
    encoder = ClinicalEncoder.from_dict(ClinicalEncoder(cohort(training)).to_dict())
    return encoder.read(ad.AnnData(obs=pd.DataFrame({"a": later}, index=[f"q{i}" for i in range(len(later))])))


def cohort(values: Any) -> pd.DataFrame:
    obs = pd.DataFrame({"a": values}, index=[f"p{i}" for i in range(len(values))])
    return read_covariates(ad.AnnData(obs=obs), ["a"], "name it")


@pytest.mark.parametrize("values", [[3.0] * 4, [1.0, 1 + 1e-6, 1 - 1e-6, 1.0], [0, 0, 0, 0]])
def test_what_was_constant_says_nothing_later(values: list[float]) -> None:
    assert encoded(values, [1e6, -3.0, 2.0]).tolist() == [[0], [0], [0]]


@pytest.mark.parametrize(
    "values",
    [
        np.array([60, 62, 64], dtype=np.float16),
        pd.array([60, 62, 64], dtype="Int64"),
        np.array([60, 62.0, np.int16(64)], dtype=object),
        pd.array([60, 62, 64], dtype="double[pyarrow]"),
    ],
    ids=["half", "nullable", "objects", "arrow"],
)
def test_numbers_of_any_type_are_standardized(values: Any) -> None:
    scale = np.std([60, 62, 64])
    np.testing.assert_allclose(encoded(values, [62, 66])[:, 0], [0, 4 / scale], rtol=1e-6)


def test_numbers_with_gaps_among_objects_are_numbers() -> None:
    np.testing.assert_allclose(encoded([60.0, None, 64.0], [62.0, np.nan])[:, 0], [0, 0])
    assert encoded(["60", "62", "64"], ["62", None]).tolist() == [[0, 1, 0], [0, 0, 0]]  # text is a category


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (np.ones(3) + 1j, TypeError, "complex"),
        (np.array([1 + 2j, 3, 4], dtype=object), TypeError, "object"),
        (pd.date_range("2020", periods=3), TypeError, "datetime64"),
        (pd.date_range("2020", periods=3, tz="UTC"), TypeError, "datetime64"),
        (pd.timedelta_range("1d", periods=3), TypeError, "timedelta64"),
        ([1.0, np.inf, 2.0], ValueError, "infinity"),
        ([1.0, 1e300, 2.0], ValueError, "float32"),
    ],
    ids=["complex", "complex objects", "dates", "dates with a zone", "spans", "infinite", "too large"],
)
def test_what_is_neither_number_nor_category_is_named(values: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=rf"numbers or categories in obs\['a'\].*{message}"):
        cohort(values)
