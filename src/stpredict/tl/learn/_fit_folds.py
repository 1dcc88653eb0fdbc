"""Fit one model per fold of patients, and predict every patient with the model that never saw them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts import grouped_k_fold
from stpredict.core._settings import settings
from stpredict.slots._checks import check_patients
from stpredict.slots._container import get_table
from stpredict.slots._expression import matrix_of, measured_rows
from stpredict.slots._keys import Key
from stpredict.slots._provenance import read_record, write_record
from stpredict.tl.learn._fit import fit
from stpredict.tl.learn._predict import predict
from stpredict.tl.learn._targets import Panel

if TYPE_CHECKING:
    from stpredict.slots._container import Container
    from stpredict.training import FittedModel


def fit_folds(
    data: Container,
    model: str = "sequoia",
    n_folds: int = 5,
    *,
    features: str | Sequence[str] | None = None,
    panel: Panel = None,
    layer: str | None = None,
    outcome: tuple[str, str] | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    init: FittedModel | str | Path | None = None,
    baselines: Sequence[str] = ("mean", "ridge", "untrained", "permuted"),
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    path: str | Path | None = None,
    allow_leakage: bool = False,
    device: str | None = None,
    seed: int = 0,
    key_added: str | None = None,
    progress: bool | None = None,
    table_key: str = Key.TABLE,
) -> list[FittedModel]:
    """Fit a model to each of several folds of patients, and predict each patient with the model that never saw them.

    The number of epochs is chosen on an inner validation by patient inside the training side of each fold. Observations
    that were not measured are predicted by no fold model; average the models to predict them, and other cohorts:
    `stp.tl.predict(other, models)`.

    Parameters
    ----------
    data
        Slides with bags, or sections with features, and normalized expression in `X` or an outcome in `obs`.
    model
        Registered name, see :func:`stpredict.models.list_models`.
    n_folds
        Number of folds; the patients are spread over them at random.
    features, panel, layer, outcome, hyperparameters, training, init, baselines
        As in :func:`stpredict.tl.fit`. A selection given as `panel` runs inside each fold.
    sample_key, patient_key
        Columns of `obs` with the slide and the patient.
    path
        Directory for the models, one folder per fold; by default under `settings.cache_dir`.
    allow_leakage
        Accept a panel that was selected on test patients; every prediction is then marked as leaky.
    device
        `"cpu"`, `"cuda"`, …; `settings.device` when `None`.
    seed
        Of the folds, weights, order, dropout and the inner splits.
    key_added
        Slot of the predictions; `"predicted"`, or `"risk"` for an outcome, when `None`.
    progress
        Show progress bars; `settings.progress` when `None`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The fitted models in the order of the folds; their saved paths are left in `uns["stpredict"]["model"]`. Writes what :func:`stpredict.tl.predict` writes, out of fold: `NaN`
    where an observation was not measured or a gene not selected; and `obs["{key_added}_fold"]`, the number of the fold
    that predicted an observation (-1 for none).

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
    import pandas as pd
    from tqdm.auto import tqdm

    adata = get_table(data, table_key)
    check_patients(adata, sample_key, patient_key)
    usable = np.ones(adata.n_obs, dtype=bool) if outcome else measured_rows(adata, matrix_of(adata, layer))
    splits = grouped_k_fold(adata[usable], n_folds, seed=seed, sample_key=sample_key, patient_key=patient_key)
    key = key_added or (Key.RISK if outcome else Key.PREDICTED)
    show = settings.progress if progress is None else progress
    kept = np.flatnonzero(usable)

    models: list[FittedModel] = []
    parts, paths = [], []
    for number, split in enumerate(tqdm(splits, desc="folds", unit="fold", disable=not show)):
        train, test = np.zeros((2, adata.n_obs), dtype=bool)
        train[kept[split.train]] = True
        test[kept[split.test]] = True
        fitted = fit(
            data, model, train,
            features=features, panel=panel, layer=layer, outcome=outcome, hyperparameters=hyperparameters,
            training=training, init=init, baselines=baselines, sample_key=sample_key, patient_key=patient_key,
            path=None if path is None else Path(path) / f"fold{number}", allow_leakage=allow_leakage, device=device, seed=seed, progress=False,
            table_key=table_key,
        )  # fmt: skip
        part = adata[test].copy()
        predict(
            part, fitted,
            sample_key=sample_key, patient_key=patient_key, device=device, key_added=key, progress=False,
        )  # fmt: skip
        part.obs[Key.fold(key)] = number
        models.append(fitted)
        paths.append((read_record(adata, "model") or {})["path"])
        parts.append(part)

    columns = [c for c in parts[0].obs if c not in adata.obs or c in _written(key)]
    slots = [k for k in parts[0].obsm if k in (key, Key.std(key)) or k.startswith(Key.baseline(key, ""))]
    obs = pd.concat([part.obs[columns] for part in parts]).reindex(adata.obs_names)
    obs[Key.fold(key)] = obs[Key.fold(key)].fillna(-1).astype(int)
    obs[Key.leaky(key)] = obs[Key.leaky(key)].eq(True)  # nobody predicted those without a fold
    frames = {slot: pd.concat([part.obsm[slot] for part in parts]).reindex(adata.obs_names) for slot in slots}

    for slot in [k for k in adata.obsm if k == Key.std(key) or k.startswith(Key.baseline(key, ""))]:
        del adata.obsm[slot]
    for slot, frame in frames.items():
        order = [gene for gene in adata.var_names if gene in frame.columns]
        adata.obsm[slot] = frame[order].astype(np.float32)
    for column in columns:
        adata.obs[column] = obs[column]
    record = read_record(parts[0], key) or {}
    whole = {"training_patients": None, "training_samples": None, "n_models": len(models), "n_folds": n_folds}
    write_record(adata, key, record | whole)
    write_record(adata, "model", {"path": paths, "model": model})
    return models


def _written(key: str) -> set[str]:
    """Columns of `obs` that a prediction writes, and that may be there from an earlier one."""
    return {key, f"{key}_group", Key.leaky(key), Key.fold(key)}
