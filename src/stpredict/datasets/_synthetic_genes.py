"""Genes with DNA around their start, whose expression is known to follow from a part of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._keys import Key
from stpredict.slots._sequences import encoded
from stpredict.slots._unit import say_genes

if TYPE_CHECKING:
    from anndata import AnnData

_MOTIF = "TGACTCAT"
_MOST = 6  # motifs in the element of a gene
_N_WINDOWS = 16


def synthetic_genes(
    n_genes: int = 120,
    *,
    n_chromosomes: int = 4,
    width: int = 512,
    element: tuple[int, int] | None = None,
    n_conditions: int = 1,
    noise: float = 0.2,
    seed: int = 0,
) -> AnnData:
    """Make genes whose expression follows from the number of motifs in one element of their DNA.

    Elsewhere the motif occurs as often, and means nothing. Of the three signals the first is high over the element and over
    as many bases that have no part in expression; the others are noise.

    Parameters
    ----------
    n_genes
        Number of genes, in turn on the chromosomes.
    n_chromosomes
        Number of chromosomes.
    width
        Bases of each sequence.
    element
        First and last base (exclusive) of the element; a quarter of the sequence, ending before the middle, when `None`.
    n_conditions
        Number of columns of `X`, which differ in noise only.
    noise
        Standard deviation of what the expression has besides.
    seed
        Random seed.

    Returns
    -------
    AnnData (n_genes, n_conditions), whose rows are genes: `X` is expression in standard deviations of the number of motifs,
    `obs["expr"]` its first column; `obs["chrom"]`, `obs["tss"]`, `obs["strand"]`; `obs["n_motifs"]`; `obsm["sequence"]`
    (n_genes, width) uint8, `obsm["signals"]` (n_genes, width, 3) float32, `obsm["sequence_features"]` (n_genes, 16, 5) float32 (shares
    of the bases, and of the motif, in windows), `obsm["gene_features"]` (n_genes, 9) float32, noise;
    `uns["element"]`: first and last base of the element.

    Raises
    ------
    ValueError
        When the element is not inside the sequence, or is too short for its motifs.

    Examples
    --------
    >>> import stpredict as stp
    >>> genes = stp.datasets.synthetic_genes(n_genes=20, width=128)
    >>> genes.obsm["sequence"].shape, genes.uns["element"].tolist()
    ((20, 128), [24, 56])
    """
    import pandas as pd
    from anndata import AnnData

    rng = np.random.default_rng(seed)
    start, stop = (width // 2 - width // 4 - 8, width // 2 - 8) if element is None else element
    if not 0 <= start < stop <= width or (stop - start) // len(_MOTIF) < 2:
        raise ValueError(
            f"expected an element inside the {width} bases that holds two motifs of {len(_MOTIF)}; found {start} to {stop}"
        )
    sequence = rng.integers(0, 4, (n_genes, width)).astype(np.uint8)
    slots = np.arange(0, width - len(_MOTIF) + 1, len(_MOTIF))
    inside = slots[(slots >= start) & (slots + len(_MOTIF) <= stop)]
    outside = slots[(slots >= stop) | (slots + len(_MOTIF) <= start)]
    most = min(_MOST, len(inside))
    n_motifs = rng.integers(0, most + 1, n_genes)
    motif = encoded(_MOTIF)
    for row, n in enumerate(n_motifs):
        elsewhere = min(int(rng.integers(0, most + 1)), len(outside))
        places = [
            *rng.choice(inside, n, replace=False),
            *rng.choice(outside, elsewhere, replace=False),
        ]
        for place in places:
            sequence[row, place : place + len(_MOTIF)] = motif
    signals = rng.gamma(1.0, 0.2, (n_genes, width, 3)).astype(np.float32)
    decoy = (stop + start) // 2 + width // 2
    signals[:, start:stop, 0] += 2
    signals[:, decoy % width : decoy % width + (stop - start), 0] += 2
    level = (n_motifs - n_motifs.mean()) / max(n_motifs.std(), 1e-9)
    values = (level[:, None] + noise * rng.normal(size=(n_genes, n_conditions))).astype(np.float32)
    number = np.arange(n_genes)
    obs = pd.DataFrame(
        {
            Key.CHROM: [f"chr{1 + n % n_chromosomes}" for n in number],
            Key.TSS: 10_000 + 10 * width * (number // n_chromosomes),
            Key.STRAND: np.where(rng.random(n_genes) < 0.5, "+", "-"),
            "expr": values[:, 0].astype(np.float64),
            "n_motifs": n_motifs,
        },
        index=[f"G{n:04d}" for n in number],
    )
    adata = AnnData(values, obs=obs, var=pd.DataFrame(index=[f"condition_{n}" for n in range(n_conditions)]))
    adata.obsm[Key.SEQUENCE] = sequence
    adata.obsm[Key.SIGNALS] = signals
    adata.obsm[Key.SEQUENCE_FEATURES] = _windows(sequence, motif)
    adata.obsm[Key.GENE_FEATURES] = rng.normal(size=(n_genes, 9)).astype(np.float32)
    adata.uns["element"] = np.array([start, stop])
    say_genes(adata)
    return adata


def _windows(sequence: np.ndarray, motif: np.ndarray) -> np.ndarray:
    """Shares (n, 16, 5) of the bases and of the motif in windows along each sequence."""
    n, width = sequence.shape
    edges = np.linspace(0, width, _N_WINDOWS + 1).astype(int)
    views = np.lib.stride_tricks.sliding_window_view(sequence, len(motif), axis=1)
    hits = np.pad((views == motif).all(axis=2), ((0, 0), (0, len(motif) - 1)))
    marks = np.concatenate([sequence[..., None] == np.arange(4), hits[..., None]], axis=2)
    parts = [marks[:, a:b].mean(axis=1) for a, b in zip(edges[:-1], edges[1:], strict=True)]
    return np.stack(parts, axis=1).astype(np.float32)
