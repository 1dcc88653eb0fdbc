"""Functions that take a cohort by going through it section by section."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeGuard

from stpredict.cohorts._cohort import Cohort


def is_cohort(data: Any) -> TypeGuard[Cohort]:
    """Whether what a function was given is a cohort on disk."""
    return isinstance(data, Cohort)


def write_sections(function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """Call a function that writes into a section on every section of a cohort, and put each back in its file.

    What it writes must not depend on other sections. `arguments` are those of the function by name, its `locals()` as it
    begins, `data` among them. Returns `None`, as the function does. See :meth:`stpredict.Cohort.map`, which goes on after an
    interruption.
    """
    given = dict(arguments)
    cohort, client = given.pop("data"), given.pop("client", None)
    if given.get("copy"):
        raise ValueError(
            "expected copy=False for a cohort, whose sections are changed in their files; found copy=True; copy these first: "
            "cohort.write(folder)"
        )
    shown = {"progress": False} if "progress" in given else {}
    how: dict[str, Any] = {"write": True, "progress": given.get("progress"), "client": client}
    cohort.call(function, (), with_keys(cohort, function, given) | shown, **how)
    return None


def with_keys(cohort: Cohort, function: Callable[..., Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a function, with the names of columns and tables of the cohort where they are the default."""
    known = {"sample_key": cohort.sample_key, "patient_key": cohort.patient_key, "table_key": cohort.table_key}
    parameters = inspect.signature(function).parameters
    own = {
        name: value
        for name, value in known.items()
        if name in parameters and given.get(name, parameters[name].default) == parameters[name].default
    }
    return {**given, **own}
