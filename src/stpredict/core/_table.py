"""Tables that print what matters and name the rest: a terminal hides the middle columns of a wide one."""

from __future__ import annotations

import functools
import re
import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

_WIDEST, _NARROWEST = 44, 20  # letters of a text; where there is little room, at least
_TERMINAL = 100  # letters of a line where there is no terminal
_LONGEST = 60  # rows of a table that is printed whole, and
_ENDS = 10  # rows of either end of a longer one
_MARKS = ("leaky",)  # columns that are never left out for want of room: what a score is worth depends on them
_KEPT = (
    "head",
    "tail",
    "sort_values",
    "nlargest",
    "nsmallest",
    "query",
    "round",
)  # of these a table prints as the whole does
_SMALL = re.compile(r"^(p|q|fdr)(_|$)|_(p|q)$")  # columns whose small values differ in their power of ten


class _Print(type):
    """Type of a table that differs from a DataFrame in print alone: whoever asks for it gets along with any DataFrame.

    `pandas.testing.assert_frame_equal` does, and would tell a table from one with the same values.
    """

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, pd.DataFrame)


class Table(pd.DataFrame, metaclass=_Print):
    """A DataFrame that prints some of its columns, and the ends of a long one.

    Some or all of its rows in another order print so too; what else is taken from it is a plain DataFrame.
    """

    _metadata = ["shown"]
    shown: list[str]

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return pd.DataFrame

    def __repr__(self) -> str:
        """As many of the columns that matter as a line has room for, and the names of the others."""
        part = self._part()
        long = len(part) > _LONGEST
        width = max(60, shutil.get_terminal_size((_TERMINAL, 24)).columns)
        lines, used = _fitted(pd.concat([part.iloc[:_ENDS], part.iloc[-_ENDS:]]) if long else part, width)
        if long:
            lines.insert(len(lines) - _ENDS, "...")
        return "\n".join([*lines, *self._rest(used, width)])

    def _repr_html_(self) -> str:
        part = self._part()
        form: Any = {
            "float_format": lambda value: f"{value:.3g}",
            "max_rows": 2 * _ENDS if len(part) > _LONGEST else None,
        }
        text = part.map(lambda value: _cut(value, _WIDEST)).to_html(**form)
        return text + "".join(f"<p>{line}</p>" for line in self._rest(part.columns, 10**6))

    def _part(self) -> pd.DataFrame:
        """The columns that matter, without those that have no value: these have nothing to say."""
        plain = pd.DataFrame(self)
        shown = [name for name in getattr(self, "shown", []) if name in plain] or list(plain.columns)
        return plain[[name for i, name in enumerate(shown) if i == 0 or not len(plain) or plain[name].notna().any()]]

    def _rest(self, used: Any, width: int) -> list[str]:
        """What is not shown: the number of the rows of a long table, and the other columns."""
        others = [str(name) for name in self.columns if name not in used]
        text = textwrap.wrap("More columns: " + ", ".join(others), width, subsequent_indent="  ") if others else []
        return [*([f"{len(self):,} rows"] if len(self) > _LONGEST else []), *text]


def _keeping(name: str) -> Callable[..., Any]:
    """A method of DataFrames whose result prints as the table does."""

    @functools.wraps(getattr(pd.DataFrame, name))
    def method(self: Table, *args: Any, **options: Any) -> Any:
        found = getattr(pd.DataFrame, name)(self, *args, **options)
        return found if found is None else compact(found, getattr(self, "shown", []), move=False)

    return method


for _name in _KEPT:
    setattr(Table, _name, _keeping(_name))


def compact(frame: Any, shown: Sequence[str], *, move: bool = True) -> Table:
    """The table with these columns first, and alone in print; all stay where they are without `move`."""
    first = [name for name in shown if name in frame]
    others = [name for name in frame.columns if name not in first]
    table = Table(frame[[*first, *others]] if move else frame)
    table.attrs = dict(frame.attrs)
    table.shown = first
    _make_writable()
    return table


