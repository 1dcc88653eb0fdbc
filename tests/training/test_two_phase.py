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


def test_the_loss_chooses_until_it_stalls_and_the_correlation_after_that() -> None:
    #         loss improves | stalls 2 | correlation phase
    losses = [3.0, 2.0, 1.0, 1.1, 1.2, 1.1, 1.1, 1.1, 1.1]
    scores = [0.1, 0.9, 0.3, 0.8, 0.8, 0.2, 0.5, 0.4, 0.5]
    # 0.9 and 0.8 came while the loss was watched; 0.2 is below that of the kept epoch (0.3); 0.5 is the first above it.
    assert run(TwoPhaseRule(2, 0.5), losses, scores) == ([0, 1, 2, 6], 9)


def test_a_high_loss_ends_the_second_phase_though_the_correlation_rises() -> None:
    losses = [1.0, 1.0, 1.0, 1.5, 1.4, 1.5, 1.6, 1.0]
    scores = np.linspace(0.1, 0.8, 8)
    # Exactly best + 0.5 counts; 1.4 starts the count anew.
    assert run(TwoPhaseRule(2, 0.5), losses, scores) == ([0, 3, 4, 5, 6], 7)


def test_losses_that_are_no_numbers_are_never_kept() -> None:
    kept, stopped = run(TwoPhaseRule(3, 0.5), [np.nan] * 10, [-1.0] * 10)
    assert stopped > 0
    assert all(epoch >= 3 for epoch in kept)


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
