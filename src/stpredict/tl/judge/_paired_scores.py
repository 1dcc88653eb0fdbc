"""Scores of several models as arrays over sections and genes, and their means over patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._marks import Mark, joint_mark

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Scores:
    """Scores of models, a row per section (or block of one) and a column per gene.

    Attributes
    ----------
    values
        (n_sections, n_genes) by model; NaN where there is none.
    n_places
        Number of sections × genes that any model has a row for.
    patient
        (n_sections,) code of the patient, ascending.
    part
        What a row is: `"sections"` or `"blocks"`.
    marks
        Whether each model saw one of the patients.
    """

    values: dict[Any, np.ndarray]
    n_places: int
    patient: np.ndarray
    part: str
    marks: dict[Any, Mark]

    def unit_means(self, values: np.ndarray) -> tuple[np.ndarray, str]:
        """Mean of values (n_sections, n_genes) in each patient, or in each section or block of a single one, and which it is."""
        known = np.isfinite(values)
        n = known.sum(axis=1)
        there = np.flatnonzero(n)
        per_section = np.where(known[there], values[there], 0).sum(axis=1) / n[there]
        people, code = np.unique(self.patient[there], return_inverse=True)
        if len(people) > 1:
            return np.bincount(code, weights=per_section) / np.bincount(code), "patients"
        return per_section, self.part

    def gene_means(self, values: np.ndarray) -> np.ndarray:
        """Mean of values of each gene that has one, over the sections of a patient, then over patients."""
        known = np.isfinite(values)
        first = np.flatnonzero(np.diff(self.patient, prepend=-1))
        n = np.add.reduceat(known, first, axis=0, dtype=np.int64)
        total = np.add.reduceat(np.where(known, values, 0), first, axis=0)
        per_patient = np.divide(total, n, out=np.zeros_like(total), where=n > 0)
        people = (n > 0).sum(axis=0)
        return per_patient.sum(axis=0)[people > 0] / people[people > 0]


def paired_scores(scores: pd.DataFrame, metric: str, by: str, units: Sequence[str]) -> Scores:
    """The scores of a table; `units` name the patient, the section, and where there are some its block.

    Raises
    ------
    ValueError
        When a model has several scores for one gene of a section.
    """
    import pandas as pd

    codes = {name: pd.factorize(scores[name], sort=True) for name in (*units, "gene")}
    model, names = pd.factorize(scores[by])
    place = np.zeros(len(scores), dtype=np.int64)
    for name in units:
        place = place * (len(codes[name][1]) + 1) + codes[name][0]
    gene, n_genes = codes["gene"][0], len(codes["gene"][1])
    value = scores[metric].to_numpy(dtype=np.float64, na_value=np.nan)
    if any((code < 0).any() for code in (model, gene, *(codes[name][0] for name in units))):
        # Rows without a name are of nobody.
        kept = np.min([model, gene, *(codes[name][0] for name in units)], axis=0) >= 0
        model, place, gene, value = model[kept], place[kept], gene[kept], value[kept]
    sizes = [len(codes[name][1]) + 1 for name in units]
    section, order = _numbered(place, int(np.prod(sizes)))
    at = section * n_genes + gene
    any_row = np.zeros(len(order) * n_genes, dtype=bool)
    values = {}
    for number, name in enumerate(names):
        rows = model == number
        own = at[rows]
        seen = np.zeros(len(any_row), dtype=bool)
        seen[own] = True
        if seen.sum() < len(own):
            raise ValueError(
                f"expected one score for each {by}, section and gene; found several; average them, or name them apart in {by!r}"
            )
        any_row |= seen
        wide = np.full(len(any_row), np.nan)
        wide[own] = value[rows]
        wide[np.isinf(wide)] = np.nan
        values[name] = wide.reshape(len(order), n_genes)
    patient = np.asarray(order) // int(np.prod(sizes[1:]))
    return Scores(values, int(any_row.sum()), patient, "blocks" if "block" in units else "sections", _marks(scores, by))


def _numbered(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Number (n,) of each code among those that occur, and these in order; codes are below `size`."""
    if size > 4 * len(codes):
        order, number = np.unique(codes, return_inverse=True)
        return number, order
    there = np.zeros(size, dtype=bool)  # a table of all codes: sorting millions of rows takes longer
    there[codes] = True
    return (np.cumsum(there) - 1)[codes], np.flatnonzero(there)


def _marks(scores: pd.DataFrame, by: str) -> dict[Any, Mark]:
    """The mark of each model; unknown where the table has none."""
    import pandas as pd

    model, names = pd.factorize(scores[by])
    if "leaky" not in scores:
        return {name: joint_mark([None]) for name in names}
    mark, kinds = pd.factorize(scores["leaky"], use_na_sentinel=False)
    pairs = np.bincount((model + 1) * len(kinds) + mark, minlength=(len(names) + 1) * len(kinds)).reshape(
        -1, len(kinds)
    )
    return {name: joint_mark(kinds[row > 0]) for name, row in zip(names, pairs[1:], strict=True)}
