"""Follow-up of patients: times and events, and where risks go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._keys import Key
from stpredict.slots._outcome import read_outcome
from stpredict.slots._rows import Rows
from stpredict.targets import FollowUp
from stpredict.tl.learn.targets._base import Keys, Outputs, TargetSlots

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.training.targets import Target


class FollowUpSlots(TargetSlots):
    """Two columns of `obs`; predictions are risks in `obs`, and the half of the cohort that they fall into."""

    kind = "follow_up"
    request = FollowUp
    maps = True

    @property
    def training_defaults(self) -> Mapping[str, Any]:
        """Batches of whole risk sets, and shrinkage."""
        from stpredict.training.targets import FollowUpTarget

        return FollowUpTarget.training_defaults

    def resolve(
        self, adata: AnnData, request: FollowUp, train: np.ndarray, keys: Keys, *, allow_leakage: bool
    ) -> tuple[Target, list[str]]:
        """Take the columns as they are named."""
        from stpredict.training.targets import FollowUpTarget

        return FollowUpTarget(request.time, request.event), []

    def usable(self, adata: AnnData, request: FollowUp) -> np.ndarray:
        """Every observation."""
        return np.ones(adata.n_obs, dtype=bool)

    def read(self, adata: AnnData, request: FollowUp, target: Target, rows: Rows, keys: Keys) -> np.ndarray:
        """Time and event (n, 2) float32."""
        outcome = read_outcome(adata, request.time, request.event, rows.index, patient_key=keys.patient)
        return np.column_stack(outcome).astype(np.float32)

    def key(self, target: Target) -> str:
        """`obs["risk"]`."""
        return Key.RISK

    def check(self, adata: AnnData, target: Target) -> None:
        """Accept any object: there is no unit to differ in."""

    def columns(self, key: str) -> set[str]:
        """Risk and its group."""
        return {key, Key.group(key)}

    def arrange(self, key: str, outputs: Outputs) -> Outputs:
        """Give risks relative to the training mean; of slides, also whether they are above the training median."""
        import pandas as pd

        facts = [part.training for part in outputs.members]
        risk = outputs.frames[key].iloc[:, 0].to_numpy()
        columns = dict(outputs.columns)
        if outputs.as_map:
            risk = risk - np.float32(np.mean([fact.mean["model"] for fact in facts]))
        else:
            cut = np.mean([fact.median["model"] - fact.mean["model"] for fact in facts])
            columns[Key.group(key)] = pd.Categorical(np.where(risk > cut, "high", "low"))
        return replace(outputs, frames={}, columns=columns | {key: risk})
