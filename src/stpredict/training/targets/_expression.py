"""Expression of genes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._constant import constant
from stpredict.core._moments import column_moments, row_slices
from stpredict.metrics import pearson
from stpredict.metrics._dispersion import section_dispersions
from stpredict.metrics._rates import residual_gain
from stpredict.training.targets._target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from stpredict.models import Prediction


@dataclass(frozen=True)
class ExpressionTarget(Target):
    """Expression of a panel of genes, (n, n_genes) float32.

    Attributes
    ----------
    genes
        The panel.
    normalization
        Normalization of the values: the record of `uns["stpredict"]["normalize"]`, `{"method": "layer", "layer": …}`, or
        `{"method": "scanpy"}`.
    rates, depths
        Proportion of each gene in the counts of the training observations, and quantiles of their depths, where these are
        known: what a predicted value is worth follows from them.
    """

    genes: tuple[str, ...]
    normalization: Mapping[str, Any] = field(default_factory=dict)
    rates: tuple[float, ...] = ()
    depths: tuple[float, ...] = ()

    kind = "expression"
    quantities = True

    @property
    def names(self) -> list[str]:
        """Genes of the panel."""
        return list(self.genes)

    def start(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each gene; constant genes get 1."""
        return scales(values)

    def outputs(self, values: Tensor) -> Tensor:
        """The expression itself."""
        return values

    def lowest(self) -> np.ndarray | None:
        """Mean residual of each gene at a rate of 0, where the values are residuals whose depths are known."""
        if self.normalization.get("method") != "pearson_residuals" or not self.rates:
            return None
        gain = residual_gain(np.array(self.rates), np.array(self.depths), float(self.normalization["theta"]))
        return np.where(gain > 0, -gain, -np.inf)

    def loss(self, prediction: Prediction, values: Tensor, scale: Tensor) -> Tensor:
        """Squared error in units of each gene, or the likelihood where the network gives a spread."""
        return self.losses(prediction, values, scale).mean()

    def losses(self, prediction: Prediction, values: Tensor, scale: Tensor) -> Tensor:
        """The same of every value (n, n_genes)."""
        from stpredict.models.nn._heads import regression_losses

        return regression_losses(prediction, values, scale)

    def part(self, index: np.ndarray) -> ExpressionTarget:
        """The same unit, and some of the genes."""
        rates = tuple(self.rates[i] for i in index) if self.rates else ()
        return replace(self, genes=tuple(self.genes[i] for i in index), rates=rates)

    def variability(self, values: Any, section: np.ndarray) -> np.ndarray:
        """Normalized dispersion of logarithms :cite:p:`satija2015`, variance of anything else; mean over sections."""
        if self.normalization.get("method") == "pearson_residuals" or any_below(values, 0):
            return within_variance(values, section)
        return dispersion(values, section)

    def validate(self, mean: np.ndarray, values: np.ndarray, section: np.ndarray) -> float:
        """Mean over sections and genes of the correlation within a section; -1 where none is defined."""
        return mean_correlation(mean, values, section)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the genes."""
        counts = {"rates": list(self.rates), "depths": list(self.depths)} if self.rates else {}
        return {"kind": self.kind, "normalization": dict(self.normalization)} | counts

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: list[str]) -> ExpressionTarget:
        """Rebuild from the fields and the genes."""
        return cls(tuple(names), **{**fields, **{name: tuple(fields.get(name, ())) for name in ("rates", "depths")}})


def moments(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (d,) of columns (n, d), in float64; constant columns have an SD of 0."""
    mean, std = column_moments(values)
    std[constant(std, mean)] = 0.0
    return mean, std


def any_below(values: Any, least: float) -> bool:
    """Whether any value (n, d) is less than a number."""
    return any((values[rows] < least).any() for rows in row_slices(len(values)))


def within_variance(
    values: Any, section: np.ndarray, of: Callable[[np.ndarray], np.ndarray] | None = None
) -> np.ndarray:
    """Variance (d,) of columns (n, d), or of a function of them, within a section, mean over the sections."""
    parts = (values[np.flatnonzero(section == code)] for code in np.unique(section))
    return np.mean([(part if of is None else of(part)).var(axis=0, dtype=np.float64) for part in parts], axis=0)


def dispersion(values: Any, section: np.ndarray) -> np.ndarray:
    """Dispersion (d,) of logarithms (n, d) among genes of the same level, mean over the sections; -inf where undefined."""
    sections = (values[np.flatnonzero(section == code)] for code in np.unique(section))
    found = section_dispersions(sections, np.arange(values.shape[1]).astype(str))
    score = found["score"].fillna(0).to_numpy(dtype=np.float64)
    return np.where(np.isfinite(score), score, -np.inf)


def scales(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation (d,) of columns (n, d) to predict in units of; 1 for what does not vary."""
    mean, std = moments(values)
    return mean, np.where(std > 0, std, 1.0)


def mean_correlation(mean: np.ndarray, values: np.ndarray, section: np.ndarray) -> float:
    """Mean over sections and columns of Pearson's correlation within a section; -1 where none is defined."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # all columns constant: the mean of nothing
        scores = [pearson(values[section == c], mean[section == c]) for c in np.unique(section)]
        value = float(np.nanmean(np.concatenate(scores)))
    return value if value == value else -1.0
