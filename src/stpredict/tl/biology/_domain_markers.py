"""Genes that mark each domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from stpredict.core._validate import check_choice, check_finite
from stpredict.slots._checks import check_obs
from stpredict.slots._container import get_table
from stpredict.slots._expression import in_tissue, measured_rows, to_dense
from stpredict.slots._keys import Key
from stpredict.tl.biology._domains import expression_matrix

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.slots._container import Container


def domain_markers(
    data: Container,
    groupby: str = Key.DOMAIN,
    *,
    use: Literal["predicted", "measured"] = "predicted",
    key: str = Key.PREDICTED,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    method: Literal["t-test", "wilcoxon"] = "t-test",
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Compare each domain with all others, gene by gene, on predicted or measured expression.

    scanpy's `rank_genes_groups` makes the comparison. Domains that were found in the same values differ in them by construction:
    `p` and `q` rank genes and prove nothing. Find domains in the prediction and take `use="measured"` to see what is
    there for certain, on patients that the model has not seen.

    Parameters
    ----------
    data
        AnnData or SpatialData with domains and expression.
    groupby
        Column of `obs` with the domains, or any other groups.
    use
        Expression to compare: `"predicted"` for `obsm[key]`, `"measured"` for the measured expression.
    key
        Slot of the prediction in `obsm`. With `use="measured"` it only supplies the genes, where there is one.
    genes, layer
        As in :func:`stpredict.tl.domains`.
    method
        `"t-test"` (Welch) or `"wilcoxon"` (rank sums, slower).
    table_key
        Table of a SpatialData.

    Returns
    -------
    One row per domain and gene, the best marker of a domain first; nothing is written to `data`:

    - `domain`, `gene`, `rank` (from 1);
    - `difference` of the means, in the unit of the expression: `mean` in the domain and `mean_rest` in all others;
    - `effect`, the difference in standard deviations over all observations;
    - `score` of the test, `p`, and `q`, the false-discovery rate over the genes of the domain;
    - `n`, observations of the domain.

    Observations without a domain, beyond the tissue, or (with `use="measured"`) without a measurement are left out.

    Raises
    ------
    KeyError
        When the domains, the prediction or a gene are missing.
    ValueError
        When there are fewer than two domains with two observations each, or values are not finite.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> adata = ad.AnnData(
    ...     np.zeros((40, 0)), obs=pd.DataFrame({"domain": list("ab") * 20}, index=[f"o{i}" for i in range(40)])
    ... )
    >>> values = rng.normal(0, 1, (40, 3)) + np.where(adata.obs["domain"] == "a", 3, 0)[:, None] * [1, 0, 0]
    >>> adata.obsm["predicted"] = pd.DataFrame(values, adata.obs_names, ["KRT8", "VIM", "CD3E"])
    >>> table = stp.tl.domain_markers(adata)
    >>> table.loc[table["rank"] == 1, ["domain", "gene"]].values.tolist()[0]
    ['a', 'KRT8']
    """
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    from stpredict.core._table import compact

    check_choice(use, ("predicted", "measured"), "use")
    check_choice(method, ("t-test", "wilcoxon"), "method")
    adata = get_table(data, table_key)
    check_obs(adata, groupby, "run stp.tl.domains(adata), or name another column with `groupby=`")
    matrix, names = expression_matrix(adata, key, use, genes, layer)
    column = adata.obs[groupby]
    text = column.astype(str).str.strip()
    kept = (column.notna() & (text != "") & (text.str.lower() != "undetermined")).to_numpy() & in_tissue(adata)
    if use == "measured":
        kept &= measured_rows(adata, matrix)
    values = to_dense(matrix[kept]).astype(np.float32)
    check_finite(values, f"{use} expression", "leave out observations without it: adata[mask]")
    categories = [str(name).strip() for name in column.cat.categories] if hasattr(column, "cat") else sorted(set(text))
    group = pd.Categorical(text[kept], [name for name in dict.fromkeys(categories) if name in set(text[kept])])
    size = group.value_counts()
    if len(size) < 2 or size.min() < 2:
        raise ValueError(
            f"expected at least two domains with two observations each in obs[{groupby!r}]; found {dict(size)}; merge small ones: "
            "stp.tl.domains(adata, min_size=…)"
        )
    holder = AnnData(
        values, obs=pd.DataFrame({"group": group}, index=adata.obs_names[kept]), var=pd.DataFrame(index=names)
    )
    codes = group.codes.astype(np.int64)
    member = csr_matrix((np.ones(len(codes)), (codes, np.arange(len(codes)))), shape=(len(size), len(codes)))
    total, n = member @ values, np.bincount(codes)
    mean, rest = total / n[:, None], (total.sum(axis=0) - total) / (len(values) - n)[:, None]
    spread = values.std(axis=0, dtype=np.float64)
    found = _compared(holder, method)
    tables = []
    for row, name in enumerate(group.categories):
        ranked = pd.DataFrame({"gene": found["names"][name], "score": found["scores"][name], "p": found["pvals"][name], "q": found["pvals_adj"][name]})  # fmt: skip
        at = holder.var_names.get_indexer(ranked["gene"])
        ranked["mean"], ranked["mean_rest"] = mean[row, at], rest[row, at]
        ranked["difference"] = ranked["mean"] - ranked["mean_rest"]
        ranked["effect"] = ranked["difference"] / np.where(spread[at] > 0, spread[at], np.nan)
        # A gene that is the same everywhere has no score, and comes last.
        ranked = ranked.sort_values("score", ascending=False, kind="stable", na_position="last", ignore_index=True)
        tables.append(ranked.assign(domain=str(name), rank=np.arange(1, len(ranked) + 1), n=int(n[row])))
    table = compact(
        pd.concat(tables, ignore_index=True), ["domain", "rank", "gene", "difference", "effect", "score", "q"]
    )
    table.attrs |= {"groupby": groupby, "use": use, "key": key, "method": method}
    return table


def _compared(holder: object, method: str) -> dict[str, np.ndarray]:
    """What scanpy stores, without its fold changes, which are those of logarithms of counts and of nothing else."""
    import warnings

    import scanpy as sc

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "invalid value encountered", RuntimeWarning)  # fold changes of residuals
        warnings.filterwarnings("ignore", "divide by zero encountered", RuntimeWarning)
        warnings.filterwarnings("ignore", "overflow encountered", RuntimeWarning)
        sc.tl.rank_genes_groups(holder, "group", method=method, use_raw=False)
    return dict(holder.uns["rank_genes_groups"])  # type: ignore[attr-defined]
