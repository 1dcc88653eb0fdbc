"""Folds of tables whose rows are genes: whole chromosomes are held out, and no gene is on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts._splits import Fold
from stpredict.core._validate import few
from stpredict.slots._keys import Key
from stpredict.slots._sequences import middle_digests, sequence_file, sequence_length
from stpredict.slots._unit import bare_chromosome, check_chromosomes

if TYPE_CHECKING:
    from anndata import AnnData

#: Columns of `obs` that name genes, besides the names of the rows.
_NAMES = ("gene", "gene_id", "gene_name")


def leave_chromosomes_out(adata: AnnData, n_folds: int | None = None, *, chrom_key: str = Key.CHROM) -> list[Fold]:
    """Hold out one chromosome at a time, or groups of them with about equal numbers of genes.

    Parameters
    ----------
    adata
        Table whose rows are genes, on several chromosomes.
    n_folds
        Number of groups of chromosomes, at least 2; a fold per chromosome when `None`.
    chrom_key
        Column of `obs` with the chromosome.

    Returns
    -------
    One :class:`Fold` per chromosome or group, with boolean masks (n_obs,), named after its chromosomes; nothing is written to
    `adata`.

    Raises
    ------
    KeyError
        When `obs[chrom_key]` is missing.
    ValueError
        When there is one chromosome only, there are fewer of them than folds, some genes have none, they are named in two
        styles, or a gene would be on both sides of a fold, see :func:`assert_genes_apart`.

    Examples
    --------
    >>> import stpredict as stp
    >>> genes = stp.datasets.synthetic_genes(n_genes=30, n_chromosomes=3, width=64)
    >>> [fold.name for fold in stp.cohorts.leave_chromosomes_out(genes)]
    ['chr1', 'chr2', 'chr3']
    """
    check_chromosomes(adata, chrom_key)
    chrom = adata.obs[chrom_key].astype(str).to_numpy()
    names, sizes = np.unique(chrom, return_counts=True)
    if len(names) < 2:
        raise ValueError(
            f"expected genes of at least two chromosomes in obs[{chrom_key!r}]; found {', '.join(names)}; add chromosomes: genes "
            "of one share regulatory DNA"
        )
    if n_folds is not None and not 2 <= n_folds <= len(names):
        raise ValueError(
            f"expected between 2 folds and one per chromosome ({len(names)}); found n_folds={n_folds}; leave it out to hold out "
            "one at a time"
        )
    parts: list[list[str]] = [[] for _ in range(n_folds or len(names))]
    totals = np.zeros(len(parts))
    order = np.argsort(-sizes, kind="stable") if n_folds else np.arange(len(names))
    for at in order:  # the largest first, each to where the fewest genes are
        place = int(totals.argmin()) if n_folds else int(at)
        parts[place].append(str(names[at]))
        totals[place] += sizes[at]
    folds = []
    for part in parts:
        test = np.isin(chrom, part)
        folds.append(Fold("+".join(sorted(part, key=_place)), ~test, test))
    check_genes_apart(adata, [(fold.train, fold.test) for fold in folds], chrom_key)
    return folds


def assert_genes_apart(adata: AnnData, train: np.ndarray, test: np.ndarray, *, chrom_key: str = Key.CHROM) -> None:
    """Raise when a gene is on both sides of a split: by its name, by its sequence, or by DNA that both sides read.

    Parameters
    ----------
    adata
        Table whose rows are genes.
    train, test
        Boolean masks (n_obs,) of the training and of the test genes.
    chrom_key
        Column of `obs` with the chromosome.

    Returns
    -------
    `None`; nothing is written to `adata`.

    Raises
    ------
    ValueError
        When genes of both sides have the same name (the rows, or `obs["gene"]`, `obs["gene_id"]`, `obs["gene_name"]`; versions
        of Ensembl numbers aside), the same DNA around their start on either strand (2,048 bases, or as many as there are), or windows around `obs["tss"]` that overlap on one
        chromosome.

    Examples
    --------
    >>> import stpredict as stp
    >>> genes = stp.datasets.synthetic_genes(n_genes=30, n_chromosomes=3, width=64)
    >>> test = (genes.obs["chrom"] == "chr1").to_numpy()
    >>> stp.cohorts.assert_genes_apart(genes, ~test, test)
    """
    check_genes_apart(adata, [(train, test)], chrom_key)


def check_genes_apart(adata: AnnData, sides: Sequence[tuple[np.ndarray, np.ndarray]], chrom_key: str) -> None:
    """Raise where a gene is on both sides of one of several splits, see :func:`assert_genes_apart`."""
    named, rows = _names(adata), np.arange(adata.n_obs)
    digest = middle_digests(adata, rows)
    call = "leave one of them out, or put both on one side"
    for train, test in sides:
        for where, names in named.items():
            if shared := sorted(set(names[train]) & set(names[test]) - {""}):
                raise ValueError(
                    f"expected every gene on one side of the split; found {few(shared)} in training and test ({where}); {call}"
                )
        both: set[Any] = set() if digest is None else set(digest[train]) & set(digest[test]) - {""}
        if digest is not None and both:
            twins = adata.obs_names[np.isin(digest, sorted(both)) & (train | test)]
            raise ValueError(
                f"expected other sequences in training than in test; found {len(both)} on both sides, of {few(twins)}; {call}: "
                "what is learned of one is known of the other"
            )
        _check_windows(adata, train, test, chrom_key, call)


def _names(adata: AnnData) -> dict[str, np.ndarray]:
    """Names (n_obs,) of the genes by where they stand, Ensembl numbers without their version."""
    found = {"obs_names": adata.obs_names.to_numpy().astype(str)}
    for key in _NAMES:
        if key in adata.obs:
            found[f"obs[{key!r}]"] = (
                adata.obs[key].astype(object).where(adata.obs[key].notna(), "").astype(str).to_numpy()
            )
    return {where: np.array([_bare(name) for name in names], dtype=object) for where, names in found.items()}


def _bare(name: str) -> str:
    head, _, version = name.strip().partition(".")
    return (head if head.upper().startswith("ENS") and version.isdigit() else name.strip()).upper()


def _check_windows(adata: AnnData, train: np.ndarray, test: np.ndarray, chrom_key: str, call: str) -> None:
    """Raise where a window of one side overlaps one of the other."""
    if Key.TSS not in adata.obs or not (Key.SEQUENCE in adata.obsm or sequence_file(adata)):
        return  # nobody knows what is read of a gene
    width, key = sequence_length(adata), Key.CHROM if Key.CHROM in adata.obs else chrom_key
    chrom = np.array([bare_chromosome(name) for name in adata.obs[key].astype(str)])
    tss = adata.obs[Key.TSS].to_numpy(dtype=np.float64)
    for name in set(chrom[train]) & set(chrom[test]):
        own, other = (np.flatnonzero(side & (chrom == name)) for side in (test, train))
        order = other[np.argsort(tss[other], kind="stable")]
        at = np.searchsorted(tss[order], tss[own])
        for step in (-1, 0):
            near = order[np.clip(at + step, 0, len(order) - 1)]
            close = np.abs(tss[near] - tss[own]) < width
            if close.any():
                pair = adata.obs_names[[own[close][0], near[close][0]]]
                raise ValueError(
                    f"expected windows of {width} bases that do not overlap between training and test; found {int(close.sum())} of "
                    f"{name} that do (first: {pair[0]} and {pair[1]}); {call}, or hold out whole chromosomes: "
                    "stp.cohorts.leave_chromosomes_out(adata)"
                )


def _place(name: str) -> tuple[int, str]:
    bare = bare_chromosome(name)
    return (int(bare), "") if bare.isdigit() else (10**6, bare)
