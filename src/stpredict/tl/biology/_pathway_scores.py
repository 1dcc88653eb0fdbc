"""A score per observation and gene set, from predicted or measured expression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from stpredict.core._aliases import renamed
from stpredict.core._gene_sets import GeneSets, Membership, membership, read_gene_sets
from stpredict.core._validate import check_choice, check_finite, check_positive
from stpredict.slots._container import begin
from stpredict.slots._expression import measured_rows, to_dense
from stpredict.slots._keys import Key, check_key
from stpredict.slots._provenance import write_record
from stpredict.tl.biology._domains import expression_matrix
from stpredict.tl.biology._ensembl import ensembl_aliases
from stpredict.tl.biology._set_scores import (
    METHODS,
    Method,
    check_memory,
    expression_bins,
    gseapy_score,
    linear_score,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container

_BLOCK = 2**24  # values held at a time
Aliases: TypeAlias = "Mapping[str, str] | Literal['ensembl'] | None"


def pathway_scores(
    data: Container,
    gene_sets: GeneSets,
    *,
    method: Method = "mean",
    use: Literal["predicted", "measured"] = "predicted",
    key: str = Key.PREDICTED,
    layer: str | None = None,
    aliases: Aliases = None,
    min_size: int = 5,
    max_size: int = 500,
    max_gb: float = 8.0,
    organism: str = "human",
    key_added: str | None = None,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Score gene sets in every observation: spots, tiles, cells or slides.

    `"mean"` is the mean of the genes of the set less that of genes of similar expression, as
    :cite:t:`tirosh2016` score programmes. All other genes of a gene's bin of expression are its controls, instead of some
    drawn ones, so that the score is a linear map of the genes: the same of an observation in any company, and quick for
    any number of observations. `"gsva"` :cite:p:`hanzelmann2013` and `"ssgsea"` :cite:p:`barbie2009` are those of gseapy,
    for slides. They rank the genes within each observation; GSVA compares each gene with the other observations first,
    and so depends on which these are, and ssGSEA is normalized by its range over all observations and sets.

    Parameters
    ----------
    data
        AnnData or SpatialData with predicted, or measured and normalized, expression.
    gene_sets
        Genes of each set: a mapping, a GMT file, or the name of a library of Enrichr, which gseapy fetches.
    method
        `"mean"`, `"gsva"` or `"ssgsea"`.
    use
        Expression to score: `"predicted"` for `obsm[key]`, `"measured"` for the measured expression.
    key
        Slot of the prediction in `obsm`. With `use="measured"` it supplies the genes, where there is one, so that both scores
        are of the same genes; delete it, or name a slot that is not there, to use all variables.
    layer
        Layer with the measured values; `X` by default.
    aliases
        Present symbol of genes that have had others, `{"KIAA0101": "PCLAF"}`: what the sets call otherwise than the data is
        found under the other name. `"ensembl"` takes the synonyms in the table of hgfind (extra `cnv`; human). No gene is
        replaced where that would be ambiguous, or by one that the sets name themselves.
    min_size, max_size
        Smallest and largest size of the gene sets, counted within the genes at hand.
    max_gb
        Memory in GB that `"gsva"` and `"ssgsea"` may take. Their time grows with the square of the number of observations.
    organism
        Organism of a library of Enrichr.
    key_added
        Slot of the scores; `"pathways"`, or `"pathways_measured"` with `use="measured"`, when `None`.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obsm[key_added]`: scores (n_obs, n_sets) float32, in the unit of the expression for `"mean"`; NaN for observations
      without expression,
    - `uns["{key_added}_names"]`: the sets, in the order of the columns. With them, `stp.tl.fit(adata, target=key_added)`
      learns the scores,
    - `uns["stpredict"][key_added]`: parameters, the size of each set within the genes at hand, and with `aliases` what was
      `renamed` (`"KIAA0101: PCLAF"`) and `not_renamed` (with the reason).

    Raises
    ------
    KeyError
        When the prediction or the measurement is missing.
    ValueError
        When no gene set fits the genes at hand, the message says which kind of names either side seems to have; when
        values are not finite.
    MemoryError
        When `"gsva"` or `"ssgsea"` would take more than `max_gb`.
    TypeError
        When gene sets are of another kind, or `data` is neither AnnData nor SpatialData.
    FileNotFoundError
        When there is no GMT file at the path.
    ConnectionError
        When a library cannot be fetched.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 40, n_spots=60)
    >>> stp.pp.normalize(adata)
    >>> sets = {"first": adata.var_names[:10], "last": adata.var_names[-10:]}
    >>> stp.tl.pathway_scores(adata, sets, use="measured")
    >>> adata.obsm["pathways_measured"].shape, adata.uns["pathways_measured_names"].tolist()
    ((60, 2), ['first', 'last'])
    """
    check_choice(method, METHODS, "method")
    check_choice(use, ("predicted", "measured"), "use")
    check_positive(max_gb, "max_gb")
    key_added = key_added or ("pathways" if use == "predicted" else "pathways_measured")
    check_key(key_added)
    container, adata = begin(data, copy, table_key, *([key] if use == "predicted" else []))
    matrix, genes = expression_matrix(adata, key, use, genes_to_score(adata, key, use), layer)
    gene_sets, told = with_aliases(gene_sets, genes, aliases, organism)
    sets = membership(gene_sets, genes, min_size, max_size, what=f"genes with {use} expression", organism=organism)
    there = ~np.isnan(matrix).all(axis=1) if use == "predicted" else measured_rows(adata, matrix)
    rows = np.flatnonzero(there)
    if not len(rows):
        raise ValueError(f"expected {use} expression of at least one observation; found none")
    check_memory(method, len(rows), len(genes), sets.size, max_gb)
    scores = np.full((adata.n_obs, len(sets.terms)), np.nan, dtype=np.float32)
    scores[rows] = score_rows(matrix, rows, sets, method, expression_level(adata, matrix, genes, rows))
    adata.obsm[key_added] = scores
    adata.uns[f"{key_added}_names"] = np.array(sets.terms)
    record = {
        "method": method,
        "use": use,
        "key": key if use == "predicted" else None,
        "layer": layer,
        "n_genes": len(genes),
        "min_size": min_size,
        "max_size": max_size,
        "sizes": sets.size,
        **told,
    }
    write_record(adata, key_added, record)
    return container if copy else None


