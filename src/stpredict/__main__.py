"""Command line: `python -m stpredict demo`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = argparse.ArgumentParser(prog="stpredict", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser("demo", help="predict, judge and look at expression on synthetic or real sections")
    demo.add_argument("--data", type=Path, help="folder in the her2st layout; synthetic sections when left out")
    demo.add_argument(
        "--out", type=Path, default=Path("stpredict-demo"), help="folder for tables, figures and the report"
    )
    demo.add_argument("--jobs", type=int, default=2, help="processes for the cross-validation")
    demo.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        from stpredict.demo._demo import run_demo

        run_demo(options.data, options.out, n_jobs=options.jobs, seed=options.seed)
    except (FileNotFoundError, KeyError, ValueError) as error:
        parser.exit(1, f"stpredict: {error.args[0] if error.args else error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
