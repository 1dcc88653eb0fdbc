"""Scores as parts of the literature have them: beside the score of a model, never instead of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._validate import check_choice
from stpredict.pp._published_target import TARGET_HABITS, section_target

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

HABITS = (*TARGET_HABITS, "ranked", "background")
AS_PUBLISHED = "pearson_as_published"
_N_RANKED = 50
_OF_TARGET = {"smoothed": "smoothed", "panel": "panel-normalized"}
_OF_SCORE = {"ranked": f"{_N_RANKED} genes ranked on the test section", "background": "background counted"}


def check_habits(habits: Sequence[str]) -> list[str]:
    """The habits, each known, in the order of :data:`HABITS`."""
    given = [habits] if isinstance(habits, str) else list(habits)
    for habit in given:
        check_choice(habit, HABITS, "habits")
    return [habit for habit in HABITS if habit in given]


def in_words(habits: Sequence[str]) -> str:
    """What a table says of them: `"smoothed, panel-normalized target: for comparison only"`."""
    target = ", ".join(word for habit, word in _OF_TARGET.items() if habit in habits)
    said = [f"{target} target"] if target else []
    said += [word for habit, word in _OF_SCORE.items() if habit in habits]
    return "; ".join(said) + ": for comparison only"


def add_habits(
    table: pd.DataFrame,
    adata: AnnData,
    habits: Sequence[str],
    *,
    section: np.ndarray,
    rows: np.ndarray,
    predicted: np.ndarray,
    panel: Sequence[str],
    n_background: int | None,
) -> None:
    """Add the columns of habits to the scores of one model in one section.

    Parameters
    ----------
    table
        Scores, one row per gene, with a column `gene`.
    adata
        The object.
    habits
        Names, see :data:`HABITS`.
    section, rows
        All observations of the section that were measured on tissue, and those of them that are scored (n,).
    predicted
        Predictions (n, n_genes).
    panel
        Genes whose counts make the library size.
    n_background
        Cells of the map without tissue, where the section has a grid.
    """
    from stpredict import metrics

    columns = adata.var_names.get_indexer(table["gene"])
    values = section_target(adata, section, columns, [h for h in habits if h in TARGET_HABITS], panel)
    truth = values[np.searchsorted(section, rows)].astype(np.float64)
    if "background" not in habits:
        r = metrics.pearson(truth, predicted)
    elif n_background is None:
        r = np.full(len(columns), np.nan)
    else:
        r = metrics.pearson_with_background(truth, predicted, n_background)
    if "ranked" in habits:  # the published way: those that came out best are those that are shown
        best = np.argsort(-np.nan_to_num(r, nan=-np.inf), kind="stable")[:_N_RANKED]
        kept = np.full(len(r), np.nan)
        kept[best] = r[best]
        r = kept
    table[AS_PUBLISHED] = r
    table["habits"] = in_words(habits)
