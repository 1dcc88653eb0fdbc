"""`stpredict report`: one page about an object."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "write one HTML page about an object: quality, scores where something was measured, maps, domains"
EXAMPLE = """stpredict report predicted.h5ad --out report.html
stpredict report maps/slide.zarr --genes ERBB2 GNAS"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("object", type=Path, help="AnnData (.h5ad, .zarr), or a map of `stpredict predict`")
    parser.add_argument("--out", type=Path, help="file of the page; {object}.html beside the object when left out")
    parser.add_argument("--key", help="slot of the prediction; the first there is when left out")
    parser.add_argument("--genes", nargs="+", help="genes to show; those whose prediction varies most when left out")
    parser.add_argument("--seed", type=int, default=0)


def run(options: argparse.Namespace) -> int:
    """Write the page, and say where it is."""
    from stpredict.cli._objects import read_object
    from stpredict.core._settings import settings
    from stpredict.report._object import write_object_report

    settings.progress = False
    path = options.out or options.object.with_suffix(".html")
    adata = read_object(options.object)
    name = options.object.name
    print(write_object_report(adata, path, name=name, key=options.key, genes=options.genes, seed=options.seed))
    return 0
