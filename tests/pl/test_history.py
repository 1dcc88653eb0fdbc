from __future__ import annotations

from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from stpredict import pl
from stpredict.training import TrainingFacts


@pytest.fixture
def epochs():
    inner = pd.DataFrame({"epoch": range(4), "train_loss": [4.0, 3.0, 2.0, 1.5], "phase": "inner"})
    inner["validation_loss"] = [4.0, 3.1, 2.9, 3.3]
    inner["validation_correlation"] = [0.1, 0.4, 0.3, 0.2]
    refit = pd.DataFrame({"epoch": range(3), "train_loss": [3.9, 2.9, 1.9], "phase": "refit"})
    return pd.concat([inner, refit], ignore_index=True)


def lines(ax):
    return {line.get_label(): line for line in ax.lines}


def test_curves_and_best_epoch(epochs):
    ax = pl.history(epochs)
    assert lines(ax)["training"].get_xdata().tolist() == [1, 2, 3, 4]
    assert lines(ax)["validation"].get_ydata().tolist() == [4.0, 3.1, 2.9, 3.3]
    assert lines(ax)["training, refit on all"].get_linestyle() == "--"
    assert "validation, refit on all" not in lines(ax)
    mark = lines(ax)["kept: epoch 3"]
    assert (mark.get_xdata()[0], mark.get_ydata()[0]) == (3, 2.9)


def test_model_says_which_epoch_it_kept(epochs):
    model = SimpleNamespace(history=epochs, training=TrainingFacts(n_epochs=2))
    assert "kept: epoch 2" in lines(pl.history(model))


def test_correlation_is_best_at_its_maximum(epochs):
    ax = pl.history(epochs, metric="correlation")
    assert "training" not in lines(ax)
    assert "kept: epoch 2" in lines(ax)


def test_without_validation(epochs):
    ax = pl.history(epochs[["epoch", "train_loss"]].iloc[:4])
    assert list(lines(ax)) == ["training"]
    epochs[["validation_loss"]] = np.nan
    assert not any(name.startswith("kept") for name in lines(pl.history(epochs)))


def test_log_scale_only_for_decades_of_positive_loss(epochs):
    assert pl.history(epochs).get_yscale() == "linear"
    epochs.loc[0, "train_loss"] = 1e3
    assert pl.history(epochs).get_yscale() == "log"
    epochs.loc[1, "train_loss"] = -1
    assert pl.history(epochs).get_yscale() == "linear"


def test_draws_into_axes(epochs):
    figure, ax = plt.subplots()
    assert pl.history(epochs, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_errors(epochs):
    with pytest.raises(ValueError, match="closed-form"):
        pl.history(SimpleNamespace(history=pd.DataFrame(), training=TrainingFacts()))
    with pytest.raises(KeyError, match="train_loss"):
        pl.history(epochs[["epoch", "phase"]])
    with pytest.raises(ValueError, match="metric"):
        pl.history(epochs, metric="accuracy")
    with pytest.raises(TypeError, match="tl.fit"):
        pl.history([1, 2])
    assert plt.get_fignums() == []
