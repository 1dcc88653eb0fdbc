"""Networks on whole sections: what they share."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from stpredict.models import Batch, Shape
from stpredict.models.base._section import PositionEmbedding, SectionPredictor, TransformerBlock
from stpredict.models.nn._zinb import zinb_loss

N, GENES = 11, 3


@dataclass(frozen=True)
class Config:
    patch_um: float = 100.0
    patch_px: int = 8
    symmetries: bool = False
    stain_jitter: float = 0.0
    chunk: int = 100
    zinb: float = 0.25
    views: int = 0
    distill: float = 0.5


class Toy(SectionPredictor):
    """Mean color of a patch, then the mean of all spots added to each."""

    def __init__(self, config, n_genes=GENES):
        super().__init__(config, Shape(n_genes), n_hidden=6)
        self.color = nn.Linear(3, 6)
        nn.init.normal_(self.head.mean.weight)

    def embed(self, images):
        return self.color(images.mean(dim=(2, 3)))

    def relate(self, embedded, positions):
        return torch.tanh(embedded + embedded.mean(dim=0))


def network(**changes):
    torch.manual_seed(0)
    return Toy(replace(Config(), **changes))


def batch(n=N):
    rng = np.random.default_rng(0)
    none = torch.zeros(n, dtype=torch.long)
    counts = torch.tensor(rng.poisson(2, (n, GENES))).float()
    inputs = {
        "patches": torch.tensor(rng.integers(0, 256, (n, 3, 8, 8)), dtype=torch.uint8),
        "positions": torch.tensor(rng.uniform(0, 5000, (n, 2))).float(),
        "counts": counts,
    }
    target = torch.tensor(rng.normal(size=(n, GENES))).float()
    inputs["size_factor"] = torch.tensor(rng.uniform(0.5, 2, n)).float()
    return Batch(none, none, inputs, target=target)


def test_position_embedding_is_continuous_and_knows_no_origin():
    torch.manual_seed(0)
    embed = PositionEmbedding(8)
    positions = torch.rand(20, 2) * 6000
    with torch.no_grad():
        plain = embed(positions)
        torch.testing.assert_close(embed(positions + 12_345.0), plain, atol=1e-4, rtol=1e-3)
        assert (embed(positions + torch.randn(20, 2) * 0.1) - plain).abs().max() < 0.02
        assert (plain[0] - plain[1]).abs().max() > 0.02
        assert torch.isfinite(embed(positions[:1])).all()
        order = torch.randperm(20)
        torch.testing.assert_close(embed(positions[order]), plain[order])


def test_transformer_block_equals_explicit_attention():
    torch.manual_seed(0)
    block = TransformerBlock(12, heads=3, dim_head=5, mlp_dim=7, dropout=0.3).eval()
    tokens = torch.randn(9, 12)
    normed = block.attention_norm(tokens)
    query, key, value = (part.reshape(9, 3, 5).transpose(0, 1) for part in block.to_qkv(normed).chunk(3, dim=1))
    weight = (query @ key.transpose(1, 2) / 5**0.5).softmax(dim=2)
    attended = tokens + block.to_out((weight @ value).transpose(0, 1).reshape(9, 15))
    expected = attended + block.feed_forward(attended)
    torch.testing.assert_close(block(tokens), expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(block(torch.stack([tokens, tokens]))[1], expected, atol=1e-5, rtol=1e-5)
    order = torch.randperm(9)
    torch.testing.assert_close(block(tokens[order]), expected[order], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("chunk", [1, 4])
def test_chunks_change_neither_prediction_nor_gradient(chunk):
    results = []
    for size in (100, chunk):
        net = network(chunk=size).train()
        net.loss(net(batch()), batch())["total"].backward()
        results.append((net.eval()(batch()).mean.detach(), net.color.weight.grad))
    for whole, parts in zip(*results, strict=True):
        torch.testing.assert_close(whole, parts, atol=1e-5, rtol=1e-5)


def test_chunks_in_training_keep_no_activations(monkeypatch):
    calls = []
    net = network(chunk=4).train()
    embed = net.embed
    monkeypatch.setattr(net, "embed", lambda images: calls.append(len(images)) or embed(images))
    net.loss(net(batch()), batch())["total"].backward()
    assert calls == [4, 4, 3] + calls[3:]
    assert sorted(calls[3:]) == [3, 4, 4]  # computed once more on the way back


def test_batch_norms_count_every_chunk_once():
    net = network(chunk=4).train()
    net.norm2d = nn.BatchNorm2d(3)
    net.embed = lambda images: net.color(net.norm2d(images).mean(dim=(2, 3)))
    prediction = net(batch())
    once = net.norm2d.running_mean.clone()
    net.loss(prediction, batch())["total"].backward()
    assert once.abs().sum() > 0
    torch.testing.assert_close(net.norm2d.running_mean, once, atol=0, rtol=0)
    assert net.norm2d.momentum == 0.1


def test_same_augmentation_on_the_way_back():
    """Draws are repeated when activations are computed again, or gradients would belong to other pictures."""
    gradients = []
    for chunk in (4, 100):
        net = network(chunk=chunk, symmetries=True, stain_jitter=0.2, zinb=0).train()
        images = []
        embed = net.embed
        net.embed = lambda x, embed=embed, images=images: images.append(x.detach()) or embed(x)
        torch.manual_seed(3)
        net.loss(net(batch()), batch())["total"].backward()
        gradients.append(images)
    first, again = gradients[0][:3], gradients[0][3:]
    for picture in first:
        assert any(picture.shape == other.shape and torch.equal(picture, other) for other in again)


def test_counts_are_read_only_where_they_are_part_of_the_loss():
    assert network().needs >= {"counts", "size_factor"}
    assert not network(zinb=0).needs & {"counts", "size_factor"}
    assert network(zinb=0).count_head is None


def test_loss_is_the_sum_of_its_named_parts():
    net = network(views=2).train()
    data = batch()
    prediction = net(data)
    parts = net.loss(prediction, data)
    assert set(parts) == {"total", "regression", "zinb", "distillation"}
    expected = parts["regression"] + 0.25 * parts["zinb"] + 0.5 * parts["distillation"]
    torch.testing.assert_close(parts["total"], expected)
    zinb = prediction.extras["zinb"]
    mean = zinb.mean * data["size_factor"][:, None]
    torch.testing.assert_close(parts["zinb"], zinb_loss(data["counts"], mean, zinb.dispersion, zinb.zero_logit))


def test_views_are_predicted_in_training_only_and_agree_without_augmentation():
    net = network(views=3)
    assert "distilled" not in net.eval()(batch()).extras
    prediction = net.train()(batch())
    torch.testing.assert_close(prediction.extras["distilled"], prediction.mean)


def test_views_are_weighted_by_what_the_network_thinks_of_them():
    net = network(views=2, stain_jitter=0.3).train()
    torch.manual_seed(0)
    prediction = net(batch())
    net.view_weight[2].bias.data += 5  # the same for all views: no change
    torch.manual_seed(0)
    torch.testing.assert_close(net(batch()).extras["distilled"], prediction.extras["distilled"])


def test_every_parameter_learns():
    net = network(views=2, stain_jitter=0.3).train()
    net.loss(net(batch()), batch())["total"].backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 1e-7] == [
        "view_weight.2.bias"  # a weight common to all views
    ]


def test_without_counts_the_other_parts_remain():
    net = network().train()
    data = batch()
    del data.inputs["counts"], data.inputs["size_factor"]
    assert set(net.loss(net(data), data)) == {"total", "regression"}


def test_warm_start_leaves_all_heads_behind():
    wide = Toy(Config(), n_genes=5)
    start = {k: v.clone() for k, v in wide.count_head.state_dict().items()}
    wide.start_from(network())
    assert all(torch.equal(v, start[k]) for k, v in wide.count_head.state_dict().items())
    torch.testing.assert_close(wide.color.weight, network().color.weight)
