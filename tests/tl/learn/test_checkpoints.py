"""Checkpoints belong to one fit: the same call goes on from them, a call on anything else does not."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.training import FittedModel

COLOR: dict[str, Any] = {
    "model": "color",
    "hyperparameters": {"patch_px": 8, "patch_um": 40.0},
    "training": {"max_epochs": 2, "learning_rate": 1e-2},
}
COUNTS: dict[str, Any] = {
    "model": "hist2st",
    "hyperparameters": {
        "dim": 16, "depth": 1, "heads": 2, "dim_head": 8, "mlp_dim": 16, "lstm_layers": 1, "graph_depth": 1, "side": 4,
        "mixers": 1, "patch_px": 16, "patch_um": 40.0, "symmetries": False, "stain_jitter": 0.0, "dropout": 0.0,
        "views": 0,
    },
    "training": {"max_epochs": 1, "patience": 0, "learning_rate": 1e-3},
}  # fmt: skip
GRID: dict[str, Any] = {
    "model": "hist",
    "hyperparameters": {"width": 4, "levels": 2, "mixer_depth": 1},
    "training": {"max_epochs": 2, "patience": 0, "learning_rate": 1e-2},
}
MLP: dict[str, Any] = {"model": "mlp", "hyperparameters": {"hidden": 8}, "training": {"max_epochs": 3, "refit": False}}


@pytest.fixture(scope="module")
def _pictures() -> Any:
    adata = stp.datasets.synthetic_cohort(3, 1, 6, n_spots=25, microns_per_pixel=4.0)
    stp.pp.normalize(adata)
    adata.X = np.asarray(adata.X.toarray() if hasattr(adata.X, "toarray") else adata.X)
    stp.pp.grid(adata)
    return adata


@pytest.fixture
def pictures(_pictures: Any) -> Any:
    return _pictures.copy()


@pytest.fixture
def flat(toy: Any) -> Any:
    stp.pp.grid(toy)
    return toy


def weights(model: FittedModel) -> torch.Tensor:
    return torch.cat([value.flatten().float() for _, value in sorted(model.network.state_dict().items())])


def folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir())


def other_images(adata: Any) -> None:
    adata.uns["spatial"] = {
        name: entry | {"images": {"hires": 255 - np.asarray(entry["images"]["hires"])}}
        for name, entry in adata.uns["spatial"].items()
    }


def other_positions(adata: Any) -> None:
    adata.obsm["spatial"] = np.asarray(adata.obsm["spatial"]) + 3


def other_scale(adata: Any) -> None:
    adata.uns["spatial"] = {
        name: entry | {"scalefactors": entry["scalefactors"] | {"microns_per_pixel": 3.0}}
        for name, entry in adata.uns["spatial"].items()
    }


def other_counts(adata: Any) -> None:
    counts = adata.layers["counts"].copy()
    adata.layers["counts"] = counts + counts


def other_cell(adata: Any) -> None:
    first = adata.obs["sample"] == adata.obs["sample"].iloc[0]
    row = adata.obs.loc[first, "grid_row"]
    adata.obs.loc[first, "grid_row"] = row.max() - row


def other_expression(adata: Any) -> None:
    adata.X[0] = adata.X[0] + 1


def other_patients(adata: Any) -> None:
    adata.obs["patient"] = adata.obs["sample"].astype(str)


def other_features(adata: Any) -> None:
    adata.obsm["X_toy"][0, 0] += 1


def refit_equals_fresh(adata: Any, changed: Any, path: Path, spec: dict[str, Any], options: dict[str, Any]) -> None:
    """The first fit leaves checkpoints; one of something else has to come out as if there were none."""
    common = spec | {"baselines": False}
    first = stp.tl.fit(adata, checkpoint_dir=path, **common)
    before = folders(path)
    assert before
    second = stp.tl.fit(changed, checkpoint_dir=path, **(common | options))
    fresh = stp.tl.fit(changed, **(common | options))
    assert len(folders(path)) == len(before) + 1
    assert weights(first).shape != weights(fresh).shape or not torch.equal(weights(first), weights(fresh))
    assert torch.equal(weights(second), weights(fresh))


@pytest.mark.parametrize("change", [other_images, other_positions, other_scale, other_expression])
def test_checkpoints_of_other_pictures_are_not_taken_up(pictures: Any, tmp_path: Path, change: Any) -> None:
    changed = pictures.copy()
    change(changed)
    refit_equals_fresh(pictures, changed, tmp_path, COLOR, {})


def test_checkpoints_of_other_counts_are_not_taken_up(pictures: Any, tmp_path: Path) -> None:
    """Twice the counts: the same expression and size factors."""
    changed = pictures.copy()
    other_counts(changed)
    np.testing.assert_array_equal(changed.X, pictures.X)
    refit_equals_fresh(pictures, changed, tmp_path, COUNTS, {})


def test_checkpoints_of_other_cells_are_not_taken_up(flat: Any, tmp_path: Path) -> None:
    changed = flat.copy()
    other_cell(changed)
    refit_equals_fresh(flat, changed, tmp_path, GRID, {})


@pytest.mark.parametrize("change", [other_expression, other_patients, other_features])
def test_checkpoints_of_other_rows_are_not_taken_up(flat: Any, tmp_path: Path, change: Any) -> None:
    changed = flat.copy()
    change(changed)
    refit_equals_fresh(flat, changed, tmp_path, MLP, {})


@pytest.mark.parametrize(
    "options",
    [
        {"features": {"scaling": "global"}},
        {"seed": 1},
        {"hyperparameters": {"hidden": 4}},
        {"training": {"max_epochs": 4, "refit": False}},
        {"target": ["G1", "G0"]},
        {"train": np.arange(72) < 48},
    ],
    ids=lambda options: next(iter(options)),
)
def test_checkpoints_of_other_options_are_not_taken_up(flat: Any, tmp_path: Path, options: dict[str, Any]) -> None:
    refit_equals_fresh(flat, flat.copy(), tmp_path, MLP, options)


def test_checkpoints_of_another_start_are_not_taken_up(flat: Any, tmp_path: Path) -> None:
    start = stp.tl.fit(flat, **(MLP | {"seed": 7, "baselines": False}))
    refit_equals_fresh(flat, flat.copy(), tmp_path, MLP, {"model": start, "hyperparameters": None})


@pytest.mark.parametrize("spec", [MLP, GRID], ids=["mlp", "hist"])
def test_the_same_call_goes_on_from_its_checkpoints(
    flat: Any, tmp_path: Path, spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = stp.tl.fit(flat, checkpoint_dir=tmp_path, baselines=False, **spec)
    before = folders(tmp_path)
    network, steps = type(first.network), []
    step = network.step
    monkeypatch.setattr(network, "step", lambda *args: steps.append(args[0].training) or step(*args))
    again = stp.tl.fit(flat.copy(), checkpoint_dir=tmp_path, baselines=False, **spec)
    assert not any(steps)  # nothing was trained
    assert folders(tmp_path) == before
    assert torch.equal(weights(first), weights(again))
    assert again.training.n_epochs == first.training.n_epochs


def test_a_device_is_no_other_fit(flat: Any, tmp_path: Path) -> None:
    stp.tl.fit(flat, checkpoint_dir=tmp_path, baselines=False, **MLP)
    named = MLP | {"training": MLP["training"] | {"device": "cpu"}}
    stp.tl.fit(flat, checkpoint_dir=tmp_path, baselines=False, **named)
    assert len(folders(tmp_path)) == 1


def test_a_checkpoint_folder_that_cannot_be_written_costs_a_warning(flat: Any, tmp_path: Path) -> None:
    fresh = stp.tl.fit(flat, baselines=False, **MLP)
    (tmp_path / "file").write_text("mine")
    with pytest.warns(UserWarning, match="no checkpoint could be written to .*another checkpoint_dir") as caught:
        found = stp.tl.fit(flat, checkpoint_dir=tmp_path / "file", baselines=False, **MLP)
    assert len([each for each in caught if "no checkpoint" in str(each.message)]) <= 2  # the choice, and the refit
    assert torch.equal(weights(fresh), weights(found))


@pytest.mark.parametrize("damage", ["cut", "emptied", "changed", "exchanged"])
def test_a_damaged_checkpoint_is_not_taken_up(flat: Any, tmp_path: Path, caplog: Any, damage: str) -> None:
    first = stp.tl.fit(flat, checkpoint_dir=tmp_path, baselines=False, **MLP)
    for path in tmp_path.rglob("*.ckpt"):
        content = path.read_bytes()
        half = len(content) // 2
        changed = content[:half] + bytes([content[half] ^ 1]) + content[half + 1 :]
        path.write_bytes({"cut": content[:half], "emptied": b"", "changed": changed, "exchanged": b"x" * 99}[damage])
        path.with_suffix(".partial").write_bytes(b"half")
    again = stp.tl.fit(flat, checkpoint_dir=tmp_path, baselines=False, **MLP)
    assert "cannot be used" in caplog.text
    assert torch.equal(weights(first), weights(again))
    assert not list(tmp_path.rglob("*.partial"))


def test_fits_at_once_train_once(flat: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One trains; the other waits, and takes up its last checkpoint."""
    network, steps = type(stp.tl.fit(flat, baselines=False, **MLP).network), []
    step = network.step
    monkeypatch.setattr(network, "step", lambda *args: steps.append(args[0].training) or step(*args))
    stp.tl.fit(flat, checkpoint_dir=tmp_path / "alone", baselines=False, **MLP)
    alone = sum(steps)
    copies = [flat.copy() for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda each: stp.tl.fit(each, checkpoint_dir=tmp_path / "two", baselines=False, **MLP), copies))
    assert sum(steps) == 2 * alone
    assert folders(tmp_path / "two") == folders(tmp_path / "alone")
