"""From slots to arrays: what fitting, prediction and cross-validation read from an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._validate import check_choice, check_finite
from stpredict.slots._checks import as_mask, check_obs, check_obsm
from stpredict.slots._expression import is_slide_level
from stpredict.slots._features import feature_matrix
from stpredict.slots._keys import Key
from stpredict.slots._provenance import read_record
from stpredict.tl.learn._targets import Classes, class_codes, read_measured

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.models import Predictor
    from stpredict.slots._container import Container
    from stpredict.training import ArraySet

Scaling = Literal["global", "section"]
MIN_OBSERVATIONS = 3
_COARSER = 1.5
_COMPARED = ("encoder", "fingerprint", "dim", "tile_um", "tile_px", "context")


def feature_keys(adata: AnnData, features: str | Sequence[str] | None, *, bag: bool = False) -> list[str]:
    """Names of the feature slots: those asked for (by encoder or by slot), or the only one there is.

    With `bag=True` one slot whose tokens lie beside it.
    """
    call = "run stp.pp.bag(slides)" if bag else "run stp.pp.image_features(adata)"
    if features is None:
        recorded = [key for key in adata.uns.get(Key.UNS, {}) if key.startswith("X_")]
        found = [key for key in recorded if (Key.bag(key) if bag else key) in adata.obsm and not _is_bag(key, recorded)]
        if not found and not bag:
            found = [key for key in recorded if feature_matrix(adata, key) is not None]
        if len(found) != 1:
            what = (
                f"several ({', '.join(sorted(found))}); name one with `features=`"
                if found
                else (f"none among {sorted(adata.obsm)}; {call} first")
            )
            raise KeyError(f"expected one slot of {'bags' if bag else 'image features'} in obsm; found {what}")
        return found
    names = [features] if isinstance(features, str) else list(features)
    if bag and len(names) != 1:
        raise ValueError(f"expected one slot of bags for a network on bags; found {len(names)}; name one encoder")
    keys = [name if name.startswith("X_") else Key.features(name) for name in names]
    keys = [name if name in adata.obsm else key for name, key in zip(names, keys, strict=True)]
    for key in keys:
        if bag:
            check_obsm(adata, Key.bag(key), f"run stp.pp.bag(slides, {key.removeprefix('X_')!r})")
        elif feature_matrix(adata, key) is None:
            check_obsm(adata, key, f"run stp.pp.image_features(adata, encoder={key.removeprefix('X_')!r})")
    return keys


def _is_bag(key: str, others: Sequence[str]) -> bool:
    return any(key == Key.bag(other) for other in others)


def describe_features(adata: AnnData, keys: Sequence[str], scaling: Scaling) -> dict[str, Any]:
    """What a model has to know about its features to recognize them elsewhere."""
    check_choice(scaling, ("global", "section"), "feature_scaling")
    slots = {}
    for key in keys:
        record = read_record(adata, key) or {}
        entry = {name: record[name] for name in _COMPARED if name in record}
        values = feature_matrix(adata, key)
        width = adata.obsm[Key.bag(key)].shape[2] if values is None else values.shape[1]
        slots[key] = entry | {"dim": int(width)}
        if record.get("microns_per_pixel"):
            slots[key]["coarsest_um_per_px"] = max(record["microns_per_pixel"].values())
    return {"slots": slots, "scaling": scaling}


def check_features(adata: AnnData, wanted: Mapping[str, Any]) -> None:
    """Raise when the features of an object are not those a model was fitted on; name both sides."""
    for key, entry in wanted["slots"].items():
        if feature_matrix(adata, key) is None and Key.bag(key) not in adata.obsm:
            check_obsm(adata, key, f"run stp.pp.image_features(adata, encoder={entry.get('encoder', key)!r})")
        found = describe_features(adata, [key], wanted["scaling"])["slots"][key]
        differing = [name for name in entry if name != "coarsest_um_per_px" and entry[name] != found.get(name)]
        # A finer picture is resampled to the same tile; one much coarser than any in training lacks the texture.
        if found.get("coarsest_um_per_px", 0.0) > entry.get("coarsest_um_per_px", np.inf) * _COARSER:
            differing.append("coarsest_um_per_px")
        if differing:
            sides = "; ".join(f"{name}: model {entry[name]!r}, data {found.get(name)!r}" for name in differing)
            raise ValueError(
                f"expected obsm[{key!r}] made the way the model's training features were; found {sides}; "
                "run stp.pp.image_features with the settings of the model"
            )


def read_features(
    adata: AnnData, keys: Sequence[str], scaling: Scaling, rows: np.ndarray, sample: np.ndarray
) -> np.ndarray:
    """Features (n, d) float32 of some rows; with `scaling="section"` standardized within each section."""
    parts = []
    for key in keys:
        whole = feature_matrix(adata, key)
        assert whole is not None  # feature_keys or check_features came before
        values = np.asarray(whole[rows], dtype=np.float32)
        check_finite(values, f"features in obsm[{key!r}]", "run stp.pp.image_features again for these sections")
        parts.append(values)
    features = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    if scaling == "section":
        features = features.astype(np.float64)
        for name in np.unique(sample):
            here = sample == name
            mean, std = features[here].mean(axis=0), features[here].std(axis=0)
            features[here] = (features[here] - mean) / np.where(
                std > 1e-6 * np.maximum(np.abs(mean), 1e-6), std, np.inf
            )
        features = features.astype(np.float32)
    return features


def patient_codes(patients: np.ndarray, known: Sequence[str]) -> np.ndarray:
    """Number of each observation's patient among those a model knows, -1 for others: (n_obs,) int64."""
    import pandas as pd

    return pd.Index(known).get_indexer(pd.Index(patients)).astype(np.int64)


