"""The door to tables that print what matters, without pandas until one is made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stpredict.core._table import Table


def compact(frame: Any, shown: Sequence[str], *, move: bool = True) -> Table:
    """The table with these columns first, and alone in print; all stay where they are without `move`."""
    from stpredict.core._table import compact as make

    return make(frame, shown, move=move)
