"""Several processes that train one network side by side: how they begin, who does what, and what they tell each other."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import socket
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

import torch

from stpredict.core._optional import mend_torchvision
from stpredict.training._config import TrainConfig

if TYPE_CHECKING:
    from stpredict.models import Predictor
    from stpredict.training._data import ArraySet

_OUTSIDE = "torchrun --nproc-per-node N script.py, or srun"


def check_processes(config: TrainConfig, data: ArraySet) -> None:
    """Raise where the target or the settings need all rows of a step in one process, or processes cannot begin."""
    if config.n_processes == 1:
        return
    what = f"one process; found devices={config.devices!r}, num_nodes={config.num_nodes}; leave these out"
    if data.kind is not None and data.kind.whole:
        raise ValueError(f"expected a target whose loss compares all observations of a step to be trained on in {what}")
    if config.auxiliary is not None:
        raise ValueError(f"expected auxiliary={config.auxiliary!r} to be trained on in {what}")
    if multiprocessing.current_process().daemon:
        raise ValueError(f"expected folds on workers, or in processes of their own, to be trained in {what}")
    if config.num_nodes > 1 and not _from_outside():
        raise ValueError(
            f"expected num_nodes={config.num_nodes} in processes that know each other; found this one alone; start one for each "
            f"device on every node: {_OUTSIDE}"
        )
    if hasattr(sys, "ps1") and config.strategy == "ddp" and not _from_outside():
        raise ValueError(
            "expected strategy 'auto' or 'ddp_spawn' in a notebook or a prompt; found 'ddp', which runs a script again for each "
            "device; leave it out"
        )


def begins_own(config: TrainConfig) -> bool:
    """Whether a fit begins its processes itself, and ends them with it."""
    return config.n_processes > 1 and (
        config.strategy == "ddp_spawn" or (config.strategy == "auto" and not _from_outside())
    )


def is_first(config: TrainConfig) -> bool:
    """Whether this process is the one of a fit that writes files: of several from outside all others have a rank above 0."""
    if config.n_processes == 1 or begins_own(config):
        return True
    ranks = [os.environ[name] for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK") if name in os.environ]
    return not ranks or int(ranks[0]) == 0


def trainer_options(config: TrainConfig, device: torch.device) -> dict[str, Any]:
    """What Lightning's trainer is told of devices and processes."""
    accelerated = device.type != "cpu"
    found: dict[str, Any] = {"accelerator": "gpu" if device.type == "cuda" else device.type}
    if config.n_processes == 1:
        return found | {"devices": [device.index or 0] if accelerated else 1}
    from lightning.pytorch.strategies import DDPStrategy

    # Which weights a step has no use for depends on the network, its stage and the target.
    strategy = DDPStrategy(find_unused_parameters=True)
    return found | {
        "devices": config.devices, "num_nodes": config.num_nodes, "strategy": strategy, "use_distributed_sampler": False,
    }  # fmt: skip


def side_by_side(
    work: Callable[..., tuple[Any, int]], network: Predictor, config: TrainConfig, **arguments: Any
) -> tuple[Any, int]:
    """Train a network in place by processes of their own, which begin and end here.

    Parameters
    ----------
    work
        Trains `network=` by `config=` and the other arguments in every process; must be found in a module.
    network
        The network, which gets the weights of the first process.
    config
        Settings.
    **arguments
        What else it is called with.

    Returns
    -------
    What it returned in the first process.

    Raises
    ------
    RuntimeError
        When one of the processes fails, with what it said.
    """
    context, n = multiprocessing.get_context("spawn"), config.n_processes
    given = {"network": network, "config": replace(config, strategy="ddp"), **arguments}
    packed = pickle.dumps(
        (work, given), protocol=5
    )  # once for all, and opened when they are ready to import what is in it
    port, threads = _free_port(), max(1, torch.get_num_threads() // n)
    ends = [context.Pipe(duplex=False) for _ in range(n)]
    processes = [
        context.Process(target=_process, args=(rank, port, threads, end, packed), daemon=True)
        for rank, (_, end) in enumerate(ends)
    ]
    try:
        with _quiet_reducer():
            for process, (_, end) in zip(processes, ends, strict=True):
                process.start()
                end.close()  # so that its death is the end of what can be read
        said: dict[int, Any] = {}
        left: dict[Any, int] = {end: rank for rank, (end, _) in enumerate(ends)}
        while left:
            for each in wait(list(left)):
                rank = left.pop(each)
                try:
                    failed, said[rank] = ends[rank][0].recv()
                except EOFError:
                    failed, said[rank] = True, _GONE
                if failed:
                    raise RuntimeError(
                        f"expected {n} processes to train side by side; found process {rank} ended: {said[rank]}"
                    )
        for process in processes:
            process.join()
    finally:
        for process in processes:
            if process.is_alive():
                process.kill()
                process.join()
    history, behind, weights = said[0]
    network.load_state_dict(torch.load(io.BytesIO(weights), weights_only=True))
    return history, behind


_GONE = (
    "it said nothing; a script has to begin its work below `if __name__ == '__main__':`, and each process takes the memory of "
    f"its own copy of the rows; or start the processes with {_OUTSIDE}"
)


def _process(rank: int, port: int, threads: int, end: Connection, packed: bytes) -> None:
    """One of the processes: what it returns, or what it raised, goes back through the pipe."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for name in ("RANK", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS"):
        os.environ.pop(name, None)
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
    try:
        mend_torchvision()
        torch.set_num_threads(threads)
        work, given = pickle.loads(packed)
        history, behind = work(**given)
        weights = io.BytesIO()
        torch.save(given["network"].state_dict(), weights)
        end.send((False, (history, behind, weights.getvalue() if rank == 0 else b"")))
    except BaseException:
        end.send((True, traceback.format_exc()))
        raise
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@contextmanager
def _quiet_reducer() -> Iterator[None]:
    """Processes that begin here do not warn of steps that have a use for all weights, which is no fault."""
    name = "TORCH_CPP_LOG_LEVEL"
    before = os.environ.get(name)
    os.environ.setdefault(name, "ERROR")
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]


def _end_with_parent() -> None:
    """A process that was killed must not leave others behind that go on writing its checkpoints."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def summed(values: list[float], device: torch.device) -> list[float]:
    """Sums of numbers over the processes."""
    total = torch.tensor(values, dtype=torch.float32 if device.type == "mps" else torch.float64, device=device)
    torch.distributed.all_reduce(total)
    return [float(value) for value in total.cpu()]


def gathered(value: Any) -> list[Any]:
    """A value of every process, by rank."""
    found: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(found, value)
    return found


def _from_outside() -> bool:
    """Whether something else has started as many processes as there are to be, and told them their ranks."""
    return "TORCHELASTIC_RUN_ID" in os.environ or ("SLURM_NTASKS" in os.environ and "SLURM_PROCID" in os.environ)
