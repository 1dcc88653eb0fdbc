from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stpredict.core._optional import mend_torchvision
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config
from stpredict.training._validation import inner_sides, inner_split

OPTIONS = {"hidden": 8, "dropout": 0.2}


def make(n: int = 60, seed: int = 0, noise: float = 0.3) -> ArraySet:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 4)).astype(np.float32)
    target = features @ np.random.default_rng(9).normal(size=(4, 3)) + noise * rng.normal(size=(n, 3))
    section = np.arange(n) * 6 // n
    return ArraySet(section, section // 2, {"features": features}, target=target.astype(np.float32))


def weights(fit) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in fit.network.state_dict().items()}


def equal(one, other) -> bool:
    a, b = weights(one), weights(other)
    return all(np.array_equal(a[name], b[name]) for name in a)


def config(**changes):
    return train_config("mlp", {"max_epochs": 2, "batch_size": 16, "refit": False} | changes)


def test_seed_decides_everything_and_the_global_state_is_left() -> None:
    data = make()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = fit_arrays("mlp", data, hyperparameters=OPTIONS, config=config(), seed=2)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(77)
    assert equal(first, fit_arrays("mlp", data, hyperparameters=OPTIONS, config=config(), seed=2))
    assert not equal(first, fit_arrays("mlp", data, hyperparameters=OPTIONS, config=config(), seed=3))


def test_history_and_what_was_held_out() -> None:
    fit = fit_arrays("mlp", make(), hyperparameters=OPTIONS, config=config())
    assert fit.validated_on == "patient"
    assert fit.history["epoch"].tolist() == [0, 1]
    assert {"train_loss", "validation_loss", "validation_correlation", "phase"} <= set(fit.history)
    assert fit.history["train_loss"].iloc[-1] < fit.history["train_loss"].iloc[0]
    closed = fit_arrays("ridge", make())
    assert (closed.validated_on, len(closed.history), closed.n_epochs) == ("grouped folds", 0, 0)
    assert not fit.network.training


@pytest.mark.parametrize("monitor", ["loss", "correlation"])
def test_best_epoch_is_kept(monitor: str) -> None:
    """Targets that features do not explain: validation gets worse, training stops, the best weights come back."""
    data = make(noise=5.0)
    settings = config(max_epochs=40, patience=3, learning_rate=0.05, monitor=monitor)
    fit = fit_arrays("mlp", data, hyperparameters={"hidden": 64, "dropout": 0.0}, config=settings)
    values = fit.history[f"validation_{monitor}"]
    best = values.idxmin() if monitor == "loss" else values.idxmax()
    assert fit.n_epochs == best + 1 < len(values) < 40
    short = settings.updated({"max_epochs": fit.n_epochs, "patience": 39})
    again = fit_arrays("mlp", data, hyperparameters={"hidden": 64, "dropout": 0.0}, config=short)
    assert equal(fit, again)


def test_refit_trains_on_everything_for_the_chosen_epochs() -> None:
    data = make(noise=5.0)
    settings = config(max_epochs=12, patience=2, learning_rate=0.05, refit=True)
    fit = fit_arrays("mlp", data, hyperparameters=OPTIONS, config=settings)
    assert fit.history["phase"].unique().tolist() == ["inner", "refit"]
    assert (fit.history["phase"] == "refit").sum() == fit.n_epochs < (fit.history["phase"] == "inner").sum() < 12
    alone = settings.updated({"max_epochs": fit.n_epochs, "patience": 0, "refit": False})
    assert equal(fit, fit_arrays("mlp", data, hyperparameters=OPTIONS, config=alone))


