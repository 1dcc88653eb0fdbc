"""`stpredict encoders`: the encoders of images there are."""

from __future__ import annotations

import argparse

HELP = "list the encoders of images"
EXAMPLE = "stpredict encoders 'uni*'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("pattern", nargs="?", default="*", help="names to list, with the wildcards * and ?")
    parser.add_argument("--csv", action="store_true", help="print all columns, separated by commas")


def run(options: argparse.Namespace) -> int:
    """Print the table."""
    from fnmatch import fnmatchcase

    from stpredict.cli._tables import print_table
    from stpredict.encoders import get_encoder, list_encoders

    table = list_encoders()
    table = table[[fnmatchcase(name, options.pattern) for name in table.index]]
    if not len(table):
        get_encoder(options.pattern)  # says which names there are
    print_table(table, ["dim", "tile_px", "tile_um", "gated", "license"], csv=options.csv)
    return 0
