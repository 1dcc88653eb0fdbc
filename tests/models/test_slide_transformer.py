from __future__ import annotations

import torch
from torch.nn import functional as F

from stpredict.models import Batch, Shape
from stpredict.models._slide_transformer import SlideTransformer, SlideTransformerConfig


def test_parameter_count_of_the_paper() -> None:
    with torch.device("meta"):
        network = SlideTransformer(SlideTransformerConfig(positional_embedding=True), Shape(50, {"tokens": 1024}))
    assert sum(p.numel() for p in network.parameters()) == 50_530_354


def test_equals_softmax_attention_written_out() -> None:
    torch.manual_seed(0)
    config = SlideTransformerConfig(depth=2, heads=3, d_head=4, d_hidden=10, standardize=False)
    network = SlideTransformer(config, Shape(5, {"tokens": 8})).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    bag, size = torch.randn(2, 6, 8), torch.ones(2, 6)
    size[1, 4:] = 0
    expected = []
    for slide, n in zip(bag, (6, 4), strict=True):
        x = slide[:n]
        for layer in network.layers:
            normed = F.layer_norm(x, (8,), layer.norm.weight, layer.norm.bias)
            query, key, value = (normed @ part.T for part in layer.to_qkv.weight.chunk(3))
            heads = []
            for h in range(3):
                columns = slice(4 * h, 4 * h + 4)
                attention = torch.softmax(query[:, columns] @ key[:, columns].T / 2.0, dim=-1)
                heads.append(attention @ value[:, columns])
            x = x + torch.cat(heads, dim=1) @ layer.to_out.weight.T
            norm, wide, _, narrow = layer.feed_forward
            x = x + narrow(F.gelu(wide(norm(x))))
        expected.append(network.head.mean(network.norm(x.mean(dim=0))))
    none = torch.zeros(2, dtype=torch.long)
    found = network(Batch(none, none, {"tokens": bag, "token_size": size})).mean
    torch.testing.assert_close(found, torch.stack(expected), rtol=1e-4, atol=1e-5)
