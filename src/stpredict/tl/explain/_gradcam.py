"""Grad-CAM of networks on grids, at any part that returns a grid."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

    from stpredict.models import Batch, Prediction, Predictor
    from stpredict.training import ArraySet


def check_grids(network: Predictor, name: str) -> None:
    """Raise where a network is none on grids."""
    if "cell" not in network.needs:
        reads = ", ".join(sorted(network.needs))
        raise ValueError(
            f"expected a network on grids for method='gradcam'; found {name!r}, which reads {reads}; "
            "pass method='integrated_gradients'"
        )


def gradcam(
    network: Predictor, arrays: ArraySet, output: int, on_tissue: np.ndarray, level: str, device: torch.device
) -> np.ndarray:
    """Grad-CAM (n,) of one section, scaled to 0–1 over its tissue."""
    import torch
    from torch.nn import functional as F

    result = np.zeros(len(arrays))
    if not on_tissue.any():
        return result
    batch, prediction, outputs = _watch(network, arrays, device, level)
    activation = outputs[level]
    (gradient,) = torch.autograd.grad(
        prediction.mean[torch.as_tensor(on_tissue, device=device), output].mean(), activation, allow_unused=True
    )
    if gradient is None:
        raise ValueError(f"expected a level that the output depends on; found {level!r}, which it does not")
    row, col, shape = _positions(prediction, batch)
    tissue = torch.zeros((1, 1, *shape), device=device)
    tissue[0, 0, row[on_tissue], col[on_tissue]] = 1
    share = F.adaptive_avg_pool2d(tissue, (activation.shape[2], activation.shape[3]))
    weight = (gradient * share).sum(dim=(2, 3), keepdim=True) / share.sum()
    heat = (weight * activation).sum(dim=1, keepdim=True).relu()
    heat = F.interpolate(heat, size=shape, mode="bilinear", align_corners=False)[0, 0]
    values = heat[row, col].detach().double().cpu().numpy()
    low, high = values[on_tissue].min(), values[on_tissue].max()
    return (values - low) / (high - low) if high > low else result


def default_level(network: Predictor, arrays: ArraySet, device: torch.device) -> str:
    """The first part of the network that returns a grid, by the name of the block that it belongs to.

    Coarser levels are passed by in a U-Net: what they hold need not matter to the output. The last ones are read by the
    head cell by cell, so that their map is the prediction.
    """
    _, _, outputs = _watch(network, arrays, device, None)
    if not outputs:
        raise ValueError("expected a network whose parts return grids; found none; pass method='integrated_gradients'")
    first, shape = next((name, value.shape[2:]) for name, value in outputs.items())
    blocks = [name for name, value in outputs.items() if first.startswith(f"{name}.") and value.shape[2:] == shape]
    return min([first, *blocks], key=len)


def _watch(
    network: Predictor, arrays: ArraySet, device: torch.device, level: str | None
) -> tuple[Batch, Prediction, dict[str, torch.Tensor]]:
    """Predict one section and keep the grids (1, c, h, w) that a level, or every part, returned, in their order."""
    modules = dict(network.named_modules())
    if level is not None and (level not in modules or level == ""):
        raise KeyError(
            f"expected a level of the network; found {level!r}; choose among {_levels(network, arrays, device)}"
        )
    outputs: dict[str, torch.Tensor] = {}
    batch = arrays.batch(np.arange(len(arrays)), network.needs).to(device)
    batch.inputs["features"] = batch["features"].clone().requires_grad_(True)
    with _hooks({name: part for name, part in modules.items() if name and level in {None, name}}, outputs):
        prediction = network(batch)
    if level is not None and level not in outputs:
        raise KeyError(
            f"expected a level that returns a grid (1, channels, rows, columns); found {level!r}, which does not; "
            f"choose among {_levels(network, arrays, device)}"
        )
    return batch, prediction, outputs


def _levels(network: Predictor, arrays: ArraySet, device: torch.device) -> str:
    """Names of the outermost parts that return grids."""
    names = list(_watch(network, arrays, device, None)[2])
    outer = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    return ", ".join(repr(name) for name in outer) or "none: no part of this network returns a grid"


@contextmanager
def _hooks(modules: dict[str, Any], outputs: dict[str, torch.Tensor]) -> Iterator[None]:
    """Record the grids that modules return, and pass copies on, so that later steps in place do not change them."""
    import torch

    def record(name: str) -> Any:
        def hook(module: Any, args: Any, result: Any) -> Any:
            if not isinstance(result, torch.Tensor) or result.ndim != 4:
                return None
            outputs.pop(name, None)  # a part that is used twice counts where it was used last
            outputs[name] = result
            return result.clone()

        return hook

    handles = [module.register_forward_hook(record(name)) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _positions(prediction: Prediction, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, tuple[int, int]]:
    """Row and column of each observation on the padded grid of the network, and its shape."""
    cell = batch["cell"]
    first, last = cell.amin(dim=0), cell.amax(dim=0)
    tissue = prediction.extras.get("tissue")
    if tissue is None:
        shape = (int(last[0]) + 1, int(last[1]) + 1)
        return cell[:, 0], cell[:, 1], shape
    # Networks pad on either side; the first occupied row and column say by how much.
    at = [tissue[0, 0].any(dim=axis).nonzero()[0, 0] for axis in (1, 0)]
    row, col = (cell[:, i] - first[i] + at[i] for i in (0, 1))
    return row, col, (int(tissue.shape[2]), int(tissue.shape[3]))
