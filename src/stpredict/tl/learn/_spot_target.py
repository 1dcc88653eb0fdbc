"""What is measured of spots and learned from, and what is found of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_counts, few
from stpredict.slots._dense_map import DenseMap
from stpredict.slots._expression import in_tissue, matrix_of, measured_rows
from stpredict.slots._keys import Key
from stpredict.slots._marks import seen_marks, worst_marks, written_marks
from stpredict.slots._matrix import dense_matrix, numeric_matrix
from stpredict.slots._people import one_name
from stpredict.slots._rows import rows_of
from stpredict.targets import Expression
from stpredict.tl.learn._blocks import panel_seen
from stpredict.tl.learn.targets._base import Keys, slots_for, unit_record
from stpredict.tl.learn.targets._expression import SELECTIONS, choose_panel
from stpredict.tl.learn.targets._parse import parse_target

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.cohorts import Fold
    from stpredict.training.targets import Target


@dataclass(frozen=True)
class SpotTarget:
    """What is measured of spots, and which of them can be learned from.

    Attributes
    ----------
    adata, keys
        The table, and the columns that name sections and patients.
    request
        What was asked for.
    genes
        Genes.
    counts
        Whether raw counts are learned.
    usable
        (n_obs,) measured spots on tissue.
    """

    adata: AnnData
    keys: Keys
    request: Expression
    genes: list[str]
    counts: bool
    usable: np.ndarray

    @classmethod
    def of(cls, adata: AnnData, target: Any, keys: Keys, *, counts: bool) -> SpotTarget:
        """Read what was asked for."""
        request = parse_target(adata, target)
        if not isinstance(request, Expression):
            raise TypeError(
                f"expected expression of genes as the target; found {type(request).__name__}; pass a list of genes, or an "
                "object of stp.targets.Expression"
            )
        if counts:
            if Key.COUNTS not in adata.layers:
                raise KeyError("expected layers['counts'] for counts=True; found none; put the raw counts there")
            matrix = numeric_matrix(adata.layers[Key.COUNTS], f"layers[{Key.COUNTS!r}]")
            check_counts(matrix, f"layers[{Key.COUNTS!r}]")
        else:
            matrix = matrix_of(adata, request.layer)
        usable = measured_rows(adata, matrix) & in_tissue(adata)
        if not usable.any():
            raise ValueError("expected measured spots on tissue to learn from; found none")
        genes = list(choose_panel(adata, request, usable, replace_patient(adata, keys), allow_leakage=True))
        return cls(adata, keys, request, genes, counts, usable)

    def sections(self, mapped: Sequence[str], train: Sequence[str] | None) -> list[str]:
        """Names of the sections that are learned from."""
        names = self.adata.obs[self.keys.sample].astype(str).to_numpy()
        measured = set(names[self.usable])
        if train is None:
            if lacking := [name for name in mapped if name not in measured]:
                raise ValueError(
                    f"expected measured spots in every section with a map; found none in {few(lacking)}; pass the sections "
                    "to learn from as `train=`, and theirs are predicted"
                )
            return list(mapped)
        wanted = [train] if isinstance(train, str) else list(dict.fromkeys(map(str, train)))
        lacking = [name for name in wanted if name not in measured or name not in mapped]
        if lacking or not wanted:
            raise ValueError(
                f"expected sections with a map and measured spots in `train`; found {few(lacking) or 'none'}; those with both "
                f"are {few(name for name in mapped if name in measured) or 'none'}"
            )
        return wanted

    def read(self, mask: np.ndarray) -> tuple[np.ndarray, Target | None]:
        """Values (n, g) float64 of some usable spots as if there were no others in their sections, and what they are."""
        from stpredict.core._validate import check_finite

        index = np.flatnonzero(mask)
        if self.counts:
            columns = self.adata.var_names.get_indexer(self.genes)
            matrix: Any = numeric_matrix(self.adata.layers[Key.COUNTS], f"layers[{Key.COUNTS!r}]")
            values, found = dense_matrix(matrix[index][:, columns], "counts"), None
        else:
            slots = slots_for(self.request)
            listed = replace(self.request, panel=self.genes, always=())
            keys = replace_patient(self.adata, self.keys)
            found, _ = slots.resolve(self.adata, listed, mask, keys, allow_leakage=True)
            rows = rows_of(self.adata, mask, sample_key=keys.sample, patient_key=None)
            values = slots.read(self.adata, listed, found, rows, keys)
        check_finite(values, "expression of the spots", "leave these genes or spots out")
        return np.asarray(values, dtype=np.float64), found

    def chosen_on(self, fold: Fold) -> bool:
        """Whether the test block of a fold had a part in the choice of the genes."""
        panel = self.request.panel
        if isinstance(panel, Mapping) or (isinstance(panel, str) and panel in SELECTIONS):
            return True
        return bool(panel_seen(self.adata, self.request, fold, self.keys, allow_leakage=True))

    def people(self) -> np.ndarray | None:
        """Patients (n_obs,), where they are named."""
        return one_name(self.adata.obs[self.keys.patient]) if self.keys.patient in self.adata.obs else None


def replace_patient(adata: AnnData, keys: Keys) -> Keys:
    """The same columns, sections standing for patients where nobody is named: what is learned stays in a section."""
    return keys if keys.patient in adata.obs else replace(keys, patient=keys.sample)


@dataclass
class Result:
    """What is found, as it is written.

    Attributes
    ----------
    genes
        Genes.
    values
        (n_obs, g) predictions of spots; NaN without one.
    fold
        (n_obs,) number of the fit that predicted a spot, -1 for none.
    marks
        (n_obs,) marks of leaks.
    targets
        What each fit learned, by its number.
    facts
        What is recorded of the fits behind the maps, by their sections.
    maps
        Maps by section.
    """

    genes: list[str]
    values: np.ndarray
    fold: np.ndarray
    marks: np.ndarray
    targets: list[Target | None] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    maps: dict[str, DenseMap] = field(default_factory=dict)

    @classmethod
    def empty(cls, n_obs: int, genes: list[str]) -> Result:
        """Nothing yet."""
        values = np.full((n_obs, len(genes)), np.nan, dtype=np.float32)
        return cls(genes, values, np.full(n_obs, -1), np.full(n_obs, -1))

    def mark_seen(self, people: np.ndarray, seen: Sequence[str]) -> None:
        """Mark what was predicted of patients (n_obs,) who had a part in the features; unknown where some of these are."""
        worst = worst_marks(self.marks, seen_marks(people, seen))
        self.marks = np.where(self.fold >= 0, worst, self.marks)

    def take(self, rows: np.ndarray, values: np.ndarray, mark: np.ndarray | int, number: int) -> None:
        """Enter the prediction of some rows."""
        self.values[rows], self.fold[rows], self.marks[rows] = values, number, mark

    def write(self, adata: AnnData, key: str, record: Mapping[str, Any], learned: SpotTarget) -> None:
        """Write predictions of spots, which fit made them, and the record."""
        import pandas as pd

        from stpredict.slots._prediction import write_predictions

        unit = (
            {"unit": {"method": "layer", "layer": Key.COUNTS}}
            if learned.counts
            else unit_record([found for found in self.targets if found is not None], self.genes)
        )
        frame = pd.DataFrame(self.values, index=adata.obs_names, columns=self.genes)
        write_predictions(
            adata, key, {key: frame}, {**record, "target": "expression", "counts": learned.counts, **unit}
        )
        adata.obs[Key.fold(key)] = self.fold
        adata.obs[Key.leaky(key)] = written_marks(self.marks)
