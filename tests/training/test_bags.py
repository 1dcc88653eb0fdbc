"""Rows that are bags: batches, shuffles, scales."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from stpredict.metrics import concordance, pearson
from stpredict.models.nn._cox import cox_loss
from stpredict.training import ArraySet, Loader, fit_arrays, predict_arrays, train_config, untrained
from stpredict.training._data import summarize
from stpredict.training._fit_arrays import _digest
from stpredict.training._validation import inner_split
from stpredict.training.targets import FollowUpTarget

BAG = frozenset({"tokens", "token_size"})
FOLLOW_UP = FollowUpTarget("time", "event")


def make(n: int = 10) -> ArraySet:
    rng = np.random.default_rng(0)
    bag = rng.normal(3, 2, size=(n, 4, 5)).astype(np.float32)
    size = np.full((n, 4), 2, dtype=np.float32)
    size[:3, 2:] = 0
    bag[size == 0] = 0
    return ArraySet(
        section=np.zeros(n, dtype=np.int64),
        patient=np.arange(n, dtype=np.int64) // 2,
        inputs={"tokens": bag, "token_size": size},
        target=np.arange(n, dtype=np.float32)[:, None] // 2,
        unit="slide",
    )


def test_batches_hold_bags_and_cover_every_row_once() -> None:
    data = make()
    loader = Loader(data, "rows", batch_size=4, needs=BAG, shuffle=True)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert len(loader) == 3
    assert batches[0]["tokens"].shape == (4, 4, 5)
    assert batches[0]["token_size"].shape == (4, 4)
    assert "features" not in batches[0]
    seen = torch.cat([batch["tokens"][:, 0, 0] for batch in batches]).numpy()
    np.testing.assert_array_equal(np.sort(seen), np.sort(data["tokens"][:, 0, 0]))
    assert not np.array_equal(seen, data["tokens"][:, 0, 0])
    assert "tokens" not in data.batch(np.arange(2), frozenset({"features"}))


def test_scales_leave_padding_out() -> None:
    data = make()
    summary = summarize(data, BAG)
    tokens = data["tokens"][data["token_size"] > 0]
    assert len(tokens) == 34
    mean, std = summary.moments["tokens"]
    np.testing.assert_allclose(mean.numpy(), tokens.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(std.numpy(), tokens.std(axis=0), rtol=1e-5)


def test_permuted_labels_go_from_patient_to_patient() -> None:
    data = make(20)
    permuted = data.permuted(1)
    target, patient = permuted.target[:, 0], data.patient
    np.testing.assert_array_equal(target[::2], target[1::2])  # slides of a patient stay alike
    np.testing.assert_array_equal(np.sort(target), np.sort(data.target[:, 0]))
    assert (target != patient).mean() > 0.5
    np.testing.assert_array_equal(permuted["tokens"], data["tokens"])


def test_each_output_of_slides_by_a_shuffle_of_patients() -> None:
    data = replace(make(20), target=np.repeat(np.arange(40.0).reshape(20, 2)[::2], 2, axis=0).astype(np.float32))
    changed = data.permuted(1, by_output=True).target
    np.testing.assert_array_equal(changed[::2], changed[1::2])
    np.testing.assert_array_equal(np.sort(changed, axis=0), data.target)
    assert not np.array_equal(changed[:, 1], changed[:, 0] + 1)


def test_width_and_outputs_depend_on_what_is_asked_for() -> None:
    data = make()
    assert data.widths == {"tokens": 5}
    assert data.n_outputs == 1
    data.target = np.zeros((10, 7), dtype=np.float32)
    assert data.n_outputs == 7
    data.target, data.kind = np.ones((10, 2), dtype=np.float32), FOLLOW_UP
    assert data.n_outputs == 1
    assert summarize(data, BAG).target_std.tolist() == [1.0]


SMALL = {"depth": 1, "heads": 2, "d_head": 4}


def with_outcome(n: int = 40) -> ArraySet:
    """Slides of as many patients, whose time depends on the bag."""
    data, rng = make(n), np.random.default_rng(1)
    data.patient = np.arange(n, dtype=np.int64)
    mean = data["tokens"][:, :2].mean(axis=(1, 2))
    time = rng.exponential(np.exp(mean.max() - mean)).astype(np.float32) + 0.01
    data.target, data.kind = np.column_stack([time, rng.random(n) < 0.8]).astype(np.float32), FOLLOW_UP
    return data


@pytest.mark.parametrize("network", ["sequoia", "he2rna", "slide_transformer"])
def test_networks_on_bags_train_as_published(network: str) -> None:
    config = train_config(network)
    found = (config.optimizer, config.learning_rate, config.weight_decay, config.batch_size, config.max_epochs)
    assert found == ("adam", 1e-3, 0.0, 16, 200)
    assert (config.patience, config.monitor, config.loss_tolerance) == (20, "loss_then_correlation", 0.5)
    assert config.validation_fraction == 0.1


def test_outcomes_take_batches_of_whole_risk_sets() -> None:
    config = train_config("sequoia", {"validation_fraction": 0.5}, FOLLOW_UP)
    assert (config.batch_size, config.monitor, config.optimizer, config.weight_decay) == (256, "loss", "adamw", 1e-2)
    assert config.validation_fraction == 0.5
    assert config.learning_rate == train_config("sequoia").learning_rate
    assert train_config("sequoia", target=FOLLOW_UP).validation_fraction == 0.25


def test_validation_is_what_the_held_out_slides_say() -> None:
    data = make(40)
    data.target = np.random.default_rng(2).normal(size=(40, 3)).astype(np.float32)
    config = train_config("sequoia", {"max_epochs": 2, "batch_size": 7, "validation_fraction": 0.5})
    fit = fit_arrays("sequoia", data, hyperparameters=SMALL, config=config, seed=3)
    held_out, unit = inner_split(data, 0.5, 3)
    assert unit == "patient"
    tokens = data["tokens"][~held_out][data["token_size"][~held_out] > 0]
    np.testing.assert_allclose(fit.network.standardize.mean, tokens.mean(axis=0), rtol=1e-5)
    predicted = predict_arrays(fit.network, data.take(held_out)).mean
    row = fit.history.iloc[fit.n_epochs - 1]
    r = np.nanmean(pearson(data.target[held_out], predicted))
    assert row["validation_correlation"] == pytest.approx(r, abs=1e-5)
    error = (predicted - data.target[held_out]) / fit.network.target_std.numpy()
    assert row["validation_loss"] == pytest.approx(np.square(error).mean(), rel=1e-4)


@pytest.mark.parametrize("monitor", ["loss", "correlation"])
def test_an_outcome_is_validated_on_whole_risk_sets(monitor: str) -> None:
    data = with_outcome()
    changes = {"max_epochs": 6, "patience": 6, "monitor": monitor, "batch_size": 8, "learning_rate": 0.02}
    config = train_config("sequoia", changes, FOLLOW_UP)
    fit = fit_arrays("sequoia", data, hyperparameters=SMALL, config=config)
    values = fit.history["validation_loss" if monitor == "loss" else "validation_concordance"]
    assert fit.n_epochs - 1 == (values.idxmin() if monitor == "loss" else values.idxmax())
    held_out, _ = inner_split(data, 0.25, 0)
    risk = predict_arrays(fit.network, data.take(held_out)).mean[:, 0]
    time, event = data.target[held_out].T
    row = fit.history.iloc[fit.n_epochs - 1]
    assert row["validation_concordance"] == pytest.approx(concordance(time, event, risk), abs=1e-6)
    assert row["validation_loss"] == pytest.approx(float(cox_loss(*map(torch.tensor, (risk, time, event)))), rel=1e-4)
    assert fit.history["validation_concordance"].nunique() > 2


def test_an_untrained_network_has_the_scales_and_a_drawn_head() -> None:
    data = make()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    fit = untrained("sequoia", data, hyperparameters=SMALL, seed=0)
    assert torch.equal(state, torch.get_rng_state())
    summary = summarize(data, BAG)
    torch.testing.assert_close(fit.network.target_mean, summary.target_mean)
    torch.testing.assert_close(fit.network.target_std, summary.target_std)
    torch.testing.assert_close(fit.network.standardize.mean, summary.moments["tokens"][0])
    assert predict_arrays(fit.network, data).mean.std() > 0
    same, other = (untrained("sequoia", data, hyperparameters=SMALL, seed=seed).network for seed in (0, 1))
    assert torch.equal(same.head.mean.weight, fit.network.head.mean.weight)
    assert not torch.equal(other.head.mean.weight, fit.network.head.mean.weight)
    assert (fit.n_epochs, len(fit.history), fit.network.training) == (0, 0, False)


@pytest.mark.parametrize("name", ["tokens", "token_size", "time", "event", "patient", "section"])
def test_checkpoints_belong_to_all_of_the_data(name: str) -> None:
    data = with_outcome()
    if name in data:
        changes = {"inputs": data.inputs | {name: data[name].copy()}}
        changes["inputs"][name].flat[5] += 1
    else:
        field = "target" if name in {"time", "event"} else name
        changes = {field: getattr(data, field).copy()}
        column = changes[field][:, int(name == "event")] if field == "target" else changes[field]
        column[5] += 1
    config = train_config("sequoia", target=FOLLOW_UP)
    one, other = (_digest("sequoia", SMALL, config, 0, part, None) for part in (data, replace(data, **changes)))
    assert one != other
    assert one == _digest("sequoia", SMALL, config, 0, with_outcome(), None)
