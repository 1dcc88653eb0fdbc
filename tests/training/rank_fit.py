"""A fit that several processes do together: test_processes runs this script with their rank in the environment."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stpredict.core._optional import mend_torchvision
from stpredict.training import ArraySet, TrainConfig, fit_arrays

ROWS = {"max_epochs": 200, "patience": 2, "batch_size": 16, "learning_rate": 0.05}
SECTIONS = {"max_epochs": 3, "patience": 2, "learning_rate": 0.01}


def rows() -> ArraySet:
    """Rows whose number no batch divides."""
    rng = np.random.default_rng(0)
    section = np.arange(101) % 5
    values = rng.normal(size=(101, 5)).astype(np.float32)
    target = values @ rng.normal(size=(5, 3)) + rng.normal(size=(101, 3))
    places = rng.uniform(0, 900, (101, 2)).astype(np.float32)
    return ArraySet(section, section, {"features": values, "positions": places}, target=target.astype(np.float32))


def fits(folder: Path | None, **processes: Any) -> dict[str, Any]:
    """Weights, history and epochs of a network on rows and of one on sections, and how many checkpoints were written."""
    mend_torchvision()
    from stpredict.training import _checkpoints

    written: list[Path] = []
    write = _checkpoints.write_sealed

    def counted(path: Path, *others: Any) -> None:
        written.append(path)
        write(path, *others)

    _checkpoints.write_sealed = counted
    found: dict[str, Any] = {}
    cases: Any = (
        ("mlp", {"hidden": 8, "dropout": 0.0}, ROWS),
        ("egn", "small", SECTIONS),
    )
    for model, options, training in cases:
        fit = fit_arrays(
            model, rows(), hyperparameters=options, config=TrainConfig(**training, **processes), checkpoint_dir=folder
        )
        weights = torch.cat([value.flatten().float() for value in fit.network.state_dict().values()])
        found[model] = {"weights": weights, "epochs": fit.n_epochs, "history": fit.history.to_dict("list")}
    _checkpoints.write_sealed = write
    return found | {"written": len(written)}


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    folder = Path(sys.argv[1])
    torch.save(fits(folder / "checkpoints", devices=2, strategy="ddp"), folder / os.environ["LOCAL_RANK"])
