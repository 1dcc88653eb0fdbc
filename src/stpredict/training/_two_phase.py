"""The stopping rule that watches the loss first and the correlation afterwards."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class TwoPhaseRule:
    """Decide after every epoch whether to keep its weights and whether to stop, as published :cite:p:`pizurica2024`.

    An epoch with the lowest loss so far is kept. Once the loss has not improved for `patience` epochs, the loss keeps
    no epoch any more and the correlation does: an epoch is kept whose correlation is above that of all epochs before
    it, those of the first phase included, and above 0. From then on training ends when the correlation has not improved
    for `patience` epochs, or the loss has been at least `tolerance` above its lowest for as many.

    Both waits for a score are counted from the first epoch, and end training on the very epoch at which they reach
    `patience`: a correlation that has waited longer than that when the second phase begins ends it only after it has
    improved once more. The lowest loss goes on being updated in the second phase.
    """

    patience: int
    tolerance: float
    watches_loss: bool = True
    best_loss: float = float("inf")
    best_correlation: float = 0.0
    loss_waited: int = 0
    correlation_waited: int = 0
    too_high: int = 0

    def update(self, loss: float, correlation: float) -> tuple[bool, bool]:
        """Return whether to keep this epoch and whether to stop."""
        lower, higher = loss < self.best_loss, correlation > self.best_correlation
        keep = lower if self.watches_loss else higher
        if not self.watches_loss:
            self.too_high = 0 if loss < self.best_loss + self.tolerance else self.too_high + 1
        self.best_loss = loss if lower else self.best_loss
        self.best_correlation = correlation if higher else self.best_correlation
        self.loss_waited = 0 if lower else self.loss_waited + 1
        self.correlation_waited = 0 if higher else self.correlation_waited + 1
        self.watches_loss = self.watches_loss and self.loss_waited != self.patience
        stop = not self.watches_loss and self.patience in (self.correlation_waited, self.too_high)
        return keep, stop
