"""Values of observations: scores, fractions, proteins, and any other numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.training.targets._expression import mean_correlation, scales
from stpredict.training.targets._target import Target

if TYPE_CHECKING:
    from torch import Tensor

    from stpredict.models import Prediction
    from stpredict.training._facts import TrainingFacts

_LEAST = 1e-6  # of the largest mean: a column without a training value above 0 has a logarithm all the same


@dataclass(frozen=True)
class ValueTarget(Target):
    """Values, (n, n_values) float32, NaN where they are not known.

    Networks give any number; the link turns these into values of the range, and the loss compares values.

    Attributes
    ----------
    columns
        Names of the values.
    link
        `"identity"`, `"log"` (above 0), `"logit"` (each between 0 and 1) or `"softmax"` (between 0 and 1, rows sum to 1).
    center
        (n_values,) training means, in the unit of the values.
    units
        Unit of each value; empty where it has none.
    slot
        Where the values stand: `"obs"`, or a slot of `obsm`.
    """

    columns: tuple[str, ...]
    link_name: Literal["identity", "log", "logit", "softmax"]
    center: tuple[float, ...]
    units: tuple[str, ...]
    slot: str

    kind = "values"
    quantities = True

    @classmethod
    def of(
        cls, columns: tuple[str, ...], link: Any, values: np.ndarray, units: tuple[str, ...], slot: str
    ) -> ValueTarget:
        """Make one whose means are those of training values (n, n_values), kept off the ends of the range."""
        mean = values.mean(axis=0, dtype=np.float64)
        if link != "identity":
            mean = np.maximum(mean, _LEAST * max(mean.max(), _LEAST))
        if link == "logit":
            mean = np.clip(mean, _LEAST, 1 - _LEAST)
        if link == "softmax":
            mean = mean / mean.sum()
        return cls(columns, link, tuple(float(f"{value:.7g}") for value in mean), units, slot)

    @property
    def names(self) -> list[str]:
        """Names of the values."""
        return list(self.columns)

    @property
    def linear(self) -> bool:
        """Whether outputs are values."""
        return self.link_name == "identity"

    @property
    def separate(self) -> bool:
        """Whether values are no shares of a whole."""
        return self.link_name != "softmax"

    def start(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Outputs of the training mean, and the standard deviation of the outputs to aim at; 1 for constant ones."""
        if self.linear:
            return scales(values)
        import torch

        std = scales(self.outputs(torch.from_numpy(values)).numpy())[1]
        return self._link.inverse(self._mean(torch.ones(()).double())).numpy(), std

    def outputs(self, values: Tensor) -> Tensor:
        """Values on the scale of the outputs."""
        return values if self.linear else self._link.outputs(values, self._mean(values))

    def shift(self, outputs: Tensor) -> Tensor | None:
        """What to add to training outputs (n, n_values), so that the values have their training mean; often nothing."""
        return None if self.linear else self._link.shift(outputs, self._mean(outputs))

    def loss(self, prediction: Prediction, values: Tensor, scale: Tensor) -> Tensor:
        """Loss of the link; where the network gives a spread, the likelihood of the values."""
        from stpredict.models import Prediction
        from stpredict.models.nn._heads import regression_loss

        if self.linear:
            return regression_loss(prediction, values, scale)
        outputs, mean = prediction.mean.float(), self._mean(prediction.mean.float())
        if prediction.std is None:
            return self._link.loss(outputs, values, mean).mean()
        found = self._link.values(outputs)
        spread = prediction.std * self._link.slope(found)
        return regression_loss(Prediction(found, std=spread), values, scale * self._link.slope(mean))

    def validate(self, mean: np.ndarray, values: np.ndarray, section: np.ndarray) -> float:
        """Mean over sections and columns of the correlation of the values within a section; -1 where none is defined."""
        import torch

        return mean_correlation(self._values(torch.from_numpy(mean)).numpy(), values, section)

    def linked(self, outputs: Tensor, facts: TrainingFacts) -> Tensor:
        """Values of the outputs."""
        return self._values(outputs)

    def link_std(self, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Standard deviations of values, of those of the outputs and of their mean; to first order."""
        if self.linear:
            return std
        import torch

        return std * self._link.slope(self._values(torch.from_numpy(mean))).numpy()

    def to_dict(self) -> dict[str, Any]:
        """Return everything but the names."""
        return {
            "kind": self.kind, "link": self.link_name, "center": list(self.center), "units": list(self.units),
            "slot": self.slot,
        }  # fmt: skip

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any], names: list[str]) -> ValueTarget:
        """Rebuild from the fields and the names."""
        from stpredict.models.nn._links import LINKS

        if fields["link"] not in {"identity", *LINKS} or not len(fields["center"]) == len(fields["units"]) == len(
            names
        ):
            raise TypeError(f"a link, means and units of {len(names)} values that do not belong together")
        return cls(tuple(names), fields["link"], tuple(fields["center"]), tuple(fields["units"]), str(fields["slot"]))

    @property
    def _link(self) -> Any:
        from stpredict.models.nn._links import LINKS

        return LINKS[self.link_name]

    def _mean(self, like: Tensor) -> Tensor:
        return like.new_tensor(self.center)

    def _values(self, outputs: Tensor) -> Tensor:
        # In double precision: the last digit of a vector unit depends on the place in the array, and equal outputs would not
        # be equal values, of which a constant prediction would get a correlation.
        return outputs if self.linear else self._link.values(outputs.double()).float()