@pytest.mark.parametrize("refit", [False, True])
def test_interrupted_training_continues_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refit: bool
) -> None:
    mend_torchvision()
    from stpredict.training import _loop

    data = make()
    settings = config(max_epochs=4, refit=refit, schedule="cosine")
    whole = fit_arrays("mlp", data, hyperparameters=OPTIONS, config=settings)
    original = _loop._Module.on_train_epoch_end

    def broken(self) -> None:
        if self.current_epoch == 2:
            raise RuntimeError("power cut")
        original(self)

    monkeypatch.setattr(_loop._Module, "on_train_epoch_end", broken)
    with pytest.raises(RuntimeError, match="power cut"):
        fit_arrays("mlp", data, hyperparameters=OPTIONS, config=settings, checkpoint_dir=tmp_path)
    steps = []

    def counted(self) -> None:
        steps.append(self.current_epoch)
        original(self)

    monkeypatch.setattr(_loop._Module, "on_train_epoch_end", counted)
    resumed = fit_arrays("mlp", data, hyperparameters=OPTIONS, config=settings, checkpoint_dir=tmp_path)
    assert steps[:2] == [2, 3]
    assert len(steps) == 2 + refit * whole.n_epochs
    assert equal(resumed, whole)
    assert resumed.n_epochs == whole.n_epochs
    pd.testing.assert_frame_equal(resumed.history, whole.history)


@pytest.mark.parametrize("monitor", ["loss", "correlation", "loss_then_correlation"])
@pytest.mark.parametrize("refit", [False, True])
def test_a_finished_fit_is_left_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, monitor: str, refit: bool
) -> None:
    """Stopped early, its checkpoint is no place to train on from."""
    mend_torchvision()
    from stpredict.training import _loop

    data = make(noise=5.0)
    settings = config(max_epochs=40, patience=2, learning_rate=0.05, monitor=monitor, refit=refit)
    whole = fit_arrays("mlp", data, hyperparameters=OPTIONS, config=settings, checkpoint_dir=tmp_path)
    assert len(whole.history.query("phase == 'inner'")) < 40
    assert equal(whole, fit_arrays("mlp", data, hyperparameters=OPTIONS, config=settings))

    def refuse(self, batch, batch_idx):
        raise AssertionError("another step was taken")

    monkeypatch.setattr(_loop._Module, "training_step", refuse)
    again = fit_arrays("mlp", data, hyperparameters=OPTIONS, config=settings, checkpoint_dir=tmp_path)
    assert equal(again, whole)
    pd.testing.assert_frame_equal(again.history, whole.history)


@pytest.mark.parametrize("patience", [0, 40])
def test_an_interrupted_fit_goes_on_at_the_epoch_it_had_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, patience: int
) -> None:
    """Also where nothing is validated, and after epochs that were no improvement."""
    mend_torchvision()
    from stpredict.training import _loop

    data, settings = make(noise=5.0), config(max_epochs=9, patience=patience, learning_rate=0.05)
    whole = fit_arrays("mlp", data, hyperparameters=OPTIONS, config=settings)
    original, steps = _loop._Module.on_train_epoch_end, []

    def counted(self) -> None:
        steps.append(self.current_epoch)
        if len(steps) == 8:
            raise RuntimeError("power cut")
        original(self)

    assert whole.n_epochs == 9 if patience == 0 else whole.n_epochs < 7
    monkeypatch.setattr(_loop._Module, "on_train_epoch_end", counted)
    with pytest.raises(RuntimeError, match="power cut"):
        fit_arrays("mlp", data, hyperparameters=OPTIONS, config=settings, checkpoint_dir=tmp_path)
    resumed = fit_arrays("mlp", data, hyperparameters=OPTIONS, config=settings, checkpoint_dir=tmp_path)
    assert steps[8:] == [7, 8]
    assert equal(resumed, whole)
    pd.testing.assert_frame_equal(resumed.history, whole.history)


def test_checkpoints_of_other_fits_are_not_continued(tmp_path: Path) -> None:
    data, settings = make(), config(max_epochs=1)
    first = fit_arrays("mlp", data, hyperparameters=OPTIONS, config=settings, checkpoint_dir=tmp_path)
    assert equal(first, fit_arrays("mlp", data, hyperparameters=OPTIONS, config=settings, checkpoint_dir=tmp_path))
    for other in (make(seed=1), ArraySet(data.section, data.section, data.inputs, target=data.target)):
        kept = fit_arrays("mlp", other, hyperparameters=OPTIONS, config=settings, checkpoint_dir=tmp_path)
        assert equal(kept, fit_arrays("mlp", other, hyperparameters=OPTIONS, config=settings))
    longer = fit_arrays("mlp", data, hyperparameters=OPTIONS, config=config(), checkpoint_dir=tmp_path)
    assert len(longer.history) == 2


