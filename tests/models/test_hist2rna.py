from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

import stpredict as stp
from stpredict.models import Batch, build
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config

GENES, D = 5, 6
BUILD = {"n_outputs": GENES, "widths": {"tokens": D}, "seed": 0}
RAW = {"hidden": (8, 7, 9), "standardize": False}


def batch(tokens: torch.Tensor, size: torch.Tensor) -> Batch:
    none = torch.zeros(len(tokens), dtype=torch.long)
    return Batch(none, none, {"tokens": tokens, "token_size": size})


def tiles(n: int = 11) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def of_tiles(network: torch.nn.Module, features: torch.Tensor, size: torch.Tensor | None = None) -> torch.Tensor:
    """Prediction of one slide whose tokens are its tiles."""
    return network(batch(features[None], torch.ones(1, len(features)) if size is None else size[None])).mean[0]


@pytest.mark.parametrize(
    ("width", "with_dead_taps"), [(512, 1_075_506), (768, 1_403_186), (1024, 1_730_866), (2048, 3_041_586)]
)
def test_parameter_counts(width: int, with_dead_taps: int) -> None:
    counts = []
    with torch.device("meta"):
        for parity in (True, False):
            network = build("hist2rna", 50, {"tokens": width}, hyperparameters={"kernel_parity": parity})
            counts.append(sum(p.numel() for p in network.parameters()))
    assert counts == [with_dead_taps, with_dead_taps - 1024 * width]
    if width == 2048:
        assert counts[1] == 944_434


def test_parity_and_compact_networks_are_one() -> None:
    parity = build("hist2rna", **BUILD, hyperparameters=RAW | {"kernel_parity": True})
    compact = build("hist2rna", **BUILD, hyperparameters=RAW)
    state = parity.state_dict()
    assert state["body.0.weight"].shape == (8, D, 5)
    compact.load_state_dict(state | {"body.0.weight": state["body.0.weight"][:, :, 2]})
    data = batch(torch.randn(4, 7, D), torch.randint(1, 9, (4, 7)).float())
    torch.testing.assert_close(parity(data).mean, compact(data).mean, rtol=1e-6, atol=1e-6)
    for network in (parity, compact):
        network(data).mean.square().sum().backward()
    dead = parity.body[0].weight.grad[:, :, [0, 1, 3, 4]]
    assert (dead == 0).all()
    torch.testing.assert_close(parity.body[0].weight.grad[:, :, 2], compact.body[0].weight.grad)


def test_every_tile_counts_alike() -> None:
    network, features = build("hist2rna", **BUILD, hyperparameters=RAW), tiles()
    whole = of_tiles(network, features)
    torch.testing.assert_close(of_tiles(network, features.flip(0)), whole)
    torch.testing.assert_close(of_tiles(network, features.repeat(3, 1)), whole)
    assert not torch.allclose(of_tiles(network, torch.cat([features, features[:1]])), whole, atol=1e-3)
    # Tokens are means of clusters: what they say of the slide is the mean over its tiles.
    size = torch.tensor([7.0, 1.0, 3.0, 0.0])
    tokens = torch.stack([features[:7].mean(dim=0), features[7], features[8:].mean(dim=0), torch.full((D,), torch.nan)])
    torch.testing.assert_close(of_tiles(network, tokens, size), whole, rtol=1e-5, atol=1e-5)


def test_a_streamed_mean_is_the_mean(slides: ad.AnnData) -> None:
    """Sums and counts of chunks, of tables of tiles and in the network alike."""
    features = tiles(103) * 3 + 50
    network = build("hist2rna", **BUILD, hyperparameters=RAW)
    chunks = features.split(10)
    sums = torch.stack([chunk.mean(dim=0) for chunk in chunks])
    size = torch.tensor([float(len(chunk)) for chunk in chunks])
    torch.testing.assert_close(of_tiles(network, sums, size), of_tiles(network, features), rtol=1e-5, atol=1e-5)

    table = ad.AnnData(obs=pd.DataFrame({"sample": "a", "patient": "p"}, index=[f"t{i}" for i in range(103)]))
    table.obsm["X_own"] = features.numpy()
    bag = stp.pp.bag(table, "own", method="mean")
    assert bag.obsm["X_own_bag"].shape == (1, 1, D)
    np.testing.assert_allclose(bag.obsm["X_own_bag"][0, 0], features.double().mean(dim=0).numpy(), rtol=1e-6)
    assert bag.obsm["X_own_bag_size"].tolist() == [[103.0]]


