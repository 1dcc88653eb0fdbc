"""Outcome models on another cohort: saved and read, the same numbers, and errors for what they cannot read."""

from __future__ import annotations

import json
from dataclasses import replace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import stpredict as stp
from stpredict.tl.outcomes._fit_outcome import BASELINES
from stpredict.tl.outcomes._result import OutcomeResult
from stpredict.training._digests import config_digest
from stpredict.training.targets import ClassTarget

pytest.importorskip("lifelines")

QUICK = {
    "n_folds": (2, 2), "hyperparameters": {"depths": (1,), "dims": (6,), "drop_path": 0.1},
    "training": {"max_epochs": 12, "learning_rate": 0.03, "patience": 6},
}  # fmt: skip
CLINICAL = ["age", "stage"]


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make(seed: int, n: int, prefix: str, shape=(8, 7)) -> tuple[ad.AnnData, dict[str, ad.AnnData]]:
    """Slides, and the observations of each; a patient with a high first gene is at risk."""
    rng = np.random.default_rng(seed)
    hidden = rng.normal(size=n)
    until, censored = rng.exponential(np.exp(-3 * hidden)), rng.exponential(2, n)
    obs = pd.DataFrame(
        {
            "patient": [f"{prefix}{i}" for i in range(n)],
            "time": np.minimum(until, censored),
            "event": until <= censored,
            "response": pd.Categorical(np.where(hidden > 0, "yes", "no"), ["yes", "no"]),
            "age": rng.normal(60, 10, n),
            "stage": rng.choice(["I", "II", "III"], n),
        },
        index=[f"{prefix}s{i}" for i in range(n)],
    )
    maps = {}
    for name, shift in zip(obs.index, hidden, strict=True):
        row, col = np.nonzero(rng.random(shape) < 0.8)
        cells = pd.DataFrame({"sample": name, "grid_row": row, "grid_col": col}, [f"{i}" for i in range(len(row))])
        cells["predicted_leaky"] = False
        values = rng.normal(5, 2, size=(len(row), 3))
        values[:, 0] += 2 * shift
        frame = pd.DataFrame(values, cells.index, ["g0", "g1", "g2"])
        maps[name] = ad.AnnData(obs=cells, obsm={"predicted": frame, "X_toy": rng.normal(size=(len(row), 2))})
        maps[name].uns["stpredict"] = {
            "grid": {"lattice": {name: "hex"}},
            "predicted": {"model": "hist", "seed": 0},
            "X_toy": {"encoder": "toy", "microns_per_pixel": {name: 0.5}},
        }
    return ad.AnnData(obs=obs), maps


def fit(target):
    slides, maps = make(0, 48, "a")
    options = QUICK | {"clinical": CLINICAL, "baselines": [*BASELINES, "X_toy"]}
    return slides, maps, stp.tl.fit_outcome(slides, target, maps=maps, **options)


@pytest.fixture(scope="module")
def survival():
    return fit(stp.targets.FollowUp("time", "event"))


@pytest.fixture(scope="module")
def response():
    return fit("response")


@pytest.fixture
def others():
    return make(1, 60, "b")


def test_survival_of_another_cohort(survival, others) -> None:
    _, _, result = survival
    slides, maps = others
    assert stp.tl.predict_outcome(slides, result, maps=maps, device="cpu") is None
    names = ["clinical", "mean map", "clinical + mean map", "image features"]
    assert {"risk", "risk_group", "risk_leaky", *(f"risk_baseline_{name}" for name in names)} <= set(slides.obs)
    assert not slides.obs["risk_leaky"].any()
    table = stp.tl.survival(slides, n_boot=20).iloc[0]
    assert table["c_index"] > 0.75
    assert table["logrank_p"] < 0.01
    high = slides.obs["risk_group"] == "high"
    assert slides.obs.loc[high, "risk"].min() > slides.obs.loc[~high, "risk"].max()
    assert 0.3 < high.mean() < 0.7
    record = slides.uns["stpredict"]["risk"]
    assert record["target"] == {"kind": "follow_up", "time": "time", "event": "event"}
    assert len(record["training_patients"]) == 48