@dataclass
class Inputs:
    """What a network reads besides the target, and how to find it again."""

    keys: list[str]
    scaling: Scaling
    patch: tuple[float, int] | None
    image: Any = None
    bag: bool = False
    grid: bool = False
    positions: bool = False
    counts: bool = False
    outcome: tuple[str, str] | None = None
    target: Classes | None = None


def inputs_of(
    network: type[Predictor] | Predictor, keys: list[str], scaling: Scaling, *, config: Any, **others: Any
) -> Inputs:
    """Inputs of a network with some configuration, from its features or tokens in some slots."""
    needs = network.reads(config)
    patch = (config.patch_um, config.patch_px) if "patches" in needs else None
    flags: dict[str, Any] = {name: name in needs for name in ("bag", "grid", "positions", "counts")}
    return Inputs(keys, scaling, patch, **flags, **others)


def collect(
    data: Container,
    adata: AnnData,
    rows: np.ndarray,
    inputs: Inputs,
    *,
    panel: Sequence[str] | None,
    layer: str | None,
    sample_key: str,
    patient_key: str | None,
    progress: bool = False,
) -> ArraySet:
    """Gather the arrays of some observations; for a prediction `panel` and `patient_key` are `None`."""
    from stpredict.training import ArraySet

    rows = as_mask(adata, rows)
    sample = adata.obs[sample_key].astype(str).to_numpy()[rows]
    patient = np.zeros(len(sample)) if patient_key is None else adata.obs[patient_key].astype(str).to_numpy()[rows]
    patches = None
    if inputs.patch is not None:
        from stpredict.pp._patches import patch_stack

        patches = patch_stack(
            data, adata, rows, patch_um=inputs.patch[0], patch_px=inputs.patch[1], image=inputs.image,
            sample_key=sample_key, progress=progress,
        )  # fmt: skip
    # Slides are compared with each other: together they are one section.
    section = np.zeros(len(sample), dtype=np.int64)
    if not is_slide_level(adata, sample_key):
        section = np.unique(sample, return_inverse=True)[1].astype(np.int64)
    arrays = ArraySet(
        section=section,
        patient=np.unique(patient, return_inverse=True)[1].astype(np.int64),
        positions=_positions_um(adata, rows, sample),
        patches=patches,
    )
    if inputs.positions and arrays.positions is None:
        raise ValueError(
            "expected positions in µm; found no obsm['spatial'], or a section whose µm/px is not known; set "
            "uns['spatial'][sample]['scalefactors']['microns_per_pixel'], or read the data with stp.io"
        )
    if panel is not None and not inputs.outcome and not inputs.target:
        arrays = replace(arrays, **read_measured(adata, panel, rows, layer, counts=inputs.counts))
    if inputs.grid:
        arrays.cell = _read_cells(adata, rows, sample)
    if inputs.target is not None and panel is not None:
        arrays.label = class_codes(adata, inputs.target)[rows]
        arrays.n_classes = len(inputs.target.names)
    if inputs.outcome is not None and panel is not None and patient_key is not None:
        from stpredict.slots._outcome import read_outcome

        arrays.time, arrays.event = read_outcome(adata, *inputs.outcome, rows, patient_key=patient_key)
    if inputs.bag:
        arrays.bag, arrays.bag_size = _read_bags(adata, inputs.keys[0], rows)
    keys = [key for key in inputs.keys if feature_matrix(adata, key) is not None]
    if keys:
        arrays.features = read_features(adata, keys, inputs.scaling, rows, sample)
    return arrays


