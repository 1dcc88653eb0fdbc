"""Damage files of many kinds, and print what became of each: `python -m faults [--n 10000] [--kinds h5,mtx]`."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # workers are forked
os.environ["TQDM_DISABLE"] = "1"

import argparse
import json
import sys
import time
from dataclasses import asdict

from ._runner import failures, run_all, table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--n", type=int, help="damages in all; those of the quick run by default")
    parser.add_argument("--kinds", help="names or groups of kinds, separated by commas; all by default")
    parser.add_argument("--first", type=int, default=0, help="first seed")
    parser.add_argument("--json", help="file for every outcome")
    options = parser.parse_args()

    import stpredict as stp

    from ._kinds import GROUPS, kinds_of, warm

    stp.settings.device, stp.settings.progress = "cpu", False
    kinds = kinds_of(options.kinds.split(",") if options.kinds else list(GROUPS))
    warm(kinds)
    share = 1.0 if options.n is None else options.n / sum(kind.n for kind in kinds)
    outcomes = []
    for kind in kinds:
        start = time.process_time() + sum(os.times()[2:4])
        outcomes += run_all([kind], {kind.name: -int(-kind.n * share // 1)}, options.first)
        print(f"{kind.name}: {time.process_time() + sum(os.times()[2:4]) - start:.1f} s", file=sys.stderr, flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump([asdict(outcome) for outcome in outcomes], file)
    print(table(outcomes))
    if wrong := failures(outcomes):
        print(wrong)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
