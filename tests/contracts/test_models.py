"""Every registered model: learns, saves, loads, predicts identically, whatever the batch size."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.models import INPUTS, Panel, build, get_model, list_models
from stpredict.models.base._bag import BagPredictor
from stpredict.training import (
    ArraySet,
    Fit,
    FittedModel,
    Ragged,
    TrainConfig,
    TrainingFacts,
    fit_arrays,
    predict_arrays,
    with_primary,
)
from stpredict.training import train_config as default_config
from stpredict.training._data import WholeSections
from stpredict.training._gene_weights import Weighted
from stpredict.training.targets import ExpressionTarget

MODELS = list(list_models().index)
TRAINED = [name for name in MODELS if not get_model(name).cls.closed_form]
BAGS = [name for name in MODELS if issubclass(get_model(name).cls, BagPredictor)]
MASKED = [name for name in MODELS if "token_size" in get_model(name).reads("small")]
OF_GENES = [name for name in MODELS if {"sequence", "sequence_features"} & get_model(name).reads("small")]
PX, GENES = 32, 5


def every(names: Iterable[str]) -> Any:
    """One test per network; those of a network go to the same process, which trains it once."""
    return pytest.mark.parametrize("model", [pytest.param(n, marks=pytest.mark.xdist_group(n)) for n in names])


def toy_set(n: int = 24, n_genes: int = GENES, seed: int = 0) -> ArraySet:
    """Two patients with two sections each; the genes follow the color of the patches and the features alike."""
    rng = np.random.default_rng(seed)
    tone = rng.uniform(60, 220, size=(n, 3))
    patches = np.clip(tone[:, None, None, :] + rng.normal(0, 8, (n, PX, PX, 3)), 0, 255).astype(np.uint8)
    features = np.concatenate([tone / 255, rng.normal(size=(n, 3))], axis=1).astype(np.float32)
    target = 2 + (tone / 255) @ rng.normal(size=(3, n_genes)) * 2
    return ArraySet(
        section=np.arange(n) * 4 // n,
        patient=np.arange(n) * 2 // n,
        inputs={
            "positions": rng.uniform(0, 1000, (n, 2)).astype(np.float32),
            "features": features,
            "patches": patches,
            "cell": np.stack(np.divmod(np.arange(n) % (n // 4), 3), axis=1),
            "counts": rng.poisson(np.exp(target - target.max() + 2)).astype(np.float32),
            "size_factor": rng.uniform(0.5, 2, n).astype(np.float32),
            **around(features, np.random.default_rng(seed + 1)),
            **nuclei_of(features, np.random.default_rng(seed + 2)),
        },
        target=target.astype(np.float32),
        whole=WholeSections(
            np.arange(n) * 4 // n,
            np.arange(n),
            {"section_features": features, "section_cell": np.stack(np.divmod(np.arange(n) % (n // 4), 3), axis=1)},
        ),
        genes=about_genes(n_genes),
    )


def about_genes(n_genes: int) -> Panel:
    """Genes with a table that says nothing of them but which is which."""
    table = np.random.default_rng(2).normal(size=(n_genes, 4)).astype(np.float32)
    return Panel(tuple(f"g{i}" for i in range(n_genes)), {"gene_table": table})


def around(features: np.ndarray, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Features of 25 tiles around each row, of which some lie beyond the image; those beside it are like itself."""
    shape = (len(features), 25, features.shape[1])
    mask = rng.uniform(size=shape[:2]) < 0.8
    mask[:, [0, 12]] = True
    squares = {
        name: (features[:, None] + rng.normal(0, 0.3, shape)).astype(np.float32) * mask[..., None]
        for name in ("neighbors", "edges", "nuclei")
    }
    return squares | {"neighbor_mask": mask, "boundary_mask": mask.copy()}