def with_lattice(adata: AnnData, model: str, hyperparameters: Mapping[str, Any]) -> dict[str, Any]:
    """Hyperparameters of a network on grids, with the lattice that :func:`stpredict.pp.grid` found unless one is given.

    Where sections differ in lattice, no symmetry is theirs in common, and none is used.
    """
    from dataclasses import fields

    from stpredict.models import get_model

    info = get_model(model)
    chosen = dict(hyperparameters)
    found = set(((read_record(adata, "grid") or {}).get("lattice") or {}).values())
    if "lattice" in {field.name for field in fields(info.config)} and "lattice" not in chosen and found:
        chosen |= {"lattice": found.pop()} if len(found) == 1 else {"augment": False} | chosen
    return chosen


def _read_cells(adata: AnnData, rows: np.ndarray, sample: np.ndarray) -> np.ndarray:
    """Row and column of each observation in the grid of its section (n, 2) int64."""
    for key in (Key.GRID_ROW, Key.GRID_COL):
        check_obs(adata, key, "run stp.pp.grid(adata)")
    cell = adata.obs[[Key.GRID_ROW, Key.GRID_COL]].to_numpy()[rows]
    check_finite(cell.astype(float), "grid cells of every observation", "run stp.pp.grid(adata) again")
    cell = cell.astype(np.int64)
    code = np.unique(sample, return_inverse=True)[1]
    twice = len(cell) - len(np.unique(np.column_stack([code, cell]), axis=0))
    if twice:
        raise ValueError(
            f"expected one observation in each cell of a section's grid; found {twice} that share one; run "
            "stp.pp.grid(adata) again"
        )
    return cell


def _read_bags(adata: AnnData, key: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Tokens (n, n_tokens, d) of some slides and the number of tiles behind each (n, n_tokens), both float32."""
    check_obsm(adata, Key.bag_size(key), f"run stp.pp.bag(slides, {key.removeprefix('X_')!r})")
    bag, size = (np.asarray(adata.obsm[k][rows], dtype=np.float32) for k in (Key.bag(key), Key.bag_size(key)))
    if bag.ndim != 3 or size.shape != bag.shape[:2]:
        raise ValueError(
            f"expected bags (n_slides, n_tokens, d) in obsm[{Key.bag(key)!r}] and their sizes (n_slides, n_tokens) "
            f"beside them; found {bag.shape} and {size.shape}; run stp.pp.bag"
        )
    check_finite(bag.reshape(len(bag), -1), f"tokens in obsm[{Key.bag(key)!r}]", "run stp.pp.bag again")
    empty = int((size <= 0).all(axis=1).sum())
    if empty:
        raise ValueError(f"expected at least one token in every bag; found {empty} slides without any; leave them out")
    return bag, size


def _positions_um(adata: AnnData, rows: np.ndarray, sample: np.ndarray) -> np.ndarray | None:
    """Positions (n, 2) in µm; `None` where there are none or a section's µm/px is unknown."""
    from stpredict.io._image import microns_per_pixel

    if Key.SPATIAL not in adata.obsm:
        return None
    positions = np.asarray(adata.obsm[Key.SPATIAL], dtype=np.float64)[rows]
    for name in np.unique(sample):
        try:
            positions[sample == name] *= microns_per_pixel(adata, name)
        except ValueError:
            return None
    return positions.astype(np.float32)
