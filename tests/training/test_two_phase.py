from __future__ import annotations

import numpy as np
import pytest
import torch

from stpredict.training import ArraySet, Fit, fit_arrays, train_config
from stpredict.training._two_phase import TwoPhaseRule


def run(rule: TwoPhaseRule, losses, correlations) -> tuple[list[int], int]:
    """Epochs that were kept, and the number of epochs until the stop."""
    kept = []
    for epoch, (loss, correlation) in enumerate(zip(losses, correlations, strict=True)):
        keep, stop = rule.update(loss, correlation)
        if keep:
            kept.append(epoch)
        if stop:
            return kept, epoch + 1
    return kept, -1


def restated(losses: np.ndarray, correlations: np.ndarray, patience: int, tolerance: float) -> tuple[list[int], int]:
    """The published rule, read off whole curves: epochs that were kept, and the number of epochs until the stop.

    Where it differs from a loop: the last improvements are looked up, and nothing is counted.
    """
    n, epochs = len(losses), np.arange(len(losses))
    before = np.minimum.accumulate(np.concatenate([[np.inf], losses]))
    lower = losses < before[:-1]
    higher = correlations > np.maximum.accumulate(np.concatenate([[0.0], correlations]))[:-1]
    last_lower = np.maximum.accumulate(np.where(lower, epochs, -1))
    last_higher = np.maximum.accumulate(np.where(higher, epochs, -1))
    turn = next((int(e) for e in epochs if e - last_lower[e] == patience), n)  # the last epoch chosen by its loss
    kept = lower & (epochs <= turn) | higher & (epochs > turn)
    bad = ~(losses < before[:-1] + tolerance) & (epochs > turn)
    last_good = np.maximum.accumulate(np.where(bad, -1, np.maximum(epochs, -1)))
    last_good = np.maximum(last_good, turn)  # in the first phase nothing is too high
    ends = (epochs >= turn) & ((epochs - last_higher == patience) | (bad & (epochs - last_good == patience)))
    stop = int(np.flatnonzero(ends)[0]) + 1 if ends.any() else -1
    return np.flatnonzero(kept[: stop if stop > 0 else n]).tolist(), stop


def curves(seed: int, n: int = 120) -> tuple[np.ndarray, np.ndarray]:
    """Made-up losses that fall, stall and rise, and correlations that rise and stall, both with noise."""
    rng = np.random.default_rng(seed)
    epoch = np.arange(n)
    losses = 1 + 2 * np.exp(-epoch / rng.uniform(3, 30)) + rng.uniform(-0.002, 0.02) * epoch + 0.1 * rng.normal(size=n)
    correlations = rng.uniform(0.1, 0.6) * (1 - np.exp(-epoch / rng.uniform(3, 60))) + rng.choice([0.0, -0.3])
    correlations = correlations + rng.choice([0.005, 0.05]) * rng.normal(size=n)
    if seed % 3 == 0:
        losses, correlations = losses.round(1), correlations.round(1)  # ties, and rises of exactly the tolerance
    return losses, correlations


def test_the_rule_is_the_published_one_on_made_up_curves() -> None:
    ends, turned = [], 0
    for seed in range(300):
        losses, correlations = curves(seed)
        for patience, tolerance in ((3, 0.5), (8, 0.1), (20, 0.5)):
            rule = TwoPhaseRule(patience, tolerance)
            found = run(rule, losses, correlations)
            assert found == restated(losses, correlations, patience, tolerance), (seed, patience)
            ends.append(found[1])
            turned += not rule.watches_loss
    assert len(set(ends)) > 50
    assert 0 < ends.count(-1) < len(ends) / 2  # most curves come to an end, some run through
    assert turned > len(ends) / 2


def test_the_loss_chooses_until_it_stalls_and_the_correlation_after_that() -> None:
    #         loss improves | stalls 2 | correlation phase
    losses = [3.0, 2.0, 1.0, 1.1, 1.2, 0.9, 1.1, 1.1, 1.1]
    scores = [0.1, 0.9, 0.3, 0.2, 0.91, 0.3, 0.92, 0.4, 0.5]
    # Epoch 5 has the lowest loss of all and is not kept; 0.92 is the first above the 0.91 of the first phase.
    assert run(TwoPhaseRule(2, 0.5), losses, scores) == ([0, 1, 2, 6], 9)


