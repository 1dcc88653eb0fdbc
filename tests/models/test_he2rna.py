from __future__ import annotations

import numpy as np
import pytest
import torch

import stpredict.models._he2rna as module
from stpredict.models import Batch, Shape
from stpredict.models._he2rna import HE2RNA, HE2RNAConfig, mean_of_highest

KS = (1, 2, 5, 10, 20, 50, 100)


def looped(scores: np.ndarray, mask: np.ndarray, ks) -> np.ndarray:
    """Mean of the highest scores, slide by slide, gene by gene, k by k."""
    result = np.zeros(scores.shape[:2])
    for i, slide in enumerate(scores):
        for g, values in enumerate(slide):
            ordered = np.sort(values[mask[i]])[::-1]
            result[i, g] = np.mean([ordered[:k].mean() for k in ks])
    return result


@pytest.mark.parametrize("ks", [KS, (1,), (3,), (5, 2), (100,), (7,), (8,)])
def test_highest_scores_against_loops(ks) -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(-3, 2, (4, 6, 7))
    mask = rng.random((4, 7)) < 0.6
    mask[0], mask[1] = True, False
    mask[1, 3] = True
    mask[2:, 0] = True
    found = mean_of_highest(torch.from_numpy(scores), torch.from_numpy(mask), ks)
    np.testing.assert_allclose(found.numpy(), looped(scores, mask, ks), rtol=1e-12)


def network(**changes) -> HE2RNA:
    torch.manual_seed(0)
    return HE2RNA(HE2RNAConfig(**({"hidden": 8, "standardize": False} | changes)), Shape(30, {"tokens": 6})).eval()


def batch(n: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(1)
    none = torch.zeros(n, dtype=torch.long)
    inputs = {"tokens": torch.randn(n, 12, 6, generator=generator), "token_size": torch.ones(n, 12)}
    return Batch(none, none, inputs)


def test_prediction_is_the_mean_over_all_k() -> None:
    net, data = network(), batch()
    with torch.no_grad():
        scores = net.head.mean(net.body(data["tokens"])).transpose(1, 2).double().numpy()
        found = net(data).mean.numpy()
    np.testing.assert_allclose(found, looped(scores, np.ones((3, 12), dtype=bool), KS), rtol=1e-5, atol=1e-6)


def test_training_draws_one_k_for_each_step() -> None:
    net, data = network(dropout=0.0, top_k=(1, 4, 12)).train(), batch()
    with torch.no_grad():
        scores = net.head.mean(net.body(data["tokens"])).transpose(1, 2)
        candidates = torch.stack([mean_of_highest(scores, data["token_size"] > 0, (k,)) for k in (1, 4, 12)])
        seen = set()
        for seed in range(30):
            torch.manual_seed(seed)
            distance = (candidates - net(data).mean).abs().amax(dim=(1, 2))
            assert distance.min() < 1e-5
            seen.add(int(distance.argmin()))
    assert seen == {0, 1, 2}


def test_genes_in_slices_and_chunks(monkeypatch) -> None:
    net, data = network(standardize=True), batch()
    torch.nn.init.normal_(net.head.mean.weight)
    torch.nn.init.normal_(net.head.mean.bias)
    net.target_mean.copy_(torch.arange(30.0))
    net.target_std.copy_(torch.arange(1.0, 31.0))
    mask = data["token_size"] > 0
    with torch.no_grad():
        whole = net(data).mean
        pooled = net.pool(net.tokens(data["tokens"]), mask)
        torch.testing.assert_close(net.read_out(pooled, genes=slice(10, 17)), whole[:, 10:17])
        monkeypatch.setattr(module, "_CHUNK", 3 * 12 * 7)
        torch.testing.assert_close(net(data).mean, whole)
    assert not net.affine_read_out


def test_raised_to_zero_at_evaluation_only_where_asked() -> None:
    data = batch()
    with torch.no_grad():
        raw = network(dropout=0.0)(data).mean
        assert (raw < 0).any()
        net = network(dropout=0.0, non_negative=True)
        torch.testing.assert_close(net(data).mean, raw.clamp_min(0))
        assert (net.train()(data).mean < 0).any()


def test_dropout_only_in_training() -> None:
    net, data = network(top_k=(100,)), batch()
    with torch.no_grad():
        assert torch.equal(net(data).mean, net(data).mean)
        net.train()
        assert not torch.allclose(net(data).mean, net(data).mean)


def test_top_k_must_be_positive() -> None:
    for top_k in ((), (0, 1)):
        with pytest.raises(ValueError, match="positive numbers in top_k"):
            network(top_k=top_k)