def nuclei_of(features: np.ndarray, rng: np.random.Generator) -> dict[str, Any]:
    """Up to five nuclei of each row, which are like itself, each linked with the next."""
    n_nuclei = np.resize([3, 5, 0, 1], len(features))
    n_links = 2 * np.maximum(n_nuclei - 1, 0)
    nodes = np.repeat(features, n_nuclei, axis=0)
    links = [(i, i + 1) for n in n_nuclei for i in range(n - 1)]
    links = np.array([pair for a, b in links for pair in ((a, b), (b, a))])
    return {
        "nuclei_graph": Ragged((nodes + rng.normal(0, 0.1, nodes.shape)).astype(np.float32), n_nuclei),
        "n_nuclei": n_nuclei,
        "nuclei_links": Ragged(links, n_links),
        "n_links": n_links,
    }


def toy_bags(n: int = 24, n_genes: int = GENES, n_tokens: int = 8, seed: int = 0) -> ArraySet:
    """Slides of as many patients, one to all tokens each; the genes follow the mean token."""
    rng = np.random.default_rng(seed)
    mixture = rng.uniform(size=(n, 1, 3))
    bag = np.concatenate([mixture + rng.normal(0, 0.1, (n, n_tokens, 3)), rng.normal(size=(n, n_tokens, 3))], axis=2)
    size = rng.integers(1, 40, (n, n_tokens)) * (np.arange(n_tokens) <= np.arange(n)[:, None] % n_tokens)
    bag[size == 0] = 0
    mean = bag.sum(axis=1) / (size > 0).sum(axis=1, keepdims=True)
    target = 2 + mean[:, :3] @ rng.normal(size=(3, n_genes)) * 2
    return ArraySet(
        section=np.zeros(n, dtype=np.int64),
        patient=np.arange(n),
        inputs={
            "features": mean.astype(np.float32),
            "tokens": (100 + 20 * bag * (size > 0)[..., None]).astype(np.float32),
            "token_size": size.astype(np.float32),
        },
        target=target.astype(np.float32),
        unit="slide",
    )


def toy_genes(n: int = 24, n_outputs: int = GENES, length: int = 64, seed: int = 0) -> ArraySet:
    """Genes of as many chromosomes; the outputs follow the share of each base in the middle, and all that is along it."""
    rng = np.random.default_rng(seed)
    share = rng.dirichlet(np.full(4, 0.5), n)
    sequence = np.stack([rng.choice(4, length, p=each) for each in share]).astype(np.uint8)
    tone = (sequence[..., None] == np.arange(4)).mean(axis=1)
    signals = tone[:, None, :3] * 4 + rng.gamma(1.0, 0.1, (n, length, 3))
    target = 2 + tone @ rng.normal(size=(4, n_outputs)) * 4
    return ArraySet(
        section=np.zeros(n, dtype=np.int64),
        patient=np.arange(n),
        inputs={
            "sequence": sequence,
            "sequence_mask": np.zeros((n, length), dtype=np.int8),
            "signals": signals.astype(np.float32),
            "sequence_features": (tone[:, None] + rng.normal(0, 0.05, (n, 8, 4))).astype(np.float32),
            "gene_features": np.concatenate([tone, rng.normal(size=(n, 5))], axis=1).astype(np.float32),
            "prompt_ids": np.stack([rng.permutation(12)[:6] for _ in range(n)]),
        },
        target=target.astype(np.float32),
        unit="gene",
    )


def toy(model: str) -> ArraySet:
    if model in OF_GENES:
        return toy_genes()
    return toy_bags() if model in MASKED else toy_set()


def hyperparameters(model: str) -> dict[str, Any]:
    known = get_model(model).config.__dataclass_fields__
    return get_model(model).options("small") | ({"same_patient": True} if "same_patient" in known else {})


EPOCHS = {
    "color": 150,
    "dkan": 20,
    "egn": 30,
    "hggep": 40,
    "hist2st": 30,
    "histogene": 20,
    "seq2exp": 25,
    "stem": 150,
    "stnet": 10,
    "thitogene": 30,
    "triplex": 15,
}


