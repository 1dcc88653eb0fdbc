"""Predict expression for every observation of an object."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._settings import settings
from stpredict.slots._checks import check_patients
from stpredict.slots._container import begin, get_table, is_spatialdata
from stpredict.slots._features import is_tile_table
from stpredict.slots._keys import Key
from stpredict.slots._provenance import genes_digest, read_record, write_record
from stpredict.tl.learn._collect import check_features, collect, inputs_of, patient_codes
from stpredict.tl.learn._fit import patients_seen

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container
    from stpredict.training import FittedModel


def predict(
    data: Container,
    model: FittedModel | str | Path | Sequence[FittedModel | str | Path] | None = None,
    *,
    image: Any = None,
    baselines: bool = True,
    window: int = 10,
    stride: int = 1,
    min_tiles: int | None = None,
    store: str | Path | None = None,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    batch_size: int | None = None,
    device: str | None = None,
    key_added: str | None = None,
    progress: bool | None = None,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Predict the expression of a model's panel for every observation.

    A network on bags predicts one profile per slide from a table of slides, and a map from the tiles of a slide: it
    reads square windows of tiles, and a tile gets the mean over the windows that cover it.

    Parameters
    ----------
    data
        Sections with the features (or images) that the model was fitted on; slides with bags; or, for a map with a
        network on bags, a slide or a table with the features of its tiles.
    model
        Fitted model, or the directory of a saved one; several (the folds of :func:`stpredict.tl.fit_folds`) are
        averaged; the model that :func:`stpredict.tl.fit` left in this object when `None`.
    image
        Images that the object does not record: a path, an array, or a mapping from section to either.
    baselines
        Also predict with the baselines that were fitted beside the model; not for maps.
    window
        For maps: side of a window in tiles.
    stride
        For maps: step between windows in tiles.
    min_tiles
        For maps: tiles a window needs to be used; more than half of it by default. A tile that no such window covers
        gets the window around it with the most tiles.
    store
        For maps of one slide: write the prediction to an AnnData in Zarr at this path, gene by gene, in memory that
        does not grow with the number of genes; an interrupted call goes on where it stopped. `obsm` stays as it is.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    batch_size
        Observations, bags, grids or windows per step; it changes memory and speed, not the result.
    device
        `"cpu"`, `"cuda"`, …; `settings.device` when `None`.
    key_added
        Slot of the prediction; `"predicted"`, `"risk"` for an outcome, `"{target}_probability"` for classes, when
        `None`.
    progress
        Show a progress bar; `settings.progress` when `None`.
    copy
        Return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData; of a slide, the table of the tiles is found by the encoder.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obsm[key_added]`: DataFrame (n_obs, n_genes), in the unit of the training target;
    - `obsm["{key_added}_std"]`: standard deviations of the same shape, where the model gives them; between the models
      where there are several;
    - `obsm["{key_added}_baseline_{name}"]`: the same for each baseline;
    - `obs["{key_added}_leaky"]`: whether the model was trained, or its panel selected, on this observation's patient;
    - `uns["stpredict"][key_added]`: model, panel, training patients and sections, seed.

    For a map also `obs["{key_added}_n_windows"]` and `obs["{key_added}_partial"]`, whether only windows with fewer than
    `min_tiles` tiles cover the tile. Lay the tiles with `stp.pp.tiles(slide, max_tiles=None)`: a draw of them leaves
    windows with holes. For an outcome, instead of the slots of `obsm`, `obs["risk"]` (log hazard relative
    to the mean of the training set) and, of slides, `obs["risk_group"]` (`"high"` above the median of the training set).
    For two classes `obs["{target}_probability"]` of the second; for more `obsm["{target}_probability"]` and
    `obs["{target}_predicted"]`.

    Raises
    ------
    KeyError
        When there is no model, or the features it needs are missing.
    ValueError
        When features, µm/px or normalization differ from the training's, the message names both sides; when several
        models do not predict the same genes in the same unit.

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

    from stpredict.models import get_model

    members = find_models(data, model, table_key)
    table_key = _tile_table_key(data, table_key, members[0])
    source = get_table(data, table_key)
    people = _patients(source, sample_key, patient_key)
    kind = members[0].normalization.get("method")
    risk, label = kind == "outcome", members[0].normalization["key"] if kind == "label" else None
    key_added = key_added or (Key.RISK if risk else Key.PREDICTED if label is None else Key.probability(label))
    show = settings.progress if progress is None else progress
    for part in members:
        check_normalization(source, part)
        check_features(source, part.features)
    reads_bags = get_model(members[0].model).cls.unit == "bag"
    as_map = reads_bags and not all(Key.bag(slot) in source.obsm for slot in members[0].features["slots"])
    if store is not None and (kind in {"outcome", "label"} or not as_map):
        raise ValueError(
            "expected `store=` with a map of expression (a network on bags, and the tiles of a slide) only; found "
            + (f"a model of an {kind}" if as_map else "no map")
        )
    if as_map and label is not None:
        raise ValueError("expected a model of expression or of an outcome for a map; found one of classes of slides")

    obs: dict[str, Any] = {}
    frames: dict[str, pd.DataFrame] = {}
    if as_map:
        from stpredict.tl.maps._map import map_table

        frame, n_windows, partial = map_table(
            source, members, next(iter(members[0].features["slots"])),
            window=window, stride=stride, min_tiles=min_tiles, store=store, sample_key=sample_key,
            batch_size=batch_size, device=device, progress=show, key_added=key_added,
        )  # fmt: skip
        obs |= {f"{key_added}_n_windows": n_windows, f"{key_added}_partial": partial}
        if isinstance(frame, pd.DataFrame):
            frames[key_added] = frame
    else:
        groups = {key_added: members}
        if baselines:
            shared = set.intersection(*({*part.baselines} for part in members))
            names = [name for name in members[0].baselines if name in shared]
            groups |= {Key.baseline(key_added, name): [part.baselines[name] for part in members] for name in names}
        options: dict[str, Any] = {"batch_size": batch_size, "device": device, "sample_key": sample_key}
        for key, parts in groups.items():
            mean, std = _predict_members(data, source, parts, people, image, show and key == key_added, **options)
            frames[key] = pd.DataFrame(mean, index=source.obs_names, columns=parts[0].panel)
            if std is not None and key == key_added:
                frames[Key.std(key)] = pd.DataFrame(std, index=source.obs_names, columns=parts[0].panel)

    container, adata = begin(data, copy, table_key)
    if risk:
        obs[key_added] = values = frames[key_added][Key.RISK].to_numpy()
        frames = {}
        cut = np.mean([part.training["risk_median"] - part.training["risk_mean"] for part in members])
        if as_map:
            values -= np.float32(np.mean([part.training["risk_mean"] for part in members]))
        else:
            obs[f"{key_added}_group"] = pd.Categorical(np.where(values > cut, "high", "low"))
    elif label is not None:
        probability = frames.pop(key_added)
        frames.pop(Key.std(key_added), None)
        if probability.shape[1] == 1:
            obs[key_added] = probability.iloc[:, 0].to_numpy()
        else:
            frames[key_added] = probability
            names = probability.columns.to_numpy()[probability.to_numpy().argmax(axis=1)]
            obs[f"{key_added.removesuffix('_probability')}_predicted"] = pd.Categorical(names, probability.columns)
    if frames or store is None:
        for key in [k for k in adata.obsm if k == Key.std(key_added) or k.startswith(Key.baseline(key_added, ""))]:
            del adata.obsm[key]
    for key, frame in frames.items():
        adata.obsm[key] = frame
    seen = {patient for part in members for patient in patients_seen(part)}
    obs[Key.leaky(key_added)] = np.isin(people, list(seen))
    for name, values in obs.items():
        adata.obs[name] = values
    first = members[0]
    record = {
        "model": first.model,
        "n_models": len(members),
        "training_patients": sorted({p for part in members for p in part.training["patients"]}),
        "training_samples": sorted({p for part in members for p in part.training["samples"]}),
        "panel_digest": genes_digest(first.panel),
        "seed": first.training["seed"],
        "allow_leakage": any(part.training["allow_leakage"] for part in members),
    }
    if as_map:
        record |= {"window": window, "stride": stride, "store": None if store is None else str(store)}
    write_record(adata, key_added, record)
    return container if copy else None


def _predict_members(
    data: Container,
    adata: AnnData,
    members: Sequence[FittedModel],
    patients: np.ndarray,
    image: Any,
    progress: bool,
    *,
    batch_size: int | None,
    device: str | None,
    sample_key: str,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean over models (n_obs, n_genes), and the model's standard deviation, or that between several models."""
    import torch

    from stpredict.core._device import resolve_device
    from stpredict.models.nn._heads import class_probabilities
    from stpredict.training import predict_arrays

    total, squares, std = np.zeros(()), np.zeros(()), None
    arrays = None
    for part in members:
        if arrays is None:
            network = part.network
            inputs = inputs_of(
                network, list(part.features["slots"]), part.features["scaling"], config=network.config, image=image
            )
            arrays = collect(
                data, adata, np.ones(adata.n_obs, dtype=bool), inputs,
                panel=None, layer=None, sample_key=sample_key, patient_key=None,
                progress=progress and inputs.patch is not None,
            )  # fmt: skip
        arrays.patient = patient_codes(patients, part.training["patients"])
        mean, std = predict_arrays(
            part.network, arrays, batch_size=batch_size, device=resolve_device(device),
            progress=progress,
        )  # fmt: skip
        kind = part.normalization.get("method")
        if kind == "outcome":
            mean -= np.float32(part.training["risk_mean"])
        elif kind == "label":
            mean = class_probabilities(torch.from_numpy(mean)).numpy()
        if len(members) == 1:
            return mean, std
        total, squares = total + mean, squares + np.square(mean, dtype=np.float64)
    n = len(members)
    average = total / np.float32(n)
    spread = np.sqrt(np.maximum(squares / n - np.square(average, dtype=np.float64), 0) * n / (n - 1))
    return average, spread.astype(np.float32)


