"""The inner validation split: which part of the training set chooses the number of epochs."""

from __future__ import annotations

import numpy as np

from stpredict.core._apart import clear_of, is_enough, ranks_along
from stpredict.training._data import ArraySet


def inner_sides(data: ArraySet, fraction: float, seed: int) -> tuple[ArraySet, ArraySet | None, str]:
    """Divide a training set into what is trained on and what chooses the epoch.

    A stripe of a section is held out behind a buffer: rows that share pixels with one of its rows are on neither side, and
    what a network reads of whole sections is divided as well.

    Parameters
    ----------
    data, fraction, seed
        As :func:`inner_split` has them.

    Returns
    -------
    Rows to train on, rows held out (`None` where none are), and what was held out.
    """
    held_out, unit = inner_split(data, fraction, seed)
    if not held_out.any():
        return data, None, unit
    if unit != "stripe":
        return data.take(~held_out), data.take(held_out), unit
    return *data.divided(_clear(data, held_out), held_out), unit


def inner_split(data: ArraySet, fraction: float, seed: int) -> tuple[np.ndarray, str]:
    """Hold out part of a training set for validation.

    Patients are held out where there are several (chromosomes, of genes); sections of a single patient; a stripe of a single section.

    Parameters
    ----------
    data
        The training set.
    fraction
        Share of the units held out, at least one of them.
    seed
        Random seed for the draw.

    Returns
    -------
    Mask (n,) of the rows held out, and what was held out: `"patient"`, `"chromosome"`, `"section"`, `"stripe"`, or `"none"` where the
    set is too small to spare anything, with the buffer around a stripe.
    """
    if data.labeled is not None:
        return _with_unlabeled(data, data.labeled, fraction, seed)
    rng = np.random.default_rng(seed)
    group = "chromosome" if data.unit == "gene" else "patient"
    for name, codes in ((group, data.patient), ("section", data.section)):
        units = np.unique(codes)
        if len(units) > 1:
            n_held_out = max(1, round(fraction * len(units)))
            held_out = rng.choice(units, size=min(n_held_out, len(units) - 1), replace=False)
            return np.isin(codes, held_out), name
    n_held_out = round(fraction * len(data))
    if n_held_out < 2 or len(data) - n_held_out < 2:
        return np.zeros(len(data), dtype=bool), "none"
    ranks = ranks_along(data["positions"]) if "positions" in data else np.arange(len(data))
    mask = ranks >= len(data) - n_held_out
    if not is_enough(_clear(data, mask), mask):
        return np.zeros(len(data), dtype=bool), "none"
    return mask, "stripe"


def _clear(data: ArraySet, held_out: np.ndarray) -> np.ndarray:
    """Mask (n,) of the rows that share nothing with those of a stripe."""
    return clear_of(held_out, data.inputs.get("positions"), data.reach_um)


def _with_unlabeled(data: ArraySet, labeled: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, str]:
    """Divide the measured rows; the others go with their patient or section, and else are trained on."""
    inner, unit = inner_split(data.only_labeled(), fraction, seed)
    mask = np.zeros(len(data), dtype=bool)
    mask[np.flatnonzero(labeled)[inner]] = True
    if unit in {"patient", "chromosome", "section"}:
        codes = data.section if unit == "section" else data.patient
        mask |= np.isin(codes, codes[mask])
    return mask, unit
