"""`stpredict demo`: everything from end to end."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "predict, judge and look at expression on synthetic or real sections"
EXAMPLE = "stpredict demo --out demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("--data", type=Path, help="folder in the her2st layout; synthetic sections when left out")
    parser.add_argument(
        "--out", type=Path, default=Path("stpredict-demo"), help="folder for tables, figures and the report"
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes for the cross-validation")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> int:
    """Run the demonstration."""
    from stpredict.demo._demo import run_demo

    run_demo(options.data, options.out, n_jobs=options.jobs, seed=options.seed)
    return 0
