"""Damaged maps: finished ones are refused by the name of the file, unfinished ones compute what was damaged again."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.io._map_files import FILES, LOG, Written, digest_of, list_files, read_list, write_list
from stpredict.tl.maps._map_store import MapStore

GENES, CHUNKS = list("ABCDE"), [slice(0, 2), slice(2, 4), slice(4, 5)]
VALUES = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)


@pytest.fixture(params=[2, 3], ids=["zarr 2", "zarr 3"])
def tiles(request) -> Iterator[ad.AnnData]:
    obs = pd.DataFrame({"sample": pd.Categorical(["a"] * 6)}, index=[f"t{i}" for i in range(6)])
    with ad.settings.override(zarr_write_format=request.param):
        yield ad.AnnData(obs=obs, obsm={"spatial": np.zeros((6, 2))})


def begin(path: Path, tiles: ad.AnnData, std: bool = True) -> MapStore:
    return MapStore.open(path, "digest", tiles, GENES, CHUNKS, {}, std=std)


def fill(store: MapStore, chunks=CHUNKS) -> None:
    for genes in chunks:
        if not store.has(genes):
            store.write(genes, VALUES[:, genes], VALUES[:, genes] ** 2)


@pytest.fixture
def finished(tiles, tmp_path) -> Path:
    store = begin(tmp_path / "m.zarr", tiles)
    fill(store)
    store.finish()
    return store.path


def test_a_whole_map_is_read(finished) -> None:
    found = stp.io.read_map(finished)
    np.testing.assert_array_equal(found.obsm["predicted"], VALUES)
    assert not list(finished.rglob(LOG))
    np.testing.assert_array_equal(ad.read_zarr(finished).layers["std"], VALUES**2)
    shutil.copytree(finished, finished.with_name("copy.zarr"))
    np.testing.assert_array_equal(
        stp.io.read_map(finished.with_name("copy.zarr"), ["E", "B"]).obsm["predicted"], VALUES[:, [4, 1]]
    )


def damages(data: bytes) -> list[bytes]:
    """Cut, emptied, zeroed, with one bit flipped, with a byte put in."""
    middle = len(data) // 2
    flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else b"x"
    return [new for new in (b"", data[:-3], bytes(len(data)), flipped, data[:5] + b"?" + data[5:]) if new != data]


def test_every_damaged_or_lost_file_is_named(finished) -> None:
    for path in sorted(item for item in finished.rglob("*") if item.is_file()):
        whole = path.read_bytes()
        name = path.relative_to(finished).as_posix()
        chunk_of_std = name.startswith("layers/std/") and path.name not in ("zarr.json", ".zarray", ".zattrs")
        for data in [] if chunk_of_std else damages(whole):
            path.write_bytes(data)
            with pytest.raises(ValueError, match=r"expected the files of a map as they were written.*found") as caught:
                stp.io.read_map(finished)
            assert name in str(caught.value)
        path.unlink()
        with pytest.raises(ValueError, match="expected .*found"):
            stp.io.read_map(finished)
        path.write_bytes(whole)
    stp.io.read_map(finished)


def test_genes_that_are_not_read_are_not_looked_at(finished) -> None:
    chunk = next(path for path in sorted((finished / "X").rglob("*")) if path.name in ("0.2", "2"))
    chunk.write_bytes(chunk.read_bytes()[:-1])
    np.testing.assert_array_equal(stp.io.read_map(finished, ["C", "A"]).obsm["predicted"], VALUES[:, [2, 0]])
    with pytest.raises(ValueError, match=f"found {chunk.relative_to(finished).as_posix()} damaged"):
        stp.io.read_map(finished, ["E"])


@pytest.mark.parametrize("text", ["", "{}", "[]", "{", '{"files": "{}", "digest": "0"}', '{"files": 3}', "\x00"])
def test_a_damaged_list(finished, text) -> None:
    (finished / FILES).write_text(text)
    with pytest.raises(ValueError, match=f"found a damaged {FILES}"):
        stp.io.read_map(finished)


def test_a_list_that_was_made_shorter(finished) -> None:
    entry = json.loads((finished / FILES).read_text())
    files = json.loads(entry["files"])
    entry["files"] = json.dumps({name: files[name] for name in list(files)[:3]})
    (finished / FILES).write_text(json.dumps(entry))
    with pytest.raises(ValueError, match="a damaged"):
        stp.io.read_map(finished)
    write_list(finished, files)
    assert read_list(finished) == files


@pytest.mark.parametrize("name", ["/etc/hostname", "../other/a", "X/../../a"])
def test_a_list_that_leads_outside(finished, name) -> None:
    write_list(finished, read_list(finished) | {name: digest_of(Path("/etc/hostname"))})
    with pytest.raises(ValueError, match=f"found a damaged {FILES}"):
        stp.io.read_map(finished)


def test_a_link_is_no_file_of_a_map(finished, tmp_path) -> None:
    path = next(item for item in (finished / "obs").rglob("*") if item.is_file())
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"found {path.relative_to(finished).as_posix()} lost"):
        stp.io.read_map(finished)


@pytest.mark.parametrize(
    ("array", "shape"), [("X", [10**9, 5]), ("X", [10**12, 10**12]), ("obs/_index", [10**11]), ("var/_index", [10**9]),
                         ("obsm/spatial", [6, 10**11]), ("layers/std", [6, 10**10])],
)  # fmt: skip
def test_absurd_sizes_take_no_memory(finished, array, shape) -> None:
    """Sizes that somebody changed, and signed."""
    for path in [*finished.rglob("zarr.json"), *finished.rglob(".zarray"), *finished.rglob(".zmetadata")]:
        entry = json.loads(path.read_text())
        whole = entry.get("metadata") or entry.get("consolidated_metadata", {}).get("metadata", {})
        found = [whole[name] for name in (array, f"{array}/.zarray") if name in whole]
        for each in [*found, *([entry] if path.parent == finished / array else [])]:
            each["shape"] = shape
        path.write_text(json.dumps(entry))
    write_list(finished, list_files(finished))
    with pytest.raises(ValueError, match="expected the files of a map as they were written"):
        stp.io.read_map(finished)


def test_damaged_chunks_of_an_unfinished_map_are_computed_again(tiles, tmp_path) -> None:
    store = begin(tmp_path / "m.zarr", tiles)
    fill(store, CHUNKS[:2])
    blocks = store.blocks("0_0", 4, 2)
    blocks.save(0, 2, np.ones((2, 3), np.float32))
    blocks.save(2, 4, np.full((2, 3), 2, np.float32))
    unfinished = tmp_path / "m.zarr.partial"
    for path in [item for item in sorted(unfinished.rglob("*")) if item.is_file()]:
        if path.parts[-2:-1] == ("std",) or "X" in path.parts or "0_0" in path.parts:
            whole = path.read_bytes()
            for data in damages(whole):
                path.write_bytes(data)
                try:
                    again = begin(tmp_path / "m.zarr", tiles)
                except ValueError as error:
                    found = str(error)
                else:
                    loaded = [again.blocks("0_0", 4, 2).load(*rows) for rows in ((0, 2), (2, 4))]
                    found = (
                        "again"
                        if None in [item if item is None else 0 for item in loaded]
                        or not all(map(again.has, CHUNKS[:2]))
                        else ""
                    )
                assert found, path
            path.write_bytes(whole)
    (next(path for path in sorted((unfinished / "X").rglob("*")) if path.name in ("0.1", "1"))).write_bytes(b"x")
    again = begin(tmp_path / "m.zarr", tiles)
    assert [again.has(genes) for genes in CHUNKS] == [True, False, False]
    np.testing.assert_array_equal(again.blocks("0_0", 4, 2).load(2, 4), 2)
    fill(again)
    again.finish()
    np.testing.assert_array_equal(stp.io.read_map(again.path).obsm["predicted"], VALUES)


def test_blocks_whose_description_is_damaged_are_written_again(tiles, tmp_path) -> None:
    blocks = begin(tmp_path / "m.zarr", tiles).blocks("0_0", 4, 2)
    blocks.save(0, 2, np.ones((2, 3), np.float32))
    folder = tmp_path / "m.zarr.partial" / "stpredict_work" / "0_0"
    next(path for path in folder.iterdir() if path.name in ("zarr.json", ".zarray")).write_text("{")
    again = begin(tmp_path / "m.zarr", tiles).blocks("0_0", 4, 2)
    assert again.load(0, 2) is None
    again.save(2, 4, np.full((2, 3), 3, np.float32))
    assert again.load(0, 2) is None
    np.testing.assert_array_equal(again.load(2, 4), 3)


def test_what_an_unfinished_map_began_with_is_checked(tiles, tmp_path) -> None:
    begin(tmp_path / "m.zarr", tiles)
    unfinished = tmp_path / "m.zarr.partial"
    for path in [item for item in sorted(unfinished.rglob("*")) if item.is_file()]:
        whole = path.read_bytes()
        for data in damages(whole):
            path.write_bytes(data)
            with pytest.raises((ValueError, FileExistsError), match="expected .*found"):
                begin(tmp_path / "m.zarr", tiles)
            with pytest.raises((ValueError, FileNotFoundError), match="expected .*found"):
                stp.io.read_map(tmp_path / "m.zarr")
        path.write_bytes(whole)
    with pytest.raises(FileNotFoundError, match=r"unfinished one \(0 of 3 chunks"):
        stp.io.read_map(tmp_path / "m.zarr")


@pytest.mark.parametrize("step", ["work", "consolidated", "listed", "log"])
def test_stopped_in_the_last_step(tiles, tmp_path, monkeypatch, step) -> None:
    """At any moment of it, the same call finishes the map; a chunk that was damaged meanwhile is an error."""
    store = begin(tmp_path / "m.zarr", tiles)
    fill(store)

    def stop(*_, **__):
        raise KeyboardInterrupt

    def move(source, target, replace=os.replace):
        if Path(target) == store.path:
            raise KeyboardInterrupt
        replace(source, target)

    where, what = {
        "work": ("zarr.consolidate_metadata", stop),
        "consolidated": ("stpredict.tl.maps._map_store.list_files", stop),
        "listed": ("pathlib.Path.unlink", stop),
        "log": ("os.replace", move),
    }[step]
    with monkeypatch.context() as patch:
        patch.setattr(where, what)
        with pytest.raises(KeyboardInterrupt):
            store.finish()
    chunk = next(path for path in sorted((tmp_path / "m.zarr.partial" / "X").rglob("*")) if path.name in ("0.1", "1"))
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[:-1])
    with pytest.raises(ValueError, match="lost or damaged|damaged"):
        begin(tmp_path / "m.zarr", tiles)
    chunk.write_bytes(whole)
    assert begin(tmp_path / "m.zarr", tiles).complete
    np.testing.assert_array_equal(stp.io.read_map(tmp_path / "m.zarr").obsm["predicted"], VALUES)


def test_a_line_that_was_cut_is_no_chunk(tmp_path) -> None:
    (tmp_path / "a").write_text("x")
    written = Written(tmp_path)
    written.add("genes 0", ["a"])
    with (tmp_path / LOG).open("ab") as log:
        log.write(b'\n["genes 2", {"a": "12')
    again = Written(tmp_path)
    assert again.has("genes 0")
    assert not again.has("genes 2")
    again.add("genes 4", ["a", "none"])
    assert Written(tmp_path).has("genes 4")
    (tmp_path / "a").unlink()
    assert not again.intact(but="work/")
