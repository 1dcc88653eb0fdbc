"""Turns at a place: one at a time, over processes and threads, and what dead ones left."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stpredict.core import _turns
from stpredict.core._turns import aside_path, fresh_path, tidy, tidy_folder, turn

#: Adds a letter to a file in two steps, between which another process would lose it; then waits when it is told to.
PROGRAM = """
import sys, time
from pathlib import Path
from stpredict.core._turns import fresh_path, turn
place, n, hang = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "hang"
for _ in range(n):
    with turn(place) as ours:
        assert ours
        text = place.read_text() if place.exists() else ""
        time.sleep(0.002)
        place.write_text(text + "x")
        if hang:
            fresh_path(place).write_text("half")
            print("at work", flush=True)
            time.sleep(60)
"""


def start(place: Path, n: int, then: str = "end") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(place), str(n), then], stdout=subprocess.PIPE, text=True
    )


def test_processes_and_threads_take_turns(tmp_path: Path) -> None:
    place = tmp_path / "count"
    others = [start(place, 20) for _ in range(2)]
    together = []

    def add(_: int) -> None:
        for _ in range(10):
            with turn(place) as ours:
                assert ours
                together.append(1)
                text = place.read_text() if place.exists() else ""
                assert len(together) == 1
                place.write_text(text + "x")
                together.pop()

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(add, range(3)))
    assert [other.wait(60) for other in others] == [0, 0]
    assert place.read_text() == "x" * 70
    assert os.listdir(tmp_path) == ["count"]


def test_a_dead_process_gives_its_turn_back_and_what_it_left_is_removed(tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(_turns, "_PATIENCE_S", 0.1)
    place = tmp_path / "count"
    other = start(place, 1, "hang")
    assert other.stdout is not None
    assert other.stdout.readline() == "at work\n"
    with turn(place, wait=False) as ours:
        assert not ours
    tidy(place)
    tidy_folder(tmp_path)
    assert len(os.listdir(tmp_path)) == 3  # nothing of a living process is touched
    timer = threading.Timer(0.4, other.kill)
    timer.start()
    with caplog.at_level(logging.WARNING), turn(place) as ours:
        assert ours
        assert other.wait(10) < 0
        assert sorted(os.listdir(tmp_path)) == [".count.stplock", "count"]
    assert f"process {other.pid} on " in caplog.text
    assert str(place) in caplog.text
    assert os.listdir(tmp_path) == ["count"]


def test_a_turn_within_a_turn_is_the_same(tmp_path: Path) -> None:
    with turn(tmp_path / "a") as first, turn(tmp_path / "a") as second, turn(tmp_path / "b") as third:
        assert first
        assert second
        assert third
    assert os.listdir(tmp_path) == []


def test_a_turn_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), turn(tmp_path / "a"):
        raise ZeroDivisionError
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: turn(tmp_path / "a", wait=False).__enter__()).result()


def test_what_was_moved_aside_comes_back_only_where_nothing_is(tmp_path: Path) -> None:
    place = tmp_path / "m"
    aside_path(place).mkdir()
    tidy(place)
    assert os.listdir(tmp_path) == ["m"]
    aside_path(place).mkdir()
    tidy(place)
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("name", ["n" * 250, "a.b.zarr", "with space", ".hidden", "ä" * 100, "[a]*?"])
def test_any_name(tmp_path: Path, name: str) -> None:
    place = tmp_path / name
    fresh_path(place).write_text("half")
    with turn(place) as ours:
        assert ours
        assert len(os.listdir(tmp_path)) == 1
    fresh_path(place).mkdir()
    tidy_folder(tmp_path)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_file_systems_without_locks_are_told_once(tmp_path: Path, caplog, monkeypatch, number: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "none")

    monkeypatch.setattr(_turns.fcntl, "flock", fail)
    left = fresh_path(tmp_path / "a")
    left.touch()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            with turn(tmp_path / "a") as ours:
                assert not ours
    assert caplog.text.count("has no locks") == 1
    assert str(tmp_path) in caplog.text
    assert os.listdir(tmp_path) == [left.name]  # whose it is cannot be told


def test_systems_without_locks(tmp_path: Path, caplog, monkeypatch) -> None:
    monkeypatch.setattr(_turns, "fcntl", None)
    with caplog.at_level(logging.WARNING), turn(tmp_path / "a") as ours:
        assert not ours
    assert "this system has no locks" in caplog.text


def test_folders_that_cannot_be_written_or_are_none(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file" / "a", tmp_path / "absent" / "a"):
        with turn(place) as ours:
            assert not ours
        tidy(place)
        tidy_folder(place.parent)
    monkeypatch.setattr(os, "open", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "read-only")))
    begun = time.monotonic()
    with turn(tmp_path / "a") as ours:
        assert not ours
    assert time.monotonic() - begun < 1
