"""Genes that the test sections helped to choose, brought in by another door than the column that says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp

Attempt = Callable[[ad.AnnData], tuple[ad.AnnData, Any]]
N_SELECTED = 6


@pytest.fixture
def selected(cohort: ad.AnnData) -> ad.AnnData:
    """Six of sixteen genes selected on all patients."""
    stp.pp.select_genes(cohort, "mean", n_genes=N_SELECTED)
    return cohort


def chosen(adata: ad.AnnData, key: str = "selected") -> list[str]:
    return list(adata.var_names[adata.var[key].to_numpy(dtype=bool)])


def rest(adata: ad.AnnData) -> list[str]:
    return [gene for gene in adata.var_names if gene not in chosen(adata)]


def as_a_list(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    return adata, chosen(adata)


def in_another_order(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    return adata, np.array(chosen(adata)[::-1])


def half_of_it(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    return adata, chosen(adata)[::2]


def with_other_genes(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    return adata, chosen(adata) + rest(adata)[:4]


def as_genes_of_interest(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    genes = chosen(adata)
    return adata, stp.targets.Expression(panel=genes[:2], always=genes[2:])


def beside_a_selection(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    return adata, {"panel": {"method": "mean", "n_genes": 2}, "always": chosen(adata)}


def as_a_method(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    return adata, {"panel": {"method": chosen(adata)}}


def given_as_a_list(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    stp.pp.select_genes(adata, chosen(adata))
    return adata, None


def given_under_another_name(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    stp.pp.select_genes(adata, chosen(adata), key_added="mine")
    return adata, "mine"


def without_its_column(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    genes = chosen(adata)
    del adata.var["selected"]
    return adata, genes


def copied_column(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    adata.var["mine"] = adata.var.pop("selected")
    return adata, "mine"


def cut(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    return adata[:, chosen(adata)].copy(), None


def cut_without_the_column(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    adata = adata[:, chosen(adata)].copy()
    del adata.var["selected"]
    return adata, None


def cut_and_selected_again(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    adata, _ = cut_without_the_column(adata)
    return adata, {"panel": {"method": "mean", "n_genes": 4}}


def cut_twice(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    adata, _ = cut_without_the_column(adata)
    return adata[:, ::2].copy(), None


def without_its_record(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    del adata.uns["stpredict"]["selected"]
    return adata, None


def a_list_without_its_record(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    del adata.uns["stpredict"]["selected"]
    return adata, chosen(adata)


def another_column_without_its_record(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    del adata.uns["stpredict"]["selected"]
    adata.var["mine"] = adata.var.pop("selected").astype(str)
    return adata, "mine"


def joined_without_records(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    joined = ad.concat([adata[:98].copy(), adata[98:].copy()], merge="same")
    joined.uns["stpredict"] = {name: adata.uns["stpredict"][name] for name in ("normalize", "X_color-texture")}
    return joined, None


def joined_with_the_first_record(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    return ad.concat([adata[:98].copy(), adata[98:].copy()], merge="first", uns_merge="first"), None


def under_an_older_record(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    """Genes of all patients in the column of a selection on those of the training."""
    stp.pp.select_genes(adata, rest(adata))
    adata.var["selected"] = adata.var_names.isin([*rest(adata)[:5], *chosen(adata)[:1]])
    stp.pp.select_genes(adata, "mean", n_genes=5, train=np.arange(adata.n_obs) < 196)
    adata.var["selected"] = adata.var["selected"].to_numpy() ^ (np.arange(adata.n_vars) < 8)
    return adata, None


def _highly_variable(adata: ad.AnnData) -> None:
    import scanpy as sc

    del adata.var["selected"], adata.uns["stpredict"]["selected"]
    sc.pp.highly_variable_genes(adata, n_top_genes=6)


def highly_variable(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    _highly_variable(adata)
    return adata, "highly_variable"


def highly_variable_list(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    _highly_variable(adata)
    return adata, chosen(adata, "highly_variable")[1:]


def cut_to_highly_variable(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    _highly_variable(adata)
    return adata[:, adata.var["highly_variable"]].copy(), None


def cut_to_highly_variable_without_the_column(adata: ad.AnnData) -> tuple[ad.AnnData, Any]:
    adata, _ = cut_to_highly_variable(adata)
    adata.var = adata.var[[]]
    return adata, None


ATTEMPTS = [
    as_a_list, in_another_order, half_of_it, with_other_genes, as_genes_of_interest, beside_a_selection, as_a_method,
    given_as_a_list, given_under_another_name, without_its_column, copied_column, cut, cut_without_the_column,
    cut_and_selected_again, cut_twice, without_its_record, a_list_without_its_record, another_column_without_its_record,
    joined_without_records, joined_with_the_first_record, under_an_older_record, highly_variable, highly_variable_list,
    cut_to_highly_variable, cut_to_highly_variable_without_the_column,
]  # fmt: skip


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_a_panel_that_saw_the_test_is_refused_or_marked(selected: ad.AnnData, ask, attempt: Attempt) -> None:
    adata, target = attempt(selected)
    told = ask.validated(adata, target=target)
    assert told in ({"refused"}, {True}, {"unknown"})
    if told == {"refused"}:
        told = ask.validated(adata, target=target, allow_leakage=True)
        assert told in ({True}, {"unknown"}), "allowed, and then not marked"


def test_a_model_with_such_a_panel_says_so_of_new_patients(selected: ad.AnnData, ask) -> None:
    with pytest.raises(ValueError, match=r"the listed genes to be those of uns.*'selected'.*selected on P2, P3 too"):
        ask.fitted(selected, "P1", target=chosen(selected))
    model = ask.fitted(selected, "P1", target=chosen(selected), allow_leakage=True)
    assert model.training.panel_patients == ["P2", "P3"]
    new = selected.copy()
    stp.tl.predict(new, model)
    assert new.obs["predicted_leaky"].all()
    adata, _ = cut_without_the_column(selected)
    with pytest.raises(ValueError, match=r"the genes of this object to be those of uns.*selected on P2, P3 too"):
        ask.fitted(adata, "P1")


def test_a_small_part_of_a_selection_is_unknown(ask) -> None:
    adata = stp.datasets.synthetic_cohort(2, 1, 60, n_spots=30, counts_per_spot=3000, microns_per_pixel=4.0)
    adata.obsm["X_f"] = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    adata.uns["stpredict"]["X_f"] = {"encoder": "f"}
    stp.pp.normalize(adata)
    stp.pp.select_genes(adata, "mean", n_genes=20)
    genes = chosen(adata)
    assert ask.validated(adata, target=genes[:6]) == {"unknown"}
    assert ask.validated(adata, target=genes[:6] + rest(adata)[:2]) == {False}
    assert ask.validated(adata, target=genes[:4]) == {False}  # a few markers lie in any selection
    assert ask.validated(adata, target=rest(adata)[:12]) == {False}


def test_genes_chosen_by_hand_and_on_the_training_are_clean(cohort: ad.AnnData, ask) -> None:
    assert ask.validated(cohort, target=list(cohort.var_names[:3])) == {False}
    cohort.var["mt"] = np.arange(16) < 3
    cohort.var["protein_coding"] = True
    assert ask.validated(cohort, target=list(cohort.var_names[:3])) == {False}
    known = cohort.obs["patient"].astype(str).isin(["P1", "P2"]).to_numpy()
    stp.pp.select_genes(cohort, "mean", n_genes=6, train=known)
    genes = chosen(cohort)
    for adata, target in ((cohort, None), (cohort, genes), (cohort[:, genes].copy(), None), (cohort, rest(cohort)[:1])):
        assert ask.predicted(ask.part(cohort, "P3"), ask.fitted(adata, "P1", "P2", target=target)) == {False}
    assert ask.validated(cohort, target={"panel": {"method": "mean", "n_genes": 6}}) == {False}
    cohort.var_names = [f"ENSG{i}" for i in range(16)]
    assert ask.fitted(cohort, "P1", "P2").panel == chosen(cohort)
