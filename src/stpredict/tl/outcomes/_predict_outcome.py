"""Outcomes of patients of another cohort from maps of their slides."""

from __future__ import annotations

import copy as copying
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._baselines import Baselines, chosen_baselines
from stpredict.slots._container import begin, get_table
from stpredict.slots._keys import Key, check_key
from stpredict.slots._marks import seen_marks, worst_marks, written_marks
from stpredict.slots._outcome import patients_of
from stpredict.slots._provenance import write_record
from stpredict.tl.learn.targets._base import slots_of
from stpredict.tl.outcomes._maps import Maps

if TYPE_CHECKING:
    from stpredict.slots._container import Container
    from stpredict.tl.outcomes._result import OutcomeResult
    from stpredict.training import FittedModel


def predict_outcome(
    data: Container,
    model: OutcomeResult | FittedModel | str | Path,
    *,
    maps: Maps,
    baselines: Baselines = True,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    key_added: str | None = None,
    batch_size: int = 64,
    device: str | None = None,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Predict the survival or the response of patients of another cohort with models fitted on all of the first.

    The maps may have another size than those of training; they must show the same channels, made in the same way and on
    the same lattice.

    Parameters
    ----------
    data
        One row per slide, with the patient and the covariates of the model in `obs`; outcomes are not read.
    model
        What :func:`stpredict.tl.fit_outcome` returned, or the directory where it was saved.
    maps
        Maps of the slides, as for :func:`stpredict.tl.fit_outcome`. The slots to read are those of the model.
    baselines
        Names of the linear baselines to predict with beside the network; all that were fitted with it for `True`, none
        for `False`.
    sample_key, patient_key
        Columns of `obs` with the slide and the patient.
    key_added
        Column of the prediction; `"risk"`, or `"{response}_probability"`, when `None`.
    batch_size
        Slides per step; it changes memory and speed, not the result.
    device
        `"cpu"`, `"cuda"`, …; `settings.device` when `None`.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obs[key_added]`: log hazard relative to the mean of the training patients' slides, or probability of the second
      class;
    - `obs["{key_added}_group"]`, for survival: `"high"` above the median of the training slides, else `"low"`;
    - `obs["{key_added}_baseline_{name}"]`: the same as the first for each baseline;
    - `obs["{key_added}_leaky"]`: whether the model was trained on this patient (the predictions of
      :func:`stpredict.tl.fit_outcome` are the honest ones there) or on covariates that determine the outcome, or the map
      comes from a model that was trained on this patient;
    - `uns["stpredict"][key_added]`: model, target, training patients and slides.

    A column with the folds of an earlier prediction is removed.

    Raises
    ------
    FileNotFoundError
        When there is no saved outcome in the directory.
    KeyError
        When a covariate, the patient, a slot or the map of a slide is missing.
    TypeError
        When the model is none of an outcome from maps.
    ValueError
        When the maps have other channels than those of training, were made otherwise or lie on another lattice, or a
        covariate is coded otherwise; the message names both sides.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame({"patient": np.arange(24).astype(str), "response": np.arange(24) % 2 == 0})
    >>> slides = ad.AnnData(obs=obs.set_index("s" + obs["patient"]))
    >>> maps = {name: rng.normal(size=(2, 8, 8)) + y for name, y in slides.obs["response"].items()}
    >>> result = stp.tl.fit_outcome(slides, "response", maps=maps, n_folds=(2, 2), training={"max_epochs": 2})
    >>> others = ad.AnnData(obs=pd.DataFrame({"patient": ["x", "y", "3"]}, index=["a", "b", "c"]))
    >>> stp.tl.predict_outcome(others, result, maps={name: rng.normal(size=(2, 9, 7)) for name in "abc"})
    >>> others.obs["response_probability"].between(0, 1).all(), others.obs["response_probability_leaky"].tolist()
    (np.True_, [False, False, True])
    """
    import pandas as pd

    from stpredict.core._device import resolve_device
    from stpredict.tl.outcomes._baselines import baseline_inputs
    from stpredict.tl.outcomes._clinical import ClinicalEncoder
    from stpredict.tl.outcomes._cohort import slide_names
    from stpredict.tl.outcomes._folds import probability
    from stpredict.tl.outcomes._maps import MapKind, dense_maps
    from stpredict.tl.outcomes._network import map_arrays
    from stpredict.training import predict_arrays

    check_key(key_added)
    fitted = _find_model(model)
    facts = fitted.training
    source = get_table(data, table_key)
    patient = patients_of(source, patient_key)
    covariates = ClinicalEncoder.from_dict(facts.extra["clinical"]).read(source)
    kind = MapKind(**{name: value for name, value in facts.extra["maps"].items() if name != "shape"})
    names = chosen_baselines(baselines, facts.extra["linear"])
    linear = {name: np.asarray(facts.extra["linear"][name]) for name in names}
    dense = dense_maps(
        maps, slide_names(source, sample_key), kind.channels, kind.features if "image features" in linear else None,
        like=kind, sample_key=sample_key, table_key=table_key,
    )  # fmt: skip
    network = copying.copy(fitted.network)
    network.config = replace(network.config, shape=dense.shape)
    found = predict_arrays(
        network, map_arrays(dense, covariates, patient), batch_size=batch_size, device=resolve_device(device)
    )
    scores = {"model": found.mean[:, 0].astype(np.float64)}
    inputs = baseline_inputs(dense, covariates)
    for name in (name for name in inputs if name in linear):
        if linear[name].shape != (inputs[name].shape[1] + 1,):
            raise ValueError(
                f"expected {inputs[name].shape[1]} coefficients and an intercept of baseline {name!r} in the model; found "
                f"{linear[name].size} numbers; save it again with OutcomeResult.save"
            )
        coefficients, intercept = linear[name][:-1], linear[name][-1]
        scores[name] = inputs[name] @ coefficients + intercept

    risk = fitted.target.kind == "follow_up"
    key = key_added or slots_of(fitted.target.kind).key(fitted.target)
    columns: dict[str, Any] = {}
    for name, values in scores.items():
        values = values - facts.mean[name] if risk else probability(values)
        columns[key if name == "model" else Key.baseline(key, name)] = values.astype(np.float32)
    if risk:
        high = scores["model"] > facts.median["model"]
        columns[Key.group(key)] = pd.Categorical(np.where(high, "high", "low"))
    seen = facts.patients_seen
    columns[Key.leaky(key)] = written_marks(
        worst_marks(seen_marks(patient, seen), dense.leaky, facts.extra["leaky_covariates"])
    )

    container, adata = begin(data, copy, table_key)
    stale = [name for name in adata.obs if name == Key.fold(key) or str(name).startswith(Key.baseline(key, ""))]
    adata.obs = adata.obs.drop(columns=stale).assign(**columns)
    record = {
        "model": fitted.model, "target": fitted.target.to_dict(), "channels": kind.channels,
        "clinical": facts.extra["clinical"]["columns"], "training_patients": facts.patients, "patients_seen": seen,
        "training_samples": facts.samples, "seed": facts.seed, "allow_leakage": facts.allow_leakage,
    }  # fmt: skip
    write_record(adata, key, record)
    return container if copy else None


def _find_model(model: Any) -> FittedModel:
    from stpredict.tl.outcomes._result import OutcomeResult, check_outcome_model
    from stpredict.training import FittedModel

    if isinstance(model, str | Path):
        model = OutcomeResult.load(model)
    found = model.model if isinstance(model, OutcomeResult) else model
    if not isinstance(found, FittedModel):
        raise TypeError(
            f"expected what stp.tl.fit_outcome returned, or the directory where it was saved; found {type(model).__name__}"
        )
    check_outcome_model(found, "the model")
    return found
