"""Calls on the workers of a dask cluster: the one place that talks to it."""

from __future__ import annotations

import functools
import os
import pickle
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

from stpredict.core._optional import optional_import

Call = tuple[Callable[..., Any], dict[str, Any]]
_LARGE = 2**16  # bytes from which an array is sent by itself, and once for all calls that hold it
_KEPT, _MAPPED = (
    256 * 2**20,
    32 * 2**20,
)  # bytes that a worker keeps free, and from which an array has memory of its own
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # as malloc.h of glibc numbers them
_TRIES = 4  # of a call whose worker was lost
_PARTS = 4  # of something that is divided, for each thread of the workers
_TURN = threading.Lock()


@contextmanager
def connected(client: Any, n_jobs: int = 1) -> Iterator[Any]:
    """The client to work with: the one given, one for an address, or `None` for none.

    A client that is made here is closed afterwards; the cluster is nobody's to close but its owner's.

    Parameters
    ----------
    client
        A `dask.distributed.Client`, or the address of a scheduler.
    n_jobs
        Processes of this machine that were asked for as well.

    Raises
    ------
    ImportError
        When dask.distributed is not installed.
    TypeError
        When it is neither.
    ValueError
        When processes of this machine were asked for, too.
    """
    check_client(client, n_jobs)
    if client is None or not isinstance(client, str):
        yield client
        return
    with optional_import("distributed", "dask").Client(client, set_as_default=False) as made:
        yield made


def check_client(client: Any, n_jobs: int = 1) -> None:
    """Raise where something is no client, or work would have to be done in two places; see :func:`connected`."""
    if client is None:
        return
    if n_jobs != 1:
        raise ValueError(
            f"expected n_jobs=1 beside a client, whose workers do the work; found n_jobs={n_jobs}; leave one of them out"
        )
    distributed = optional_import("distributed", "dask")
    if not isinstance(client, (str, distributed.Client)):
        raise TypeError(
            f"expected a dask.distributed.Client or the address of a scheduler as client; found {type(client).__name__}; "
            "make one with dask.distributed.Client(address), without asynchronous=True"
        )


class Parcel:
    """A value that several calls hold, such as a network: pickled once, whatever is in it, and so sent once.

    The arrays of a call travel by themselves, see :func:`on_workers`; those inside a network would be in every call anew.
    """

    def __init__(self, value: Any) -> None:
        import numpy as np

        packing = optional_import("cloudpickle", "dask")
        self.content: Any = np.frombuffer(packing.dumps(value, protocol=5), dtype=np.uint8)

    def open(self) -> Any:
        """The value, or on a worker a copy of it."""
        return pickle.loads(self.content)


def run_calls(client: Any, calls: Iterable[Call]) -> Iterator[Any]:
    """Results of calls in their order: made here, or by the workers of a client or of the scheduler at an address."""
    with connected(client) as there:
        yield from (
            (function(**arguments) for function, arguments in calls) if there is None else on_workers(there, calls)
        )


