"""Counts of genes that have nothing to do with the tissue, at the depths that were measured."""

from __future__ import annotations

from typing import Any

import numpy as np

from stpredict.core._validate import check_counts

_DRAWS = 4_000_000  # counts drawn at a time


def null_counts(counts: Any, section: np.ndarray, rng: np.random.Generator | int = 0) -> Any:
    """Redraw counts so that every gene has one constant proportion within each section.

    Every count of an observation is given to a gene anew, with the proportions of the genes in its section. The depth of
    each observation stays exactly what it was, and so does, on average, the abundance of each gene in each section; what
    is left of a map is depth and counting noise. Given the depth, that is a Poisson draw. A score above 0 on such genes is
    what depth alone gives under a target and a score.

    Parameters
    ----------
    counts
        Raw counts of all genes `(n, n_genes)`, dense or sparse.
    section
        Section of each observation `(n,)`.
    rng
        Generator, or seed.

    Returns
    -------
    Counts of the same shape, of the same kind (CSR where they were sparse) and type.

    Raises
    ------
    ValueError
        When the matrix holds negative numbers, fractions or NaN, or there is not one section for each observation.

    Examples
    --------
    >>> import numpy as np, stpredict as stp
    >>> counts = np.array([[9, 1], [1, 9], [50, 50]])
    >>> redrawn = stp.datasets.null_counts(counts, np.zeros(3), rng=0)
    >>> redrawn.sum(axis=1).tolist()
    [10, 10, 100]
    """
    from scipy import sparse

    check_counts(counts)
    section = np.asarray(section)
    n_obs, n_genes = counts.shape
    if section.shape != (n_obs,):
        raise ValueError(f"expected one section for each of {n_obs} observations; found shape {section.shape}")
    rng = np.random.default_rng(rng)
    rows = sparse.csr_array(counts)
    depth = np.rint(np.asarray(rows.sum(axis=1, dtype=np.float64)).ravel()).astype(np.int64)
    parts, order = [], []
    for name in np.unique(section):
        members = np.flatnonzero(section == name)
        total = np.asarray(rows[members].sum(axis=0, dtype=np.float64)).ravel()
        upper = np.cumsum(total) / max(total.sum(), 1.0)
        last = (
            int(np.flatnonzero(total)[-1]) if total.any() else 0
        )  # rounding must not reach a gene that was never seen
        for block in _blocks(depth[members]):
            drawn = np.minimum(np.searchsorted(upper, rng.random(depth[members[block]].sum()), side="right"), last)
            row = np.repeat(np.arange(len(members[block])), depth[members[block]])
            ones = np.ones(len(drawn), dtype=np.float64)
            part = sparse.coo_array((ones, (row, drawn)), shape=(len(members[block]), n_genes)).tocsr()
            parts.append(part.astype(counts.dtype))
            order.append(members[block])
    if not parts:
        return counts.copy()
    redrawn = sparse.vstack(parts, format="csr")[np.argsort(np.concatenate(order))]
    if sparse.issparse(counts):
        return sparse.csr_array(redrawn) if isinstance(counts, sparse.sparray) else sparse.csr_matrix(redrawn)
    return redrawn.toarray()


def _blocks(depth: np.ndarray) -> list[slice]:
    """Consecutive observations with so many counts in all (one at least)."""
    number = np.cumsum(depth) // _DRAWS
    starts = np.unique(number, return_index=True)[1]
    return [slice(int(a), int(b)) for a, b in zip(starts, [*starts[1:], len(depth)], strict=True)]
