"""Who is who: people are compared by value, whatever the spelling of their names, and shown as they are written."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from decimal import Decimal
from typing import Any

import numpy as np

# Whole or decimal numbers, and the powers of ten that a column of floats writes.
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?(e\+[0-9]{2})?")
# At the end of a part of a name: zeros before a number, and the ".0" that a column of floats appends to a whole one.
_PADDING = re.compile(r"(?<![0-9.])0+(?=[0-9]+(?![0-9a-z.]))")
_WHOLE = re.compile(r"(?<=[0-9])\.0+$")


def person(name: Any) -> str:
    """What a name is compared by: `1`, `1.0` and `"1"` are one person, and so are `"P1"`, `" P1 "` and `"p1"`.

    Numbers are compared by their value, text without regard to case, to white space around and repeated within it, to
    characters that do not show, to how letters with accents are encoded, and to how its last number is written: `"P01"` and
    `"P1.0"` are `"P1"`.
    """
    text = unicodedata.normalize("NFKC", str(name))
    text = "".join(c for c in text if c.isspace() or unicodedata.category(c) not in {"Cc", "Cf"})
    text = " ".join(text.split()).casefold()
    if not _NUMBER.fullmatch(text):
        return _PADDING.sub("", _WHOLE.sub("", text))
    value = Decimal(text)
    return str(int(value)) if value == int(value) else format(value, "f").rstrip("0")


def one_name(names: Any) -> np.ndarray:
    """Names (n,) as text, with one spelling for each person: the shortest, and of these the first in the alphabet.

    Names that are written in one way only come back as they are.
    """
    text = names.astype(str).to_numpy() if hasattr(names, "to_numpy") else np.asarray(names).astype(str)
    spelled: dict[str, list[str]] = {}
    for name in np.unique(text).tolist():
        spelled.setdefault(person(name), []).append(str(name))
    shown = {
        other: best
        for group in spelled.values()
        if len(group) > 1
        for best in [min(group, key=lambda name: (len(name), name))]
        for other in group
    }
    return np.array([shown.get(name, name) for name in text.tolist()], dtype=object) if shown else text


def among(names: Iterable[Any], others: Iterable[Any]) -> np.ndarray:
    """Mask (n,) of the names of people who are among others."""
    known = {person(name) for name in others}
    memory: dict[Any, bool] = {}
    found = []
    for name in names:
        if name not in memory:
            memory[name] = person(name) in known
        found.append(memory[name])
    return np.array(found, dtype=bool)


def strangers(names: Iterable[Any], others: Iterable[Any]) -> list[str]:
    """Names, sorted and once per person, of those who are not among others."""
    listed = sorted(set(one_name(np.array([str(name) for name in names], dtype=object)).tolist()))
    return [name for name, known in zip(listed, among(listed, others), strict=True) if not known]
