"""Predict expression for every observation of an object."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict import _provenance
from stpredict._container import begin, get_table
from stpredict._keys import Key
from stpredict._settings import settings
from stpredict._validate import check_patients
from stpredict.tl._collect import Inputs, check_features, collect

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict._container import Container
    from stpredict.training import FittedModel


def predict(
    data: Container,
    model: FittedModel | str | Path | None = None,
    *,
    image: Any = None,
    baselines: bool = True,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    batch_size: int = 512,
    device: str | None = None,
    key_added: str = Key.PREDICTED,
    progress: bool | None = None,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Predict the expression of a model's panel for every observation.

    Parameters
    ----------
    data
        Sections with the features (or images) that the model was fitted on.
    model
        Fitted model, or the directory of a saved one; the model that :func:`stpredict.tl.fit` left in this object when
        `None`.
    image
        Images that the object does not record: a path, an array, or a mapping from section to either.
    baselines
        Also predict with the baselines that were fitted beside the model.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    batch_size
        Observations per step; it changes memory and speed, not the result.
    device
        `"cpu"`, `"cuda"`, …; `settings.device` when `None`.
    key_added
        Slot of the prediction.
    progress
        Show a progress bar; `settings.progress` when `None`.
    copy
        Return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obsm[key_added]`: DataFrame (n_obs, n_genes), in the unit of the training target;
    - `obsm["{key_added}_std"]`: standard deviations of the same shape, where the model gives them;
    - `obsm["{key_added}_baseline_{name}"]`: the same for each baseline;
    - `obs["{key_added}_leaky"]`: whether the model was trained, or its panel selected, on this observation's patient;
    - `uns["stpredict"][key_added]`: model, panel, training patients and sections, seed.

    Raises
    ------
    KeyError
        When there is no model, or the features it needs are missing.
    ValueError
        When features, µm/px or normalization differ from the training's; the message names both sides.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> train = adata.obs["patient"] == "P1"
    >>> model = stp.tl.fit(adata, train=train)
    >>> stp.tl.predict(adata, model)
    >>> adata.obsm["predicted"].shape
    (120, 20)
    """
    import pandas as pd

    from stpredict._device import resolve_device
    from stpredict.models import get_model
    from stpredict.training import predict_arrays

    source = get_table(data, table_key)
    fitted = _find_model(source, model)
    check_patients(source, sample_key, patient_key)
    check_normalization(source, fitted)
    everyone = np.ones(source.n_obs, dtype=bool)
    show = settings.progress if progress is None else progress
    models: dict[str, FittedModel] = {key_added: fitted}
    if baselines:
        models |= {f"{key_added}_baseline_{name}": part for name, part in fitted.baselines.items()}

    written: dict[str, pd.DataFrame] = {}
    for key, part in models.items():
        needs = get_model(part.model).cls.needs
        check_features(source, part.features)
        patch = tuple(part.training["patch"]) if "patches" in needs else None
        inputs = Inputs(list(part.features["slots"]), part.features["scaling"], patch, image)
        arrays = collect(
            data, source, everyone, inputs,
            panel=None, layer=None, sample_key=sample_key, patient_key=patient_key, progress=show and patch is not None,
        )  # fmt: skip
        bar = show and key == key_added
        mean, std = predict_arrays(
            part.network, arrays, batch_size=batch_size, device=resolve_device(device), progress=bar
        )
        written[key] = pd.DataFrame(mean, index=source.obs_names, columns=part.panel)
        if std is not None and key == key_added:
            written[Key.std(key)] = pd.DataFrame(std, index=source.obs_names, columns=part.panel)

    container, adata = begin(data, copy, table_key)
    stale = [k for k in adata.obsm if k == Key.std(key_added) or k.startswith(f"{key_added}_baseline_")]
    for key in stale:
        del adata.obsm[key]
    for key, frame in written.items():
        adata.obsm[key] = frame
    patient = adata.obs[patient_key].astype(str)
    seen = [*fitted.training["patients"], *fitted.training.get("panel_patients", [])]
    adata.obs[Key.leaky(key_added)] = patient.isin(seen).to_numpy()
    record = {
        "model": fitted.model,
        "training_patients": fitted.training["patients"],
        "training_samples": fitted.training["samples"],
        "panel_digest": _provenance.genes_digest(fitted.panel),
        "seed": fitted.training["seed"],
        "allow_leakage": fitted.training["allow_leakage"],
    }
    _provenance.write(adata, key_added, record)
    return container if copy else None


def _find_model(adata: AnnData, model: FittedModel | str | Path | None) -> FittedModel:
    from stpredict.training import FittedModel

    if isinstance(model, FittedModel):
        return model
    if model is not None:
        return FittedModel.load(model)
    record = _provenance.read(adata, "model")
    if record is None:
        raise KeyError(
            "expected a model; found none in uns['stpredict']['model']; pass the model that stp.tl.fit returned, "
            "or the directory of a saved one"
        )
    return FittedModel.load(record["path"])


def check_normalization(adata: AnnData, fitted: FittedModel) -> None:
    """Raise when the object says it is normalized otherwise than the model's target was; name both sides."""
    record = _provenance.read(adata, "normalize")
    if record is None or fitted.normalization.get("method") in {"layer", "scanpy"}:
        return  # an unmeasured object, or a target whose unit the user looks after
    wanted = fitted.normalization
    compared = ("method", "size_factors", "target_sum")
    differing = [name for name in compared if wanted.get(name) != record.get(name)]
    if sorted(wanted.get("panel", [])) != sorted(record.get("panel", [])):
        differing.append("panel")
    if differing:

        def side(values: dict[str, Any]) -> str:
            shown = {name: values.get(name) for name in differing}
            if "panel" in shown:
                shown["panel"] = f"{len(values.get('panel', []))} genes"
            return str(shown)

        raise ValueError(
            f"expected the normalization of the model's training data, {side(wanted)}; found {side(record)}; "
            "run stp.pp.normalize with the settings of the model"
        )
