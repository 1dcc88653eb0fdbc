"""What a prediction is compared with."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from stpredict.slots._prediction import main_predictions, what_columns, write_predictions
from stpredict.slots._truth import check_of_genes, measured_of, measured_values_of, predicts_values, truth_of


@pytest.fixture
def both(toy):
    """A prediction of genes, and one of values that are named as genes are; one value of one observation is not known."""
    toy.obsm["proteins"] = pd.DataFrame(np.arange(144.0).reshape(72, 2), toy.obs_names, ["G1", "CD8"])
    toy.obsm["proteins"].iloc[3, 1] = np.nan
    toy.obs["age"] = np.arange(72.0)
    genes = toy.to_df()[["G1", "G0"]]
    write_predictions(toy, "genes", {"genes": genes}, {"model": "ridge"})
    record = {"model": "ridge", "values_in": "proteins"}
    frame = toy.obsm["proteins"].fillna(0)
    write_predictions(toy, "values", {"values": frame, "values_baseline_mean": frame * 0}, record, names="values")
    write_predictions(toy, "ages", {"ages": toy.obs[["age"]]}, {"values_in": "obs"}, names="values")
    return toy


def test_the_record_says_what_it_is(both) -> None:
    genes, values, ages = (truth_of(both, key) for key in ("genes", "values", "ages"))
    assert genes.is_expression
    assert (genes.where, values.where, ages.where) == ("X", "obsm['proteins']", "obs")
    np.testing.assert_allclose(genes.read(["G1"])[:, 0], both.X[:, 1])
    np.testing.assert_allclose(values.read(["G1"], np.array([2, 5]))[:, 0], [4, 10])
    np.testing.assert_allclose(ages.read(["age"])[:, 0], np.arange(72))
    assert genes.measured.all()
    assert np.flatnonzero(~values.measured).tolist() == [3]
    both.obs["measured"] = False  # of the expression
    assert not truth_of(both, "genes").measured.any()
    assert truth_of(both, "values").measured.sum() == 71


def test_what_lies_beside_a_prediction_is_of_the_same(both) -> None:
    assert predicts_values(both, "values_baseline_mean")
    assert what_columns(both, "values_baseline_mean") == "values"
    assert main_predictions(both) == ["genes", "values", "ages"]


@pytest.mark.parametrize("key", ["genes", "values"])
def test_measured_values(both, key: str) -> None:
    values = measured_of(both, key, ["G1"])
    expected = both.X[:, [1]] if key == "genes" else both.obsm["proteins"][["G1"]].to_numpy()
    np.testing.assert_allclose(values, expected)
    frame = measured_values_of(both, key, ["G1", "nowhere"])
    assert list(frame) == ["G1"]
    np.testing.assert_allclose(frame, expected)
    del both.obsm["proteins"]
    assert list(measured_values_of(both, "values", ["G1"])) == []


def test_errors(both) -> None:
    assert check_of_genes(both, "genes") is None
    with pytest.raises(ValueError, match=r"prediction of genes in obsm\['values'\]; found one of values \(proteins\)"):
        check_of_genes(both, "values")
    with pytest.raises(
        ValueError, match=r"one target; found obsm\['genes'\] with expression, obsm\['values'\] with proteins"
    ):
        truth_of(both, ["genes", "values"])
    for call in (truth_of, lambda a, k, layer: measured_values_of(a, k, ["G1"], layer)):
        with pytest.raises(ValueError, match="no `layer=` for predictions of values"):
            call(both, "values", layer="counts")
    with pytest.raises(KeyError, match="G1, CD8; found G0"):
        truth_of(both, "values").check(["G0"])
    del both.obsm["proteins"]
    with pytest.raises(KeyError, match=r"obsm\['proteins'\].*put the values that were measured there"):
        truth_of(both, "values")
