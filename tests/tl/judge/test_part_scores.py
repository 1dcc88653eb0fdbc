"""Scores of a section some genes at a time."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.tl.judge import _part_scores


@pytest.fixture(scope="module")
def predicted(_cohort: ad.AnnData) -> ad.AnnData:
    adata = _cohort.copy()
    model = stp.tl.fit(adata, "ridge", train=adata.obs["patient"] == "P1")
    stp.tl.predict(adata, model)
    values = np.array(adata.obsm["predicted"])
    values[adata.obs["array_row"] == adata.obs["array_row"].min()] = np.nan  # a fold that tests part of a section
    values[(adata.obs["sample"] == "P2_S1").to_numpy(), 3] = np.nan  # and one whose panel lacks a gene
    adata.obsm["predicted"] = values
    return adata


@pytest.mark.parametrize("given", [(), ("array_row",)])
def test_a_few_genes_at_a_time_have_the_scores_of_all(
    predicted: ad.AnnData, given: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stp.tl.evaluate(predicted, given=given)
    monkeypatch.setattr(_part_scores, "_HELD", 5 * 49)  # genes of a section of 49 spots
    parts = stp.tl.evaluate(predicted, given=given)
    pd.testing.assert_frame_equal(parts, whole, rtol=1e-12, atol=1e-12)
    assert list(parts.columns) == list(whole.columns)
    lacking = whole[(whole["sample"] == "P2_S1") & (whole["model"] == "ridge")]
    assert len(lacking) == 15
    assert (lacking["n_obs"] < 49).all()


def test_genes_stay_together_where_a_score_is_of_all_of_them(
    predicted: ad.AnnData, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_part_scores, "_HELD", 49)
    some = stp.tl.evaluate(predicted, habits=("panel", "ranked"))
    monkeypatch.undo()
    pd.testing.assert_frame_equal(some, stp.tl.evaluate(predicted, habits=("panel", "ranked")))
