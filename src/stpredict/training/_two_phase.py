"""The stopping rule that watches the loss first and the correlation afterwards."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TwoPhaseRule:
    """Decide after every epoch whether to keep its weights and whether to stop.

    While the loss is watched, an epoch with the lowest loss so far is kept. When the loss has not improved for
    `patience` epochs, the correlation is watched: an epoch is kept whose correlation is above that of the epoch kept
    last. It ends when the correlation has not improved, or the loss has been at least `tolerance` above its lowest, for
    `patience` epochs in a row.
    """

    patience: int
    tolerance: float
    watches_loss: bool = True
    best_loss: float = float("inf")
    best_correlation: float = float("-inf")
    waited: int = 0
    too_high: int = 0

    def update(self, loss: float, correlation: float) -> tuple[bool, bool]:
        """Return whether to keep this epoch and whether to stop."""
        if self.watches_loss:
            keep = loss < self.best_loss
            if keep:
                self.best_loss, self.best_correlation, self.waited = loss, correlation, 0
            else:
                self.waited += 1
                if self.waited >= self.patience:
                    self.watches_loss, self.waited = False, 0
            return keep, False
        keep = correlation > self.best_correlation
        if keep:
            self.best_correlation = correlation
        self.waited = 0 if keep else self.waited + 1
        self.too_high = self.too_high + 1 if loss >= self.best_loss + self.tolerance else 0
        return keep, max(self.waited, self.too_high) >= self.patience
