"""Command line: `python -m stpredict demo` and `python -m stpredict bench align`."""

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
    bench = commands.add_parser("bench", help="benchmarks that print a table")
    benches = bench.add_subparsers(dest="bench", required=True)
    align = benches.add_parser("align", help="alignment of images and expression: recall, probes, mixing of patients")
    align.add_argument(
        "--data", type=Path, help="folder in the her2st layout, or an .h5ad file; synthetic sections when left out"
    )
    align.add_argument("--out", type=Path, default=Path("stpredict-align"), help="folder for the tables")
    align.add_argument("--images", nargs="+", default=["color-texture"], help="encoders, or slots of obsm")
    align.add_argument(
        "--controls", nargs="*", default=["color-statistics", "random-filters"],
        help="encoders or slots of obsm to have beside them, without alignment",
    )  # fmt: skip
    align.add_argument("--genes", nargs="+", default=["mlp", "pca"], help="mlp, pca, or slots of obsm")
    align.add_argument("--objectives", nargs="+", default=["clip", "siglip"], choices=["clip", "siglip"])
    align.add_argument("--batches", nargs="+", default=["across", "within"], choices=["across", "within"])
    align.add_argument("--scaling", choices=["section", "global"], help="scaling of features, see stp.tl.fit")
    align.add_argument("--folds", type=int, help="folds of patients; pairs of patients, or one by one, when left out")
    align.add_argument("--epochs", type=int, help="upper limit of epochs")
    align.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    try:
        if options.command == "demo":
            from stpredict.demo._demo import run_demo

            run_demo(options.data, options.out, n_jobs=options.jobs, seed=options.seed)
        else:
            from stpredict.core._settings import settings
            from stpredict.demo._bench_align import run_bench_align

            settings.progress = False  # the bars of a hundred fits would bury the table
            run_bench_align(
                options.data, options.out,
                images=options.images, genes=options.genes, objectives=options.objectives, batches=options.batches,
                controls=options.controls, scaling=options.scaling, n_folds=options.folds, max_epochs=options.epochs, seed=options.seed,
            )  # fmt: skip
    except (FileNotFoundError, KeyError, ValueError) as error:
        parser.exit(1, f"stpredict: {error.args[0] if error.args else error}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
