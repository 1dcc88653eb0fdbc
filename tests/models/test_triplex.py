"""TRIPLEX: counts of the published configurations, symmetries, masks, loss, and what each branch can know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.models import Batch, Prediction, Predictor
from stpredict.models import _triplex as module
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config
from stpredict.training._data import WholeSections

D, GENES, SIDE = 4, 3, 8
COUNTS = {
    "her2st": (29_294_296, 219), "cscc": (27_722_344, 232), "stnet": (40_320_840, 255), "liver": (54_728_008, 196),
    "default": (24_568_248, 208),
}  # fmt: skip
TINY = {"dim": 8, "depth": (1, 2, 1), "heads": (2, 2, 2), "mlp": (1, 1, 1), "dropout": (0.3, 0.3, 0.3)}


def sections_set(n_sections: int = 2, side: int = SIDE, seed: int = 0) -> ArraySet:
    """Square sections; the expression is that of the 24 tiles around a spot, and no other spot's."""
    rng = np.random.default_rng(seed)
    n = n_sections * side**2
    neighbors = rng.normal(size=(n, 25, D)).astype(np.float32)
    ring = np.delete(neighbors, 12, axis=1).mean(axis=1) * np.sqrt(24)
    loading = np.random.default_rng(99).normal(size=(D, GENES))
    own = neighbors[:, 12].copy()
    section = np.arange(n) // side**2
    return ArraySet(
        section=section,
        patient=section,
        inputs={"features": own, "neighbors": neighbors, "neighbor_mask": np.ones((n, 25), dtype=bool)},
        target=(ring @ loading + 0.2 * rng.normal(size=(n, GENES))).astype(np.float32),
        whole=WholeSections(
            section,
            np.arange(n),
            {"section_features": own, "section_cell": np.stack(np.divmod(np.arange(n) % side**2, side), axis=1)},
        ),
    )


def network(seed: int = 0, **options: Any) -> Predictor:
    """A network that is not trained, whose heads and biases are not zero."""
    widths = dict.fromkeys(("features", "neighbors", "section_features"), D)
    built = stp.models.build("triplex", GENES, widths, hyperparameters=TINY | options, seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built.eval()


def outputs(model: Predictor, batch: Batch) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        found = model(batch)
    return {"fusion": found.mean, **found.extras["branches"]}


def correlation(predicted: Any, data: ArraySet) -> float:
    return float(
        np.mean([np.corrcoef(p, y)[0, 1] for p, y in zip(np.asarray(predicted).T, data.target.T, strict=True)])
    )


@pytest.mark.parametrize("preset", COUNTS)
def test_published_configurations_have_the_published_sizes(preset: str) -> None:
    with torch.device("meta"):
        built = stp.models.build("triplex", hyperparameters=preset)
    own = [
        name for name in built.state_dict() if not name.startswith(("target_mean", "target_std", "of_", "shrinkage"))
    ]
    assert (sum(p.numel() for p in built.parameters()), len(own)) == COUNTS[preset]


def test_parts_of_a_published_configuration() -> None:
    with torch.device("meta"):
        built = stp.models.build("triplex", hyperparameters="her2st")
    parts = {
        "target_encoder": 11_176_512, "target_linear": 262_656, "neighbor_encoder": 4_731_568,
        "global_encoder": 9_458_688, "fusion_encoder": 3_151_872, "head": 128_250, "fc_target": 128_250,
        "fc_neighbor": 128_250, "fc_global": 128_250, "neighbor_linear": 0, "section_linear": 0,
    }  # fmt: skip
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in built.named_children()}
    assert {name: n for name, n in found.items() if not name.startswith(("of_", "shrinkage"))} == parts


def test_evaluation_twice_is_identical_and_training_is_not() -> None:
    data, built = sections_set(), network()
    batch = data.batch(np.arange(20), built.needs)
    first, again = outputs(built, batch), outputs(built, batch)
    assert all(torch.equal(first[name], again[name]) for name in first)
    built.train()
    first, again = outputs(built, batch), outputs(built, batch)
    assert not any(torch.equal(first[name], again[name]) for name in ("fusion", "neighbor", "global"))


def permuted(data: ArraySet, order: np.ndarray) -> ArraySet:
    """The spots in another order, in the rows and in the whole sections alike."""
    taken, whole = data.take(order), data.whole
    inputs = {name: values[order] for name, values in whole.inputs.items()}
    return replace(taken, whole=WholeSections(whole.code[order], np.arange(len(order)), inputs))


