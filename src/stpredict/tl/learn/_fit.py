"""Fit a model to measured sections."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._settings import settings
from stpredict.slots._checks import as_mask, check_patients
from stpredict.slots._container import get_table
from stpredict.slots._expression import matrix_of, measured_rows, read_normalization
from stpredict.slots._features import feature_matrix
from stpredict.slots._keys import Key
from stpredict.slots._provenance import write_record
from stpredict.tl.learn._collect import (
    MIN_OBSERVATIONS,
    Scaling,
    check_features,
    collect,
    describe_features,
    feature_keys,
    inputs_of,
    with_lattice,
)
from stpredict.tl.learn._targets import Panel, choose_panel, panel_strangers, read_classes

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container
    from stpredict.training import FittedModel

_OWN_BASELINES = ("untrained", "permuted")  # the network itself, without anything to learn from


def fit(
    data: Container,
    model: str = "ridge",
    train: np.ndarray | str | None = None,
    *,
    features: str | Sequence[str] | None = None,
    feature_scaling: Scaling = "global",
    panel: Panel = None,
    layer: str | None = None,
    target: str | None = None,
    outcome: tuple[str, str] | None = None,
    image: Any = None,
    hyperparameters: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    init: FittedModel | str | Path | None = None,
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
    target
        Column of `obs` with classes (boolean, or categories) to predict instead of expression, for example `"tumor"`;
        the network then learns their logits, and predictions go to `obs["{target}_probability"]`. Observations whose
        class is not known (`NaN`) are seen, and not learned from.
    outcome
        Columns of `obs` with the follow-up time and the event, for example `("time", "event")`: the network then learns
        the log hazard of Cox's model instead of expression, and predictions go to `obs["risk"]`.
    image
        Images that the object does not record: a path, an array, or a mapping from section to either.
    hyperparameters
        Of the network, for example `{"hidden": 512}`.
    training
        Changes to the training settings, see :class:`stpredict.training.TrainConfig`.
    init
        Fitted model of the same kind, or its directory, to start from (trained on another cohort, perhaps on other
        genes); its head is replaced by a new one, and its patients count as seen.
    baselines
        What is fitted on the same rows and kept beside, for tables: closed-form models (`"mean"`, `"ridge"`),
        `"untrained"` (the network as it is drawn) and `"permuted"` (the network trained on permuted labels, which takes
        as long as the training itself). None for a target or an outcome.
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
        When features or bags, normalization, a gene of the panel, an outcome or the model is missing.
    ValueError
        When values are not finite, the panel saw other patients, there are too few observations, times are not
        positive, all events are censored, the slides of a patient differ in outcome, or a class is absent from the
        training observations.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> model = stp.tl.fit(adata, "ridge", adata.obs["patient"] == "P1")
    """
    from stpredict.core._device import resolve_device
    from stpredict.models import get_model
    from stpredict.training import FittedModel, fit_arrays, predict_arrays, train_config, untrained

    adata = get_table(data, table_key)
    info = get_model(model)
    hyper = with_lattice(adata, model, hyperparameters or {})
    network_config = info.configure(hyper)
    config = train_config(model, training, outcome=outcome is not None)
    check_patients(adata, sample_key, patient_key)
    rows = as_mask(adata, train)
    if target is not None and outcome is not None:
        raise ValueError("expected `target=` or `outcome=`; found both; fit one model for each")
    expression = target is None and outcome is None
    if expression:
        check_measured(adata, rows, layer)
    elif info.cls.closed_form:
        raise ValueError(
            f"expected a network that is trained in steps for `target=` and `outcome=`; found {model!r}; see "
            "stp.models.list_models()"
        )
    if rows.sum() < MIN_OBSERVATIONS:
        raise ValueError(f"expected at least {MIN_OBSERVATIONS} training observations; found {int(rows.sum())}")
    needs = info.cls.reads(network_config)
    reads_bags = "bag" in needs
    if reads_bags and feature_scaling != "global":
        raise ValueError(
            f"expected feature_scaling='global' for networks on bags; found {feature_scaling!r}; what tells slides "
            "apart would be standardized away"
        )
    wanted = [name for name in baselines if name != model] if expression else []
    unknown = [name for name in wanted if name not in _OWN_BASELINES and not get_model(name).cls.closed_form]
    if unknown:
        raise ValueError(
            f"expected baselines in closed form (mean, ridge) or among {', '.join(_OWN_BASELINES)}; found "
            f"{', '.join(unknown)}; fit these on their own, or compare them with stp.tl.cross_validate"
        )
    if info.cls.closed_form:
        wanted = [name for name in wanted if name != "untrained"]
    keys: list[str] = []
    if reads_bags or "features" in needs or (features is not None and "ridge" in wanted):
        keys = feature_keys(adata, features, bag=reads_bags)
    if "ridge" in wanted and (not keys or feature_matrix(adata, keys[0]) is None):
        wanted.remove("ridge")  # a network on pixels and no features named, or bags without their mean
    described = describe_features(adata, keys, feature_scaling)
    start = FittedModel.load(init) if isinstance(init, (str, Path)) else init
    if start is not None:
        check_features(adata, start.features)
    classes = None if target is None else read_classes(adata, target, rows)
    if expression:
        normalization = read_normalization(adata, layer)
        genes = choose_panel(
            adata, panel, rows,
            layer=layer, sample_key=sample_key, patient_key=patient_key, allow_leakage=allow_leakage,
        )  # fmt: skip
    elif classes is not None:
        normalization, genes = {"method": "label", "key": classes.key, "classes": list(classes.names)}, classes.outputs
    elif outcome is not None:
        normalization, genes = {"method": "outcome", "time": outcome[0], "event": outcome[1]}, [Key.RISK]
    inputs = inputs_of(
        info.cls, keys, feature_scaling, config=network_config, image=image, outcome=outcome, target=classes
    )
    show = settings.progress if progress is None else progress
    arrays = collect(
        data, adata, rows, inputs,
        panel=genes, layer=layer, sample_key=sample_key, patient_key=patient_key, progress=show,
    )  # fmt: skip

    strangers = panel_strangers(adata, panel, rows, patient_key) if expression else []
    facts = {
        "patients": sorted(set(adata.obs[patient_key].astype(str).to_numpy()[rows])),
        "samples": sorted(set(adata.obs[sample_key].astype(str).to_numpy()[rows])),
        "n_obs": int(rows.sum()),
        "seed": seed,
        "allow_leakage": allow_leakage,
        "panel_patients": strangers,
        "pretraining_patients": [] if start is None else patients_seen(start),
        "patch": None if inputs.patch is None else list(inputs.patch),
        "padded_patches": getattr(arrays.patches, "padded", None),
    }
    device_ = resolve_device(device)

    def fitted(name: str) -> FittedModel:
        kind = model if name in _OWN_BASELINES else name
        own = kind == model
        settings_ = config if own else train_config(kind)
        if name == "untrained":
            result = untrained(kind, arrays, hyperparameters=hyper, seed=seed)
        else:
            result = fit_arrays(
                kind,
                arrays.permuted(seed) if name == "permuted" else arrays,
                hyperparameters=hyper if own else {},
                config=settings_,
                device=device_,
                seed=seed,
                init=None if start is None or not own else start.network,
                checkpoint_dir=None if checkpoint_dir is None else Path(checkpoint_dir),
                progress=show and own,
            )
        reads_features = result.network.needs & {"features", "bag"}
        return FittedModel(
            model=kind,
            network=result.network,
            panel=genes,
            normalization=normalization,
            features=described if reads_features else {"slots": {}, "scaling": feature_scaling},
            training=facts
            | {"settings": settings_.to_dict(), "validated_on": result.validated_on, "n_epochs": result.n_epochs},
            history=result.history,
        )

    main = fitted(model)
    main.baselines = {name: fitted(name) for name in wanted}
    if outcome is not None:
        risk = predict_arrays(main.network, arrays, device=device_)[0][:, 0]
        main.training |= {"risk_mean": float(risk.mean()), "risk_median": float(np.median(risk))}
    saved = main.save(path if path is not None else _default_path(main))
    write_record(adata, "model", {"path": str(saved), "model": model, "patients": facts["patients"]})
    return main


def patients_seen(model: FittedModel) -> list[str]:
    """Patients that a model was trained on, whose panel it has, or that its starting weights were trained on."""
    facts = model.training
    return sorted({*facts["patients"], *facts.get("panel_patients", []), *facts.get("pretraining_patients", [])})


def check_measured(adata: AnnData, rows: np.ndarray, layer: str | None) -> None:
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
