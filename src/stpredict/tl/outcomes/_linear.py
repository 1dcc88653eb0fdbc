"""Linear models of an outcome with a ridge penalty: what any network on maps has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._constant import constant

if TYPE_CHECKING:
    from torch import Tensor

PENALTIES = tuple(10.0 ** np.arange(-3, 3))


class LinearOutcome:
    """Cox regression (ties by Breslow) or logistic regression with balanced classes, with a ridge penalty.

    Minimizes the mean loss, per event or per class, plus half the penalty times the squared coefficients of
    standardized columns.

    Parameters
    ----------
    x
        Covariates (n, d) of the training slides.
    time, event
        Follow-up (n,), for Cox regression.
    label
        Classes (n,) 0 or 1, for logistic regression.
    penalty
        Strength of the penalty.
    """

    def __init__(
        self,
        x: np.ndarray,
        *,
        time: np.ndarray | None = None,
        event: np.ndarray | None = None,
        label: np.ndarray | None = None,
        penalty: float,
    ) -> None:
        import torch

        x = np.asarray(x, dtype=np.float64)
        self.mean, std = x.mean(axis=0), x.std(axis=0)
        self.std = np.where(constant(std, self.mean), np.inf, std)
        # The penalty does not mind a rotation: no more unknowns than slides, however many columns there are.
        u, s, self.rotation = np.linalg.svd((x - self.mean) / self.std, full_matrices=False)
        scores = torch.from_numpy(u * s).float()
        target = [
            None if v is None else torch.from_numpy(np.asarray(v, dtype=np.float32)) for v in (time, event, label)
        ]
        weight = torch.zeros(scores.shape[1], requires_grad=True)
        bias = torch.zeros(1, requires_grad=True)
        optimizer = torch.optim.LBFGS([weight, bias], max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = outcome_loss(scores @ weight + bias, *target) + penalty / 2 * weight.square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            optimizer.step(closure)
        self.weight, self.bias = weight.detach().double().numpy(), float(bias.detach())

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Log risk, or logit, of slides (n, d) -> (n,)."""
        return ((np.asarray(x, dtype=np.float64) - self.mean) / self.std) @ self.rotation.T @ self.weight + self.bias

    @property
    def coefficients(self) -> np.ndarray:
        """Coefficients (d,) per unit of each column."""
        return self.rotation.T @ self.weight / self.std

    @property
    def intercept(self) -> float:
        """Log risk, or logit, where all columns are 0."""
        return self.bias - float(self.mean @ self.coefficients)


def outcome_loss(score: Tensor, time: Tensor | None, event: Tensor | None, label: Tensor | None) -> Tensor:
    """Cox loss, or cross-entropy in which both classes weigh the same."""
    import torch.nn.functional as F

    from stpredict.models.nn._cox import cox_loss

    if label is None:
        assert time is not None
        assert event is not None
        return cox_loss(score, time, event)
    losses = F.binary_cross_entropy_with_logits(score, label, reduction="none")
    weight = label / label.sum().clamp_min(1) + (1 - label) / (1 - label).sum().clamp_min(1)
    return (weight * losses).sum() / weight.sum()


def fit_linear_outcome(
    x: np.ndarray,
    folds: np.ndarray,
    *,
    time: np.ndarray | None = None,
    event: np.ndarray | None = None,
    label: np.ndarray | None = None,
    penalties: Sequence[float] = PENALTIES,
) -> LinearOutcome:
    """Fit with the penalty whose mean loss over inner folds (n,) is least."""
    import torch

    def part(rows: np.ndarray) -> dict[str, np.ndarray | None]:
        return {k: None if v is None else v[rows] for k, v in {"time": time, "event": event, "label": label}.items()}

    losses = np.zeros(len(penalties))
    for number in np.unique(folds):
        inside, outside = folds != number, folds == number
        target = [None if v is None else torch.from_numpy(np.asarray(v, np.float32)) for v in part(outside).values()]
        for i, penalty in enumerate(penalties):
            model = LinearOutcome(x[inside], **part(inside), penalty=penalty)
            losses[i] += float(outcome_loss(torch.from_numpy(model(x[outside])).float(), *target))
    return LinearOutcome(x, time=time, event=event, label=label, penalty=penalties[int(losses.argmin())])
