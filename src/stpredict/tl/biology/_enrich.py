"""Over-representation of gene sets among genes, with a background that is stated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._compact import compact
from stpredict.core._gene_sets import GeneSets, Membership, identifier_kind, membership, read_gene_sets
from stpredict.core._validate import check_choice, check_finite, few
from stpredict.metrics._over_representation import over_representation
from stpredict.metrics._welch import welch
from stpredict.slots._checks import check_obs
from stpredict.slots._container import get_table, is_spatialdata
from stpredict.slots._expression import in_tissue, measured_rows, to_dense
from stpredict.slots._keys import Key
from stpredict.slots._prediction import prediction_names
from stpredict.tl.biology._domains import expression_matrix

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container

ANNOTATED = "annotated"

_SHOWN = ("list", "term", "hits", "size", "expected", "fold", "q", "genes")


def enrich(
    data: Container | Iterable[str] | Mapping[str, Iterable[str]] | pd.DataFrame,
    gene_sets: GeneSets,
    *,
    background: Iterable[str] | Literal["annotated"] | None = None,
    groupby: str | None = None,
    control: bool = True,
    use: Literal["predicted", "measured"] = "predicted",
    key: str = Key.PREDICTED,
    layer: str | None = None,
    n_top: int | None = 100,
    alpha: float = 0.05,
    min_size: int = 5,
    max_size: int = 500,
    merge: float = 0.5,
    organism: str = "human",
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Test which gene sets are over-represented among genes: lists, well-predicted genes, or markers of domains.

    The test is hypergeometric: n genes of the list are drawn from the N of the background, K of which are in the set.
    The answer depends on the background more than on anything else. Genes that could not have come into the list, as
    those that no model predicted, must not be in it: a panel of immune genes is "enriched" for immune pathways against
    the genome, whatever was predicted. It is therefore stated by the caller, or known from `data`.

    Parameters
    ----------
    data
        What holds the genes:

        - names of genes, or a mapping from the name of a list to its genes;
        - the table of :func:`stpredict.tl.well_predicted`: its well-predicted genes against all genes of the table, beside
          its worst ones (`control`); with groups, those of each group;
        - AnnData or SpatialData with `groupby`: markers of each group against all genes that were compared.
    gene_sets
        Genes of each set: a mapping, a GMT file, or the name of a library of Enrichr, which gseapy fetches.
    background
        All genes that could have been in a list. `"annotated"` takes the genes of all sets, as clusterProfiler does,
        and leaves out those of the lists that are in none. Needed for lists; known for tables and groups.
    groupby
        Column of a table with groups, known for that of :func:`stpredict.tl.well_predicted`; or column of `obs`, for example
        `"domain"`. Markers of a group are higher in it than in all other
        observations with a label, by Welch's t at the false-discovery rate `alpha`. Observations are spots that
        resemble their neighbors, so that nearly all genes may differ; `n_top` keeps lists short.
    control
        Whether a table of :func:`stpredict.tl.well_predicted` gives a second list, `"badly predicted"`: as many genes as are
        well predicted, those of the others with the lowest correlation. What is over-represented in both says nothing of
        the prediction.
    use
        Expression to find markers by: `"predicted"` for `obsm[key]`, `"measured"` for the measured expression.
    key
        Slot of the prediction in `obsm`. With `use="measured"` it only supplies the genes, where there is one.
    layer
        Layer with the measured values; `X` by default.
    n_top
        Largest number of markers per group, those with the largest t; no limit when `None`.
    alpha
        False-discovery rate of markers, and of the terms that are merged for display.
    min_size, max_size
        Smallest and largest size of the gene sets to test, counted within the background.
    merge
        Terms of a list with q < `alpha` are represented by a more significant one that shares at least this part of
        the genes they hit (Jaccard index). It changes no p-value; figures draw representatives.
    organism
        Organism of a library of Enrichr.
    table_key
        Table of a SpatialData.

    Returns
    -------
    One row per list and set, by p within each list; nothing is written to `data`:

    - `list`, `term`;
    - `hits` of the `n_genes` of the list, `size` of the set within the background, `expected` hits by chance and
      `fold` (hits over expected);
    - `p`, P(as many hits or more), and `q`, the false-discovery rate over the sets of the list;
    - `genes` that are hit, joined by `";"`;
    - `representative`: the term that stands for this one, itself where it stands for itself; missing where q ≥ `alpha`;
      and `stands_for`, the number of other terms that this one stands for.

    `attrs` has `n_background`, `background` (what it is), `n_terms` (tested) and `n_given` sets, and `n_left_out`, genes
    of lists that are in no set, with `background="annotated"`.

    Raises
    ------
    KeyError
        When a column, the prediction or the measurement is missing.
    ValueError
        When there is no background, a list is empty or has genes outside of it, a group has fewer than two
        observations, or no gene set fits; the message says which kind of names either side seems to have.
    TypeError
        When gene sets or lists are of another kind.
    FileNotFoundError
        When there is no GMT file at the path.
    ConnectionError
        When a library cannot be fetched.

    Examples
    --------
    >>> import stpredict as stp
    >>> background = [f"G{i}" for i in range(100)]
    >>> sets = {"first": background[:10], "last": background[-10:]}
    >>> table = stp.tl.enrich(background[:8], sets, background=background)
    >>> table[["term", "hits", "size", "n_genes", "fold"]].values.tolist()
    [['first', 8, 10, 8, 10.0], ['last', 0, 10, 8, 0.0]]
    """
    check_choice(use, ("predicted", "measured"), "use")
    for value, name in ((alpha, "alpha"), (merge, "merge")):
        if not 0 < value <= 1:
            raise ValueError(f"expected {name} above 0 and at most 1; found {value!r}")
    if n_top is not None and n_top < 1:
        raise ValueError(f"expected n_top to be at least 1; found {n_top}")
    lists, known, what = _lists(data, groupby, control, use, key, layer, n_top, alpha, table_key)
    left_out = 0
    if known is None:
        known, what, lists, left_out = _stated(lists, background, gene_sets, organism)
    elif background is not None:
        raise ValueError(
            f"expected no `background=`, which is known: {what}; found one; leave it out, or pass lists of genes"
        )
    sets = membership(gene_sets, known, min_size, max_size, organism=organism)
    table = _table(lists, known, sets, alpha, merge)
    table.attrs = {
        "n_background": len(known),
        "background": what,
        "n_terms": len(sets.terms),
        "n_given": sets.n_given,
        "n_left_out": left_out,
    }
    return compact(table, _SHOWN, move=False)