def test_no_inner_validation_trains_to_the_end() -> None:
    fit = fit_arrays("mlp", make(), hyperparameters=OPTIONS, config=config(patience=0))
    assert (fit.validated_on, fit.n_epochs) == ("none", 2)
    assert "validation_loss" not in fit.history


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_optimizers(optimizer: str) -> None:
    settings = config(optimizer=optimizer, momentum=0.9, learning_rate=0.02, precision="32-true")
    fit = fit_arrays("mlp", make(), hyperparameters=OPTIONS, config=settings)
    assert fit.history["train_loss"].iloc[-1] < fit.history["train_loss"].iloc[0]


def test_prediction_does_not_read_the_target() -> None:
    data = make()
    fit = fit_arrays("ridge", data)
    predicted = predict_arrays(fit.network, data)
    data.target = None
    np.testing.assert_array_equal(predict_arrays(fit.network, data).mean, predicted.mean)
    assert predicted.std.shape == predicted.mean.shape == (60, 3)
    assert predicted.mean.dtype == np.float32


def test_defaults_of_loop_network_and_call() -> None:
    assert train_config("mlp").refit is True
    assert train_config("mlp", {"refit": False}).refit is False
    assert train_config("ridge").max_epochs == 200
    with pytest.raises(TypeError, match="found epochs"):
        train_config("mlp", {"epochs": 3})


def section_of(n: int = 12) -> ArraySet:
    """One section on a square lattice of 100 µm, read in squares of 250 µm."""
    rng = np.random.default_rng(5)
    cell = np.stack(np.meshgrid(np.arange(n), np.arange(n)), axis=-1).reshape(-1, 2)
    features = rng.normal(size=(n * n, 4)).astype(np.float32)
    nothing = np.zeros(n * n, dtype=np.int64)
    inputs = {"features": features, "positions": 100 * cell.astype(np.float32), "cell": cell.astype(np.int64)}
    return ArraySet(nothing, nothing, inputs, target=features[:, :3] * 2, reach_um=250.0)


@pytest.mark.parametrize("network", ["mlp", "hist"])
@pytest.mark.parametrize("value", [np.nan, 1e6])
def test_the_buffer_of_the_inner_stripe_changes_nothing(network: str, value: float) -> None:
    """Bit for bit, in weights and in what the epoch was chosen by; what lies behind the buffer does."""
    settings = train_config(network, {"max_epochs": 2, "patience": 2, "refit": False})

    def fit(data: ArraySet):
        return fit_arrays(network, data, hyperparameters="small", config=settings)

    data = section_of()
    train, validation, unit = inner_sides(data, settings.validation_fraction, 0)
    assert validation is not None
    assert unit == "stripe"
    gap = np.abs(data["positions"][:, None] - validation["positions"]).max(axis=2).min(axis=1)
    buffer = (gap > 0) & (gap < 250)
    assert buffer.sum() + len(train) + len(validation) == len(data)
    assert buffer.sum() > 10
    before = fit(data)
    data["features"][buffer], data.target[buffer] = value, value
    after = fit(data)
    assert equal(before, after)
    pd.testing.assert_frame_equal(before.history, after.history)
    data = section_of()
    data["features"][np.flatnonzero(gap >= 250)[0]] += 1
    assert not equal(before, fit(data))


def test_scalers_never_see_the_rows_that_choose_the_epoch() -> None:
    data = make()
    held_out, unit = inner_split(data, 0.2, 0)
    assert unit == "patient"
    data["features"][held_out] += 100
    data.target[held_out] -= 50
    fit = fit_arrays("mlp", data, hyperparameters=OPTIONS, config=config(max_epochs=1))
    np.testing.assert_allclose(weights(fit)["standardize.mean"], data["features"][~held_out].mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(weights(fit)["target_mean"], data.target[~held_out].mean(axis=0), atol=1e-5)
