"""Scores of every line of the table in one section, or in one held-out block of it, some genes at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict import metrics as m
from stpredict.core._moments import columnwise
from stpredict.metrics._ranks import ranks
from stpredict.metrics._rmse import middle_half
from stpredict.metrics._spearman import spearman_of_ranks
from stpredict.slots._expression import in_tissue
from stpredict.slots._marks import joint_mark
from stpredict.slots._positions import positions_of
from stpredict.slots._scale import origin_of
from stpredict.tl.judge._depth_free import DEPTH_FREE, Counted, on_scale, residual_theta
from stpredict.tl.judge._distribution import DISTRIBUTION, distribution_scores
from stpredict.tl.judge._habits import add_habits
from stpredict.tl.judge._lines import Line, smoothing
from stpredict.tl.judge._noise_ceiling import section_ceiling
from stpredict.tl.judge._section_facts import lattice_positions, log_depth, n_background

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._truth import Truth

WITH_BACKGROUND = "pearson_with_background"  # only where it is asked for
_GIVEN = "pearson_given"  # of what is named
_DIRECTIONS = 12  # of the earth mover's distance: evenly spaced, within 1 % of any larger number
_HELD = 2**23  # values (64 MB) of a matrix that are worked on at a time; about a dozen of these are held


@dataclass(frozen=True)
class Asked:
    """What is asked for, the same for every part.

    Attributes
    ----------
    metrics
        Names of the scores.
    ceiling
        Whether to add the ceilings; those of values, whose noise nobody knows, are NaN.
    habits
        Published habits.
    panel
        Genes whose counts make the library size of a habit.
    given
        Covariates (n_obs, d) of all observations and their names.
    seed
        Random seed.
    sample_key
        Column of `obs` with the section.
    """

    metrics: Sequence[str]
    ceiling: bool
    habits: Sequence[str]
    panel: Sequence[str]
    given: tuple[np.ndarray, str] | None
    seed: int
    sample_key: str

    def blocks(self, n_obs: int, genes: Sequence[str]) -> list[slice]:
        """Genes that are scored at a time: all of them where a score is one of many genes together."""
        together = bool(self.habits) or any(name in DISTRIBUTION for name in self.metrics)
        width = len(genes) if together else max(1, _HELD // max(n_obs, 1))
        return [slice(start, start + width) for start in range(0, len(genes), width)]


class Observations:
    """Observations of a section, and what is known of them beside the genes; found once, and only what a score needs."""

    def __init__(self, adata: AnnData, rows: np.ndarray, sample_key: str) -> None:
        self.adata, self.rows, self.sample_key = adata, rows, sample_key

    @cached_property
    def lattice(self) -> tuple[np.ndarray, np.ndarray] | None:
        return lattice_positions(self.adata, self.rows)

    @cached_property
    def log_depth(self) -> np.ndarray | None:
        return log_depth(self.adata, self.rows)

    @cached_property
    def n_background(self) -> int | None:
        return n_background(self.adata, self.rows, self.sample_key)

    @cached_property
    def xy(self) -> np.ndarray:
        return positions_of(self.adata)[self.rows]

    @cached_property
    def smoothing(self) -> Any:
        return smoothing(self.xy) if len(self.rows) > 2 else None


class _Values:
    """A matrix (n, n_genes), genes one after the other in memory, and what several scores or predictions need of it."""

    def __init__(self, values: np.ndarray) -> None:
        self.values = columnwise(values)

    @cached_property
    def ranks(self) -> np.ndarray:
        return ranks(self.values)

    @cached_property
    def middle_half(self) -> np.ndarray:
        return middle_half(self.values)


def score_part(
    adata: AnnData,
    rows: np.ndarray,
    sample: str,
    genes: Sequence[str],
    target: Truth,
    lines: Mapping[str, Line],
    asked: Asked,
    step: Callable[[], Any],
) -> dict[str, pd.DataFrame]:
    """Score the lines over some rows of a section.

    Parameters
    ----------
    adata
        The table.
    rows
        Observations (n,) on tissue with a measurement.
    sample
        Name of the section.
    genes
        Genes to score.
    target
        What was measured.
    lines
        Predictions by label.
    asked
        What is asked for.
    step
        Function to call for each line and block of genes.

    Returns
    -------
    Scores by label, one row per gene that has a prediction; no entry for a line without any here.
    """
    import pandas as pd

    every, tested = Observations(adata, rows, asked.sample_key), {}
    for label, line in lines.items():
        there = _tested(line.frame, rows, genes)
        some = every if there.all() else Observations(adata, rows[there], asked.sample_key)
        tested[label] = there, some
    found: dict[str, list[pd.DataFrame]] = {label: [] for label in lines}
    theta, free = residual_theta(adata), [name for name in asked.metrics if name in DEPTH_FREE]
    ceiling = np.full(len(genes), np.nan)
    if asked.ceiling and target.is_expression:  # of all genes: halves of the counts are drawn for one after the other
        ceiling = section_ceiling(adata, rows, genes, seed=asked.seed)
    for block in asked.blocks(len(rows), genes):
        names = genes[block]
        counted = Counted(adata, rows, names, sample, of_genes=target.is_expression)
        top = {"ceiling": ceiling[block]} if asked.ceiling else {}
        if asked.ceiling and target.is_expression:
            top |= counted.ceilings(free, theta)
        truth = _Values(target.read(names, rows))
        for label, line in lines.items():
            step()
            there, some = tested[label]
            columns, predicted = _predicted(line.frame, some.rows, names)
            if not columns:
                continue
            if line.smooth and some.smoothing is not None:
                predicted = some.smoothing @ predicted
            at = pd.Index(names).get_indexer(pd.Index(columns))
            whole = some is every and len(at) == len(names)
            own = counted if whole else Counted(adata, some.rows, columns, sample, of_genes=target.is_expression)
            measured = truth if whole else _Values(truth.values[np.ix_(there, at)])
            extra: dict[str, np.ndarray] = {}
            if free:
                extra = own.scores(own.rates(predicted, line.unit, origin_of(adata, line.key, columns)), free, theta)
            compared = _Values(on_scale(predicted, line.unit, target.unit, own.scale))
            drawn = None if line.samples is None else line.samples.read(some.rows, columns)
            extra |= distribution_scores(measured.values, compared.values, drawn, asked.metrics)
            table = _scored(measured, compared, some, asked, extra)
            if asked.given is not None:
                table[_GIVEN] = _partial(measured.values, compared.values, asked.given[0][some.rows])
                table["given"] = asked.given[1]
            table.insert(0, "gene", columns)
            if asked.habits:
                of_section = adata.obs[asked.sample_key].astype(str).to_numpy() == sample
                add_habits(
                    table, adata, asked.habits, section=np.flatnonzero(of_section & in_tissue(adata) & target.measured),
                    rows=some.rows, predicted=compared.values, panel=asked.panel, n_background=some.n_background,
                )  # fmt: skip
            for name, values in top.items():
                table[name] = values[at]
            table["n_obs"] = len(some.rows)
            table["leaky"] = joint_mark(line.leaky[some.rows])
            found[label].append(table)
    return {label: pd.concat(tables, ignore_index=True) for label, tables in found.items() if tables}


def _tested(frame: pd.DataFrame, rows: np.ndarray, genes: Sequence[str]) -> np.ndarray:
    """Mask (n,) of the rows that have a prediction of any gene: folds may test part of a section."""
    at, there = _place(frame, genes), np.zeros(len(rows), dtype=bool)
    width = max(1, _HELD // max(len(rows), 1))
    for start in range(0, len(at), width):
        there |= ~np.isnan(_taken(frame, rows, at[start : start + width])).all(axis=1)
    return there


def _predicted(frame: pd.DataFrame, rows: np.ndarray, genes: Sequence[str]) -> tuple[list[str], np.ndarray]:
    """Genes that are predicted in every row, and their values (n, n_genes): a panel of a fold leaves others empty."""
    at = _place(frame, genes)
    values = _taken(frame, rows, at)
    filled = ~np.isnan(values).any(axis=0) if len(rows) else np.zeros(len(at), dtype=bool)
    return list(frame.columns[at[filled]]), values if filled.all() else values[:, filled]


def _place(frame: pd.DataFrame, genes: Sequence[str]) -> np.ndarray:
    import pandas as pd

    at = frame.columns.get_indexer(pd.Index(genes))
    return at[at >= 0]


def _taken(frame: pd.DataFrame, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Values (n, n_genes) of a prediction, genes one after the other."""
    values = frame.iloc[:, at].to_numpy()
    whole = len(rows) == len(values) and (rows == np.arange(len(rows))).all()
    return columnwise(values if whole else values[rows])


