"""Calls that tests send to other processes, which import them by this name."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import torch


def total(values: np.ndarray, beside: np.ndarray, number: int) -> tuple[int, float]:
    return number, float(values.sum() + beside[number])


def dying(flag: str, values: np.ndarray, number: int) -> float:
    """Takes its worker with it when it is called for the first time."""
    if number == 2 and not Path(flag).exists():
        Path(flag).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return float(values[number])


def failing(number: int) -> int:
    if number == 1:
        raise KeyError("no such gene")
    return number


def moved(network: Any, config: Any, by: float) -> tuple[list[str], int]:
    """Trains a network, as it were."""
    if not by:
        raise KeyError("no such row")
    with torch.no_grad():
        for parameter in network.state_dict().values():
            if parameter.is_floating_point():
                parameter += by
    return [os.environ["LOCAL_RANK"], os.environ["MASTER_ADDR"]], 3