def _patients(adata: AnnData, sample_key: str, patient_key: str) -> np.ndarray:
    """Patient of every observation; tiles whose slide names no patient stand for themselves."""
    if patient_key not in adata.obs and is_tile_table(adata):
        return adata.obs[sample_key].astype(str).to_numpy()
    check_patients(adata, sample_key, patient_key)
    return adata.obs[patient_key].astype(str).to_numpy()


def _tile_table_key(data: Container, table_key: str, model: FittedModel) -> str:
    """The table asked for, or the tiles of a slide with the features that the model reads."""
    if not is_spatialdata(data) or table_key in data.tables:
        return table_key
    for slot in model.features["slots"]:
        name = Key.tiles(slot.removeprefix("X_"))
        if name in data.tables:
            return name
    return table_key


def find_models(data: Container, model: Any, table_key: str) -> list[FittedModel]:
    """The models to average: those given, read where they are paths, or the one that the object names."""
    from stpredict.training import FittedModel

    if model is None:
        record = read_record(get_table(data, table_key), "model")
        if record is None:
            raise KeyError(
                "expected a model; found none in uns['stpredict']['model']; pass the model that stp.tl.fit returned, "
                "or the directory of a saved one"
            )
        model = record["path"]
    given = [model] if isinstance(model, (str, Path, FittedModel)) else list(model)
    if not given:
        raise ValueError("expected at least one model; found an empty list; see stp.tl.fit_folds")
    members = [part if isinstance(part, FittedModel) else FittedModel.load(part) for part in given]
    for other in members[1:]:
        for what in ("panel", "normalization", "features"):
            if getattr(other, what) != getattr(members[0], what):
                raise ValueError(
                    f"expected models with the same {what} to average; found different ones; pass the models of one "
                    "call of stp.tl.fit_folds, with a panel that is the same in every fold"
                )
    return members


def check_normalization(adata: AnnData, fitted: FittedModel) -> None:
    """Raise when the object says it is normalized otherwise than the model's target was; name both sides."""
    record = read_record(adata, "normalize")
    if record is None or fitted.normalization.get("method") in {"layer", "scanpy", "outcome", "label"}:
        return  # an unmeasured object, or a target whose unit the user looks after
    wanted = fitted.normalization
    compared = ("method", "unit", "size_factors", "target_sum")
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
