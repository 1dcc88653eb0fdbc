"""Fit one model per fold of patients, and predict every patient with the model that never saw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts import Fold, grouped_k_fold
from stpredict.core._engine import check_client
from stpredict.core._settings import settings
from stpredict.slots._baselines import Baselines, chosen_baselines
from stpredict.slots._checks import check_patients
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key, check_key
from stpredict.slots._marks import sections_record
from stpredict.slots._people import one_name
from stpredict.slots._prediction import about, write_prediction
from stpredict.slots._provenance import genes_digest, write_record
from stpredict.slots._unit import group_keys, unit_of
from stpredict.tl.learn._blocks import checked_within
from stpredict.tl.learn._fit import check_path, keep
from stpredict.tl.learn._folds import run_folds
from stpredict.tl.learn._out_of_fold import tables, write_out_of_fold
from stpredict.tl.learn._splitters import Splitter, check_folds, make_folds
from stpredict.tl.learn._task import Task, comparator, make_task
from stpredict.tl.learn.inputs._slots import split_features
from stpredict.tl.learn.targets._base import Keys, slots_for
from stpredict.tl.learn.targets._parse import parse_target

if TYPE_CHECKING:
    from stpredict.slots._container import Container
    from stpredict.training import FittedModel

_BASELINES = ("mean", "ridge", "untrained", "permuted", "permuted_table")


def fit_folds(
    data: Container,
    model: str | FittedModel | Path = "sequoia",
    n_folds: int = 5,
    *,
    splitter: Splitter | None = None,
    features: str | Sequence[str] | Mapping[str, Any] | None = None,
    target: Any = None,
    image: Any = None,
    hyperparameters: Mapping[str, Any] | str | None = None,
    training: Mapping[str, Any] | None = None,
    baselines: Baselines = True,
    path: str | Path | None = None,
    allow_leakage: bool = False,
    n_jobs: int = 1,
    client: Any = None,
    threads: int | None = None,
    seed: int = 0,
    key_added: str | None = None,
    progress: bool | None = None,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> list[FittedModel]:
    """Fit a model to each of several folds of patients, and predict each patient with the model that never saw them.

    The number of epochs is chosen on an inner validation by patient inside the training side of each fold. Observations
    that were not measured are predicted by no fold model; average the models to predict them, and other cohorts:
    `stp.tl.predict(other, models)`.

    Parameters
    ----------
    data
        Slides with bags, or sections with features, and normalized expression in `X` (n_obs, n_genes) or what else is to
        be predicted.
    model
        Registered name, see :func:`stpredict.models.list_models`, or a fitted model to start from.
    n_folds
        Number of folds; the patients are spread over them at random.
    splitter
        Another split, as in :func:`stpredict.tl.cross_validate`; `n_folds` is not read then.
    features, target, image, hyperparameters, training
        Inputs, target and settings as in :func:`stpredict.tl.fit`. A selection of genes runs inside each fold.
    baselines
        Names of the comparators as in :func:`stpredict.tl.fit`; `"mean"`, `"ridge"`, `"untrained"`, `"permuted"` and
        `"permuted_table"` for `True`.
    sample_key, patient_key
        Columns of `obs` with the slide and the patient.
    path
        Directory for the models, one folder per fold; by default under `settings.cache_dir`.
    allow_leakage
        Whether to accept a panel that was selected on test patients; every prediction is then marked as leaky.
    n_jobs
        Processes that work on folds side by side. The result does not depend on it.
    client
        A `dask.distributed.Client`, or the address of a scheduler, whose workers take the place of processes; see
        the page on clusters. The result does not depend on it.
    threads
        Threads of each fit; as many as there are when `None`. Results agree to rounding.
    seed
        Random seed for folds, weights, order, dropout and the inner splits.
    key_added
        Slot of the predictions; that of :func:`stpredict.tl.predict` when `None`.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The fitted models in the order of the folds, which are saved.

    Writes what :func:`stpredict.tl.predict` writes, out of fold: `NaN` where an observation was not measured or a gene
    not selected; `obs["{key_added}_fold"]`, the number of the fold that predicted an observation (-1 for none); and the
    paths of the models in `uns["stpredict"]["model"]`.

    Raises
    ------
    ValueError
        When there are fewer patients than folds, or as in :func:`stpredict.tl.fit`.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> models = stp.tl.fit_folds(adata, "ridge", 2, baselines=["mean"])
    >>> adata.obs["predicted_fold"].value_counts().tolist()
    [60, 60]
    """
    from stpredict.core._device import resolve_device

    check_key(key_added)
    check_client(client, n_jobs)
    adata = get_table(data, table_key)
    sample_key, patient_key = group_keys(adata, sample_key, patient_key)
    keys = Keys(sample_key, patient_key)
    slot, scaling = split_features(features)
    request = parse_target(adata, target)
    reader = slots_for(request)
    check_patients(adata, sample_key, patient_key)
    usable = reader.usable(adata, request)
    options: dict[str, Any] = {
        "features": slot, "scaling": scaling, "hyperparameters": hyperparameters, "training": training,
    }  # fmt: skip
    main = make_task(adata, model, reader, **options)
    tasks: dict[str, Task] = {"": main}
    for name in chosen_baselines(baselines if reader.closed_form else False, _BASELINES):
        if made := comparator(adata, name, main, features=slot):
            tasks[name] = made
    if splitter is None and unit_of(adata) == "gene":
        splitter = n_folds
    if splitter is None:
        kept = np.flatnonzero(usable)
        splits = grouped_k_fold(adata[usable], n_folds, seed=seed, sample_key=sample_key, patient_key=patient_key)
        patient = one_name(adata.obs[patient_key])
        folds = [_widened(split, kept, patient) for split in splits]
    else:
        folds = make_folds(adata, splitter, seed, keys, tasks)
        folds = checked_within(adata, folds, tasks, keys, allow_leakage=allow_leakage)
        check_folds(adata, folds, patient_key, allow_leakage=allow_leakage)
        folds = [replace(fold, test=fold.test & usable) for fold in folds if (fold.test & usable).any()]
        if not folds:
            raise ValueError(
                "expected measured observations in the test side of a fold; found none in any; fit with stp.tl.fit, and predict "
                "what was not measured with its model"
            )
    for number in range(len(folds)):
        check_path(None if path is None else Path(path) / f"fold{number}")
    results = run_folds(
        data, adata, tasks, folds, request, keys,
        image=image, keep_models=True, allow_leakage=allow_leakage, n_jobs=n_jobs, client=client, threads=threads,
        device=resolve_device(main.config.device), seed=seed,
        progress=settings.progress if progress is None else progress,
    )  # fmt: skip

    models, paths = [], []
    for number in range(len(folds)):
        parts = {each.label: each.model for each in results if each.number == number and each.model is not None}
        fitted = parts.pop("")
        fitted.baselines = parts
        models.append(fitted)
        if saved := keep(fitted, None if path is None else Path(path) / f"fold{number}"):
            paths.append(str(saved))
    key = key_added or reader.key(models[0].target)
    record = {
        "model": main.info.name,
        "n_models": len(models),
        "n_folds": len(folds),
        "folds": [fold.name for fold in folds],
        **sections_record(adata, sample_key),
        "panel_digest": genes_digest(models[0].panel),
        "seed": seed,
        "allow_leakage": allow_leakage,
        "target": reader.kind,
        **reader.record(models[0].target),
    }
    own = [each for each in results if each.label == ""]
    write_out_of_fold(adata, key, own, folds, keys, record)
    for name in filter(None, tasks):
        frame = tables(adata, [each for each in results if each.label == name], "mean")
        assert frame is not None  # every model has a mean
        write_prediction(adata, Key.baseline(key, name), frame, about(record), beside=key, names=reader.names)
    if len(paths) == len(models):
        write_record(adata, "model", {"path": paths, "model": main.info.name})
    return models


def _widened(split: Fold, kept: np.ndarray, patient: np.ndarray) -> Fold:
    """A fold of some observations as one of all; what was not measured is on the side of its patient in training."""
    test = np.zeros(len(patient), dtype=bool)
    test[kept[split.test]] = True
    return Fold(split.name, np.isin(patient, patient[kept[split.train]]), test)
