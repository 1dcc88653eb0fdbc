"""Tables of scores: what is in them, means per gene, and which line is the model that the table is about."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import few
from stpredict.slots._people import among

if TYPE_CHECKING:
    import pandas as pd

#: Columns of a table of scores that print shows.
SHOWN_SCORES = (
    "model", "sample", "gene", "pearson", "pearson_given_depth", "pearson_residual", "deviance_explained", "ceiling", "leaky",
)  # fmt: skip
LOWER_IS_BETTER = frozenset(
    {"rmse", "rmse_iqr", "emd", "crps", "rvd_samples", "rvd_means", "energy_score", "correlation_distance"}
)
#: What genes are ranked by, the first that a table has: depth raises the others, for every gene alike.
RANKED_BY = ("pearson_given_depth", "pearson")


class RankedGenes(list[str]):
    """Names of genes, best first, that know how they were picked.

    Attributes
    ----------
    ranked_on
        Patients whose scores they were ranked by.
    metric, model
        The score, and whose.
    saw_shown
        Whether the models that were scored are known to have been trained on the patients shown.
    """

    def __init__(
        self, genes: Iterable[str], ranked_on: Iterable[str], metric: str, model: str, saw_shown: bool = False
    ) -> None:
        super().__init__(genes)
        self.ranked_on, self.metric, self.model, self.saw_shown = tuple(ranked_on), metric, model, saw_shown


def cross_validated(scores: pd.DataFrame) -> bool:
    """Whether a table says that it comes from a cross-validation: whoever is not tested by a model has trained it."""
    return "keys" in scores.attrs


def picked_on(genes: Any, patients: Iterable[Any]) -> bool:
    """Whether genes are known to have been ranked on one of these patients."""
    return isinstance(genes, RankedGenes) and bool(among(patients, genes.ranked_on).any())


def gene_means(scores: Any, column: str, by: Sequence[str]) -> Any:
    """Mean of a column of a score table per gene: over sections within a patient, then over patients.

    Returns a Series indexed by `by` and gene; NaN where no section has a value.
    """
    per_patient = scores.groupby([*by, "gene", "patient"], sort=False, observed=True)[column].mean()
    return per_patient.groupby(level=[*by, "gene"], sort=False, observed=True).mean()


def check_scores(scores: Any, columns: Sequence[str]) -> None:
    """Raise unless `scores` is a table of scores with these columns and at least one row."""
    import pandas as pd

    if not isinstance(scores, pd.DataFrame):
        raise TypeError(f"expected the table of stp.tl.evaluate; found {type(scores).__name__}")
    missing = [name for name in columns if name not in scores]
    if missing:
        raise KeyError(
            f"expected the columns {sorted(columns)}; missing {missing}; pass the table of stp.tl.evaluate or "
            "stp.tl.cross_validate"
        )
    if not len(scores):
        raise ValueError("expected at least one row of scores; found none")


def is_baseline(label: str) -> bool:
    """Whether a label of a score table names a line that every model should beat."""
    return label in {"mean", "color", "mean_gene", "nearest_gene", "permuted_rows"} or label.endswith(
        ("(smoothed)", "(permuted labels)", "(permuted table)", "(null genes)")
    )


def model_of(scores: pd.DataFrame, model: str | None, metric: str = "pearson") -> str:
    """The model asked for; when `None`, the one with the best mean that is not a baseline."""
    means = scores.groupby(scores["model"].astype(str), sort=False)[metric].mean()
    if model is not None:
        if model not in means.index:
            raise KeyError(f"expected a model among {sorted(means.index)}; found {model!r}")
        return model
    candidates = [name for name in means.index if not is_baseline(name)] or list(means.index)
    sign = -1 if metric in LOWER_IS_BETTER else 1
    return str((sign * means[candidates]).fillna(-np.inf).idxmax())


def metric_of(scores: pd.DataFrame, metric: str | None) -> str:
    """The score asked for; when `None`, the first one of those that carry no depth, or little."""
    if metric is not None:
        check_scores(scores, ["model", "sample", "patient", "gene", metric])
        return metric
    check_scores(scores, ["model", "sample", "patient", "gene"])
    found = next((name for name in RANKED_BY if name in scores and scores[name].notna().any()), None)
    if found is None:
        raise KeyError(f"expected one of {list(RANKED_BY)} with values; found {list(scores.columns)}; pass `metric=`")
    return found


def shown_rows(scores: pd.DataFrame, shown: Any) -> np.ndarray:
    """Mask of the rows of some patients, by value; an error where one is none of the table's, or no others are left."""
    names = [shown] if isinstance(shown, str | int | float) else list(shown)
    known = scores["patient"].astype(str).unique()
    strange = [str(name) for name, found in zip(names, among(names, known), strict=True) if not found]
    if strange or not names:
        raise KeyError(f"expected `shown` among the patients {few(known)}; found {few(strange) or 'none'}")
    rows = among(scores["patient"], names)
    if rows.all():
        raise ValueError(
            f"expected patients beside those shown, to rank the genes on; found {few(known)} only: genes picked on the patients "
            "that they are shown on look better than they are; show fewer patients, or leave `shown` out and say so"
        )
    return rows


def ranked_genes(
    scores: pd.DataFrame, n: int, shown: str | Sequence[str] | None, metric: str | None, model: str | None
) -> RankedGenes:
    """The best predicted genes, as :func:`stpredict.get.top_genes` says."""
    if n < 1:
        raise ValueError(f"expected n to be at least 1; found {n}")
    metric = metric_of(scores, metric)
    everyone = sorted(scores["patient"].astype(str).unique())
    crossed = shown is not None and cross_validated(scores)
    if crossed and len(everyone) == 2:
        raise ValueError(
            f"expected scores of three patients or more from a cross-validation; found {few(everyone)}: the model that is tested on "
            "one was trained on the other, so that both scores are one comparison, and ranking on one picks on the other; rank "
            "by the patient who is not shown alone: stp.tl.predictability(adata[adata.obs['patient'] == …].copy())"
        )
    there = np.ones(len(scores), dtype=bool) if shown is None else shown_rows(scores, shown)
    ranking = scores if shown is None else scores[~there]
    model = model_of(ranking, model, metric)
    ranking = ranking[ranking["model"].astype(str) == model]
    # The fold of those shown may have selected other genes: these were not predicted there.
    predicted_there = scores["gene"][there & (scores["model"].astype(str) == model).to_numpy()]
    ranking = ranking[ranking["gene"].isin(predicted_there)]
    means = gene_means(ranking, metric, ["model"]).droplevel(0).dropna()
    order = means.sort_values(ascending=metric in LOWER_IS_BETTER, kind="stable").index[:n]
    return RankedGenes(map(str, order), map(str, ranking["patient"].unique()), metric, model, saw_shown=crossed)
