r"""How much linked observations of different groups share their values, and how much of that chance would give.

The statistic of a gene is bilinear, :math:`T = \sum_{ij} s_{ij} z_i z_j` over pairs of observations of different groups, with
values z standardized within their section. Its null distribution is that of random signs. Every section is taken apart into
spatial modes, from coarse to fine, and the sign of each is drawn: this moves the pattern of a gene over the section and keeps
how smooth it is, so that two smooth maps that match by chance do not pass for a relation. For such signs the variance of T is
known exactly, and nothing has to be drawn: with the energies :math:`e_k` of the modes,
:math:`\mathrm{var}(T) = \sum_{kl} e_k (u_k^\top S u_l)^2 e_l`, summed over pairs of sections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_MOST_SKEWED = 1.5  # beyond it a handful of counts decides, and no approximation of the tail holds


@dataclass(frozen=True)
class Shared:
    """What genes share across groups; arrays (G,).

    Attributes
    ----------
    pearson
        Correlation of a value with the mean of its neighbors, within sections, then over sections and groups.
    z
        T over its standard deviation under random signs.
    p
        Probability of a z at least as high; NaN where the gene is undefined, or too rare to say.
    """

    pearson: np.ndarray
    z: np.ndarray
    p: np.ndarray


class Sharing:
    """Neighbors across groups, with all that does not depend on the genes.

    Parameters
    ----------
    neighbors
        Weights `(n, n)`, sparse, rows that sum to 1, between observations of different groups only.
    section
        `(n,)` codes of the sections, from 0 on: where a field is continuous.
    group
        `(n,)` codes of the groups, usually patients; a section is of one group.
    modes
        For each section its spatial modes `(n_s, k)` and their waves `(k,)`, see :func:`spatial_modes`.
    """

    def __init__(
        self, neighbors: Any, section: np.ndarray, group: np.ndarray, modes: Sequence[tuple[np.ndarray, np.ndarray]]
    ) -> None:
        from scipy import sparse

        self.neighbors = sparse.csr_array(neighbors).astype(np.float32)
        self.modes, self.waves = [part[0] for part in modes], [part[1] for part in modes]
        self.rows = [np.flatnonzero(section == code) for code in range(len(self.modes))]
        self.group = np.array([group[rows[0]] for rows in self.rows])
        self.n_rest = np.array([len(r) - 1 - m.shape[1] for r, m in zip(self.rows, self.modes, strict=True)])
        n_sections = np.bincount(self.group)
        weight = np.empty(len(section), dtype=np.float64)
        for code, rows in enumerate(self.rows):  # sections of a group alike, and groups alike
            weight[rows] = 1 / (len(rows) * n_sections[self.group[code]])
        one_way = sparse.diags_array(weight) @ self.neighbors.astype(np.float64)
        both: Any = sparse.csr_array(one_way + one_way.T)
        pairs = [(a, b) for a in range(len(self.rows)) for b in range(a) if self.group[a] != self.group[b]]
        blocks = {(a, b): both[self.rows[a]][:, self.rows[b]] for a, b in pairs}
        self.cubes = {pair: float((block.data**3).sum()) for pair, block in blocks.items()}
        self.squares = {pair: self._squares(block, *pair) for pair, block in blocks.items()}
        self.triangles = float((both @ both).multiply(both).sum())
        self.weight = weight

    def _squares(self, block: Any, a: int, b: int) -> np.ndarray:
        """Squares of a block of links between the modes of two sections; last the mean over all finer modes."""
        left, right = self.modes[a].astype(np.float64), self.modes[b].astype(np.float64)
        from_left = (block.T @ left).T  # (k, n_b)
        from_left -= from_left.mean(axis=1, keepdims=True)
        from_right = block @ right  # (n_a, l)
        from_right -= from_right.mean(axis=0)
        found = np.zeros((left.shape[1] + 1, right.shape[1] + 1))
        found[:-1, :-1] = (from_left @ right) ** 2
        beyond_right = (from_left**2).sum(axis=1) - found[:-1, :-1].sum(axis=1)
        beyond_left = (from_right**2).sum(axis=0) - found[:-1, :-1].sum(axis=0)
        n, m = block.shape
        row, column, total = block.sum(axis=1), block.sum(axis=0), block.sum()
        whole = (block.data**2).sum() - (row**2).sum() / m - (column**2).sum() / n + total**2 / (n * m)
        beyond = whole - found[:-1, :-1].sum() - beyond_right.sum() - beyond_left.sum()
        found[:-1, -1], found[-1, :-1], found[-1, -1] = beyond_right, beyond_left, beyond
        found[:, -1] /= max(self.n_rest[b], 1)
        found[-1] /= max(self.n_rest[a], 1)
        found[:-1] = _means(found[:-1], self.waves[a])
        found[:, :-1] = _means(found[:, :-1].T, self.waves[b]).T
        return np.maximum(found, 0).astype(np.float32)

    def test(self, values: np.ndarray) -> Shared:
        """Test genes.

        Parameters
        ----------
        values
            `(n, G)` float32, standardized within each section; 0 throughout a section where a gene is left out.
        """
        from scipy.stats import pearson3

        around = self.neighbors @ values
        statistic = np.einsum("i,ig,ig->g", self.weight, values, around, optimize=True)
        energy = [self._energy(code, values[rows]) for code, rows in enumerate(self.rows)]
        variance, third = np.zeros(values.shape[1]), np.zeros(values.shape[1])
        codes = np.unique(self.group)
        for number, first in enumerate(codes):
            for second in codes[:number]:
                variance += self._variance(
                    np.flatnonzero(self.group == first), np.flatnonzero(self.group == second), energy
                )
        cube = [(values[rows].astype(np.float64) ** 3).mean(axis=0) for rows in self.rows]
        for (a, b), links in self.cubes.items():
            third += links * cube[a] * cube[b]
        used = np.array([e.sum(axis=0) > 0 for e in energy])
        enough = np.array([len(set(self.group[column])) > 1 for column in used.T], dtype=bool) & (variance > 0)
        spread = np.sqrt(np.where(enough, variance, np.nan))
        z, skew = statistic / spread, (third + self.triangles) / spread**3
        told = enough & (np.abs(np.nan_to_num(skew)) <= _MOST_SKEWED)
        p = np.full(len(z), np.nan)
        p[told] = pearson3.sf(z[told], skew[told])
        return Shared(np.where(enough, self._pearson(values, around), np.nan), z, p)

    def _energy(self, code: int, values: np.ndarray) -> np.ndarray:
        """Sum of squares of genes in each mode of a section, last in all finer ones: (k + 1, G)."""
        coarse = (self.modes[code].T @ values) ** 2
        rest = np.maximum((values**2).sum(axis=0) - coarse.sum(axis=0), 0)
        return np.concatenate([coarse, rest[None]])

    def _variance(self, left: np.ndarray, right: np.ndarray, energy: Sequence[np.ndarray]) -> np.ndarray:
        """Variance (G,) of what two groups share.

        Sections of one group may be neighboring slices of one tissue, nearly copies: what is smooth in both the gene and
        the links can turn out the same in all of them, and counts as if it did (the bound of Cauchy and Schwarz). What is
        as fine as noise is independent. `whole` is the variance of a pair of sections; `once`, `other` and `both` are its
        parts that are smooth on the left, on the right, and on both sides.
        """
        shape = (len(left), len(right), energy[0].shape[1])
        whole = np.empty(shape)
        once, other, both = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        several = len(left) * len(right) > 1
        for i, a in enumerate(left):
            for j, b in enumerate(right):
                links = self.squares[a, b] if (a, b) in self.squares else self.squares[b, a].T
                there = links @ energy[b]
                whole[i, j] = np.einsum("kg,kg->g", energy[a], there)
                if not several:
                    continue
                floor = links[-1, -1]
                smooth_a, smooth_b = self._above_noise(a, energy[a]), self._above_noise(b, energy[b])
                there -= floor * energy[b].sum(axis=0)
                once[i, j] = np.einsum("kg,kg->g", smooth_a, there)
                there = links @ smooth_b - floor * smooth_b.sum(axis=0)
                other[i, j] = np.einsum("kg,kg->g", energy[a], there)
                both[i, j] = np.einsum("kg,kg->g", smooth_a, there)
        total = whole.sum(axis=(0, 1))
        if several:
            once, other, both = (np.sqrt(np.clip(part, 0, whole)) for part in (once, other, both))
            total += (once.sum(axis=0) ** 2).sum(axis=0) - (once**2).sum(axis=(0, 1))
            total += (other.sum(axis=1) ** 2).sum(axis=0) - (other**2).sum(axis=(0, 1))
            apart = both.sum(axis=(0, 1)) ** 2 + (both**2).sum(axis=(0, 1))
            total += apart - (both.sum(axis=0) ** 2).sum(axis=0) - (both.sum(axis=1) ** 2).sum(axis=0)
        return total

    def _above_noise(self, code: int, energy: np.ndarray) -> np.ndarray:
        """Energies less those that noise of the size of the finest modes would have."""
        n = max(self.n_rest[code], 1)
        smooth = energy - energy[-1] / n
        smooth[-1] = 0
        return smooth

    def _pearson(self, values: np.ndarray, around: np.ndarray) -> np.ndarray:
        """Correlation within sections, averaged over the sections of a group, then over groups."""
        from stpredict.metrics._pearson import pearson

        within = np.array([pearson(values[rows], around[rows]) for rows in self.rows])
        groups = []
        for code in np.unique(self.group):
            part = within[self.group == code]
            defined = (~np.isnan(part)).sum(axis=0)
            groups.append(np.where(defined > 0, np.nansum(part, axis=0) / np.maximum(defined, 1), np.nan))
        found = np.array(groups)
        defined = (~np.isnan(found)).sum(axis=0)
        return np.where(defined > 0, np.nansum(found, axis=0) / np.maximum(defined, 1), np.nan)


def _means(rows: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """Rows (n, m) replaced by the mean of those with the same ascending code."""
    start = np.flatnonzero(np.diff(codes, prepend=-1))
    size = np.diff(start, append=len(codes))
    return np.repeat(np.add.reduceat(rows, start, axis=0) / size[:, None], size, axis=0)
