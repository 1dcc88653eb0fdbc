"""Programs of torch and model cards, and models that come from a folder or the hub."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from stpredict.core._standardized import within_sections
from stpredict.models import build, get_model
from stpredict.training import ArraySet, FittedModel, TrainingFacts, predict_arrays
from stpredict.training.targets import ClassTarget, CountsTarget, ExpressionTarget, ValueTarget

NAMES = ("ERBB2", "CD|8`A", "KRT5")


def make(name: str = "mlp", target: Any = None, scaling: str = "global", **facts: Any) -> FittedModel:
    target = target or ExpressionTarget(NAMES, {"method": "log1p", "target_sum": 1e4})
    network = build(name, len(NAMES), {"features": 5, "section_features": 5}, hyperparameters="small", seed=1).eval()
    with torch.no_grad():
        for values in network.parameters():
            values += 0.05 * torch.randn(values.shape, generator=torch.Generator().manual_seed(1))
    entry = {"encoder": "uni2-h", "dim": 5, "tile_um": 112.0}
    if "patches" in network.needs:
        facts["patch"] = [network.config.patch_um, network.config.patch_px]
    training = TrainingFacts(["Mrs Jones", "Mr Smith"], ["s1", "s2"], n_obs=90, n_epochs=4, **facts)
    slots = {"X_uni2-h": entry} if {"features", "section_features"} & network.needs else {}
    return FittedModel(name, network, target, {"slots": slots, "scaling": scaling}, training, pd.DataFrame())


def predicted(model: FittedModel, features: np.ndarray) -> np.ndarray:
    one = np.zeros(len(features), dtype=np.int64)
    if model.features["scaling"] == "section":
        features = within_sections(features, one)
    found = predict_arrays(model.network, ArraySet(one, one, {"features": features})).mean
    return model.target.link(found, model.training)


TARGETS = [
    None,
    CountsTarget(NAMES, rates=(0.1, 0.2, 0.3)),
    ValueTarget(NAMES, "softmax", (0.2, 0.3, 0.5), ("",) * 3, "scores"),
    ClassTarget("label", NAMES),
]


@pytest.mark.parametrize("scaling", ["global", "section"])
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: getattr(target, "kind", "expression"))
def test_program_predicts_what_the_model_does(tmp_path: Path, target: Any, scaling: str) -> None:
    model = make(target=target, scaling=scaling)
    path = model.export(tmp_path / "exported")
    about: dict[str, Any] = {"names.json": ""}
    program = torch.export.load(path / "model.pt2", extra_files=about).module()
    features = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32) * 9 + 100
    features[:, 2] = 0.1  # constant in this section
    np.testing.assert_allclose(program(torch.tensor(features)).numpy(), predicted(model, features), rtol=0, atol=1e-6)
    assert json.loads(about["names.json"])["outputs"] == list(NAMES)
    assert sorted(file.name for file in path.iterdir()) == ["README.md", "model.pt2"]


def test_programs_of_patches(tmp_path: Path) -> None:
    model = make("color")
    program = torch.export.load(model.export(tmp_path / "e") / "model.pt2").module()
    side = model.network.config.patch_px
    patches = np.random.default_rng(0).integers(0, 256, (7, side, side, 3), dtype=np.uint8)
    one = np.zeros(7, dtype=np.int64)
    wanted = predict_arrays(model.network, ArraySet(one, one, {"patches": patches})).mean
    found = program(torch.tensor(patches.transpose(0, 3, 1, 2))).numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "reads"), [("stem", "draws samples"), ("hist", "reads cell"), ("mean", "reads nothing")]
)
def test_networks_that_cannot_be_exported_are_refused(tmp_path: Path, name: str, reads: str) -> None:
    with pytest.raises(TypeError, match=rf"{reads}.*model\.save"):
        make(name).export(tmp_path / "e")
    assert not (tmp_path / "e").exists()


def test_a_network_that_torch_cannot_trace_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    plain = type(model.network).forward
    monkeypatch.setattr(
        type(model.network), "forward", lambda self, b: plain(self, b) if b["features"].sum() > 0 else None
    )
    with pytest.raises(RuntimeError, match=r"torch\.export can trace.*model\.save"):
        model.export(tmp_path / "e")
    assert list(tmp_path.iterdir()) == []


def test_card_says_what_must_be_known_and_names_nobody(tmp_path: Path) -> None:
    scores = pd.DataFrame({"model": ["mlp"], "pearson_given_depth": [0.12345]})
    model = make(allow_leakage=True, panel_patients=["Mrs Jones", "Dr Who"])
    card = (model.export(tmp_path / "e", scores=scores, license="bsd-3-clause") / "README.md").read_text()
    for text in (
        'license: "bsd-3-clause"', "`ERBB2`", "CD\\|8'A", "log1p", "encoder `uni2-h`, tiles of 112 µm", "CC-BY-NC-ND-4.0",
        "90 observations of 2 patients in 2 sections", "1 more patients", "leaks", "| mlp | 0.123 |", "torch.export.load",
    ):  # fmt: skip
        assert text in card, text
    assert not any(name in card for name in ("Jones", "Smith", "Who"))
    with pytest.raises(ValueError, match=r"stp\.tl\.summarize"):
        make().export(tmp_path / "f", scores=pd.concat([scores] * 61))
    assert "Not recorded" in (make().export(tmp_path / "g") / "README.md").read_text()


def test_from_a_folder_and_from_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model = make()
    again = FittedModel.from_pretrained(model.save(tmp_path / "m"))
    features = np.ones((3, 5), dtype=np.float32)
    np.testing.assert_array_equal(predicted(again, features), predicted(model, features))
    with pytest.raises(FileNotFoundError, match="directory of a saved model"):
        FittedModel.from_pretrained(tmp_path / "nothing here")
    with pytest.raises(FileNotFoundError, match="found neither.*connect, or download the repository"):
        FittedModel.from_pretrained("stpredict/no-such-model", cache_dir=tmp_path)
    with pytest.raises(ConnectionError, match=r"model\.save"):
        model.push_to_hub("stpredict/no-such-model")
    with pytest.raises(ValueError, match="owner/name"):
        model.push_to_hub("no owner")


def test_what_is_pushed_can_be_read_from_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hub that is a folder: what it keeps are links to its blobs."""
    hub = pytest.importorskip("huggingface_hub")
    blobs, cache, asked = tmp_path / "blobs", tmp_path / "cache", {}

    def upload(*, repo_id: str, folder_path: Path, **_: Any) -> None:
        for file in [file for file in folder_path.rglob("*") if file.is_file()]:
            name = file.relative_to(folder_path)
            blob = blobs / "-".join(name.parts)
            blobs.mkdir(exist_ok=True)
            blob.write_bytes(file.read_bytes())
            (cache / name).parent.mkdir(parents=True, exist_ok=True)
            (cache / name).symlink_to(blob)

    def create(name: str, **options: Any) -> str:
        asked.update(options)
        return f"https://hub/{name}"

    monkeypatch.setattr(hub, "HfApi", lambda token: SimpleNamespace(create_repo=create, upload_folder=upload))
    monkeypatch.setattr(hub, "snapshot_download", lambda name, **_: str(cache))
    model = make()
    model.baselines["mean"] = make("mean")
    assert model.push_to_hub("lab/model") == "https://hub/lab/model"
    assert asked["private"] is True
    assert 'from_pretrained("lab/model")' in (cache / "README.md").read_text()
    again = FittedModel.from_pretrained("lab/model")
    assert again.panel == list(NAMES)
    assert list(again.baselines) == ["mean"]
    assert get_model(again.model).cls is type(again.network)
