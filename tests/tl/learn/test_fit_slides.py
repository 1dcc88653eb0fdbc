"""Fitting and predicting where every observation is a slide."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import stpredict as stp
from stpredict.metrics import concordance, pearson
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import read_record, write_record
from stpredict.slots._rows import rows_of
from stpredict.slots._unit import unit_of
from stpredict.training import FittedModel, train_config

FOLLOW_UP = stp.targets.FollowUp("time", "event")
SMALL = {"depth": 1, "heads": 2, "d_head": 8}
QUICK = {"max_epochs": 60, "learning_rate": 3e-3, "patience": 10}


def train_mask(adata) -> np.ndarray:
    return ~adata.obs["patient"].isin(["p03", "p07", "p11"]).to_numpy()


def fitted(adata, **changes):
    options = {"hyperparameters": SMALL, "training": QUICK, "baselines": ()} | changes
    return stp.tl.fit(adata, "sequoia", train_mask(adata), **options)


def test_a_network_on_bags_learns_slides(slides) -> None:
    model = fitted(slides, baselines=("mean", "ridge"))
    stp.tl.predict(slides, model)
    known = train_mask(slides)
    frame = prediction_frame(slides, "predicted")
    assert frame.shape == slides.shape
    assert np.nanmean(pearson(slides.X[known], frame.to_numpy()[known])) > 0.6
    assert slides.obs["predicted_leaky"].to_numpy().tolist() == known.tolist()
    assert {"predicted_baseline_mean", "predicted_baseline_ridge"} <= set(slides.obsm)
    assert model.features["slots"]["X_toy"] == {"encoder": "toy", "fingerprint": "f", "dim": 5, "tile_um": 128.0}
    assert model.training.validated_on == "patient"


def test_saved_model_predicts_the_same(slides, tmp_path) -> None:
    model = fitted(slides, path=tmp_path / "model")
    stp.tl.predict(slides, model)
    before = slides.obsm["predicted"].copy()
    stp.tl.predict(slides, tmp_path / "model")
    np.testing.assert_array_equal(slides.obsm["predicted"], before)


def test_padding_and_order_of_slides_change_nothing(slides) -> None:
    model = fitted(slides)
    stp.tl.predict(slides, model)
    other = slides[::-1].copy()
    for key in ("X_toy_bag", "X_toy_bag_size"):
        values = other.obsm[key]
        other.obsm[key] = np.concatenate([values, np.zeros_like(values)], axis=1)
    stp.tl.predict(other, model, batch_size=5)
    np.testing.assert_allclose(other.obsm["predicted"][::-1], slides.obsm["predicted"], atol=1e-5)


def test_untrained_and_permuted_networks_are_kept_beside(slides) -> None:
    model = fitted(slides, baselines=("untrained", "permuted"))
    assert {name: part.model for name, part in model.baselines.items()} == {
        "untrained": "sequoia",
        "permuted": "sequoia",
    }
    stp.tl.predict(slides, model)
    known = train_mask(slides)
    own, untrained, permuted = (
        np.nanmean(pearson(slides.X[known], slides.obsm[key][known]))
        for key in ("predicted", "predicted_baseline_untrained", "predicted_baseline_permuted")
    )
    assert own > untrained + 0.3
    assert own > permuted + 0.3
    assert (
        prediction_frame(slides, "predicted_baseline_untrained").std() > 0
    ).all()  # a constant has no correlation to beat
    assert len(model.baselines["permuted"].history)
    assert not len(model.baselines["untrained"].history)


def test_ridge_and_mlp_read_the_mean_of_the_tiles(slides) -> None:
    known = train_mask(slides)
    model = stp.tl.fit(slides, "ridge", known)
    assert 0.001 <= float(model.network.alpha) < 10
    stp.tl.predict(slides, model)
    assert np.nanmean(pearson(slides.X[~known], slides.obsm["predicted"][~known])) > 0.8


def test_the_penalty_of_noise_is_large(slides) -> None:
    """Errors of slides are not centered on themselves: else every penalty would look alike."""
    slides.X = np.random.default_rng(1).normal(size=slides.shape).astype(np.float32)
    assert float(stp.tl.fit(slides, "ridge").network.alpha) >= 3


def test_an_outcome_becomes_a_risk(slides) -> None:
    known = train_mask(slides)
    model = fitted(slides, target=FOLLOW_UP, training={"max_epochs": 80, "patience": 0})
    assert model.panel == ["risk"]
    assert model.baselines == {}
    stp.tl.predict(slides, model)
    assert "predicted" not in slides.obsm
    obs = slides.obs
    assert concordance(obs["time"][known], obs["event"][known], obs["risk"][known]) > 0.7
    assert abs(obs["risk"][known].mean()) < 1e-5  # relative to the mean of the training set
    high = obs["risk_group"][known] == "high"
    assert high.mean() == 0.5  # the median of the training set
    assert obs["risk"][known][high].min() > obs["risk"][known][~high].max()
    assert obs["risk_leaky"].to_numpy().tolist() == known.tolist()


def test_no_leak_from_the_outcome_of_the_test_side(slides) -> None:
    one = fitted(slides, target=FOLLOW_UP, training={"max_epochs": 3})
    slides.obs.loc[~train_mask(slides), "time"] = 1e-3
    other = fitted(slides, target=FOLLOW_UP, training={"max_epochs": 3})
    for name, value in one.network.state_dict().items():
        assert (value == other.network.state_dict()[name]).all()


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda a: setattr(a, "obs", a.obs.assign(event=False)), ValueError, "at least one event"),
        (lambda a: setattr(a, "obs", a.obs.assign(time=0.0)), ValueError, "positive"),
        (lambda a: a.obs.pop("time"), KeyError, "time"),
        (lambda a: setattr(a, "obs", a.obs.assign(event=2)), ValueError, "0, 1 or boolean"),
        (lambda a: setattr(a, "obs", a.obs.assign(time=np.arange(1.0, 25))), ValueError, "p00"),
    ],
)
def test_bad_outcomes_are_refused(slides, frozen, change, error, match) -> None:
    change(slides)
    before = frozen(slides)
    with pytest.raises(error, match=match):
        stp.tl.fit(slides, "sequoia", target=FOLLOW_UP, hyperparameters=SMALL)
    assert frozen(slides) == before


def test_closed_forms_have_no_outcome(slides) -> None:
    with pytest.raises(ValueError, match="trained in steps"):
        stp.tl.fit(slides, "ridge", target=FOLLOW_UP)


def test_warm_start_takes_everything_but_the_head(slides, tmp_path) -> None:
    first = fitted(slides, path=tmp_path / "first")
    fewer = slides[:, :4].copy()
    fewer.obs["patient"] = "q" + fewer.obs["patient"].astype(str)
    start = {k: v.clone() for k, v in first.network.state_dict().items()}
    second = stp.tl.fit(fewer, tmp_path / "first", training={"learning_rate": 0.0}, baselines=())
    kept = second.network.state_dict()
    body = [k for k in kept if not k.startswith(("head.", "target_", "standardize."))]
    assert len(body) > 5
    assert all((kept[k] == start[k]).all() for k in body)
    assert second.training.pretraining_patients == first.training.patients
    stp.tl.predict(slides, second)
    assert slides.obs["predicted_leaky"].to_numpy().tolist() == train_mask(slides).tolist()


def test_warm_start_of_another_size_is_refused(slides) -> None:
    first = fitted(slides)
    with pytest.raises(ValueError, match="same hyperparameters"):
        stp.tl.fit(slides, first, hyperparameters={"depth": 2})
    with pytest.raises(ValueError, match="found a Sequoia"):
        stp.models.build("he2rna", 7, {"tokens": 5}).start_from(first.network)


def test_several_models_are_averaged(slides) -> None:
    models = [fitted(slides, seed=seed, training=QUICK | {"max_epochs": 5}) for seed in (0, 1, 2)]
    frames = []
    for model in models:
        stp.tl.predict(slides, model)
        frames.append(slides.obsm["predicted"])
    stp.tl.predict(slides, models)
    np.testing.assert_allclose(slides.obsm["predicted"], np.mean(frames, axis=0), rtol=1e-5)
    np.testing.assert_allclose(slides.obsm["predicted_std"], np.std(frames, axis=0, ddof=1), rtol=1e-2, atol=1e-4)
    assert read_record(slides, "predicted")["n_models"] == 3


def test_models_of_other_genes_are_not_averaged(slides, frozen) -> None:
    models = [fitted(slides, target=list(slides.var_names[:n]), training={"max_epochs": 1}) for n in (3, 4)]
    before = frozen(slides)
    with pytest.raises(ValueError, match="same panel"):
        stp.tl.predict(slides, models)
    with pytest.raises(ValueError, match="empty list"):
        stp.tl.predict(slides, [])
    assert frozen(slides) == before


@pytest.mark.parametrize(
    ("change", "options", "error", "match"),
    [
        (lambda a: a.obsm.pop("X_toy_bag"), {}, KeyError, "stp.pp.bag"),
        (lambda a: a.obsm.pop("X_toy_bag_size"), {}, KeyError, "stp.pp.bag"),
        (lambda a: a.obsm["X_toy_bag"].__setitem__((3, 1, 0), np.nan), {}, ValueError, "finite tokens"),
        (lambda a: a.obsm["X_toy_bag_size"].__setitem__(2, 0), {}, ValueError, "1 slides without any"),
        (lambda a: None, {"features": {"scaling": "section"}}, ValueError, "scaling='global'"),
        (lambda a: None, {"features": ["X_toy", "X_other"]}, ValueError, "found 2"),
        (lambda a: None, {"baselines": ("mlp",)}, ValueError, "closed form"),
    ],
)
def test_bad_bags_are_refused(slides, frozen, change, options, error, match) -> None:
    change(slides)
    before = frozen(slides)
    with pytest.raises(error, match=match):
        stp.tl.fit(slides, "sequoia", hyperparameters=SMALL, **options)
    assert frozen(slides) == before


def test_features_of_another_encoder_are_refused(slides) -> None:
    model = fitted(slides, training={"max_epochs": 1})
    slides.uns["stpredict"]["X_toy"]["tile_um"] = 64.0
    with pytest.raises(ValueError, match=r"tile_um: model 128.0, data 64.0"):
        stp.tl.predict(slides, model)


def test_model_of_slides_loads_without_the_object(slides, tmp_path) -> None:
    fitted(slides, path=tmp_path / "m", baselines=("permuted",))
    loaded = FittedModel.load(tmp_path / "m")
    assert loaded.model == "sequoia"
    assert loaded.baselines["permuted"].model == "sequoia"


def tiles_of(slides) -> ad.AnnData:
    """The tiles of a slide of an unknown patient, with the features of the bags."""
    row, col = np.divmod(np.arange(30), 6)
    obs = pd.DataFrame({"sample": "new", "array_row": row, "array_col": col, "tile_id": np.arange(30)})
    tiles = ad.AnnData(obs=obs.set_axis([f"t{i}" for i in range(30)]))
    tiles.obsm["X_toy"] = np.random.default_rng(5).normal(size=(30, 5)).astype(np.float32)
    write_record(tiles, "X_toy", read_record(slides, "X_toy"))
    return tiles


def test_a_map_of_risk_is_relative_to_the_training_set(slides) -> None:
    models = [fitted(slides, target=FOLLOW_UP, training={"max_epochs": 5}, seed=seed) for seed in (0, 1)]
    models[0].training.mean["model"] += 7  # as if the network had been off by a constant
    with torch.no_grad():
        models[0].network.head.mean.bias += 7
    tiles, bag = tiles_of(slides), slides[:1].copy()
    bag.obsm["X_toy_bag"] = tiles.obsm["X_toy"][None]
    bag.obsm["X_toy_bag_size"] = np.ones((1, 30), dtype=np.float32)
    stp.tl.predict(tiles, models, window=6, min_tiles=1)
    stp.tl.predict(bag, models)
    assert "risk_group" not in tiles.obs
    # Every window of 6 x 6 is the whole slide of 5 x 6 tiles.
    np.testing.assert_allclose(tiles.obs["risk"], bag.obs["risk"].iloc[0], rtol=1e-4, atol=1e-5)


def test_baselines_that_only_some_models_have_are_left_out(slides) -> None:
    models = [
        fitted(slides, baselines=names, training={"max_epochs": 1})
        for names in (("mean", "ridge"), ("untrained", "mean"))
    ]
    for members in (models, models[::-1]):
        stp.tl.predict(slides, members)
        assert [key for key in slides.obsm if "baseline" in key] == ["predicted_baseline_mean"]


def test_models_of_other_units_are_not_averaged(slides, frozen) -> None:
    models = [fitted(slides, training={"max_epochs": 1})]
    slides.uns["stpredict"]["normalize"]["unit"] = "tpm"
    models.append(fitted(slides, training={"max_epochs": 1}))
    before = frozen(slides)
    with pytest.raises(ValueError, match="same normalization"):
        stp.tl.predict(slides, models[::-1])
    assert frozen(slides) == before


def test_what_an_observation_is_is_said_and_never_guessed(slides) -> None:
    """A table of one slide is a table of slides; one row per sample alone is not."""
    assert unit_of(slides) == unit_of(slides[:1]) == "slide"
    rows = rows_of(slides[:1])
    assert (rows.unit, len(np.unique(rows_of(slides).section))) == ("slide", 1)
    del slides.uns["stpredict"]["unit"]
    assert unit_of(slides) == unit_of(slides[:1]) == "observation"
    assert len(np.unique(rows_of(slides).section)) == 24
    one = slides[:1].copy()
    stp.pp.as_slides(one)
    assert unit_of(one) == "slide"
    slides.obs["sample"] = slides.obs["patient"]
    with pytest.raises(ValueError, match="slides in obs"):
        stp.pp.as_slides(slides)
    assert unit_of(slides) == "observation"


def test_scores_of_slides_need_the_table_to_say_so(slides) -> None:
    slides.obsm["predicted"] = pd.DataFrame(slides.X + 0.1, slides.obs_names, slides.var_names)
    assert (stp.tl.evaluate(slides, metrics=["pearson"])["n_obs"] == 12).all()
    del slides.uns["stpredict"]["unit"]
    scores = stp.tl.evaluate(slides, metrics=["pearson"])
    assert (scores["n_obs"] == 1).all()
    assert set(scores["sample"]) == set(slides.obs["sample"])


def test_bags_without_their_mean_have_no_ridge_beside_them(slides) -> None:
    del slides.obsm["X_toy"]
    model = fitted(slides, baselines=("mean", "ridge"), training={"max_epochs": 1})
    assert list(model.baselines) == ["mean"]
    stp.tl.predict(slides, model)
    assert [key for key in slides.obsm if "baseline" in key] == ["predicted_baseline_mean"]


def test_baselines_record_the_settings_they_were_fitted_with(slides) -> None:
    model = fitted(slides, baselines=("ridge", "permuted"), training={"max_epochs": 1})
    assert model.baselines["permuted"].training.settings == model.training.settings
    assert model.training.settings["max_epochs"] == 1
    assert model.baselines["ridge"].training.settings == train_config("ridge").to_dict()


def test_scans_much_coarser_than_any_in_training_are_refused(slides) -> None:
    slides.uns["stpredict"]["X_toy"]["microns_per_pixel"] = {"s00": 0.25, "s01": 1.0}
    model = fitted(slides, training={"max_epochs": 1})
    for scale in (0.1, 1.4):
        slides.uns["stpredict"]["X_toy"]["microns_per_pixel"] = {"s00": scale}
        stp.tl.predict(slides, model)
    slides.uns["stpredict"]["X_toy"]["microns_per_pixel"] = {"s00": 0.25, "s01": 1.6}
    with pytest.raises(ValueError, match=r"coarsest_um_per_px: model 1.0, data 1.6"):
        stp.tl.predict(slides, model)