def test_a_correlation_that_has_waited_too_long_does_not_end_what_has_just_begun() -> None:
    losses = [1.0, 0.9, 0.8, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7, 0.7]
    scores = [0.5, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.6, 0.1, 0.1]
    # When the second phase begins, at epoch 5, the correlation has waited for 5 epochs, more than two.
    assert run(TwoPhaseRule(2, 0.5), losses, scores) == ([0, 1, 2, 3, 7], 10)


def test_correlations_below_zero_are_never_kept() -> None:
    assert run(TwoPhaseRule(2, 0.5), [1.0] * 8, np.linspace(-0.9, -0.1, 8)) == ([0], -1)


def test_a_high_loss_ends_the_second_phase_though_the_correlation_rises() -> None:
    losses = [1.0, 1.0, 1.0, 1.5, 1.4, 1.5, 1.6, 1.0]
    scores = np.linspace(0.1, 0.8, 8)
    # Exactly best + 0.5 counts; 1.4 starts the count anew.
    assert run(TwoPhaseRule(2, 0.5), losses, scores) == ([0, 3, 4, 5, 6], 7)


def test_losses_that_are_no_numbers_are_never_kept() -> None:
    kept, stopped = run(TwoPhaseRule(3, 0.5), [np.nan] * 10, [-1.0] * 10)
    assert (kept, stopped) == ([], 3)


def make(n: int = 40) -> ArraySet:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, 4)).astype(np.float32)
    target = features @ rng.normal(size=(4, 3)) + 2 * rng.normal(size=(n, 3))
    return ArraySet(
        np.zeros(n, dtype=np.int64), np.arange(n) // 2, {"features": features}, target=target.astype(np.float32)
    )


def config(**changes):
    return train_config(
        "mlp",
        {"max_epochs": 60, "patience": 2, "monitor": "loss_then_correlation", "learning_rate": 0.1, "refit": False}
        | changes,
    )


@pytest.fixture(scope="module")
def whole() -> Fit:
    """A fit that goes through both phases and stops."""
    return fit_arrays("mlp", make(), hyperparameters={"hidden": 16}, config=config())


def test_the_loop_keeps_the_epoch_that_the_rule_chooses(whole) -> None:
    fit = whole
    rule = TwoPhaseRule(2, 0.5)
    kept, stopped = run(rule, fit.history["validation_loss"], fit.history["validation_correlation"])
    assert not rule.watches_loss
    assert fit.n_epochs == kept[-1] + 1 < len(fit.history)
    assert stopped == len(fit.history)
    # The weights are those of the epoch that was kept, not of the last one.
    same = fit_arrays("mlp", make(), hyperparameters={"hidden": 16}, config=config(max_epochs=fit.n_epochs))
    for name, value in fit.network.state_dict().items():
        torch.testing.assert_close(value, same.network.state_dict()[name], rtol=0, atol=0)


def test_an_interrupted_run_goes_on_in_its_phase(whole, tmp_path, monkeypatch) -> None:
    from stpredict.training import _loop

    epochs = []
    original = _loop._Module.on_train_epoch_end

    def interrupted(self) -> None:
        original(self)
        epochs.append(1)
        if len(epochs) == len(whole.history) - 2:
            raise OSError("no space left")

    monkeypatch.setattr(_loop._Module, "on_train_epoch_end", interrupted)
    with pytest.raises(OSError, match="no space"):
        fit_arrays("mlp", make(), hyperparameters={"hidden": 16}, config=config(), checkpoint_dir=tmp_path)
    steps = []

    def counted(self) -> None:
        steps.append(self.current_epoch)
        original(self)

    monkeypatch.setattr(_loop._Module, "on_train_epoch_end", counted)
    resumed = fit_arrays("mlp", make(), hyperparameters={"hidden": 16}, config=config(), checkpoint_dir=tmp_path)
    assert steps == list(range(len(whole.history) - 3, len(whole.history)))  # the interrupted one was not yet written
    assert (resumed.n_epochs, len(resumed.history)) == (whole.n_epochs, len(whole.history))
    for name, value in whole.network.state_dict().items():
        torch.testing.assert_close(value, resumed.network.state_dict()[name], rtol=0, atol=0)
