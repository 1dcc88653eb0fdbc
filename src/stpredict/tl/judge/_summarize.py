"""Condense a table of scores: over genes, then sections, then patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._marks import table_mark
from stpredict.tl.judge._distribution import DISTRIBUTION
from stpredict.tl.judge._pooled import OF_GENES, POOLED

if TYPE_CHECKING:
    import pandas as pd


_SHOWN = (
    "pearson", "low", "high", "r_over_ceiling", "pearson_given_depth", "pearson_given", "pearson_residual", "deviance_explained", "leaky", "n_patients", "n_undefined",
)  # fmt: skip
STRATUM = "stratum"
#: Lower bounds of the strata of the noise ceiling.
STRATA = ("above .8", ".6 to .8", ".4 to .6", "below .4", "unknown")


def summarize(
    scores: pd.DataFrame, *, by: Sequence[str] = ("model",), level: float = 0.95, n_boot: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Average the scores of :func:`stpredict.tl.evaluate` over genes, then over sections (or blocks), then over patients.

    Parameters
    ----------
    scores
        Table of :func:`stpredict.tl.evaluate`, one row per model, section and gene.
    by
        Columns that define the groups, each of which gets a row. `"stratum"` groups genes by their noise ceiling, pooled over
        sections and patients: above .8, .6 to .8, .4 to .6, below .4. A low score in the last says that there is little to
        predict, and a low one in the first that it was not predicted.
    level
        Level of the bootstrap interval :cite:p:`efron1993` of the mean correlation.
    n_boot
        Number of bootstrap samples.
    seed
        Random seed for the bootstrap.

    Returns
    -------
    Table with one row per group, sorted by correlation; print shows the columns that matter most. It has the columns

    - `by`, and `pearson`, the mean correlation, with the bounds `low` and `high` of its interval, over `interval_over`:
      `"patients"`, `"sections"` where there is one patient, `"blocks"` where blocks of the sections of one patient were held
      out, or `"none"` for slides, which are compared across patients and have no interval;
    - `ceiling`, the mean noise ceiling, and `r_over_ceiling`, the mean correlation over the mean noise ceiling of the
      same genes, where the table has the ceiling;
    - the means of the other metrics in the table, of `residual_ceiling` and of `deviance_ceiling`;
    - `n_undefined_deviance`, the number of scores whose deviance explained is undefined and left out, where the table has it;
    - `n_scores`, and `n_undefined`, the number of them whose correlation is undefined and left out;
    - `n_genes`, `n_sections`, `n_patients`, with blocks `n_blocks`, and `leaky` (`True` where one row is, else `"unknown"` where
      one row is, and without that column, else `"within section"` where one row is).

    Raises
    ------
    KeyError
        When the table lacks the columns of :func:`stpredict.tl.evaluate`.
    ValueError
        When `level` or `n_boot` is out of range.

    Examples
    --------
    >>> import pandas as pd, stpredict as stp
    >>> scores = pd.DataFrame({"model": "ridge", "sample": list("aabb"), "patient": list("ppqq"), "gene": list("GHGH")})
    >>> scores["pearson"] = [0.1, 0.3, 0.5, 0.7]
    >>> stp.tl.summarize(scores)[["model", "pearson", "n_patients"]].round(2).values.tolist()
    [['ridge', 0.4, 2]]
    """
    import pandas as pd

    from stpredict.core._table import compact
    from stpredict.metrics import bootstrap_mean

    by = [by] if isinstance(by, str) else list(by)
    if STRATUM in by and STRATUM not in scores and "ceiling" in scores:
        scores = scores.assign(**{STRATUM: strata(scores)})
    expected = {"sample", "patient", "gene", "pearson", *by}
    if not expected <= set(scores.columns):
        raise KeyError(
            f"expected the columns {sorted(expected)}; found {list(scores.columns)}; pass the table of stp.tl.evaluate"
        )
    values = [
        c
        for c in (
            "pearson_given_depth",
            "pearson_given",
            "pearson_residual",
            "residual_ceiling",
            "deviance_explained",
            "deviance_ceiling",
            "pearson_with_background",
            "pearson_as_published",
            "spearman",
            "rmse",
            "rmse_iqr",
            "variance_ratio",
            "ssim",
            "emd",
            *OF_GENES,
            *DISTRIBUTION,
        )  # fmt: skip
        if c in scores
    ]
    rows = []
    for name, table in scores.groupby(by, sort=False, observed=True):
        defined = table["pearson"].notna()
        blocks = "block" in table and bool(table["block"].fillna("").astype(bool).any())
        units = ["patient", "sample", "block"] if blocks else ["patient", "sample"]
        if blocks:  # beside whole sections of other predictions
            table = table.assign(block=table["block"].fillna(""))
        groups = table.groupby(units)
        r = groups["pearson"].mean()
        patients = r.index.get_level_values("patient").to_numpy()
        single = len(set(patients)) == 1
        over = "blocks" if blocks else "sections"
        people = "folds of genes" if "unit" in table else "patients"
        keep = r.notna().to_numpy()
        pooled = set(patients) == {POOLED}  # a score across patients: one number per gene, nothing to draw from
        interval: tuple[Any, Any, Any] = (r.mean(), np.nan, np.nan)
        if keep.any() and not pooled:
            interval = bootstrap_mean(
                r.to_numpy()[keep], None if single else patients[keep], n_boot=n_boot, level=level, seed=seed
            )
        row: dict[str, Any] = dict(zip(by, name, strict=True))
        row |= dict(zip(("pearson", "low", "high"), map(float, interval), strict=True))
        if "ceiling" in table:
            complete = table[defined & table["ceiling"].notna()]
            row["ceiling"] = top = pooled_ceiling(complete)
            reached = complete.groupby(units)["pearson"].mean().groupby("patient").mean().mean()
            row["r_over_ceiling"] = reached / top if top > 0 else np.nan
        per_section = groups[values].mean()
        means = per_section.groupby("patient").mean().mean()
        row |= dict(zip(values, means.to_numpy(), strict=True))
        if "deviance_explained" in table:
            row["n_undefined_deviance"] = int(table["deviance_explained"].isna().sum())
        row |= {
            "n_undefined": int((~defined).sum()),
            "n_scores": len(table),
            "n_genes": table["gene"].nunique(),
            "n_sections": table["sample"].nunique(),
            **({"n_blocks": len(r)} if blocks else {}),
            "n_patients": int(table["n_obs"].max()) if pooled else table["patient"].nunique(),
            "interval_over": "none" if pooled else over if single else people,
            "leaky": table_mark(table),
        }
        row |= {
            name: ", ".join(sorted(set(table[name].astype(str))))
            for name in ("layer", "target", "chosen_genes", "habits", "given")
            if name in table
        }
        rows.append(row)
    found = pd.DataFrame(rows).sort_values("pearson", ascending=False, na_position="last", ignore_index=True)
    # An interval over anything but patients must be seen to be one.
    beside = [] if set(found["interval_over"]) <= {"patients"} else ["interval_over"]
    return compact(found, [*by, *_SHOWN[:3], *beside, *_SHOWN[3:]])


