"""The one training loop: a Lightning module around any network."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch

from stpredict.core._device import seed_torch
from stpredict.core._progress import Epoch, tell
from stpredict.models import Batch, Prediction, Predictor, Stage
from stpredict.training._checkpoints import CheckpointFile, LastCheckpoint
from stpredict.training._config import TrainConfig
from stpredict.training._data import ArraySet
from stpredict.training._gene_weights import Weighted
from stpredict.training._loader import Loader, loader_for
from stpredict.training._processes import begins_own, gathered, side_by_side, summed, trainer_options
from stpredict.training._two_phase import TwoPhaseRule
from stpredict.training.targets._expression import mean_correlation

if TYPE_CHECKING:
    from torch import Tensor


#: Loggers of Lightning with advice for whoever has set up the trainer.
_TALKING = ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.fabric.utilities.distributed")
_APART = 2**31  # between the seeds of processes, so that none draws what another does


class _Module(pl.LightningModule):
    """Steps, optimizer and history; the network does the rest."""

    def __init__(self, network: Predictor, config: TrainConfig, stage: Stage, seed: int) -> None:
        super().__init__()
        self.network = network
        self.settings = config
        self.stage = stage
        self.seed = seed
        self.scored = set(network.monitors) != {"loss"}  # otherwise there is no prediction before the end
        self.rows: list[dict[str, float]] = []
        #: Scores of the last validation. Lightning's own logging of them takes longer than a step of a small network.
        self.scores: dict[str, float] = {}
        #: What callbacks have to say of an epoch, for the history.
        self.notes: dict[str, float] = {}
        self._sums: dict[str, float] = {}
        self._n = 0
        self._loss: Tensor | None = None
        self._n_validated = 0
        self._outputs: list[tuple[int, Tensor, Batch]] = []

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        parts = self.network.step(batch, self.stage)
        if isinstance(batch.kind, Weighted) and not batch.kind.asked and self.stage is self.network.stages[-1]:
            raise ValueError(
                f"expected a network that asks its target for the loss, to weigh its genes; found a "
                f"{type(self.network).__name__}, which does not; set weighs_genes = False there, or leave auxiliary out"
            )
        share = self.trainer.train_dataloader.share(batch_idx)
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach()) * len(batch) * (share > 0)
        self._n += len(batch) * (share > 0)
        # Gradients are averaged over processes: so weighted, their mean is that of the rows of all of them.
        return parts["total"] if share == 1 else parts["total"] * share

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        loader = self.trainer.val_dataloaders
        if not loader.share(batch_idx):
            return
        batch_idx = loader.number(batch_idx)
        whole = batch.kind is not None and batch.kind.whole
        plain = type(self.network).step is Predictor.step
        prediction = self.network(batch) if plain else None
        if not whole:
            total = self._validation_loss(batch, prediction, batch_idx).float() * len(batch)
            self._loss = total if self._loss is None else self._loss + total
            self._n_validated += len(batch)
        if self.scored:
            prediction = self.network.predict(batch) if prediction is None else prediction
            mean, small = prediction.mean, Batch(batch.section, batch.patient, target=batch.target, kind=batch.kind)
            if batch.labeled is not None and batch.target is not None:  # nothing to be compared with
                rows = batch.labeled
                mean = mean[rows]
                small = Batch(batch.section[rows], batch.patient[rows], target=batch.target[rows], kind=batch.kind)
            self._outputs.append((batch_idx, mean.float().cpu(), small.to("cpu")))

    def _validation_loss(self, batch: Batch, prediction: Prediction | None, number: int) -> Tensor:
        """Loss of a validation batch; what a step draws is the same in every epoch."""
        if prediction is not None:
            return self.network.loss(prediction, batch)["total"]
        with torch.random.fork_rng(devices=[batch.section.device] if batch.section.is_cuda else []):
            seed_torch(self.seed * 100_003 + number)
            return self.network.step(batch, self.stage)["total"]

    def on_validation_epoch_end(self) -> None:
        self.scores = {}
        if self.trainer.world_size > 1:
            self._gather_validation()
        if self._loss is not None:
            self.scores["validation_loss"] = float(self._loss / self._n_validated)
        self._loss, self._n_validated = None, 0
        if not self._outputs:
            return
        mean = torch.cat([output for _, output, _ in self._outputs])
        batches = [batch for _, _, batch in self._outputs]
        self._outputs.clear()
        kind = batches[0].kind
        target = torch.cat([batch.target for batch in batches if batch.target is not None])
        section = torch.cat([batch.section for batch in batches])
        if kind is not None and kind.whole:
            self.scores["validation_loss"] = float(kind.loss(Prediction(mean), target, torch.ones(1)))
        score = mean_correlation if kind is None else kind.validate
        # In single precision, as the loss is: what is kept does not depend on digits that a history file drops.
        self.scores[f"validation_{score_of(kind)}"] = float(
            np.float32(score(mean.numpy(), target.numpy(), section.numpy()))
        )

    def _gather_validation(self) -> None:
        """What all processes have validated, in the order of one: each of them comes to the same scores."""
        loss = None if self._loss is None else self._loss.cpu()
        found = gathered((loss, self._n_validated, self._outputs))
        losses = [loss for loss, _, _ in found if loss is not None]
        self._loss = torch.stack(losses).sum() if losses else None
        self._n_validated = sum(n for _, n, _ in found)
        self._outputs = sorted((each for _, _, outputs in found for each in outputs), key=lambda each: each[0])

    def on_train_epoch_end(self) -> None:
        if self.trainer.world_size > 1:
            *values, n = summed([*self._sums.values(), self._n], self.device)
            self._sums, self._n = dict(zip(self._sums, values, strict=True)), int(n)
        row = {f"train_{'loss' if k == 'total' else k}": v / max(self._n, 1) for k, v in self._sums.items()}
        row["epoch"] = self.current_epoch
        row |= self.scores | self.notes
        self.rows.append(row)
        self._sums, self._n = {}, 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.rows
        checkpoint["stopped"] = bool(self.trainer.should_stop)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.rows = checkpoint["history"]

    def configure_optimizers(self) -> Any:
        s = self.settings
        kwargs: dict[str, Any] = {"lr": s.learning_rate, "weight_decay": s.weight_decay}
        if s.optimizer == "sgd":
            kwargs["momentum"] = s.momentum
        kinds = {"adamw": torch.optim.AdamW, "adam": torch.optim.Adam, "sgd": torch.optim.SGD}
        named = self.network.named_parameters()  # what is frozen for good is none of the optimizer's
        trained = [p for name, p in named if p.requires_grad and name.startswith(self.stage.trains)]
        # One pass over the memory for each parameter, several times as fast; on accelerators it would forbid clipping.
        kwargs["fused"] = all(parameter.device.type == "cpu" for parameter in trained) or None
        optimizer = kinds[s.optimizer](trained, **kwargs)
        if s.schedule == "constant":
            return optimizer
        schedule: torch.optim.lr_scheduler.LRScheduler
        if s.schedule == "cosine":
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
                optimizer, s.max_epochs, eta_min=s.final_learning_rate
            )
        else:
            schedule = torch.optim.lr_scheduler.StepLR(optimizer, s.step_epochs, gamma=s.step_factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


class _EpochSeed(pl.Callback):
    """Order and random draws of an epoch depend on the seed and the epoch alone: a resumed run equals a whole one."""

    def __init__(self, seed: int, *loaders: Loader | None) -> None:
        self.seed, self.loaders = seed, [loader for loader in loaders if loader is not None]

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        for loader in self.loaders:
            loader.rank, loader.n_ranks = trainer.global_rank, trainer.world_size

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.loaders[0].epoch = trainer.current_epoch
        seed_torch(self.seed * 100_003 + trainer.current_epoch + _APART * trainer.global_rank)


class _Keeper(pl.Callback):
    """Keep the weights of the epoch that the validation chooses, in memory, and stop when there will be no better one.

    One score that has to get better by at least `min_delta` within `patience` epochs, or :class:`TwoPhaseRule`. What is
    kept is part of a checkpoint, so that a resumed run has it.
    """

    def __init__(self, config: TrainConfig, score: str) -> None:
        self.score = f"validation_{score}"
        self.rule = None
        if config.monitor == "loss_then_correlation":
            self.rule = TwoPhaseRule(config.patience, config.loss_tolerance)
        self.monitor = self.score if config.monitor == "correlation" else "validation_loss"
        self.sign = 1.0 if self.monitor == self.score else -1.0
        self.patience, self.min_delta = config.patience, config.min_delta
        self.kept: dict[str, Any] = {
            "best": -float("inf"), "reached": -float("inf"), "waited": 0, "epoch": -1, "weights": {},
        }  # fmt: skip

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        scores = pl_module.scores  # the validation of an epoch comes before this
        if self.rule is not None:
            keep, stop = self.rule.update(scores["validation_loss"], scores[self.score])
        else:
            keep, stop = self._update(self.sign * scores[self.monitor])
        trainer.should_stop = trainer.should_stop or stop
        if keep:
            state = pl_module.network.state_dict()
            self.kept["epoch"] = trainer.current_epoch
            self.kept["weights"] = {name: tensor.detach().to("cpu", copy=True) for name, tensor in state.items()}

    def _update(self, value: float) -> tuple[bool, bool]:
        """Whether to keep the weights of an epoch with this score, the higher the better, and whether to stop."""
        kept, finite = self.kept, math.isfinite(value)
        keep = value > kept["best"] or kept["epoch"] < 0
        kept["best"] = max(kept["best"], value) if finite else kept["best"]
        better = value - self.min_delta > kept["reached"]
        kept["waited"] = 0 if better else kept["waited"] + 1
        kept["reached"] = value if better else kept["reached"]
        return keep, not finite or kept["waited"] >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return self.kept | ({} if self.rule is None else {"rule": asdict(self.rule)})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.kept = {name: state_dict[name] for name in self.kept}
        if self.rule is not None:
            self.rule = TwoPhaseRule(**state_dict["rule"])


class _Teller(pl.Callback):
    """Tell whoever shows progress of every epoch, with the scores of its validation."""

    def __init__(self, phase: str) -> None:
        self.phase = phase

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            tell(Epoch(trainer.current_epoch + 1, trainer.max_epochs, self.phase, pl_module.scores))


def run_epochs(
    network: Predictor,
    train: ArraySet,
    validation: ArraySet | None,
    config: TrainConfig,
    *,
    stage: Stage,
    device: torch.device,
    seed: int,
    directory: Path | None,
    n_epochs: int | None = None,
    phase: str = "epochs",
    extra: Sequence[pl.Callback] = (),
) -> tuple[pd.DataFrame, int]:
    """Train in place; with a validation set, stop early and keep the best epoch's weights.

    Parameters
    ----------
    network
        Prepared network.
    train, validation
        Rows to train on, rows to choose the epoch on.
    config
        Settings.
    stage
        Stage of the network; parameters outside `stage.trains` stay as they are.
    device
        Device to train on.
    seed
        Random seed for order, dropout and augmentation.
    directory
        Where a checkpoint is kept after every epoch, and continued from where there is one; nowhere when `None`.
    n_epochs
        Train for so many epochs, on the schedule of `config.max_epochs`: a refit sees the learning rates that the
        number was chosen with. `config.max_epochs` when `None`.
    phase
        Name of this part of the fit, for those who show progress.
    extra
        Callbacks with a part in the training, whose state a checkpoint keeps.

    Returns
    -------
    History, one row per epoch, and the number of epochs of the weights that were kept.
    """
    if begins_own(config):
        given: dict[str, Any] = {
            "train": train,
            "validation": validation,
            "stage": stage,
            "device": device,
            "seed": seed,
        }
        return side_by_side(run_epochs, network, config, **given, directory=directory, n_epochs=n_epochs, phase=phase)
    watch = validation is not None and config.patience > 0
    ahead = {"num_workers": config.num_workers}
    loader = loader_for(network, train, config.batch_size, shuffle=True, seed=seed, **ahead)
    valid = loader_for(network, validation, config.batch_size, **ahead) if watch and validation else None
    module = _Module(network, config, stage, seed)
    callbacks: list[pl.Callback] = [_EpochSeed(seed, loader, valid), *extra]
    keeper = _Keeper(config, score_of(train.kind)) if watch else None
    if keeper is not None:
        callbacks.append(keeper)
    max_epochs, start, files = n_epochs or config.max_epochs, None, None
    if directory is not None:  # nobody reads it otherwise, and writing it takes longer than an epoch of few slides
        files = CheckpointFile(directory / "last.ckpt")
        callbacks.append(LastCheckpoint(files))
        state = files.find(directory / "last.ckpt")
        if state is not None:
            start = str(directory / "last.ckpt")
            if state["stopped"]:  # it has come to its end: no further epoch
                max_epochs = len(state["history"])
    callbacks.append(_Teller(phase))
    precision: Any = config.precision
    if precision == "auto":
        precision = "16-mixed" if device.type == "cuda" else "32-true"
    with _quiet():
        trainer = pl.Trainer(
            max_epochs=max_epochs,
            **trainer_options(config, device),
            precision=precision,
            gradient_clip_val=config.gradient_clip or None,
            callbacks=callbacks,
            plugins=files,
            logger=False,
            enable_checkpointing=files is not None,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        with _frozen(network, stage.trains):
            trainer.fit(module, loader, valid, ckpt_path=start, weights_only=True)
    history = pd.DataFrame(module.rows)
    behind = len(history)
    if keeper is not None and keeper.kept["epoch"] >= 0:
        network.load_state_dict(keeper.kept["weights"])
        behind = keeper.kept["epoch"] + 1
    network.to("cpu")
    return history, behind


def score_of(kind: Any) -> str:
    """Name of the score by which `monitor="correlation"` chooses the epoch."""
    return "correlation" if kind is None else kind.score


@contextmanager
def _frozen(network: Predictor, trains: tuple[str, ...]) -> Iterator[None]:
    """Ask for no gradients of the parameters whose names begin with none of `trains`."""
    frozen = [p for name, p in network.named_parameters() if p.requires_grad and not name.startswith(trains)]
    try:
        for parameter in frozen:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(True)


class _quiet:
    """Keep Lightning's advice about hardware, workers and intervals out of the user's notebook."""

    def __enter__(self) -> None:
        import logging

        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.filterwarnings("ignore", module="lightning.*")
        self._loggers = [logging.getLogger(n) for n in _TALKING]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *error: Any) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
        self._warnings.__exit__(*error)
