"""GTA: the language model stays as it is, windows and prompts count for what they say, and shapes follow the design."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.models import Batch, build
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config

T, D = 24, 4
OPTIONS: dict[str, Any] = {
    "lm_width": 32, "lm_depth": 1, "lm_heads": 4, "vocabulary": 64, "n_prototypes": 16, "d_align": 64, "heads": 4,
}  # fmt: skip


def toy(n: int = 400, seed: int = 0, informative: int = 17) -> ArraySet:
    """Genes whose value is the first feature of one window."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, T, D)).astype(np.float32)
    # Away from 0, where a window has no part in what is predicted, whether or not it counts.
    features[:, informative, 0] = rng.choice([-1, 1], n) * rng.uniform(0.7, 1.5, n)
    target = features[:, informative, :1] + 0.1 * rng.normal(size=(n, 1)).astype(np.float32)
    return ArraySet(
        section=np.zeros(n, dtype=np.int64), patient=np.arange(n) % 8, inputs={"sequence_features": features},
        target=target.astype(np.float32), unit="gene",
    )  # fmt: skip


def trained(data: ArraySet, epochs: int = 16, **options: Any) -> Any:
    changes = {"max_epochs": epochs, "patience": 0, "learning_rate": 3e-3, "batch_size": 32}
    config = train_config("gta").updated(changes)
    return fit_arrays("gta", data, hyperparameters={"prompt": "none"} | OPTIONS | options, config=config).network


@pytest.fixture(scope="module")
def network() -> Any:
    torch.set_num_threads(1)
    return trained(toy())


def test_no_gradient_reaches_the_language_model_and_no_optimizer_holds_it(network: Any) -> None:
    drawn = build("gta", 1, {"sequence_features": D}, hyperparameters={"prompt": "none"} | OPTIONS, seed=0)
    before = {name: value.clone() for name, value in drawn.state_dict().items() if name.startswith("lm.")}
    assert len(before) > 8
    for name, value in before.items():  # the training of many steps, with weight decay, left them as they were drawn
        assert torch.equal(network.state_dict()[name], value), name
    moved = [
        n for n, v in network.state_dict().items() if n.startswith("align.") and torch.equal(v, drawn.state_dict()[n])
    ]
    assert moved == []
    drawn.train()
    assert drawn.training
    assert not any(module.training for module in drawn.lm.modules())
    data = toy(8)
    batch = data.batch(np.arange(8))
    drawn.head.mean.weight.data.normal_()
    drawn.step(batch, drawn.stages[0])["total"].backward()
    assert all(p.grad is None for p in drawn.lm.parameters())
    assert all(p.grad is not None for n, p in drawn.named_parameters() if not n.startswith("lm."))


def test_the_optimizer_holds_no_frozen_parameter(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Any] = []
    original = torch.optim.AdamW.__init__
    monkeypatch.setattr(
        torch.optim.AdamW, "__init__", lambda self, p, **k: (held.extend(p), original(self, held, **k))[1]
    )
    found = trained(toy(16), epochs=1)
    sizes = sum(p.numel() for p in held)
    assert sizes == sum(p.numel() for n, p in found.named_parameters() if not n.startswith("lm."))


def test_the_window_that_matters_is_found_and_is_not_when_it_is_emptied(network: Any) -> None:
    data = toy(200, seed=1)
    batch = data.batch(np.arange(200))
    predicted = predict_arrays(network, data).mean[:, 0]
    assert np.corrcoef(predicted, data.target[:, 0])[0, 1] > 0.8
    first = network.attribute(batch).argmax(dim=1) == 17
    assert first.float().mean() > 0.9
    empty = data.inputs["sequence_features"].copy()
    empty[:, 17] = network.standardize.mean.numpy()
    emptied = replace(data, inputs={"sequence_features": empty})
    again = network.attribute(emptied.batch(np.arange(200))).argmax(dim=1) == 17
    assert again.float().mean() < 0.1
    assert abs(np.corrcoef(predict_arrays(network, emptied).mean[:, 0], data.target[:, 0])[0, 1]) < 0.3


def prompted(n: int = 600, seed: int = 0) -> ArraySet:
    """Genes whose value is said by one token of their prompt, and by nothing else."""
    rng = np.random.default_rng(seed)
    level = rng.integers(0, 4, n)
    words = rng.integers(8, 64, (n, 5))
    words[:, 2] = level
    words[rng.random(n) < 0.3, 4:] = -1
    return ArraySet(
        section=np.zeros(n, dtype=np.int64), patient=np.arange(n) % 8,
        inputs={"sequence_features": rng.normal(size=(n, 6, D)).astype(np.float32), "prompt_ids": words},
        target=(level[:, None] - 1.5).astype(np.float32), unit="gene",
    )  # fmt: skip


def test_prompts_that_say_something_are_read_and_those_of_others_are_not() -> None:
    data, test = prompted(), prompted(200, seed=1)
    network = trained(data, epochs=10, prompt="own")
    own = predict_arrays(network, test).mean[:, 0]
    assert np.corrcoef(own, test.target[:, 0])[0, 1] > 0.8
    others = test.inputs | {"prompt_ids": np.roll(test.inputs["prompt_ids"], 1, axis=0)}
    shuffled = predict_arrays(network, replace(test, inputs=others)).mean[:, 0]
    assert abs(np.corrcoef(shuffled, test.target[:, 0])[0, 1]) < 0.3


