"""Checkpoints of a fit: written whole or not at all, with their digest, and never at the cost of the fit."""

from __future__ import annotations

import io
import logging
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.plugins.io import CheckpointIO

from stpredict.core._sealed import read_sealed, write_sealed

logger = logging.getLogger(__name__)


class CheckpointFile(CheckpointIO):
    """Write and read the checkpoints of Lightning as files that carry their digest.

    Lightning's own way goes through a file in the folder for temporary files, which a killed process leaves there.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        path, buffer = Path(path), io.BytesIO()
        torch.save(checkpoint, buffer)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_sealed(path, path.with_suffix(".partial"), buffer.getvalue())

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint; nothing is unpickled.

        Raises
        ------
        ValueError
            When the file is not what its digest says.
        """
        content = read_sealed(Path(path))
        if content is None:
            raise ValueError(f"expected the checkpoint {path} as it was written; found a damaged file; remove it")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)

    def find(self, path: Path) -> dict[str, Any] | None:
        """Checkpoint at a path; `None` where there is none, or a damaged one, which is said."""
        with suppress(OSError):  # of a process that was killed while it wrote
            path.with_suffix(".partial").unlink(missing_ok=True)
        if not path.is_file():
            return None
        try:
            return self.load_checkpoint(path)
        except (ValueError, OSError) as error:
            logger.warning("the checkpoint %s cannot be used (%s); training begins anew", path, error)
            return None

    def remove_checkpoint(self, path: Any) -> None:
        """Remove a checkpoint."""
        Path(path).unlink(missing_ok=True)


class LastCheckpoint(Checkpoint):
    """Keep the state after every epoch, to continue from.

    A checkpoint callback, so that it comes after everything that an epoch changes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.failed = False

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the checkpoint; where that fails, training goes on without."""
        if self.failed:
            return
        try:
            trainer.save_checkpoint(self.path)
        except OSError as error:
            self.failed = True
            warnings.warn(
                f"no checkpoint could be written to {self.path.parent} ({error}); training goes on without: to continue from "
                "one after an interruption, free some room or name another checkpoint_dir",
                stacklevel=1,  # what Lightning says is not shown
            )