def _partial(truth: np.ndarray, predicted: np.ndarray, covariates: np.ndarray) -> np.ndarray:
    """Correlation (n_genes,) given covariates (n, d), over the observations that have them."""
    there = np.isfinite(covariates).all(axis=1)
    return m.partial_pearson(truth[there], predicted[there], covariates[there])


def _scored(
    truth: _Values, predicted: _Values, some: Observations, asked: Asked, extra: Mapping[str, np.ndarray]
) -> pd.DataFrame:
    """Columns of the metrics, one row per gene."""
    import pandas as pd

    columns: dict[str, np.ndarray] = {}
    x, y = truth.values, predicted.values
    undefined = np.full(x.shape[1], np.nan)
    for metric in asked.metrics:
        if metric in extra:
            columns[metric] = extra[metric]
        elif metric == "pearson_given_depth":
            columns[metric] = undefined if some.log_depth is None else m.partial_pearson(x, y, some.log_depth)
        elif metric == "ssim":
            columns[metric] = undefined if some.lattice is None else m.ssim(x, y, *some.lattice)
        elif metric == "rmse_iqr":
            columns[metric] = (columns["rmse"] if "rmse" in columns else m.rmse(x, y)) / truth.middle_half
        elif metric == "spearman":
            columns[metric] = spearman_of_ranks(x, y, truth.ranks, predicted.ranks)
        elif metric == "emd":
            # Sliced at any size, and cheap beside the other scores; stp.tl.emd solves the exact problem. Shares of the
            # sum of ranks are those of percentiles.
            columns[metric] = undefined
            if len(x) > 1:
                columns[metric] = m.emd(
                    truth.ranks, predicted.ranks, some.xy, scaling="mass", max_exact=0, n_projections=_DIRECTIONS,
                    seed=asked.seed,
                )  # fmt: skip
        elif metric == WITH_BACKGROUND:
            empty = some.n_background
            columns[metric] = undefined if empty is None else m.pearson_with_background(x, y, empty)
        else:
            columns[metric] = getattr(m, metric)(x, y)
    return pd.DataFrame(columns)
