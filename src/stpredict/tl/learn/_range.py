"""Predictions that are no numbers, or that no training observation comes near to."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from stpredict.training import FittedModel

#: Distance from the training mean, in standard deviations, that no measured value is expected to have; a gene that one
#: observation in ten thousand expresses reaches it.
_FAR = 100.0


def check_range(mean: np.ndarray, model: FittedModel) -> None:
    """Look at what a model predicts (n, n_outputs), in the unit of its target.

    Raises
    ------
    ValueError
        When a prediction is not finite.

    Warns
    -----
    UserWarning
        When expression, or a value without a link, is predicted more than 100 standard deviations of the training set from its mean.
    """
    high, low = mean.max(axis=0), mean.min(axis=0)
    if not (np.isfinite(high).all() and np.isfinite(low).all()):
        rows = np.flatnonzero(~np.isfinite(mean).all(axis=1))
        raise ValueError(
            f"expected finite predictions of model {model.model!r}; found NaN or infinity in {len(rows)} rows (first: "
            f"{rows[0]}); compare their features with those of the training observations"
        )
    if not model.target.linear:
        return
    network = model.network
    center, scale = (values.numpy()[: network.n_wanted] for values in (network.target_mean, network.target_std))
    far = np.maximum(high - center, center - low) > _FAR * scale
    if not far.any():
        return
    gene = int(np.argmax(far))
    n = int((np.abs(mean[:, far] - center[far]) > _FAR * scale[far]).any(axis=1).sum())
    value = high[gene] if high[gene] - center[gene] > center[gene] - low[gene] else low[gene]
    warnings.warn(
        f"model {model.model!r} predicts {n} of {len(mean)} observations more than {_FAR:g} standard deviations of the "
        f"training set from its mean (for example {model.panel[gene]}: {value:.4g}, mean {center[gene]:.4g}): their features "
        "are unlike those of the training; compare them, and leave these observations out",
        UserWarning,
        stacklevel=2,
    )
