"""The one engine that runs folds: every task on every fold, here or in several processes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts import Fold
from stpredict.slots._content import recognize, remember, some_sections
from stpredict.slots._people import among, one_name
from stpredict.slots._rows import rows_of
from stpredict.tl.learn._blocks import panel_seen, sides_of
from stpredict.tl.learn._copies import check_copies, copied_sections
from stpredict.tl.learn._engine import Job, run_jobs
from stpredict.tl.learn._fit import with_target
from stpredict.tl.learn._primary import auxiliary_of, primary_first
from stpredict.tl.learn._range import check_range
from stpredict.tl.learn._stored import stored_by_section
from stpredict.tl.learn._task import Task, check_enough, fit_task
from stpredict.tl.learn.inputs._collect import collect, identities, patient_codes
from stpredict.tl.learn.inputs._gene_table import table_strangers, warn_of_unrecorded
from stpredict.tl.learn.inputs._nuclei_graph import NAME as NUCLEI_GRAPH
from stpredict.tl.learn.inputs._origin import check_features_origin
from stpredict.tl.learn.inputs._reader import readers
from stpredict.tl.learn.inputs._slots import slots_read
from stpredict.tl.learn.targets._base import Keys, slots_for

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from anndata import AnnData

    from stpredict.slots._container import Container
    from stpredict.slots._rows import Rows
    from stpredict.training import ArraySet, FittedModel, Predicted, TrainingFacts
    from stpredict.training.targets import Target


@dataclass
class FoldResult:
    """What a task gave on a fold.

    Attributes
    ----------
    label
        Name of the task.
    number
        Number of the fold.
    test
        (n_test,) rows of the table that were predicted.
    mean, std
        (n_test, n_outputs) float32 in the unit of the user; `std` where the model gives one.
    target
        Target of the fold: its panel may be its own.
    seen
        Patients that the model was trained on, its panel selected on, or its starting weights trained on; without those
        of its training rows where the fold is within a section.
    recognized
        Sections of the test side whose spots the model was trained on, under other names.
    model
        The fitted model, where models are kept.
    """

    label: str
    number: int
    test: np.ndarray
    mean: np.ndarray
    std: np.ndarray | None
    target: Target
    seen: list[str]
    recognized: list[str]
    model: FittedModel | None
    samples: np.ndarray | None = None


def run_folds(
    data: Container,
    adata: AnnData,
    tasks: Mapping[str, Task],
    folds: Sequence[Fold],
    request: Any,
    keys: Keys,
    *,
    image: Any = None,
    keep_models: bool = False,
    allow_leakage: bool = False,
    n_jobs: int = 1,
    client: Any = None,
    threads: int | None = 1,
    device: torch.device,
    seed: int,
    progress: bool,
    n_samples: int = 0,
    folder: Path | None = None,
) -> list[FoldResult]:
    """Fit every task on the training side of every fold, and predict its test side.

    The target is chosen on the training side of each fold. Inputs are read once for all folds; the arrays of a fit are
    taken from them when its turn comes. The result does not depend on the number of processes.

    Parameters
    ----------
    data, adata
        Container and its table.
    tasks
        What to fit, by label; comparators are tasks like any other.
    folds
        Training and test sides; what was not measured is shown only to networks with a stage that reads pictures alone.
    request
        What to predict, an object of :mod:`stpredict.targets`.
    keys
        Columns of `obs` with the section and the patient.
    image
        Images that the object does not record.
    keep_models
        Whether to return the fitted models.
    allow_leakage
        Whether to accept a panel that was selected on test patients.
    n_jobs
        Processes that work side by side.
    client
        A `dask.distributed.Client`, or the address of a scheduler, whose workers run the fits.
    threads
        Threads of each fit; as many as there are when `None`.
    device
        Device to train and predict on.
    seed
        Random seed of every fit.
    progress
        Whether to show a progress bar.
    n_samples
        Samples per observation of networks that draw some; comparators aside.
    folder
        Where predictions are written to and left as rows of files, for folds whose predictions do not fit in memory together.

    Returns
    -------
    One result per fold and task, fold by fold.
    """
    reader = slots_for(request)
    usable = reader.usable(adata, request)
    for fold in folds:
        check_enough(fold.train & usable, f"measured training observations in fold {fold.name!r}")
    found_goals = []
    for fold in folds:
        target, strangers = reader.resolve(adata, request, fold.train & usable, keys, allow_leakage=allow_leakage)
        seen_too = panel_seen(adata, request, fold, keys, allow_leakage=allow_leakage)
        found_goals.append((target, sorted({*strangers, *seen_too})))
    everyone = np.logical_or.reduce([fold.train | fold.test for fold in folds])
    rows = rows_of(adata, everyone, sample_key=keys.sample, patient_key=keys.patient)
    rows = replace(rows, measured=usable[rows.index])
    goals: list[tuple[Target, Target, int | None, list[str]]] = []
    settings = auxiliary_of(tasks.values())
    for fold, (target, others) in zip(folds, found_goals, strict=True):
        if settings is None:
            goals.append((target, target, None, others))
            continue
        own = rows.take(fold.train[rows.index] & rows.measured)
        whole, _, n_primary = primary_first(target, reader.read(adata, request, target, own, keys), own, settings)
        goals.append((whole.part(np.arange(n_primary or 0)), whole, n_primary, others))
    slots = sorted({slot for task in tasks.values() for slot in task.slots})
    every = sorted({slot for task in tasks.values() for slot in slots_read(task.needs, task.slots)})
    check_features_origin(adata, every, request, rows.index[rows.measured])
    gene_tables = sorted({task.gene_table for task in tasks.values() if task.gene_table is not None})
    warn_of_unrecorded(adata, gene_tables)
    people = one_name(adata.obs[keys.patient])
    behind = [
        {
            key: table_strangers(adata, [key], _trained(people, fold), anew=True, allow_leakage=allow_leakage)
            for key in gene_tables
        }
        for fold in folds
    ]
    panel = list(dict.fromkeys(gene for _, whole, _, _ in goals for gene in whole.names))
    content = remember(adata, rows.index, rows.sample, panel=panel, slots=slots)
    copied = copied_sections(adata, rows, folds, content)
    if not allow_leakage:
        check_copies(folds, copied)
    raw = any(fold.within for fold in folds)  # what is standardized within a section depends on the fold
    bare = {label: replace(task, scaling="global") for label, task in tasks.items()} if raw else tasks
    collected = _collect_all(data, adata, bare, rows, image, keys, progress)

    def jobs() -> Iterator[Job]:
        """Arrays of one fit at a time: all of them at once would be folds × tasks copies. Tasks of a fold share its target."""
        last: tuple[int, bool, bytes] | None = None
        values: Any = None
        for fold_number, (fold, goal, seen_by) in enumerate(zip(folds, goals, behind, strict=True)):
            wanted, whole, n_primary, strangers = goal
            test_rows = fold.test[rows.index]
            for label, task in tasks.items():
                helped = task.config.auxiliary is not None
                target = whole if helped else wanted
                train_rows = fold.train[rows.index] & (rows.measured | _reads_unmeasured(task))
                own = rows.take(train_rows)
                if last != (this := (fold_number, helped, own.index.tobytes())):
                    values, last = reader.read(adata, request, target, own, keys), this
                known = content
                if fold.within:  # digests, too, are those of the training side
                    known = remember(adata, own.index, own.sample, panel=target.names, slots=slots)
                facts = _facts(own, seed, strangers, allow_leakage, known)
                facts.table_patients = seen_by.get(task.gene_table or "", [])
                train, test = sides_of(collected[label], fold, task, rows, train_rows, test_rows, raw=raw)
                train = _with_genes(train, task, data, adata, own, target, keys)
                train = with_target(train, target, values, own.measured)
                train = replace(train, n_primary=n_primary if helped else None)
                train.patient = patient_codes(own.patient, facts.patients)
                patients = (
                    [] if fold.within else facts.patients
                )  # the block is to be predicted as if of another patient
                test.patient = patient_codes(rows.patient[test_rows], patients)
                test.identity = identities(adata.obs_names[rows.index[test_rows]])
                yield (
                    _fit_and_predict,
                    {
                        "task": task, "train": train, "test": test, "target": wanted, "facts": facts, "seed": seed,
                        "keep_model": keep_models, "within": fold.within,
                        "n_samples": n_samples if task.info.cls.samples else 0,
                        "store": None if folder is None else folder / f"{list(tasks).index(label)}-{fold_number}",
                    },
                )  # fmt: skip

    results = run_jobs(
        jobs(), len(folds) * len(tasks), device=device, n_jobs=n_jobs, client=client, threads=threads, progress=progress
    )
    order = [(label, number) for number in range(len(folds)) for label in tasks]
    found = []
    for (label, number), (seen, model, predicted) in zip(order, results, strict=True):
        test = np.flatnonzero(folds[number].test)
        start = tasks[label].init
        before = [] if start is None else start.training.content
        own = rows.take(folds[number].test[rows.index])
        recognized = sorted({*copied[number], *recognize(adata, own.index, own.sample, before)})
        result = FoldResult(
            label,
            number,
            test,
            predicted.mean,
            predicted.std,
            goals[number][0],
            seen,
            recognized,
            model,
            predicted.samples,
        )
        found.append(result)
    return found


def _trained(people: np.ndarray, fold: Fold) -> np.ndarray:
    """Patients of the training side; without those of a section that has both sides: a record tells no observations."""
    trained = np.unique(people[fold.train])
    return trained[~among(trained, np.unique(people[fold.test]))] if fold.within else trained


def _reads_unmeasured(task: Task) -> bool:
    return any(not stage.labeled for stage in task.info.cls.stages)


def _facts(
    rows: Rows, seed: int, strangers: list[str], allow_leakage: bool, content: Mapping[str, Any]
) -> TrainingFacts:
    from stpredict.training import TrainingFacts

    return TrainingFacts(
        rows.patients, rows.sections, len(rows), seed, allow_leakage=allow_leakage, panel_patients=strangers,
        content=[some_sections(content, rows.sections)],
    )  # fmt: skip


def _collect_all(
    data: Container,
    adata: AnnData,
    tasks: Mapping[str, Task],
    rows: Rows,
    image: Any,
    keys: Keys,
    progress: bool,
) -> dict[str, ArraySet]:
    """Inputs of every task; tasks that read the same share them."""
    from stpredict.models import INPUTS

    collected: dict[str, ArraySet] = {}
    signatures: list[tuple[Any, str]] = []
    for label, task in tasks.items():
        # What is measured, and tables of the panel, are those of a fold.
        needs = frozenset(name for name in task.needs if not INPUTS[name].measured and INPUTS[name].axis != "gene")
        config = task.info.configure(task.options)
        patch: tuple[Any, ...] = (config.patch_um, config.patch_px) if "patches" in needs else ()
        if NUCLEI_GRAPH in needs:
            patch = (*patch, config.patch_um, config.radius_um, config.nuclei_key, config.measures, config.types)
        signature = (needs, task.slots, task.scaling, patch, getattr(config, "prompt", None))
        same = next((other for known, other in signatures if known == signature), None)
        if same is None:
            source = task.source(
                data=data, adata=adata, rows=rows, image=image, sample_key=keys.sample, progress=progress
            )
            collected[label] = collect(source, needs)
            signatures.append((signature, label))
        else:
            collected[label] = collected[same]
    return collected


def _with_genes(
    arrays: ArraySet, task: Task, data: Container, adata: AnnData, rows: Rows, target: Target, keys: Keys
) -> ArraySet:
    """Add what depends on the panel of a fold: counts, and tables of genes."""
    from stpredict.models import INPUTS, Panel

    train = np.zeros(adata.n_obs, dtype=bool)
    train[rows.index[rows.measured]] = True
    source = task.source(
        data=data, adata=adata, rows=rows, genes=target.names, train=train, sample_key=keys.sample
    )  # fmt: skip
    inputs, tables = dict(arrays.inputs), dict[str, Any]()
    done: set[str] = set()
    for name in sorted(task.needs):
        each = INPUTS[name]
        if (each.measured or each.axis == "gene") and name not in done:
            found = readers()[name].read(source)
            done |= set(found)
            (tables if each.axis == "gene" else inputs).update(found)
    return replace(arrays, inputs=inputs, genes=Panel(tuple(target.names), tables))


def _fit_and_predict(
    task: Task,
    train: ArraySet,
    test: ArraySet,
    target: Target,
    facts: TrainingFacts,
    *,
    seed: int,
    keep_model: bool,
    within: bool,
    n_samples: int,
    store: Path | None,
    device: torch.device,
) -> tuple[list[str], FittedModel | None, Predicted]:
    """Fit one task on one fold and predict its test side; the same in any process."""
    from stpredict.training import predict_arrays

    model = fit_task(task, train, target, facts, device=device, seed=seed)

    def predict(part: ArraySet) -> Predicted:
        predicted = predict_arrays(model.network, part, device=device, seed=seed, n_samples=n_samples)
        if predicted.std is not None:
            predicted.std = target.link_std(predicted.mean, predicted.std)
        predicted.mean = target.link(predicted.mean, model.training)
        check_range(predicted.mean, model)
        return predicted

    predicted = predict(test) if store is None else stored_by_section(test, predict, store)
    seen = model.training.others_seen if within else model.training.patients_seen
    return seen, model if keep_model else None, predicted
