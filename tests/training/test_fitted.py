from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from stpredict.models import build, get_model
from stpredict.training import FittedModel, TrainingFacts
from stpredict.training._digests import add_digests, write_config
from stpredict.training.targets import ExpressionTarget


def make(seed: int = 0, n_genes: int = 3, baselines: bool = True) -> FittedModel:
    network = build("mlp", n_genes, {"features": 2}, hyperparameters={"hidden": 4}, seed=seed).eval()
    return FittedModel(
        model="mlp",
        network=network,
        target=ExpressionTarget(names(n_genes), {"method": "log1p", "target_sum": 1e4}),
        features={"slots": {"X_toy": {"dim": 2, "context": [1.0]}}, "scaling": "global"},
        training=TrainingFacts(["p1"], ["s1"], n_obs=9, seed=seed),
        history=pd.DataFrame({"epoch": [0, 1], "train_loss": [0.5, 0.25]}),
        baselines={"mean": make_mean(n_genes)} if baselines else {},
    )


def make_mean(n_genes: int) -> FittedModel:
    network = build("mean", n_genes, seed=0).eval()
    network.target_mean.copy_(torch.arange(float(n_genes)))
    features = {"slots": {}, "scaling": "global"}
    return FittedModel(
        "mean", network, ExpressionTarget(names(n_genes)), features, TrainingFacts(["p1"]), pd.DataFrame()
    )


def names(n_genes: int) -> tuple[str, ...]:
    return tuple(f"GENE-{i}.1" for i in range(n_genes))


def same(one: FittedModel, other: FittedModel) -> bool:
    a, b = one.network.state_dict(), other.network.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_round_trip(tmp_path: Path) -> None:
    model = make()
    path = model.save(tmp_path / "deep" / "model")
    assert sorted(p.name for p in path.iterdir()) == [
        "baselines", "config.json", "history.csv", "panel.tsv", "weights.safetensors",
    ]  # fmt: skip
    again = FittedModel.load(str(path))
    assert same(model, again)
    assert same(model.baselines["mean"], again.baselines["mean"])
    for name in ("model", "target", "panel", "normalization", "features", "training"):
        assert getattr(again, name) == getattr(model, name)
    pd.testing.assert_frame_equal(again.history, model.history)
    assert again.network.config == model.network.config
    assert not again.network.training
    assert "3 genes" in repr(again)
    assert "1 patient" in repr(again)
    assert os.listdir(path.parent) == ["model"]


def test_saving_again_replaces_the_model(tmp_path: Path) -> None:
    make(0).save(tmp_path / "m")
    make(1, baselines=False).save(tmp_path / "m")
    again = FittedModel.load(tmp_path / "m")
    assert same(again, make(1))
    assert again.baselines == {}
    assert not (tmp_path / "m" / "baselines").exists()


def test_empty_directory_is_used_others_are_not(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    make().save(tmp_path / "empty")
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "data.csv").write_text("mine")
    with pytest.raises(FileExistsError, match="found other files in .*foreign"):
        make().save(foreign)
    with pytest.raises(FileExistsError, match="other files"):
        make().save(foreign / "data.csv")
    assert (foreign / "data.csv").read_text() == "mine"


