"""Threads that read batches ahead."""

from __future__ import annotations

import threading
import time
from typing import Any

import numpy as np
import pytest
import torch

from stpredict.models import get_model
from stpredict.training import ArraySet, Loader, fit_arrays, train_config


class Slow:
    """Rows that take a while to read, the first ones longest; it counts who reads at a time."""

    def __init__(self, values: np.ndarray, broken: int | None = None) -> None:
        self.values, self.broken, self.shape, self.reads = values, broken, values.shape, 0
        self._now, self.most, self._lock = 0, 0, threading.Lock()

    def __getitem__(self, index: Any) -> np.ndarray:
        with self._lock:
            self._now, self.reads = self._now + 1, self.reads + 1
            self.most = max(self.most, self._now)
        time.sleep(0.002 * (1 + int(0 in np.atleast_1d(index))))
        with self._lock:
            self._now -= 1
        if self.broken is not None and self.broken in np.atleast_1d(index):
            raise OSError("the file is gone")
        return self.values[index]

    def __len__(self) -> int:
        return len(self.values)


def rows(**how: Any) -> ArraySet:
    rng = np.random.default_rng(0)
    section = np.arange(60) // 10
    features = rng.normal(size=(60, 5)).astype(np.float32)
    target = (features @ rng.normal(size=(5, 3))).astype(np.float32)
    return ArraySet(section, section // 2, {"features": Slow(features, **how)}, target=target)


def alive() -> list[str]:
    return [each.name for each in threading.enumerate() if each.name.startswith("stpredict-loader")]


@pytest.mark.parametrize("draws", ["rows", "sections", "section_rows"])
@pytest.mark.parametrize("n", [1, 3])
def test_batches_and_their_order_are_the_same(draws: Any, n: int) -> None:
    def batches(num_workers: int) -> list[torch.Tensor]:
        loader = Loader(rows(), draws, batch_size=2, shuffle=True, seed=1, num_workers=num_workers)
        return [batch["features"] for _ in range(2) for batch in loader]

    plain, ahead = batches(0), batches(n)
    assert len(plain) == len(ahead)
    assert all(map(torch.equal, plain, ahead))
    assert not alive()


def test_they_read_side_by_side_and_not_further_ahead_than_said() -> None:
    data = rows()
    source = data.inputs["features"]
    loader = iter(Loader(data, batch_size=2, num_workers=2))
    for taken in range(1, 6):
        next(loader)
        assert source.reads <= taken + 4  # two of each
    assert source.most == 2
    loader.close()  # type: ignore[attr-defined]
    assert not alive()
    assert source.reads < 12  # of 30


@pytest.mark.parametrize("name", ["mlp", "histogene"])
def test_a_fit_does_not_depend_on_them(name: str) -> None:
    """On rows, and on sections with pictures."""
    data = rows()
    rng = np.random.default_rng(1)
    data.inputs |= {
        "positions": rng.uniform(0, 1000, (60, 2)).astype(np.float32),
        "patches": Slow(rng.integers(0, 255, (60, 32, 32, 3), dtype=np.uint8)),
    }

    def fitted(num_workers: int) -> Any:
        changes = {"max_epochs": 3, "batch_size": 16, "num_workers": num_workers}
        config = train_config(name, changes, hyperparameters="small")
        return fit_arrays(name, data, hyperparameters="small", config=config)

    plain, ahead = fitted(0), fitted(2)
    assert plain.history.equals(ahead.history)
    ours, theirs = plain.network.state_dict(), ahead.network.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert not alive()


def test_what_goes_wrong_in_one_is_raised() -> None:
    data = rows(broken=41)
    config = train_config("mlp", {"max_epochs": 2, "batch_size": 8, "num_workers": 2, "patience": 0})
    with pytest.raises(OSError, match="the file is gone"):
        list(Loader(data, batch_size=8, num_workers=2))
    with pytest.raises(OSError, match="the file is gone"):
        fit_arrays("mlp", data, hyperparameters={"hidden": 4}, config=config)
    assert not alive()


def test_a_training_that_ends_in_the_middle_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def stopping(*args: Any) -> Any:
        raise RuntimeError("stopped in a step")

    monkeypatch.setattr(get_model("mlp").cls, "step", stopping)
    config = train_config("mlp", {"max_epochs": 2, "batch_size": 8, "num_workers": 2, "patience": 0})
    with pytest.raises(RuntimeError, match="stopped in a step"):
        fit_arrays("mlp", rows(), hyperparameters={"hidden": 4}, config=config)
    assert not alive()


@pytest.mark.parametrize("wrong", [-1, 1.5, True, "2"])
def test_a_number_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="num_workers"):
        train_config("mlp", {"num_workers": wrong})
