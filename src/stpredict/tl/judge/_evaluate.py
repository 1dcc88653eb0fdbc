"""Score predictions against what was measured, per gene and section, beside baselines and the noise ceiling."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts import Cohort
from stpredict.core._compact import compact
from stpredict.core._engine import check_client
from stpredict.core._progress import ticks
from stpredict.core._validate import check_choice, few
from stpredict.slots._baselines import Baselines
from stpredict.slots._checks import check_patients
from stpredict.slots._container import get_table
from stpredict.slots._expression import in_tissue
from stpredict.slots._keys import Key
from stpredict.slots._marks import leak_marks
from stpredict.slots._parts import scored_parts
from stpredict.slots._people import one_name
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._score_tables import SHOWN_SCORES
from stpredict.slots._truth import Truth, truth_of
from stpredict.slots._unit import group_keys, unit_of
from stpredict.tl.judge._depth_free import DEPTH_FREE
from stpredict.tl.judge._distribution import DISTRIBUTION, scored_metrics
from stpredict.tl.judge._habits import check_habits
from stpredict.tl.judge._lines import lines_of
from stpredict.tl.judge._part_scores import WITH_BACKGROUND, Asked
from stpredict.tl.judge._pooled import OF_GENES, score_genes, score_patients
from stpredict.tl.judge._section_facts import check_maps, lattice_positions, read_given
from stpredict.tl.judge._section_scores import NothingMeasuredError, score_sections
from stpredict.tl.judge._sent_parts import score_parts

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.slots._container import Container

DEFAULT_METRICS = (
    "pearson", "pearson_given_depth", *DEPTH_FREE, "spearman", "rmse", "rmse_iqr", "variance_ratio", "ssim", "emd",
    *DISTRIBUTION,
)  # fmt: skip
KNOWN_METRICS = (*DEFAULT_METRICS, WITH_BACKGROUND, *OF_GENES)


def evaluate(
    data: Container | Cohort,
    key: str | Sequence[str] = Key.PREDICTED,
    *,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    ceiling: bool = True,
    baselines: Baselines = True,
    habits: Sequence[str] = (),
    given: Sequence[str] = (),
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    seed: int = 0,
    client: Any = None,
    progress: bool | None = None,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Score predictions per gene and section.

    Three scores leave depth out: `pearson_residual`, `deviance_explained` and `pearson_given_depth`. Read these first: genes
    without any biology reach correlations with log1p values as high as many systems that were published, by depth alone.

    Scores are taken over in-tissue observations within one section, so that differences between slides do not raise a
    score. A correlation that is undefined (a constant gene, a section with one spot) stays `NaN`;
    :func:`stpredict.tl.summarize` leaves it out and counts it.

    Where every observation is a slide, patients are compared with each other: slides are averaged within their patient,
    there is one score per gene, and the metrics of maps and the noise ceiling are left out. Where every observation is a gene,
    scores are taken over the genes of each fold (over all of them, where one model predicted them), for each condition that
    was predicted: correlations, errors, and `"r2"`, the share of the variance that is explained, see
    :func:`stpredict.metrics.r2`; `sample` and `patient` then name the chromosomes of the fold.
    :func:`stpredict.tl.well_predicted` tests which genes are predicted better than by chance.

    Parameters
    ----------
    data
        AnnData or SpatialData with predictions and normalized measured expression; for predictions of values, with these
        values where the model found its own: the record of the prediction says where. Sections of a :class:`stpredict.Cohort`
        are scored one after the other.
    key
        Slot of the predictions in `obsm`, or several to compare.
    genes
        Genes to score; those of each prediction when `None`.
    layer
        Layer with the measured target instead of `X`.
    metrics
        Scores to compute, among `"pearson"`, `"pearson_given_depth"` (after regressing the logarithm of the spot's
        total counts out of both sides: what is predicted beyond depth; needs `layers["counts"]`), `"pearson_residual"`
        (correlation of the predicted rate with the Pearson residuals of the counts), `"deviance_explained"` (share of the
        Poisson deviance of the counts that the predicted rates explain beyond the constant proportion of the section,
        with the depth as offset, see :func:`stpredict.metrics.deviance_explained`), `"spearman"`,
        `"rmse"`, `"rmse_iqr"` (RMSE over the interquartile range of the truth), `"variance_ratio"` (predicted over
        measured), `"ssim"` (structural similarity :cite:p:`wang2004` of the maps on the array, over tissue; `NaN` in
        sections without a lattice in `obs["array_row"]` and `obs["array_col"]`) and `"emd"` (earth mover's distance of
        percentile maps, sliced in 12 directions). Where a prediction has samples (`n_samples` of :func:`stpredict.tl.predict`),
        also `"crps"`, `"coverage_90"`, `"rvd_samples"`, `"rvd_means"`, `"energy_score"` and `"correlation_distance"`, see the
        notes; without any they are left out. Only on request `"pearson_with_background"`, the published correlation of dense maps
        with the empty slide counted as zeros :cite:p:`li2026`: a prediction that is constant on tissue scores high on
        it, see :func:`stpredict.metrics.pearson_with_background`; needs the grid of :func:`stpredict.pp.grid`, whose
        sides are rounded up to multiples of 16 as published, and is `NaN` without.
    ceiling
        Whether to add the noise ceiling of each gene and section, the correlation that a perfect model would reach
        given the counting noise, and those of the other two scales (`residual_ceiling`, `deviance_ceiling`); needs
        `layers["counts"]`. `NaN` for values, whose noise nobody knows.
    baselines
        Names of the baselines to add: those that :func:`stpredict.tl.predict` wrote beside the prediction, and
        `"smoothed"`, a spatial smoother: the ridge (the first prediction where there is no ridge) averaged over its six
        nearest neighbors. All of them for `True`, none for `False`.
    habits
        Published habits, for a column `pearson_as_published` beside the scores: a correlation for comparison with numbers
        that were made so, and with nothing else. `"panel"`: log1p of counts per 10,000 of the predicted genes; `"smoothed"`:
        measured values averaged over 3 × 3 spots (:func:`stpredict.pp.published_target` writes that target to train on it as
        well); `"ranked"`: only the 50 genes that come out best in each section; `"background"`: the empty slide counts as
        zeros, which needs the grid of :func:`stpredict.pp.grid`.
    given
        Columns of `obs` with numbers, such as the density of nuclei, for a score `pearson_given`: the correlation after
        regressing these out of both sides, and the depth, where there are counts (a quadratic in each). What remains is
        predicted beyond how many cells and counts there are. It is taken over the observations that have a number.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    seed
        Random seed for the noise ceiling and the projections of the earth mover's distance.
    client
        A `dask.distributed.Client`, or the address of a scheduler, whose workers score a section (or a held-out block of one)
        each at a time; they open the sections of a cohort themselves, under the same paths. Slides and genes are scored
        together, and so here.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Table with one row per model, section and gene: `model`, `sample`, `patient`, `gene`, the metrics, `ceiling` (on the
    scale of `pearson`), `residual_ceiling`, `deviance_ceiling`,
    `n_obs`, `leaky` (`True` where the model saw this patient, `"unknown"` where a prediction has lost the record of that,
    `"within section"` where it saw the rest of the section, behind a buffer: then every block that was held out has rows of
    its own, and a column `block` names it);
    with `given` `pearson_given`, and `given`, which names what was given (`"depth, density"`);
    with `habits` `pearson_as_published`, and `habits`, which says how (`"smoothed, panel-normalized target: for comparison
    only"`);
    with `layer` a column `layer`, for values a column `target` (their slot; `gene` are their names), and with `genes` a column
    `chosen_genes` (`"12 of 50"`), so that a truth of one's own and genes picked afterwards stay visible, here and in
    :func:`stpredict.tl.summarize`.
    Nothing is written to `data`.

    Notes
    -----
    For `pearson_residual` and `deviance_explained` every prediction becomes a rate per count, whatever was predicted: a
    mean log1p value and a mean residual each belong to one rate at the depths that the model was trained on.
    The level of each gene is then that of the section, as it is for the constant proportion that the score compares
    with, and no rate is more than 10 times lower or higher than it. Predictions of other units (a layer of one's own,
    values that scanpy normalized) have `NaN` there. Rates, of a model of counts, are put on the scale of `X` for the
    other scores.

    Scores of distributions, lower is better but for the coverage: `crps` is the distance between the samples and the measured
    value (:func:`stpredict.metrics.crps`, in the fair version; of a prediction without samples the absolute error, which it is
    for a single value, so that all lines compare); `coverage_90` the share of measured values within the central 90 % of the
    samples; `rvd_samples` and `rvd_means` the relative variance distance (:func:`stpredict.metrics.relative_variance_distance`)
    of the samples and of the prediction, their mean; `energy_score` (:func:`stpredict.metrics.energy_score`) that of all genes
    together, the same number for every gene of a section; `correlation_distance` how far the correlations with other genes are
    from the measured ones (:func:`stpredict.metrics.correlation_distance`), of the samples where there are some.

    Raises
    ------
    KeyError
        When there is no prediction, no measured value, no record of the normalization (without `layer`), or a gene,
        section or patient is missing.
    ValueError
        When predictions of different targets are to be compared, or a layer is named for values; when a metric is unknown,
        a gene is named twice, or a section belongs to several patients; or when the genes of the prediction are not known.
    TypeError
        When `data` is neither AnnData nor SpatialData, or `client` is no client.

    Warns
    -----
    UserWarning
        When `"ssim"` is undefined because sections have no lattice.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> model = stp.tl.fit(adata, train=adata.obs["patient"] == "P1")
    >>> stp.tl.predict(adata, model)
    >>> scores = stp.tl.evaluate(adata[adata.obs["patient"] == "P2"].copy())
    """
    check_client(client)
    if isinstance(data, Cohort):
        return score_sections(evaluate, locals())
    import pandas as pd

    keys = [key] if isinstance(key, str) else list(key)
    adata = get_table(data, table_key, *keys)
    for metric in metrics:
        check_choice(metric, KNOWN_METRICS, "metrics")
    habits = check_habits(habits)
    frames = {name: prediction_frame(adata, name) for name in keys}
    sample_key, patient_key = group_keys(adata, sample_key, patient_key)
    check_patients(adata, sample_key, patient_key)
    known_of = read_given(adata, given)
    target = truth_of(adata, keys, layer)
    if habits and not target.is_expression:
        raise ValueError(
            f"expected no habits for values, which have no counts; found {', '.join(habits)}; leave them out"
        )
    measured = target.measured
    models = lines_of(adata, frames, baselines, patient_key)
    metrics = scored_metrics(metrics, models)
    known = {gene for line in models.values() for gene in line.frame.columns} & set(target.names)
    scored_genes = sorted(known)
    if genes is not None:
        target.check(genes)
        absent = [gene for gene in genes if gene not in known]
        if absent:
            raise KeyError(
                f"expected predictions of every gene asked for; missing {', '.join(absent[:5])} ({len(absent)} in all); "
                "take genes among the columns of the prediction"
            )
        scored_genes = list(genes)
    if not scored_genes:
        raise KeyError(f"expected what was predicted among what was measured, {target.where}; found nothing in common")
    sample = adata.obs[sample_key].astype(str).to_numpy()
    people = one_name(adata.obs[patient_key])
    if (unit := unit_of(adata)) != "observation":
        check_maps(adata, habits=habits, given=given)
        truth = target.read(scored_genes)
        if unit == "gene":
            table = score_genes(adata, models, truth, scored_genes, measured, metrics)
        else:
            table = score_patients(models, truth, scored_genes, people, measured, metrics)
        return _with_choices(table, target, genes, len(known))
    tissue = in_tissue(adata)
    has_ceiling = not target.is_expression or (Key.COUNTS in adata.layers and layer is None)
    asked = Asked(metrics, ceiling and has_ceiling, habits, sorted(known), known_of, seed, sample_key)
    tables, off_lattice = [], []
    parts = scored_parts(adata, {key: leak_marks(adata, key, patient_key) for key in keys}, sample)
    in_blocks = any(part.block for part in parts)
    scored = [(part, rows) for part in parts if len(rows := np.flatnonzero(part.rows & tissue & measured))]
    n_steps = len(models) * sum(len(asked.blocks(len(rows), scored_genes)) for _, rows in scored)
    with ticks(n_steps, "evaluate", "step", progress) as step:
        scores = score_parts(scored, adata, scored_genes, target, models, asked, step, client)
        for (part, rows), of_part in zip(scored, scores, strict=True):
            name = str(part.sample)
            if "ssim" in metrics and lattice_positions(adata, rows) is None:
                off_lattice.append(part.block or name)
            for label, table in of_part.items():
                for column, value in (("patient", str(people[rows[0]])), ("sample", name), ("model", label)):
                    table.insert(0, column, value)
                if in_blocks:
                    table.insert(list(table.columns).index("n_obs"), "block", part.block)
                tables.append(table)
    if not tables:
        raise NothingMeasuredError("expected measured expression of at least one predicted section; found none")
    if off_lattice:
        warnings.warn(
            f"ssim is undefined (NaN) in {len(off_lattice)} sections, whose obs[{Key.ARRAY_ROW!r}] and "
            f"obs[{Key.ARRAY_COL!r}] are no lattice with one observation per position: {few(off_lattice)}",
            stacklevel=2,
        )
    return _with_choices(pd.concat(tables, ignore_index=True), target, genes, len(known))


def _with_choices(table: pd.DataFrame, target: Truth, genes: Sequence[str] | None, n_known: int) -> pd.DataFrame:
    """Write into a table what was chosen to be scored: another truth than `X`, and some of the predicted genes."""
    if target.layer is not None:
        table["layer"] = target.layer
    if not target.is_expression:
        table["target"] = target.where
    if genes is not None:
        table["chosen_genes"] = f"{len(genes)} of {n_known}"
    return compact(table, SHOWN_SCORES, move=False)
