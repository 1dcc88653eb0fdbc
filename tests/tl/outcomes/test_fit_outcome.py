"""Outcomes from maps: finds what is there, finds nothing in noise, and refuses to be told."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import stpredict as stp
from stpredict.tl.outcomes._cohort import stratified_folds
from stpredict.tl.outcomes._fit_outcome import BASELINES

pytest.importorskip("lifelines")

QUICK = {
    "n_folds": (3, 2),
    "hyperparameters": {"depths": (1, 1), "dims": (6, 8), "drop_path": 0.1},
    "training": {"max_epochs": 20, "learning_rate": 0.03, "patience": 6},
}


@pytest.fixture(autouse=True)
def one_thread():
    torch.set_num_threads(1)


def make(seed: int, n: int = 60, maps: float = 0.0, clinical: float = 0.0, shape: tuple[int, int] = (8, 7)):
    """Slides of as many patients, and their maps; the hazard follows the first channel or a covariate, or nothing."""
    rng = np.random.default_rng(seed)
    hidden, age = rng.normal(size=(2, n))
    hazard = maps * hidden + clinical * age
    until, censored = rng.exponential(np.exp(-hazard)), rng.exponential(2, n)
    noisy = hazard + 0.5 * rng.logistic(size=n)
    obs = pd.DataFrame(
        {
            "patient": [f"p{i}" for i in range(n)],
            "time": np.minimum(until, censored),
            "event": until <= censored,
            "response": noisy > np.quantile(noisy, 0.6),
            "age": 60 + 10 * age,
            "sex": rng.choice(["f", "m"], n),
        },
        index=[f"s{i}" for i in range(n)],
    )
    grids = rng.normal(size=(n, 3, *shape))
    grids[:, 0] += hidden[:, None, None]
    grids[np.broadcast_to(rng.random((n, 1, *shape)) < 0.2, grids.shape)] = np.nan
    return ad.AnnData(obs=obs), dict(zip(obs.index, grids, strict=True))


def scores(result, *columns) -> pd.DataFrame:
    return result.scores.set_index("model")[list(columns)]


@pytest.mark.parametrize("target", [None, "response"], ids=["survival", "response"])
def test_noise_is_noise(target) -> None:
    columns = ["c_index", "c_index_folds"] if target is None else ["auroc", "auroc_folds", "balanced_accuracy"]
    # Small test sides and many epochs: choosing the epoch by a test side would give about 0.68 within folds.
    quick = QUICK | {
        "n_folds": (8, 2),
        "hyperparameters": {"depths": (1,), "dims": (6,), "drop_path": 0.0},
        "training": {"max_epochs": 16, "learning_rate": 0.05, "patience": 16},
    }
    found = []
    for seed in range(3):
        slides, maps = make(100 + seed, n=72)
        result = stp.tl.fit_outcome(slides, target, maps=maps, clinical="age", seed=seed, **quick)
        found.append(scores(result, *columns))
    mean = sum(found) / 3
    assert ((mean - 0.5).abs() < 0.12).all(axis=None), mean


@pytest.fixture(scope="module")
def survival():
    slides, maps = make(1, maps=1.5)
    before = slides.copy()
    return before, slides, maps, stp.tl.fit_outcome(slides, maps=maps, clinical=["age", "sex"], **QUICK)


def test_survival_is_found_in_maps(survival) -> None:
    table = scores(survival[3], "c_index", "c_index_folds", "c_low", "logrank_p")
    assert table.index.tolist() == ["convnext", "majority", "clinical", "mean map", "clinical + mean map"]
    assert (table.loc["convnext", ["c_index", "c_index_folds"]] > 0.62).all()
    assert table.loc["mean map", "c_index"] > 0.65
    assert table.loc["majority", "c_index"] == 0.5
    assert table.loc["clinical", "c_index"] < 0.65
    assert np.isnan(table.loc["majority", "logrank_p"])


def test_survival_writes_what_the_tools_read(survival) -> None:
    _, slides, _, result = survival
    assert {"risk", "risk_group", "risk_fold", "risk_leaky"} <= set(slides.obs)
    np.testing.assert_allclose(slides.obs["risk"], result.predictions["convnext"], rtol=1e-5, atol=1e-6)
    row = stp.tl.survival(slides, n_boot=100).iloc[0]
    ours = result.scores.iloc[0]
    assert row["c_index"] == pytest.approx(ours["c_index"], abs=1e-3)
    assert row["logrank_p"] == pytest.approx(ours["logrank_p"])
    record = slides.uns["stpredict"]["risk"]
    assert (record["model"], record["n_folds"]) == ("convnext", 3)
    assert set(result.history["fold"]) == {-1, 0, 1, 2}
    history = result.history.query("fold >= 0")
    assert set(history["inner"]) == {-1, 0, 1}
    # The final fit takes as many epochs as the median of the best inner ones.
    best = history.query("inner >= 0").groupby(["fold", "inner"])["validation_concordance"]
    chosen = (best.apply(lambda v: v.to_numpy().argmax()) + 1).groupby("fold").median().astype(int)
    final = history.query("inner < 0").groupby("fold").size()
    assert (chosen - final).abs().max() == 0
    # That on all patients takes the median over all of them, and held out nobody.
    last = result.history.query("fold < 0")
    assert len(last) == result.model.training.n_epochs
    assert len(last) == int(best.apply(lambda v: v.to_numpy().argmax() + 1).median())
    assert last["validation_loss"].isna().all()


def test_test_side_is_read_only_to_be_predicted(survival) -> None:
    """Other outcomes on the test side of a fold leave its predictions as they were."""
    before, slides, maps, result = survival
    changed = before.copy()
    rows = (slides.obs["risk_fold"] == 0).to_numpy()
    changed.obs.loc[rows, "time"] = 100 - changed.obs.loc[rows, "time"]
    again = stp.tl.fit_outcome(changed, maps=maps, clinical=["age", "sex"], **QUICK)
    np.testing.assert_array_equal(changed.obs["risk_fold"], slides.obs["risk_fold"])
    pd.testing.assert_frame_equal(again.predictions[rows], result.predictions[rows])
    assert not np.allclose(again.predictions["mean map"][~rows], result.predictions["mean map"][~rows])


def test_slides_of_the_test_side_do_not_scale_each_other() -> None:
    """Another map and age of one slide leave the predictions of the others on its test side as they were."""
    slides, maps = make(1, n=24, maps=1.5)
    fast = QUICK | {"n_folds": (2, 2), "training": {"max_epochs": 2}}
    wanted = stp.tl.fit_outcome(slides, maps=maps, clinical="age", **fast)
    row = int(np.flatnonzero(slides.obs["risk_fold"] == 0)[0])
    others = (slides.obs["risk_fold"] == 0).to_numpy() & (np.arange(24) != row)
    changed, name = slides.copy(), slides.obs_names[row]
    changed.obs.loc[name, "age"] = 1000.0
    found = stp.tl.fit_outcome(changed, maps=maps | {name: 50 * maps[name]}, clinical="age", **fast)
    np.testing.assert_array_equal(changed.obs["risk_fold"], slides.obs["risk_fold"])
    pd.testing.assert_frame_equal(found.predictions[others], wanted.predictions[others])
    assert not np.allclose(found.predictions.loc[name, "convnext"], wanted.predictions.loc[name, "convnext"])


def test_risks_and_groups_are_relative_to_the_training_side(survival) -> None:
    """A test side need be neither of mean 0 nor half of high risk."""
    _, slides, _, result = survival
    by_fold = result.predictions.groupby(slides.obs["risk_fold"].to_numpy())
    assert (by_fold["mean map"].mean().abs() > 1e-3).all()
    high = (slides.obs["risk_group"] == "high").groupby(slides.obs["risk_fold"]).sum()
    assert (high != 10).any()
    for _, part in slides.obs.groupby("risk_fold"):
        high = part["risk_group"] == "high"
        assert part["risk"][high].min() > part["risk"][~high].max()


def test_baseline_is_the_linear_model_of_each_training_side(survival) -> None:
    from stpredict.tl.outcomes._linear import fit_linear_outcome

    before, slides, maps, result = survival
    x = np.stack([np.nanmean(array, axis=(1, 2)) for array in maps.values()])
    time, event = before.obs["time"].to_numpy(np.float32), before.obs["event"].to_numpy(np.float32)
    patient = before.obs["patient"].to_numpy()
    for number in range(3):
        train = (slides.obs["risk_fold"] != number).to_numpy()
        inner = stratified_folds(patient[train], event[train].astype(int), 2, seed=0)
        model = fit_linear_outcome(x[train], inner, time=time[train], event=event[train])
        wanted = model(x[~train]) - model(x[train]).mean()
        np.testing.assert_allclose(result.predictions["mean map"][~train], wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("target", "preset"), [(None, "survival"), ("response", "response")])
def test_the_paper_is_the_preset_of_the_outcome_with_its_training(target, preset: str) -> None:
    slides, maps = make(0, n=24)
    quick = {"n_folds": (2, 2), "maps": maps, "baselines": False, "training": {"max_epochs": 2, "patience": 2}}
    found = [stp.tl.fit_outcome(slides.copy(), target, hyperparameters=name, **quick) for name in ("paper", preset)]
    pd.testing.assert_frame_equal(found[0].predictions, found[1].predictions)
    wanted = stp.models.get_model("convnext").presets[preset]
    settings = found[0].model.training.settings
    assert settings == settings | dict(wanted.training) | {"max_epochs": 2, "patience": 2}
    config = found[0].model.network.config
    assert {name: getattr(config, name) for name in wanted.hyperparameters} == wanted.hyperparameters


def test_epochs_are_chosen_on_patients_who_are_not_trained_on(monkeypatch) -> None:
    from stpredict.core._optional import mend_torchvision

    mend_torchvision()
    from stpredict.training import _loop

    calls, run_epochs = [], _loop.run_epochs

    def watched(network, train, validation, config, **kwargs):
        calls.append((set(train.patient), None if validation is None else set(validation.patient)))
        return run_epochs(network, train, validation, config, **kwargs)

    monkeypatch.setattr(_loop, "run_epochs", watched)
    slides, maps = make(0, n=24)
    stp.tl.fit_outcome(slides, maps=maps, **QUICK | {"n_folds": (2, 2), "training": {"max_epochs": 1}})
    *folds, (everybody, nobody) = calls
    assert (everybody, nobody) == (set(range(24)), None)
    assert len(folds) == 6
    for number in range(2):
        side = set(np.flatnonzero(slides.obs.sort_values("patient")["risk_fold"] != number))
        *inner, (whole, none) = folds[3 * number : 3 * number + 3]
        assert (whole, none) == (side, None)
        assert all(train | held == side and not train & held for train, held in inner)
        assert inner[0][1] == inner[1][0]


@pytest.mark.parametrize(
    ("target", "column"),
    [(stp.targets.FollowUp("time", "event"), "c_index"), (stp.targets.Classes("response"), "auroc")],
)
def test_clinical_signal_is_found_without_maps(target, column) -> None:
    slides, maps = make(2, clinical=1.5)
    result = stp.tl.fit_outcome(slides, target, maps=maps, clinical=["age", "sex"], **QUICK)
    table = scores(result, column)[column]
    assert table["clinical"] > 0.7
    assert table["clinical"] > table["mean map"] + 0.1


def test_response_in_maps_and_its_table() -> None:
    from sklearn.metrics import average_precision_score, roc_auc_score

    slides, maps = make(0, maps=1.5)
    result = stp.tl.fit_outcome(slides, "response", maps=maps, **QUICK)
    row, majority = result.scores.set_index("model").loc[["convnext", "majority"]].to_dict("records")
    y, p = slides.obs["response"], slides.obs["response_probability"]
    assert row["auroc"] == pytest.approx(roc_auc_score(y, p))
    assert row["auprc"] == pytest.approx(average_precision_score(y, p))
    assert row["auroc"] > 0.65
    assert row["auroc_low"] < row["auroc"] < row["auroc_high"]
    assert majority["auroc"] == majority["balanced_accuracy"] == 0.5
    assert (majority["auprc"], majority["prevalence"]) == pytest.approx((0.4, 0.4))
    assert majority["accuracy"] == pytest.approx(0.6)
    assert "risk" not in slides.obs


def spots(slides: ad.AnnData, maps: dict[str, np.ndarray]) -> ad.AnnData:
    """The same maps as observations of one object, in disorder."""
    parts = []
    for name, array in maps.items():
        row, col = np.nonzero(~np.isnan(array[0]))
        obs = pd.DataFrame({"sample": name, "grid_row": row, "grid_col": col}, [f"{name}-{i}" for i in range(len(row))])
        values = array[:, row, col].T.astype(np.float32)
        frame = pd.DataFrame(values, obs.index, ["g0", "g1", "g2"])
        parts.append(ad.AnnData(obs=obs, obsm={"predicted": frame, "X_toy": values[:, :2]}))
    return ad.concat(parts)[np.random.default_rng(0).permutation(sum(part.n_obs for part in parts))].copy()


def test_observations_equal_arrays() -> None:
    slides, maps = make(3, n=24, maps=1.0)
    fast = QUICK | {"n_folds": (2, 2), "training": {"max_epochs": 3}}
    wanted = stp.tl.fit_outcome(slides, maps=maps, **fast)
    cells = spots(slides, maps)
    found = stp.tl.fit_outcome(slides, maps=cells, baselines=[*BASELINES, "X_toy"], **fast)
    assert found.predictions.columns.tolist() == [*wanted.predictions, "image features"]
    pd.testing.assert_frame_equal(found.predictions[list(wanted.predictions)], wanted.predictions, rtol=1e-3, atol=1e-4)
    apart = {name: cells[cells.obs["sample"] == name].copy() for name in slides.obs_names}
    apart["s1"].obsm["predicted"] = apart["s1"].obsm["predicted"][["g2", "g0", "g1"]]
    cells.obs["predicted_leaky"] = cells.obs["sample"] == "s0"
    again = stp.tl.fit_outcome(slides, maps=apart, **fast)
    pd.testing.assert_frame_equal(again.predictions, wanted.predictions, rtol=1e-3, atol=1e-4)
    stp.tl.fit_outcome(slides, maps=cells, channels=["predicted", "X_toy", "mask"], **fast)
    assert slides.obs_names[slides.obs["risk_leaky"]].tolist() == ["s0"]
    only = stp.tl.fit_outcome(slides, maps=cells, channels="mask", **fast)
    assert only.predictions.columns.tolist() == ["convnext", "majority"]


def test_folds_are_of_patients_and_balanced() -> None:
    rng = np.random.default_rng(0)
    patient = rng.integers(0, 40, 100).astype(str)
    names, of = np.unique(patient, return_inverse=True)
    stratum = (np.arange(len(names)) < 11).astype(int)[of]
    fold = stratified_folds(patient, stratum, 5, seed=0)
    table = pd.DataFrame({"fold": fold, "stratum": stratum}).groupby(patient)
    assert (table["fold"].nunique() == 1).all()
    counts = table.first().groupby(["stratum", "fold"]).size().unstack()
    assert counts.shape == (2, 5)
    assert (counts.max(axis=1) - counts.min(axis=1) <= 1).all()
    assert (stratified_folds(patient, stratum, 5, seed=1) != fold).any()


LEAKS = {
    "months": lambda obs: obs["time"] / 30,
    "days_to_death": lambda obs: obs["time"].where(obs["event"]),
    "autopsy": lambda obs: pd.Series(np.arange(len(obs)) * 7 % 13 / 13, obs.index).where(obs["event"]),
    "status": lambda obs: np.where(obs["event"], "dead", "alive"),
    "era": lambda obs: pd.qcut(obs["time"], 4).astype(str),
    "score": lambda obs: obs["event"] * 10 + np.arange(len(obs)) / 100,
}


@pytest.mark.parametrize("name", LEAKS)
def test_covariates_that_give_the_outcome_away(name) -> None:
    slides, maps = make(0)
    slides.obs["x"] = LEAKS[name](slides.obs)
    before = slides.copy()
    with pytest.raises(ValueError, match=r"obs\['x'\], which determines"):
        stp.tl.fit_outcome(slides, maps=maps, clinical=["age", "x"], **QUICK)
    assert list(slides.obs) == list(before.obs)
    assert not slides.uns


def test_allowed_leaks_are_marked() -> None:
    slides, maps = make(0, n=24)
    slides.obs["status"] = slides.obs["event"].map({True: "dead", False: "alive"})
    fast = QUICK | {"n_folds": (2, 2), "training": {"max_epochs": 2}}
    result = stp.tl.fit_outcome(slides, maps=maps, clinical="status", allow_leakage=True, **fast)
    assert result.scores["leaky"].all()
    assert slides.obs["risk_leaky"].all()


def test_errors() -> None:
    slides, maps = make(0)

    def fails(error, match, target=None, **changes):
        with pytest.raises(error, match=match):
            stp.tl.fit_outcome(slides, target, **{"maps": maps, **QUICK, **changes})

    for key in ("time", "event"):
        fails(ValueError, f"known before the outcome; found {key}", clinical=key)
    fails(ValueError, "found response of the outcome", "response", clinical=["response"])
    fails(KeyError, r"obs\['cure'\]", "cure")
    fails(KeyError, r"obs\['days'\]", stp.targets.FollowUp("days", "event"))
    fails(TypeError, "stp.targets.FollowUp, stp.targets.Classes or a column", stp.targets.Expression())
    fails(ValueError, "baselines among majority, .*found ridge", baselines=["ridge"])
    fails(ValueError, "preset of model 'convnext'", hyperparameters="large")
    fails(KeyError, r"obs\['stage'\]", clinical="stage")
    fails(TypeError, "depths, dims, drop_path, augment; found mask", hyperparameters={"mask": True})
    fails(ValueError, "as many depths as dims", hyperparameters={"dims": (3,)})
    fails(TypeError, "training settings among", training={"epochs": 3})
    fails(ValueError, "n_inner=1", n_folds=(3, 1))
    fails(ValueError, "n_folds=61", n_folds=(61, 2))
    fails(KeyError, "found none of 's0'", maps={})
    fails(TypeError, "as the map of 's0'; found str", maps=dict.fromkeys(maps, "x"))
    fails(ValueError, "others on that of 's1'", maps=maps | {"s1": np.ones((2, 8, 7))})
    fails(ValueError, "expected tissue on the map of 's1'", maps=maps | {"s1": np.zeros((3, 8, 7))})
    cells = spots(slides, maps)
    fails(KeyError, "found no 's0'", maps=cells[cells.obs["sample"] != "s0"].copy())
    fails(KeyError, r"expected obsm\['X_uni'\]", maps=cells, channels="X_uni")
    cells.obs["grid_row"] = 0
    fails(ValueError, "one observation per cell", maps=cells)
    del cells.obs["grid_row"]
    fails(KeyError, "run stp.pp.grid", maps=cells)
    slides.obs["response"] = np.arange(60) < 1
    fails(ValueError, "n_inner=2 patients of each class", "response")
    slides.obs["response"] = np.arange(60) % 3
    fails(ValueError, "expected two classes .*found 3", "response")
    slides.obs["response"] = np.arange(60) % 2
    slides.obs["patient"] = np.repeat([f"p{i}" for i in range(30)], 2)
    fails(ValueError, "one response per patient", "response")
    slides.obs["patient"] = [f"p{i}" for i in range(60)]
    slides.obs["event"] = False
    fails(ValueError, "at least one event")
    slides.obs["event"] = np.arange(60) < 2
    fails(ValueError, "patients with events")
    assert "risk" not in slides.obs


def test_linear_cox_equals_lifelines() -> None:
    from lifelines import CoxPHFitter

    from stpredict.tl.outcomes._linear import LinearOutcome

    slides, _ = make(5, n=150, clinical=1.0)
    obs = slides.obs.assign(sex=(slides.obs["sex"] == "f").astype(float), event=slides.obs["event"].astype(float))
    x = obs[["age", "sex"]].to_numpy(float)
    model = LinearOutcome(x, time=obs["time"].to_numpy(), event=obs["event"].to_numpy(), penalty=0.0)
    wanted = CoxPHFitter().fit(obs[["age", "sex", "time", "event"]], "time", "event").params_
    np.testing.assert_allclose(model.coefficients, wanted, rtol=5e-3, atol=1e-4)


def test_linear_logistic_equals_scikit_learn_with_more_columns_than_slides() -> None:
    from sklearn.linear_model import LogisticRegression

    from stpredict.tl.outcomes._linear import LinearOutcome

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 50)), np.arange(30) % 3 == 0
    x[:, 0] += y
    standard = (x - x.mean(0)) / x.std(0)
    # Ours divides by the number of slides: mean loss + penalty / 2, theirs is C times the sum + 1 / 2.
    wanted = LogisticRegression(C=1 / (30 * 0.1), class_weight="balanced", tol=1e-8, max_iter=5000).fit(standard, y)
    model = LinearOutcome(x, label=y.astype(int), penalty=0.1)
    np.testing.assert_allclose(model(x), wanted.decision_function(standard), rtol=1e-2, atol=1e-2)


def test_covariates_become_numbers_of_the_training_side() -> None:
    from stpredict.tl.outcomes._clinical import ClinicalEncoder

    train = pd.DataFrame(
        {"age": [40.0, 60.0, np.nan], "stage": ["I", "II", None], "one": [3, 3, 3], "old": [True, False, True]}
    )
    test = pd.DataFrame({"age": [np.nan, 70.0], "stage": ["II", "IV"], "one": [3, 4], "old": [False, True]})
    encoder = ClinicalEncoder(train)
    np.testing.assert_allclose(encoder(train)[:, 0], [-1, 1, 0])
    np.testing.assert_allclose(encoder(test), [[0, 0, 1, 0, 1, 0], [2, 0, 0, 0, 0, 1]])
