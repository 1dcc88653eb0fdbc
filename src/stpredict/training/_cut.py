"""Learning how many auxiliary genes help: a cut in their ranking, moved by what it does to the primary genes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import nn
from torch.func import functional_call

from stpredict.core._device import seed_torch
from stpredict.training._data import ArraySet
from stpredict.training._gene_weights import Weighted, soft_mask
from stpredict.training._loader import loader_for

if TYPE_CHECKING:
    from torch import Tensor

    from stpredict.models import Batch, Predictor, Stage
    from stpredict.training._config import TrainConfig

_BETAS, _EPSILON = (0.9, 0.999), 1e-12  # of Adam, whose steps then do not depend on the size of a loss
_ROUNDING = 16.0  # units of the last place of what the steps change the loss by
_MARGIN = 4.0  # temperatures that the cut may lie beyond the first or the last gene: there it changes nothing any more
_SHIFT = 0.02  # of the cut, to both sides, in the difference that stands for its derivative


class CutTuner(pl.Callback):
    """Move the cut before every epoch but the first, on pairs of a training and a tuning batch.

    For each pair a copy of the network takes `config.cut_steps` steps of Adam on the training batch with the weights of
    the cut; the derivative of its loss of the primary genes of the tuning batch moves the cut, by a step of Adam too:
    the scale of a loss differs between networks and targets, and the length of a step must not.

    The derivative is the slope of that loss between two copies whose cuts lie `0.02` to both sides, or that of the steps
    themselves, which are kept in memory for it. Each pair starts from the network as it is: the network moves on in its
    own training alone, and no draw of this one changes the draws of that one.

    Parameters
    ----------
    config
        Settings.
    train, tuning
        Rows to take steps on, and rows to judge them by; the target of the first is `weighted`.
    weighted
        Target of the training rows, whose weights follow the cut.
    stage
        Stage of the network.
    seed
        Random seed.
    device
        Device to work on.
    """

    def __init__(
        self,
        config: TrainConfig,
        train: ArraySet,
        tuning: ArraySet,
        weighted: Weighted,
        *,
        stage: Stage,
        seed: int,
        device: torch.device,
    ) -> None:
        self.config, self.train, self.tuning, self.weighted = config, train, tuning, weighted
        self.stage, self.seed, self.device = stage, seed, device
        self.state: dict[str, float] = {"cut": config.cut_start, "mean": 0.0, "square": 0.0, "steps": 0}
        self._show()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run goes on from."""
        return dict(self.state)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from where a run was stopped."""
        self.state = dict(state_dict)
        self._show()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Move the cut, and write it into the history."""
        if trainer.current_epoch > 0:
            devices = [self.device] if self.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices):
                self.move(pl_module.network, trainer.current_epoch)
        pl_module.notes["cut"] = self.state["cut"]

    def move(self, network: Predictor, epoch: int) -> None:
        """Take the pairs of an epoch."""
        derivative = self._unrolled(network) if self.config.cut_gradient == "unrolled" else self._difference(network)
        sides = [self._batches(network, data, epoch) for data in (self.train, self.tuning)]
        for number, (batch, other) in enumerate(islice(zip(*sides, strict=False), self.config.cut_pairs)):
            seed = self.seed * 100_003 + 1_009 * epoch + number
            self._step(derivative(batch.to(self.device), other.to(self.device), seed))
            self._show()

    def _batches(self, network: Predictor, data: ArraySet, epoch: int) -> Iterator[Batch]:
        loader = loader_for(network, data, self.config.batch_size, shuffle=True, seed=self.seed + 7_919)
        loader.epoch = epoch
        return cycle(loader) if len(loader) == 1 else (batch for _ in iter(int, 1) for batch in loader)

    def _step(self, derivative: float) -> None:
        """One step of Adam, held where it means something."""
        state, margin = self.state, _MARGIN * self.config.mask_temperature
        if not np.isfinite(derivative):
            return
        state["steps"] += 1
        state["mean"] = _BETAS[0] * state["mean"] + (1 - _BETAS[0]) * derivative
        state["square"] = _BETAS[1] * state["square"] + (1 - _BETAS[1]) * derivative**2
        mean = state["mean"] / (1 - _BETAS[0] ** state["steps"])
        size = (state["square"] / (1 - _BETAS[1] ** state["steps"])) ** 0.5
        moved = state["cut"] - self.config.cut_learning_rate * mean / (size + 1e-12)
        state["cut"] = float(np.clip(moved, -margin, 1 + margin))

    def _show(self) -> None:
        """Give the training loss the weights of the cut."""
        self.weighted.weight = self._weight(torch.tensor(self.state["cut"])).to(self.device)

    def _weight(self, cut: Tensor) -> Tensor:
        n_primary = self.weighted.n_primary
        n_auxiliary = len(self.weighted.base.names) - n_primary
        return soft_mask(cut, n_primary, n_auxiliary, self.config.mask_temperature)

    def _trains(self, name: str, parameter: Tensor) -> bool:
        return parameter.requires_grad and name.startswith(self.stage.trains)

    def _difference(self, network: Predictor) -> Callable[[Batch, Batch, int], float]:
        """Slope of the loss along the way from one copy to the other, over the difference of their cuts.

        At small learning rates the losses themselves differ by less than they are rounded to, and so do the weights: what
        the steps add to them is kept apart.
        """
        shadow = copy.deepcopy(network)
        start = {name: tensor.detach().clone() for name, tensor in network.state_dict().items()}
        trained = {name: p for name, p in shadow.named_parameters() if self._trains(name, p)}

        def slope(loss: Tensor) -> dict[str, Tensor]:
            found = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
            return {name: each for name, each in zip(trained, found, strict=True) if each is not None}

        def place(added: dict[str, Tensor]) -> None:
            shadow.load_state_dict(start)
            with torch.no_grad():
                for name, each in added.items():
                    trained[name].add_(each)

        def way(batch: Batch, seed: int, shift: float) -> dict[str, Tensor]:
            self.weighted.weight = self._weight(torch.tensor(self.state["cut"] + shift)).to(self.device)
            seed_torch(seed)
            shadow.train()
            adam = _Adam(self.config.learning_rate)
            added: dict[str, Tensor] = {}
            for _ in range(self.config.cut_steps):
                place(added)
                for name, step in adam.steps(slope(shadow.step(batch, self.stage)["total"])).items():
                    added[name] = added[name] + step if name in added else step
            return added

        def derivative(batch: Batch, other: Batch, seed: int) -> float:
            above, below = (way(batch, seed, shift) for shift in (_SHIFT, -_SHIFT))
            place({name: (above[name] + below[name]) / 2 for name in above})
            shadow.eval()
            found = slope(shadow.step(other, self.stage)["total"])
            steps = [(found[name], above[name], below[name]) for name in found if name in above]
            apart = sum(float((each * (up - down)).sum()) for each, up, down in steps)
            whole = sum(float((each * up).abs().sum()) for each, up, _ in steps)
            # The step of the cut does not see how small a derivative is, and would follow what is rounding.
            rounding = _ROUNDING * max((torch.finfo(up.dtype).eps for _, up, _ in steps), default=0.0)
            return apart / (2 * _SHIFT) if abs(apart) > rounding * whole else 0.0

        return derivative

    def _unrolled(self, network: Predictor) -> Callable[[Batch, Batch, int], float]:
        """Derivative of the loss through the steps."""
        stepper = _Stepper(copy.deepcopy(network), self.stage)
        names = [name for name, p in network.named_parameters() if self._trains(name, p)]
        start = {f"network.{name}": tensor.detach() for name, tensor in network.state_dict().items()}

        def derivative(batch: Batch, other: Batch, seed: int) -> float:
            cut = torch.tensor(self.state["cut"], requires_grad=True)
            self.weighted.weight = self._weight(cut).to(self.device)
            seed_torch(seed)
            stepper.train()
            tensors = {name: tensor.clone() for name, tensor in start.items()}
            trained = {name: tensors[name].requires_grad_() for name in (f"network.{each}" for each in names)}
            adam = _Adam(self.config.learning_rate)
            for _ in range(self.config.cut_steps):
                loss = functional_call(stepper, tensors | trained, (batch,))
                found = torch.autograd.grad(loss, list(trained.values()), create_graph=True, allow_unused=True)
                slopes = {name: each for name, each in zip(trained, found, strict=True) if each is not None}
                trained |= {name: trained[name] + step for name, step in adam.steps(slopes).items()}
            stepper.eval()
            loss = functional_call(stepper, tensors | trained, (other,))
            (found_cut,) = torch.autograd.grad(loss, cut)
            return float(found_cut)

        return derivative


