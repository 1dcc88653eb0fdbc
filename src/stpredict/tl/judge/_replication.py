"""In how many cohorts or slides each gene holds, beside what chance would give."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._compact import compact
from stpredict.core._validate import few
from stpredict.metrics._poisson_binomial import poisson_binomial_tail
from stpredict.slots._marks import Mark, mark_words, table_mark

if TYPE_CHECKING:
    import pandas as pd

_LISTED = 12  # cohorts whose names a gene lists


@dataclass(frozen=True, repr=False)
class Replication:
    """In how many of several cohorts or slides genes hold.

    Attributes
    ----------
    genes
        One row per gene, those that hold most often first: `gene`, `n_tested` (cohorts in which it was judged), `n_holds`,
        `expected` (the number by chance), `p` (P(as many or more)), `q` (false-discovery rate over genes) and, for up to 12
        cohorts, `holds_in`, their names joined by `";"`.
    counts
        One row per k from 1 on: `at_least` (k), `observed` number of genes that hold in at least k, `expected` by chance,
        `fold`, and `p`, P(as many genes or more).
    cohorts
        One row per cohort: `cohort`, `n_tested` genes, `n_holds` and `rate`, the share that holds.
    leaky
        Mark of all tables together: `True` where a model saw a patient that it is judged on.
    """

    genes: pd.DataFrame
    counts: pd.DataFrame
    cohorts: pd.DataFrame
    leaky: Mark

    def __repr__(self) -> str:
        """How many genes hold in how many cohorts, and how much else there is."""
        told = mark_words(self.leaky)
        return (
            f"Replication of {len(self.genes)} genes in {len(self.cohorts)} cohorts{f' ({told})' if told else ''}; counts:\n"
            f"{compact(self.counts, list(self.counts.columns))!r}"
        )


def replication(
    tables: pd.DataFrame | Mapping[str, pd.DataFrame],
    *,
    by: str | None = None,
    column: str = "well_predicted",
    above: float | None = None,
) -> Replication:
    """Count in how many cohorts or slides each gene holds, beside the number expected by chance.

    Where 40 % of all genes hold in each of five cohorts, 68 % hold in two or more *by chance*. The null is that each cohort
    has as many genes that hold, but which ones says nothing of the other cohorts. The number of cohorts in which a gene
    holds then is Poisson-binomial, with the rates of the cohorts in which it was judged; the overlap of two cohorts is
    hypergeometric.

    Genes that are easy everywhere, because they are highly expressed, replicate without anybody having learned anything of
    them. A low p-value says that it is the same genes; that they follow the tissue is said by the verdicts themselves.

    Parameters
    ----------
    tables
        Tables of :func:`stpredict.tl.well_predicted` by the name of the cohort, or one table that holds several, with `by`.
        For slides, that of :func:`stpredict.tl.evaluate` of *one* model, with `by="sample"`, a score and `above`.
    by
        Column of a single table with the name of the cohort or slide; known for a table with `groupby`.
    column
        What a gene is judged by: a column of verdicts, or of a score, with `above`.
    above
        Score above which a gene holds. Choose it before looking.

    Returns
    -------
    A :class:`Replication`; :func:`stpredict.pl.replication` draws it. A gene counts as judged in a cohort where its table
    has it, with a correlation or score that is defined.

    The p of the number of genes takes genes as independent. Genes of one pathway hold together, so that it is too small;
    `fold` is what to read. With two cohorts it is that of the hypergeometric distribution of the genes judged in
    both; otherwise binomial with the mean probability, which is exact for independent verdicts where all genes were judged
    everywhere, and otherwise too large, never too small, where more genes hold than expected :cite:p:`hoeffding1956`.

    Raises
    ------
    KeyError
        When a table lacks a column.
    TypeError
        When there is neither a table nor a mapping of tables, or verdicts are no booleans.
    ValueError
        When there are fewer than two cohorts, a gene is judged twice in one, or nothing is judged in a cohort.

    Examples
    --------
    >>> import numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> easy = np.arange(300) < 60
    >>> tables = {
    ...     name: pd.DataFrame(
    ...         {"gene": [f"G{i}" for i in range(300)], "well_predicted": easy & (rng.random(300) < 0.8)}
    ...     )
    ...     for name in ["TCGA", "CPTAC", "own"]
    ... }
    >>> found = stp.tl.replication(tables)
    >>> found.counts[["at_least", "observed", "expected"]].round(1).values.tolist()[-1]
    [3.0, 32.0, 1.4]
    """
    import pandas as pd

    from stpredict.metrics import benjamini_hochberg

    names, table, cohort = _joined(tables, by, column)
    genes, holds, tested = _verdicts(names, table, cohort, column, above)
    rate = holds.sum(axis=0) / tested.sum(axis=0)
    n_holds, n_tested = holds.sum(axis=1), tested.sum(axis=1)
    most = max(int(n_holds.max()), min(len(names), 2))
    tail = poisson_binomial_tail(rate, tested, most)
    found = pd.DataFrame({"gene": genes, "n_tested": n_tested, "n_holds": n_holds, "expected": tested @ rate})
    found["p"] = tail[np.arange(len(genes)), n_holds]
    found["q"] = benjamini_hochberg(found["p"].to_numpy())
    if len(names) <= _LISTED:
        labels = np.array(names, dtype=object)
        found["holds_in"] = [";".join(labels[row]) for row in holds]
    found = found.sort_values(["n_holds", "p"], ascending=[False, True], kind="stable", ignore_index=True)
    counts = _counts(holds, tested, tail)
    cohorts = pd.DataFrame(
        {"cohort": names, "n_tested": tested.sum(axis=0), "n_holds": holds.sum(axis=0), "rate": rate}
    )
    return Replication(found, counts, cohorts, table_mark(table))


def _counts(holds: np.ndarray, tested: np.ndarray, tail: np.ndarray) -> pd.DataFrame:
    """Genes that hold in at least k cohorts, observed and expected."""
    import pandas as pd
    from scipy.stats import binom, hypergeom

    n_holds = holds.sum(axis=1)
    at_least = np.arange(1, tail.shape[1])
    observed = (n_holds[:, None] >= at_least).sum(axis=0)
    expected = tail[:, 1:].sum(axis=0)
    p = binom.sf(observed - 1, len(holds), tail[:, 1:].mean(axis=0))
    if holds.shape[1] == 2:
        both = tested.all(axis=1)
        first, second = holds[both].sum(axis=0)
        expected[1] = first * second / both.sum() if both.any() else 0.0
        p[1] = hypergeom.sf(observed[1] - 1, both.sum(), first, second)
    table = pd.DataFrame({"at_least": at_least, "observed": observed, "expected": expected})
    table["fold"] = np.divide(observed, expected, out=np.full(len(expected), np.nan), where=expected > 0)
    table["p"] = p
    return table


def _joined(tables: Any, by: str | None, column: str) -> tuple[list[str], pd.DataFrame, np.ndarray]:
    """Names of the cohorts, one table of all, and the cohort of each row."""
    import pandas as pd

    if isinstance(tables, pd.DataFrame):
        by = by or tables.attrs.get("groupby")
        if by is None:
            raise ValueError(
                "expected `by=`, the column of the table that names the cohort or slide; found none; pass it, or a mapping from "
                "names to tables"
            )
        _check(tables, (by, "gene", column), "the table")
        if "model" in tables and by != "model" and tables["model"].nunique() > 1:
            raise ValueError(
                f"expected the scores of one model; found {few(tables['model'].unique())}; choose: "
                "table[table['model'] == …]"
            )
        cohort, labels = pd.factorize(tables[by])
        names, table = [str(name) for name in labels], tables
        if (cohort < 0).any():
            table, cohort = tables[cohort >= 0], cohort[cohort >= 0]
    elif isinstance(tables, Mapping):
        for name, part in tables.items():
            if not isinstance(part, pd.DataFrame):
                raise TypeError(f"expected a table for {name!r}; found {type(part).__name__}")
            _check(part, ("gene", column), f"the table of {name!r}")
        names = [str(name) for name in tables]
        # A mark that one of them has lost is unknown; a correlation that one of them lacks is not asked for.
        kept = [name for name in ("gene", column, "pearson") if all(name in part for part in tables.values())]
        parts = [part[list(dict.fromkeys(kept))].assign(leaky=table_mark(part)) for part in tables.values()]
        table = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()
        cohort = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    else:
        raise TypeError(f"expected a table, or a mapping from names to tables; found {type(tables).__name__}")
    if len(names) < 2:
        raise ValueError(f"expected at least two cohorts to compare; found {few(names) or 'none'}")
    return names, table, cohort


def _check(table: pd.DataFrame, columns: tuple[str, ...], name: str) -> None:
    missing = [column for column in columns if column not in table]
    if missing:
        raise KeyError(f"expected the columns {few(columns)} in {name}; found none called {few(missing)}")


def _verdicts(
    names: list[str], table: pd.DataFrame, cohort: np.ndarray, column: str, above: float | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All genes (n,), and whether each holds and was judged in each cohort (n, n_cohorts)."""
    import pandas as pd

    code, genes = pd.factorize(table["gene"])
    values = table[column]
    if above is None:
        if values.dtype != bool:
            raise TypeError(
                f"expected booleans in {column!r}; found {values.dtype}; pass `above=`, the score from which on a gene holds"
            )
        verdict = values.to_numpy()
        judged = table["pearson"].notna().to_numpy() if "pearson" in table else np.ones(len(values), dtype=bool)
    else:
        if not pd.api.types.is_numeric_dtype(values.dtype) or values.dtype == bool:
            raise TypeError(
                f"expected a score in {column!r} with `above=`; found {values.dtype}; name the column of one"
            )
        judged = values.notna().to_numpy()
        verdict = (values > above).to_numpy()
    there, holds, tested = np.zeros((3, len(genes), len(names)), dtype=bool)
    there[code, cohort] = True
    if there.sum() < len(code):
        raise ValueError(
            "expected one verdict for each gene and cohort; found several; average them, or take one model"
        )
    tested[code, cohort] = judged
    holds[code, cohort] = verdict & judged
    empty = [name for name, n in zip(names, tested.sum(axis=0), strict=True) if not n]
    if empty:
        raise ValueError(f"expected a gene that was judged in every cohort; found none in {few(empty)}; leave it out")
    keep = tested.any(axis=1)
    return np.asarray(genes).astype(str).astype(object)[keep], holds[keep], tested[keep]
