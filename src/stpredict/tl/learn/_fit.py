"""Fit a model to measured sections."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts import Cohort
from stpredict.cohorts._section_pictures import SectionPictures
from stpredict.core._atomic import check_place
from stpredict.core._settings import settings
from stpredict.core._turns import tidy, tidy_folder
from stpredict.slots._baselines import Baselines, chosen_baselines
from stpredict.slots._checks import as_mask, check_patients
from stpredict.slots._container import get_table
from stpredict.slots._content import remember
from stpredict.slots._keys import Key
from stpredict.slots._provenance import write_record
from stpredict.slots._rows import rows_of
from stpredict.slots._unit import group_keys
from stpredict.tl.learn._primary import auxiliary_of, primary_first
from stpredict.tl.learn._task import check_enough, comparator, fit_task, make_task
from stpredict.tl.learn.inputs._collect import collect
from stpredict.tl.learn.inputs._gene_table import table_strangers, warn_of_unrecorded
from stpredict.tl.learn.inputs._origin import check_features_origin
from stpredict.tl.learn.inputs._slots import slots_read, split_features
from stpredict.tl.learn.targets._base import Keys, slots_for
from stpredict.tl.learn.targets._parse import parse_target

if TYPE_CHECKING:
    from stpredict.models import ModelInfo
    from stpredict.slots._container import Container
    from stpredict.training import ArraySet, FittedModel
    from stpredict.training.targets import Target


def fit(
    data: Container | Cohort,
    model: str | FittedModel | Path = "ridge",
    train: np.ndarray | str | None = None,
    *,
    features: str | Sequence[str] | Mapping[str, Any] | None = None,
    target: Any = None,
    image: Any = None,
    hyperparameters: Mapping[str, Any] | str | None = None,
    training: Mapping[str, Any] | None = None,
    baselines: Baselines = True,
    path: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
    allow_leakage: bool = False,
    seed: int = 0,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> FittedModel:
    """Fit a model to predict expression, values, classes or follow-up from histology.

    The number of epochs is chosen on an inner validation split by patient (by section where there is one patient, by a
    stripe of the section where there is one section, behind a buffer as wide as what is read around an observation); penalties of
    closed-form models by inner cross-validation over such groups. Everything that is learned from data (panel, standardization, stopping) is learned from the
    training observations.

    Parameters
    ----------
    data
        Sections with image features (or images, for networks that read pixels) and normalized expression in `X`
        (n_obs, n_genes); or slides with bags. Of a :class:`stpredict.Cohort` the features and targets are read from files, and
        nothing is written to its sections.
    model
        Registered name, see :func:`stpredict.models.list_models`; or a fitted model, or the `Path` of a saved one, to
        start from: its network and hyperparameters are taken, its head is replaced by a new one, and its patients count
        as seen.
    train
        Boolean mask (n_obs,) or the name of a boolean column of `obs`; everything when `None`. Networks with a stage
        that reads pictures alone may be given unmeasured observations too.
    features
        Encoder, slot of `obsm`, or several of them (concatenated); the only one there is when `None`. Features are
        standardized within each section, here and at prediction, which takes differences in staining between slides out and
        reads no expression: a section is predicted as a whole. With the mapping `{"slot": …, "scaling": "global"}` they are
        taken as they are; tables of slides always are.
    target
        What to predict: an object of :mod:`stpredict.targets`; or for short a list of genes, a boolean column of `var`
        with a panel, a column of `obs` with classes or numbers, a list of columns with numbers, a slot of `obsm` with values,
        or a mapping with the fields of :class:`stpredict.targets.Expression`. When `None`, the genes of `var["selected"]`, or
        all genes. A name that means several of these is an error that lists them.
    image
        Images that the object does not record: a path, an array, or a mapping from section to either.
    hyperparameters
        Departures from the defaults of the network, for example `{"hidden": 512}`, or the name of one of its presets:
        `"paper"` is the published recipe, training settings included, where it differs from the defaults.
    training
        Changes to the training settings, see :class:`stpredict.training.TrainConfig`; the device is one of them.
    baselines
        Names of what is fitted on the same observations and kept beside, for tables: closed-form models (`"mean"`,
        `"ridge"`; these two for `True`), `"untrained"` (the network as it is drawn), `"permuted"` (the network
        trained on permuted labels, which takes as long as the training itself) and, of networks that read a table of
        genes, `"permuted_table"` (trained with the row of another gene for each). None for `False`, and for classes and
        follow-up.
    path
        Directory to save the model in; by default one under `settings.cache_dir`, which stays there until you remove
        it.
    checkpoint_dir
        Directory to keep checkpoints in, and to continue from when the same call is made again. Of two processes that make
        the same call, one trains, and the other waits and takes up what it found.
    allow_leakage
        Whether to accept a panel that was selected on other patients; recorded in the model.
    seed
        Random seed for weights, order, dropout, augmentation and the inner split.
    sample_key, patient_key
        Columns of `obs` with the section and the patient. Where the rows are genes, see :func:`stpredict.pp.as_genes`, neither is
        needed: their chromosomes stand for both, or what else is named as `patient_key`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The fitted model. Its saved path is left in `uns["stpredict"]["model"]`.

    Raises
    ------
    FileExistsError
        When there are other files at `path`.
    KeyError
        When features or bags, normalization, a gene of the panel, a column or the model is missing.
    TypeError
        For unknown hyperparameters or training settings.
    ValueError
        When values are not finite, the panel or a table of genes saw other patients (as a column, a list, or all genes of an object that
        was cut to it), a feature is a measured gene, there are too few observations, times are not positive, all events
        are censored, the slides of a patient differ in outcome, sections are named as patients, or a class is absent from
        the training observations.

    Warns
    -----
    UserWarning
        When the model cannot be written to `path` or to the cache, or no checkpoint to `checkpoint_dir`; it is returned all
        the same. When features have no record, or were changed after it: marks of predictions are then `"unknown"` where
        they would be `False`.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> model = stp.tl.fit(adata, "ridge", adata.obs["patient"] == "P1")
    """
    from stpredict.core._device import resolve_device
    from stpredict.training import TrainingFacts

    if isinstance(data, Cohort):
        image = SectionPictures(data, image)
        sample_key, patient_key, data = data.sample_key, data.patient_key, data.table()
    adata = get_table(data, table_key)
    sample_key, patient_key = group_keys(adata, sample_key, patient_key)
    keys = Keys(sample_key, patient_key)
    slot, scaling = split_features(features)
    request = parse_target(adata, target)
    reader = slots_for(request)
    check_path(path)
    check_patients(adata, sample_key, patient_key)
    mask = as_mask(adata, train)
    task = make_task(
        adata, model, reader,
        features=slot, scaling=scaling, hyperparameters=hyperparameters, training=training,
    )  # fmt: skip
    usable = reader.usable(adata, request)
    if reader.skips_unmeasured and all(stage.labeled for stage in task.info.cls.stages):
        mask = mask & usable
    check_measured(mask & ~usable, task.info)
    check_enough(mask & usable, "training observations")
    names = chosen_baselines(baselines if reader.closed_form else False, ("mean", "ridge"))
    wanted = [comparator(adata, name, task, features=slot) for name in names]
    goal, strangers = reader.resolve(adata, request, mask & usable, keys, allow_leakage=allow_leakage)
    rows = rows_of(adata, mask, sample_key=sample_key, patient_key=patient_key)
    rows = replace(rows, measured=usable[rows.index])
    values = reader.read(adata, request, goal, rows, keys)
    whole, values, n_primary = primary_first(goal, values, rows, auxiliary_of([task]))
    device = resolve_device(task.config.device)
    needs = frozenset().union(*(each.needs for each in (task, *wanted) if each is not None))
    slots = next((each.slots for each in (task, *wanted) if each is not None and each.slots), [])
    source = task.source(
        data=data, adata=adata, rows=rows, image=image, genes=whole.names, sample_key=sample_key,
        progress=settings.progress,
    )  # fmt: skip
    source.slots = slots
    arrays = replace(with_target(collect(source, needs), whole, values, rows.measured), n_primary=n_primary)
    goal = whole if n_primary is None else whole.part(np.arange(n_primary))
    read = sorted({slot for each in (task, *wanted) if each is not None for slot in each.slots})
    beside = [slot for slot in slots_read(needs, slots) if slot not in read]
    check_features_origin(adata, [*read, *beside], request, np.flatnonzero(mask & usable))
    gene_tables = [] if task.gene_table is None else [task.gene_table]
    warn_of_unrecorded(adata, gene_tables)
    behind = table_strangers(adata, gene_tables, rows.patients, anew=False, allow_leakage=allow_leakage)
    facts = TrainingFacts(
        rows.patients, rows.sections, len(rows), seed, allow_leakage=allow_leakage, panel_patients=strangers,
        table_patients=behind, content=[remember(adata, rows.index, rows.sample, panel=whole.names, slots=read)],
    )  # fmt: skip
    options: dict[str, Any] = {"device": device, "seed": seed, "checkpoint_dir": checkpoint_dir}
    main = fit_task(task, arrays, goal, facts, progress=settings.progress, **options)
    main.baselines = {
        name: fit_task(each, arrays, goal, facts, **options)
        for name, each in zip(names, wanted, strict=True)
        if each is not None
    }
    if saved := keep(main, path):
        write_record(adata, "model", {"path": str(saved), "model": main.model, "patients": rows.patients})
    return main


def keep(model: FittedModel, path: str | Path | None) -> Path | None:
    """Save a model where it is asked for, or in the cache; a folder that cannot be written must not cost the training."""
    try:
        if path is None:
            tidy_folder(settings.cache_dir / "models")
        return model.save(default_path(model) if path is None else path)
    except OSError as error:
        where = "settings.cache_dir" if path is None else str(path)
        warnings.warn(
            f"the model could not be kept in {where} ({error}); it is returned all the same: call its save(path) with a folder "
            "that can be written, or free some room"
            + (", or set stp.settings.cache_dir to another folder" if path is None else ""),
            stacklevel=3,
        )
        return None


def check_path(path: str | Path | None) -> None:
    """Raise `FileExistsError` where a model cannot be saved because other files are there, before it is trained."""
    if path is not None:
        tidy(Path(path))
        check_place(Path(path), "config.json")


def with_target(arrays: ArraySet, target: Target, values: np.ndarray, measured: np.ndarray) -> ArraySet:
    """Add the target to training arrays; rows that were not measured are marked where there are any."""
    return replace(arrays, target=values, kind=target, labeled=None if measured.all() else measured)


def check_measured(unmeasured: np.ndarray, info: ModelInfo) -> None:
    """Raise where observations to train on were not measured and the network has no stage without measurements."""
    if unmeasured.any() and all(stage.labeled for stage in info.cls.stages):
        raise ValueError(
            f"expected measured training observations; found {int(unmeasured.sum())} without a measurement (NaN, or "
            "obs['measured'] is false); leave them out with `train=`, for example train='measured'"
        )


def default_path(model: FittedModel) -> Path:
    """Directory named after the content, so that an object never finds the model of another fit in its place."""
    return settings.cache_dir / "models" / f"{model.model}-{model.fingerprint()[:16]}"
