"""How a model came about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any


@dataclass
class TrainingFacts:
    """How a model came about.

    Attributes
    ----------
    patients, samples
        Patients and sections of the training observations.
    n_obs
        Number of training observations.
    seed
        Random seed.
    allow_leakage
        Whether leaks were accepted.
    panel_patients
        Other patients that the panel was selected on; `"unknown"` among them where that was not recorded.
    pretraining_patients
        Patients that the weights it started from were trained on; `"unknown"` where nobody said.
    feature_patients
        Patients whose expression had a part in the features, as where images were aligned with it; `"unknown"` where nobody
        wrote down how the features were made: they may come from the expression to be predicted.
    table_patients
        Other patients whose expression had a part in the table of genes; `"unknown"` among them where that was not recorded.
    content
        Digests of some spots of each training section, by which they are recognized under other names.
    settings
        Training settings.
    validated_on
        What the inner validation held out: `"patient"`, `"section"`, `"stripe"`, `"grouped folds"`, `"none"`.
    n_epochs
        Epochs behind the weights.
    patch
        Side of the patches in µm and in pixels, where the network reads some.
    padded_patches
        Number of patches that reach beyond the image, by section.
    mean, median
        Mean and median output over the training observations, by baseline and for the model itself (`"model"`); of
        follow-up and of outcome models.
    spread
        Standard deviation of each gene between the means of the training patients, or of the sections where there is
        one patient; `None` where there is one section, and for other targets than expression.
    auxiliary
        Genes that were trained on beside the panel, and no longer predicted: `mode`, `n_primary`, their `genes` in the order of
        their rank and the `weight` of each; of `"dkgsb"` the learned `cut` (rank from 0 to 1 at which the weight is a half),
        `n_kept`, the number of genes up to it, what rows it was `tuned_on`, and `tuned_where_stopped`, whether these are the
        rows that chose the number of epochs as well.
    extra
        Facts of special kinds of models, and what a network says of its training (`facts()`): `"shrinkage"` of networks that
        look up training spots, with the spots that it was fitted on and quartiles of the slopes over genes.
    """

    patients: list[str] = field(default_factory=list)
    samples: list[str] = field(default_factory=list)
    n_obs: int = 0
    seed: int = 0
    allow_leakage: bool = False
    panel_patients: list[str] = field(default_factory=list)
    pretraining_patients: list[str] = field(default_factory=list)
    feature_patients: list[str] = field(default_factory=list)
    table_patients: list[str] = field(default_factory=list)
    content: list[dict[str, Any]] = field(default_factory=list, repr=False)
    settings: dict[str, Any] = field(default_factory=dict)
    validated_on: str = "none"
    n_epochs: int = 0
    patch: list[float] | None = None
    padded_patches: dict[str, int] | None = None
    mean: dict[str, float] = field(default_factory=dict)
    median: dict[str, float] = field(default_factory=dict)
    spread: list[float] | None = None
    auxiliary: dict[str, Any] = field(default_factory=dict, repr=False)
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def patients_seen(self) -> list[str]:
        """Patients whom the model was trained on, or its panel, its features, its table of genes or its starting weights.

        `"unknown"` is among them where nobody said who some of them are.
        """
        nobody = [] if self.patients else ["unknown"]
        return sorted({*self.patients, *self.others_seen, *nobody})

    @property
    def others_seen(self) -> list[str]:
        """Patients whom something else than the training observations has seen."""
        others = (self.panel_patients, self.pretraining_patients, self.feature_patients, self.table_patients)
        return sorted({name for names in others for name in names})

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> TrainingFacts:
        """Rebuild from plain values; `ValueError` where one is unknown, or of another kind."""
        unknown = sorted(set(entry) - {f.name for f in fields(cls)})
        if unknown:
            raise ValueError(f"expected the facts of a training; found unknown ones: {', '.join(unknown)}")
        plain = cls()
        for name, value in entry.items():
            usual = getattr(plain, name)
            if usual is not None and not isinstance(value, type(usual)):
                raise ValueError(
                    f"expected {name} of a training as {type(usual).__name__}; found {value!r}; save the model anew"
                )
        return cls(**entry)
