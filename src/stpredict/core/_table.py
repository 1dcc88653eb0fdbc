"""Tables that print what matters and name the rest: a terminal hides the middle columns of a wide one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

_WIDEST = 44  # letters of a text


class Table(pd.DataFrame):
    """A DataFrame that prints some of its columns; what is taken or made from it is a plain DataFrame."""

    _metadata = ["shown"]
    shown: list[str]

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return pd.DataFrame

    def __repr__(self) -> str:
        """The columns that matter, and the names of the others."""
        part, rest = self._parts()
        return part.to_string(float_format=lambda value: f"{value:.3g}") + rest

    def _repr_html_(self) -> str:
        part, rest = self._parts()
        return str(part.to_html(float_format=lambda value: f"{value:.3g}")) + f"<p>{rest.strip()}</p>"

    def _parts(self) -> tuple[pd.DataFrame, str]:
        plain = pd.DataFrame(self)
        shown = [name for name in getattr(self, "shown", []) if name in plain] or list(plain.columns)
        others = [str(name) for name in plain.columns if name not in shown]
        short = plain[shown].map(_shortened)
        return short, f"\nMore columns: {', '.join(others)}" if others else ""


def _shortened(value: Any) -> Any:
    return f"{value[: _WIDEST - 1]}…" if isinstance(value, str) and len(value) > _WIDEST else value


def compact(frame: Any, shown: Sequence[str]) -> Table:
    """The table with these columns first, and alone in print."""
    first = [name for name in shown if name in frame]
    table = Table(frame[[*first, *(name for name in frame.columns if name not in first)]])
    table.shown = first
    return table
