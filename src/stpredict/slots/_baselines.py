"""Which comparators a call is about: the word `baselines` means the same in every function."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

Baselines: TypeAlias = "bool | str | Sequence[str]"


def chosen_baselines(baselines: Baselines, known: Iterable[str]) -> list[str]:
    """Names behind `baselines`: all that are known for `True`, none for `False`, or those that are given."""
    if isinstance(baselines, bool):
        return list(known) if baselines else []
    return [baselines] if isinstance(baselines, str) else [str(name) for name in baselines]
