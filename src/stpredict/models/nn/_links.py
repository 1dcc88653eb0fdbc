"""Links between the outputs of a network, which may be any number, and values that have a range."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor
from torch.nn import functional as F

#: What is added to values before a logarithm, in units of their training mean: zeros have none, and a smaller share
#: would make outliers of them. Chosen on made data with zeros between none and two thirds.
SHARE = 0.05
_ROUNDS = 100
_CLOSE = 1e-6


class Link(ABC):
    """One way between outputs (n, k) and values (n, k), both float; `mean` (k,) are the training means of the values."""

    @abstractmethod
    def values(self, outputs: Tensor) -> Tensor:
        """Values of outputs, always in range."""

    @abstractmethod
    def outputs(self, values: Tensor, mean: Tensor) -> Tensor:
        """Outputs to aim at in least squares; finite for all values in range, the ends among them."""

    @abstractmethod
    def slope(self, values: Tensor) -> Tensor:
        """Change of each value with its own output, by which standard deviations are carried over."""

    @abstractmethod
    def loss(self, outputs: Tensor, values: Tensor, mean: Tensor) -> Tensor:
        """Loss per value (n, k), lowest where the expected values are the true means."""

    @abstractmethod
    def inverse(self, values: Tensor) -> Tensor:
        """Outputs of values inside the range."""

    def shift(self, outputs: Tensor, mean: Tensor) -> Tensor:
        """What to add to all outputs (n, k), so that the mean of the values is `mean`: (k,).

        The mean of a logarithm is not the logarithm of the mean: what least squares find on the scale of the outputs is
        too low on that of the values :cite:p:`duan1983`.
        """
        shift = torch.zeros_like(mean)
        for _ in range(_ROUNDS):
            reached = self.values(outputs + shift).mean(dim=0)
            step = self.inverse(mean) - self.inverse(reached)
            shift = shift + step
            if float(step.abs().max()) < _CLOSE:
                break
        return shift


class Log(Link):
    """Values above 0. The loss is that of Poisson's distribution, in units of the mean; values need not be whole."""

    def values(self, outputs: Tensor) -> Tensor:
        """Exponential."""
        return outputs.exp()

    def outputs(self, values: Tensor, mean: Tensor) -> Tensor:
        """Logarithm, after a share of the mean was added."""
        return (values + SHARE * mean).log()

    def slope(self, values: Tensor) -> Tensor:
        """The value."""
        return values

    def loss(self, outputs: Tensor, values: Tensor, mean: Tensor) -> Tensor:
        """Half the deviance of Poisson's distribution."""
        return (torch.xlogy(values, values) - values * outputs - values + outputs.exp()) / mean

    def inverse(self, values: Tensor) -> Tensor:
        """Logarithm."""
        return values.log()


class Logit(Link):
    """Values between 0 and 1, each by itself."""

    def values(self, outputs: Tensor) -> Tensor:
        """Logistic function."""
        return outputs.sigmoid()

    def outputs(self, values: Tensor, mean: Tensor) -> Tensor:
        """Log odds, after a share of the mean was added to both sides."""
        least = SHARE * torch.minimum(mean, 1 - mean)
        return (values + least).log() - (1 - values + least).log()

    def slope(self, values: Tensor) -> Tensor:
        """Variance of a draw."""
        return values * (1 - values)

    def loss(self, outputs: Tensor, values: Tensor, mean: Tensor) -> Tensor:
        """Cross-entropy, less that of the values themselves."""
        entropy = torch.xlogy(values, values) + torch.xlogy(1 - values, 1 - values)
        return F.binary_cross_entropy_with_logits(outputs, values, reduction="none") + entropy

    def inverse(self, values: Tensor) -> Tensor:
        """Log odds."""
        return values.logit(eps=1e-9)


class Softmax(Link):
    """Values between 0 and 1 that sum to 1 in every row."""

    def values(self, outputs: Tensor) -> Tensor:
        """Softmax."""
        return outputs.softmax(dim=-1)

    def outputs(self, values: Tensor, mean: Tensor) -> Tensor:
        """Centered log ratios, after a share of the mean was added."""
        logs = (values + SHARE * mean).log()
        return logs - logs.mean(dim=-1, keepdim=True)

    def slope(self, values: Tensor) -> Tensor:
        """Variance of a draw."""
        return values * (1 - values)

    def loss(self, outputs: Tensor, values: Tensor, mean: Tensor) -> Tensor:
        """Cross-entropy, less that of the values themselves, times their number: the mean over values is that of rows."""
        lost = torch.xlogy(values, values) - values * outputs.log_softmax(dim=-1)
        return lost * values.shape[-1]

    def inverse(self, values: Tensor) -> Tensor:
        """Centered logarithms."""
        logs = values.clamp_min(1e-12).log()
        return logs - logs.mean(dim=-1, keepdim=True)


#: Links by name; `"identity"`, which has no range, is none of them.
LINKS: dict[str, Link] = {"log": Log(), "logit": Logit(), "softmax": Softmax()}