class _Adam:
    """Steps of Adam, which may be differentiated."""

    def __init__(self, rate: float) -> None:
        self.rate, self.number = rate, 0
        self.means: dict[str, Tensor] = {}
        self.squares: dict[str, Tensor] = {}

    def steps(self, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
        """What is added to the tensors that have gradients."""
        self.number += 1
        found = {}
        for name, gradient in gradients.items():
            before = (held[name] if name in held else torch.zeros_like(gradient) for held in (self.means, self.squares))
            mean, square = (
                beta * old + (1 - beta) * new
                for beta, old, new in zip(_BETAS, before, (gradient, gradient.square()), strict=True)
            )
            self.means[name], self.squares[name] = mean, square
            share, share_2 = (1 - beta**self.number for beta in _BETAS)
            # The root has no derivative at 0, where nothing has moved yet.
            size = (square / share_2 + _EPSILON**2).sqrt()
            found[name] = -self.rate * (mean / share) / (size + _EPSILON)
        return found


class _Stepper(nn.Module):
    """A step of a network as the forward pass of a module, to be called with other tensors than its own."""

    def __init__(self, network: Predictor, stage: Stage) -> None:
        super().__init__()
        self.network, self.stage = network, stage

    def forward(self, batch: Batch) -> Tensor:
        return self.network.step(batch, self.stage)["total"]
