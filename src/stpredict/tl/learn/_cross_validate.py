"""Fit and predict every fold of a split by patient, and score the out-of-fold predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from stpredict.cohorts import Fold, assert_disjoint, grouped_k_fold, leave_one_patient_out, leave_one_section_out
from stpredict.core._settings import settings
from stpredict.core._validate import check_choice
from stpredict.slots._checks import check_patients
from stpredict.slots._container import get_table
from stpredict.slots._expression import matrix_of, measured_rows, read_normalization
from stpredict.slots._keys import Key
from stpredict.slots._provenance import write_record
from stpredict.tl.judge._evaluate import DEFAULT_METRICS, KNOWN_METRICS, evaluate
from stpredict.tl.learn._collect import (
    MIN_OBSERVATIONS,
    Inputs,
    Scaling,
    collect,
    feature_keys,
    inputs_of,
    with_lattice,
)
from stpredict.tl.learn._targets import Panel, choose_panel, panel_strangers, read_measured

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container
    from stpredict.training import ArraySet, TrainConfig

Models: TypeAlias = "str | Sequence[str] | Mapping[str, str | Mapping[str, Any]]"
Splitter: TypeAlias = "str | int | Sequence[Fold] | Callable[[AnnData], Sequence[Fold]]"
Task: TypeAlias = "tuple[dict[str, Any], ArraySet, ArraySet]"
_PERMUTED = "ridge (permuted labels)"


def cross_validate(
    data: Container,
    models: Models = ("mean", "ridge", "mlp"),
    splitter: Splitter = "patient",
    *,
    features: str | Sequence[str] | None = None,
    feature_scaling: Scaling = "global",
    panel: Panel = None,
    layer: str | None = None,
    image: Any = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    ceiling: bool = True,
    baselines: bool = True,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    allow_leakage: bool = False,
    n_jobs: int = 1,
    threads: int = 1,
    device: str | None = None,
    seed: int = 0,
    key_added: str = Key.PREDICTED,
    progress: bool | None = None,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Predict every section with models that never saw its patient, and score the predictions.

    Genes, scalers, penalties and numbers of epochs are chosen inside the training side of each fold; a test fold is
    read once, to be predicted. Unmeasured observations (`NaN`, or `obs["measured"]` false) are predicted, and not
    trained on.

    Parameters
    ----------
    data
        Sections with image features (or images) and normalized expression in `X`.
    models
        Registered names; or a mapping from a label to a name, or to a mapping with `"model"` and any of `"features"`,
        `"feature_scaling"`, `"hyperparameters"`, `"training"`.
    splitter
        `"patient"` (leave one patient out), a number of folds (patients grouped), `"section"` (leave one section out;
        leaky, needs `allow_leakage=True`), folds, or a function from AnnData to folds.
    features, feature_scaling, panel, layer, image
        As in :func:`stpredict.tl.fit`; a selection given as `panel` runs inside each fold.
    metrics, ceiling
        As in :func:`stpredict.tl.evaluate`.
    baselines
        Add the training mean, the ridge, the ridge fitted to permuted labels, and smoothed predictions.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    allow_leakage
        Accept folds with a patient on both sides; every score of such a fold is marked `leaky`.
    n_jobs
        Processes that work on folds side by side. The result does not depend on it.
    threads
        Threads of each fit. Sums are added in another order with another number, so results agree to rounding only.
    device
        `"cpu"`, `"cuda"`, …; `settings.device` when `None`. On an accelerator the folds run one after the other.
    seed
        Of everything random.
    key_added
        Prefix of the slots.
    progress
        Show a progress bar; `settings.progress` when `None`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The table of :func:`stpredict.tl.evaluate`, one line per model, section and gene. Writes, for each label,
    `obsm["{key_added}_{label}"]` (out-of-fold predictions, DataFrame; `NaN` where no fold tested or a gene was not
    selected), `obs["{key_added}_{label}_leaky"]`, `obs["{key_added}_{label}_fold"]` (-1 where no fold tested) and
    `uns["stpredict"]["{key_added}_{label}"]`.

    Raises
    ------
    KeyError
        When features, normalization, a gene of the panel or a model is missing.
    ValueError
        When there is one patient only, a patient is on both sides of a fold without `allow_leakage=True`, folds are no
        masks of this object or overlap, or a fold has fewer than 3 measured training observations.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> scores = stp.tl.cross_validate(adata, ["ridge"])
    >>> table = stp.tl.summarize(scores)
    """
    import pandas as pd

    from stpredict.core._device import resolve_device

    adata = get_table(data, table_key)
    check_patients(adata, sample_key, patient_key)
    normalization = read_normalization(adata, layer)
    for metric in metrics:
        check_choice(metric, KNOWN_METRICS, "metrics")
    specs = _specifications(models, features, feature_scaling, baselines)
    for spec in specs.values():
        spec["hyperparameters"] = with_lattice(adata, spec["model"], spec["hyperparameters"])
    folds = _folds(adata, splitter, seed, sample_key, patient_key)
    _check_folds(adata, folds, patient_key, allow_leakage=allow_leakage)
    measured = measured_rows(adata, matrix_of(adata, layer))
    folds = [replace(fold, train=fold.train & measured) for fold in folds]
    for fold in folds:
        if fold.train.sum() < MIN_OBSERVATIONS:
            raise ValueError(
                f"expected at least {MIN_OBSERVATIONS} measured training observations in fold {fold.name!r}; "
                f"found {int(fold.train.sum())}"
            )
    panels = [
        choose_panel(
            adata, panel, fold.train,
            layer=layer, sample_key=sample_key, patient_key=patient_key, allow_leakage=allow_leakage,
        )
        for fold in folds
    ]  # fmt: skip

    show = settings.progress if progress is None else progress
    everyone = np.logical_or.reduce([fold.train | fold.test for fold in folds])
    inputs = {label: _inputs(adata, spec, image) for label, spec in specs.items()}
    collected: dict[str, ArraySet] = {}
    for label, wanted in inputs.items():
        same = next((other for other in collected if inputs[other] == wanted), None)
        collected[label] = collected[same] if same else collect(
            data, adata, everyone, wanted,
            panel=None, layer=layer, sample_key=sample_key, patient_key=patient_key, progress=show,
        )  # fmt: skip

    kept = np.flatnonzero(everyone)
    order = [(label, number) for number in range(len(folds)) for label in specs]

    def task(label: str, number: int) -> Task:
        """Arrays of one fit, gathered when its turn comes: all of them at once would be folds × models copies."""
        fold, whole = folds[number], collected[label]
        target = read_measured(adata, panels[number], fold.train, layer, counts=inputs[label].counts)
        train = replace(whole.take(fold.train[kept]), **target)
        return specs[label], train.permuted(seed) if specs[label]["permuted"] else train, whole.take(fold.test[kept])

    on = resolve_device(device)
    results = _run_all(
        (task(*which) for which in order),
        len(order),
        n_jobs=n_jobs if on.type == "cpu" else 1,
        threads=threads,
        device=on,
        seed=seed,
        progress=show,
    )

    union = [gene for gene in adata.var_names if any(gene in set(genes) for genes in panels)]
    leaky = np.zeros(adata.n_obs, dtype=bool)
    patient = adata.obs[patient_key].astype(str).to_numpy()
    for fold in folds:
        # Said of the patients themselves: folds made by hand need not say it of themselves.
        seen = {*patient[fold.train], *panel_strangers(adata, panel, fold.train, patient_key)}
        leaky |= fold.test & np.isin(patient, list(seen))
    frames = {
        label: pd.DataFrame(np.full((adata.n_obs, len(union)), np.nan, np.float32), adata.obs_names, union)
        for label in specs
    }
    for (label, number), mean in zip(order, results, strict=True):
        columns = frames[label].columns.get_indexer(pd.Index(panels[number]))
        frames[label].values[np.ix_(np.flatnonzero(folds[number].test), columns)] = mean
    number_of = np.full(adata.n_obs, -1)
    for number, fold in enumerate(folds):
        number_of[fold.test] = number
    keys = []
    for label, frame in frames.items():
        key = f"{key_added}_{label}"
        adata.obsm[key] = frame
        adata.obs[Key.leaky(key)] = leaky
        adata.obs[Key.fold(key)] = number_of
        record = {
            "label": label,
            "model": specs[label]["model"],
            "folds": [fold.name for fold in folds],
            "allow_leakage": allow_leakage,
            "normalization": normalization.get("method"),
            "seed": seed,
        }
        write_record(adata, key, record)
        keys.append(key)
    return evaluate(
        data, keys, layer=layer, metrics=metrics, ceiling=ceiling, baselines=baselines,
        sample_key=sample_key, patient_key=patient_key, seed=seed, table_key=table_key,
    )  # fmt: skip


