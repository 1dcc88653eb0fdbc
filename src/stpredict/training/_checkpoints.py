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

    Parameters
    ----------
    place
        The file that a fit can do without: an error in writing it is kept as `error`, and it is not tried again. Were it raised,
        other processes of the fit would wait for this one.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.error: OSError | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint."""
        path, buffer = Path(path), io.BytesIO()
        if path == self.place and self.error is not None:
            return
        torch.save(checkpoint, buffer)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_sealed(path, path.with_suffix(".partial"), buffer.getvalue())
        except OSError as error:
            if path != self.place:
                raise
            self.error = error

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

    def __init__(self, file: CheckpointFile) -> None:
        self.file = file
        self.told = False

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Write the checkpoint; where that fails, training goes on without."""
        if self.told and trainer.world_size == 1:
            return
        trainer.save_checkpoint(self.file.place)  # of several processes all have to come here
        if self.file.error is not None and not self.told:
            self.told = True
            warnings.warn(
                f"no checkpoint could be written to {self.file.place.parent} ({self.file.error}); training goes on without: to "
                "continue from one after an interruption, free some room or name another checkpoint_dir",
                stacklevel=1,  # what Lightning says is not shown
            )
