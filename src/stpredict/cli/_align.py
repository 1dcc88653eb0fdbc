"""`stpredict align`: image features and expression in one space, judged on patients that were held out."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "align images and expression, and print recall, probes and mixing of patients beside controls"
EXAMPLE = "stpredict align --data sections.h5ad --images uni2-h --genes mlp pca --out aligned"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--data", type=Path, help="folder in the her2st layout, or an .h5ad file; synthetic sections when left out"
    )
    parser.add_argument("--out", type=Path, default=Path("stpredict-align"), help="folder for the tables")
    parser.add_argument("--images", nargs="+", default=["color-texture"], help="encoders, or slots of obsm")
    parser.add_argument(
        "--controls", nargs="*", default=["color-statistics", "random-filters"],
        help="encoders or slots of obsm to have beside them, without alignment",
    )  # fmt: skip
    parser.add_argument("--genes", nargs="+", default=["mlp", "pca"], help="mlp, pca, or slots of obsm")
    parser.add_argument("--objectives", nargs="+", default=["clip", "siglip"], choices=["clip", "siglip"])
    parser.add_argument("--batches", nargs="+", default=["across", "within"], choices=["across", "within"])
    parser.add_argument("--scaling", choices=["section", "global"], help="scaling of features, see stp.tl.fit")
    parser.add_argument("--folds", type=int, help="folds of patients; pairs of patients, or one by one, when left out")
    parser.add_argument("--epochs", type=int, help="upper limit of epochs")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> int:
    """Print the table, and leave what it is made of."""
    from stpredict.core._settings import settings
    from stpredict.demo._bench_align import run_bench_align

    settings.progress = False  # the bars of a hundred fits would bury the table
    run_bench_align(
        options.data, options.out,
        images=options.images, genes=options.genes, objectives=options.objectives, batches=options.batches,
        controls=options.controls, scaling=options.scaling, n_folds=options.folds, max_epochs=options.epochs, seed=options.seed,
    )  # fmt: skip
    return 0