def test_response_of_another_cohort(response, others) -> None:
    _, _, result = response
    slides, maps = others
    copy = stp.tl.predict_outcome(slides, result, maps=maps, copy=True)
    assert "response_probability" not in slides.obs
    # "no" is the second category, and has the lower first gene.
    record = copy.uns["stpredict"]["response_probability"]["target"]
    assert (record["kind"], record["key"], record["classes"].tolist()) == ("classes", "response", ["yes", "no"])
    assert result.model.target == ClassTarget("response", ("yes", "no"))
    assert result.model.panel == ["no"]
    probability = copy.obs["response_probability"]
    assert (
        probability[slides.obs["response"] == "no"].mean() > probability[slides.obs["response"] == "yes"].mean() + 0.3
    )
    assert probability.between(0, 1).all()
    assert copy.obs["response_probability_baseline_mean map"].between(0, 1).all()
    alone = stp.tl.predict_outcome(copy, result, maps=maps, copy=True, baselines=False, key_added="p")
    np.testing.assert_array_equal(alone.obs["p"], probability)
    assert not [name for name in alone.obs if name.startswith("p_baseline")]
    stp.tl.predict_outcome(copy, result, maps=maps, baselines=False)
    assert not [name for name in copy.obs if "baseline" in name]


def test_network_on_all_patients(response) -> None:
    slides, _, result = response
    config = result.model.network.config
    n = slides.obs["response"].value_counts()
    assert config.class_weights == pytest.approx((24 / n["yes"], 24 / n["no"]))
    assert config.lattice == "hex"
    assert not result.model.network.training
    assert result.model.training.n_epochs == len(result.history.query("fold < 0"))
    assert result.model.training.patients == sorted(slides.obs["patient"])


def test_risk_is_relative_to_the_training_slides(survival) -> None:
    slides, maps, result = survival
    copy = stp.tl.predict_outcome(slides, result, maps=maps, copy=True)
    risks = [name for name in copy.obs if name == "risk" or name.startswith("risk_baseline")]
    assert len(risks) == 5
    np.testing.assert_allclose(copy.obs[risks].mean(), 0, atol=1e-5)
    assert (copy.obs["risk_group"] == "high").mean() == 0.5
    assert copy.obs["risk_leaky"].all()
    assert "risk_fold" not in copy.obs
    assert "risk_fold" in slides.obs
    assert np.corrcoef(copy.obs["risk"], result.predictions["convnext"])[0, 1] > 0.5


def test_saved_and_read(survival, response, others, tmp_path) -> None:
    slides, maps = others
    for _, _, result in (survival, response):
        path = result.save(tmp_path / "model")  # the second replaces the first
        files = {file.name for file in path.iterdir()}
        assert files == {
            "config.json", "panel.tsv", "weights.safetensors", "scores.csv", "predictions.csv", "history.csv"
        }  # fmt: skip
        found = OutcomeResult.load(path)
        for name in ("scores", "predictions", "history"):
            pd.testing.assert_frame_equal(
                getattr(found, name), getattr(result, name), check_names=False, rtol=0, atol=0
            )
        for name in ("model", "target", "panel", "features", "training"):
            assert getattr(found.model, name) == getattr(result.model, name)
        assert found.model.network.config == result.model.network.config
        assert repr(found.model) == repr(result.model)
        wanted = stp.tl.predict_outcome(slides, result, maps=maps, copy=True)
        for model in (path, str(path), found, found.model):
            again = stp.tl.predict_outcome(slides, model, maps=maps, copy=True)
            pd.testing.assert_frame_equal(again.obs, wanted.obs)
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    wanted.write_h5ad(tmp_path / "slides.h5ad")


def test_failed_saving_leaves_the_earlier_result(survival, response, tmp_path, monkeypatch) -> None:
    path = survival[2].save(tmp_path / "model")
    monkeypatch.setattr(pd.DataFrame, "to_csv", lambda *args, **kwargs: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        response[2].save(path)
    monkeypatch.undo()
    assert OutcomeResult.load(path).model.target.kind == "follow_up"
    assert [file.name for file in tmp_path.iterdir()] == ["model"]
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="other files in"):
        survival[2].save(tmp_path / "notes")
    assert (tmp_path / "notes" / "a.txt").read_text() == "mine"


