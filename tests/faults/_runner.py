"""Runs damages in processes of their own, so that a crash, a hang or a flood of memory is a count and not the end."""

from __future__ import annotations

import collections
import faulthandler
import json
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from . import _kind
from ._kind import VERDICTS, WRONG, Answer, Kind, same

SECONDS = 20.0  # of processor time for one damage
_FOREIGN = 5.0  # for another program's part in it
_WAIT = 90.0  # of real time, for a call that waits
_BYTES = 4 * 2**30  # beyond what the process has before
_DEATHS = {signal.SIGALRM: "hang", signal.SIGPROF: "hang"}


@dataclass(frozen=True)
class Outcome:
    """What became of one damage."""

    kind: str
    seed: int
    damage: str
    verdict: str
    message: str
    seconds: float


def run(kind: Kind, seeds: Iterable[int], folder: Path, seconds: float = SECONDS) -> list[Outcome]:
    """Damage the files of a kind once for every seed, and judge each reading, which takes some seconds at most."""
    todo, found = list(seeds), []
    pristine = folder / "whole"
    _in_child(lambda send: _make(kind, pristine), folder / "log")
    while todo:
        lines, death = _in_child(
            lambda send, rest=tuple(todo): _work(kind, rest, pristine, folder, send, seconds), folder / "log"
        )
        found += [Outcome(kind.name, *line) for line in lines if len(line) == 5]
        done = {outcome.seed for outcome in found}
        if death is not None:
            if not lines or len(lines[-1]) == 5:
                raise RuntimeError(
                    f"{kind.name}: a worker ended by {death} between two damages\n{(folder / 'log').read_text()}"
                )
            seed, what, phase = lines[-1]
            verdict = "unread" if phase == "foreign" else _DEATHS.get(death, "crash")
            found.append(Outcome(kind.name, seed, what, verdict, f"signal or status {death}", 0.0))
            done.add(seed)
        todo = [seed for seed in todo if seed not in done]
    return found


def _in_child(work, log: Path) -> tuple[list[list], int | None]:
    """Lines that a forked process sends, and the signal or status that ended it, if any."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.close(read)
            file = log.open("w")
            for number in (1, 2):
                os.dup2(file.fileno(), number)
            sys.stdout = sys.stderr = file  # whatever has taken their places
            faulthandler.enable(file)
            with os.fdopen(write, "w") as pipe:

                def send(*line) -> None:
                    pipe.write(json.dumps(line) + "\n")
                    pipe.flush()

                work(send)
            status = 0
        except BaseException:  # noqa: BLE001
            # Nothing may return into the copy of the parent's work.
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
    os.close(write)
    with os.fdopen(read) as pipe:
        lines = [json.loads(line) for line in pipe]
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 1:
        raise RuntimeError(f"a worker failed\n{log.read_text()}")
    return lines, None if not status else os.WTERMSIG(status) if os.WIFSIGNALED(status) else status


def _make(kind: Kind, pristine: Path) -> None:
    """Write the whole files, and see that they are read alike twice: else nothing could be compared."""
    pristine.mkdir()
    kind.make(pristine)
    answers = []
    for number in range(2):
        copy = pristine.with_name(f"copy{number}")
        kind.restore(pristine, copy, None)
        answers.append(kind.read(copy))
    if not same(*answers):
        raise AssertionError(f"{kind.name}: two readings of the whole files differ")


def _work(kind: Kind, seeds: tuple[int, ...], pristine: Path, folder: Path, send, seconds: float) -> None:
    copy = folder / "work"
    kind.restore(pristine, copy, None)
    whole: Answer = kind.read(copy)
    _limit_memory()
    damaged: str | None = None
    for seed in seeds:
        kind.restore(pristine, copy, damaged)
        damaged, how = kind.damage(Random(f"{kind.name} {seed}"), copy)
        what = f"{damaged}: {how}"
        send(seed, what, "ours")

        def note(phase: str, seed: int = seed, what: str = what) -> None:
            send(seed, what, phase)
            signal.setitimer(signal.ITIMER_PROF, min(_FOREIGN, seconds) if phase == "foreign" else seconds)

        _kind.send = note
        start = time.monotonic()
        signal.setitimer(signal.ITIMER_PROF, seconds)
        signal.setitimer(signal.ITIMER_REAL, _WAIT)
        verdict, message = kind.judge(copy, whole)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        send(seed, what, verdict, message[:600], time.monotonic() - start)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
    limit = pages * resource.getpagesize() + _BYTES
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def run_all(kinds: Iterable[Kind], n: float | dict[str, int], first: int = 0) -> list[Outcome]:
    """Run several kinds, each in a folder of its own; `n` is a multiple of what each has, or counts by name."""
    outcomes = []
    for kind in kinds:
        count = n[kind.name] if isinstance(n, dict) else round(kind.n * n)
        with tempfile.TemporaryDirectory(prefix="faults") as folder:
            outcomes += run(kind, range(first, first + count), Path(folder))
    return outcomes


def table(outcomes: Iterable[Outcome]) -> str:
    """Counts by kind and verdict, as text."""
    counts: dict[str, collections.Counter[str]] = {}
    for outcome in outcomes:
        counts.setdefault(outcome.kind, collections.Counter())[outcome.verdict] += 1
    total = sum(counts.values(), collections.Counter())
    rows = [("kind", "n", *VERDICTS)]
    rows += [
        (name, str(sum(c.values())), *(str(c[v]) for v in VERDICTS)) for name, c in [*counts.items(), ("total", total)]
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        " ".join(cell.ljust(w) if not i else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True)))
        for row in rows
    )


def failures(outcomes: Iterable[Outcome]) -> str:
    """The failures, those of one message once, with the seed that makes each again."""
    groups: dict[tuple[str, str, str], list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.verdict in WRONG:
            head = outcome.message.split("[")[-1] if outcome.verdict == "raw" else outcome.message[:60]
            groups.setdefault((outcome.kind, outcome.verdict, head), []).append(outcome)
    return "\n".join(
        f"{kind}: {verdict} x {len(group)}, seed {group[0].seed} ({group[0].damage}): {group[0].message[:400]!r}"
        for (kind, verdict, _), group in groups.items()
    )
