"""The one training loop: a Lightning module around any network."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar

from stpredict.metrics import pearson
from stpredict.models import Batch, Predictor
from stpredict.training._config import TrainConfig
from stpredict.training._data import ArraySet, Loader

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
        self._outputs: list[tuple[Tensor, Tensor, Tensor]] = []

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
        total = self.network.loss(prediction, batch)["total"]
        self.log("validation_loss", total, batch_size=len(batch), on_epoch=True, on_step=False, prog_bar=True)
        assert batch.target is not None
        self._outputs.append((prediction.mean.float().cpu(), batch.target.cpu(), batch.section.cpu()))

    def on_validation_epoch_end(self) -> None:
        mean, target, section = (torch.cat(parts).numpy() for parts in zip(*self._outputs, strict=True))
        self._outputs.clear()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # all genes constant: the mean of nothing
            scores = [pearson(target[section == code], mean[section == code]) for code in set(section.tolist())]
            value = float(np.nanmean(np.concatenate(scores)))
        self.log("validation_correlation", value if value == value else -1.0, prog_bar=True)

    def on_train_epoch_end(self) -> None:
        row = {f"train_{'loss' if k == 'total' else k}": v / max(self._n, 1) for k, v in self._sums.items()}
        row["epoch"] = self.current_epoch
        row |= {k: float(v) for k, v in self.trainer.callback_metrics.items() if k.startswith("validation")}
        self.rows.append(row)
        self._sums, self._n = {}, 0

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.rows

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
    keep = ModelCheckpoint(
        directory,
        filename="best",
        monitor=f"validation_{config.monitor}" if watch else None,
        mode="max" if config.monitor == "correlation" else "min",
        save_last=True,
        enable_version_counter=False,
        save_weights_only=False,
    )
    callbacks.append(keep)
    if watch:
        callbacks.append(
            EarlyStopping(
                f"validation_{config.monitor}",
                min_delta=config.min_delta,
                patience=config.patience,
                mode="max" if config.monitor == "correlation" else "min",
            )
        )
    if progress:
        callbacks.append(TQDMProgressBar(refresh_rate=10))
    accelerated = device.type != "cpu"
    precision: Any = config.precision
    if precision == "auto":
        precision = "16-mixed" if device.type == "cuda" else "32-true"
    with _quiet():
        trainer = pl.Trainer(
            max_epochs=config.max_epochs,
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
        last = directory / "last.ckpt"
        valid = Loader(validation, unit, batch_size=config.batch_size, needs=needs) if watch and validation else None
        trainer.fit(
            module, loader, valid, ckpt_path=str(last) if resume and last.is_file() else None, weights_only=True
        )
    history = pd.DataFrame(module.rows)
    n_epochs = len(history)
    if watch and Path(keep.best_model_path).is_file():
        best = torch.load(keep.best_model_path, map_location="cpu", weights_only=True)
        prefix = "network."
        network.load_state_dict(
            {k.removeprefix(prefix): v for k, v in best["state_dict"].items() if k.startswith(prefix)}
        )
        n_epochs = int(best["epoch"]) + 1
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
