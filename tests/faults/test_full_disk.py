"""Nothing can be written past the first kilobytes: what was computed is returned, or the call says how to go on."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import stpredict as stp

resource = pytest.importorskip("resource")
_BYTES = 4096


@contextmanager
def full() -> Iterator[list[str]]:
    """Files take no more than some bytes, as on a disk that is full; the warnings."""
    before, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    found: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        resource.setrlimit(resource.RLIMIT_FSIZE, (_BYTES, hard))
        try:
            yield found
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (before, hard))
    found += [str(each.message) for each in caught if "File too large" in str(each.message)]


def files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def weights(model: Any) -> list[torch.Tensor]:
    return list(model.network.state_dict().values())


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(stp.settings, "cache_dir", tmp_path / "cache")
    return tmp_path / "cache"


def test_features_and_patches_are_returned(cohort: ad.AnnData, empty_cache: Path) -> None:
    wanted = np.array(cohort.obsm["X_color-texture"])
    with full() as said:
        stp.pp.image_features(cohort, context=(1,))
        table = stp.pp.patches(cohort, 112, 16)
    np.testing.assert_array_equal(cohort.obsm["X_color-texture"], wanted)
    assert set(table["path"]) == {""}
    assert sum("features could not be cached" in text for text in said) == 1
    assert sum("patches of section" in text for text in said) == 6
    assert files(empty_cache) == []


def test_a_model_is_returned(cohort: ad.AnnData, empty_cache: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"model": "mlp", "training": {"max_epochs": 2}, "baselines": False}
    wanted = stp.tl.fit(cohort, path=tmp_path / "whole", **options)
    with full() as said:
        found = stp.tl.fit(cohort, checkpoint_dir=tmp_path / "checkpoints", **options)
        named = stp.tl.fit(cohort, path=tmp_path / "model", **options)
    for model in (found, named):
        assert all(torch.equal(a, b) for a, b in zip(weights(wanted), weights(model), strict=True))
    assert sum("model could not be kept" in text for text in said) == 2
    assert sum("no checkpoint could be written" in text for text in said) == 2  # the choice, and the refit
    with full(), pytest.raises(OSError, match="room to write model in .*File too large.*free some"):
        found.save(tmp_path / "model")
    found.save(tmp_path / "model")
    assert {path.parts[-2] for path in files(tmp_path)} == {"whole", "model"}


def test_a_map_goes_on(tmp_path: Path, empty_cache: Path) -> None:
    rng = np.random.default_rng(0)
    genes = [f"G{number}" for number in range(70)]
    obs = pd.DataFrame({"sample": np.repeat(list("abcd"), 9), "patient": np.repeat(list("PQRS"), 9)})
    tiles = ad.AnnData(obs=obs.rename(index=str))
    tiles.obs["array_row"], tiles.obs["array_col"] = np.tile(np.mgrid[:3, :3].reshape(2, -1), 4)
    tiles.obsm["X_own"] = rng.normal(size=(36, 5)).astype("float32")
    bulk = pd.DataFrame(rng.uniform(0, 900, (4, len(genes))), index=list("abcd"), columns=genes)
    bags = stp.pp.bag(tiles, "own", expression=bulk, n_tokens=4)
    stp.pp.normalize(bags, unit="fpkm-uq")
    model = stp.tl.fit(bags, "he2rna", training={"max_epochs": 1}, baselines=False)
    stp.tl.predict(tiles, model, window=2, store=tmp_path / "whole.zarr")
    with full(), pytest.raises(OSError, match="room to write the map to .*same call again, which goes on"):
        stp.tl.predict(tiles, model, window=2, store=tmp_path / "map.zarr")
    stp.tl.predict(tiles, model, window=2, store=tmp_path / "map.zarr")
    found, wanted = (stp.io.read_map(tmp_path / name).obsm["predicted"] for name in ("map.zarr", "whole.zarr"))
    np.testing.assert_array_equal(found, wanted)


def test_the_shell_names_the_slides_and_goes_on_when_there_is_room(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("wsidata")
    from stpredict.cli._main import main

    stp.datasets.synthetic_slides(
        2, n_genes=6, image_dir=tmp_path / "slides", slide_um=500, margin_um=100, microns_per_pixel=4, censoring=0
    )
    adata = stp.datasets.synthetic_cohort(2, 1, 6, n_spots=16, microns_per_pixel=4.0)
    stp.pp.image_features(adata, "color-statistics")
    stp.pp.normalize(adata)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        stp.tl.fit(adata, "ridge", path=tmp_path / "model")
    call = ["predict", str(tmp_path / "slides"), "--model", str(tmp_path / "model"), "--out", str(tmp_path / "maps")]
    with full():
        assert main(call) == 1
    said = capsys.readouterr()
    assert said.out.count(": FAILED, ") == 2
    assert said.err.count("make the same call again") == 2
    assert not [path for path in (tmp_path / "maps").iterdir() if path.suffix == ".zarr"]
    assert main(call) == 0
    assert capsys.readouterr().out.count(": done, ") == 2
