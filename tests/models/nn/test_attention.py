from __future__ import annotations

import pytest
import torch
from torch import nn

from stpredict.models.nn._attention import (
    CrossAttention,
    CrossEncoder,
    SelfAttention,
    TransformerEncoder,
    square_offsets,
)

D, HEADS = 8, 2


def by_hand(layer: SelfAttention, tokens: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The same attention, head by head, with the matrix of weights written out."""
    query, key, value = layer.to_qkv(tokens).chunk(3, dim=2)
    parts = []
    for head in range(layer.heads):
        columns = slice(head * D // HEADS, (head + 1) * D // HEADS)
        logits = query[..., columns] @ key[..., columns].transpose(1, 2) * (D // HEADS) ** -0.5
        if layer.attention_biases is not None:
            logits = logits + layer.attention_biases[head][layer.offset]
        if mask is not None:
            logits = logits.masked_fill(~mask[:, None, :], -torch.inf)
        parts.append(logits.softmax(dim=2) @ value[..., columns])
    return layer.to_out(torch.cat(parts, dim=2))


@pytest.mark.parametrize("side", [None, 3])
@pytest.mark.parametrize("masked", [False, True])
def test_self_attention(side: int | None, masked: bool) -> None:
    torch.manual_seed(0)
    layer = SelfAttention(D, HEADS, side=side)
    if side is not None:
        nn.init.normal_(layer.attention_biases)
    tokens = torch.randn(2, 9, D)
    mask = torch.arange(9) < torch.tensor([[5], [9]]) if masked else None
    torch.testing.assert_close(layer(tokens, mask), by_hand(layer, tokens, mask), rtol=1e-4, atol=1e-5)


def test_the_table_of_biases_knows_absolute_offsets_only() -> None:
    """Two neighbors as far from the center in rows and in columns can be exchanged."""
    offset = square_offsets(5)
    assert sorted(offset.unique().tolist()) == list(range(25))
    assert torch.equal(offset, offset.T)
    cell = torch.arange(25).reshape(5, 5)
    for order in (cell.flip(0), cell.flip(1), cell.flip(0, 1)):
        order = order.flatten()
        assert torch.equal(offset[order][:, order], offset)
    assert torch.equal(offset[12], offset[12].reshape(5, 5).flip(0).flatten())
    assert SelfAttention(D, HEADS, side=5).attention_biases.shape == (HEADS, 25)


def test_names_of_weights() -> None:
    names = {f"layers.0.{name}" for name in (
        "0.norm.weight", "0.norm.bias", "0.fn.attention_biases", "0.fn.to_qkv.weight", "0.fn.to_out.0.weight",
        "0.fn.to_out.0.bias", "1.norm.weight", "1.norm.bias", "1.fn.net.0.weight", "1.fn.net.0.bias",
        "1.fn.net.3.weight", "1.fn.net.3.bias",
    )}  # fmt: skip
    assert set(TransformerEncoder(D, 1, HEADS, 2, side=5).state_dict()) == names
    crossed = set(CrossEncoder(D, 1, HEADS, 2).state_dict())
    assert crossed == names - {"layers.0.0.fn.attention_biases", "layers.0.0.fn.to_qkv.weight"} | {
        "layers.0.0.fn.to_q.weight", "layers.0.0.fn.to_kv.weight",
    }  # fmt: skip


@pytest.mark.parametrize("kind", [TransformerEncoder, CrossEncoder])
def test_masked_tokens_reach_no_other(kind: type) -> None:
    torch.manual_seed(0)
    stack = kind(D, 2, HEADS, 2)
    tokens, keys = torch.randn(2, 3, D), torch.randn(2, 6, D)
    mask = torch.arange(6) < torch.tensor([[2], [6]])
    other = torch.where(mask[..., None], keys, 1e4)
    if kind is TransformerEncoder:
        one, two = (stack(values, mask)[mask] for values in (keys, other))
    else:
        one, two = (stack(tokens, values, mask) for values in (keys, other))
    assert torch.equal(one, two)
    empty = torch.zeros_like(mask)
    found = stack(keys, empty) if kind is TransformerEncoder else stack(tokens, keys, empty)
    assert found.isfinite().all()


@pytest.mark.parametrize("centered", [False, True])
def test_cross_attention_within_a_square(centered: bool) -> None:
    """Nearer keys count more at first; cells of the same offset count the same."""
    torch.manual_seed(0)
    layer = CrossAttention(D, HEADS, side=5, centered=centered)
    assert layer.attention_biases.shape == (HEADS, 25)
    nn.init.zeros_(layer.to_q.weight)  # no content: places alone
    keys = torch.eye(25, D).unsqueeze(0)
    tokens = torch.randn(1, 2 if centered else 25, D)
    weight = torch.exp(layer.attention_biases[0][layer.offset])
    weight = weight / weight.sum(dim=1, keepdim=True)
    wanted = layer.to_out(weight @ layer.to_kv(keys)[..., D:]).expand(1, len(tokens[0]), D)
    torch.testing.assert_close(layer(tokens, keys), wanted, rtol=1e-4, atol=1e-5)
    middle = weight[0] if centered else weight[12]
    assert middle.argmax() == 12
    assert middle[0] == middle[24] < middle[6] == middle[8]


@pytest.mark.parametrize("kind", [TransformerEncoder, CrossEncoder])
def test_dropout_honors_evaluation(kind: type) -> None:
    stack, tokens = kind(D, 1, HEADS, 2, 0.5), torch.randn(1, 4, D)
    inputs = (tokens,) if kind is TransformerEncoder else (tokens, tokens)
    assert not torch.equal(stack(*inputs), stack(*inputs))
    assert stack.eval() is stack
    assert torch.equal(stack(*inputs), stack(*inputs))


def test_weights_loaded_after_evaluation_count() -> None:
    layer, tokens = SelfAttention(D, HEADS, side=3).eval(), torch.randn(1, 9, D)
    before = layer(tokens)
    layer.load_state_dict(layer.state_dict() | {"attention_biases": torch.randn(HEADS, 9)})
    assert not torch.allclose(layer(tokens), before)


def test_heads_that_do_not_share_the_width_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of the number of heads; found 8 and 3 heads"):
        SelfAttention(8, 3)
