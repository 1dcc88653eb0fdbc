"""The inner validation split: which part of the training set chooses the number of epochs."""

from __future__ import annotations

import numpy as np

from stpredict.training._data import ArraySet


def inner_split(data: ArraySet, fraction: float, seed: int) -> tuple[np.ndarray, str]:
    """Hold out part of a training set for validation.

    Patients are held out where there are several; sections of a single patient; a stripe of a single section.

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
    Mask (n,) of the rows held out, and what was held out: `"patient"`, `"section"`, `"stripe"`, or `"none"` where the
    set is too small to spare anything.
    """
    if data.labeled is not None:
        return _with_unlabeled(data, data.labeled, fraction, seed)
    rng = np.random.default_rng(seed)
    for name, codes in (("patient", data.patient), ("section", data.section)):
        units = np.unique(codes)
        if len(units) > 1:
            n_held_out = max(1, round(fraction * len(units)))
            held_out = rng.choice(units, size=min(n_held_out, len(units) - 1), replace=False)
            return np.isin(codes, held_out), name
    n_held_out = round(fraction * len(data))
    if n_held_out < 2 or len(data) - n_held_out < 2:
        return np.zeros(len(data), dtype=bool), "none"
    along = data["positions"][:, 0] if "positions" in data else np.arange(len(data))
    mask = np.zeros(len(data), dtype=bool)
    mask[np.argsort(along, kind="stable")[-n_held_out:]] = True
    return mask, "stripe"


def _with_unlabeled(data: ArraySet, labeled: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, str]:
    """Divide the measured rows; the others go with their patient or section, and else are trained on."""
    inner, unit = inner_split(data.only_labeled(), fraction, seed)
    mask = np.zeros(len(data), dtype=bool)
    mask[np.flatnonzero(labeled)[inner]] = True
    if unit in {"patient", "section"}:
        codes = getattr(data, unit)
        mask |= np.isin(codes, codes[mask])
    return mask, unit
