"""The one training loop: a Lightning module around any network."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Checkpoint, EarlyStopping, ModelCheckpoint, TQDMProgressBar

from stpredict.metrics import concordance, pearson
from stpredict.models import Batch, Prediction, Predictor
from stpredict.models.nn._heads import class_probabilities, one_hot
from stpredict.training._config import TrainConfig
from stpredict.training._data import ArraySet, Loader
from stpredict.training._two_phase import TwoPhaseRule

if TYPE_CHECKING:
    from torch import Tensor


class _Module(pl.LightningModule):
    """Steps, optimizer and history; the network does the rest."""

    def __init__(self, network: Predictor, config: TrainConfig) -> None:
        super().__init__()
        self.network = network
        self.settings = config
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._n = 0
        self._outputs: list[tuple[Tensor, Batch]] = []

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        return batch.to(device)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        parts = self.network.loss(self.network(batch), batch)
        for name, value in parts.items():
            self._sums[name] = self._sums.get(name, 0.0) + float(value.detach()) * len(batch)
        self._n += len(batch)
        return parts["total"]

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        prediction = self.network(batch)
        if batch.time is None:
            total = self.network.loss(prediction, batch)["total"]
            self.log("validation_loss", total, batch_size=len(batch), on_epoch=True, on_step=False, prog_bar=True)
        small = Batch(batch.section, batch.patient, target=batch.target, time=batch.time, event=batch.event)
        mean = prediction.mean
        if batch.label is not None:
            mean, small.target = class_probabilities(mean), one_hot(batch.label, mean.shape[1])
        self._outputs.append((mean.float().cpu(), small.to("cpu")))

    def on_validation_epoch_end(self) -> None:
        mean = torch.cat([output for output, _ in self._outputs])
        batches = [batch for _, batch in self._outputs]
        self._outputs.clear()
        if batches[0].time is not None:
            self._log_outcome(mean, batches)
            return
        target = torch.cat([batch.target for batch in batches if batch.target is not None]).numpy()
        section = torch.cat([batch.section for batch in batches]).numpy()
        known = ~np.isnan(target).any(axis=1)  # a class may not be known
        target, section, mean = target[known], section[known], mean[torch.from_numpy(known)]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # all genes constant: the mean of nothing
            scores = [pearson(target[section == c], mean.numpy()[section == c]) for c in np.unique(section)]
            value = float(np.nanmean(np.concatenate(scores)))
        self.log("validation_correlation", value if value == value else -1.0, prog_bar=True)

    def _log_outcome(self, mean: Tensor, batches: list[Batch]) -> None:
        """Loss and C-index over all validation rows at once: a risk set does not end with a batch."""
        time, event = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("time", "event"))
        none = torch.zeros(len(time), dtype=torch.long)
        loss = self.network.loss(Prediction(mean), Batch(none, none, time=time, event=event))["total"]
        self.log("validation_loss", loss, prog_bar=True)
        value = concordance(time.numpy(), event.numpy(), mean[:, 0].nan_to_num().numpy())
        self.log("validation_concordance", value if value == value else 0.0, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        row = {f"train_{'loss' if k == 'total' else k}": v / max(self._n, 1) for k, v in self._sums.items()}
        row["epoch"] = self.current_epoch
        row |= {k: float(v) for k, v in self.trainer.callback_metrics.items() if k.startswith("validation")}
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
        optimizer = kinds[s.optimizer](self.network.parameters(), **kwargs)
        if s.schedule == "constant":
            return optimizer
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=s.max_epochs)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "epoch"}}


class _EpochSeed(pl.Callback):
    """Order and random draws of an epoch depend on the seed and the epoch alone: a resumed run equals a whole one."""

    def __init__(self, seed: int, loader: Loader) -> None:
        self.seed, self.loader = seed, loader

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        self.loader.epoch = trainer.current_epoch
        torch.manual_seed(self.seed * 100_003 + trainer.current_epoch)


class _TwoPhaseStopping(pl.Callback):
    """Apply the rule after every epoch, and keep the weights of the chosen one at `path`."""

    def __init__(self, rule: TwoPhaseRule, correlation: str, path: Path) -> None:
        self.rule, self.correlation, self.path = rule, correlation, path

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        scores = trainer.callback_metrics  # the validation of an epoch comes before this
        keep, stop = self.rule.update(float(scores["validation_loss"]), float(scores[self.correlation]))
        trainer.should_stop = trainer.should_stop or stop
        if keep:
            trainer.save_checkpoint(self.path)

    def state_dict(self) -> dict[str, Any]:
        return asdict(self.rule)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rule = TwoPhaseRule(**state_dict)


class _LastCheckpoint(Checkpoint):
    """Keep the state after every epoch, to continue from; `ModelCheckpoint` keeps it after the best ones only.

    A checkpoint callback, so that it comes after everything that an epoch changes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        partial = self.path.with_suffix(".partial")
        trainer.save_checkpoint(partial)
        partial.replace(self.path)