def test_padding_and_absent_prompts_change_nothing() -> None:
    network = build("gta", 2, {"sequence_features": D}, hyperparameters=OPTIONS, seed=0).eval()
    network.head.mean.weight.data.normal_()
    data = prompted(6)
    ids = data.inputs["prompt_ids"].copy()
    ids[:, 4] = -1
    shown = (ids, np.pad(ids, ((0, 0), (0, 3)), constant_values=-1), ids[:, :4])
    batches = [replace(data, inputs=data.inputs | {"prompt_ids": each}).batch(np.arange(6)) for each in shown]
    with torch.no_grad():
        first, *others = (network(batch).mean for batch in batches)
        for other in others:
            torch.testing.assert_close(other, first, rtol=1e-5, atol=1e-5)
        empty = replace(data, inputs=data.inputs | {"prompt_ids": np.full((6, 3), -1)}).batch(np.arange(6))
        none = replace(data, inputs=data.inputs | {"prompt_ids": np.zeros((6, 0), dtype=np.int64)}).batch(np.arange(6))
        torch.testing.assert_close(network(empty).mean, network(none).mean, rtol=1e-5, atol=1e-5)


def test_tokens_beyond_the_vocabulary_are_named() -> None:
    network = build("gta", 1, {"sequence_features": D}, hyperparameters=OPTIONS, seed=0)
    data = prompted(4)
    data.inputs["prompt_ids"][0, 0] = 64
    with pytest.raises(ValueError, match=r"vocabulary of 64 in obsm\['prompt_ids'\]; found 64"):
        network(data.batch(np.arange(4)))


def test_shapes_of_the_design() -> None:
    """The full size, on no device: tensors of the sheet by name."""
    with torch.device("meta"):
        options = {"inputs": "sequence", "vocabulary": 30_000, "lm_width": 768, "lm_heads": 8}
        network = build("gta", 1, {}, hyperparameters=options)
    shapes = {name: tuple(p.shape) for name, p in network.named_parameters()}
    wanted = {
        "feature.conv0.weight": (64, 4, 15), "feature.blocks.0.weight": (256, 64, 5), "proj_in.weight": (512, 256),
        "prototype.weight": (256, 30_000), "align.to_q.weight": (512, 512), "align.to_k.weight": (512, 768),
        "align.to_v.weight": (512, 768), "align.to_out.weight": (768, 512), "sep": (1, 768), "readout": (1, 768),
        "head.mean.weight": (1, 768),
    }  # fmt: skip
    assert {name: shapes[name] for name in wanted} == wanted
    low = build("gta", 1, {"sequence_features": D}, hyperparameters=OPTIONS | {"prototype_rank": 3}, seed=0).prototype
    assert (tuple(low.weight.shape), tuple(low.low.shape)) == ((16, 3), (3, 64))


def test_windows_of_bases() -> None:
    options = OPTIONS | {"inputs": "sequence", "prompt": "none", "d_feature": 8, "n_windows": 6}
    network = build("gta", 1, {}, hyperparameters=options, seed=0)
    codes = torch.randint(0, 5, (2, 4096), dtype=torch.uint8)
    batch = Batch(torch.zeros(2), torch.zeros(2), {"sequence": codes})
    assert network.windows(batch).shape == (2, 6, 8)  # 4,096 bases are 16 windows of 256, averaged to six
    batch.inputs["sequence"] = codes[:, :1024]
    assert network.windows(batch).shape == (2, 4, 8)
    assert network.encode(batch).shape == (2, 32)


def test_language_models_of_the_user() -> None:
    table = torch.randn(40, 12)

    class Body(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mix = torch.nn.Linear(12, 12)

        def forward(self, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            return tokens + self.mix((tokens * mask[..., None]).cumsum(dim=1))

    def causal() -> Any:
        return table, Body()

    def plain() -> Any:
        return table, None

    stp.models.register_language_model("test-causal", causal)
    stp.models.register_language_model("test-plain", plain)
    stp.models.register_language_model("test-plain", plain)  # again is no fault
    data = prompted(6)
    data.inputs["prompt_ids"] %= 40
    for name in ("test-causal", "test-plain"):
        network = build("gta", 1, {"sequence_features": D}, hyperparameters=OPTIONS | {"language_model": name}, seed=0)
        assert network.lm.width == 12
        assert network.encode(data.batch(np.arange(6))).shape == (6, 12)
        assert torch.equal(network.lm.embedding, table)
        assert not any(p.requires_grad for p in network.lm.parameters())
    with pytest.raises(ValueError, match="test-plain"):
        stp.models.register_language_model("test-plain", causal)
    with pytest.raises(KeyError, match="found 'nobody'.*register_language_model"):
        build("gta", 1, {"sequence_features": D}, hyperparameters={"language_model": "nobody"})


def test_the_order_of_pairs_can_be_learned() -> None:
    network = build(
        "gta", 1, {"sequence_features": D}, hyperparameters=OPTIONS | {"ranking": 0.5, "prompt": "none"}, seed=0
    )
    data = toy(8)
    parts = network.step(data.batch(np.arange(8)), network.stages[0])
    assert parts["ranking"].item() == pytest.approx(np.log(2))  # a head at 0 tells no pair apart
    assert parts["total"].item() == pytest.approx(parts["regression"].item() + 0.5 * np.log(2))
