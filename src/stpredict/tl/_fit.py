"""Fit a model to measured sections."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict import _provenance
from stpredict._container import get_table
from stpredict._keys import Key
from stpredict._settings import settings
from stpredict._validate import as_mask, check_patients
from stpredict.pp._normalize import measured_rows
from stpredict.pp._spatially_variable import matrix_of
from stpredict.tl._collect import (
    MIN_OBSERVATIONS,
    Inputs,
    Panel,
    Scaling,
    choose_panel,
    collect,
    describe_features,
    feature_keys,
    panel_strangers,
    read_normalization,
)

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict._container import Container
    from stpredict.training import FittedModel


def fit(
    data: Container,
    model: str = "ridge",
    train: np.ndarray | str | None = None,
    *,
    features: str | Sequence[str] | None = None,
    feature_scaling: Scaling = "global",
    panel: Panel = None,
    layer: str | None = None,
    image: Any = None,
    hyperparameters: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    baselines: Sequence[str] = ("mean", "ridge"),
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    path: str | Path | None = None,
    checkpoint_dir: str | Path | None = None,
    allow_leakage: bool = False,
    device: str | None = None,
    seed: int = 0,
    progress: bool | None = None,
    table_key: str = Key.TABLE,
) -> FittedModel:
    """Fit a model to predict expression from histology.

    The number of epochs is chosen on an inner validation split by patient (by section where there is one patient, by a
    stripe of the section where there is one section); penalties of closed-form models by inner cross-validation over
    the same groups. Everything that is learned from data (panel, standardization, stopping) is learned from the
    training observations.

    Parameters
    ----------
    data
        Sections with image features (or images, for networks that read pixels) and normalized expression in `X`.
    model
        Registered name, see :func:`stpredict.models.list_models`.
    train
        Boolean mask (n_obs,) or the name of a boolean column of `obs`; everything when `None`.
    features
        Encoder, slot of `obsm`, or several of them (concatenated); the only one there is when `None`.
    feature_scaling
        `"global"` uses the features as they are; `"section"` standardizes them within each section, here and at
        prediction, which takes differences in staining between slides out and reads no expression.
    panel
        Genes to predict: a list, a boolean column of `var`, or a selection to run on the training observations (a
        method or a mapping with `"method"` and options of :func:`stpredict.pp.select_genes`). By default
        `var["selected"]`, or all genes.
    layer
        Layer with the target instead of `X`.
    image
        Images that the object does not record: a path, an array, or a mapping from section to either.
    hyperparameters
        Of the network, for example `{"hidden": 512}`.
    training
        Changes to the training settings, see :class:`stpredict.training.TrainConfig`.
    baselines
        Closed-form models fitted on the same rows and kept beside, for the tables of :func:`stpredict.tl.evaluate`.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    path
        Directory to save the model in; by default one under `settings.cache_dir`.
    checkpoint_dir
        Keep checkpoints here, and continue from them when the same call is made again.
    allow_leakage
        Accept a panel that was selected on other patients; recorded in the model.
    device
        `"cpu"`, `"cuda"`, …; `settings.device` when `None`.
    seed
        Of weights, order, dropout, augmentation and the inner split.
    progress
        Show progress bars; `settings.progress` when `None`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The fitted model. Its saved path is left in `uns["stpredict"]["model"]`.

    Raises
    ------
    KeyError
        When features, normalization, a gene of the panel or the model is missing.
    ValueError
        When values are not finite, the panel saw other patients, or there are too few observations.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> model = stp.tl.fit(adata, "ridge", adata.obs["patient"] == "P1")
    """
    from stpredict._device import resolve_device
    from stpredict.models import get_model
    from stpredict.training import FittedModel, fit_arrays, train_config

    adata = get_table(data, table_key)
    info = get_model(model)
    hyper = dict(hyperparameters or {})
    network_config = info.configure(hyper)
    config = train_config(model, training)
    check_patients(adata, sample_key, patient_key)
    rows = as_mask(adata, train)
    _check_measured(adata, rows, layer)
    if rows.sum() < MIN_OBSERVATIONS:
        raise ValueError(f"expected at least {MIN_OBSERVATIONS} training observations; found {int(rows.sum())}")
    normalization = read_normalization(adata, layer)
    wanted = [name for name in baselines if name != model]
    slow = [name for name in wanted if not get_model(name).cls.closed_form]
    if slow:
        raise ValueError(
            f"expected baselines in closed form (mean, ridge); found {', '.join(slow)}; fit these on their own, or "
            "compare them with stp.tl.cross_validate"
        )
    needs_features = "features" in info.cls.needs
    keys: list[str] = []
    if needs_features or (features is not None and "ridge" in wanted):
        keys = feature_keys(adata, features)
    elif "ridge" in wanted:
        wanted.remove("ridge")  # a network on pixels, and no features named for the baseline
    described = describe_features(adata, keys, feature_scaling)
    genes = choose_panel(
        adata, panel, rows,
        layer=layer, sample_key=sample_key, patient_key=patient_key, allow_leakage=allow_leakage,
    )  # fmt: skip
    patch = (network_config.patch_um, network_config.patch_px) if "patches" in info.cls.needs else None
    inputs = Inputs(keys, feature_scaling, patch, image)
    show = settings.progress if progress is None else progress
    arrays = collect(
        data, adata, rows, inputs,
        panel=genes, layer=layer, sample_key=sample_key, patient_key=patient_key, progress=show,
    )  # fmt: skip

    facts = {
        "patients": sorted(set(adata.obs[patient_key].astype(str).to_numpy()[rows])),
        "samples": sorted(set(adata.obs[sample_key].astype(str).to_numpy()[rows])),
        "n_obs": int(rows.sum()),
        "seed": seed,
        "allow_leakage": allow_leakage,
        "panel_patients": panel_strangers(adata, panel, rows, patient_key),
        "patch": None if patch is None else list(patch),
    }

    def fitted(name: str, hyperparameters: Mapping[str, Any], settings_: Any, bars: bool) -> FittedModel:
        result = fit_arrays(
            name,
            arrays,
            hyperparameters=hyperparameters,
            config=settings_,
            device=resolve_device(device),
            seed=seed,
            checkpoint_dir=None if checkpoint_dir is None else Path(checkpoint_dir),
            progress=bars,
        )
        reads_features = "features" in get_model(name).cls.needs
        return FittedModel(
            model=name,
            network=result.network,
            panel=genes,
            normalization=normalization,
            features=described if reads_features else {"slots": {}, "scaling": feature_scaling},
            training=facts
            | {"settings": settings_.to_dict(), "validated_on": result.validated_on, "n_epochs": result.n_epochs},
            history=result.history,
        )

    main = fitted(model, hyper, config, show)
    main.baselines = {name: fitted(name, {}, train_config(name), False) for name in wanted}
    saved = main.save(path if path is not None else _default_path(main))
    _provenance.write(adata, "model", {"path": str(saved), "model": model, "patients": facts["patients"]})
    return main


def _check_measured(adata: AnnData, rows: np.ndarray, layer: str | None) -> None:
    """Raise when rows to train on were not measured; a sparse matrix holds zeros there, not NaN."""
    unmeasured = int((rows & ~measured_rows(adata, matrix_of(adata, layer))).sum())
    if unmeasured:
        raise ValueError(
            f"expected measured training observations; found {unmeasured} without a measurement (NaN, or "
            "obs['measured'] is false); leave them out with `train=`, for example train='measured'"
        )


def _default_path(model: FittedModel) -> Path:
    """Directory named after the content, so that an object never finds the model of another fit in its place."""
    digest = hashlib.sha256()
    for part in (model, *model.baselines.values()):
        facts = [part.model, part.panel, part.features, part.training, part.normalization, asdict(part.network.config)]
        digest.update(json.dumps(facts, default=str).encode())
        for name, tensor in sorted(part.network.state_dict().items()):
            digest.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return settings.cache_dir / "models" / f"{model.model}-{digest.hexdigest()[:16]}"
