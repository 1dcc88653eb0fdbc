from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import stpredict as stp
from stpredict.slots._positions import positions_of

XY = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])


def holding(values: object) -> ad.AnnData:
    adata = ad.AnnData(obs=pd.DataFrame(index=list("abc")))
    adata.obsm["spatial"] = values
    return adata


@pytest.mark.parametrize(
    "values",
    [
        XY.astype(np.int32),
        XY.astype(np.float16),
        XY.astype(object),
        sparse.csr_matrix(XY),
        pd.DataFrame(XY, index=list("abc"), columns=["x", "y"]),
        pd.DataFrame(XY.astype(int), index=list("abc"), columns=["x", "y"]).astype("Int64"),
        np.column_stack([XY, [9, 9, 9]]),
    ],
    ids=["int", "half", "objects", "sparse", "frame", "nullable", "three axes"],
)
def test_positions_of_any_number_type(values: object) -> None:
    found = positions_of(holding(values))
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, XY)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (XY + 1j, TypeError, r"numbers in obsm\['spatial'\]; found complex"),
        (XY.astype(str).astype(object), TypeError, r"objects such as '1.0' \(str\)"),
        (XY.astype("datetime64[s]"), TypeError, "datetime64"),
        (XY[:, :1], ValueError, r"expected x and y.*\(3, 1\)"),
        (XY * 1e300, ValueError, "float32"),
    ],
    ids=["complex", "text", "dates", "one axis", "too large"],
)
def test_what_are_no_positions_is_named(values: np.ndarray, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        positions_of(holding(values))


def test_functions_that_read_positions_ask_here(toy) -> None:
    stp.tl.predict(toy, stp.tl.fit(toy, "mean"))
    toy.obsm["spatial"] = toy.obsm["spatial"] + 1j
    calls = (
        lambda: stp.pp.spatially_variable(toy),
        lambda: stp.pp.grid(toy),
        lambda: stp.tl.fit(toy, "mclstexp", hyperparameters="small", training={"max_epochs": 1}),
        lambda: stp.pl.maps(toy, list(toy.var_names[:1])),
        lambda: stp.tl.emd(toy),
    )
    for call in calls:
        with pytest.raises(TypeError, match="complex"):
            call()