@functools.cache
def _make_writable() -> None:
    """Let anndata write these tables as the DataFrames that they are: it looks for a writer by the very type.

    It has no public way to add one. Where another version keeps its writers elsewhere, `pd.DataFrame(table)` can be written.
    """
    try:
        from anndata._io.specs.registry import _REGISTRY as known

        for target, kind, modifiers in list(known.write):
            if kind is pd.DataFrame:
                known.write[target, Table, modifiers] = known.write[target, kind, modifiers]
        known.write_specs[Table] = known.write_specs[pd.DataFrame]
    except (ImportError, AttributeError, KeyError, TypeError):
        pass


def _fitted(part: pd.DataFrame, width: int) -> tuple[list[str], list[Any]]:
    """Lines of a table that are no wider than a terminal, and the columns that have room in them.

    Names of columns are broken first, then texts are cut, then columns are left out, from the right.
    """
    index = [str(part.index.name or ""), *map(str, part.index)]
    cells = {name: _texts(part[name], str(name)) for name in part.columns}
    names = list(part.columns)
    most, broken = _WIDEST, False
    while True:
        columns = {name: [_cut(text, most) for text in cells[name]] for name in names}
        heads = {name: _broken(str(name), columns[name]) if broken else [str(name)] for name in names}
        wide = {name: max(map(len, [*heads[name], *columns[name]])) for name in names}
        first = max(map(len, index))
        if first + sum(wide.values()) + len(names) <= width or len(names) <= 1:
            break
        if not broken:
            broken = True
        elif most > _NARROWEST and any(len(text) > _NARROWEST for name in names for text in cells[name]):
            most -= 4
        else:
            last = max(i for i, name in enumerate(names) if name not in _MARKS or len(names) == 1)
            names, most = [*names[:last], *names[last + 1 :]], _WIDEST
    height = max((len(heads[name]) for name in names), default=1)
    rows = [[""] * (height - len(heads[name])) + heads[name] + columns[name] for name in names]
    left = [""] * (height - 1) + index
    lines = [
        " ".join(
            [left[i].ljust(first), *(row[i].rjust(wide[name]) for name, row in zip(names, rows, strict=True))]
        ).rstrip()
        for i in range(len(left))
    ]
    return lines, names


def _broken(name: str, below: Sequence[str]) -> list[str]:
    """A name in lines that end at its underscores, as few as the width of what is below has room for."""
    pieces = re.findall(r"[^_]*_+|[^_]+", name) or [name]
    width = max(map(len, [*pieces, *below]))
    lines = pieces[:1]
    for piece in pieces[1:]:
        if len(lines[-1]) + len(piece) <= width:
            lines[-1] += piece
        else:
            lines.append(piece)
    return lines


def _cut(value: Any, most: int) -> Any:
    return f"{value[: most - 1]}…" if isinstance(value, str) and len(value) > most else value


def _texts(column: pd.Series, name: str) -> list[str]:
    """Values of a column as text: numbers with the decimals that three digits of the largest take."""
    if pd.api.types.is_float_dtype(column.dtype) and not _SMALL.search(name):
        values = column.to_numpy(dtype=float, na_value=np.nan)
        largest = float(np.max(np.abs(values[np.isfinite(values)]), initial=0.0))
        if 1e-5 <= largest < 1e5:
            decimals = int(np.clip(2 - np.floor(np.log10(largest)), 0, 3 if largest >= 0.01 else 7))
            if name.startswith("n_") and (values[np.isfinite(values)] % 1 == 0).all():
                decimals = 0  # counts, some of which are not known
            texts = [f"{value:.{decimals}f}" if np.isfinite(value) else str(value) for value in values]
            return ["NaN" if text == "nan" else text.lstrip("-") if not text.strip("-0.") else text for text in texts]
    return [f"{value:.3g}".replace("nan", "NaN") if isinstance(value, float) else _plain(value) for value in column]


def _plain(value: Any) -> str:
    return "" if value is None else str(value)
