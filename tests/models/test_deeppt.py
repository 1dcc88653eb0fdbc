from __future__ import annotations

from dataclasses import replace

import anndata as ad
import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.models import Batch, build
from stpredict.tl.maps._map import predict_map
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config

GENES, D = 7, 6


def network(**changes) -> torch.nn.Module:
    options = {"code": 5, "hidden": 8, "standardize": False} | changes
    return build("deeppt", GENES, {"tokens": D}, hyperparameters=options, seed=0).eval()


def batch(tokens: torch.Tensor, size: torch.Tensor) -> Batch:
    none = torch.zeros(len(tokens), dtype=torch.long)
    return Batch(none, none, {"tokens": tokens, "token_size": size})


@torch.no_grad()
def of_tiles(net: torch.nn.Module, tiles: torch.Tensor, size: torch.Tensor | None = None) -> torch.Tensor:
    return net(batch(tiles[None], torch.ones(1, len(tiles)) if size is None else size[None])).mean[0]


def bags(n: int = 24, seed: int = 0) -> ArraySet:
    """Slides of as many patients, of which the last third was not sequenced."""
    rng = np.random.default_rng(seed)
    tokens = (rng.normal(size=(n, 4, D)) + rng.normal(size=(n, 1, D))).astype(np.float32)
    target = (tokens.mean(axis=1) @ rng.normal(size=(D, GENES))).astype(np.float32)
    labeled = np.arange(n) < 2 * n // 3
    target[~labeled] = np.nan
    inputs = {"tokens": tokens, "token_size": np.ones((n, 4), dtype=np.float32)}
    return ArraySet(
        np.zeros(n, dtype=np.int64), np.arange(n), inputs, target=target, labeled=labeled, unit="slide"
    )  # fmt: skip


def test_sizes_of_the_paper() -> None:
    n_genes = 18_000
    with torch.device("meta"):
        net = build("deeppt", n_genes, {"tokens": 2048})
    counts = dict.fromkeys(("encoder", "decoder", "body", "head"), 0)
    for name, parameter in net.named_parameters():
        counts[name.split(".")[0]] += parameter.numel()
    assert counts["encoder"] + counts["decoder"] == 2_099_712
    assert counts["body"] + counts["head"] == 512 * 512 + 512 + 512 * n_genes + n_genes


@pytest.mark.parametrize("groups", [1, 3])
def test_a_slide_is_the_mean_of_its_tiles(groups: int) -> None:
    net, tiles = network(gene_groups=groups), torch.randn(57, D)
    whole = of_tiles(net, tiles)
    single = torch.stack([of_tiles(net, tile[None]) for tile in tiles])
    torch.testing.assert_close(single.mean(dim=0), whole)
    chunks = tiles.split(10)
    streamed = sum(of_tiles(net, chunk) * len(chunk) for chunk in chunks) / len(tiles)
    torch.testing.assert_close(streamed, whole)
    torch.testing.assert_close(of_tiles(net, tiles.repeat(2, 1)), whole)
    torch.testing.assert_close(of_tiles(net, tiles, torch.full((57,), 4.0)), whole)
    assert not torch.allclose(of_tiles(net, torch.cat([tiles, tiles[:1].repeat(57, 1)])), whole, atol=1e-3)


def test_padding_may_hold_anything() -> None:
    net, tiles = network(), torch.randn(4, D)
    padded, size = torch.cat([tiles, torch.full((2, D), torch.nan)]), torch.tensor([1.0, 2.0, 3.0, 1.0, 0.0, 0.0])
    torch.testing.assert_close(of_tiles(net, padded, size), of_tiles(net, tiles, size[:4]))
    one, other = (
        net.step(batch(each[None], size[None, : len(each)]), net.stages[0])["total"] for each in (padded, tiles)
    )
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("groups", [1, 3])
def test_the_map_averages_to_the_slide(groups: int) -> None:
    net, tiles = network(gene_groups=groups), torch.randn(35, D)
    net.target_mean.normal_()
    net.target_std.uniform_(0.5, 2)
    row, col = np.divmod(np.arange(35), 7)
    _, parts = predict_map(net, tiles.numpy(), row, col, window=1, gene_chunk=2)
    found = np.concatenate([values for _, values in parts], axis=1)
    np.testing.assert_allclose(found.mean(axis=0), of_tiles(net, tiles).numpy(), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found[3], of_tiles(net, tiles[3:4]).numpy(), rtol=1e-5, atol=1e-5)


def test_genes_of_similar_median_share_a_perceptron() -> None:
    net = network(gene_groups=3)
    target = torch.tensor([5.0, 0.0, 3.0, 9.0, 1.0, 4.0, 8.0]).repeat(5, 1)
    target[0] = torch.arange(GENES) * 1e3  # medians, not means
    data = batch(torch.randn(5, 4, D), torch.ones(5, 4))
    data.target = target
    net.remember([data])
    assert net.group.tolist() == [1, 0, 0, 2, 0, 1, 2]
    with torch.no_grad():
        before = net(data).mean
        net.body.weight[8:16] += 1  # the perceptron of the second group
        changed = (net(data).mean != before).any(dim=0)
    assert changed.tolist() == [group == 1 for group in net.group.tolist()]
    with torch.no_grad():
        pooled = net.pool(net.tokens(data["tokens"]), data["token_size"])
        torch.testing.assert_close(net.read_out(pooled, genes=slice(2, 6)), net(data).mean[:, 2:6])
    for wrong in (0, GENES + 1):
        with pytest.raises(ValueError, match=f"between 1 and 7, the number of outputs; found {wrong}"):
            network(gene_groups=wrong)


