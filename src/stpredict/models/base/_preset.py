"""Configurations by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Preset:
    """A configuration of a network that has a name, such as the recipe of its paper.

    Attributes
    ----------
    hyperparameters
        Departures from the default hyperparameters.
    training
        Departures from the default training settings, see :class:`stpredict.training.TrainConfig`. What a call asks for
        with `training=` comes before them, and so does what a target cannot do without (the risk sets of a follow-up).
    n_outputs, widths
        What :func:`stpredict.models.build` takes where it is not told: the number of genes, and the widths of the inputs,
        of the published network.
    """

    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    training: Mapping[str, Any] = field(default_factory=dict)
    n_outputs: int | None = None
    widths: Mapping[str, int] = field(default_factory=dict)