def _lists(
    data: Any,
    groupby: str | None,
    control: bool,
    use: Any,
    key: str,
    layer: str | None,
    n_top: int | None,
    alpha: float,
    table_key: str,
) -> tuple[dict[str, list[str]], list[str] | None, str]:
    """Genes of each list, and the background where it is known, with what it is."""
    import pandas as pd
    from anndata import AnnData

    if isinstance(data, AnnData) or is_spatialdata(data):
        if groupby is None:
            raise ValueError(
                "expected `groupby=`, the column of obs whose groups have markers, for example 'domain'; found none; run "
                "stp.tl.domains first, or pass a list of genes"
            )
        adata = get_table(data, table_key, groupby)
        lists, genes = markers(adata, groupby, use=use, key=key, layer=layer, n_top=n_top, alpha=alpha)
        return lists, genes, f"genes with {use} expression"
    if isinstance(data, pd.DataFrame):
        missing = [name for name in ("gene", "well_predicted") if name not in data]
        if missing:
            raise KeyError(
                f"expected the table of stp.tl.well_predicted; found one without {few(missing)}; pass the genes as a list"
            )
        genes = list(dict.fromkeys(data["gene"].astype(str)))
        return _judged(data, groupby, control), genes, "genes of the table"
    if groupby is not None:
        raise ValueError("expected AnnData, SpatialData or a table with `groupby=`; found genes; leave it out")
    if isinstance(data, str) or not isinstance(data, Iterable):
        raise TypeError(f"expected genes, lists of genes, a table or AnnData; found {type(data).__name__}")
    given = data if isinstance(data, Mapping) else {"genes": data}
    for name, members in given.items():
        if isinstance(members, str) or not isinstance(members, Iterable):
            raise TypeError(f"expected the genes of {name!r} as a list; found {type(members).__name__}")
    return {str(name): list(dict.fromkeys(map(str, members))) for name, members in given.items()}, None, ""


