from __future__ import annotations

import numpy as np
import pytest

import stpredict as stp

pytestmark = pytest.mark.filterwarnings("ignore:the figure shows section")


@pytest.fixture
def table(scores):
    """Of gene C the shown patient thinks most, of A the others."""
    table = scores[scores["model"] == "ridge"].copy()
    best = {
        "p1": dict(zip("ABCD", (0.1, 0.2, 0.9, 0.3), strict=True)),
        "p2": dict(zip("ABCD", (0.7, 0.5, 0.1, 0.2), strict=True)),
    }
    table["pearson"] = [best[patient][gene] for patient, gene in zip(table["patient"], table["gene"], strict=True)]
    return table


def test_genes_are_ranked_on_others(adata, table) -> None:
    axes = stp.pl.top_genes(adata, table, 2, sample="s1")
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["A", "B"]
    assert not any("picked here" in ax.get_title() for ax in axes.ravel())
    # On the other patient, the genes that the first one thinks most of.
    assert [ax.get_ylabel() for ax in stp.pl.top_genes(adata, table, 2, sample="s2")[:, 0]] == ["C", "D"]


def test_the_prediction_of_the_model_is_drawn(adata, table) -> None:
    adata.obsm["predicted_ridge"] = adata.obsm["predicted"] * 0 + np.arange(50)[:, None]
    drawn = stp.pl.top_genes(adata, table, 1, sample="s1")[0, 2].collections[0].get_array()
    np.testing.assert_array_equal(drawn, np.arange(30))
    drawn = stp.pl.top_genes(adata, table, 1, sample="s1", key="predicted")[0, 2].collections[0].get_array()
    np.testing.assert_allclose(drawn, adata.obsm["predicted"]["A"][:30])


def test_nobody_left_to_rank_on(adata, table) -> None:
    with pytest.raises(ValueError, match="expected"):
        stp.pl.top_genes(adata, table, sample="all")
    with pytest.raises(KeyError, match="patient_key"):
        stp.pl.top_genes(adata, table, patient_key="donor")
