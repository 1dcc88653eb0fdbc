"""The ridge on several features, on the same folds."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp

METRIC = {"metrics": ["pearson"], "n_boot": 100}
ALIGN: dict[str, Any] = {
    "hyperparameters": {"n_embedding": 4, "depth": 1},
    "training": {"max_epochs": 2, "patience": 0},
}


def lines(table: Any) -> Any:
    return table.set_index(["metric", "features"])


def test_the_same_features_have_no_difference_and_worse_ones_a_negative_one(toy: ad.AnnData) -> None:
    toy.obsm["X_noise"] = np.random.default_rng(5).normal(size=(72, 4)).astype(np.float32)
    toy.uns["stpredict"]["X_noise"] = {"encoder": "noise"}
    keys = set(toy.obsm)
    table = lines(stp.tl.linear_probe(toy, {"before": "X_toy", "same": "X_toy", "noise": "X_noise"}, **METRIC))
    assert np.isnan(table.loc[("pearson", "before"), "delta"])
    assert table.loc[("pearson", "same"), ["delta", "delta_low", "delta_high"]].tolist() == [0, 0, 0]
    noise, before = table.loc[("pearson", "noise")], table.loc[("pearson", "before")]
    assert noise["delta_high"] < 0
    np.testing.assert_allclose(noise["delta"], noise["score"] - before["score"], atol=1e-12)
    assert set(toy.obsm) - keys >= {"probe_before", "probe_same", "probe_noise"}
    assert set(table["leaky"]) == {False}
    # The scores are those of cross-validation, and the interval is that of the differences of patients.
    scores = stp.tl.cross_validate(toy, "ridge", features="X_toy", metrics=["pearson"], baselines=False, ceiling=False)
    np.testing.assert_allclose(before["score"], stp.tl.summarize(scores)["pearson"].iloc[0])
    per_patient = {
        key: stp.tl.evaluate(toy, f"probe_{key}", metrics=["pearson"], baselines=False, ceiling=False)
        .groupby(["patient", "sample"], observed=True)["pearson"].mean().groupby("patient", observed=True).mean()
        for key in ("before", "noise")
    }  # fmt: skip
    difference = per_patient["noise"] - per_patient["before"]
    expected = stp.metrics.bootstrap_mean(difference.to_numpy(), n_boot=100)
    np.testing.assert_allclose(noise[["delta", "delta_low", "delta_high"]].astype(float), expected, atol=1e-9)


def test_models_are_read_in_their_own_fold(toy: ad.AnnData) -> None:
    folds = stp.cohorts.leave_one_patient_out(toy)
    models = [stp.tl.align(toy, "X_toy", train=fold.train, **ALIGN) for fold in folds]
    kept = toy.copy()
    table = lines(stp.tl.linear_probe(toy, {"before": "X_toy", "after": models}, folds, **METRIC))
    assert set(table["leaky"]) == {False}
    assert table["n_patients"].tolist() == [3, 3]
    # By hand, in the last fold: a ridge on the embeddings by its own model.
    fold, model = folds[-1], models[-1]
    stp.tl.embed(kept, model)
    ridge = stp.tl.fit(kept, "ridge", fold.train, features="aligned_image", baselines=False)
    stp.tl.predict(kept, ridge)
    np.testing.assert_allclose(toy.obsm["probe_after"][fold.test], kept.obsm["predicted"][fold.test], atol=1e-5)
    assert "X_probed" not in toy.obsm
    # One model that saw everybody, or those of other folds, is no honest probe.
    one = lines(stp.tl.linear_probe(toy, {"before": "X_toy", "after": models[0]}, folds, **METRIC))
    assert one["leaky"].tolist() == [False, True]


def test_every_metric_has_a_line(toy: ad.AnnData) -> None:
    table = stp.tl.linear_probe(toy, {"a": "X_toy", "b": {"slot": "X_toy", "scaling": "section"}}, 3, n_boot=50)
    assert table["metric"].tolist() == [
        m for m in ("pearson", "pearson_residual", "deviance_explained") for _ in range(2)
    ]
    assert table["score"].notna().all()
    assert table["n_genes"].eq(6).all()


def test_what_cannot_be_probed_is_refused(toy: ad.AnnData) -> None:
    model = stp.tl.align(toy, "X_toy", **ALIGN)
    with pytest.raises(ValueError, match="expected features to probe"):
        stp.tl.linear_probe(toy, {})
    with pytest.raises(ValueError, match="one model for each of the 3 folds"):
        stp.tl.linear_probe(toy, {"a": [model, model]})
    toy.obs["kind"] = np.where(np.arange(72) % 2, "a", "b")
    with pytest.raises(ValueError, match="expected expression or values"):
        stp.tl.linear_probe(toy, {"a": "X_toy"}, target="kind")
    with pytest.raises(ValueError, match="expected folds by patient"):
        stp.tl.linear_probe(
            toy, {"a": "X_toy"}, [stp.cohorts.Fold("x", np.arange(72) > 9, np.arange(72) < 5, within=True)]
        )