def _judged(table: pd.DataFrame, groupby: str | None, control: bool) -> dict[str, list[str]]:
    """Well-predicted genes of a table, of each of its groups, and as many of the worst of the others."""
    by = groupby or table.attrs.get("groupby")
    if by is not None and by not in table:
        raise KeyError(f"expected a column {by!r} with the groups; found {few(table.columns, 10)}")
    if table.duplicated(["gene"] if by is None else [by, "gene"]).any():
        raise ValueError(
            "expected each gene of the table once; found some in several rows; pass one table at a time, or name "
            "the column with its groups: `groupby=`"
        )
    if control and "pearson" not in table:
        raise KeyError(
            "expected the column pearson, by which the worst genes are found; found none; pass control=False"
        )
    lists = {}
    for label, part in [("", table)] if by is None else table.groupby(by, sort=False, observed=True):
        end = f", {label}" if by is not None else ""
        chosen = part["well_predicted"].astype(bool).to_numpy()
        lists[f"well predicted{end}"] = part.loc[chosen, "gene"].astype(str).tolist()
        if control:
            # Genes without a correlation are constant: they are not predicted badly, there is nothing to predict.
            rest = part[~chosen & part["pearson"].notna().to_numpy()].sort_values("pearson", kind="stable")
            lists[f"badly predicted{end}"] = rest["gene"].astype(str).tolist()[: int(chosen.sum())]
    return lists


def markers(
    adata: AnnData,
    groupby: str,
    *,
    use: Literal["predicted", "measured"],
    key: str,
    layer: str | None,
    n_top: int | None,
    alpha: float,
) -> tuple[dict[str, list[str]], list[str]]:
    """Genes that are higher in each group than in the others, by descending t, and all genes that were compared."""
    import pandas as pd

    from stpredict.metrics import benjamini_hochberg

    check_obs(adata, groupby, "run stp.tl.domains, or name the column with the groups")
    predicted = prediction_names(adata, key) if use == "measured" and key in adata.obsm else None
    genes: list[str] | None
    if predicted is not None:
        genes = [str(name) for name in predicted if name in adata.var_names]
    else:
        genes = None if use == "predicted" else [str(name) for name in adata.var_names]
    matrix, names = expression_matrix(adata, key, use, genes, layer)
    column = adata.obs[groupby]
    labeled = column.notna().to_numpy() & in_tissue(adata)
    if use == "measured":
        labeled &= measured_rows(adata, matrix)
    rows = np.flatnonzero(labeled)
    values = to_dense(matrix[rows]).astype(np.float64)
    there = ~np.isnan(values).all(axis=1)
    rows, values = rows[there], values[there]
    check_finite(values, f"{use} expression", "leave out observations or genes without it")
    text = column.astype(object).iloc[rows].astype(str)
    ordered = column.cat.categories.astype(str) if isinstance(column.dtype, pd.CategoricalDtype) else sorted(set(text))
    labels = [name for name in ordered if name in set(text)]  # of categories, in their order
    code = pd.Categorical(text, labels).codes
    size = np.bincount(code, minlength=len(labels)) if len(labels) else np.zeros(0, int)
    if len(labels) < 2 or size.min() < 2 or len(rows) - size.max() < 2:
        told = few(f"{name}: {n}" for name, n in zip(labels, size, strict=True))
        raise ValueError(
            f"expected two or more groups in obs[{groupby!r}] of at least two observations on tissue; found {told or 'none'}"
        )
    _, t, p = welch(values, (code == np.arange(len(labels))[:, None]).astype(int))
    found = {}
    for name, t_one, p_one in zip(labels, t, p, strict=True):
        q = benjamini_hochberg(p_one)
        chosen = np.flatnonzero((q < alpha) & (t_one > 0))
        chosen = chosen[np.argsort(-t_one[chosen], kind="stable")][:n_top]
        found[str(name)] = [names[i] for i in chosen]
    return found, list(names)


