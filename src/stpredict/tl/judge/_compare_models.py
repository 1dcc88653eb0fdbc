"""Which of two models is better: differences of their scores, paired over patients."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._validate import check_choice
from stpredict.slots._score_tables import LOWER_IS_BETTER, check_scores
from stpredict.tl.judge._paired_scores import Scores, paired_scores
from stpredict.tl.judge._pooled import POOLED

if TYPE_CHECKING:
    import pandas as pd

_SHOWN = ("model", "reference", "difference", "low", "high", "p_adjusted", "better", "n_units", "over", "leaky", "score", "reference_score")  # fmt: skip
_FEWEST = 3  # pairs from which on a test says something


def compare_models(
    scores: pd.DataFrame,
    *,
    metric: str = "pearson",
    reference: str | None = None,
    by: str = "model",
    test: Literal["t", "wilcoxon"] = "t",
    correction: str = "holm",
    alpha: float = 0.05,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare models by scores of the same genes in the same sections, paired over patients.

    A patient has one number for a pair of models: the mean over sections of the mean over genes of the difference of their
    scores, over genes that both have a score for. The test asks whether these numbers are 0 on average; thousands of genes and spots of three patients are
    three numbers, and no test makes more of them.

    Parameters
    ----------
    scores
        Table of :func:`stpredict.tl.cross_validate` or :func:`stpredict.tl.evaluate`, one row per model, section and gene.
    metric
        Column with the score.
    reference
        Value of `by` that the others are compared with; every pair when `None`.
    by
        Column that names what is compared.
    test
        `"t"`: paired t-test. `"wilcoxon"`: signed ranks, which cannot reach .05 with fewer than six patients.
    correction
        How p-values are adjusted for the number of comparisons, a method of :func:`pingouin.multicomp`: `"holm"`,
        `"bonf"`, `"fdr_bh"`, … or `"none"`.
    alpha
        Level of the adjusted p-value below which `better` names a model.
    level
        Level of the intervals.
    n_boot, seed
        Resamples of patients for the interval of the difference, and their random seed.

    Returns
    -------
    One row per pair, largest difference first, `model` minus `reference`; without a reference the one with the better mean is `model`:

    - `score`, `reference_score`: means over genes, sections, patients, of what is compared;
    - `difference`, with the percentile interval `low` to `high` over resampled patients :cite:p:`efron1993`;
    - `effect`, the difference in standard deviations over patients (Cohen's d of the pairs), with the interval `effect_low`
      to `effect_high` of a noncentral t distribution;
    - `p`, and `p_adjusted` for all rows; `NaN` with fewer than three units, where `better` is empty;
    - `better`: the model with the better score where `p_adjusted` is below `alpha`, else empty;
    - `genes_better`: the share of genes whose mean difference speaks for `model`;
    - `n_genes`, `n_scores` (pairs of scores), `n_undefined` (pairs left out), `n_units`, and what they are, `over`: `"patients"`;
      `"blocks"` or `"sections"` where there is one patient, which says nothing of others; and `leaky`.

    Raises
    ------
    KeyError
        When a column or the reference is missing.
    TypeError
        When `scores` is no table.
    ValueError
        When there is one model only, scores are across patients (slides have no score for each patient), a score of a model
        appears twice, or an option is out of range.

    Examples
    --------
    >>> import pandas as pd, stpredict as stp
    >>> scores = pd.DataFrame({"sample": list("abcd") * 2, "patient": list("pqrs") * 2, "gene": "G"})
    >>> scores["model"], scores["pearson"] = ["net"] * 4 + ["ridge"] * 4, [0.5, 0.4, 0.6, 0.5, 0.3, 0.1, 0.4, 0.3]
    >>> table = stp.tl.compare_models(scores)
    >>> table[["model", "reference", "difference", "p_adjusted", "better"]].round(3).values.tolist()
    [['net', 'ridge', 0.225, 0.003, 'net']]
    """
    import pandas as pd
    from pingouin import multicomp

    from stpredict.core._table import compact

    check_scores(scores, ["sample", "patient", "gene", metric, by])
    check_choice(test, ("t", "wilcoxon"), "test")
    units = ["patient", "sample"]
    if "block" in scores and bool(scores["block"].fillna("").astype(bool).any()):
        units.append("block")
        scores = scores.assign(block=scores["block"].fillna(""))
    if set(scores["patient"].unique()) == {POOLED}:
        raise ValueError(
            "expected scores within sections; found scores across patients, of which a patient has none; compare genes "
            "with stp.tl.well_predicted"
        )
    known = paired_scores(scores, metric, by, units)
    if len(known.values) < 2:
        raise ValueError(f"expected at least two values of {by!r} to compare; found {list(known.values)}")
    if reference is not None and reference not in known.values:
        raise KeyError(f"expected `reference` among {list(known.values)}; found {reference!r}")
    marks = known.marks
    sign = -1 if metric in LOWER_IS_BETTER else 1
    rows = [
        {"model": name, "reference": other}
        | _pair(known, name, other, sign, test, level, n_boot, seed)
        | {"leaky": marks[name] if marks[name] is True or not marks[other] else marks[other]}
        for name, other in _pairs(known, reference, sign)
    ]
    table = pd.DataFrame(rows)
    tested = table["p"].notna()
    table["p_adjusted"] = np.nan
    if tested.any():
        _, adjusted = multicomp(table.loc[tested, "p"].to_numpy(), alpha=alpha, method=correction)
        table.loc[tested, "p_adjusted"] = adjusted
    ahead = np.where(sign * table["difference"] > 0, table["model"], table["reference"])
    table["better"] = np.where(table["p_adjusted"] < alpha, ahead, "")
    table = table.sort_values("difference", ascending=False, ignore_index=True)
    columns = ["model", "reference", "score", "reference_score", "difference", "low", "high", "effect", "effect_low", "effect_high",
               "p", "p_adjusted", "better", "genes_better", "n_genes", "n_scores", "n_undefined", "n_units", "over", "leaky"]  # fmt: skip
    table = table[columns]
    table = compact(table, list(_SHOWN))
    table.attrs |= {"metric": metric, "alpha": alpha, "level": level, "correction": correction, "test": test}
    return table


