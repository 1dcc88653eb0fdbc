"""Integrated gradients of a network's output along the way from a baseline to the features."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_choice

if TYPE_CHECKING:
    import torch

    from stpredict.models import Batch, Predictor
    from stpredict.training import ArraySet

_CHUNK = 512  # observations per step of networks that look at one at a time


def check_baseline(baseline: Any, n_features: int) -> Any:
    """`"mean"`, `"zero"`, or an array (d,) float32."""
    if isinstance(baseline, str):
        return check_choice(baseline, ("mean", "zero"), "baseline")
    values = np.asarray(baseline, dtype=np.float32)
    if values.shape != (n_features,) or not np.isfinite(values).all():
        raise ValueError(f"expected a baseline of {n_features} finite features; found shape {values.shape}")
    return values


def integrated_gradients(
    network: Predictor,
    arrays: ArraySet,
    output: int,
    on_tissue: np.ndarray,
    steps: int,
    baseline: Any,
    device: torch.device,
) -> tuple[np.ndarray, float]:
    """Attribution (n, d) float64 of each feature, and the difference of outputs that it should sum to."""
    import torch

    n, whole = len(arrays), arrays["features"]
    result = np.zeros(whole.shape)
    if not on_tissue.any():
        return result, 0.0
    start = whole[on_tissue].mean(axis=0, dtype=np.float64) if isinstance(baseline, str) else baseline
    start = np.zeros_like(start) if isinstance(baseline, str) and baseline == "zero" else start
    low = torch.as_tensor(np.asarray(start, dtype=np.float32), device=device)
    difference = 0.0
    rows = np.arange(n)
    groups = [rows[i : i + _CHUNK] for i in range(0, n, _CHUNK)] if network.draws == "rows" else [rows]
    for index in groups:
        batch = arrays.batch(index, network.needs).to(device)
        high = batch["features"]
        share = torch.as_tensor(on_tissue[index] / on_tissue.sum(), device=device, dtype=torch.float64)

        def value(features: torch.Tensor, batch: Batch = batch, share: torch.Tensor = share) -> torch.Tensor:
            batch.inputs["features"] = features
            return (network.in_unit(network(batch)).mean[:, output].double() * share).sum()

        total = torch.zeros_like(high, dtype=torch.float64)
        for step in range(steps):
            # Midpoints: the ends, where the way leaves a plateau of the network, get no weight of their own.
            features = (low + (step + 0.5) / steps * (high - low)).requires_grad_(True)
            (gradient,) = torch.autograd.grad(value(features), features)
            total += gradient
        result[index] = (total / steps * (high - low)).cpu().numpy()
        with torch.no_grad():
            difference += float(value(high) - value(low.expand_as(high)))
    return result, difference
