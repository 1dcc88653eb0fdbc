"""Calls that tests send to the workers of a cluster, which import them by this name."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np


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
