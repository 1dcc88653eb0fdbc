"""The best predicted genes, ranked on other patients than those shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._validate import check_unique, few
from stpredict.get import top_genes
from stpredict.metrics._bootstrap import bootstrap_mean
from stpredict.pl._finished import finished
from stpredict.pl._metric_names import metric_name
from stpredict.pl._style import BLUE, GRAY, INK, ORANGE, one_panel, style
from stpredict.slots._marks import joint_mark, mark_words
from stpredict.slots._score_tables import RankedGenes, gene_means, metric_of, model_of, picked_on, shown_rows

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_CEILING_OF = {"pearson": "ceiling", "pearson_given_depth": "ceiling", "deviance_explained": "deviance_ceiling"}


@finished
def rank_genes(
    scores: pd.DataFrame,
    genes: Sequence[str] | None = None,
    *,
    n_genes: int = 20,
    shown: str | Sequence[str] | None = None,
    metric: str | None = None,
    model: str | None = None,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
    ax: Axes | None = None,
) -> Axes:
    """Draw the scores of the best predicted genes with bootstrap intervals over patients, beside their noise ceilings.

    With `shown`, genes are ranked on the other patients and their scores are those of the patients shown: what a reader sees
    was not picked. Without it they are ranked and shown on the same patients, and the title says so.

    Parameters
    ----------
    scores
        Table of :func:`stpredict.tl.evaluate` or :func:`stpredict.tl.cross_validate`.
    genes
        Genes to draw, such as those of :func:`stpredict.get.top_genes`; by default the `n_genes` best.
    n_genes
        Number of genes when `genes` is `None`.
    shown
        Patients whose scores are drawn; all of them when `None`.
    metric
        Score; when `None`, `"pearson_given_depth"`, or `"pearson"` where the table has no other.
    model
        Model; when `None`, the one with the best mean, over the patients that rank, that is not a baseline.
    level, n_boot, seed
        Level, number of samples and random seed of the bootstrap :cite:p:`efron1993`.
    ax
        Axes to draw into; those of a new figure by default.

    Returns
    -------
    The axes, the gene that ranks first on top. The blue point is the mean over sections, then over patients; the line its
    interval, over patients, or over sections where one patient is shown; gray points are patients, or the
    sections of one; the orange mark is the noise ceiling, where the table has the one of the score.

    Raises
    ------
    KeyError
        When the table lacks a column, the model, a gene, or a patient of `shown`.
    TypeError
        When `scores` is no table.
    ValueError
        When nobody is left to rank on, a gene is named twice, or a number is out of range.

    Examples
    --------
    >>> import pandas as pd, stpredict as stp
    >>> scores = pd.DataFrame({"model": "ridge", "sample": list("aabb"), "patient": list("ppqq"), "gene": list("GHGH")})
    >>> scores["pearson"] = [0.1, 0.3, 0.7, 0.5]
    >>> ax = stp.pl.rank_genes(scores, shown="q")
    >>> [label.get_text() for label in ax.get_yticklabels()]
    ['H', 'G']
    """
    metric = metric_of(scores, metric)
    drawn = scores if shown is None else scores[shown_rows(scores, shown)]
    if genes is None:
        genes = top_genes(scores, n_genes, shown=shown, metric=metric, model=model)
    if isinstance(genes, RankedGenes):
        model = model or genes.model
    model = model_of(drawn, model, metric)
    table = drawn[drawn["model"].astype(str) == model]
    names = [genes] if isinstance(genes, str) else [str(gene) for gene in genes]
    check_unique(names, "genes")
    unknown = sorted(set(names) - set(table["gene"]))
    if unknown or not names:
        raise KeyError(
            f"expected genes with scores of model {model!r}; found none of {few(unknown) or 'an empty list'}"
        )
    patients = sorted(table["patient"].astype(str).unique())
    unit = "sections" if len(patients) == 1 else "patients"
    one = (
        table.groupby(["patient", "sample", "gene"], observed=True)[metric]
        .mean()
        .unstack("gene")
        .reindex(columns=names)
    )
    person = one.index.get_level_values("patient").astype(str).to_numpy()
    mean, low, high = bootstrap_mean(
        one.to_numpy(), None if unit == "sections" else person, n_boot=n_boot, level=level, seed=seed
    )
    points = one.to_numpy() if unit == "sections" else one.groupby(person).mean().to_numpy()

    words = "one section" if len(points) == 1 else f"mean, {level:.0%} interval\nover {unit}"
    with style():
        ax = one_panel(ax, 4.8, max(1.6, 0.19 * len(names) + 0.9))
        place = np.arange(len(names))
        ax.axvline(0, color=INK, lw=0.6, zorder=0)
        ax.plot(
            points.T,
            place[:, None].repeat(len(points), axis=1),
            ls="",
            marker="o",
            ms=2.8,
            color=GRAY,
            mew=0,
            alpha=0.8,
        )
        ax.hlines(place, low, high, color=BLUE, lw=1.4)
        (dots,) = ax.plot(mean, place, ls="", marker="o", ms=5, color=BLUE, label=words)
        handles = [dots]
        top = _CEILING_OF.get(metric, "")
        if top in table and table[top].notna().any():
            limit = gene_means(table, top, ["model"]).droplevel(0).reindex(names)
            handles += ax.plot(limit, place, ls="", marker="|", ms=8, mew=1.6, color=ORANGE, label="noise ceiling")
        ax.set_yticks(place, names, fontstyle="italic")
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.tick_params(axis="y", length=0)
        ax.set_xlabel(metric_name(metric))
        leaky = mark_words(joint_mark(table["leaky"])) if "leaky" in table else ""
        ax.set_title(f"{model}{f' ({leaky})' if leaky else ''}\n{_origin(genes, patients)}", loc="left")
        ax.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), borderaxespad=0.3, handletextpad=0.4)
    return ax


def _origin(genes: Sequence[str], patients: Sequence[str]) -> str:
    """On whom genes were ranked, and on whom they are shown."""
    there = f"shown on {few(patients, 3)}"
    if not isinstance(genes, RankedGenes):
        return there
    if picked_on(genes, patients):
        return "picked on the patients shown: too good"
    saw = " by models that saw those shown" if genes.saw_shown else ""
    return f"ranked on {few(sorted(genes.ranked_on), 3)}{saw},{chr(10) if saw else ' '}{there}"
