"""Tables that print what matters and name the rest: a terminal hides the middle columns of a wide one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

_WIDEST = 44  # letters of a text
_LONGEST = 60  # rows of a table that is printed whole, and
_ENDS = 10  # rows of either end of a longer one


class Table(pd.DataFrame):
    """A DataFrame that prints some of its columns, and the ends of a long one; what is taken from it is a plain DataFrame."""

    _metadata = ["shown"]
    shown: list[str]

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return pd.DataFrame

    def __repr__(self) -> str:
        """The columns that matter, and the names of the others."""
        part, rest = self._parts()
        return str(part.to_string(**self._form())) + "".join(f"\n{line}" for line in rest)

    def _repr_html_(self) -> str:
        part, rest = self._parts()
        return str(part.to_html(**self._form())) + "".join(f"<p>{line}</p>" for line in rest)

    def _form(self) -> dict[str, Any]:
        return {"float_format": lambda value: f"{value:.3g}", "max_rows": 2 * _ENDS if len(self) > _LONGEST else None}

    def _parts(self) -> tuple[pd.DataFrame, list[str]]:
        plain = pd.DataFrame(self)
        shown = [name for name in getattr(self, "shown", []) if name in plain] or list(plain.columns)
        others = [str(name) for name in plain.columns if name not in shown]
        short = plain[shown].map(_shortened)
        rest = [f"{len(plain):,} rows"] if len(plain) > _LONGEST else []
        return short, [*rest, f"More columns: {', '.join(others)}"] if others else rest


def _shortened(value: Any) -> Any:
    return f"{value[: _WIDEST - 1]}…" if isinstance(value, str) and len(value) > _WIDEST else value


def compact(frame: Any, shown: Sequence[str]) -> Table:
    """The table with these columns first, and alone in print."""
    first = [name for name in shown if name in frame]
    table = Table(frame[[*first, *(name for name in frame.columns if name not in first)]])
    table.shown = first
    return table
