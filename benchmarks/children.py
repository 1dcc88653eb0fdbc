"""Steps of a benchmark, each in a process of its own: what `large.py` and `large_slide.py` share."""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

GB = 1024**2  # kB, as Linux counts them


def options_of(
    about: str, sizes: Sequence[int], genes: int, steps: Sequence[str], choices: Sequence[str]
) -> argparse.Namespace:
    """Options of the command line, with those of a child."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(sizes))
    parser.add_argument("--genes", type=int, default=genes)
    parser.add_argument("--steps", nargs="+", default=list(steps), choices=choices)
    parser.add_argument("--keep", type=Path, help="folder in which what was made stays, to run other steps on it")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    warnings.simplefilter("ignore")
    return parser.parse_args()


def run_steps(
    script: str,
    options: argparse.Namespace,
    unit: str,
    steps_in: Callable[[Path], list[str]],
    work: Callable[[str, Path, int, int], tuple[int, float] | None],
) -> None:
    """Print a row for each step and size.

    Parameters
    ----------
    script
        File of the benchmark, which the children run.
    options
        See :func:`options_of`.
    unit
        What a size counts, such as "bins".
    steps_in
        Steps to run in a folder, those that prepare it first.
    work
        Does a step (its name, the folder, size and genes) in a child. Returns how many units there were, and seconds of the
        processor; `None` of a step without a row.
    """
    if options.child:
        name, folder = options.child
        result = work(name, Path(folder), options.sizes[0], options.genes)
        if result is not None:
            print("result", *result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / GB)
        return
    print(f"{options.genes} genes, one thread")
    print(f"| step | {unit} | CPU s | ms per 1,000 {unit} | GB at most |\n|---|---:|---:|---:|---:|", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        for size in options.sizes:
            folder = (options.keep or Path(temporary)) / f"{size}x{options.genes}"
            folder.mkdir(parents=True, exist_ok=True)
            for step in steps_in(folder):
                child = [sys.executable, script, "--child", step, str(folder)]
                child += ["--sizes", str(size), "--genes", str(options.genes)]
                found = subprocess.run(child, stdout=subprocess.PIPE, text=True, check=True).stdout
                if "result" in found:
                    n, seconds, peak = map(float, found.rsplit("result", 1)[1].split())
                    per = seconds / n * 1e6
                    print(f"| {step} | {n:,.0f} | {seconds:.1f} | {per:.0f} | {peak:.1f} |", flush=True)


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds of the processor that a call takes."""
    start = time.process_time()
    call()
    return time.process_time() - start