def with_aliases(
    gene_sets: GeneSets, genes: list[str], aliases: Aliases, organism: str = "human"
) -> tuple[GeneSets, dict[str, list[str]]]:
    """Gene sets under the names of the data, and what a record says of it; as they are without aliases."""
    if aliases is None:
        return gene_sets, {}
    if isinstance(aliases, str):
        check_choice(aliases, ("ensembl",), "aliases")
        aliases = ensembl_aliases()
    elif not isinstance(aliases, Mapping):
        raise TypeError(
            f"expected aliases as a mapping from symbol to symbol, or 'ensembl'; found {type(aliases).__name__}"
        )
    sets, found, refused = renamed(read_gene_sets(gene_sets, organism), genes, aliases)
    told = {"renamed": found, "not_renamed": refused}
    return sets, {name: [f"{old}: {what}" for old, what in pairs.items()] for name, pairs in told.items()}


def score_rows(matrix: Any, rows: np.ndarray, sets: Membership, method: Method, level: np.ndarray) -> np.ndarray:
    """Scores (n, n_terms) of some rows of a matrix, dense or sparse."""
    if method != "mean":
        values = to_dense(matrix[rows]).astype(np.float64)
        check_finite(values, "expression", "leave out observations or genes without it")
        return gseapy_score(values, sets.member, method)
    score = linear_score(sets.member, expression_bins(level))
    step = max(1, _BLOCK // matrix.shape[1])
    parts = []
    for start in range(0, len(rows), step):
        values = to_dense(matrix[rows[start : start + step]]).astype(np.float64)
        check_finite(values, "expression", "leave out observations or genes without it")
        parts.append(score(values))
    return np.concatenate(parts)


def expression_level(adata: AnnData, matrix: Any, genes: list[str], rows: np.ndarray) -> np.ndarray:
    """Mean expression (n_genes,) by which controls are alike: of counts where there are any, else of the values at hand.

    Residuals have a mean of about 0 for every gene, which says nothing of its expression.
    """
    if Key.COUNTS in adata.layers and set(genes) <= set(adata.var_names):
        matrix, columns = adata.layers[Key.COUNTS], adata.var_names.get_indexer(genes)
        total = np.asarray(matrix[rows].sum(axis=0), dtype=np.float64).ravel()[columns]
        if np.isfinite(total).all():
            return np.asarray(total / len(rows))
    return np.asarray(matrix[rows].mean(axis=0), dtype=np.float64).ravel()


def genes_to_score(adata: AnnData, key: str, use: str) -> list[str] | None:
    """Measured genes to score: those that were predicted, where there is a prediction; `None` leaves the choice."""
    from stpredict.slots._prediction import prediction_names

    if use == "predicted":
        return None
    names = prediction_names(adata, key) if key in adata.obsm else None
    if names is None:
        return [str(name) for name in adata.var_names]
    return [str(name) for name in names if name in adata.var_names]