def _stated(
    lists: dict[str, list[str]], background: Any, gene_sets: GeneSets, organism: str
) -> tuple[list[str], str, dict[str, list[str]], int]:
    """The background that the caller stated, and the lists within it."""
    if background is None:
        raise ValueError(
            "expected `background=`, all genes that could have been in the lists, for example those that were predicted; found "
            "none; the genes of all sets are background='annotated'"
        )
    named = dict.fromkeys(gene for genes in lists.values() for gene in genes)
    if isinstance(background, str):
        check_choice(background, (ANNOTATED,), "background")
        known = list(dict.fromkeys(gene for genes in read_gene_sets(gene_sets, organism).values() for gene in genes))
        inside = set(known)
        kept = {name: [gene for gene in genes if gene in inside] for name, genes in lists.items()}
        for name, genes in lists.items():
            if genes and not kept[name]:
                raise ValueError(
                    f"expected genes of {name!r} among those of the sets; found none in common: they seem to be "
                    f"{identifier_kind(genes)} ({few(genes, 2)}), those of the sets {identifier_kind(known)} ({few(known, 2)}); "
                    "name genes the same way"
                )
        return known, "genes of all sets", kept, len(named) - len(set(named) & inside)
    known = list(dict.fromkeys(str(gene) for gene in background))
    outside = sorted(set(named) - set(known))
    if outside:
        raise ValueError(
            f"expected every gene of the lists in the background of {len(known)} genes; found {few(outside)} outside it "
            f"({identifier_kind(named)} in the lists, {identifier_kind(known)} in the background); correct either"
        )
    return known, "as passed", lists, 0


def _table(lists: dict[str, list[str]], known: list[str], sets: Membership, alpha: float, merge: float) -> pd.DataFrame:
    """All lists against all sets."""
    import pandas as pd

    from stpredict.metrics import benjamini_hochberg

    if not lists or not any(lists.values()):
        raise ValueError(f"expected genes in at least one list; found none in {few(lists) or 'no list'}")
    index = pd.Index(known)
    names = np.array(known, dtype=object)
    chosen = np.zeros((len(lists), len(known)))
    for row, genes in enumerate(lists.values()):
        chosen[row, index.get_indexer(pd.Index(genes, dtype=object))] = 1
    hits, p = over_representation(sets.member, chosen)
    tables = []
    for row, label in enumerate(lists):
        n_genes = int(chosen[row].sum())
        expected = n_genes * sets.size / len(known)
        hit = (sets.member * chosen[row]).tocsr()
        hit.eliminate_zeros()
        part = pd.DataFrame(
            {"list": label, "term": sets.terms, "hits": hits[row], "size": sets.size, "n_genes": n_genes}
        )
        part["expected"] = expected
        part["fold"] = hits[row] / expected if n_genes else np.nan
        part["p"], part["q"] = p[row], benjamini_hochberg(p[row])
        part["genes"] = [
            ";".join(names[hit.indices[start:stop]])
            for start, stop in zip(hit.indptr[:-1], hit.indptr[1:], strict=True)
        ]
        part["representative"] = represented(hit, p[row], part["q"].to_numpy() < alpha, sets.terms, merge)
        part["stands_for"] = part["term"].map(part["representative"].value_counts()).fillna(1).astype(int) - 1
        tables.append(part.sort_values(["p", "term"], kind="stable"))
    return pd.concat(tables, ignore_index=True)


def represented(hit: Any, p: np.ndarray, significant: np.ndarray, terms: list[str], merge: float) -> list[str | None]:
    """The term that stands for each (n_terms,): the most significant one that hits nearly the same genes."""
    rows = np.flatnonzero(significant)
    rows = rows[np.argsort(p[rows], kind="stable")]
    shared = (hit[rows] @ hit[rows].T).toarray()
    size = shared.diagonal()
    union = size[:, None] + size[None] - shared
    alike = shared >= merge * np.maximum(union, 1)
    found: list[str | None] = [None] * len(terms)
    free = np.ones(len(rows), dtype=bool)
    for i, row in enumerate(rows):
        if free[i]:
            taken = np.flatnonzero(free & alike[i])
            free[taken] = free[i] = False
            for j in {i, *taken.tolist()}:
                found[rows[j]] = terms[row]
    return found
