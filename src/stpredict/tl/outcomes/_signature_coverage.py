"""How much of a signature can be read from slides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._gene_sets import kinds_in_words
from stpredict.core._validate import few
from stpredict.tl.outcomes._signature_table import Signature, read_signature

if TYPE_CHECKING:
    import pandas as pd


def signature_coverage(
    table: pd.DataFrame,
    signature: Signature | pd.DataFrame | dict[str, float],
    *,
    gene_column: str | None = None,
    coefficient_column: str | None = None,
) -> pd.DataFrame:
    """Count the genes of a signature that are predicted, and predicted well, beside what chance would give.

    Parameters
    ----------
    table
        Table of :func:`stpredict.tl.well_predicted`.
    signature
        Genes with coefficients, as for :func:`stpredict.tl.risk_score`.
    gene_column, coefficient_column
        Columns of a table of coefficients, as there.

    Returns
    -------
    One row: `n_genes` of the signature, `n_predicted` of them in the table, `n_well_predicted`; `fraction` of all genes,
    and `weight_fraction` of the sum of absolute coefficients, that are well predicted; `expected` number of well-predicted
    genes if the signature's were any genes of the table, with `p` of as many or more by chance (hypergeometric); `genes`,
    the well-predicted ones, and `missing`, those that were not predicted, joined by `";"`.

    Raises
    ------
    KeyError
        When a column is missing.
    ValueError
        When no gene of the signature is in the table.
    TypeError
        When the signature is of another kind.

    Examples
    --------
    >>> import pandas as pd, stpredict as stp
    >>> table = pd.DataFrame({"gene": ["MKI67", "ESR1", "ACTB", "GAPDH"], "well_predicted": [True, False, False, True]})
    >>> found = stp.tl.signature_coverage(table, {"MKI67": 0.5, "ESR1": -1.0, "PGR": -0.5})
    >>> found[["n_genes", "n_predicted", "n_well_predicted", "weight_fraction"]].values.tolist()
    [[3.0, 2.0, 1.0, 0.25]]
    """
    import pandas as pd
    from scipy.stats import hypergeom

    absent = [name for name in ("gene", "well_predicted") if name not in table]
    if absent:
        raise KeyError(f"expected the table of stp.tl.well_predicted; found one without {few(absent)}")
    known = read_signature(signature, gene_column, coefficient_column)
    verdict = pd.Series(table["well_predicted"].astype(bool).to_numpy(), table["gene"].astype(str))
    there = [gene for gene in known.genes if gene in verdict.index]
    if not there:
        raise ValueError(
            f"expected genes of the signature in the table; found none in common ({few(known.genes, 3)}; {few(verdict.index, 3)})"
            f"{kinds_in_words(known.genes, verdict.index, 'signature')}; name genes the same way"
        )
    well = [gene for gene in there if verdict[gene]]
    weight = pd.Series(np.abs(known.coefficients), list(known.genes))
    n_table, n_good = len(verdict), int(verdict.sum())
    row: dict[str, Any] = {
        "n_genes": len(known.genes),
        "n_predicted": len(there),
        "n_well_predicted": len(well),
        "fraction": len(well) / len(known.genes),
        "weight_fraction": float(weight[well].sum() / weight.sum()) if weight.sum() > 0 else np.nan,
        "expected": len(there) * n_good / n_table,
        "p": float(hypergeom.sf(len(well) - 1, n_table, n_good, len(there))),
        "genes": ";".join(well),
        "missing": ";".join(gene for gene in known.genes if gene not in verdict.index),
    }
    return pd.DataFrame([row])