@pytest.mark.parametrize("step", ["write", "move"])
def test_interrupted_save_keeps_the_old_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    path = make(0).save(tmp_path / "m")
    if step == "write":
        monkeypatch.setattr(pd.DataFrame, "to_csv", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full")))
    else:
        replace = os.replace
        calls = []

        def broken(source, target):
            calls.append(source)
            if len(calls) == 2:  # the old model is aside, the new one not yet in place
                raise OSError("disk full")
            replace(source, target)

        monkeypatch.setattr(os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        make(1).save(path)
    monkeypatch.undo()
    assert same(FittedModel.load(path), make(0))
    assert os.listdir(tmp_path) == ["m"]


def killed_between_the_steps_of(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave what a process leaves that is killed when the old model is aside and the new one not yet in place."""
    fresh = make(1).save(path.with_name("fresh"))
    path.rename(path.with_name(f".{path.name}.0123abcd.old"))
    fresh.rename(path.with_name(f".{path.name}.0123abcd.new"))
    path.with_name(f".{path.name}.stplock").write_text("process 1 on nowhere")


def test_a_model_that_a_killed_save_moved_aside_is_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(0).save(tmp_path / "m")
    killed_between_the_steps_of(path, monkeypatch)
    assert same(FittedModel.load(path), make(0))
    assert os.listdir(tmp_path) == ["m"]
    killed_between_the_steps_of(path, monkeypatch)
    make(2).save(path)
    assert same(FittedModel.load(path), make(2))
    assert os.listdir(tmp_path) == ["m"]


def test_what_killed_saves_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    path = make().save(tmp_path / "m")
    mine = {"m.0123abcd.new", ".n.0123abcd.new", ".m.new", ".m.0123abcd.newer", ".mm.0123abcd.old"}
    for name in (*mine, ".m.0123abcd.new", ".m.4567cdef.old", ".m.stplock"):
        (tmp_path / name).mkdir() if "stplock" not in name else (tmp_path / name).touch()
    FittedModel.load(path)
    assert set(os.listdir(tmp_path)) == {"m", *mine}


def test_a_model_that_is_replaced_while_it_is_read_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stpredict.core import _read_weights

    path, read = make(0).save(tmp_path / "m"), _read_weights.read_weights

    def slow(file: Path):
        monkeypatch.undo()
        make(1).save(path)
        return read(file)

    monkeypatch.setattr(_read_weights, "read_weights", slow)
    assert same(FittedModel.load(path), make(1))


def test_a_link_to_a_model_stays_a_link(tmp_path: Path) -> None:
    path, link = make(0).save(tmp_path / "v1"), tmp_path / "current"
    link.symlink_to("v1")
    make(1).save(link)
    assert link.is_symlink()
    assert same(FittedModel.load(link), make(1))
    assert same(FittedModel.load(path), make(1))
    assert sorted(os.listdir(tmp_path)) == ["current", "v1"]


def test_baselines_are_written_inside_the_directory(tmp_path: Path) -> None:
    for name in ("../../other", "/tmp/other", "..", "", "a/b"):
        model = make(baselines=False)
        model.baselines = {name: make_mean(3)}
        with pytest.raises(ValueError, match="plain names of baselines"):
            model.save(tmp_path / "deep" / "m")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_interrupted_first_save_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pd.DataFrame, "to_csv", lambda *args, **kwargs: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make().save(tmp_path / "m")
    assert os.listdir(tmp_path) == []


def rewrite(path: Path, **changes) -> None:
    """Change the configuration, and sign it anew as somebody would who wants it to be taken."""
    config = json.loads((path / "config.json").read_text()) | changes
    write_config(path, {k: v for k, v in config.items() if v != "drop"})


def flip(path: Path, place: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= bit
    path.write_bytes(content)


def edit(path: Path, **changes) -> None:
    """Change the configuration as an editor would."""
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))


def resigned(path: Path, name: str, content: bytes) -> None:
    """Another file with a digest that fits."""
    (path / name).write_bytes(content)
    add_digests(path, [name])


def tensors(dtype: str, shape: list[int], offsets: list[int]) -> bytes:
    """A file of safetensors that says what it likes."""
    header = json.dumps({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}}).encode()
    return len(header).to_bytes(8, "little") + header


def linked(path: Path) -> None:
    """A link in the place of a file, to the very same content elsewhere."""
    elsewhere = path.parents[1] / f"elsewhere-{path.name}"
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def exchange(path: Path) -> None:
    other = make(7, baselines=False).save(path.with_name("other"))
    (path / "weights.safetensors").write_bytes((other / "weights.safetensors").read_bytes())


DAMAGE = {
    "truncated weights": (lambda p: (p / "weights.safetensors").write_bytes((p / "weights.safetensors").read_bytes()[:-20]),
                          ValueError, "weights.safetensors as it was saved.*copy the model"),
    "pickled weights": (lambda p: resigned(p, "weights.safetensors", pickle.dumps({"a": 1})), ValueError,
                        "complete weight file.*cannot be read"),
    "header of absurd length": (lambda p: resigned(p, "weights.safetensors", b"\xff" * 7 + b"\x7f{}"), ValueError,
                                "complete weight file.*cannot be read"),
    "header of absurd shape": (lambda p: resigned(p, "weights.safetensors", tensors("F32", [2**40], [0, 2**42])), ValueError,
                               "complete weight file.*cannot be read"),
    "shape that overflows": (lambda p: resigned(p, "weights.safetensors", tensors("F32", [2**62, 4], [0, 0])), ValueError,
                             "complete weight file.*cannot be read"),
    "truncated config": (lambda p: (p / "config.json").write_text((p / "config.json").read_text()[:50]), ValueError,
                         "damaged"),
    "binary config": (lambda p: (p / "config.json").write_bytes(b"\xff\xfe\x00"), ValueError, "damaged"),
    "config of another kind": (lambda p: (p / "config.json").write_text("[]"), ValueError, "without format, model"),
    "config with a gap": (lambda p: rewrite(p, training="drop"), ValueError, "without training"),
    "changed config": (lambda p: edit(p, training={"patients": []}), ValueError, "config.json as it was saved"),
    "byte of the config": (lambda p: flip(p / "config.json", 30, 1), ValueError, "damaged"),
    "config without its digest": (lambda p: edit(p, digest=None), ValueError, "config.json as it was saved"),
    "newer format": (lambda p: rewrite(p, format=99), ValueError, "format 3 .*found 99"),
    "earlier format": (lambda p: edit(p, format=2), ValueError, "format 3 .*found 2.*fit it anew"),
    "mistyped training": (lambda p: rewrite(p, training=[]), ValueError, r"training as dict .*found \[\]"),
    "mistyped patients": (lambda p: rewrite(p, training={"patients": 5}), ValueError, "patients of a training as list; found 5"),
    "mistyped features": (lambda p: rewrite(p, features={"slots": ["X_toy"]}), ValueError, "slots and scaling of features"),
    "mistyped width": (lambda p: rewrite(p, widths={"features": "2"}), ValueError, "widths of inputs .*found features: '2'"),
    "unknown input": (lambda p: rewrite(p, widths={"smell": 2}), ValueError, "widths of inputs .*found smell"),
    "mistyped size": (lambda p: rewrite(p, hyperparameters={"hidden": "4"}), ValueError, "configuration that fits"),
    "mistyped target": (lambda p: rewrite(p, target={"kind": "expression", "mood": 1}), ValueError, "complete record"),
    "mistyped baselines": (lambda p: rewrite(p, baselines=[1]), ValueError, "plain names of baselines .*found 1"),
    "absurd width": (lambda p: rewrite(p, widths={"features": 10**9}), ValueError, "a size of 1000000000, more than"),
    "too large a width": (lambda p: rewrite(p, widths={"features": 10**6}), ValueError, "tensors that do not fit"),
    "more than a number holds": (lambda p: rewrite(p, widths={"features": 10**30}), ValueError, "fit"),
    "absurd size": (lambda p: rewrite(p, hyperparameters={"hidden": 10**9}), ValueError, "a size of 10"),
    "absurd number of layers": (lambda p: rewrite(p, hyperparameters={"hidden": 4, "depth": 10**6}), ValueError,
                                "far more than there are weights"),
    "link to weights": (lambda p: linked(p / "weights.safetensors"), ValueError, "own directory .*without links"),
    "link to a panel": (lambda p: linked(p / "panel.tsv"), ValueError, "own directory .*panel.tsv leads to"),
    "link to a configuration": (lambda p: linked(p / "config.json"), ValueError, "own directory .*config.json leads to"),
    "link to a baseline": (lambda p: linked(p / "baselines" / "mean"), ValueError, "own directory .*without links"),
    "link to all baselines": (lambda p: linked(p / "baselines"), ValueError, "own directory .*without links"),
    "unknown model": (lambda p: rewrite(p, model="future"), KeyError, "registered model .*'future'"),
    "unknown hyperparameter": (lambda p: rewrite(p, hyperparameters={"wings": 2}), ValueError, "found wings"),
    "other width": (lambda p: rewrite(p, widths={"features": 5}), ValueError, r"3 genes in .*found \d+ tensors that do not fit"),
    "baselines elsewhere": (lambda p: rewrite(p, baselines=["../../other"]), ValueError, "plain names .*'../../other'"),
    "baselines at an absolute path": (lambda p: rewrite(p, baselines=["/tmp"]), ValueError, "plain names .*'/tmp'"),
    "itself as a baseline": (lambda p: rewrite(p, baselines=[".."]), ValueError, "plain names"),
    "nameless baseline": (lambda p: rewrite(p, baselines=[""]), ValueError, "plain names"),
    "other layers": (lambda p: rewrite(p, hyperparameters={"hidden": 4, "depth": 2}), ValueError, "do not fit"),
    "longer panel": (lambda p: (p / "panel.tsv").write_text("gene\na\nb\nc\nd\n"), ValueError, "panel.tsv as it was saved"),
    "renamed gene": (lambda p: flip(p / "panel.tsv", 9, 1), ValueError, "panel.tsv as it was saved.*damaged"),
    "panel of no encoding": (lambda p: flip(p / "panel.tsv", 9, 128), ValueError, "panel.tsv as it was saved"),
    "other weight": (lambda p: flip(p / "weights.safetensors", -3, 1), ValueError, "weights.safetensors as it was saved"),
    "other history": (lambda p: flip(p / "history.csv", -2, 4), ValueError, "history.csv as it was saved"),
    "weights of another model": (exchange, ValueError, "weights.safetensors as it was saved"),
    "another baseline": (lambda p: rewrite(p / "baselines" / "mean", widths={}, training={"patients": []}), ValueError,
                         "baselines/mean/config.json as it was saved"),
    "weight of a baseline": (lambda p: flip(p / "baselines" / "mean" / "weights.safetensors", -1, 2), ValueError,
                             "mean/weights.safetensors as it was saved"),
    "no digests": (lambda p: rewrite(p, files={}), ValueError, "digest of panel.tsv .*found none"),
    "no list of files": (lambda p: rewrite(p, files="drop"), ValueError, "without files"),
    "no history": (lambda p: (p / "history.csv").unlink(), FileNotFoundError, "no history.csv"),
    "no panel": (lambda p: (p / "panel.tsv").unlink(), FileNotFoundError, "no panel.tsv"),
    "no weights": (lambda p: (p / "weights.safetensors").unlink(), FileNotFoundError, "no weights.safetensors"),
    "no config": (lambda p: (p / "config.json").unlink(), FileNotFoundError, "no config.json"),
    "no baseline": (lambda p: (p / "baselines" / "mean" / "config.json").unlink(), FileNotFoundError, "found no baselines/mean/config.json"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_models_are_refused(tmp_path: Path, kind: str) -> None:
    damage, error, message = DAMAGE[kind]
    path = make().save(tmp_path / "m")
    damage(path)
    with pytest.raises(error, match=message):
        FittedModel.load(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    model = make()
    list(model.network.parameters())[-1].data[0] = value
    path = model.save(tmp_path / "m")
    with pytest.raises(
        ValueError, match=r"finite weights in .*weights.safetensors; found NaN or infinity in 1 tensors"
    ):
        FittedModel.load(path)


def test_genes_of_any_name_survive(tmp_path: Path) -> None:
    genes = (
        "a\nb", "c\r", "d\\n", "e\\", "f\x0b\x85", "g\u2028h", " i\t", "", "\r\n", "\x1c\x1d\x1e", "\x00", "\ufeffj", '"k"', "'", "NA",
        "\u200b", "#l", "m,n;o", "\ud800", "基因", "\\r", "\\\\n", "\u2029",
    )  # fmt: skip
    model = make(n_genes=len(genes), baselines=False)
    model.target = ExpressionTarget(genes)
    assert FittedModel.load(model.save(tmp_path / "m")).panel == list(genes)


def test_nothing_is_unpickled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make().save(tmp_path / "m")

    def forbidden(*args, **kwargs):
        raise AssertionError("unpickled")

    monkeypatch.setattr(pickle, "load", forbidden)
    monkeypatch.setattr(pickle, "loads", forbidden)
    monkeypatch.setattr(torch, "load", forbidden)
    assert same(FittedModel.load(path), make())


def test_load_leaves_the_global_random_state(tmp_path: Path) -> None:
    path = make().save(tmp_path / "m")
    before = torch.get_rng_state()
    FittedModel.load(path)
    assert torch.equal(before, torch.get_rng_state())


def test_every_default_configuration_can_be_stored() -> None:
    from dataclasses import asdict

    from stpredict.models import list_models

    for name in list_models().index:
        info = get_model(name)
        stored = json.loads(json.dumps(asdict(info.configure({}))))
        assert np.all([f in info.config.__dataclass_fields__ for f in stored])
        info.configure(stored)