def _specifications(
    models: Models, features: str | Sequence[str] | None, scaling: Scaling, baselines: bool
) -> dict[str, dict[str, Any]]:
    """Every label with its model, inputs, hyperparameters and training settings; the baselines among them."""
    from stpredict.models import get_model
    from stpredict.training import train_config

    models = [models] if isinstance(models, str) else models
    given = dict(models) if isinstance(models, Mapping) else {name: name for name in models}
    if not given:
        raise ValueError("expected at least one model; found none; see stp.models.list_models()")
    known = {"model", "features", "feature_scaling", "hyperparameters", "training"}
    specs: dict[str, dict[str, Any]] = {}
    for label, entry in given.items():
        spec: dict[str, Any] = {"model": entry} if isinstance(entry, str) else dict(entry)
        if "model" not in spec or not set(spec) <= known:
            raise TypeError(f"expected model {label!r} as a name or a mapping with {sorted(known)}; found {entry!r}")
        spec = {"features": features, "feature_scaling": scaling, "hyperparameters": {}, "training": {}} | spec
        specs[label] = spec | {"permuted": False}
    reads = any(
        get_model(spec["model"]).reads(dict(spec["hyperparameters"])) & {"features", "bag"} for spec in specs.values()
    )
    if baselines:
        plain: dict[str, Any] = {
            "features": features,
            "feature_scaling": scaling,
            "hyperparameters": {},
            "training": {},
        }
        specs.setdefault("mean", plain | {"model": "mean", "permuted": False})
        if reads or features is not None:
            specs.setdefault("ridge", plain | {"model": "ridge", "permuted": False})
            specs.setdefault(_PERMUTED, plain | {"model": "ridge", "permuted": True})
    for spec in specs.values():
        check_choice(spec["feature_scaling"], ("global", "section"), "feature_scaling")
        get_model(spec["model"]).configure(dict(spec["hyperparameters"]))
        spec["config"] = train_config(spec["model"], spec["training"])
    return specs


