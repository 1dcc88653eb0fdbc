from __future__ import annotations

import pytest
import torch

from stpredict.models.nn._normal_equations import Moments, NormalEquations, cells_of


def rows(n: int = 70, d: int = 5, g: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Features far from 0, targets, cells and sections, neither of which is sorted."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(n, d, generator=generator) + 300
    target = torch.randn(n, g, generator=generator) - 50
    return features, target, torch.arange(n) % 4, torch.arange(n) // 3 % 5


def added(size: int, known: NormalEquations | None = None) -> NormalEquations:
    features, target, cell, section = rows()
    sums = NormalEquations(cell, section, features[0], target[0], features=known)
    for start in range(0, len(features), size):
        sums.add(features[start : start + size], target[start : start + size])
    return sums


def assert_same(found: Moments, expected: Moments) -> None:
    for name, one, other in zip(Moments._fields, found, expected, strict=True):
        torch.testing.assert_close(torch.as_tensor(one), torch.as_tensor(other), rtol=1e-9, atol=1e-7, msg=name)


@pytest.mark.parametrize("size", [1, 16, 70])
@pytest.mark.parametrize("by_section", [False, True])
def test_equal_those_of_the_rows_of_some_cells(size: int, by_section: bool) -> None:
    features, target, cell, section = rows()
    mine = (cell == 1) | (cell == 3)
    x, y, code = features[mine].double(), target[mine].double(), section[mine]
    level, target_level = x.mean(dim=0).expand_as(x).clone(), y.mean(dim=0).expand_as(y).clone()
    if by_section:
        for name in code.unique():
            level[code == name], target_level[code == name] = x[code == name].mean(dim=0), y[code == name].mean(dim=0)
    u, v = x - level, y - target_level
    expected = Moments(
        int(mine.sum()), x.mean(dim=0), y.mean(dim=0), x.square().mean(dim=0).sqrt(), u.T @ u, u.T @ v, v.square().sum(dim=0)
    )  # fmt: skip
    assert_same(added(size).moments([1, 3], by_section=by_section), expected)


def test_about_another_point() -> None:
    features, target, cell, _ = rows()
    point, target_point = torch.full((5,), 299.0).double(), torch.full((3,), -48.0).double()
    u, v = features[cell == 2].double() - point, target[cell == 2].double() - target_point
    found = added(16).moments([2]).about(point, target_point)
    torch.testing.assert_close(found.square, u.T @ u, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(found.cross, u.T @ v, rtol=1e-9, atol=1e-7)
    torch.testing.assert_close(found.target_square, v.square().sum(dim=0), rtol=1e-9, atol=1e-7)


def test_groups_of_targets_side_by_side() -> None:
    features, target, cell, section = rows()
    parts, known = [], None
    for genes in (slice(0, 2), slice(2, 3)):
        known = NormalEquations(cell, section, features[0], target[0, genes], features=known)
        known.add(features, target[:, genes])
        parts.append(known.moments([0, 1], by_section=True))
    assert_same(Moments.side_by_side(parts), added(70).moments([0, 1], by_section=True))


def test_rows_that_are_missing_are_told() -> None:
    features, target, cell, section = rows()
    sums = NormalEquations(cell, section, features[0], target[0])
    sums.add(features[:30], target[:30])
    with pytest.raises(ValueError, match="expected all 70 rows to be added; found 30"):
        sums.moments([0])


def test_cells_are_rows_on_the_same_side_in_all_folds() -> None:
    held = torch.tensor([[1, 1, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 1, 1]]).bool()
    train = ~held
    train[0, 2] = train[1, 4] = False  # behind a buffer
    cell, sides = cells_of(list(zip(train, held, strict=True)), 6)
    assert len(cell.unique()) == 5
    for number, (inside, outside) in enumerate(sides):
        assert torch.equal(torch.isin(cell, torch.tensor(inside)), train[number])
        assert torch.equal(torch.isin(cell, torch.tensor(outside)), held[number])
    assert cells_of([], 3)[0].tolist() == [0, 0, 0]
