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
        Of the draw.

    Returns
    -------
    Mask (n,) of the rows held out, and what was held out: `"patient"`, `"section"`, `"stripe"`, or `"none"` where the
    set is too small to spare anything.
    """
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
    along = np.arange(len(data)) if data.positions is None else data.positions[:, 0]
    mask = np.zeros(len(data), dtype=bool)
    mask[np.argsort(along, kind="stable")[-n_held_out:]] = True
    return mask, "stripe"
