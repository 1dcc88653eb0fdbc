"""From slots to arrays: everything that a network reads, by name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._people import person
from stpredict.slots._provenance import read_record
from stpredict.slots._reach import MARGIN, field_of_view
from stpredict.slots._rows import Rows
from stpredict.tl.learn.inputs._nuclei_graph import NAME as NUCLEI_GRAPH
from stpredict.tl.learn.inputs._nuclei_graph import OUTER_UM
from stpredict.tl.learn.inputs._positions import positions_um
from stpredict.tl.learn.inputs._reader import Source, readers
from stpredict.tl.learn.inputs._slots import slots_read

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.models import ModelInfo
    from stpredict.training import ArraySet

MIN_OBSERVATIONS = 3


def collect(source: Source, needs: frozenset[str]) -> ArraySet:
    """Gather what a network reads of some observations; targets are read by `tl/learn/targets`."""
    from stpredict.models import INPUTS, Panel
    from stpredict.training import ArraySet, WholeSections

    if "tokens" in needs:  # a bag is a slide
        rows = source.rows
        source = replace(source, rows=replace(rows, unit="slide", section=np.zeros_like(rows.section)))
    by_name = readers()
    missing = sorted(needs - by_name.keys())
    if missing:
        raise ValueError(f"expected a reader for every input; found none for {', '.join(missing)}")
    inputs: dict[str, dict[str, Any]] = {"row": {}, "section": {}, "gene": {}}
    whole = replace(source, rows=_whole_sections(source)) if _reads(needs, "section") else None
    done: set[str] = set()
    for name in INPUTS:
        if name not in needs or name in done or (INPUTS[name].axis == "gene" and not len(source.genes)):
            continue
        done |= set(by_name[name].names)
        origin = whole if INPUTS[name].axis == "section" and whole is not None else source
        for each, values in by_name[name].read(origin).items():
            inputs[INPUTS[each].axis][each] = values
    rows = source.rows
    if "positions" not in inputs["row"] and (positions := positions_um(source, rows)) is not None:
        inputs["row"]["positions"] = positions  # the inner validation of a single section goes by them
    return ArraySet(
        section=rows.section,
        patient=rows.person,
        inputs=inputs["row"],
        unit=rows.unit,
        whole=None
        if whole is None
        else WholeSections(whole.rows.section, np.searchsorted(whole.rows.index, rows.index), inputs["section"]),
        genes=Panel(tuple(source.genes), inputs["gene"]),
        reach_um=MARGIN
        * max((side or 0.0 for side in fields_um(source.adata, source.slots, needs, source.config)), default=0.0),
    )


def fields_um(adata: AnnData, slots: Sequence[str], needs: frozenset[str], config: Any) -> list[float | None]:
    """Sides in µm of the squares that a network reads around an observation; `None` for one that is not known."""
    sides = [field_of_view(adata, slots)]
    for slot in slots_read(needs, slots)[len(slots) :]:  # tiles around an observation
        record = read_record(adata, slot) or {}
        known = {"grid", "tile_um"} <= record.keys()
        sides.append(float(record["grid"]) * float(record["tile_um"]) if known else None)
    if "patches" in needs:
        sides.append(float(config.patch_um))
    if NUCLEI_GRAPH in needs:
        sides.append(float(config.patch_um) + 2 * OUTER_UM)
    return sides


def _reads(needs: frozenset[str], axis: str) -> bool:
    from stpredict.models import INPUTS

    return any(INPUTS[name].axis == axis for name in needs)


def _whole_sections(source: Source) -> Rows:
    """All observations of the sections of a source, in the codes of its rows; those among these are the measured ones."""
    rows, adata = source.rows, source.adata
    sample = adata.obs[source.sample_key].astype(str).to_numpy()
    code = dict(zip(rows.sample, rows.section, strict=True))
    index = np.flatnonzero(np.isin(sample, list(code)))
    section = np.array([code[name] for name in sample[index]], dtype=np.int64)
    nobody = np.zeros(len(index), dtype=np.int64)
    own, yes = np.isin(index, rows.index), np.ones(len(index), dtype=bool)
    return Rows(index, sample[index], nobody.astype(str), section, nobody, own, yes, rows.unit)


def with_lattice(adata: AnnData, info: ModelInfo, hyperparameters: Any) -> dict[str, Any]:
    """Hyperparameters of a network on grids, with the lattice that :func:`stpredict.pp.grid` found unless one is given.

    Where sections differ in lattice, no symmetry is theirs in common, and none is used.
    """
    from dataclasses import fields

    chosen = info.options(hyperparameters)
    found = set(((read_record(adata, "grid") or {}).get("lattice") or {}).values())
    if "lattice" in {field.name for field in fields(info.config)} and "lattice" not in chosen and found:
        chosen |= {"lattice": found.pop()} if len(found) == 1 else {"augment": False} | chosen
    return chosen


def identities(names: Iterable[str]) -> np.ndarray:
    """A number (n_obs,) int64 of the name of each observation, whichever others there are: what is drawn for it depends on it."""
    import pandas as pd

    return pd.util.hash_array(np.asarray(list(map(str, names)), dtype=object)).astype(np.int64)


def patient_codes(patients: np.ndarray, known: Sequence[str]) -> np.ndarray:
    """Number of each observation's patient among those a model knows, -1 for others: (n_obs,) int64."""
    number = {person(name): code for code, name in enumerate(known)}
    names, at = np.unique(np.asarray(patients).astype(str), return_inverse=True)
    return np.array([number.get(person(name), -1) for name in names], dtype=np.int64)[at]