def quick_config(model: str) -> TrainConfig:
    changes = {"max_epochs": EPOCHS.get(model, 60), "patience": 0, "learning_rate": 3e-3, "optimizer": "adam"}
    changes |= {"weight_decay": 0.0}
    if model == "color":
        changes |= {"learning_rate": 3e-2}
    if model in {"hist", "seq2exp"}:
        changes |= {"learning_rate": 1e-2}
    if model == "stem":
        changes |= {"batch_size": 12, "learning_rate": 6e-3, "schedule": "cosine"}
    if model == "stnet":
        changes |= {"batch_size": 8, "learning_rate": 5e-4, "schedule": "cosine"}
    return default_config(model).updated(changes)


@pytest.fixture(scope="module")
def fitted() -> Callable[[str], Fit]:
    """Train the network of this name, once."""
    torch.set_num_threads(1)
    return cache(
        lambda name: fit_arrays(name, toy(name), hyperparameters=hyperparameters(name), config=quick_config(name))
    )


@every(MODELS)
def test_learns_a_few_examples(fitted, model):
    data = toy(model)
    mean = predict_arrays(fitted(model).network, data).mean
    error = ((mean - data.target) ** 2).mean()
    variance = data.target.var(axis=0).mean()
    if not get_model(model).reads("small"):  # what reads nothing knows nothing but the mean
        np.testing.assert_allclose(mean, np.broadcast_to(data.target.mean(axis=0), mean.shape), rtol=1e-5)
    else:
        assert error < 0.5 * variance  # the mean leaves all of it


@every(MODELS)
def test_batch_size_changes_nothing(fitted, model):
    data, network = toy(model), fitted(model).network
    whole, single = (predict_arrays(network, data, batch_size=size) for size in (None, 1))
    np.testing.assert_allclose(single.mean, whole.mean, rtol=1e-4, atol=1e-4)


@every(MODELS)
def test_saved_and_loaded_model_predicts_identically(fitted, model, tmp_path):
    data, fit = toy(model), fitted(model)
    part = FittedModel(
        model=model,
        network=fit.network,
        target=ExpressionTarget(tuple(f"g{i}" for i in range(GENES)), {"method": "log1p"}),
        features={"slots": {}, "scaling": "global"},
        training=TrainingFacts(["a"], n_obs=24),
        history=fit.history,
    )
    part.save(tmp_path / "model")
    again = FittedModel.load(tmp_path / "model")
    before, after = predict_arrays(part.network, data), predict_arrays(again.network, data)
    np.testing.assert_array_equal(before.mean, after.mean)
    assert (again.panel, again.target, again.training) == (part.panel, part.target, part.training)
    assert again.network.config == part.network.config
    assert again.network.shape.widths == part.network.shape.widths
    assert len(again.history) == len(part.history)


@every(MODELS)
def test_same_seed_same_result(model):
    data = toy(model)
    options, config = hyperparameters(model), quick_config(model).updated({"max_epochs": 2})
    fits = [fit_arrays(model, data, hyperparameters=options, config=config, seed=3) for _ in range(2)]
    one, other = (predict_arrays(fit.network, data) for fit in fits)
    np.testing.assert_array_equal(one.mean, other.mean)


@every(TRAINED)
def test_gradients_reach_every_parameter(model):
    data = toy(model)
    options = hyperparameters(model)
    if "views" in options:
        options |= {"views": 2, "stain_jitter": 0.3}
    if options.pop("neighbors", None) == 0:
        options["neighbors"] = 4
    network = build(model, GENES, data.widths, genes=data.genes, hyperparameters=options)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.01 * torch.randn_like(parameter))
    batch = data.batch(np.arange(8))
    network.remember([data.batch(np.arange(len(data)))])
    network.train()
    for stage in network.stages:
        network.step(batch, stage)["total"].backward()
    named = [(name, p) for name, p in network.named_parameters() if p.requires_grad]
    idle = [name for name, p in named if p.grad is None or not p.grad.abs().sum() > 0]
    # A bias common to all views changes no share of theirs.
    assert [name for name in idle if name != "view_weight.2.bias"] == []


@every(MODELS)
def test_evaluation_draws_nothing(fitted, model):
    data, results = toy(model), []
    for seed in (0, 1):
        torch.manual_seed(seed)
        results.append(predict_arrays(fitted(model).network, data).mean)
    np.testing.assert_array_equal(*results)


