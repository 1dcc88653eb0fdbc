"""Counts of genes: rates per count, with the depth of each observation as offset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._file_rows import columns_of
from stpredict.core._moments import row_slices
from stpredict.training.targets._expression import mean_correlation, within_variance
from stpredict.training.targets._target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from stpredict.models import Prediction
    from stpredict.training._facts import TrainingFacts

Family = Literal["negative_binomial", "poisson"]
_SPREAD = (0.1, 1.0)  # of log rates, in which networks predict
_LARGEST = 1.0  # rate
_THETA = 100.0  # of the residuals by which an epoch may be chosen


@dataclass(frozen=True)
class CountsTarget(Target):
    """Counts of a panel of genes and the depth behind them, (n, 2 n_genes) float32; the output is the log rate per count.

    The depth of a gene is the total of the observation, times the proportion of the gene in its section over that in
    training: rates are relative to the section, so that what tells sections apart is no part of the map.

    Attributes
    ----------
    genes
        The panel.
    rates
        Proportion of each gene in the counts of the training observations.
    theta
        Inverse dispersion of each gene; empty for Poisson.
    depths
        Quantiles of the depths of the training observations.
    size_factors
        Whose total the depth is: `"all"` genes, or those of a `"panel"`.
    """

    genes: tuple[str, ...]
    rates: tuple[float, ...]
    theta: tuple[float, ...] = ()
    depths: tuple[float, ...] = ()
    size_factors: str = "all"

    kind = "counts"
    quantities = True

    @property
    def names(self) -> list[str]:
        """Genes of the panel."""
        return list(self.genes)

    @property
    def normalization(self) -> dict[str, Any]:
        """The unit of predictions, rates per count, and the likelihood."""
        family = "negative_binomial" if self.theta else "poisson"
        return {"method": "rate", "family": family, "size_factors": self.size_factors}

    @property
    def linear(self) -> bool:
        """False: outputs are log rates."""
        return False

    def start(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log of the proportions, and the standard deviation of log rates, between 0.1 and 1, that the counts show."""
        n_genes = len(self.genes)
        counts, depth = (part.sum(axis=0) for part in _halves(np.stack(_sums(values)), n_genes))
        rate = np.maximum(counts, 0.5) / np.maximum(depth, 1.0)
        variation = _beyond_noise((_halves(block, n_genes) for block in _blocks(values)), rate)
        return np.log(rate), np.clip(np.sqrt(np.log1p(np.maximum(variation, 0))), *_SPREAD)

    def loss(self, prediction: Prediction, values: Tensor, scale: Tensor) -> Tensor:
        """Half the deviance, mean over observations and genes."""
        return self.losses(prediction, values, scale).mean()

    def losses(self, prediction: Prediction, values: Tensor, scale: Tensor) -> Tensor:
        """Half the deviance of every count (n, n_genes)."""
        from stpredict.models.nn._count_loss import count_deviance

        counts, depth, theta = self.parts(values)
        return count_deviance(counts, prediction.mean.float(), depth, theta) / 2

    def part(self, index: np.ndarray) -> CountsTarget:
        """Some of the genes; the depths stay what they are."""
        rates, theta = (tuple(values[i] for i in index) if values else () for values in (self.rates, self.theta))
        return replace(self, genes=tuple(self.genes[i] for i in index), rates=rates, theta=theta)

    def values_of(self, values: Any, index: np.ndarray) -> Any:
        """Counts and depths of some genes."""
        return columns_of(values, np.concatenate([index, len(self.genes) + np.asarray(index)]))

    def variability(self, values: Any, section: np.ndarray) -> np.ndarray:
        """Variance of Pearson residuals within sections, mean over the sections."""
        return within_variance(values, section, self._residuals)

    def parts(self, values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Counts and depths (n, n_genes), and inverse dispersion (n_genes,), of a batch."""
        import torch

        theta = torch.tensor(self.theta or [torch.inf] * len(self.genes), dtype=values.dtype, device=values.device)
        counts, depth = values.chunk(2, dim=1)
        return counts, depth, theta

    def outputs(self, values: Tensor) -> Tensor:
        r"""Log rates of each observation by itself, for networks that look up what was measured in others.

        :math:`\log p + \log\frac{x + 1}{n p + 1}`: the log proportion where there are few counts to say otherwise.
        """
        import torch

        counts, depth, _ = self.parts(values)
        rate = torch.tensor(self.rates, dtype=values.dtype, device=values.device).clamp_min(1e-12)
        return rate.log() + (counts + 1).log() - torch.log1p(depth * rate)

    def validate(self, mean: np.ndarray, values: np.ndarray, section: np.ndarray) -> float:
        """Mean over sections and genes of the correlation of rates with Pearson residuals; -1 where none is defined."""
        return mean_correlation(np.exp(np.minimum(mean, 0)), self._residuals(values), section)

    def linked(self, outputs: Tensor, facts: TrainingFacts) -> Tensor:
        """Rates of log rates: between 0 and 1."""
        # In double precision, so that equal outputs are equal rates wherever they stand.
        return outputs.double().clamp(max=0.0).exp().clamp(max=_LARGEST).to(outputs.dtype)

    def link_std(self, mean: np.ndarray, std: np.ndarray) -> None:
        """None: a standard deviation of log rates says nothing of counts."""

    def _residuals(self, values: np.ndarray) -> np.ndarray:
        """Pearson residuals (n, n_genes) from the training proportions."""
        counts, depth = np.split(values.astype(np.float64), 2, axis=1)
        expected = np.maximum(depth * np.array(self.rates), 1e-12)
        return (counts - expected) / np.sqrt(expected + expected**2 / _THETA)

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the genes."""
        return {
            "kind": self.kind,
            "rates": list(self.rates),
            "theta": list(self.theta),
            "depths": list(self.depths),
            "size_factors": self.size_factors,
        }

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: list[str]) -> CountsTarget:
        """Rebuild from the fields and the genes."""
        rates, theta = (tuple(map(float, fields[name])) for name in ("rates", "theta"))
        if len(rates) != len(names) or (theta and len(theta) != len(names)):
            raise TypeError(f"{len(rates)} rates and {len(theta)} dispersions for {len(names)} genes")
        return cls(tuple(names), rates, theta, tuple(map(float, fields["depths"])), str(fields["size_factors"]))


