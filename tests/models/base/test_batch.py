"""What goes into a network: inputs by name, targets by kind, sizes."""

from __future__ import annotations

import pytest
import torch

import stpredict as stp
from stpredict.models import Batch, Panel, Prediction, Predictor, Sections, Shape
from stpredict.training.targets import ClassTarget, ExpressionTarget, FollowUpTarget

CODES = torch.zeros(3, dtype=torch.long)


def test_inputs_are_found_by_name() -> None:
    batch = Batch(CODES, CODES, {"features": torch.ones(3, 2), "positions": torch.zeros(3, 2)})
    assert len(batch) == 3
    assert "features" in batch
    assert "patches" not in batch
    assert torch.equal(batch["features"], torch.ones(3, 2))
    with pytest.raises(KeyError, match="expected 'patches' in the batch; found features, positions; .*`needs`"):
        batch["patches"]
    with pytest.raises(KeyError, match="found no inputs"):
        Batch(CODES, CODES)["features"]


def test_targets_are_given_out_by_kind_only() -> None:
    kinds = {
        "expression": ExpressionTarget(("a",)),
        "classes": ClassTarget("key", ("a", "b")),
        "follow_up": FollowUpTarget("time", "event"),
    }
    values = torch.ones(3, 1)
    for name, kind in kinds.items():
        batch = Batch(CODES, CODES, target=values, kind=kind)
        assert {asked for asked in kinds if batch.measured(asked) is not None} == {name}
        assert batch.measured(name) is values
    plain = Batch(CODES, CODES, target=values)
    assert plain.measured() is values
    assert plain.measured("classes") is None
    assert Batch(CODES, CODES).measured() is None


def test_every_tensor_moves() -> None:
    whole = Sections(torch.zeros(5, dtype=torch.long), CODES)
    batch = Batch(
        CODES, CODES, {"features": torch.ones(3, 2)}, target=torch.ones(3, 1), kind=ExpressionTarget(("a",)),
        labeled=CODES == 0, sections=whole,
    )  # fmt: skip
    moved = batch.to("meta")
    tensors = [moved.section, moved.patient, moved["features"], moved.target, moved.labeled]
    assert {t.device.type for t in (*tensors, moved.sections.code, moved.sections.row)} == {"meta"}
    assert moved.kind is batch.kind
    assert batch["features"].device.type == batch.sections.code.device.type == "cpu"
    assert Batch(CODES, CODES).to("meta").target is None


def test_samples_give_mean_and_spread() -> None:
    samples = torch.randn(3, 6, 2)
    found = Prediction.of_samples(samples)
    torch.testing.assert_close(found.mean, samples.mean(dim=1))
    torch.testing.assert_close(found.std, samples.std(dim=1))
    assert found.samples is samples
    assert Prediction.of_samples(samples[:, :1]).std is None


def test_a_missing_width_is_named() -> None:
    assert Shape(2, {"features": 8}).width("features") == 8
    with pytest.raises(ValueError, match="expected the width of 'tokens'; found those of: features"):
        Shape(2, {"features": 8}).width("tokens")
    with pytest.raises(ValueError, match="expected the width of 'features'; found those of: none"):
        stp.models.build("mlp", 2)
    assert len(Panel(("a", "b"))) == 2


def test_a_seed_draws_the_weights_and_leaves_the_global_state() -> None:
    def weight(seed: int | None) -> torch.Tensor:
        return stp.models.build("mlp", 2, {"features": 8}, seed=seed).body[0].weight

    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, same, other = (weight(seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    drawn = weight(None)
    assert not torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(5)
    assert torch.equal(weight(None), drawn)


def test_a_network_that_defines_nothing_names_itself() -> None:
    class Idle(Predictor):
        pass

    network, batch = Idle(None, Shape(2, {"features": 8})), Batch(CODES, CODES, {"features": torch.ones(3, 8)})
    with pytest.raises(TypeError, match="Idle defines no forward"):
        network(batch)
    with pytest.raises(TypeError, match="Idle predicts the genes it was trained on only; it defines no encode"):
        network.encode(batch)
    with pytest.raises(TypeError, match="Idle predicts the genes it was trained on only; it defines no decode"):
        network.decode(None, Panel(("a",)))
    with pytest.raises(ValueError, match="expected a target to learn from"):
        network.loss(Prediction(torch.zeros(3, 2)), batch)


@pytest.mark.parametrize("preset", ["large", ""])
def test_an_unknown_preset_lists_the_known_ones(preset: str) -> None:
    with pytest.raises(ValueError, match=rf"expected a preset of model 'mlp' \(small\).*found '{preset}'"):
        stp.models.build("mlp", 2, {"features": 8}, hyperparameters=preset)
    with pytest.raises(TypeError, match=r"expected hyperparameters of model 'mlp' \(hidden, .*\); found width"):
        stp.models.build("mlp", 2, {"features": 8}, hyperparameters={"width": 3})


def test_lists_of_a_file_are_the_tuples_they_were() -> None:
    info = stp.models.get_model("convnext")
    assert info.configure({"shape": [2, 4], "dims": [8, 16]}) == info.configure({"shape": (2, 4), "dims": (8, 16)})
    assert info.configure({"shape": [2, 4]}).shape == (2, 4)
