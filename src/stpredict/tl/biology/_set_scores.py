"""Scores of gene sets on arrays: a linear one, and those of gseapy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Method = Literal["mean", "gsva", "ssgsea"]
METHODS: tuple[Method, ...] = ("mean", "gsva", "ssgsea")
_N_BINS = 25
_FEWEST = 5  # genes of a bin
# Bytes that gseapy 1.3 takes, measured on 100 to 300 samples (100 per value) and rounded up.
_PER_VALUE = 150.0
_PER_SCORE = {"gsva": (1000.0, 20.0), "ssgsea": (1000.0, 80.0)}  # per score, and per gene of its set


@dataclass(frozen=True)
class LinearScore:
    """Mean of the genes of a set, less the mean of other genes of similar expression; a linear map of the genes.

    Attributes
    ----------
    weights
        (n_terms, n_genes), sparse: what the genes of a set count, in and out of the controls.
    bins
        (n_bins, n_genes), 0 and 1: genes of similar expression.
    control
        (n_terms, n_bins): what the sum over a bin counts against the set.
    """

    weights: csr_array
    bins: csr_array
    control: np.ndarray

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Scores (n, n_terms) of values (n, n_genes)."""
        by_gene = np.ascontiguousarray(values.T)
        return self.weights_of(by_gene) - self.controls_of(by_gene)

    def weights_of(self, by_gene: np.ndarray) -> np.ndarray:
        """What the genes of the sets count (n, n_terms), of values (n_genes, n)."""
        return np.asarray((self.weights @ by_gene).T)

    def controls_of(self, by_gene: np.ndarray) -> np.ndarray:
        """What their controls count (n, n_terms), of values (n_genes, n); the same for all sets of moved genes."""
        return np.asarray((self.bins @ by_gene).T @ self.control.T)

    def moved(self, place: np.ndarray) -> LinearScore:
        """The score of other genes: each gene is replaced by one of its bin, `place` (n_genes,)."""
        weights = self.weights.copy()
        weights.indices = place[weights.indices]
        weights.has_sorted_indices = False
        return replace(self, weights=weights)


def expression_bins(level: np.ndarray) -> np.ndarray:
    """Bin (n_genes,) of each gene, of as many genes each, by its expression."""
    n_bins = int(np.clip(len(level) // _FEWEST, 1, _N_BINS))
    order = np.argsort(np.argsort(level, kind="stable"), kind="stable")
    return order * n_bins // len(level)


def linear_score(member: csr_array, bins: np.ndarray) -> LinearScore:
    """The linear score of sets (n_terms, n_genes), against all other genes of the bins of their genes.

    Every gene of a set has the genes of its bin that are not in the set as its controls, all of them: the score does not
    depend on a draw. Where a bin is in the set as a whole it has no controls, and counts as it is.
    """
    from scipy import sparse

    n_terms, n_genes = member.shape
    member = sparse.csr_array(member, dtype=np.float64)
    by_bin = sparse.csr_array((np.ones(n_genes), (bins, np.arange(n_genes))), shape=(int(bins.max()) + 1, n_genes))
    inside = (member @ by_bin.T).toarray()
    outside = np.asarray(by_bin.sum(axis=1)).ravel() - inside
    size = inside.sum(axis=1, keepdims=True)
    control = np.divide(inside / size, outside, out=np.zeros_like(inside), where=outside > 0)
    rows = np.repeat(np.arange(n_terms), np.diff(member.indptr))
    weights = member.copy()
    weights.data = 1 / size[rows, 0] + control[rows, bins[member.indices]]
    return LinearScore(weights, by_bin, control)


def within_bins(bins: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A gene of the same bin for each gene (n_genes,), each once."""
    place = np.empty(len(bins), dtype=np.int64)
    place[np.argsort(bins, kind="stable")] = np.lexsort((rng.random(len(bins)), bins))
    return place


def standardized_rows(by_gene: np.ndarray) -> np.ndarray:
    """Rows (n_genes, n) less their mean, of length 1; 0 where they are constant."""
    z = by_gene - by_gene.mean(axis=1, keepdims=True)
    length = np.sqrt(np.einsum("ij,ij->i", z, z))[:, None]
    varies = length > 1e-10 * np.abs(by_gene).max(axis=1, initial=1e-300, keepdims=True)
    return np.divide(z, length, out=np.zeros_like(z), where=varies)


def coherence(z: np.ndarray, member: csr_array) -> np.ndarray:
    """Mean correlation of two genes of each set (n_terms,), of :func:`standardized_rows`; constant genes count as 0.

    The sum of k standardized genes has the variance k + k (k - 1) times their mean correlation.
    """
    total = member @ z
    size = np.asarray(member.sum(axis=1)).ravel()
    together = np.einsum("ij,ij->i", total, total) - member @ np.einsum("ij,ij->i", z, z)
    return np.asarray(np.divide(together, size * (size - 1), out=np.full(len(size), np.nan), where=size > 1))


def gseapy_score(values: np.ndarray, member: csr_array, method: Method, n_threads: int = 1) -> np.ndarray:
    """GSVA, or ssGSEA (normalized over all), of values (n, n_genes) by sets (n_terms, n_genes) -> (n, n_terms).

    The genes go in under names that gseapy cannot take for others: it joins symbols without regard to case.
    """
    import gseapy
    import pandas as pd

    genes = np.array([f"G{number}" for number in range(values.shape[1])], dtype=object)
    sets = {
        f"T{term}": genes[member.indices[start:stop]].tolist()
        for term, (start, stop) in enumerate(zip(member.indptr[:-1], member.indptr[1:], strict=True))
    }
    samples = [f"S{number}" for number in range(len(values))]
    table = pd.DataFrame(values.T, index=genes, columns=samples)
    call, column = (gseapy.gsva, "ES") if method == "gsva" else (gseapy.ssgsea, "NES")
    options = {} if method == "gsva" else {"no_plot": True}
    found = call(table, sets, outdir=None, min_size=1, max_size=values.shape[1], threads=n_threads, **options).res2d
    scores = found.pivot(index="Name", columns="Term", values=column)
    return scores.reindex(index=samples, columns=list(sets)).to_numpy(dtype=np.float64)


def check_memory(method: Method, n: int, n_genes: int, size: np.ndarray, max_gb: float) -> None:
    """Raise `MemoryError` where gseapy would need more than there should be, for sets of these sizes (n_terms,)."""
    if method == "mean":
        return
    base, per_gene = _PER_SCORE[method]
    needed = n * (_PER_VALUE * n_genes + base * len(size) + per_gene * float(size.sum())) / 2**30
    if needed > max_gb:
        raise MemoryError(
            f"expected {method} within max_gb={max_gb:g}; found {n:,} observations × {n_genes:,} genes × {len(size):,} gene sets, "
            f"which take about {needed:,.3g} GB; score slides instead of spots, take fewer genes or sets, raise `max_gb=`, or pass "
            "method='mean', which is linear and needs no more than the values"
        )