def divided(client: Any, n: int) -> list[slice]:
    """Slices of `n` things, a few for every thread of the workers, so that none waits long for the last."""
    size = -(-n // (_PARTS * max(1, sum(client.nthreads().values()))))
    return [slice(start, min(start + size, n)) for start in range(0, n, max(1, size))]


def on_workers(client: Any, calls: Iterable[Call]) -> Iterator[Any]:
    """Results of calls in their order, computed by the workers of a client.

    Calls are made when their turn comes, so that no more arrays are held than the workers are busy with. An array that
    several of these calls hold is sent once. A call whose worker, or whose arrays, were lost is made again; an error of its
    own is raised here, and what has not begun is dropped.

    Parameters
    ----------
    client
        A `dask.distributed.Client`.
    calls
        Functions, which must be found in a module, and their keyword arguments.
    """
    distributed = optional_import("distributed", "dask")
    waiting = enumerate(calls)
    running: dict[Any, _Sent] = {}
    done: dict[int, Any] = {}
    next_one, more = 0, True
    try:
        while more or running or done:
            while more and len(running) + len(done) < _window(client):
                found = next(waiting, None)
                if found is None:
                    more = False
                    break
                sent = _Sent(found[0], *_packed(*found[1]))
                running[sent.submit(client)] = sent
            if running and next_one not in done:
                with client.as_current(), suppress(CancelledError):  # of those that were lost: seen to below
                    distributed.wait(list(running), return_when="FIRST_COMPLETED")
            for future in [future for future in running if future.status != "pending"]:
                sent = running.pop(future)
                if future.status == "finished":
                    done[sent.number] = future.result()
                    continue
                error = future.exception() if future.status == "error" else None
                lost = error is None or isinstance(error, (distributed.KilledWorker, CancelledError))
                if not lost or sent.n_tries >= _TRIES:
                    raise (
                        error
                        if error is not None
                        else RuntimeError(
                            f"expected the workers to finish call {sent.number + 1}; found them lost {sent.n_tries} times; see their "
                            "logs: memory is the usual reason"
                        )
                    )
                running[sent.submit(client)] = sent
            while next_one in done:
                yield done.pop(next_one)
                next_one += 1
    finally:
        if running:
            client.cancel(list(running))


@dataclass
class _Sent:
    """A call that is kept until its result is here.

    Attributes
    ----------
    number
        Its place among the calls.
    body, arrays
        The call without its large arrays, and these.
    n_tries
        How often it was sent.
    held
        Futures of the arrays, which the workers keep as long as these are held.
    """

    number: int
    body: bytes
    arrays: list[Any]
    n_tries: int = 0
    held: Any = None

    def submit(self, client: Any) -> Any:
        """Send it, and return the future of its result."""
        self.n_tries += 1
        # Under a name that follows from the content, equal arrays are sent once while any call that holds them is running.
        self.held = _scattered(client, self.arrays) if self.arrays else []
        return client.submit(_call, self.body, self.held, pure=False)


def _scattered(client: Any, arrays: list[Any]) -> Any:
    """Futures of arrays; a worker that is lost while it is written to is another's turn."""
    for number in range(_TRIES - 1):
        try:
            return client.scatter(arrays, hash=True)
        except (OSError, KeyError):  # of a closed connection, or of a scheduler that no longer knows the worker
            time.sleep(2.0**number / 4)
    return client.scatter(arrays, hash=True)


def _window(client: Any) -> int:
    """Calls that are made ahead: one for every thread of the workers, and as many that wait."""
    return 2 * max(1, sum(client.nthreads().values()))


def _packed(function: Callable[..., Any], arguments: dict[str, Any]) -> tuple[bytes, list[Any]]:
    """A call as bytes, and its large arrays as bytes of their own."""
    import numpy as np

    arrays: list[Any] = []

    def take(buffer: pickle.PickleBuffer) -> bool:
        raw = buffer.raw()
        if raw.nbytes < _LARGE:
            return True  # with the rest
        arrays.append(np.frombuffer(raw, dtype=np.uint8))
        return False

    packing = optional_import("cloudpickle", "dask")  # which knows functions that others are made of, too
    return packing.dumps((function, arguments), protocol=5, buffer_callback=take), arrays


@functools.cache
def keep_memory() -> bool:
    """Let a worker keep the memory that it frees, as any other process does; whether there was something to change.

    The nanny of dask starts workers with a `MALLOC_TRIM_THRESHOLD_` of 64 kB: every temporary array is then given back to the
    system and asked for again, which doubles the time of training. Only glibc knows it.
    """
    given = os.environ.get("MALLOC_TRIM_THRESHOLD_", "")
    if not (given.isdigit() and int(given) < _KEPT and sys.platform == "linux"):
        return False
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return bool(mallopt(_TRIM_THRESHOLD, _KEPT)) and bool(mallopt(_MMAP_THRESHOLD, _MAPPED))


def _call(body: bytes, arrays: Sequence[Any]) -> Any:
    keep_memory()
    # One at a time in a process, whatever its threads: networks draw from the one generator that it has.
    with _TURN:
        function, arguments = pickle.loads(body, buffers=arrays)
        return function(**arguments)
