"""Directories that are there whole, or not at all."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stpredict.core._atomic import check_place, new_file, write_directory


def test_two_that_write_one_directory_take_turns(tmp_path: Path) -> None:
    place, inside = tmp_path / "m", threading.Semaphore(1)

    def write(fresh: Path) -> None:
        assert inside.acquire(blocking=False)
        (fresh / "mark").write_text(fresh.name)
        inside.release()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: write_directory(place, "mark", write), range(12)))
    assert os.listdir(tmp_path) == ["m"]
    assert os.listdir(place) == ["mark"]


def test_a_block_that_fails_moves_nothing(tmp_path: Path) -> None:
    def write(fresh: Path) -> None:
        (fresh / "half").write_text("half")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        write_directory(tmp_path / "deep" / "m", "mark", write)
    assert os.listdir(tmp_path / "deep") == []


def test_places(tmp_path: Path) -> None:
    check_place(tmp_path / "absent", "mark")
    (tmp_path / "empty").mkdir()
    check_place(tmp_path / "empty", "mark")
    (tmp_path / "empty" / "other").touch()
    for path in (tmp_path / "empty", tmp_path / "empty" / "other"):
        with pytest.raises(FileExistsError, match="expected a new or empty directory.*found other files"):
            check_place(path, "mark")
    (tmp_path / "empty" / "mark").touch()
    check_place(tmp_path / "empty", "mark")


def test_a_new_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "deeper" / "table.csv"
    with new_file(path) as fresh:
        fresh.write_text("first")
        assert not path.exists()
    with pytest.raises(FileNotFoundError), new_file(path) as fresh:
        (fresh.with_name("other") / fresh.name).write_text("second")
    assert path.read_text() == "first"
    (path.parent / ".table.csv.0123abcd.new").touch()  # of a process that was killed
    with new_file(path) as fresh:
        fresh.write_text("third")
    assert [(each.name, each.read_text()) for each in path.parent.iterdir()] == [("table.csv", "third")]