def test_damaged_results(survival, tmp_path) -> None:
    path = survival[2].save(tmp_path / "model")

    def fails(error, match, name, content) -> None:
        before = (path / name).read_bytes()
        (path / name).write_bytes(content(before))
        with pytest.raises(error, match=match):
            OutcomeResult.load(path)
        (path / name).write_bytes(before)

    def signed(config):
        return json.dumps(config | {"digest": config_digest(config)}).encode()

    def changed(**entries):
        return lambda before: signed(json.loads(before) | entries)

    fails(ValueError, "damaged one", "config.json", lambda b: b[:50])
    fails(ValueError, "config.json as it was saved", "config.json", lambda b: b.replace(b"convnext", b"convnxet"))
    config = json.loads((path / "config.json").read_text())

    def extra(**entries):
        facts = config["training"]
        kept = {name: entries.get(name, value) for name, value in facts["extra"].items()}
        return changed(training=facts | {"extra": {name: value for name, value in kept.items() if value is not None}})

    fails(ValueError, "target of kind .*found 'other'", "config.json", changed(target={"kind": "other"}))
    fails(ValueError, "complete record of a target", "config.json", changed(target={"kind": "follow_up"}))
    fails(ValueError, "format 3 .*found 4", "config.json", changed(format=4))
    fails(ValueError, "tensors that do not fit", "config.json", changed(widths=config["widths"] | {"tokens": 4}))
    for name in ("target", "training", "widths", "hyperparameters"):
        fails(
            ValueError, f"one without {name}", "config.json",
            lambda b, name=name: signed({k: v for k, v in json.loads(b).items() if k != name}),
        )  # fmt: skip
    # A model of another kind, or one that lost what belongs to outcomes.
    fails(ValueError, "a model without clinical, leaky_covariates, linear, maps", "config.json", changed(training={}))
    for name in ("maps", "clinical", "linear"):
        fails(ValueError, f"a model without {name}", "config.json", extra(**{name: None}))
    fails(ValueError, "weights.safetensors as it was saved", "weights.safetensors", lambda b: b[:-40])
    fails(ValueError, "scores.csv as it was saved", "scores.csv", lambda b: b"")
    for name in ("scores.csv", "predictions.csv", "history.csv"):
        fails(ValueError, f"{name} as it was saved", name, lambda b: b[:-2] + bytes([b[-2] ^ 1]) + b[-1:])
    fails(ValueError, "hyperparameters of model 'convnext'", "config.json", changed(hyperparameters={"width": 3}))
    OutcomeResult.load(path)
    (path / "scores.csv").unlink()
    with pytest.raises(FileNotFoundError, match=r"found no scores\.csv"):
        OutcomeResult.load(path)


def test_patients_of_training_are_flagged(response, others) -> None:
    first, first_maps, result = response
    slides, maps = others
    both = ad.concat([slides, first[:2]])
    both.obs["patient"] = both.obs["patient"].astype(str)
    maps = maps | first_maps
    maps["bs3"] = maps["bs3"].copy()
    maps["bs3"].obs["predicted_leaky"] = True
    stp.tl.predict_outcome(both, result, maps=maps)
    assert both.obs_names[both.obs["response_probability_leaky"]].tolist() == ["bs3", "as0", "as1"]


def test_leaky_covariates_stay_leaky(others) -> None:
    slides, maps = make(0, 24, "a")
    slides.obs["told"] = np.where(slides.obs["response"] == "yes", "a", "b")
    result = stp.tl.fit_outcome(slides, "response", maps=maps, clinical="told", allow_leakage=True, **QUICK)
    new, new_maps = others
    new.obs["told"] = "a"
    stp.tl.predict_outcome(new, result, maps=new_maps)
    assert new.obs["response_probability_leaky"].all()


def test_size_and_order_of_the_maps_do_not_matter(response, others) -> None:
    result = response[2]
    slides, maps = others
    wanted = stp.tl.predict_outcome(slides, result, maps=maps, copy=True)
    turned = {name: part[::-1].copy() for name, part in maps.items()}
    for part in turned.values():
        part.obsm["predicted"] = part.obsm["predicted"][["g2", "g0", "g1"]]
    columns = [name for name in wanted.obs if name.startswith("response_probability")]
    found = stp.tl.predict_outcome(slides, result, maps=turned, copy=True, batch_size=7)
    pd.testing.assert_frame_equal(found.obs[columns], wanted.obs[columns], rtol=1e-4)
    # A larger slide, and a smaller one, beside them change nothing for the others.
    large, large_maps = make(2, 1, "c", shape=(21, 30))
    both = ad.concat([slides, large])
    stp.tl.predict_outcome(both, result, maps=maps | large_maps)
    pd.testing.assert_frame_equal(both.obs[columns].iloc[:-1], wanted.obs[columns], rtol=1e-3)
    one = slides[:1].copy()
    stp.tl.predict_outcome(one, result, maps=maps)
    pd.testing.assert_frame_equal(one.obs[columns], wanted.obs[columns].iloc[:1], rtol=1e-3)