def run_epochs(
    network: Predictor,
    train: ArraySet,
    validation: ArraySet | None,
    config: TrainConfig,
    *,
    device: torch.device,
    seed: int,
    directory: Path,
    resume: bool,
    progress: bool,
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
    device
        Where to train.
    seed
        Of order, dropout and augmentation.
    directory
        Where checkpoints go while training.
    resume
        Continue from `last.ckpt` in `directory` when it is there.
    progress
        Show a progress bar.

    Returns
    -------
    History, one row per epoch, and the number of epochs of the weights that were kept.
    """
    unit, needs = network.unit, network.needs
    loader = Loader(train, unit, batch_size=config.batch_size, needs=needs, shuffle=True, seed=seed)
    module = _Module(network, config)
    callbacks: list[pl.Callback] = [_EpochSeed(seed, loader)]
    watch = validation is not None and config.patience > 0
    best = directory / "best.ckpt"
    correlation = "validation_correlation" if train.time is None else "validation_concordance"
    two_phases = watch and config.monitor == "loss_then_correlation"
    monitor = correlation if config.monitor == "correlation" else "validation_loss"
    mode = "max" if monitor == correlation else "min"
    callbacks.append(
        ModelCheckpoint(
            directory,
            filename=best.stem,
            monitor=monitor if watch and not two_phases else None,
            mode=mode,
            save_top_k=1 if watch and not two_phases else 0,
            enable_version_counter=False,
            save_weights_only=False,
        )
    )
    if two_phases:
        rule = TwoPhaseRule(config.patience, config.loss_tolerance)
        callbacks.append(_TwoPhaseStopping(rule, correlation, best))
    elif watch:
        callbacks.append(EarlyStopping(monitor, min_delta=config.min_delta, patience=config.patience, mode=mode))
    last, max_epochs, start = directory / "last.ckpt", config.max_epochs, None
    if resume:  # nobody reads it otherwise, and writing it takes longer than an epoch of few slides
        callbacks.append(_LastCheckpoint(last))
        if last.is_file():
            start, state = str(last), torch.load(last, map_location="cpu", weights_only=True)
            if state["stopped"]:  # it has come to its end: no further epoch
                max_epochs = len(state["history"])
    if progress:
        callbacks.append(TQDMProgressBar(refresh_rate=10))
    accelerated = device.type != "cpu"
    precision: Any = config.precision
    if precision == "auto":
        precision = "16-mixed" if device.type == "cuda" else "32-true"
    with _quiet():
        trainer = pl.Trainer(
            max_epochs=max_epochs,
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=[device.index or 0] if accelerated else 1,
            precision=precision,
            gradient_clip_val=config.gradient_clip or None,
            callbacks=callbacks,
            logger=False,
            enable_progress_bar=progress,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            default_root_dir=directory,
        )
        valid = Loader(validation, unit, batch_size=config.batch_size, needs=needs) if watch and validation else None
        trainer.fit(module, loader, valid, ckpt_path=start, weights_only=True)
    history = pd.DataFrame(module.rows)
    n_epochs = len(history)
    if watch and best.is_file():
        kept = torch.load(best, map_location="cpu", weights_only=True)
        prefix = "network."
        network.load_state_dict(
            {k.removeprefix(prefix): v for k, v in kept["state_dict"].items() if k.startswith(prefix)}
        )
        n_epochs = int(kept["epoch"]) + 1
    network.to("cpu")
    return history, n_epochs


class _quiet:
    """Keep Lightning's advice about hardware, workers and intervals out of the user's notebook."""

    def __enter__(self) -> None:
        import logging

        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.filterwarnings("ignore", module="lightning.*")
        self._loggers = [logging.getLogger(n) for n in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero")]
        self._levels = [logger.level for logger in self._loggers]
        for logger in self._loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *error: Any) -> None:
        for logger, level in zip(self._loggers, self._levels, strict=True):
            logger.setLevel(level)
        self._warnings.__exit__(*error)
