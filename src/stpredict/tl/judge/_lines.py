"""The lines of a table of scores: which predictions an object holds, and the comparators beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from stpredict.slots._baselines import Baselines, chosen_baselines
from stpredict.slots._keys import Key
from stpredict.slots._marks import leak_marks
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import read_record
from stpredict.slots._samples import Samples, samples_of
from stpredict.slots._scale import unit_of_prediction

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

SMOOTHED = "smoothed"
_SMOOTHING_NEIGHBORS = 6


class Line(NamedTuple):
    """A line of the table: what is scored, whether it leaks (n_obs,), whether it is smoothed first, its unit, slot, samples."""

    frame: pd.DataFrame
    leaky: np.ndarray
    smooth: bool
    unit: Mapping[str, Any]
    key: str
    samples: Samples | None = None


def lines_of(
    adata: AnnData, frames: dict[str, pd.DataFrame], baselines: Baselines, patient_key: str
) -> dict[str, Line]:
    """Every line of the table by its label."""
    models: dict[str, Line] = {}
    flags = {key: leak_marks(adata, key, patient_key) for key in frames}
    for key in frames:
        record = read_record(adata, key) or {}
        label = record.get("label") or record.get("model") or key
        # Two predictions of one model are distinguished by their slots.
        models[key if label in models else label] = Line(
            frames[key], flags[key], False, unit_of_prediction(adata, key), key, samples_of(adata, key)
        )
    for key in frames:
        prefix = Key.baseline(key, "")
        there = [slot.removeprefix(prefix) for slot in adata.obsm if slot.startswith(prefix)]
        for name in chosen_baselines(baselines, there):
            if name in there:
                beside, unit = prediction_frame(adata, prefix + name), unit_of_prediction(adata, key)
                models.setdefault(name, Line(beside, flags[key], False, unit, key))
    if baselines is True or SMOOTHED in chosen_baselines(baselines, ()):
        label = "ridge" if "ridge" in models else next(iter(models))
        if label != "mean":
            models[f"{label} ({SMOOTHED})"] = models[label]._replace(smooth=True, samples=None)
    return models


def smoothing(xy: np.ndarray) -> Any:
    """Operator (n, n) that averages each of at least three observations at positions (n, 2) with its nearest."""
    from scipy import sparse

    from stpredict.pp._spatial_graph import spatial_weights

    weights = spatial_weights(xy, n_neighbors=_SMOOTHING_NEIGHBORS) + sparse.eye_array(len(xy), format="csr")
    return sparse.diags_array(1 / np.asarray(weights.sum(axis=1)).ravel()) @ weights
