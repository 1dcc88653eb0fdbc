"""Progress of long work: one bar per call, which shows what the fit inside it is at."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, TypeVar

from stpredict.core._settings import settings

T = TypeVar("T")
_LOG = 50  # times as long between two drawings in a log as on a terminal: five seconds


@dataclass(frozen=True)
class Epoch:
    """An epoch that has ended."""

    number: int
    of: int
    phase: str
    scores: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Such as `epoch 3/50, validation loss 0.812`."""
        shown = [f"{name.replace('_', ' ')} {value:.3f}" for name, value in self.scores.items()]
        return ", ".join([f"epoch {self.number}/{self.of}", *shown])


_listener: ContextVar[Callable[[Epoch], None] | None] = ContextVar("listener", default=None)


def tell(epoch: Epoch) -> None:
    """Say that an epoch has ended, to whoever listens; nobody does in another process."""
    if (listener := _listener.get()) is not None:
        listener(epoch)


@contextmanager
def listening(listener: Callable[[Epoch], None]) -> Iterator[None]:
    """Hear of the epochs of every fit within."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def beside(bar: Any) -> Callable[[str], None]:
    """What puts a text beside a bar as often as the bar is drawn, and rarely in a log, which keeps every drawing."""
    import time

    if bar.disable:  # as TQDM_DISABLE has it, whatever was asked for: such a bar knows nothing of where it is drawn
        return lambda text: None
    seen = bar.gui or getattr(bar.fp, "isatty", lambda: True)()  # by somebody, in a notebook or on a terminal
    interval = bar.mininterval * (1 if seen else _LOG)
    drawn = -float("inf")

    def say(text: str) -> None:
        nonlocal drawn
        now = time.monotonic()
        if due := now - drawn >= interval:
            drawn = now
        bar.set_postfix_str(text, refresh=due)

    return say


@contextmanager
def epochs_bar(what: str, *, show: bool) -> Iterator[None]:
    """One bar over the epochs of all stages of a fit, with the scores of the last validation."""
    if not show:
        yield
        return
    from tqdm.auto import tqdm

    with tqdm(desc=what, unit="epoch") as bar:
        phase, say = "", beside(bar)

        def on_epoch(epoch: Epoch) -> None:
            nonlocal phase
            if epoch.phase != phase:
                phase = epoch.phase
                bar.reset(total=epoch.of)
                bar.set_description(f"{what}, {phase}", refresh=False)
            bar.update(epoch.number - bar.n)
            say(str(epoch).partition(", ")[2])

        with listening(on_epoch):
            yield


@contextmanager
def ticks(total: int, what: str, unit: str, show: bool | None = None) -> Iterator[Callable[[], Any]]:
    """A bar of something whose steps are not those of a loop, shown where it takes longer than a second; call it once a step."""
    from tqdm.auto import tqdm

    show = settings.progress if show is None else show
    with tqdm(total=total, desc=what, unit=unit, delay=1, disable=not show) as bar:
        yield bar.update


def steps(items: Sequence[T], what: str, *, compiled_by: str | None = None, show: bool | None = None) -> Iterator[T]:
    """Go through items with a bar; where `compiled_by` was not imported yet, it says that the first call compiles."""
    import sys

    from tqdm.auto import tqdm

    if compiled_by is not None and compiled_by not in sys.modules:
        what = f"{what} (the first call compiles)"
    bar: Any = tqdm(items, desc=what, disable=not (settings.progress if show is None else show))
    yield from bar
