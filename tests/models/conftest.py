from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch


@pytest.fixture(autouse=True)
def seeded() -> None:
    """The same weights and values in every run, whatever ran before."""
    torch.manual_seed(0)


@pytest.fixture
def memory_grown_by() -> Callable[[Callable[[], None]], int]:
    """Bytes that the process holds at most while something runs, beyond what it held before.

    Linux sets the high-water mark back on request, so that no fresh process has to import torch.
    """
    reset, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")

    def held(name: str) -> int:
        return 1024 * int(re.search(rf"{name}:\s+(\d+) kB", status.read_text())[1])

    try:
        reset.write_text("5")
    except OSError:
        pytest.skip("the high-water mark of memory can be set back on Linux only")

    def measure(work: Callable[[], None]) -> int:
        # What earlier tests freed is handed back: otherwise memory is taken from there, and nothing grows.
        ctypes.CDLL(None).malloc_trim(0)
        reset.write_text("5")
        before = held("VmRSS")
        work()
        return held("VmHWM") - before

    assert measure(lambda: torch.ones(25_000_000).sum()) > 90e6, "the high-water mark is not what it seems"
    return measure
