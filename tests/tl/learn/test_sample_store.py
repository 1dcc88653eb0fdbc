"""Samples on disk: whole or not there, and never at the cost of the prediction."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import zarr

from stpredict.core._turns import fresh_path
from stpredict.tl.learn._sample_store import SampleStore

SAMPLES = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)


def write(path: Path) -> Path | None:
    with SampleStore(path, list("abcd"), ["G1", "G2", "G3"], 2) as store:
        store.take(np.array([2, 0]), SAMPLES[[2, 0]])
        store.take(np.array([1, 3]), SAMPLES[[1, 3]])
        return store.finish()


def test_samples_are_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "s.zarr"
    for _ in range(2):
        fresh_path(path).mkdir(parents=True)  # of a call that was killed
        assert write(path) == path
        assert os.listdir(path.parent) == ["s.zarr"]
    group = zarr.open_group(path, mode="r")
    np.testing.assert_array_equal(group["samples"][:], SAMPLES)
    assert dict(group.attrs) == {"obs_names": list("abcd"), "genes": ["G1", "G2", "G3"]}


def test_an_error_leaves_the_earlier_samples(tmp_path: Path) -> None:
    path = tmp_path / "s.zarr"
    write(path)
    with pytest.raises(ZeroDivisionError), SampleStore(path, ["a"], ["G"], 2):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["s.zarr"]
    np.testing.assert_array_equal(zarr.open_group(path, mode="r")["samples"][:], SAMPLES)


@pytest.mark.parametrize("step", ["begin", "take", "finish"])
def test_a_disk_that_is_full_costs_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        if step == "take":
            patch.setattr(zarr.Array, "oindex", property(full))
        else:
            patch.setattr(*{"begin": (Path, "mkdir"), "finish": (os, "replace")}[step], full)
        with pytest.warns(UserWarning, match="samples could not be written.*No space left.*predict again") as caught:
            assert write(tmp_path / "s.zarr") is None
    assert len(caught) == 1
    assert os.listdir(tmp_path) == []
    assert write(tmp_path / "s.zarr") is not None


def test_other_files_are_left(tmp_path: Path) -> None:
    (tmp_path / "s.zarr").mkdir()
    (tmp_path / "s.zarr" / "notes.txt").touch()
    with pytest.raises(FileExistsError, match="samples to replace"):
        write(tmp_path / "s.zarr")