@every(TRAINED)
def test_another_fit_starts_from_everything_but_what_depends_on_the_genes(model):
    widths = toy(model).widths
    first, other, wide = (
        build(model, n, widths, hyperparameters=hyperparameters(model), seed=seed)
        for seed, n in enumerate((GENES, GENES, GENES + 2))
    )
    given, own = first.state_dict(), first.own_tensors
    assert {name for name, tensor in wide.state_dict().items() if tensor.shape != given[name].shape} <= {
        name for name in given if name.startswith(own)
    }
    for second in (other, wide):
        drawn = {name: tensor.clone() for name, tensor in second.state_dict().items()}
        if all(name.startswith(own) for name in given):
            with pytest.raises(ValueError, match="to start from"):
                second.start_from(first)
        else:
            second.start_from(first)
        for name, tensor in second.state_dict().items():
            assert torch.equal(tensor, drawn[name] if name.startswith(own) else given[name]), name


@every(TRAINED)
def test_auxiliary_genes_weigh_the_loss_or_are_refused(model):
    names = tuple(f"g{i}" for i in range(GENES))
    data = replace(toy(model), kind=ExpressionTarget(names, {"method": "layer", "layer": "toy"}))
    config = default_config(model).updated({"max_epochs": 2, "patience": 0, "cut_pairs": 1, "mask_temperature": 0.3})
    # Steps that move the loss by more than its rounding.
    config = config.updated({"auxiliary": "dkgsb", "primary": names[:2], "batch_size": 8, "learning_rate": 1e-3})
    options = {"hyperparameters": hyperparameters(model), "config": config}
    data = with_primary(data, config)
    if not get_model(model).cls.weighs_genes:
        with pytest.raises(ValueError, match=f"found '{model}'"):
            fit_arrays(model, data, **options)
        return
    fit = fit_arrays(model, data, **options)
    assert predict_arrays(fit.network, data).mean.shape == (len(data), 2)
    stays = model == "color"  # whose genes share no parameter, so that none can help another
    assert (fit.history["cut"].iloc[0] == fit.history["cut"].iloc[1]) == stays


@every(name for name in TRAINED if get_model(name).cls.weighs_genes)
def test_a_gene_without_weight_has_no_part_in_any_term_of_the_loss(model):
    names = tuple(f"g{i}" for i in range(GENES))
    weight = torch.tensor([1.0, 0.5, 0.0, 0.0, 0.0])
    kind = Weighted(ExpressionTarget(names, {"method": "layer", "layer": "toy"}), weight, 2, "own")
    data = replace(toy(model), kind=kind)
    options = hyperparameters(model)
    if "contrast" in get_model(model).config.__dataclass_fields__:
        options |= {"contrast": 0.0}  # whole profiles are compared there
    network = build(model, GENES, data.widths, genes=data.genes, hyperparameters=options).train()
    network.remember([data.batch(np.arange(len(data)))])
    losses = []
    for first in (GENES, 2, 1):  # nothing is changed, what has no weight, and what has some
        batch = data.batch(np.arange(8))
        batch.target[:, first:] += 3
        if "counts" in batch:
            batch.inputs["counts"][:, first:] += 2
        torch.manual_seed(0)
        losses.append(float(network.step(batch, network.stages[-1])["total"]))
    assert losses[0] == losses[1] != losses[2]


@every(BAGS)
def test_stages_equal_the_whole_network(fitted, model):
    """Maps call the stages: tokens one by one, then windows, then slices of the genes."""
    network, data = fitted(model).network, toy_bags()
    batch = data.batch(np.arange(len(data)))
    mask = network.mask(batch)
    with torch.inference_mode():
        tokens = torch.stack([network.tokens(slide) for slide in batch["tokens"]])
        pooled = network.pool(tokens, mask)
        parts = [network.read_out(pooled, mask, slice(i, i + 2)) for i in range(0, GENES, 2)]
        torch.testing.assert_close(torch.cat(parts, dim=1), network(batch).mean, rtol=1e-5, atol=1e-5)
        if network.affine_read_out:
            mean = network.read_out(pooled.mean(dim=0, keepdim=True))
            torch.testing.assert_close(mean, network(batch).mean.mean(dim=0, keepdim=True), rtol=1e-5, atol=1e-5)


