"""The models behind a prediction: which they are, whom they saw, and what they say together."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import few
from stpredict.slots._checks import check_patients
from stpredict.slots._container import get_table
from stpredict.slots._content import recognize
from stpredict.slots._features import is_tile_table
from stpredict.slots._people import one_name
from stpredict.slots._provenance import read_record
from stpredict.slots._rows import Rows
from stpredict.tl.learn._range import check_range
from stpredict.tl.learn.inputs._collect import collect, identities, patient_codes
from stpredict.tl.learn.inputs._reader import Source
from stpredict.tl.learn.inputs._slots import check_stain
from stpredict.tl.learn.targets._base import slots_of

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container
    from stpredict.training import ArraySet, FittedModel, Predicted


def find_models(data: Container, model: Any, table_key: str) -> list[FittedModel]:
    """The models to average: those given, read where they are paths, or the one that the object names."""
    from stpredict.training import FittedModel

    if model is None:
        record = read_record(get_table(data, table_key, "model"), "model")
        paths = (record or {}).get("path", [])
        paths = [paths] if isinstance(paths, str) else paths
        if not isinstance(paths, list) or not paths or not all(isinstance(path, str) for path in paths):
            raise KeyError(
                "expected a model; found none in uns['stpredict']['model']; pass the model that stp.tl.fit returned, "
                "or the directory of a saved one"
            )
        model = paths
        warnings.warn(
            f"no model was named: reading the one that the object names, {few(paths)}; an object of somebody else can name any "
            "path; name the model to have no doubt",
            stacklevel=3,
        )
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
        if _target_of(other) != _target_of(members[0]):
            raise ValueError(
                "expected models of the same target to average; found different ones; predict with each by itself"
            )
    return members


def _target_of(member: FittedModel) -> tuple[str, Any]:
    """Kind of a target, and what predictions of it say of it."""
    return member.target.kind, dict(slots_of(member.target.kind).record(member.target))


def extrapolates(members: Sequence[FittedModel]) -> bool:
    """Whether the networks have seen nothing as small as what a map asks them for; a warning says so."""
    found = any(getattr(part.network, "maps_extrapolate", False) for part in members)
    if found:
        warnings.warn(
            f"model {members[0].model!r} was trained on means over whole slides: what it says of windows of tiles is "
            "extrapolated, and recorded as such",
            stacklevel=3,
        )
    return found


def source_of(member: FittedModel, data: Container, adata: AnnData, rows: Rows, **others: Any) -> Source:
    """Where the inputs of a fitted model are read from; an error where pixels have other stains than in its training."""
    check_stain(adata, member.features, member.network.needs)
    slots, scaling = list(member.features["slots"]), member.features["scaling"]
    return Source(data, adata, rows, member.network.config, slots, scaling, **others)


def people_of(adata: AnnData, sample_key: str, patient_key: str) -> np.ndarray:
    """Patient of every observation; tiles whose slide names no patient stand for themselves."""
    if patient_key not in adata.obs and is_tile_table(adata):
        return adata.obs[sample_key].astype(str).to_numpy()
    check_patients(adata, sample_key, patient_key)
    return one_name(adata.obs[patient_key])


def recognized_sections(members: Sequence[FittedModel], adata: AnnData, sample: np.ndarray) -> list[str]:
    """Sections of a table (names (n_obs,)) whose spots the models were trained on, whatever they were called there."""
    known = {str(content): content for part in members for content in part.training.content}
    return sorted(recognize(adata, np.arange(adata.n_obs), sample, known.values()))


def predict_members(
    members: Sequence[FittedModel],
    source: Source,
    people: np.ndarray,
    *,
    batch_size: int | None,
    device: str | None,
    client: Any = None,
    **drawn: Any,
) -> Predicted:
    """Mean over models (n, n_outputs), and the model's standard deviation, or that between several models.

    The workers of a `client` share the steps. What is `drawn`, and how, goes to :func:`stpredict.training.predict_arrays`.
    """
    from stpredict.core._device import resolve_device
    from stpredict.training import Predicted, predict_arrays

    total, squares = np.zeros(()), np.zeros(())
    arrays: ArraySet = collect(source, members[0].network.needs)
    arrays.identity = identities(source.adata.obs_names[source.rows.index])
    for part in members:
        arrays.patient = patient_codes(people, part.training.patients)
        found = predict_arrays(
            part.network, arrays,
            batch_size=batch_size, device=resolve_device(device), progress=source.progress, client=client, **drawn,
        )  # fmt: skip
        mean = part.target.link(found.mean, part.training)
        if drawn.get("genes") is None:
            check_range(mean, part)
        if len(members) == 1:
            std = None if found.std is None else part.target.link_std(found.mean, found.std)
            return replace(found, mean=mean, std=std)
        total, squares = total + mean, squares + np.square(mean, dtype=np.float64)
    n = len(members)
    average = total / np.float32(n)
    spread = np.sqrt(np.maximum(squares / n - np.square(average, dtype=np.float64), 0) * n / (n - 1))
    return Predicted(average, spread.astype(np.float32))
