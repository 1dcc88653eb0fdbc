"""A signature: genes with coefficients, and how a risk is made of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_unique, few

if TYPE_CHECKING:
    import pandas as pd

_GENES = ("gene", "symbol", "HUGO.gene.symbol")
_COEFFICIENTS = ("coefficient", "weight")


@dataclass(frozen=True, repr=False)
class Signature:
    """Genes with coefficients, as :func:`stpredict.tl.signature` fits them.

    The risk is the sum over genes of the coefficient times the expression, standardized by `mean` and `std`.

    Attributes
    ----------
    genes
        Names.
    coefficients
        (n_genes,) per standard deviation.
    mean, std
        (n_genes,) statistics of the patients trained on; `None` for published coefficients.
    cutoff
        Median risk of the patients trained on, above which a risk is high; `None` where nobody fitted it.
    patients
        Who was trained on; `"unknown"` for published signatures.
    path
        Of a fitted one, a row per penalty: `penalty`, `deviance` over folds and its standard `error`, `n_genes`, and which
        row is `"min"`, `"1se"` (column `is`).
    facts
        How it was fitted.
    """

    genes: tuple[str, ...]
    coefficients: np.ndarray
    mean: np.ndarray | None = None
    std: np.ndarray | None = None
    cutoff: float | None = None
    patients: tuple[str, ...] = ("unknown",)
    path: Any = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __repr__(self) -> str:
        """Its size, and the strongest genes."""
        order = np.argsort(-np.abs(self.coefficients), kind="stable")[:5]
        strongest = ", ".join(f"{self.genes[i]} {self.coefficients[i]:+.2f}" for i in order)
        return f"Signature of {len(self.genes)} genes ({strongest}{', …' if len(self.genes) > 5 else ''})"

    def to_frame(self) -> pd.DataFrame:
        """One row per gene: `gene`, `coefficient` and, where it was fitted, `mean` and `std`."""
        import pandas as pd

        table = pd.DataFrame({"gene": list(self.genes), "coefficient": self.coefficients})
        if self.mean is not None and self.std is not None:
            table["mean"], table["std"] = self.mean, self.std
        return table.sort_values("coefficient", key=np.abs, ascending=False, kind="stable", ignore_index=True)


def read_signature(signature: Any, gene_column: str | None = None, coefficient_column: str | None = None) -> Signature:
    """A signature as it is, or made of a mapping or a table of genes and coefficients.

    A table with the columns `mean` and `std`, as :meth:`Signature.to_frame` makes it, keeps its scale. Genes without a coefficient are left out: in tables of assays these are reference genes.
    """
    import pandas as pd

    if isinstance(signature, Signature):
        return signature
    names: Any
    if isinstance(signature, Mapping):
        values = pd.Series(dict(signature), dtype=np.float64)
        names, weights = values.index.to_numpy(dtype=object), values.to_numpy()
    elif isinstance(signature, pd.DataFrame):
        listed = _column(signature, gene_column, _GENES, "gene_column", "genes")
        column = _column(signature, coefficient_column, _COEFFICIENTS, "coefficient_column", "coefficients")
        weights = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64)
        names = listed.astype(object).where(listed.notna(), None).to_numpy()
    else:
        raise TypeError(
            f"expected a signature of stp.tl.signature, a mapping or a table of genes and coefficients; found {type(signature).__name__}"
        )
    scale: dict[str, np.ndarray] = {}
    if isinstance(signature, pd.DataFrame) and {"mean", "std"} <= set(signature.columns):
        scale = {name: signature[name].to_numpy(dtype=np.float64) for name in ("mean", "std")}
    known = np.array([name is not None and str(name) != "" for name in names]) & np.isfinite(weights)
    genes = [str(name) for name in np.asarray(names, dtype=object)[known]]
    if not genes:
        raise ValueError("expected at least one gene with a coefficient; found none")
    check_unique(genes, "genes in the signature, one coefficient each,")
    return Signature(tuple(genes), weights[known], **{name: values[known] for name, values in scale.items()})


def _column(table: pd.DataFrame, name: str | None, usual: tuple[str, ...], option: str, what: str) -> pd.Series:
    if name is not None:
        if name not in table:
            raise KeyError(
                f"expected a column {name!r} with the {what} of the signature; found {few(table.columns, 10)}"
            )
        return table[name]
    found = [column for column in usual if column in table]
    if len(found) != 1:
        raise KeyError(
            f"expected one column of {', '.join(usual)} with the {what} of the signature; found {few(table.columns, 10)}; name it with "
            f"`{option}=`"
        )
    return table[found[0]]
