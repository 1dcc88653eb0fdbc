"""Scores of the sections of a cohort on disk, one section in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from stpredict.cohorts import Cohort
from stpredict.cohorts._on_sections import with_keys
from stpredict.slots._container import get_table
from stpredict.slots._unit import unit_of

if TYPE_CHECKING:
    import pandas as pd


class NothingMeasuredError(KeyError):
    """No predicted section of a call was measured."""


def score_sections(function: Callable[..., pd.DataFrame], arguments: Mapping[str, Any]) -> pd.DataFrame:
    """What a function that scores every section by itself gives of all sections of a cohort, one below the other.

    Unmeasured sections are left out. Slides and genes, which are scored together, are taken into memory without their features.
    """
    import pandas as pd

    given = dict(arguments)
    cohort: Cohort = given.pop("data")
    client, show = given.pop("client", None), given.get("progress")
    given = with_keys(cohort, function, given)
    table = get_table(cohort[cohort.names[0]], cohort.table_key)
    if unit_of(table) != "observation":
        return function(cohort.to_adata(features=False), **given)

    if "progress" in given:  # one bar, of the sections
        given["progress"] = False

    def scored(section: Any) -> pd.DataFrame:
        try:
            return function(section, **given)
        except NothingMeasuredError:
            return pd.DataFrame()

    found = [each for each in cohort.map(scored, write=False, client=client, progress=show).values() if len(each)]
    if not found:
        raise NothingMeasuredError("expected measured expression of at least one predicted section; found none")
    joined = pd.concat(found, ignore_index=True)
    joined.attrs = dict(found[0].attrs)
    return joined