def test_missing_covariates_count_as_average(survival, others) -> None:
    slides, maps = others
    slides.obs["age"] = np.nan
    slides.obs["stage"] = pd.Series(None, slides.obs_names, dtype=object)
    stp.tl.predict_outcome(slides, survival[2], maps=maps)
    assert slides.obs["risk_baseline_clinical"].nunique() == 1
    assert slides.obs["risk"].nunique() == 60


def test_arrays(others) -> None:
    rng = np.random.default_rng(0)
    slides, _ = make(0, 24, "a")
    arrays = {name: rng.normal(size=(2, 6, 6)) for name in slides.obs_names}
    result = stp.tl.fit_outcome(slides, "response", maps=arrays, baselines=False, **QUICK)
    assert result.model.training.extra["linear"] == {}
    new, maps = others
    stp.tl.predict_outcome(new, result, maps=dict.fromkeys(new.obs_names, np.ones((2, 6, 6))))
    assert new.obs["response_probability"].nunique() == 1
    with pytest.raises(ValueError, match="2 in arrays, without names; found 3 with names"):
        stp.tl.predict_outcome(new, result, maps=maps)
    with pytest.raises(ValueError, match="2 in arrays, without names; found 4 in arrays"):
        stp.tl.predict_outcome(new, result, maps=dict.fromkeys(new.obs_names, np.ones((4, 6, 6))))


def test_errors_name_both_sides(survival, others) -> None:
    result = survival[2]
    slides, maps = others
    before = slides.copy()

    def fails(error, match, *, model=result, maps=maps, **obs) -> None:
        changed = slides.copy()
        for name, values in obs.items():
            if values is None:
                del changed.obs[name]
            else:
                changed.obs[name] = values
        columns = list(changed.obs)
        with pytest.raises(error, match=match):
            stp.tl.predict_outcome(changed, model, maps=maps)
        assert list(changed.obs) == columns
        assert not changed.uns

    def altered(change):
        parts = {name: part.copy() for name, part in maps.items()}
        for part in parts.values():
            change(part)
        return parts

    fails(KeyError, r"obs\['stage'\].*reads age, stage", stage=None)
    fails(KeyError, r"obs\['patient'\]", patient=None)
    fails(ValueError, r"numbers in obs\['age'\].*found (object|str|category)", age="old")
    fails(ValueError, "I, II, III; found IV, X", stage=["IV", "X"] + ["I"] * 58)
    fails(KeyError, "found none of 'bs0'", maps={})
    fails(KeyError, r"obsm\['predicted'\]", maps=altered(lambda part: part.obsm.pop("predicted")))
    fails(KeyError, r"obsm\['X_toy'\]", maps=altered(lambda part: part.obsm.pop("X_toy")))

    def rename(part):
        part.obsm["predicted"].columns = ["g0", "g1", "h"]

    def drop(part):
        part.obsm["predicted"] = part.obsm["predicted"][["g0", "g1"]]

    def square(part):
        part.uns["stpredict"]["grid"] = {"lattice": {part.obs["sample"].iloc[0]: "square"}}

    def ridge(part):
        part.uns["stpredict"]["predicted"]["model"] = "ridge"

    def encoder(part):
        part.uns["stpredict"]["X_toy"]["encoder"] = "other"

    fails(ValueError, "3 with names, predicted:g2 on this.*found 3 with names, predicted:h", maps=altered(rename))
    fails(ValueError, "3 with names, predicted:g2 on this side only; found 2 with names", maps=altered(drop))
    fails(ValueError, "'grid'.*found lattice 'square' where the model has lattice 'hex'", maps=altered(square))
    fails(ValueError, "'predicted'.*found model 'ridge' where the model has model 'hist'", maps=altered(ridge))
    fails(ValueError, "'X_toy'.*found encoder 'other' where the model has encoder 'toy'", maps=altered(encoder))
    fails(TypeError, "found int", model=3)
    other = replace(result.model, training=replace(result.model.training, extra={}))
    fails(ValueError, "models of stp.tl.fit are used by stp.tl.predict", model=other)
    fails(FileNotFoundError, "found no config", model="nowhere")
    pd.testing.assert_frame_equal(slides.obs, before.obs)
    # What nobody wrote down is not held against the maps.
    stp.tl.predict_outcome(slides, result, maps=altered(lambda part: part.uns.clear()))
