"""Tables in print and in files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict.core._atomic import new_file

if TYPE_CHECKING:
    import pandas as pd


def print_table(table: pd.DataFrame, shown: Sequence[str] = (), *, csv: bool = False) -> None:
    """Print a table, or some of its columns; all of them, and exactly, as comma-separated values."""
    if csv:
        print(table.to_csv(), end="")
    else:
        print(repr(table) if not shown else table[[name for name in shown if name in table]].to_string())


def write_table(table: pd.DataFrame, path: Path) -> None:
    """Write a table at once: separated by tabs where the name of the file ends in `.tsv`, by commas otherwise."""
    with new_file(path) as fresh:
        table.to_csv(fresh, index=False, sep="\t" if path.suffix == ".tsv" else ",")
