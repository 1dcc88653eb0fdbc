"""Checks of values with uniform messages: what was expected, what was found, what to call."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from stpredict.core._moments import row_slices


def few(names: Iterable[Any], limit: int = 5) -> str:
    names = [str(name) for name in names]
    return ", ".join(names[:limit]) + (f", … ({len(names)} in all)" if len(names) > limit else "")


def check_positive(value: float, name: str) -> float:
    """Raise `ValueError` unless `value` is a positive finite number."""
    if not isinstance(value, int | float | np.number) or not 0 < float(value) < float("inf"):
        raise ValueError(f"expected {name} to be a positive number; found {value!r}")
    return float(value)


def check_choice(value: str, choices: Sequence[str], name: str) -> str:
    """Raise `ValueError` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"expected {name} to be one of {', '.join(map(repr, choices))}; found {value!r}")
    return value


def check_unique(names: Iterable[Any], what: str) -> None:
    """Raise `ValueError` when a name occurs twice."""
    import pandas as pd

    index = pd.Index(names)
    if not index.is_unique:
        repeated = index[index.duplicated()].unique()
        raise ValueError(f"expected unique {what}; found {few(repeated)} more than once; make them unique first")


def check_finite(values: np.ndarray, what: str, call: str) -> None:
    """Raise `ValueError` when an array (n, d) holds NaN or infinity; name how many rows and the first."""
    found = [
        part.start + np.flatnonzero(~np.isfinite(values[part]).reshape(part.stop - part.start, -1).all(axis=1))
        for part in row_slices(len(values) if np.size(values) else 0)
    ]
    if (rows := np.concatenate([np.zeros(0, dtype=int), *found])).size:
        raise ValueError(
            f"expected finite {what}; found NaN or infinity in {len(rows)} rows (first: {rows[0]}); {call}"
        )


def check_counts(counts: Any, what: str = "counts") -> None:
    """Raise `ValueError` unless the matrix (dense or sparse) holds non-negative whole numbers."""
    from scipy import sparse

    values = counts.data if sparse.issparse(counts) else np.asarray(counts)
    if values.size == 0:
        return
    if not np.isfinite(values).all():
        raise ValueError(f"expected finite {what}; found NaN or infinity; drop or fill these observations first")
    if values.min() < 0:
        raise ValueError(f"expected non-negative {what}; found {values.min()}; pass raw counts (layers['counts'])")
    if values.dtype.kind == "f" and (values != np.round(values)).any():
        raise ValueError(
            f"expected whole-number {what}; found fractions (for example {values[values != np.round(values)][0]:g}); "
            "pass raw counts; expression that is normalized already goes into a layer (stp.tl.fit(adata, "
            "target=stp.targets.Expression(layer='mine'))) or comes in by stp.io.from_tables(…, normalized=True), and what is "
            "no expression into obs or obsm (target=stp.targets.Values(…))"
        )
