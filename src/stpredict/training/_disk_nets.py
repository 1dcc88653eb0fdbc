"""Networks that learn from spots what every place under them expresses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stpredict.core._device import resolve_device
from stpredict.models.nn._super_pixels import SuperPixelNet
from stpredict.training._disks import Disks, Shrunk, disk_folds, shrunk_by

_HIGH = 0.99  # quantile that is scaled to 1
_MAX_BATCH, _BATCHES = 128, 16


@dataclass(frozen=True)
class NetConfig:
    """Hyperparameters of the head `"mlp"`.

    Attributes
    ----------
    hidden, depth
        Width and number of the hidden layers.
    max_epochs
        Passes over the spots, at most.
    learning_rate
        Of Adam.
    batch_size
        Spots of a step; a sixteenth of all, at least 1 and at most 128, when `None`.
    patience
        Epochs without a better loss on held-out spots after which a member stops and goes back to its best. Each member holds
        out another part of the section, behind a buffer. `None` trains on all spots to the last epoch.
    scale
        What becomes 0 and 1 of each gene: `"quantile"`, the smallest value and the 99th percentile; `"range"`, the smallest
        and the largest, so that one spot can flatten a gene.
    combine
        `"mean"` or `"median"` over the members.
    shrink
        Whether predictions are pulled towards the mean, by as much as spots that were held out say.
    """

    hidden: int = 256
    depth: int = 4
    max_epochs: int = 400
    learning_rate: float = 1e-3
    batch_size: int | None = None
    patience: int | None = 10
    scale: Literal["quantile", "range"] = "quantile"
    combine: Literal["mean", "median"] = "mean"
    shrink: bool = True


#: Departures from these by name: the published recipe, and a setting that a CPU trains in seconds.
NET_PRESETS: dict[str, dict[str, Any]] = {
    "paper": {"learning_rate": 1e-4, "patience": None, "scale": "range", "combine": "median", "shrink": False},
    "small": {"hidden": 48, "depth": 2, "learning_rate": 3e-3, "max_epochs": 60},
}


class DiskNets:
    """An ensemble of networks on standardized features, in the unit of the target.

    Parameters
    ----------
    networks
        The members.
    low, spread
        (g,) what their outputs 0 and 1 stand for: `low` and `low + spread`.
    """

    def __init__(
        self, networks: Sequence[SuperPixelNet], low: np.ndarray, spread: np.ndarray, combine: str, shrunk: Shrunk,
        device: torch.device, facts: dict[str, Any],
    ) -> None:  # fmt: skip
        self.networks, self.low, self.spread, self.combine = networks, low, spread, combine
        self.shrunk, self.device, self.facts = shrunk, device, facts

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Expression (m, g) of standardized features (m, d), and the standard deviation over the members."""
        inputs = torch.as_tensor(np.asarray(features, dtype=np.float32), device=self.device)
        with torch.inference_mode():
            members = torch.stack([network(inputs) for network in self.networks]).cpu().numpy().astype(np.float64)
        found = members.mean(axis=0) if self.combine == "mean" else np.median(members, axis=0)
        std = members.std(axis=0, ddof=1) * self.spread * self.shrunk.slope if len(members) > 1 else None
        return self.shrunk(self.low + self.spread * found), std


