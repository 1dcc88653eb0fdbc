"""Cox regression of patients, unpenalized, by lifelines."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._optional import optional_import

if TYPE_CHECKING:
    import pandas as pd

_CONSTANT = 1e-6
COLUMNS = ("hazard_ratio", "low", "high", "p")


def cox_regression(
    x: pd.DataFrame, time: np.ndarray, event: np.ndarray, level: float
) -> tuple[pd.DataFrame, np.ndarray] | None:
    """Hazard ratio of each column of `x` (n, d) with its interval and Wald p, and the linear predictor (n,).

    Ties by Efron's method. `None` where there is no answer: a column is constant, or the fit does not converge, as where
    one orders all events.
    """
    import pandas as pd

    values = x.to_numpy(dtype=np.float64)
    spread = values.std(axis=0, ddof=1) if len(values) > 1 else np.zeros(values.shape[1])
    if not values.shape[1] or not (spread > _CONSTANT * np.abs(values).max(axis=0, initial=0.0)).all():
        return None
    lifelines = optional_import("lifelines", "survival")
    failed = optional_import("lifelines.exceptions", "survival").ConvergenceError
    frame = pd.DataFrame(values, columns=[f"x{number}" for number in range(values.shape[1])])
    frame["time"], frame["event"] = np.asarray(time, dtype=np.float64), np.asarray(event, dtype=np.float64)
    model = lifelines.CoxPHFitter(penalizer=0.0, alpha=1 - level)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            model.fit(frame, "time", "event")
        except failed:
            return None
    if any("onvergence" in type(item.message).__name__ for item in caught):
        return None
    bounds: Any = np.exp(model.confidence_intervals_.to_numpy())
    table = pd.DataFrame(
        {
            "hazard_ratio": model.hazard_ratios_.to_numpy(),
            "low": bounds[:, 0],
            "high": bounds[:, 1],
            "p": model.summary["p"].to_numpy(),
        },
        index=x.columns,
    )
    return table, values @ model.params_.to_numpy()


def constant_columns(frame: pd.DataFrame) -> list[str]:
    """Covariates that are the same in all patients: categories of which one is left, and numbers without spread."""
    return [str(name) for name in frame.columns if frame[name].nunique() < 2]


def coded(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[tuple[str, str]]]:
    """Covariates (n, d) as numbers: numbers as they are, categories against their first; and the name and level of each."""
    import pandas as pd

    from stpredict.slots._covariates import is_number

    columns: dict[str, np.ndarray] = {}
    terms: list[tuple[str, str]] = []
    for name in frame.columns:
        column = frame[name]
        if is_number(column):
            columns[str(name)] = column.to_numpy(dtype=np.float64, na_value=np.nan)
            terms.append((str(name), ""))
            continue
        text = (
            column.astype(object).where(column.notna(), None).map(lambda value: value if value is None else str(value))
        )
        levels = list(column.cat.categories.astype(str)) if isinstance(column.dtype, pd.CategoricalDtype) else []
        levels = [level for level in levels or sorted(set(text.dropna())) if (text == level).any()]
        for level in levels[1:]:
            columns[f"{name}={level}"] = np.where(text.isna(), np.nan, text == level).astype(np.float64)
            terms.append((str(name), f"{level} vs {levels[0]}"))
    return pd.DataFrame(columns, index=frame.index), terms
