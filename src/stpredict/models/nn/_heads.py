"""The regression head and the losses, shared by every network that ends in one value (or a mean and a spread) per gene."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.base._batch import Prediction

_BETA = 0.5
_MIN_STD = 1e-2


class RegressionHead(nn.Module):
    """Linear map to the genes, in units of each gene's training mean and standard deviation.

    Parameters
    ----------
    n_inputs
        Width of the input.
    n_genes
        Number of genes.
    heteroscedastic
        Whether to give a standard deviation per observation and gene as well.
    zero_init
        Whether to start from the training mean (weights 0).
    """

    def __init__(self, n_inputs: int, n_genes: int, *, heteroscedastic: bool = False, zero_init: bool = True) -> None:
        super().__init__()
        self.mean = nn.Linear(n_inputs, n_genes)
        self.spread = nn.Linear(n_inputs, n_genes) if heteroscedastic else None
        if zero_init:
            nn.init.zeros_(self.mean.weight)
        nn.init.zeros_(self.mean.bias)
        if self.spread is not None:
            nn.init.zeros_(self.spread.weight)
            nn.init.constant_(self.spread.bias, 0.5413)  # softplus of it is 1: the spread of the training data

    def forward(self, hidden: Tensor, target_mean: Tensor, target_std: Tensor) -> Prediction:
        """Predict from (n, n_inputs)."""
        mean = target_mean + target_std * self.mean(hidden)
        if self.spread is None:
            return Prediction(mean)
        return Prediction(mean, std=target_std * (F.softplus(self.spread(hidden)) + _MIN_STD))


class QueryHead(nn.Module):
    """A linear map of the embedding of the picture, the same for all genes, that the embeddings of genes ask; and an offset each.

    Parameters
    ----------
    n_inputs, dim
        Width of the embedding of the picture, and of those of genes.
    n_genes
        Number of genes.
    """

    def __init__(self, n_inputs: int, dim: int, n_genes: int) -> None:
        super().__init__()
        self.map = nn.Linear(n_inputs, dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(n_genes))
        nn.init.zeros_(self.map.weight)

    def forward(self, image: Tensor, genes: Tensor) -> Tensor:
        """Predict (n, n_genes) from embeddings (n, n_inputs) and (n_genes, dim)."""
        return self.map(image) @ genes.T / genes.shape[1] ** 0.5 + self.bias


def regression_loss(prediction: Prediction, target: Tensor, scale: Tensor) -> Tensor:
    """Mean of :func:`regression_losses`."""
    return regression_losses(prediction, target, scale).mean()


def regression_losses(prediction: Prediction, target: Tensor, scale: Tensor) -> Tensor:
    """Squared error (n, n_genes) in units of `scale`, or the β-weighted Gaussian likelihood where there is a spread.

    The weight `std ** (2 β)` with β = 0.5, held constant, keeps badly fitted observations from being written off as
    noise :cite:p:`seitzer2022`.

    Parameters
    ----------
    prediction, target
        (n, n_genes) in the unit of the target.
    scale
        (n_genes,) standard deviation of each gene in training.
    """
    error = (prediction.mean - target) / scale
    if prediction.std is None:
        return error.square()
    std = prediction.std / scale
    likelihood = torch.log(std) + 0.5 * (error / std).square()
    return likelihood * std.detach().pow(2 * _BETA)


def classification_loss(logits: Tensor, label: Tensor) -> Tensor:
    """Cross-entropy, mean over the observations whose class is known.

    Parameters
    ----------
    logits
        (n, 1) of the second of two classes, or (n, n_classes).
    label
        (n,) int64, -1 where the class is not known.
    """
    known = label >= 0
    if logits.shape[1] == 1:
        losses = F.binary_cross_entropy_with_logits(logits[:, 0], label.clamp_min(0).to(logits.dtype), reduction="none")
    else:
        losses = F.cross_entropy(logits, label.clamp_min(0), reduction="none")
    return (losses * known).sum() / known.sum().clamp_min(1)


def class_probabilities(logits: Tensor) -> Tensor:
    """Probability of the second of two classes (n, 1), or of each class (n, n_classes)."""
    return torch.sigmoid(logits) if logits.shape[1] == 1 else torch.softmax(logits, dim=1)


def one_hot(label: Tensor, n_outputs: int) -> Tensor:
    """Classes as columns (n, n_outputs), of two classes the second; NaN where the class is not known."""
    columns = label[:, None] == torch.arange(n_outputs, device=label.device) + (n_outputs == 1)
    return columns.float().masked_fill(label[:, None] < 0, float("nan"))