def fit_disk_nets(
    disks: Disks,
    target: np.ndarray,
    config: NetConfig,
    *,
    reach_um: float,
    n_members: int,
    seed: int | Sequence[int],
    device: str | torch.device | None = None,
) -> DiskNets:
    """Train each member on the means over disks of what it says of places.

    Parameters
    ----------
    disks
        Spots with the standardized features of their places.
    target
        (n, g) float64.
    config
        Hyperparameters.
    reach_um
        Side of the square that a spot was read from, for the buffer around what a member holds out.
    n_members
        Number of networks.
    seed
        Of the first member, and one more for each other; or one for each.
    device
        Device to train on.
    """
    where = resolve_device(device)
    low = target.min(axis=0)
    high = target.max(axis=0) if config.scale == "range" else np.quantile(target, _HIGH, axis=0)
    high = np.where(high > low, high, target.max(axis=0))
    spread = high - low  # 0 for a constant, which then stays what it is
    scaled = (target - low) / np.where(spread > 0, spread, 1)
    assert disks.places is not None  # asked for by this head
    spots = _Spots(disks, scaled, where)
    seeds = [seed + number for number in range(n_members)] if isinstance(seed, int) else list(seed)
    folds = disk_folds(disks, reach_um) if config.patience is not None else []
    networks, epochs = [], []
    held: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for each in seeds:
        train, held_out = folds[each % len(folds)] if folds else (np.ones(len(disks), dtype=bool), None)
        network, epoch = _train(spots, np.flatnonzero(train), held_out, config, each, disks.places.shape[1])
        networks.append(network)
        epochs.append(epoch)
        if held_out is not None and config.shrink:
            rows = np.flatnonzero(held_out)
            with torch.inference_mode():
                told = torch.cat([spots.mean(network, part) for part in _batches(rows, _MAX_BATCH)])
            predicted = low + spread * told.cpu().numpy().astype(np.float64)
            held.append((predicted, target[rows], np.full(len(rows), len(held))))
    shrunk = shrunk_by(target.mean(axis=0), held)
    return DiskNets(networks, low, spread, config.combine, shrunk, where, {"epochs": epochs} | shrunk.facts())


class _Spots:
    """Places of each spot, padded to the largest disk, and its target."""

    def __init__(self, disks: Disks, target: np.ndarray, device: torch.device) -> None:
        matrix = disks.weights.tocsr()
        size = np.diff(matrix.indptr)
        index = np.zeros((len(size), max(int(size.max()), 1)), dtype=np.int64)
        weight = np.zeros(index.shape, dtype=np.float32)
        filled = np.arange(index.shape[1]) < size[:, None]
        index[filled], weight[filled] = matrix.indices, matrix.data
        self.index, self.weight = torch.as_tensor(index, device=device), torch.as_tensor(weight, device=device)
        self.places = torch.as_tensor(disks.places, device=device)
        self.target = torch.as_tensor(target, dtype=torch.float32, device=device)
        self.device = device

    def mean(self, network: SuperPixelNet, rows: Any) -> Tensor:
        """Means (b, g) over the disks of some spots."""
        index, weight = self.index[rows], self.weight[rows]
        told = network(self.places[index.flatten()]).unflatten(0, index.shape)
        return torch.einsum("bk,bkg->bg", weight, told)

    def loss(self, network: SuperPixelNet, rows: Any) -> Tensor:
        return (self.mean(network, rows) - self.target[rows]).square().mean()


def _train(
    spots: _Spots, train: np.ndarray, held_out: np.ndarray | None, config: NetConfig, seed: int, n_features: int
) -> tuple[SuperPixelNet, int]:
    """One member, and the number of epochs behind it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = SuperPixelNet(n_features, spots.target.shape[1], config.hidden, config.depth).to(spots.device)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    rng = np.random.default_rng(seed)
    size = config.batch_size or min(_MAX_BATCH, max(1, len(train) // _BATCHES))
    rows = None if held_out is None else np.flatnonzero(held_out)
    best, state, since, kept = np.inf, None, 0, config.max_epochs
    for epoch in range(1, config.max_epochs + 1):
        for part in _batches(rng.permutation(train), size):
            optimizer.zero_grad(set_to_none=True)
            spots.loss(network, part).backward()
            optimizer.step()
        if rows is None or config.patience is None:
            continue
        with torch.inference_mode():
            loss = sum(float(spots.loss(network, part)) * len(part) for part in _batches(rows, _MAX_BATCH)) / len(rows)
        since += 1
        if loss < best:
            best, since, kept = loss, 0, epoch
            state = {name: value.detach().clone() for name, value in network.state_dict().items()}
        if since >= config.patience:
            break
    if state is not None:
        network.load_state_dict(state)
    return network.eval(), kept


def _batches(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
