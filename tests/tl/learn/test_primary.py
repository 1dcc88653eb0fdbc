"""Auxiliary genes from a table to a prediction: chosen on training rows, scored on the primary genes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.training import FittedModel

PRIMARY = {"n_primary": 3, "max_epochs": 3, "cut_pairs": 1, "mask_temperature": 0.2}
TRAIN = ("p0", "p1")


def of(adata: ad.AnnData) -> np.ndarray:
    return adata.obs["patient"].isin(TRAIN).to_numpy()


def fitted(adata: ad.AnnData, **options: Any) -> FittedModel:
    training = PRIMARY | options.pop("training", {"auxiliary": "dkgsb"})
    return stp.tl.fit(adata, "mlp", of(adata), training=training, **{"baselines": False} | options)


@pytest.mark.parametrize(("counts", "gene_loss"), [(False, "own"), (True, "own"), (False, "pearson")])
def test_the_whole_way(toy: ad.AnnData, tmp_path: Path, counts: bool, gene_loss: str) -> None:
    target = stp.targets.Counts() if counts else None
    training = {"auxiliary": "dkgsb", "gene_loss": gene_loss}
    model = fitted(
        toy, target=target, training=training, baselines=["mean", "ridge", "untrained", "permuted"], path=tmp_path / "m"
    )
    facts = model.training.auxiliary
    assert (len(model.panel), len(facts["genes"]), model.network.n_outputs) == (3, 3, 6)
    assert set(model.panel) | set(facts["genes"]) == set(toy.var_names)
    assert f"3 genes beside {facts['n_kept']} of 3 auxiliary genes" in repr(model)
    toy.var["aux_weight"] = model.aux_weight
    assert (toy.var.loc[model.panel, "aux_weight"] == 1).all()
    np.testing.assert_allclose(toy.var.loc[facts["genes"], "aux_weight"], facts["weight"])
    assert all(part.panel == model.panel for part in model.baselines.values())
    stp.tl.predict(toy, model)
    first = toy.obsm["predicted"].copy()
    assert list(stp.get.predicted(toy).var_names) == model.panel
    again = FittedModel.load(tmp_path / "m")
    assert (again.training.auxiliary, again.panel) == (facts, model.panel)
    pd.testing.assert_series_equal(again.aux_weight, model.aux_weight)
    stp.tl.predict(toy, again)
    np.testing.assert_array_equal(toy.obsm["predicted"], first)
    assert set(stp.tl.evaluate(toy)["gene"]) & set(toy.var_names) == set(model.panel)


@pytest.mark.filterwarnings("ignore:X is not as stp.pp.normalize left it")
def test_ranking_and_panel_come_from_training_rows_alone(toy: ad.AnnData) -> None:
    before = fitted(toy)
    changed = toy.copy()
    rows = ~of(toy)
    changed.X[rows] = np.random.default_rng(0).exponential(5, size=(rows.sum(), toy.n_vars))
    after = fitted(changed)
    assert after.panel == before.panel
    assert after.training.auxiliary == before.training.auxiliary
    changed = toy.copy()
    changed.X[~rows] = changed.X[~rows][:, ::-1]
    assert fitted(changed).panel != before.panel


def test_all_models_of_a_call_are_scored_on_the_primary_genes(toy: ad.AnnData) -> None:
    models = {
        "plain": {"model": "mlp", "training": {"max_epochs": 3}},
        "all": {"model": "mlp", "training": PRIMARY | {"auxiliary": "all"}},
        "cut": {"model": "mlp", "training": PRIMARY | {"auxiliary": "dkgsb"}},
    }
    given = list(toy.var_names[:3])
    for entry in models.values():
        entry["training"]["primary"] = given  # type: ignore[index]
    table = stp.tl.cross_validate(toy, models, baselines=["mean", "ridge"])
    assert {"plain", "all", "cut", "mean", "ridge"} <= set(table["model"])
    for _, part in table.groupby("model"):
        assert set(part["gene"]) & set(toy.var_names) == set(given)
    plain = stp.tl.cross_validate(toy, {"plain": models["plain"]}, target=given, baselines=["ridge"])
    both = [t[t["model"].isin(["plain", "ridge"])].reset_index(drop=True) for t in (table, plain)]
    assert len(both[0]) == len(both[1]) > 0
    np.testing.assert_array_equal(both[0]["pearson"], both[1]["pearson"])  # as if there were no other model


def test_what_does_not_go_together_is_named(toy: ad.AnnData) -> None:
    entry = {"model": "mlp", "training": PRIMARY | {"auxiliary": "all"}}
    other = {"model": "mlp", "training": PRIMARY | {"auxiliary": "all", "n_primary": 2}}
    with pytest.raises(ValueError, match="one n_primary, and one list of primary genes, for all models of a call"):
        stp.tl.cross_validate(toy, {"a": entry, "b": other}, baselines=False)
    toy.obs["kind"] = np.where(np.arange(toy.n_obs) % 2, "a", "b")
    with pytest.raises(ValueError, match="expected auxiliary='all' with a target of genes"):
        fitted(toy, training={"auxiliary": "all"}, target="kind")
    with pytest.raises(ValueError, match="found 'ridge'; those without such a loss are"):
        stp.tl.fit(toy, "ridge", training={"auxiliary": "all"})
