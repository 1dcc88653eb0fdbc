"""Sections that lie on both sides of a fold under two names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stpredict.cohorts import Fold
from stpredict.core._validate import few
from stpredict.slots._content import recognize

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._rows import Rows


def copied_sections(
    adata: AnnData, rows: Rows, folds: Sequence[Fold], content: Mapping[str, Any]
) -> list[dict[str, list[str]]]:
    """For each fold, the sections of its test side whose spots are in training too, with the names that they have there."""
    twins = recognize(adata, rows.index, rows.sample, [content])
    found = []
    for fold in folds:
        train, test = (set(rows.sample[side[rows.index]]) for side in (fold.train, fold.test))
        both = {name: sorted((twins.get(name, set()) & train) - {name}) for name in sorted(test)}
        found.append({name: others for name, others in both.items() if others})
    return found


def check_copies(folds: Sequence[Fold], copied: Sequence[Mapping[str, list[str]]]) -> None:
    """Raise where a section is on both sides of a fold under two names."""
    for fold, pairs in zip(folds, copied, strict=True):
        for name, others in pairs.items():
            raise ValueError(
                f"expected every section on one side of fold {fold.name!r}; found spots of section {name!r}, which is in its "
                f"test side, in training as {few(others)} ({len(pairs)} such in all); leave the copy out, give both the same "
                "patient, or pass allow_leakage=True and have every score of them marked as leaky"
            )