def _pairs(known: Scores, reference: str | None, sign: int) -> list[tuple[Any, Any]]:
    """Every model beside the reference, or all pairs, the one with the better mean first."""
    if reference is not None:
        return [(name, reference) for name in known.values if name != reference]
    means = {name: sign * _mean(known.unit_means(values)[0]) for name, values in known.values.items()}
    return list(combinations(sorted(means, key=lambda name: -np.nan_to_num(means[name], nan=-np.inf)), 2))


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _pair(
    known: Scores, name: Any, other: Any, sign: int, test: str, level: float, n_boot: int, seed: int
) -> dict[str, Any]:
    from pingouin import ttest, wilcoxon

    from stpredict.metrics import bootstrap_mean

    one, two = known.values[name], known.values[other]
    difference = one - two
    both = np.isfinite(difference)
    values, over = known.unit_means(difference)
    n = len(values)
    mean, low, high = map(float, bootstrap_mean(values, n_boot=n_boot, level=level, seed=seed)) if n else (np.nan,) * 3
    effect = effect_low = effect_high = p = np.nan
    spread = float(values.std(ddof=1)) if n > 1 else 0.0
    # Differences that are equal but for rounding have no spread to test against.
    if n >= _FEWEST and spread > 1e-12 * float(np.abs(values).max()):
        effect = mean / spread
        effect_low, effect_high = _effect_interval(effect, n, level)
        found = ttest(values, 0.0) if test == "t" else wilcoxon(values)
        p = float(found[next(name for name in found if str(name).startswith("p"))].iloc[0])
    by_gene = known.gene_means(difference)
    score, reference_score = (_mean(known.unit_means(np.where(both, side, np.nan))[0]) for side in (one, two))
    return {
        "score": score, "reference_score": reference_score,
        "difference": mean, "low": low, "high": high, "effect": effect, "effect_low": effect_low, "effect_high": effect_high,
        "p": p, "genes_better": _mean((sign * by_gene > 0).astype(float)), "n_genes": len(by_gene), "n_scores": int(both.sum()),
        "n_undefined": known.n_places - int(both.sum()), "n_units": n, "over": over,
    }  # fmt: skip


def _effect_interval(effect: float, n: int, level: float) -> tuple[float, float]:
    """Interval of Cohen's d of n differences, from the noncentral t distribution."""
    from scipy.optimize import brentq
    from scipy.stats import nct

    t, root = effect * np.sqrt(n), np.sqrt(n)
    reach = 10 * (abs(t) + 3)

    def below(center: float, tail: float) -> float:
        share = nct.cdf(t, n - 1, center)  # undefined far out, where nothing or everything lies below
        return float(share if np.isfinite(share) else center < t) - tail

    def at(tail: float) -> float:
        return float(brentq(below, t - reach, t + reach, args=(tail,))) / root

    return at((1 + level) / 2), at((1 - level) / 2)