def test_a_permutation_of_the_spots_permutes_every_prediction() -> None:
    data, built = sections_set(), network()
    order = np.random.default_rng(1).permutation(len(data))
    rows = np.arange(len(data))
    before, after = (outputs(built, each.batch(rows, built.needs)) for each in (data, permuted(data, order)))
    for name, values in before.items():
        torch.testing.assert_close(after[name], values[order], rtol=1e-4, atol=1e-5)
    # Where a spot lies matters, to what reads the section.
    data.whole.inputs["section_cell"] = data.whole.inputs["section_cell"][order % SIDE**2]
    data.whole.inputs["section_cell"][:, 1] += SIDE * rows  # a row apart each
    moved = outputs(built, data.batch(rows, built.needs))
    assert {name for name in before if not torch.equal(before[name], moved[name])} == {"fusion", "global"}


def test_sections_of_different_extent_in_either_order() -> None:
    built = network()
    large, small = sections_set(1), sections_set(1, side=3, seed=5)
    alone = [outputs(built, each.batch(np.arange(len(each)), built.needs)) for each in (large, small)]
    for first, second, results in ((large, small, alone), (small, large, alone[::-1])):
        n = len(first)
        both = ArraySet(
            section=np.repeat([0, 1], [n, len(second)]),
            patient=np.repeat([0, 1], [n, len(second)]),
            inputs={name: np.concatenate([first[name], second[name]]) for name in first.inputs},
            whole=WholeSections(
                np.repeat([0, 1], [n, len(second)]),
                np.arange(n + len(second)),
                {k: np.concatenate([first.whole.inputs[k], second.whole.inputs[k]]) for k in first.whole.inputs},
            ),
        )
        found = outputs(built, both.batch(np.arange(len(both)), built.needs))
        for name, values in found.items():
            torch.testing.assert_close(values[:n], results[0][name], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(values[n:], results[1][name], rtol=1e-4, atol=1e-5)


def test_masked_neighbors_change_nothing() -> None:
    data, built = sections_set(), network()
    mask = np.random.default_rng(0).uniform(size=(len(data), 25)) < 0.6
    mask[:, 12] = True
    mask[0] = False  # no neighbor at all, not even the tile itself
    data.inputs["neighbor_mask"] = mask
    rows = np.arange(len(data))
    before = outputs(built, data.batch(rows, built.needs))
    data.inputs["neighbors"] = np.where(mask[..., None], data["neighbors"], np.float32(1e6))
    after = outputs(built, data.batch(rows, built.needs))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(values.isfinite().all() for values in before.values())
    data.inputs["neighbors"] = data["neighbors"] + mask[..., None].astype(np.float32)
    changed = outputs(built, data.batch(rows, built.needs))
    assert {name for name in before if not torch.equal(before[name], changed[name])} == {"fusion", "neighbor"}


def test_features_of_the_section_reach_fusion_and_global_only() -> None:
    data, built = sections_set(), network(alpha=0.0)
    before = outputs(built, data.batch(np.arange(len(data)), built.needs))
    order = np.random.default_rng(1).permutation(len(data))
    data.whole.inputs["section_features"] = data.whole.inputs["section_features"][order]
    after = outputs(built, data.batch(np.arange(len(data)), built.needs))
    assert {name for name in before if not torch.equal(before[name], after[name])} == {"fusion", "global"}


@pytest.mark.parametrize("detach", [False, True])
def test_loss_is_the_formula(detach: bool) -> None:
    built = network(detach_teacher=detach)
    data = sections_set(1)
    batch = data.batch(np.arange(5), built.needs)
    y = batch.target
    teacher = (y + 1).requires_grad_()
    students = dict.fromkeys(module.BRANCHES, y + 1)
    parts = built.loss(Prediction(teacher, extras={"branches": students}), batch)
    assert parts["total"].item() == pytest.approx(1 + 3 * 0.7, abs=1e-5)
    students = dict.fromkeys(module.BRANCHES, y + 2)
    parts = built.loss(Prediction(teacher, extras={"branches": students}), batch)
    assert parts["total"].item() == pytest.approx(1 + 3 * (0.7 * 4 + 0.3), abs=1e-4)
    (gradient,) = torch.autograd.grad(parts["total"], teacher)
    pull = 0.0 if detach else -3 * 0.3 * 2
    torch.testing.assert_close(gradient * y.numel(), torch.full_like(y, 2 + pull), rtol=1e-4, atol=1e-4)


def test_a_section_is_encoded_once_for_all_spots_of_a_batch() -> None:
    data, built = sections_set(3), network()
    calls = []
    built.global_encoder.register_forward_hook(lambda *_: calls.append(1))
    predict_arrays(built, data)
    assert len(calls) == 3


def test_any_encoder_and_patches() -> None:
    widths = {"features": 5, "neighbors": 6, "section_features": 7}
    options = TINY | {"target": "patches", "patch_px": 64}
    built = stp.models.build("triplex", GENES, widths, hyperparameters=options, seed=0)
    assert built.neighbor_linear.weight.shape == (8, 6)
    torch.nn.init.normal_(built.head.mean.weight)
    assert built.needs == built.reads(built.config) == {"patches"} | (module.Triplex.needs - {"features"})
    data = sections_set(1)
    data.inputs["patches"] = np.random.default_rng(0).integers(0, 255, (len(data), 64, 64, 3), dtype=np.uint8)
    data.inputs["neighbors"] = np.zeros((len(data), 25, 6), dtype=np.float32)
    data.whole.inputs["section_features"] = np.zeros((len(data), 7), dtype=np.float32)
    for rows in (np.arange(3), np.arange(1)):
        batch = data.batch(rows, built.needs)
        assert built.target_tokens(batch).shape == (len(rows), 4, 8)
        built.step(batch, built.stages[0])["total"].backward()
    assert built.target_encoder[0].weight.grad.abs().sum() > 0
    built.eval()
    assert built.target_tokens(batch).shape == (1, 4, 8)


def test_published_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Queries, keys and values of the branch over the section are packed unit by unit in the published code."""
    options = module.PUBLISHED_SIZES["her2st"].hyperparameters | TINY | {"heads": (2, 4, 2)}
    monkeypatch.setitem(module.PUBLISHED_SIZES, "tiny", stp.models.Preset(options))
    ours = stp.models.build(
        "triplex", GENES, {"neighbors": 8, "section_features": 8}, hyperparameters=options, seed=1
    ).eval()
    theirs = {}
    for name, values in ours.state_dict().items():
        if name.startswith(("target_mean", "target_std", "of_", "shrinkage")):
            continue
        if name.startswith("global_encoder") and name.endswith("to_qkv.weight"):
            packed = torch.empty_like(values)
            for head in range(4):
                for unit in range(2):
                    for j in range(3):
                        packed[(head * 2 + unit) * 3 + j] = values[j * 8 + head * 2 + unit]
            values = packed
        theirs["model." + name.replace("head.mean", "fc").replace(".mean", "")] = values
    torch.save(theirs, tmp_path / "model.pth")
    panel = [f"g{i}" for i in range(GENES)]
    loaded = stp.training.load_published("triplex", tmp_path, genes=panel)
    assert loaded.target.normalization["panel"] == panel
    for name, values in loaded.network.state_dict().items():
        assert torch.equal(values, ours.state_dict()[name]), name
    del theirs["model.fc_global.bias"]
    torch.save(theirs, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"1 missing \(first: fc_global.bias\)"):
        stp.training.load_published("triplex", tmp_path, genes=panel)
    theirs["model.fusion_encoder.fusion_layer.layers.0.1.fn.net.0.weight"] = torch.zeros(24, 8)
    torch.save(theirs, tmp_path / "model.pth")
    with pytest.raises(ValueError, match=r"one of the published configurations .*mlp=\(3, 1, 1\)"):
        stp.training.load_published("triplex", tmp_path, genes=panel)


def test_the_ring_of_neighbors_is_read_by_its_branch_alone() -> None:
    train, test = sections_set(5), sections_set(2, seed=100)
    quick = {"max_epochs": 20, "patience": 0, "learning_rate": 3e-3}
    fit = fit_arrays("triplex", train, hyperparameters="small", config=train_config("triplex").updated(quick))
    built = fit.network.eval()
    found = {
        name: correlation(values, test)
        for name, values in outputs(built, test.batch(np.arange(len(test)), built.needs)).items()
    }
    assert found["neighbor"] > 0.9
    assert found["fusion"] > max(0.8, 0.95 * found["neighbor"])
    assert abs(found["target"]) < 0.2
    config = train_config("mlp").updated({"max_epochs": 20, "patience": 0})
    mlp = fit_arrays("mlp", train, hyperparameters="small", config=config)
    assert abs(correlation(predict_arrays(mlp.network, test).mean, test)) < 0.2


def test_configurations_that_make_no_sense_are_refused() -> None:
    for options, message in (
        ({"target": "pixels"}, "target"),
        ({"depth": (1, 2)}, "depth of the fusion, the section and the neighbors"),
        ({"alpha": 1.5}, "alpha in 0–1"),
        ({"heads": (3, 2, 2)}, "multiple of the number of heads"),
        ({"depth": (1, 0, 1)}, "at least one layer over the section"),
    ):
        with pytest.raises(ValueError, match=message):
            network(**options)
    data = sections_set(1)
    data.inputs["neighbors"] = data["neighbors"][:, :9]
    with pytest.raises(ValueError, match="25 neighbors.*found 9"):
        network()(data.batch(np.arange(4)))
