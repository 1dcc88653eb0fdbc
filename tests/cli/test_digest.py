"""What tells one file from another, and finds out what a result was made of."""

from __future__ import annotations

import os
from pathlib import Path

import anndata as ad
import numpy as np
import pytest

from stpredict.cli._digest import digest_of, fingerprint, is_there, record_of, recorded
from stpredict.slots._provenance import write_record


@pytest.mark.parametrize("size", [0, 1, 2**16 - 1, 2**16, 2**16 + 1, 3 * 2**20 + 5])
def test_fingerprints_follow_the_content_and_not_the_place(size: int, tmp_path: Path) -> None:
    content = np.random.default_rng(size).integers(0, 256, size, dtype=np.uint8).tobytes()
    first, second = tmp_path / "a.svs", tmp_path / "b.svs"
    first.write_bytes(content)
    second.write_bytes(content)
    os.utime(second, (1, 1))
    assert fingerprint(first) == fingerprint(second)
    others = {content + b"0", content[:-1] + b"?", b"?" + content[1:], content[: size // 2]} - {content}
    found = set()
    for other in others:
        second.write_bytes(other)
        found.add(fingerprint(second))
    assert len(found | {fingerprint(first)}) == len(others) + 1


def test_fingerprints_of_stores_follow_the_sizes_of_their_files(tmp_path: Path) -> None:
    (tmp_path / "a.zarr" / "X").mkdir(parents=True)
    (tmp_path / "a.zarr" / "X" / "0").write_bytes(b"12")
    before = fingerprint(tmp_path / "a.zarr")
    (tmp_path / "a.zarr").rename(tmp_path / "b.zarr")
    assert fingerprint(tmp_path / "b.zarr") == before
    (tmp_path / "b.zarr" / "X" / "1").touch()
    assert fingerprint(tmp_path / "b.zarr") != before


@pytest.mark.parametrize("name", ["a.h5ad", "a.zarr"])
@pytest.mark.filterwarnings("ignore:Writing zarr v2 data")
def test_results_know_their_digest(name: str, tmp_path: Path) -> None:
    path, content = tmp_path / name, {"slide": 1, "tiles": [1, None]}
    assert digest_of(content) == digest_of({"tiles": (1, None), "slide": 1})
    assert not is_there(path, content)
    adata = ad.AnnData(np.ones((2, 1), np.float32))
    for _ in range(2):
        (adata.write_zarr if name.endswith("zarr") else adata.write_h5ad)(path)
        if recorded(path) is None:
            with pytest.raises(FileExistsError, match="found other files"):
                is_there(path, content)
        write_record(adata, "shell", record_of(content))
    assert is_there(path, content)
    with pytest.raises(FileExistsError, match="found one with another slide and patient of;"):
        is_there(path, {**content, "slide": 2, "patient_of": "P"})
    assert not is_there(path, {}, overwrite=True)
