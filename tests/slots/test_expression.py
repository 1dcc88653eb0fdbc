"""Whether X is what its record says."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import scanpy as sc
from scipy import sparse

import stpredict as stp
from stpredict.core._moments import ROWS, columnwise
from stpredict.slots._expression import read_normalization, taken, to_dense

UNTOUCHED = {
    "as it was": lambda a: None,
    "fewer genes": lambda a: a[:, 1:4].copy(),
    "fewer rows": lambda a: a[::3].copy(),
    "sparse": lambda a: setattr(a, "X", sparse.csr_matrix(a.X)),
    "double": lambda a: setattr(a, "X", a.X.astype(np.float64)),
    "half": lambda a: setattr(a, "X", a.X.astype(np.float16)),
    "an unmeasured row": lambda a: a.X.__setitem__(0, np.nan),
    "no counts kept": lambda a: (a.layers.pop("counts"), sc.pp.normalize_total(a)),
}
CHANGED = {
    "normalized again": lambda a: sc.pp.normalize_total(a, target_sum=100),
    "log again": lambda a: setattr(a, "X", np.log1p(a.X)),
    "scaled": sc.pp.scale,
    "counts again": lambda a: setattr(a, "X", a.layers["counts"].copy()),
    "smoothed": lambda a: setattr(a, "X", (a.X + np.roll(a.X, 1, axis=0)) / 2),
}


@pytest.fixture(params=["log1p", "median", "pearson_residuals"])
def normalized(toy, request):
    """The toy object, normalized in each way."""
    options = {"method": "log1p", "target_sum": "median"} if request.param == "median" else {"method": request.param}
    stp.pp.normalize(toy, **options)
    return toy


@pytest.mark.parametrize("case", UNTOUCHED)
def test_what_keeps_the_record_true(normalized, case) -> None:
    method = normalized.uns["stpredict"]["normalize"]["method"]
    changed = UNTOUCHED[case](normalized)
    warnings.simplefilter("error")
    assert read_normalization(normalized if not hasattr(changed, "n_obs") else changed, None)["method"] == method


@pytest.mark.parametrize("case", CHANGED)
@pytest.mark.filterwarnings("ignore:invalid value encountered in log1p")
def test_x_that_was_changed_after_its_record(normalized, case) -> None:
    CHANGED[case](normalized)
    with pytest.warns(UserWarning, match=r"not as stp.pp.normalize left it.*'o0'.*normalize\(adata\) again.*layer="):
        read_normalization(normalized, None)


def test_a_fit_tells_it_too(toy) -> None:
    CHANGED["counts again"](toy)
    with pytest.warns(UserWarning, match="not as stp.pp.normalize left it"):
        stp.tl.fit(toy, "ridge")


def test_bulk_expression_that_was_changed(slides) -> None:
    slides.layers["fpkm_uq"] = np.exp2(slides.X) - 1
    assert read_normalization(slides, None)["unit"] == "fpkm-uq"
    slides.X = slides.X - slides.X.mean(axis=0)
    with pytest.warns(UserWarning, match="left it.*log2p1"):
        read_normalization(slides, None)


def test_normalized_values_of_others_are_told_the_way(toy) -> None:
    del toy.uns["stpredict"]["normalize"]
    toy.layers.clear()
    with pytest.raises(KeyError, match=r"target=stp.targets.Expression\(layer='mine'\)"):
        stp.tl.fit(toy, "ridge")
    with pytest.raises(ValueError, match=r"normalized already.*Expression\(layer='mine'\)"):
        stp.pp.normalize(toy)
    toy.layers["mine"] = toy.X
    model = stp.tl.fit(toy, "ridge", target=stp.targets.Expression(layer="mine"))
    assert model.normalization == {"method": "layer", "layer": "mine"}


def test_an_object_without_observations_is_named(toy) -> None:
    model = stp.tl.fit(toy, "ridge")
    with pytest.raises(ValueError, match="expected at least one observation; found an object without any"):
        stp.tl.predict(toy[:0].copy(), model)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_array])
@pytest.mark.parametrize("columns", [[3, 0], [0, 1, 2, 3]])
@pytest.mark.parametrize(
    "rows", [None, slice(1, 3), np.arange(5), np.array([4, 1]), np.array([True, False] * 2 + [True])]
)
def test_rows_and_columns_are_taken_as_one_after_the_other(form, columns, rows) -> None:
    values = np.random.default_rng(0).poisson(1.0, (5, 4)).astype(float)
    matrix = form(values)
    found = taken(matrix, rows, np.array(columns))
    expected = (values if rows is None else values[rows])[:, columns]
    np.testing.assert_array_equal(to_dense(found), expected)
    assert not np.shares_memory(getattr(found, "data", found), getattr(matrix, "data", matrix))


def test_columns_are_put_in_one_piece_a_block_of_rows_at_a_time() -> None:
    values = np.random.default_rng(0).normal(size=(ROWS + 3, 2)).astype(np.float32)
    found = columnwise(values)
    assert found.flags.f_contiguous
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, values)
    assert columnwise(found) is found
