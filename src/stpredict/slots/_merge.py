"""Records of several objects as one: what was made alike is kept, what was made differently is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from stpredict.core._validate import few
from stpredict.slots._content import N_ROWS, SEAL

#: Of one call, and no part of how something was made.
_INCIDENTAL = frozenset({"stpredict_version"})
_REMEMBERED = frozenset({SEAL, N_ROWS})  # some rows of each section; parts of one section remember others
_SUMMED = frozenset({"n_empty"})


def merged(key: str, records: Mapping[str, Mapping[str, Any]], call: str) -> dict[str, Any]:
    """One record of several, by the name of their object.

    What is said section by section is joined, numbers of observations are added up.

    Raises `ValueError` where something else differs: the message names the objects and both values.
    """
    fields = list(dict.fromkeys(field for record in records.values() for field in record))
    result: dict[str, Any] = {}
    for field in fields:
        values = {name: record.get(field) for name, record in records.items()}
        found = [value for value in values.values() if value is not None]
        if field in _SUMMED:
            result[field] = sum(found)
        elif field in _REMEMBERED:
            result[field] = {section: value for entry in reversed(found) for section, value in entry.items()}
        elif all(isinstance(value, Mapping) for value in found) and all(records.values()):
            result[field] = _by_section(key, field, values, call)
        elif all(same(value, found[0]) for value in found) and len(found) == len(values):
            result[field] = found[0]
        elif field not in _INCIDENTAL:
            _refuse(f"{key!r}, {field}", values, call)
    return result


def shared(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What all records say alike."""
    first, *others = records
    return {
        field: value
        for field, value in first.items()
        if all(field in other and same(other[field], value) for other in others)
    }


def same(one: Any, other: Any) -> bool:
    """Whether two values of a record, or of `uns["spatial"]`, are equal."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    try:
        return bool(np.array_equal(one, other))
    except (TypeError, ValueError):
        return False


def _by_section(key: str, field: str, values: Mapping[str, Any], call: str) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    owner: dict[str, str] = {}
    for name, entry in values.items():
        for section, value in (entry or {}).items():
            if section in joined and not same(joined[section], value):
                _refuse(f"{key!r}, {field} of {section!r}", {owner[section]: joined[section], name: value}, call)
            joined[section], owner[section] = value, name
    return joined


def _refuse(what: str, values: Mapping[str, Any], call: str) -> None:
    """Name two objects that differ, with what each says."""
    (first, one), *rest = values.items()
    second, other = next((name, value) for name, value in rest if not same(value, one))
    raise ValueError(
        f"expected objects that were made alike; found in the record of {what}: {_shown(one)} in {first!r} and "
        f"{_shown(other)} in {second!r}; {call}"
    )


def _shown(value: Any) -> str:
    if value is None:
        return "nothing"
    return few(value) if isinstance(value, (list, tuple)) else repr(value)
