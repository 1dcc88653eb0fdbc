"""Memory and time of `seq2exp` on windows of DNA, up to 200 kb, by the size of the parts that go through a recurrence.

Prints, for every window and chunk, the highest memory beyond what the process held before, in a process of its own, and
the time of one prediction, or with `--train` of one step with its way back. The network is drawn, not trained.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time

SIZES = {
    "default": {},
    "paper": {"dim": 128, "depth": 4, "d_state": 16},
}


def measure(length: int, chunk: int, sizes: str, *, train: bool) -> str:
    """One line: peak in MB and seconds, of this process."""
    import torch

    import stpredict as stp

    torch.set_num_threads(1)
    options = {**SIZES[sizes], "chunk": chunk}
    network = stp.models.build("seq2exp", 1, {"signals": 3}, hyperparameters=options, seed=0)
    none = torch.zeros(1, dtype=torch.long)
    inputs = {
        "sequence": torch.randint(0, 4, (1, length), dtype=torch.uint8),
        "signals": torch.rand(1, length, 3),
        "sequence_mask": torch.zeros(1, length, dtype=torch.int8),
    }
    batch = stp.models.Batch(none, none, inputs, target=torch.zeros(1, 1))
    network.train(train)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if train:
        network.loss(network(batch), batch)["total"].backward()
    else:
        with torch.inference_mode():
            network(batch)
    seconds = time.perf_counter() - start
    peak = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return f"{length:>8,}{chunk:>9,}{peak:>10.0f}{peak * 1e6 / length / 1e3:>12.2f}{seconds:>9.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[2_000, 20_000, 200_000])
    parser.add_argument("--chunks", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--sizes", choices=SIZES, default="default")
    parser.add_argument("--train", action="store_true", help="one step of training instead of a prediction")
    parser.add_argument("--one", nargs=2, type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(measure(*options.one, options.sizes, train=options.train))
        return
    what = "a step of training" if options.train else "a prediction"
    print(f"one window, sizes: {options.sizes}, {what}, one thread", flush=True)
    print(f"{'bases':>8}{'chunk':>9}{'peak MB':>10}{'kB a base':>12}{'seconds':>9}", flush=True)
    for length in options.lengths:
        for chunk in options.chunks:
            command = [sys.executable, __file__, "--one", str(length), str(chunk), "--sizes", options.sizes]
            subprocess.run(command + ["--train"] * options.train, check=True)


if __name__ == "__main__":
    main()