def test_published_keys_are_read(tmp_path: Path) -> None:
    shapes = {"c1.0": (8, D, 5), "c2.0": (7, 8, 1), "c3.0": (9, 7, 1), "output.0": (GENES, 9)}
    state = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    state |= {f"{name}.bias": torch.randn(shape[0]) for name, shape in shapes.items()}
    save_file(state | {"base_model.layer.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    names = [f"g{i}" for i in range(GENES)]
    model = stp.training.load_published("hist2rna", tmp_path, genes=names)
    x = tiles().mean(dim=0)[None, :, None]
    for i, padding in ((1, 2), (2, 0), (3, 0)):
        x = F.relu(F.conv1d(x, state[f"c{i}.0.weight"], state[f"c{i}.0.bias"], padding=padding))
    expected = F.linear(x.mean(dim=-1), state["output.0.weight"], state["output.0.bias"])[0]
    torch.testing.assert_close(of_tiles(model.network, tiles()), expected, rtol=1e-5, atol=1e-5)
    assert model.network.config.hidden == (8, 7, 9)
    save_file(state | {"other.weight": torch.ones(3)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"1 unknown \(first: other.weight\)"):
        stp.training.load_published("hist2rna", tmp_path, genes=names)


def test_no_hidden_layer_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"at least one hidden layer; found hidden=\(\)"):
        build("hist2rna", **BUILD, hyperparameters={"hidden": ()})


@pytest.fixture
def tile_table() -> ad.AnnData:
    """A 4 x 4 lattice of tiles with the features of `slides`."""
    from stpredict.slots._provenance import write_record

    row, col = np.divmod(np.arange(16), 4)
    obs = {"sample": "new", "patient": "other", "array_row": row, "array_col": col}
    table = ad.AnnData(obs=pd.DataFrame(obs, index=[f"t{i}" for i in range(16)]))
    table.obsm["X_toy"] = np.random.default_rng(3).normal(size=(16, 5)).astype(np.float32)
    write_record(table, "X_toy", {"encoder": "toy", "fingerprint": "f", "dim": 5, "tile_um": 128.0})
    return table


def test_maps_say_that_they_are_extrapolated(slides: ad.AnnData, tile_table: ad.AnnData) -> None:
    options = {"hyperparameters": "small", "training": {"max_epochs": 2}, "baselines": False, "features": "toy"}
    model = stp.tl.fit(slides, "hist2rna", **options)
    with pytest.warns(UserWarning, match="'hist2rna' was trained on means over whole slides"):
        stp.tl.predict(tile_table, model, window=1)
    assert tile_table.uns["stpredict"]["predicted"]["extrapolated"]
    for tile in (0, 9):
        single = of_tiles(model.network, torch.from_numpy(tile_table.obsm["X_toy"][tile : tile + 1]))
        np.testing.assert_allclose(tile_table.obsm["predicted"][tile], single.numpy(), rtol=1e-5)
    stp.tl.predict(slides, model)  # which is what it was trained for
    assert "extrapolated" not in slides.uns["stpredict"]["predicted"]
    stp.tl.predict(tile_table, stp.tl.fit(slides, "deeppt", **options), window=1)
    assert "extrapolated" not in tile_table.uns["stpredict"]["predicted"]


def cohort(n: int = 80) -> ArraySet:
    """Slides of as many patients, whose genes follow the mean tile, not in a straight line."""
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(n, 10, D)) + rng.normal(size=(n, 1, D))
    size = rng.integers(1, 9, (n, 10))
    mean = (tokens * size[..., None]).sum(axis=1) / size.sum(axis=1, keepdims=True)
    target = mean @ rng.normal(size=(D, GENES)) + np.tanh(2 * mean @ rng.normal(size=(D, GENES)))
    inputs = {"tokens": tokens.astype(np.float32), "token_size": size.astype(np.float32)}
    return ArraySet(np.zeros(n, dtype=np.int64), np.arange(n), inputs, target=target.astype(np.float32), unit="slide")


def test_parity_and_compact_networks_learn_the_same_of_other_patients() -> None:
    data = cohort()
    train, test = data.take(np.arange(60)), data.take(np.arange(60, 80))
    config = train_config("hist2rna").updated({"max_epochs": 60, "patience": 0, "learning_rate": 5e-3})
    found = []
    for parity in (False, True):
        options = {"hidden": (32, 32), "kernel_parity": parity}
        fit = fit_arrays("hist2rna", train, hyperparameters=options, config=config)
        mean = predict_arrays(fit.network, test).mean
        found.append(np.mean(stp.metrics.pearson(test.target, mean)))
    assert min(found) > 0.9
    assert abs(found[0] - found[1]) < 0.05


def test_widths_of_layers_are_as_asked_for() -> None:
    network = build("hist2rna", **BUILD, hyperparameters={"hidden": (3, 4)})
    linear = [layer for layer in network.body if isinstance(layer, torch.nn.Linear)]
    assert [(layer.in_features, layer.out_features) for layer in linear] == list(pairwise((D, 3, 4)))
