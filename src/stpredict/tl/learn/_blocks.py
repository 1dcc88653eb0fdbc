"""Folds within a section: how wide their buffer must be, whether it is, and what each side of one may see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts import Fold, spatial_blocks
from stpredict.core._apart import gaps_um
from stpredict.core._standardized import standardized
from stpredict.core._validate import few
from stpredict.slots._marks import UNKNOWN
from stpredict.slots._people import among, one_name
from stpredict.slots._reach import MARGIN, section_um
from stpredict.targets import Expression
from stpredict.tl.learn.inputs._collect import fields_um
from stpredict.tl.learn.inputs._neighbors import SQUARES, in_units_of_sections
from stpredict.tl.learn.inputs._nuclei_graph import NAME as NUCLEI_GRAPH
from stpredict.tl.learn.inputs._nuclei_graph import nodes_within_sections
from stpredict.tl.learn.targets._expression import panel_strangers

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._rows import Rows
    from stpredict.tl.learn._task import Task
    from stpredict.tl.learn.targets._base import Keys
    from stpredict.training import ArraySet

_HAND = "pass splitter=stp.cohorts.spatial_blocks(adata, n_blocks, buffer_um=…)"


def reach_um(adata: AnnData, task: Task) -> float | None:
    """Side in µm of the largest square that a task reads of an observation; `None` where that is not known."""
    sides = fields_um(adata, task.slots, task.needs, task.info.configure(task.options))
    known = [side for side in sides if side is not None]
    return max(known) if len(known) == len(sides) else None


def block_folds(adata: AnnData, tasks: Mapping[str, Task], keys: Keys) -> list[Fold]:
    """Blocks of every section, behind a buffer that is wider than the fields of view of all tasks."""
    reach = {label: reach_um(adata, task) for label, task in tasks.items()}
    if unknown := [label for label, side in reach.items() if side is None]:
        raise ValueError(
            f"expected the record of the features to say the size of their tiles, which the buffer between blocks must "
            f"exceed; found none for {few(unknown)}; {_HAND} with a buffer wider than what a feature was computed from"
        )
    buffer = MARGIN * max(side for side in reach.values() if side is not None)
    return spatial_blocks(adata, buffer_um=buffer, sample_key=keys.sample, patient_key=keys.patient)


def checked_within(
    adata: AnnData, folds: Sequence[Fold], tasks: Mapping[str, Task], keys: Keys, *, allow_leakage: bool
) -> list[Fold]:
    """The folds, after a look whether those within a section are apart by more than what any task reads.

    Those that are not are refused, or, where leaks are allowed, ordinary folds with a patient on both sides.
    """
    if not any(fold.within for fold in folds):
        return list(folds)
    reach = max((side for side in (reach_um(adata, task) for task in tasks.values()) if side is not None), default=0.0)
    kept = []
    for fold in folds:
        fault = _fault(adata, fold, reach, keys) if fold.within else None
        if fault and not allow_leakage:
            raise ValueError(f"{fault}, or pass allow_leakage=True and have every score marked as leaky")
        kept.append(replace(fold, within=False, leaky=True) if fault else fold)
    return kept


def _fault(adata: AnnData, fold: Fold, reach: float, keys: Keys) -> str | None:
    """What is wrong with a fold within a section."""
    sample = adata.obs[keys.sample].astype(str).to_numpy()
    people = one_name(adata.obs[keys.patient])
    tested = np.unique(sample[fold.test])
    others = fold.train & among(people, np.unique(people[fold.test])) & ~np.isin(sample, tested)
    if others.any() or len(tested) > 1:
        found = np.unique(sample[others]) if others.any() else tested
        return (
            f"expected training and test of fold {fold.name!r} within one section of a patient; found {few(map(str, found))} "
            "beside it; leave the other sections of the patient out"
        )
    name = str(tested[0])
    test, train = (np.flatnonzero(side & (sample == name)) for side in (fold.test, fold.train))
    if not len(train):
        return None
    gap = float(gaps_um(section_um(adata, train, name), section_um(adata, test, name)).min())
    if gap >= reach:
        return None
    return (
        f"expected test and training observations of fold {fold.name!r} at least {reach:g} µm apart, the field of view of "
        f"what is read; found {gap:.4g} µm; {_HAND} with a wider buffer"
    )


def panel_seen(adata: AnnData, request: Any, fold: Fold, keys: Keys, *, allow_leakage: bool) -> list[str]:
    """Patients of the test side of a fold within a section whose expression had a part in the choice of the genes.

    A record of a selection tells patients, not observations: one that was not made in the fold has seen the block.
    """
    if not (fold.within and isinstance(request, Expression)):
        return []
    people = one_name(adata.obs[keys.patient])
    tested = np.unique(people[fold.test])
    outside = fold.train & ~among(people, tested)
    found = panel_strangers(adata, request, outside, keys.patient)
    seen = [name for name in found if name != UNKNOWN and among([name], tested)[0]]
    if seen and not allow_leakage:
        raise ValueError(
            f"expected genes that were not chosen on the section of fold {fold.name!r}, whose test block would have a part "
            f"in the choice; found them selected on {few(seen)}; pass target={{'panel': {{'method': …}}}} to select "
            "them outside the block and its buffer, or allow_leakage=True and have every score marked as leaky"
        )
    return found


def sides_of(
    arrays: ArraySet, fold: Fold, task: Task, rows: Rows, train: np.ndarray, test: np.ndarray, *, raw: bool
) -> tuple[ArraySet, ArraySet]:
    """Training and test side of a fold, from masks (n,) of the rows.

    Within a section neither side sees the other: what is standardized within sections is so by its training rows, inputs of
    whole sections are those of the side, and for networks that leave out what they know of a section the test side is
    another one.
    """
    sample = rows.sample
    if not fold.within:
        if raw:
            arrays = _standardized(arrays, task, sample, np.ones(len(rows), dtype=bool))
        return arrays.take(train), arrays.take(test)
    arrays = _standardized(arrays, task, sample, train)
    own, held_out = arrays.divided(train, test)
    own.reach_um = max(own.reach_um, fold.buffer_um)
    return own, held_out


def _standardized(arrays: ArraySet, task: Task, sample: np.ndarray, by: np.ndarray) -> ArraySet:
    """Features standardized within sections by some of the rows, for tasks that ask for it."""
    if task.scaling != "section":
        return arrays
    inputs, whole = dict(arrays.inputs), arrays.whole
    if "features" in inputs:
        inputs["features"] = standardized(inputs["features"], sample, by)
    if NUCLEI_GRAPH in inputs:
        n_measures = len(task.info.configure(task.options).measures)
        inputs[NUCLEI_GRAPH] = nodes_within_sections(inputs[NUCLEI_GRAPH], sample, by, n_measures)
    for name in SQUARES.keys() & inputs.keys():
        inputs[name] = in_units_of_sections(inputs[name], inputs[SQUARES[name]], sample, by)
    if whole is not None and "section_features" in whole.inputs:
        place = {int(code): str(name) for code, name in zip(arrays.section, sample, strict=True)}
        names = np.array([place[int(code)] for code in whole.code])
        these = np.zeros(len(names), dtype=bool)
        these[whole.row[by]] = True
        scaled = standardized(whole.inputs["section_features"], names, these)
        whole = replace(whole, inputs=whole.inputs | {"section_features": scaled})
    return replace(arrays, inputs=inputs, whole=whole)
