"""`stpredict models`: the networks there are, or one of them."""

from __future__ import annotations

import argparse

HELP = "list the networks, or what one of them reads and how it can be set"
EXAMPLE = """stpredict models 'hist*'
stpredict models ridge"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("pattern", nargs="?", default="*", help="names to list, with the wildcards * and ?")
    parser.add_argument("--csv", action="store_true", help="print all columns, separated by commas")


def run(options: argparse.Namespace) -> int:
    """Print the table; where the pattern is a name, all of its row and its hyperparameters."""
    from stpredict.cli._tables import print_table
    from stpredict.models import get_model, list_models

    table = list_models(options.pattern)
    if not len(table):
        get_model(options.pattern)  # says which names there are
    if options.pattern in table.index and not options.csv:
        from dataclasses import asdict

        row = {name: value for name, value in table.loc[options.pattern].items() if value != ""}
        settings = asdict(get_model(options.pattern).configure(None))
        shown = {"name": options.pattern, **row, "hyperparameters": ""} | {f"  {k}": v for k, v in settings.items()}
        width = max(map(len, shown))
        print("\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in shown.items()))
        return 0
    print_table(table, csv=options.csv)
    return 0
