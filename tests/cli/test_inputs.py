"""What models read, computed for a slide: as the functions that a user would call one after the other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp
from stpredict.cli._inputs import check_models
from stpredict.cli._main import main

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
QUICK: dict[str, Any] = {"hyperparameters": "small", "training": {"max_epochs": 1}, "baselines": False}


@pytest.fixture(scope="module")
def read(sections: Path) -> ad.AnnData:
    """Sections with everything that the models of this file read."""
    adata = ad.read_h5ad(sections)
    stp.pp.image_features(adata, "random-filters")
    stp.pp.neighbor_features(adata, "color-statistics")
    stp.pp.grid(adata)
    adata.obs["tumor"] = np.where(adata.obs["tumor"] > adata.obs["tumor"].median(), "yes", "no")
    return adata


@pytest.mark.parametrize("kind", ["patches", "neighbors and a grid", "two encoders", "classes"])
def test_slides_are_predicted_by_models_of_every_kind(
    kind: str, read: ad.AnnData, slide_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    pytest.importorskip("wsidata")
    options: dict[str, Any] = {
        "patches": {"model": "color", **QUICK},
        "neighbors and a grid": {"model": "triplex", "features": "color-statistics", **QUICK},
        "two encoders": {"model": "ridge", "features": ["color-statistics", "random-filters"]},
        "classes": {"model": "mlp", "features": "color-statistics", "target": "tumor", **QUICK},
    }[kind]
    stp.tl.fit(read, path=tmp_path / "model", **options)
    call = ["predict", str(slide_folder / "P1_S1.tif"), "--model", str(tmp_path / "model"), "--out", str(tmp_path)]
    assert main(call) == 0, capsys.readouterr().err
    if kind == "classes":
        table = ad.read_zarr(tmp_path / "P1_S1.zarr")
        assert table.obs["tumor_probability"].between(0, 1).all()
    else:
        table = stp.io.read_map(tmp_path / "P1_S1.zarr")
        assert np.isfinite(table.obsm["predicted"]).all()
        assert table.obsm["predicted"].std() > 0
    assert main(call) == 0
    assert ": skipped, " in capsys.readouterr().out


def fake(needs: set[str], slots: dict[str, Any]) -> Any:
    return SimpleNamespace(model="mine", network=SimpleNamespace(needs=needs), features={"slots": slots})


@pytest.mark.parametrize(
    ("needs", "slots", "said"),
    [
        ({"features", "nuclei_graph"}, {}, "reads nuclei_graph; compute these in Python"),
        (
            {"features"},
            {"X_a": {"encoder": "color-statistics", "fingerprint": "other"}},
            "--weights color-statistics=FILE",
        ),
    ],
)
def test_what_no_slide_gives_is_said_at_once(needs: set[str], slots: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_models([fake(needs, slots)], {})
    with pytest.raises(KeyError, match="mine"):  # an encoder of somebody's own
        check_models([fake({"features"}, {"X_mine": {}})], {})
