"""Neighboring cells of a map that look alike, joined to super-patches, and the graph of these."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_CHUNK = 4096  # pairs whose differences are held at once
#: Cells beside one, in rows and columns: half of them, as each pair counts once. Odd rows of a hexagonal lattice lie half a
#: step to the right.
_SQUARE = ((0, 1), (1, 0), (1, 1), (1, -1))
_HEX = {0: ((0, 1), (1, -1), (1, 0)), 1: ((0, 1), (1, 0), (1, 1))}


@dataclass(frozen=True)
class SuperPatches:
    """Super-patches of one map.

    Attributes
    ----------
    label
        (m,) super-patch of each cell on the tissue.
    size
        (k,) number of cells of each.
    links
        (e, 2) from and to which super-patch, those that touch, in both directions.
    """

    label: np.ndarray
    size: np.ndarray
    links: np.ndarray


def neighboring_cells(tissue: np.ndarray, lattice: str) -> np.ndarray:
    """Pairs (e, 2) of cells on the tissue (h, w) that touch, counted row by row over the tissue."""
    number = np.full(tissue.shape, -1, dtype=np.int64)
    number[tissue] = np.arange(tissue.sum())
    row, column = np.nonzero(tissue)
    found = []
    for parity in (0, 1):
        rows = row % 2 == parity
        for down, across in _HEX[parity] if lattice == "hex" else _SQUARE:
            at = row[rows] + down, column[rows] + across
            inside = (at[0] < tissue.shape[0]) & (at[1] >= 0) & (at[1] < tissue.shape[1])
            other = number[at[0][inside], at[1][inside]]
            own = number[row[rows][inside], column[rows][inside]]
            found.append(np.stack([own, other], axis=1)[other >= 0])
    return np.concatenate(found)


def merge_cells(values: np.ndarray, pairs: np.ndarray, *, within: float, rounds: int) -> SuperPatches:
    """Join cells that touch and look alike.

    In every round each super-patch looks at those that it touches; two that are the most alike to each other become one, whose
    values are the mean over its cells, where they differ by no more than `within`. After `rounds` rounds it has at most
    2 ** `rounds` cells. Differences are held along the pairs, some at a time: memory is linear in the number of cells.

    Parameters
    ----------
    values
        (m, d) values of the cells.
    pairs
        (e, 2) cells that touch.
    within
        Largest root mean square difference over the d values.
    rounds
        Number of rounds.
    """
    label, size = np.arange(len(values)), np.ones(len(values))
    mean = np.array(values, dtype=np.float32)
    for _ in range(rounds):
        touching = _between(label, pairs, len(size))
        gap = _differences(mean, touching)
        alike = gap <= within
        both = np.concatenate([touching[alike], touching[alike][:, ::-1]])
        order = np.lexsort((both[:, 1], np.tile(gap[alike], 2), both[:, 0]))
        own, first = np.unique(both[order, 0], return_index=True)
        best = np.full(len(size), -1)
        best[own] = both[order, 1][first]
        lower = np.flatnonzero((best > np.arange(len(size))) & (best[best] == np.arange(len(size))))
        if not len(lower):
            break
        upper = best[lower]
        total = size[lower] + size[upper]
        mean[lower] = (mean[lower] * size[lower, None] + mean[upper] * size[upper, None]) / total[:, None]
        size[lower] = total
        into = np.arange(len(size))
        into[upper] = lower
        kept, into = np.unique(into, return_inverse=True)
        label, mean, size = into[label], mean[kept], size[kept]
    links = _between(label, pairs, len(size))
    return SuperPatches(label, size.astype(np.int64), np.concatenate([links, links[:, ::-1]]))


def _between(label: np.ndarray, pairs: np.ndarray, n: int) -> np.ndarray:
    """Pairs (k, 2) of different super-patches that touch, each once, the lower number first."""
    ends = np.sort(label[pairs], axis=1)
    code = np.unique(ends[:, 0] * n + ends[:, 1])
    found = np.stack(np.divmod(code, n), axis=1)
    return found[found[:, 0] != found[:, 1]]


def _differences(mean: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Root mean square differences (k,) between the rows of pairs."""
    gap = np.zeros(len(pairs), dtype=np.float32)
    for start in range(0, len(pairs) if mean.shape[1] else 0, _CHUNK):
        part = slice(start, start + _CHUNK)
        gap[part] = np.sqrt(np.square(mean[pairs[part, 0]] - mean[pairs[part, 1]]).mean(axis=1))
    return gap
