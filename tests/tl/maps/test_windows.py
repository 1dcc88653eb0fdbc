from __future__ import annotations

import numpy as np
import pytest

from stpredict.tl.maps._windows import box_sums, lay_windows, neighborhoods


def ragged(shape=(23, 17), holes=0.25, seed=0):
    """Round tissue with holes, one tile far from all others, in random order and not from 0."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[: shape[0], : shape[1]]
    radius = ((y - shape[0] / 2) / shape[0]) ** 2 + ((x - shape[1] / 2) / shape[1]) ** 2
    inside = (radius < 0.2) & (rng.random(shape) >= holes)
    inside[0, -1] = True
    row, col = np.nonzero(inside)
    order = rng.permutation(len(row))
    return row[order] + 5, col[order] - 3


def reference(row, col, size, stride, needed):
    """For each tile the sets of tiles in its windows, with loops; and which tiles have partial windows only."""
    row, col = row - row.min(), col - col.min()
    at = {place: number for number, place in enumerate(zip(row.tolist(), col.tolist(), strict=True))}
    n_rows, n_cols = max(row.max() + 1, size), max(col.max() + 1, size)

    def tiles(i, j):
        places = ((i + a, j + b) for a in range(size) for b in range(size))
        return frozenset(at[place] for place in places if place in at)

    every = {(i, j): tiles(i, j) for i in range(n_rows - size + 1) for j in range(n_cols - size + 1)}
    starts = [{*range(0, n - size + 1, stride), n - size} for n in (n_rows, n_cols)]
    kept = {o for o in every if o[0] in starts[0] and o[1] in starts[1] and len(every[o]) >= needed}
    covered = set().union(*(every[o] for o in kept)) if kept else set()
    added = set()
    for (i, j), number in at.items():
        if number not in covered:
            around = [o for o in every if o[0] <= i < o[0] + size and o[1] <= j < o[1] + size]
            middle = (size - 1) / 2
            added.add(
                max(around, key=lambda o: (len(every[o]), -((i - o[0] - middle) ** 2) - (j - o[1] - middle) ** 2))
            )
    kept |= {o for o in added if len(every[o]) >= needed}
    added -= kept
    own = [[every[o] for o in sorted(kept) if number in every[o]] for number in range(len(row))]
    partial = np.array([not sets for sets in own])
    for number in np.flatnonzero(partial):
        own[number] = [every[o] for o in sorted(added) if number in every[o]]
    return own, partial


LAYOUTS = {
    "ragged": ragged(),
    "dense": tuple(np.mgrid[:14, :12].reshape(2, -1)),
    "one": (np.array([4]), np.array([9])),
    "strip": tuple(np.mgrid[:3, :30].reshape(2, -1)),
    "sparse": tuple(np.argwhere(np.random.default_rng(3).random((25, 22)) < 0.1).T),
}


@pytest.mark.parametrize("stride", [1, 3, 10])
@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_equals_loops(name, stride):
    row, col = LAYOUTS[name]
    windows = lay_windows(row, col, stride=stride)
    own, partial = reference(row, col, 10, stride, 51)
    np.testing.assert_array_equal(windows.partial_tiles, partial)
    np.testing.assert_array_equal(windows.n_windows, [len(sets) for sets in own])
    assert (windows.n_windows > 0).all()
    values = np.random.default_rng(0).normal(size=(len(windows), 3))
    held = [frozenset(index[index >= 0].tolist()) for index in windows.index()]
    assert len({tuple(origin) for origin in windows.origins}) == len(windows)
    assert [len(tiles) < 51 for tiles in held] == windows.partial.tolist()
    numbers = {}
    for number, tiles in enumerate(held):
        numbers.setdefault(tiles, []).append(number)  # two windows may hold the same tiles
    expected = [
        np.mean([values[n] for tiles in set(sets) for n in numbers[tiles] if windows.partial[n] == lonely], axis=0)
        for sets, lonely in zip(own, partial, strict=True)
    ]
    np.testing.assert_allclose(windows.mean(values.astype(np.float32)), expected, atol=1e-6)


def test_last_origin_counts():
    row, col = np.mgrid[:21, :10].reshape(2, -1)
    windows = lay_windows(row, col, stride=10)
    assert windows.origins.tolist() == [[0, 0], [10, 0], [11, 0]]
    assert not windows.partial_tiles.any()


def test_index_holds_the_tiles_at_their_places():
    row, col = ragged()
    windows = lay_windows(row, col, window=4, stride=2)
    index = windows.index(1, 3).reshape(2, 4, 4)
    for box, origin in zip(index, windows.origins[1:3], strict=True):
        for i, j in np.argwhere(box >= 0):
            tile = box[i, j]
            assert (row[tile] - row.min(), col[tile] - col.min()) == (origin[0] + i, origin[1] + j)
    assert windows.index().shape == (len(windows), 16)


def test_partial_windows_leave_other_tiles_alone():
    row, col = np.mgrid[20:32, 20:32].reshape(2, -1)
    row, col = np.append(row, [0, 60]), np.append(col, [0, 60])
    before, after = lay_windows(row, col), lay_windows(np.append(row, 36), np.append(col, 36))
    assert (before.index()[before.partial] == 143).sum() == 0
    assert (after.index()[after.partial] == 143).sum() == 1
    np.testing.assert_array_equal(after.n_windows[:-1], before.n_windows)
    assert after.partial_tiles.tolist() == [False] * 144 + [True] * 3
    marked = after.mean(after.partial[:, None].astype(np.float32))
    np.testing.assert_allclose(marked[:, 0], after.partial_tiles, atol=1e-6)


def test_lonely_tile_lies_in_the_middle_of_its_window():
    row, col = np.mgrid[:40:39, :40:39].reshape(2, -1)
    row, col = np.append(row, 20), np.append(col, 20)
    windows = lay_windows(row, col, window=9)
    index = windows.index()
    assert np.flatnonzero(index[(index == 4).any(axis=1)][0] == 4) == 40


def test_all_tiles_needed():
    row, col = np.mgrid[:4, :4].reshape(2, -1)
    windows = lay_windows(row, col, window=4, min_tiles=16)
    assert not windows.partial.any()
    windows = lay_windows(row[:-1], col[:-1], window=4, min_tiles=16)
    assert windows.partial.all()
    assert windows.partial_tiles.all()


def test_wide_means_are_taken_in_slices(monkeypatch):
    windows = lay_windows(*ragged(), stride=3)
    values = np.random.default_rng(0).normal(size=(len(windows), 11)).astype(np.float32)
    whole = windows.mean(values)
    monkeypatch.setattr("stpredict.tl.maps._windows._BLOCK", 3 * len(windows))
    np.testing.assert_array_equal(windows.mean(values), whole)


def test_box_sums():
    values = np.random.default_rng(0).integers(0, 5, (7, 6))
    expected = [[values[i : i + 3, j : j + 3].sum() for j in range(4)] for i in range(5)]
    np.testing.assert_array_equal(box_sums(values, 3), expected)


def test_neighborhoods():
    row, col = ragged()
    at = {place: number for number, place in enumerate(zip(row.tolist(), col.tolist(), strict=True))}
    expected = [
        [at.get((i + a, j + b), -1) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        for i, j in zip(row.tolist(), col.tolist(), strict=True)
    ]
    np.testing.assert_array_equal(neighborhoods(row, col, 3), expected)


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        ([0, 1, 1], {}, "one tile at each place"),
        ([0, 1, 2.5], {}, "fractions"),
        ([0, 1, np.nan], {}, "missing"),
        ([], {}, "at least one tile"),
        ([0, 10**6, 10**9], {}, "not pixels"),
        ([0, 1, 2], {"stride": 0}, "stride"),
        ([0, 1, 2], {"stride": 11}, "stride"),
        ([0, 1, 2], {"window": 2.5}, "window"),
        ([0, 1, 2], {"min_tiles": 101}, "min_tiles"),
        ([0, 1, 2], {"min_tiles": 0}, "min_tiles"),
        (["a", "b", "c"], {}, "shape"),
    ],
)
def test_errors(row, options, message):
    col = np.zeros(len(row)) if len(row) != 3 or row[1] != 10**6 else np.array([0, 1, 10**6])
    with pytest.raises(ValueError, match=message):
        lay_windows(np.array(row), col, **options)
