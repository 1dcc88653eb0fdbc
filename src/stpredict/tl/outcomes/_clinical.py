"""Clinical covariates as numbers, and covariates that give the outcome away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._constant import constant
from stpredict.core._validate import few
from stpredict.slots._covariates import is_number, read_covariates

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_FEWEST = 10  # patients below which a perfect relation says little
_SAME_ORDER = 0.99  # rank correlation with the follow-up time above which a covariate is that time


class ClinicalEncoder:
    """Numbers standardized, categories as one column each; all of it learned from the training patients.

    A missing number becomes the training mean, a missing or unknown category belongs to none.

    Parameters
    ----------
    frame
        Covariates of the training slides.
    """

    def __init__(self, frame: pd.DataFrame) -> None:
        self.columns: list[str] = list(frame.columns)
        self.numeric: dict[str, tuple[float, float]] = {}
        self.categories: dict[str, list[str]] = {}
        for name in frame.columns:
            column = frame[name].dropna()
            if is_number(frame[name]):
                values = column.to_numpy(np.float64)
                mean, std = (float(values.mean()), float(values.std())) if len(values) else (0.0, 0.0)
                self.numeric[name] = mean, 0.0 if constant(std, mean) else std  # 0: it contributes nothing
            else:
                self.categories[name] = sorted(column.astype(str).unique())

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a configuration file."""
        return {
            "columns": list(self.columns),
            "numeric": {name: list(scale) for name, scale in self.numeric.items()},
            "categories": {name: list(levels) for name, levels in self.categories.items()},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ClinicalEncoder:
        """Return the encoder that :meth:`to_dict` described."""
        encoder = cls.__new__(cls)
        encoder.columns = list(values["columns"])
        encoder.numeric = {name: (mean, std) for name, (mean, std) in values["numeric"].items()}
        encoder.categories = {name: list(levels) for name, levels in values["categories"].items()}
        return encoder

    def read(self, adata: AnnData) -> np.ndarray:
        """Covariates (n_obs, n_columns) float32 of other patients; an error where these are coded otherwise."""
        frame = read_covariates(adata, self.columns, f"the outcome model reads {few(self.columns)}")
        for name in self.columns:
            column = frame[name]
            if name in self.numeric and not is_number(column):
                raise ValueError(
                    f"expected numbers in obs[{name!r}], as in the training cohort; found {column.dtype}; convert them"
                )
            levels = self.categories.get(str(name))
            unknown = [] if levels is None else sorted(set(column.dropna().astype(str)) - set(levels))
            if unknown:
                raise ValueError(
                    f"expected the categories of the training cohort in obs[{name!r}], {few(levels or ())}; found "
                    f"{few(unknown)}; recode them, or set them to missing"
                )
        return self(frame)

    def __call__(self, frame: pd.DataFrame) -> np.ndarray:
        """Covariates (n, n_columns) float32."""
        columns = []
        for name in self.columns:
            if name in self.numeric:
                mean, std = self.numeric[name]
                values = frame[name].to_numpy(np.float64, na_value=np.nan)
                columns.append(np.nan_to_num((values - mean) / (std or np.inf)))
            else:
                text = (
                    frame[name]
                    .astype(object)
                    .where(frame[name].notna(), None)
                    .map(lambda v: v if v is None else str(v))
                )
                columns += [np.asarray(text == level, dtype=np.float64) for level in self.categories[name]]
        return np.stack(columns, axis=1).astype(np.float32) if columns else np.zeros((len(frame), 0), np.float32)


def check_leaks(
    frame: pd.DataFrame, keys: Sequence[str], binary: Mapping[str, np.ndarray], time: Mapping[str, np.ndarray]
) -> None:
    """Raise when a covariate is an outcome column, or determines one over the patients.

    Parameters
    ----------
    frame
        Covariates, one row per patient.
    keys
        Columns of the outcome.
    binary, time
        Outcomes (n_patients,) of two values and in time, by name.
    """
    named = [name for name in frame.columns if name in keys]
    if named:
        raise ValueError(
            f"expected covariates that are known before the outcome; found {few(named)} of the outcome itself among "
            "`clinical`"
        )
    for name in frame.columns:
        given = [key for key, y in binary.items() if _determines(frame[name], y.astype(bool))]
        given += [key for key, t in time.items() if _orders(frame[name], t)]
        if given:
            raise ValueError(
                f"expected covariates that are known before the outcome; found obs[{name!r}], which determines "
                f"obs[{given[0]!r}] of all {len(frame)} patients; leave it out, or pass allow_leakage=True and have every "
                "score marked as leaky"
            )


def _determines(column: pd.Series, y: np.ndarray) -> bool:
    """Whether a covariate, or its being missing, tells the two values of an outcome apart without error."""
    import pandas as pd

    known = column.notna().to_numpy()
    if len(y) < _FEWEST or y.all() or not y.any():
        return False
    if (known == y).all() or (known == ~y).all():
        return True
    column, y = column[known], y[known]
    if len(y) < _FEWEST or y.all() or not y.any():
        return False
    if is_number(column) and column.nunique() > 2:
        values = column.to_numpy(np.float64)
        return bool(values[y].min() > values[~y].max() or values[~y].min() > values[y].max())
    counts = pd.crosstab(column.astype(str).to_numpy(), y)
    return len(counts) <= len(y) / 3 and bool(((counts > 0).sum(axis=1) == 1).all())


def _orders(column: pd.Series, time: np.ndarray) -> bool:
    """Whether a covariate puts patients into the order of their times, or into bins of them."""
    from scipy.stats import spearmanr

    known = column.notna().to_numpy()
    column, time = column[known], time[known]
    if len(time) < _FEWEST or column.nunique() < 2:
        return False
    if is_number(column) and column.nunique() > len(time) / 3:
        return bool(abs(spearmanr(column.to_numpy(np.float64), time).statistic) > _SAME_ORDER)
    text = column.astype(str)
    if text.nunique() > len(time) / 3 or text.value_counts().min() < 3:
        return False
    ordered = text.to_numpy()[np.argsort(time, kind="stable")]
    return int((ordered[1:] != ordered[:-1]).sum()) == text.nunique() - 1