def strata(scores: pd.DataFrame) -> pd.Categorical:
    """Stratum of the noise ceiling of the gene of each row; one for a gene, whatever the model and the section."""
    import pandas as pd

    units = ["sample", "patient", "gene", *(["block"] if "block" in scores else [])]
    once = scores.drop_duplicates(units)
    reliability = once["ceiling"] * once["ceiling"].abs()
    per_gene = reliability.groupby([once["gene"], once["patient"]]).mean().groupby("gene").mean()
    reached = per_gene.to_numpy(dtype=np.float64)
    ceiling = np.sign(reached) * np.sqrt(np.abs(reached))
    place = np.where(np.isnan(ceiling), 4, 3 - np.searchsorted(np.array([0.4, 0.6, 0.8]), np.nan_to_num(ceiling)))
    at = pd.Index(per_gene.index).get_indexer(pd.Index(scores["gene"]))
    return pd.Categorical(np.array(STRATA)[place[at]], categories=list(STRATA), ordered=True)


def pooled_ceiling(scores: pd.DataFrame) -> float:
    """Mean noise ceiling over genes, each pooled over its sections.

    The ceiling is the root of a reliability, and the root of a noisy number is too small on average: reliabilities are
    averaged over the sections of a gene before the root is taken.
    """
    if not len(scores):
        return float("nan")
    reliability = scores["ceiling"] * scores["ceiling"].abs()
    per_patient = reliability.groupby([scores["gene"], scores["patient"]]).mean()
    per_gene = per_patient.groupby("gene").mean()
    return float((np.sign(per_gene) * np.sqrt(per_gene.abs())).mean())