@every(BAGS)
def test_padding_of_bags_has_no_influence(fitted, model):
    network, data = fitted(model).network, toy_bags()
    wanted = predict_arrays(network, data).mean
    size = data["token_size"]
    data.inputs["tokens"] = np.pad(np.where(size[..., None] > 0, data["tokens"], 7e4), [(0, 0), (0, 3), (0, 0)])
    data.inputs["token_size"] = np.pad(size, [(0, 0), (0, 3)])
    found = predict_arrays(network, data).mean
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@every(MASKED)
def test_tokens_of_size_0_have_no_influence(fitted, model):
    network, data = fitted(model).network, toy_bags()
    wanted = predict_arrays(network, data).mean
    data.inputs["tokens"] = np.where(data["token_size"][..., None] > 0, data["tokens"], np.float32(7e4))
    np.testing.assert_allclose(predict_arrays(network, data).mean, wanted, rtol=1e-4, atol=1e-4)


@every(m for m in MODELS if "heteroscedastic" in get_model(m).config.__dataclass_fields__)
def test_heteroscedastic_head_gives_positive_spread(model):
    data = toy(model)
    options = hyperparameters(model) | {"heteroscedastic": True}
    fit = fit_arrays(model, data, hyperparameters=options, config=quick_config(model).updated({"max_epochs": 3}))
    found = predict_arrays(fit.network, data)
    assert found.std is not None
    assert found.std.shape == found.mean.shape
    assert (found.std > 0).all()


@pytest.mark.parametrize(("model", "preset"), [(name, preset) for name in MODELS for preset in get_model(name).presets])
def test_every_preset_can_be_built(model, preset):
    info = get_model(model)
    with torch.device("meta"):
        widths = {name: 24 for name, each in INPUTS.items() if each.width} | {"tokens": 16}
        network = stp.models.build(model, 3, widths, hyperparameters=preset)
    assert network.config == info.configure(preset) == info.configure(info.presets[preset].hyperparameters)
    assert network.needs == info.reads(preset)
    assert (network.n_outputs, network.target_mean.shape) == (3, (3,))


@every(MODELS)
def test_the_preset_of_a_paper_says_only_what_differs_from_the_defaults(model):
    info = get_model(model)
    assert info.configure() == info.config()
    assert ("paper" in info.presets) == ("paper" in stp.models.list_models().loc[model, "presets"].split(", "))
    for name, preset in info.presets.items():
        if name == "small":
            assert not preset.training  # the settings of a training are no matter of size
            continue
        defaults, config = default_config(model), default_config(model, hyperparameters=name)
        assert config == defaults.updated(preset.training) != defaults
        if name == "paper":
            assert all(value != getattr(defaults, key) for key, value in preset.training.items())
            assert all(value != getattr(info.config(), key) for key, value in preset.hyperparameters.items())


REGRESSION = [name for name in MODELS if not get_model(name).cls.only_expression]


@every(REGRESSION)
def test_fractions_sum_to_one(model):
    """Every network that predicts numbers keeps them in range, before it has learned anything and after a step."""
    from stpredict.training.targets import ValueTarget

    data = toy(model)
    share = np.exp(data.target - data.target.max(axis=1, keepdims=True))
    share = (share / share.sum(axis=1, keepdims=True)).astype(np.float32)
    kind = ValueTarget.of(tuple("abcde"), "softmax", share, ("",) * GENES, "fractions")
    options = hyperparameters(model)
    if "zinb" in get_model(model).config.__dataclass_fields__:
        options["zinb"] = 0.0
    config = quick_config(model).updated({"max_epochs": 1})
    data = replace(data, target=share, kind=kind)
    fit = fit_arrays(model, data, hyperparameters=options, config=config)
    values = kind.link(predict_arrays(fit.network, data).mean, TrainingFacts())
    assert values.min() >= 0
    np.testing.assert_allclose(values.sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(values.mean(axis=0), share.mean(axis=0), atol=0.1)
