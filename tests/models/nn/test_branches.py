from __future__ import annotations

import pytest
import torch
from torch import nn

from stpredict.models import Sections
from stpredict.models.nn._branches import (
    FusionEncoder,
    GlobalEncoder,
    NeighborEncoder,
    PositionConv,
    check_neighbors,
    mean_token,
    of_sections,
    projection,
)

D, HEADS = 8, 2


def cells(n: int, width: int = 5) -> torch.Tensor:
    return torch.stack([torch.arange(n) // width, torch.arange(n) % width], dim=1)


def test_the_convolution_over_positions_is_that_of_the_grid() -> None:
    torch.manual_seed(0)
    layer, tokens = PositionConv(D), torch.randn(15, D)
    grid = tokens.reshape(1, 3, 5, D).permute(0, 3, 1, 2)
    beside = layer.proj(grid).permute(0, 2, 3, 1).reshape(15, D)
    torch.testing.assert_close(layer(tokens, cells(15)), tokens + beside)
    layer.residual = False
    torch.testing.assert_close(layer(tokens, cells(15)), beside)
    # A token of zeros is a token.
    tokens[4] = 0
    assert layer(tokens, cells(15))[4].abs().max() > 0


def test_gaps_count_as_zero_and_order_does_not_matter() -> None:
    torch.manual_seed(0)
    layer, tokens, cell = PositionConv(D), torch.randn(15, D), cells(15)
    some, order = torch.arange(15) % 4 != 1, torch.randperm(15)
    full = torch.where(some[:, None], tokens, 0)
    torch.testing.assert_close(layer(tokens[some], cell[some]), layer(full, cell)[some])
    torch.testing.assert_close(layer(tokens[order], cell[order]), layer(tokens, cell)[order])


def test_two_spots_in_one_cell_are_refused() -> None:
    with pytest.raises(ValueError, match="one observation in each cell"):
        PositionConv(D)(torch.randn(2, D), torch.zeros(2, 2, dtype=torch.long))


def test_sections_of_a_batch_are_encoded_once_each_and_alone() -> None:
    torch.manual_seed(0)
    encoder = GlobalEncoder(D, 2, HEADS, 2).eval()
    tokens, code = torch.randn(20, D), torch.tensor([3, 7]).repeat(10)  # interleaved
    cell = cells(10).repeat_interleave(2, dim=0)
    row = torch.tensor([19, 0, 4, 5, 5])
    calls = []

    def counted(*args: torch.Tensor) -> torch.Tensor:
        calls.append(len(args[0]))
        return encoder(*args)

    found = of_sections(counted, tokens, cell, Sections(code, row))
    assert calls == [10, 10]
    alone = torch.empty(20, D)
    for each in (3, 7):
        alone[code == each] = encoder(tokens[code == each], cell[code == each])
    torch.testing.assert_close(found, alone[row])


def test_memory_over_a_section_is_linear(memory_grown_by) -> None:
    """10,000 spots: the matrix of weights of one head would be 400 MB, held for the gradient."""
    encoder = GlobalEncoder(8, 1, 1, 1)
    tokens, cell = torch.randn(10_000, 8), cells(10_000, 100)
    assert memory_grown_by(lambda: encoder(tokens, cell).sum().backward()) < 100e6


def test_masked_neighbors_reach_nothing() -> None:
    torch.manual_seed(0)
    encoder, fusion = NeighborEncoder(D, 2, HEADS, 1), FusionEncoder(D, 1, HEADS, 1)
    nn.init.normal_(encoder.layer.layers[0][0].fn.attention_biases)
    tokens, mask, spot, target = torch.randn(3, 25, D), torch.rand(3, 25) < 0.5, torch.randn(3, D), torch.randn(3, 4, D)
    mask[:, 12] = True

    def results(values: torch.Tensor) -> list[torch.Tensor]:
        encoded = encoder(values, mask)
        return [mean_token(encoded, mask), fusion(spot, target, encoded, mask)]

    for one, two in zip(results(tokens), results(torch.where(mask[..., None], tokens, 1e4)), strict=True):
        assert torch.equal(one, two)
    nobody = torch.zeros_like(mask)
    assert torch.equal(mean_token(tokens, nobody), torch.zeros(3, D))
    assert fusion(spot, target, encoder(tokens, nobody), nobody).isfinite().all()


def test_what_fits_needs_no_projection() -> None:
    assert not list(projection(D, D).parameters())
    assert projection(3, D).weight.shape == (D, 3)


def test_another_square_is_refused() -> None:
    with pytest.raises(ValueError, match="25 neighbors, a square of 5 x 5 tiles; found 9"):
        check_neighbors(torch.zeros(2, 9, 3))