def _blocks(values: Any) -> Iterator[np.ndarray]:
    """Rows of values in double precision, a block at a time."""
    for part in row_slices(len(values)):
        yield np.asarray(values[part], dtype=np.float64)


def _sums(values: Any) -> list[np.ndarray]:
    return [block.sum(axis=0) for block in _blocks(values)]


def _halves(values: np.ndarray, n_genes: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts and depths of values (n, 2 n_genes)."""
    return values[:, :n_genes], values[:, n_genes:]


def _beyond_noise(blocks: Iterable[tuple[np.ndarray, np.ndarray]], rate: np.ndarray) -> np.ndarray:
    """Squared coefficient of variation (n_genes,) of rates beyond counting noise; below 0 where there is less than that."""
    squares, found = np.full_like(rate, 0.0), np.zeros_like(rate)
    for counts, depth in blocks:
        expected = depth * rate
        squares += (expected**2).sum(axis=0)
        found += ((counts - expected) ** 2 - counts).sum(axis=0)
    return np.asarray(found / np.maximum(squares, 1e-300))


def dispersions(counts: Any, depth: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Inverse dispersion (n_genes,) between 0.1 and 10,000 by the method of moments, tissue counted as dispersion.

    Of counts (n, n_genes) in memory or in a file, and depths (n, n_genes) or (n, 1).
    """
    blocks = zip(_blocks(counts), _blocks(depth), strict=True)
    return np.asarray(1 / np.clip(_beyond_noise(blocks, rate), 1e-4, 10.0))
