"""Stores in few files, whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp


def test_few_files(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(300, 8000)).astype(np.float32)
    adata = ad.AnnData(values, obsm={"predicted": values})
    stp.io.write_zarr(adata, tmp_path / "few" / "a.zarr")
    np.testing.assert_array_equal(ad.read_zarr(tmp_path / "few" / "a.zarr").obsm["predicted"], values)
    assert len([path for path in (tmp_path / "few").rglob("*") if path.is_file()]) < 30
    assert ad.settings.auto_shard_zarr_v3 is not True


def test_what_is_there_is_left(tmp_path: Path) -> None:
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(FileExistsError, match="new path"):
        stp.io.write_zarr(ad.AnnData(np.ones((2, 2))), tmp_path / "a.zarr")
    with pytest.raises(TypeError, match="AnnData or SpatialData"):
        stp.io.write_zarr(np.ones(2), tmp_path / "b.zarr")  # type: ignore[arg-type]


def test_nothing_is_left_of_a_call_that_fails(tmp_path: Path, monkeypatch: Any) -> None:
    def fail(self: ad.AnnData, path: Path) -> None:
        Path(path).mkdir()
        raise OSError("no space left")

    monkeypatch.setattr(ad.AnnData, "write_zarr", fail)
    with pytest.raises(OSError, match="no space"):
        stp.io.write_zarr(ad.AnnData(np.ones((2, 2))), tmp_path / "a.zarr")
    assert not list(tmp_path.iterdir())
