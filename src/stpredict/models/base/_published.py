"""How the tensors of a published checkpoint make up those of a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Published:
    """How published weights of a network are read.

    Attributes
    ----------
    anchor
        Name of one of the tensors, by which the prefix that wrappers put before all names is found.
    read
        Turns the tensors by name into a :class:`Tree`.
    normalization
        Record of how the target of the published training was normalized.
    """

    anchor: str
    read: Callable[[Mapping[str, Tensor]], Tree]
    normalization: Mapping[str, Any]


@dataclass
class Tree:
    """How the tensors of a checkpoint make up those of a network.

    Attributes
    ----------
    n_features, n_genes, hyperparameters
        Sizes and hyperparameters of the network.
    sources
        For each tensor of the network, the tensors of the checkpoint it consists of and how they are joined.
    ignored
        Beginnings of the names of tensors that are no part of the network, such as a frozen encoder saved along.
    """

    n_features: int
    n_genes: int
    hyperparameters: dict[str, Any]
    sources: dict[str, tuple[list[str], Callable[[list[Tensor]], Tensor]]] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    def same(self, ours: str, theirs: str) -> None:
        """Weight and bias of a layer under another name."""
        for part in ("weight", "bias"):
            self.sources[f"{ours}.{part}"] = ([f"{theirs}.{part}"], only)

    def same_norm(self, ours: str, theirs: str) -> None:
        """Weight, bias and running statistics of a batch norm under another name."""
        self.same(ours, theirs)
        for part in ("running_mean", "running_var", "num_batches_tracked"):
            self.sources[f"{ours}.{part}"] = ([f"{theirs}.{part}"], only)

    def convert(self, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the network; an error that names the first one that is missing, left over or misshapen."""
        needed = [key for keys, _ in self.sources.values() for key in keys]
        missing = sorted(set(needed) - set(state))
        unknown = sorted(key for key in set(state) - set(needed) if not key.startswith(self.ignored))
        if missing or unknown:
            what = f"{len(missing)} missing (first: {missing[0]})" if missing else ""
            more = f"{len(unknown)} unknown (first: {unknown[0]})" if unknown else ""
            raise ValueError(
                f"expected the tensors of the published network; found {', '.join(filter(None, [what, more]))}"
            )
        converted = {}
        for ours, (keys, join) in self.sources.items():
            parts = [state[key].to(wanted[ours].dtype) for key in keys]
            odd = next((key for key, part in zip(keys, parts, strict=True) if part.shape != parts[0].shape), None)
            value = parts[0] if odd else join(parts)
            if odd or value.shape != wanted[ours].shape:
                found = tuple(state[odd or keys[0]].shape)
                raise ValueError(
                    f"expected tensors of matching shapes; found {odd or keys[0]} of {found}, for {ours} of "
                    f"{tuple(wanted[ours].shape)}"
                )
            converted[ours] = value
        return converted


def only(parts: list[Tensor]) -> Tensor:
    return parts[0]


def stacked(parts: list[Tensor]) -> Tensor:
    return torch.stack(parts)


def joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts)


def without_kernel(parts: list[Tensor]) -> Tensor:
    """Weights of a convolution over single tokens or cells as those of a linear layer."""
    return parts[0].flatten(1) if parts[0].ndim > 2 and parts[0][0, 0].numel() == 1 else parts[0]


def center_tap(parts: list[Tensor]) -> Tensor:
    """What a convolution of odd width does to sequences of length 1: its middle, as the weights of a linear layer."""
    return parts[0][..., parts[0].shape[-1] // 2]


def count_layers(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the highest number that a pattern finds at the start of a key."""
    return 1 + max((int(found[1]) for key in state if (found := re.match(pattern, key))), default=-1)


def sizes_of(state: Mapping[str, Tensor], key: str, n_axes: int) -> tuple[int, ...]:
    """Shape of a tensor that others are measured by."""
    if key not in state:
        raise ValueError(f"expected the tensors of the published network; found 1 missing (first: {key})")
    if state[key].ndim != n_axes:
        raise ValueError(f"expected {key} to have {n_axes} axes; found {tuple(state[key].shape)}")
    return tuple(state[key].shape)