def test_the_autoencoder_is_trained_first_on_slides_without_expression_too() -> None:
    data = bags()
    config = train_config("deeppt").updated({"max_epochs": 3, "patience": 0})
    fitted = {
        name: fit_arrays("deeppt", each, hyperparameters="small", config=config)
        for name, each in (("all", data), ("sequenced", data.only_labeled()))
    }
    assert fitted["all"].history["stage"].unique().tolist() == ["compress", "predict"]
    assert np.isfinite(fitted["all"].history["train_loss"]).all()
    one, other = (fitted[name].network for name in fitted)
    assert not torch.allclose(one.encoder.weight, other.encoder.weight)
    # The second stage leaves it as it is, and the first one the perceptron.
    longer = config.updated({"max_epochs": 4})
    first_only = fit_arrays("deeppt", data, hyperparameters="small", config=config, seed=0).network
    assert torch.equal(first_only.encoder.weight, one.encoder.weight)
    drawn = build("deeppt", GENES, {"tokens": D}, hyperparameters="small", seed=0)
    assert not torch.equal(drawn.encoder.weight, one.encoder.weight)
    assert not torch.equal(drawn.body.weight, one.body.weight)
    assert not torch.equal(fit_arrays("deeppt", data, hyperparameters="small", config=longer).network.encoder.weight,
                           one.encoder.weight)  # fmt: skip


@pytest.mark.parametrize("stage", [0, 1])
def test_a_stage_trains_its_own_part(stage: int) -> None:
    net = build("deeppt", GENES, {"tokens": D}, hyperparameters="small", seed=0)
    data = bags().only_labeled().batch(np.arange(8))
    net.step(data, net.stages[stage])["total"].backward()
    touched = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    trained = {name.rstrip(".") for name in net.stages[stage].trains}
    assert trained == ({"encoder", "decoder"} if stage == 0 else {"body", "head"})
    assert touched & trained == (trained if stage == 0 else {"head"})  # which starts at zero


def test_compression_is_learned() -> None:
    """Tiles of two hidden dimensions come out of a code as they went in; what padding holds is of no account."""
    rng = np.random.default_rng(0)
    tokens = (rng.normal(size=(40, 6, 2)) @ rng.normal(size=(2, D))).astype(np.float32)
    data = replace(bags(40), inputs={"tokens": tokens, "token_size": np.ones((40, 6), dtype=np.float32)})
    data.inputs["tokens"][::2, 5], data.inputs["token_size"][::2, 5] = 1e6, 0
    config = train_config("deeppt").updated({"max_epochs": 60, "patience": 0, "learning_rate": 1e-2})
    history = fit_arrays("deeppt", data, hyperparameters="small", config=config).history
    loss = history.loc[history["stage"] == "compress", "train_loss"]
    assert loss.iloc[0] > 0.5  # standardized: 1 is what predicting the mean costs
    assert loss.iloc[-1] < 0.05


def test_members_of_inner_folds_are_averaged_and_their_spread_is_told(slides: ad.AnnData) -> None:
    """Five networks of five folds of the training patients, for patients whom none of them saw."""
    test = slides.obs["patient"].isin(["p00", "p01"]).to_numpy()
    train, other = slides[~test].copy(), slides[test].copy()
    members = stp.tl.fit_folds(
        train, "deeppt", 5, features="toy", hyperparameters="small", training={"max_epochs": 3}, baselines=False
    )  # fmt: skip
    assert len({tuple(member.training.patients) for member in members}) == 5
    each = []
    for member in members:
        stp.tl.predict(other, member)
        each.append(other.obsm["predicted"].copy())
    assert min(np.abs(one - two).max() for i, one in enumerate(each) for two in each[:i]) > 1e-3
    stp.tl.predict(other, members)
    np.testing.assert_allclose(other.obsm["predicted"], np.mean(each, axis=0), rtol=1e-5)
    np.testing.assert_allclose(other.obsm["predicted_std"], np.std(each, axis=0, ddof=1), rtol=1e-3, atol=1e-5)
    assert not other.obs["predicted_leaky"].any()
    assert other.uns["stpredict"]["predicted"]["n_models"] == 5


def test_slides_without_expression_are_read_by_fit(slides: ad.AnnData) -> None:
    slides.X[20:] = np.nan
    options = {"features": "toy", "hyperparameters": "small", "training": {"max_epochs": 2}, "baselines": False}
    whole = stp.tl.fit(slides, "deeppt", **options).network
    known = stp.tl.fit(slides[:20].copy(), "deeppt", **options).network
    assert not torch.allclose(whole.encoder.weight, known.encoder.weight)
    for name in ("target_mean", "standardize.mean"):
        torch.testing.assert_close(whole.state_dict()[name], known.state_dict()[name])


def test_it_learns_bulk_expression_of_other_patients() -> None:
    data = bags(120)
    train, test = data.take(np.arange(120) < 60).only_labeled(), data.take(np.arange(60, 80)).only_labeled()
    config = train_config("deeppt").updated({"max_epochs": 50, "patience": 0, "learning_rate": 6e-3})
    fit = fit_arrays("deeppt", train, hyperparameters="small", config=config)
    assert np.mean(stp.metrics.pearson(test.target, predict_arrays(fit.network, test).mean)) > 0.9


def test_prediction_in_steps_is_prediction_at_once() -> None:
    data = bags()
    fit = fit_arrays("deeppt", data, hyperparameters="small", config=train_config("deeppt").updated({"max_epochs": 2}))
    whole, single = (predict_arrays(fit.network, data, batch_size=size).mean for size in (None, 1))
    np.testing.assert_allclose(single, whole, rtol=1e-5, atol=1e-5)
