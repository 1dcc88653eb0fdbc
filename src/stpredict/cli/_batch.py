"""Go through slides: skip what is done, leave what another process works on, go on after a failure, say it line by line."""

from __future__ import annotations

import re
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from stpredict.cli._items import Item
from stpredict.cli._main import said
from stpredict.core._turns import tidy_folder, turn

_TURN = threading.Lock()
DONE, SKIPPED, ELSEWHERE, FAILED = "done", "skipped", "skipped, done by another process", "FAILED"


class Job(Protocol):
    """What is done with every item; it travels to other processes."""

    def place(self, item: Item) -> Path:
        """Where its result goes: the process that has the turn there works on it."""

    def is_done(self, item: Item) -> bool:
        """Whether the result is there, made by the same model and settings; an error where it is another one."""

    def look(self, item: Item) -> str:
        """What an item is, in a few words; an error where it cannot be opened."""

    def work(self, item: Item) -> str:
        """Make the result, whole or not at all, and say what it is in a few words."""


@dataclass(frozen=True)
class Outcome:
    """What became of one item."""

    item: Item
    status: str
    seconds: float
    note: str = ""
    warned: tuple[str, ...] = ()
    trace: str = ""


def attempt(job: Job, item: Item, *, wait: bool) -> Outcome | None:
    """Make one item, or find it made; `None` where another process works on it and nobody is to wait.

    Whatever one slide raises is the failure of that slide.
    """
    start = time.perf_counter()
    status, note, trace = SKIPPED, "", ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            if not job.is_done(item):
                place = job.place(item)
                place.parent.mkdir(parents=True, exist_ok=True)
                with turn(place, wait=wait) as ours:
                    if not ours and not wait:
                        return None
                    if job.is_done(item):
                        status = ELSEWHERE
                    else:
                        status, note = DONE, job.work(item)
        except Exception as error:  # noqa: BLE001
            # The others are to be done all the same, whatever a library raises for one file.
            status, note, trace = FAILED, f"{type(error).__name__}: {said(error)}", traceback.format_exc()
    future = (FutureWarning, DeprecationWarning)
    texts = [" ".join(str(each.message).split()) for each in caught if not issubclass(each.category, future)]
    return Outcome(item, status, time.perf_counter() - start, note, tuple(dict.fromkeys(texts)), trace)


def run_batch(job: Job, items: Sequence[Item], *, client: Any = None, debug: bool = False) -> int:
    """Make all items, a line for each; failures are listed at the end.

    Parameters
    ----------
    job
        What is done with each.
    items
        The items.
    client
        A `dask.distributed` client whose workers share the folders with this process; one slide after the other here
        when `None`.
    debug
        Whether to print where failures were raised.

    Returns
    -------
    0, or 1 where an item failed.
    """
    start, found = time.perf_counter(), []
    for folder in {job.place(item).parent for item in items}:
        tidy_folder(folder)  # of what killed processes left, also at places where there is nothing more to do
    outcomes = _here(job, items) if client is None else _on_workers(job, items, client)
    seen: dict[str, set[str]] = {}
    for number, outcome in enumerate(outcomes, start=1):
        found.append(outcome)
        for text in outcome.warned:
            alike = seen.setdefault(re.sub(r"[\d.]+", "#", text.replace(outcome.item.name, "#")), set())
            if not alike:
                print(f"warning: {outcome.item.name}: {text}", file=sys.stderr)
            alike.add(outcome.item.name)
        note = f", {outcome.note}" if outcome.note and outcome.status != FAILED else ""
        print(
            f"[{number}/{len(items)}] {outcome.item.name}: {outcome.status}{note}, {outcome.seconds:.1f} s", flush=True
        )
        if debug and outcome.trace:
            print(outcome.trace, file=sys.stderr)
    failed = [outcome for outcome in found if outcome.status == FAILED]
    counts = {status: sum(each.status == status for each in found) for status in (DONE, SKIPPED, ELSEWHERE, FAILED)}
    said_counts = ", ".join(f"{n} {status.lower()}" for status, n in counts.items() if n)
    print(f"{len(items)} in {time.perf_counter() - start:.0f} s: {said_counts}", flush=True)
    others = max(map(len, seen.values()), default=0) - 1
    if others > 0:
        print(f"warnings like these came with up to {others} other{'s' * (others > 1)}", file=sys.stderr)
    for outcome in failed:
        print(f"failed: {outcome.item.name} ({outcome.item.path}): {outcome.note}", file=sys.stderr)
    return int(bool(failed))


def dry_run(job: Job, items: Sequence[Item]) -> int:
    """Say for every item what a run would do; 1 where one of them could not be done."""
    wrong = 0
    for number, item in enumerate(items, start=1):
        try:
            what = "is done" if job.is_done(item) else f"{job.look(item)}, would be written to {job.place(item)}"
        except (OSError, ValueError) as error:
            what, wrong = f"would fail: {said(error)}", wrong + 1
        print(f"[{number}/{len(items)}] {item.name} ({item.path}): {what}")
    return int(bool(wrong))


def _here(job: Job, items: Sequence[Item]) -> Iterator[Outcome]:
    """One after the other; what another process works on is looked at last, when there is nothing else to do."""
    later = []
    for item in items:
        if (outcome := attempt(job, item, wait=False)) is None:
            later.append(item)
        else:
            yield outcome
    for item in later:  # it is there, or its process has failed or died
        if (outcome := attempt(job, item, wait=True)) is not None:
            yield outcome


def _on_workers(job: Job, items: Sequence[Item], client: Any) -> Iterator[Outcome]:
    """One task for each item, as they end; one whose worker was lost is begun again on another, a few times."""
    from distributed import as_completed

    waiting = list(items)
    for wait in (False, True):  # what others work on is looked at last, as here
        futures = {client.submit(_in_turn, job, item, wait, pure=False): item for item in waiting}
        waiting = []
        for future in as_completed(futures, loop=client.loop):
            if future.status != "finished":
                note = f"{type(future.exception()).__name__}: {said(future.exception())}"
                yield Outcome(futures[future], FAILED, 0.0, note)
            elif (outcome := future.result()) is None:
                waiting.append(futures[future])
            else:
                yield outcome


def _in_turn(job: Job, item: Item, wait: bool) -> Outcome | None:
    """An attempt on a worker: one at a time, whatever its threads."""
    from stpredict.core._settings import settings

    with _TURN:
        settings.progress = False
        return attempt(job, item, wait=wait)
