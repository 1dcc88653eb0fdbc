"""Run fits side by side: here, in several processes or on a cluster, on a device, with a progress bar."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from stpredict.core._engine import connected, on_workers
from stpredict.core._progress import beside, listening

if TYPE_CHECKING:
    import torch

Job = tuple[Callable[..., Any], dict[str, Any]]


def run_jobs(
    jobs: Iterable[Job],
    n_total: int,
    *,
    device: torch.device,
    n_jobs: int = 1,
    threads: int | None = None,
    progress: bool = False,
    what: str = "folds",
    client: Any = None,
) -> list[Any]:
    """Call functions that fit something, each with `device=` and its own arguments.

    Jobs are made one at a time, when their turn comes: the arrays of all of them at once would be as many copies. The
    results do not depend on the number of processes.

    Parameters
    ----------
    jobs
        Functions, which must be found in a module, and their keyword arguments.
    n_total
        Number of jobs.
    device
        Device to train and predict on; on an accelerator jobs run one after the other.
    n_jobs
        Processes that work side by side.
    threads
        Threads of each job; as many as there are when `None`.
    progress
        Whether to show a progress bar.
    what
        What the bar counts.
    client
        A `dask.distributed.Client`, or the address of a scheduler, whose workers run the jobs, one each at a time.

    Returns
    -------
    Results in the order of the jobs.
    """
    from joblib import Parallel, delayed

    if client is not None:
        calls = (
            (_call, {"function": function, "arguments": arguments, "device": str(device), "threads": threads})
            for function, arguments in jobs
        )
        with connected(client, n_jobs) as there:
            return _gathered(on_workers(there, calls), n_total, progress, what)
    own = (delayed(_call)(function, arguments, str(device), threads) for function, arguments in jobs)
    results: Any = Parallel(n_jobs=n_jobs if device.type == "cpu" else 1, return_as="generator")(own)
    return _gathered(results, n_total, progress, what)


def _gathered(results: Iterable[Any], n_total: int, progress: bool, what: str) -> list[Any]:
    """Results one after the other, with a bar."""
    if not progress:
        return list(results)
    from tqdm.auto import tqdm

    with tqdm(total=n_total, desc=what, unit="fit") as bar:
        found, say = [], beside(bar)
        with listening(lambda epoch: say(str(epoch))):
            for result in results:
                found.append(result)
                bar.set_postfix_str("", refresh=False)
                bar.update()
        return found


def _call(function: Callable[..., Any], arguments: dict[str, Any], device: str, threads: int | None) -> Any:
    import torch
    from threadpoolctl import threadpool_limits

    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        with threadpool_limits(threads):
            return function(**arguments, device=torch.device(device))
    finally:
        torch.set_num_threads(before)
