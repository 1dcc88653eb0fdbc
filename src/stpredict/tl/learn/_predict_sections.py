"""Predict the sections of a cohort on disk, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stpredict.cohorts import Cohort
from stpredict.cohorts._calls import call_digest
from stpredict.cohorts._on_sections import with_keys
from stpredict.cohorts._section_files import kind_of, signature, table_in, write_section
from stpredict.get import predicted
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._provenance import write_record
from stpredict.tl.learn._members import find_models
from stpredict.tl.learn.targets._base import slots_of

_SOURCE = "section"  # record of what a stored prediction was made of


def predict_sections(function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Predict every section into its file, or, where a `store` is named, into `{store}/{section}.zarr`.

    Sections that the same models have predicted, and that were not changed since, are left alone.
    """
    given = dict(arguments)
    cohort: Cohort = given.pop("data")
    store, show, client = given.pop("store"), given.pop("progress"), given.pop("client")
    if given["copy"]:
        raise ValueError(
            "expected copy=False for a cohort; found copy=True; name a folder for the predictions with `store=`, or copy the "
            "sections first: cohort.write(folder)"
        )
    if given["model"] is None:
        raise ValueError(
            "expected the model to predict a cohort with; found none; pass what stp.tl.fit returned, or its path"
        )
    given["model"] = find_models(cohort, given["model"], cohort.table_key)  # read once
    given = with_keys(cohort, function, given) | {"progress": False}
    if store is None:
        cohort.call(function, (), given, write=True, progress=show, client=client)
        return
    if given["n_samples"]:
        raise ValueError(
            f"expected no n_samples with `store=` for a cohort; found {given['n_samples']}; leave the store out"
        )
    target = given["model"][0].target
    if not target.quantities:
        raise ValueError(
            f"expected a model of expression or values for `store=`; found one of {target.kind.replace('_', '-')}; leave it out"
        )
    key = given["key_added"] or slots_of(target.kind).key(target)
    Path(store).mkdir(parents=True, exist_ok=True)

    asked = call_digest((), given)
    places, marks = {}, {}
    for name in cohort:
        place = Path(store) / f"{cohort.paths[name].name.split('.')[0]}.zarr"
        own = {"call": str(asked), "signature": signature(cohort.paths[name], cohort.table_key)}
        if asked is None or _marks_of(place) != own:
            places[name], marks[name] = place, own
    if not places:
        return
    how = {"function": function, "given": given, "key": key, "keys": (cohort.sample_key, cohort.table_key)}
    cohort[list(places)].call(_stored, (places, marks), how, write=False, progress=show, client=client)


def _stored(
    section: Any,
    places: Mapping[str, Path],
    marks: Mapping[str, Mapping[str, str]],
    *,
    function: Callable[..., Any],
    given: Mapping[str, Any],
    key: str,
    keys: tuple[str, str],
) -> bool:
    """Predict a section, and write its prediction to its place."""
    sample_key, table_key = keys
    function(section, **given)
    name = str(get_table(section, table_key).obs[sample_key].iloc[0])
    table = predicted(section, key, table_key=table_key)
    write_record(table, _SOURCE, marks[name])
    write_section(table, places[name], Key.TABLE)
    return True


def _marks_of(place: Path) -> dict[str, str] | None:
    """What a stored prediction was made of and by; `None` where there is none."""
    if kind_of(place) is None:
        return None
    from anndata.io import read_elem

    with table_in(place, Key.TABLE) as table:
        found = table.get(f"uns/{Key.UNS}/{_SOURCE}")
        record: Any = {} if found is None else read_elem(found)
    return {name: str(record.get(name)) for name in ("call", "signature")}
