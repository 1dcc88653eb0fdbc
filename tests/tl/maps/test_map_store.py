"""Maps on disk that several write, that cannot be written, and that killed calls left."""

from __future__ import annotations

import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.core._turns import fresh_path
from stpredict.io._map_files import Written
from stpredict.tl.maps import _map_store
from stpredict.tl.maps._map_store import MapStore

GENES, CHUNKS = list("ABCDE"), [slice(0, 2), slice(2, 4), slice(4, 5)]
VALUES = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


@pytest.fixture
def tiles() -> ad.AnnData:
    return ad.AnnData(obs=pd.DataFrame({"sample": "a"}, index=[f"t{i}" for i in range(6)]))


def begin(path: Path, tiles: ad.AnnData) -> MapStore:
    return MapStore.open(path, "digest", tiles, GENES, CHUNKS, {})


def write(path: Path, tiles: ad.AnnData, chunks=CHUNKS) -> list[int]:
    """Write a map as a call does; the first genes of the chunks that were left to do."""
    done = []
    with begin(path, tiles) as store:
        for genes in chunks:
            if not store.complete and not store.has(genes):
                store.write(genes, VALUES[:, genes])
                done.append(genes.start)
        if not store.complete and len(chunks) == len(CHUNKS):
            store.finish()
    return done


def is_whole(path: Path) -> bool:
    return np.array_equal(stp.io.read_map(path).obsm["predicted"], VALUES) and os.listdir(path.parent) == [path.name]


def test_calls_at_once_write_one_map(tiles, tmp_path) -> None:
    path = tmp_path / "deep" / "m.zarr"
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(lambda _: write(path, tiles), range(4)))
    assert sorted(done) == [[], [], [], [0, 2, 4]]
    assert is_whole(path)


def test_a_call_goes_on_with_what_another_has_written(tiles, tmp_path) -> None:
    """The first ends early, while the second waits for it."""
    path, found = tmp_path / "m.zarr", []
    with begin(path, tiles) as store:
        store.write(CHUNKS[0], VALUES[:, CHUNKS[0]])
        other = threading.Thread(target=lambda: found.append(write(path, tiles)))
        other.start()
        other.join(0.3)
        assert other.is_alive()
    other.join(30)
    assert found == [[2, 4]]
    assert is_whole(path)


def test_what_killed_calls_left_is_removed(tiles, tmp_path) -> None:
    path = tmp_path / "m.zarr"
    fresh_path(path).mkdir()
    write(path, tiles, CHUNKS[:1])
    fresh_path(path).mkdir()
    path.with_name(".m.zarr.stplock").touch()
    assert write(path, tiles) == [2, 4]
    fresh_path(path).mkdir()
    path.with_name(".m.zarr.stplock").touch()
    assert write(path, tiles) == []
    assert is_whole(path)


@pytest.mark.parametrize("there", ["other files", "another map", "the same map"])
def test_a_process_without_locks_that_comes_in_between(tiles, tmp_path, monkeypatch, there) -> None:
    path, begin_plain = tmp_path / "m.zarr", _map_store._begin
    unfinished = tmp_path / "m.zarr.partial"

    def begin_twice(fresh, digest, *arguments):
        begin_plain(fresh, digest, *arguments)
        if there == "other files":
            (unfinished / "X").mkdir(parents=True)
        else:
            begin_plain(unfinished, digest if there == "the same map" else "other", *arguments)

    monkeypatch.setattr(_map_store, "_begin", begin_twice)
    if there == "the same map":
        write(path, tiles)
        assert is_whole(path)
    else:
        with pytest.raises(FileExistsError, match="expected nothing, or this map unfinished"):
            write(path, tiles)
        assert os.listdir(tmp_path) == ["m.zarr.partial"]


#: What fails in each step.
PLACES = {
    "begin": (ad.AnnData, "write_zarr"),
    "write": (Written, "add"),
    "list": (_map_store, "list_files"),
    "last": (os, "replace"),
}


@pytest.mark.parametrize("step", PLACES)
def test_a_full_disk_says_how_to_go_on(tiles, tmp_path, monkeypatch, step) -> None:
    path = tmp_path / "m.zarr"

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    message = "room to write the map to .*No space left.*same call again"
    with monkeypatch.context() as patch:
        if step in ("write", "list"):
            write(path, tiles, CHUNKS[:1])
        patch.setattr(*PLACES[step], full)
        with pytest.raises(OSError, match=message) as caught:
            write(path, tiles)
        assert caught.value.errno == errno.ENOSPC
    assert write(path, tiles) == {"begin": [0, 2, 4], "write": [2, 4], "list": [], "last": [0, 2, 4]}[step]
    assert is_whole(path)


def test_a_file_in_the_place_of_the_folder(tiles, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(OSError, match="room to write the map to .*folder writable"):
        write(tmp_path / "file" / "m.zarr", tiles)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    "step",
    ["os.replace", "remove", "zarr.consolidate_metadata", "list_files", "write_list", "Path.unlink", "os.replace 2"],
)
def test_the_last_step_can_stop_anywhere(tiles, tmp_path, monkeypatch, step, when) -> None:
    """What was pooled goes, the metadata are written anew, the files are listed, and the store is moved."""
    import zarr

    class Stopped(BaseException):
        pass

    path = tmp_path / "m.zarr"
    with begin(path, tiles) as store:
        store.blocks("mean", 6, 3).save(0, 3, np.ones((3, 4), dtype=np.float32))
        for genes in CHUNKS:
            store.write(genes, VALUES[:, genes])
    owner, name = {
        "os.replace": (os, "replace"), "os.replace 2": (os, "replace"), "Path.unlink": (Path, "unlink"),
        "zarr.consolidate_metadata": (zarr, "consolidate_metadata"),
    }.get(step, (_map_store, step))  # fmt: skip
    plain, calls = getattr(owner, name), []

    def stopping(*arguments, **options):
        own = step != "os.replace 2" or Path(arguments[0]).name == "m.zarr.partial"
        own = own and (step != "Path.unlink" or arguments[0].name == _map_store.LOG)
        calls.append(own)
        if own and when == "before":
            raise Stopped
        found = plain(*arguments, **options)
        if own:
            raise Stopped
        return found

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, stopping)
        store = begin(path, tiles)
        with pytest.raises(Stopped):
            store.finish()
    assert any(calls)
    store.close()  # as the system does for a dead process
    assert write(path, tiles) == []
    assert is_whole(path)