def _check_folds(adata: AnnData, folds: Sequence[Fold], patient_key: str, *, allow_leakage: bool) -> None:
    """Raise unless the folds are masks of this object, disjoint by patient (or by observation, when leaks are allowed)."""
    for fold in folds:
        for side, mask in (("train", fold.train), ("test", fold.test)):
            if np.shape(mask) != (adata.n_obs,) or np.asarray(mask).dtype != bool:
                raise ValueError(
                    f"expected {side} of fold {fold.name!r} to be a boolean array of {adata.n_obs} values; "
                    f"found {np.asarray(mask).dtype} of shape {np.shape(mask)}"
                )
        if not fold.test.any():
            raise ValueError(f"expected test observations in fold {fold.name!r}; found none")
        if not allow_leakage:
            assert_disjoint(adata, fold.train, fold.test, patient_key=patient_key)
        both = int((fold.train & fold.test).sum())
        if both:
            raise ValueError(
                f"expected each observation of fold {fold.name!r} on one side; found {both} in training and test"
            )
    if (np.sum([fold.test for fold in folds], axis=0) > 1).any():
        raise ValueError("expected each observation in the test side of one fold at most; found some in several")


def _inputs(adata: AnnData, spec: Mapping[str, Any], image: Any) -> Inputs:
    from stpredict.models import get_model

    info = get_model(spec["model"])
    config = info.configure(dict(spec["hyperparameters"]))
    needs = info.cls.reads(config)
    bag = "bag" in needs
    keys = feature_keys(adata, spec["features"], bag=bag) if bag or "features" in needs else []
    return inputs_of(info.cls, keys, spec["feature_scaling"], config=config, image=image)


def _folds(adata: AnnData, splitter: Splitter, seed: int, sample_key: str, patient_key: str) -> list[Fold]:
    if splitter == "patient":
        return leave_one_patient_out(adata, sample_key=sample_key, patient_key=patient_key)
    if splitter == "section":
        return leave_one_section_out(adata, sample_key=sample_key, patient_key=patient_key)
    if isinstance(splitter, int):
        return grouped_k_fold(adata, splitter, seed=seed, sample_key=sample_key, patient_key=patient_key)
    folds: list[Any] = list(splitter(adata)) if callable(splitter) else list(splitter)
    if not folds or not all(isinstance(fold, Fold) for fold in folds):
        raise TypeError("expected `splitter` to be 'patient', 'section', a number, or stp.cohorts.Fold objects")
    return folds


def _run_all(
    tasks: Iterable[Task], n_tasks: int, *, n_jobs: int, threads: int, device: Any, seed: int, progress: bool
) -> list[np.ndarray]:
    """Run every task, in this process or in several."""
    from joblib import Parallel, delayed

    jobs = (
        delayed(_run)(spec["model"], spec["hyperparameters"], spec["config"], train, test, threads, str(device), seed)
        for spec, train, test in tasks
    )
    results = Parallel(n_jobs=n_jobs, return_as="generator")(jobs)
    if progress:
        from tqdm.auto import tqdm

        results = tqdm(results, total=n_tasks, desc="cross-validate", unit="fit")
    return list(results)


def _run(
    model: str,
    hyperparameters: Mapping[str, Any],
    config: TrainConfig,
    train: ArraySet,
    test: ArraySet,
    threads: int,
    device: str,
    seed: int,
) -> np.ndarray:
    """Fit one model on one fold and predict its test side; the same in any process."""
    import torch
    from threadpoolctl import threadpool_limits

    from stpredict.training import fit_arrays, predict_arrays

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            where = torch.device(device)
            fit = fit_arrays(model, train, hyperparameters=hyperparameters, config=config, device=where, seed=seed)
            return predict_arrays(fit.network, test, device=where)[0]
    finally:
        torch.set_num_threads(before)
