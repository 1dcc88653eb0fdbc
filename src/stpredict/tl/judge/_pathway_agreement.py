"""Whether pathways are where the prediction says, beyond what any genes of the same expression would give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._compact import compact
from stpredict.core._gene_sets import GeneSets, membership
from stpredict.core._validate import check_choice, check_positive, few
from stpredict.metrics._pearson import pearson
from stpredict.slots._container import get_table
from stpredict.slots._expression import marked_measured
from stpredict.slots._keys import Key
from stpredict.slots._marks import joint_mark, leak_marks
from stpredict.slots._predicted import predicted_table
from stpredict.slots._rows import Rows, rows_of
from stpredict.slots._truth import check_of_genes
from stpredict.tl.biology._pathway_scores import expression_level
from stpredict.tl.biology._set_scores import (
    METHODS,
    LinearScore,
    Method,
    check_memory,
    coherence,
    expression_bins,
    gseapy_score,
    linear_score,
    standardized_rows,
    within_bins,
)

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_array

    from stpredict.slots._container import Container

_SHOWN = ("pathway", "size", "r", "r_low", "r_high", "null_mean", "null_high", "q", "leaky")
_FEWEST = 3  # observations, or patients, to correlate


def pathway_agreement(
    data: Container,
    gene_sets: GeneSets,
    *,
    key: str = Key.PREDICTED,
    layer: str | None = None,
    method: Method = "mean",
    n_random: int = 100,
    min_size: int = 5,
    max_size: int = 500,
    max_gb: float = 8.0,
    level: float = 0.95,
    organism: str = "human",
    seed: int = 0,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Correlate the scores of each pathway, measured and predicted, beside random sets of the same genes' expression.

    A mean over many genes is predicted better than a gene, whichever genes they are: noise averages out, and what all
    genes share remains. A correlation of .6 says nothing of a pathway where any 50 genes of the same expression reach
    .6. Random sets say what they reach: every gene is replaced by another of its bin of expression, in all pathways at
    once, so that a random set has the size, the expression and the overlaps with other sets of the one it stands for.

    Within a section the random sets are as smooth as the pathway is, which a p-value of the correlation would not know of:
    neighboring spots are not independent observations. Their share above the pathway is still somewhat too often small: random sets
    share more with each other than a pathway does with them. `benchmarks/pathways.py` prints how often, on shuffled predictions.

    Parameters
    ----------
    data
        AnnData or SpatialData with measured and predicted expression, of sections or slides.
    gene_sets
        Genes of each set: a mapping, a GMT file, or the name of a library of Enrichr, which gseapy fetches.
    key
        Slot of the prediction in `obsm`.
    layer
        Layer with the measured values; those in the unit of the prediction by default.
    method
        Score, see :func:`stpredict.tl.pathway_scores`. With `"gsva"` and `"ssgsea"` the truth and the prediction are scored
        by themselves, and each draw takes a call of gseapy for both.
    n_random
        Number of random sets for each pathway.
    min_size, max_size
        Smallest and largest size of the gene sets, counted within the genes that are measured and predicted.
    max_gb
        Memory in GB that `"gsva"` and `"ssgsea"` may take.
    level
        Level of the intervals.
    organism
        Organism of a library of Enrichr.
    seed
        Random seed for the random sets and the bootstrap.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    One row per pathway, by r; nothing is written to `data`:

    - `pathway`, `size`;
    - `r`: correlation of the scores over in-tissue spots within each section, averaged over sections, then patients; of
      slides, over patients (slides averaged within each); with `r_low` and `r_high` by a bootstrap over patients, NaN for one
      patient and for slides;
    - `null_mean`, `null_high`: mean of the random sets, and the value that 95 % of them stay below;
    - `p`, share of random sets that reach it (one-sided, with the pathway itself among them), and `q`, false-discovery
      rate over pathways;
    - `coherence_measured`, `coherence_predicted`: mean correlation of two genes of the set, and `coherence_null`, that of
      the random sets in the prediction. Predictions are smooth, so that all genes correlate: a set is coherent only where it
      is more so than random ones, and predicted genes that correlate more than measured ones say that differences within
      the set were lost;
    - `n_patients`, `n_obs`, and `leaky` (`True` where the model saw one of the patients, `"unknown"` where nothing tells).

    `attrs` has `n_genes` (measured and predicted), `n_random` and `method`.

    Raises
    ------
    KeyError
        When the prediction, the measurement, sections or patients are missing.
    ValueError
        When no gene set fits, or there are fewer than three observations on tissue with both.
    MemoryError
        When `"gsva"` or `"ssgsea"` would take more than `max_gb`.
    TypeError
        When gene sets are of another kind, or `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import numpy as np, stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(2, 1, 40, n_spots=60)
    >>> stp.pp.normalize(adata)
    >>> adata.obsm["predicted"] = adata.to_df() + np.random.default_rng(0).normal(size=adata.shape)
    >>> sets = {"first": adata.var_names[:10], "last": adata.var_names[-10:]}
    >>> table = stp.tl.pathway_agreement(adata, sets, n_random=20)
    >>> table[["size", "n_patients", "n_obs"]].values.tolist()
    [[10, 2, 120], [10, 2, 120]]
    """
    check_choice(method, METHODS, "method")
    check_positive(max_gb, "max_gb")
    if n_random < 1:
        raise ValueError(f"expected n_random to be at least 1; found {n_random}")
    if not 0 < level < 1:
        raise ValueError(f"expected level between 0 and 1; found {level!r}")
    adata = get_table(data, table_key, key)
    check_of_genes(adata, key)
    table = predicted_table(adata, key, layer=layer, sample_key=sample_key)
    if "measured" not in table.layers:
        raise KeyError("expected measured expression of predicted genes; found none; score objects that have it")
    predicted, measured = (np.asarray(v, dtype=np.float64) for v in (table.X, table.layers["measured"]))
    rows = rows_of(adata, sample_key=sample_key, patient_key=patient_key)
    rows = rows.take(
        rows.in_tissue & marked_measured(adata) & ~np.isnan(predicted).all(axis=1) & ~np.isnan(measured).all(axis=1)
    )
    known = ~(np.isnan(predicted[rows.index]).any(axis=0) | np.isnan(measured[rows.index]).any(axis=0))
    if len(rows) < _FEWEST or not known.any():
        raise ValueError(
            f"expected at least {_FEWEST} observations on tissue and a gene, measured and predicted in all of them; found "
            f"{len(rows)} and {int(known.sum())}; take genes that every fold predicted"
        )
    genes = [str(name) for name in table.var_names[known]]
    measured, predicted = measured[rows.index][:, known], predicted[rows.index][:, known]
    sets = membership(gene_sets, genes, min_size, max_size, what="measured and predicted genes", organism=organism)
    check_memory(method, len(rows), len(genes), sets.size, max_gb)
    parts = _parts(rows, measured, predicted)
    bins = expression_bins(_level(adata, measured, genes, rows))
    draw = np.random.default_rng(seed)
    place = (np.arange(len(genes)), *(within_bins(bins, draw) for _ in range(n_random)))
    # (1 + n_random, n_parts, n_terms): the sets themselves come first.
    score = linear_score(sets.member, bins)
    sides = [(_Side(part.measured, score, method), _Side(part.predicted, score, method)) for part in parts]
    found = np.stack([_agree(sides, score, sets.member, at) for at in place])
    return _summary(found, parts, rows, sets, adata, key, patient_key, len(genes), method, level, seed)


class _Side:
    """Values (n, n_genes) of one side, with what does not depend on the sets that are drawn."""

    def __init__(self, values: np.ndarray, score: LinearScore, method: Method) -> None:
        self.values, self.method = values, method
        by_gene = np.ascontiguousarray(values.T)
        self.standardized = standardized_rows(by_gene)
        self.by_gene, self.controls = by_gene, score.controls_of(by_gene) if method == "mean" else None

    def scores(self, score: LinearScore, member: csr_array) -> np.ndarray:
        """Scores (n, n_terms)."""
        if self.controls is None:
            return gseapy_score(self.values, member, self.method)
        return score.weights_of(self.by_gene) - self.controls


@dataclass(frozen=True)
class _Part:
    """What is correlated together: the spots of a section, or patients."""

    patient: str
    measured: np.ndarray
    predicted: np.ndarray


def _parts(rows: Rows, measured: np.ndarray, predicted: np.ndarray) -> list[_Part]:
    import pandas as pd

    if rows.unit == "slide":
        means = [pd.DataFrame(values).groupby(rows.person).mean().to_numpy() for values in (measured, predicted)]
        parts = [_Part("", *means)]
    else:
        parts = [
            _Part(str(rows.patient[here][0]), measured[here], predicted[here])
            for code in np.unique(rows.section)
            for here in [rows.section == code]
        ]
    enough = [part for part in parts if len(part.measured) >= _FEWEST]
    if not enough:
        raise ValueError(
            f"expected a section with {_FEWEST} observations, or {_FEWEST} patients with slides, measured and predicted; found "
            f"{few(len(part.measured) for part in parts)}"
        )
    return enough


def _level(adata: Any, measured: np.ndarray, genes: list[str], rows: Rows) -> np.ndarray:
    """Expression (n_genes,) by which genes are alike: of the counts, else of the measured values."""
    if Key.COUNTS in adata.layers and set(genes) <= set(adata.var_names):
        return expression_level(adata, adata.layers[Key.COUNTS], genes, rows.index)
    return np.asarray(measured.mean(axis=0))


def _agree(sides: list[tuple[_Side, _Side]], score: LinearScore, member: csr_array, place: np.ndarray) -> np.ndarray:
    """r, and the coherence of measured and predicted sets (n_parts, 3, n_terms), each gene replaced by that at `place`."""
    score, other = score.moved(place), member.copy()
    other.indices = place[other.indices].astype(other.indices.dtype)
    other.has_sorted_indices = False
    return np.array(
        [
            [
                pearson(measured.scores(score, other), predicted.scores(score, other)),
                coherence(measured.standardized, other),
                coherence(predicted.standardized, other),
            ]
            for measured, predicted in sides
        ]
    )


def _summary(
    found: np.ndarray, parts: list[_Part], rows: Rows, sets: Any, adata: Any, key: str, patient_key: str, n_genes: int,
    method: str, level: float, seed: int,
) -> pd.DataFrame:  # fmt: skip
    """Table of the means over sections, then patients."""
    import pandas as pd

    from stpredict.metrics import benjamini_hochberg, bootstrap_mean

    patient = [part.patient for part in parts]
    mean = np.stack([np.stack([_over_patients(draw[:, i], patient) for i in range(3)]) for draw in found])
    r, null = mean[0, 0], mean[1:, 0]
    _, low, high = bootstrap_mean(found[0][:, 0], patient, level=level, seed=seed)
    reached = (null >= r - 1e-12).sum(axis=0)
    # A correlation that is undefined is reached by all.
    p = np.where(np.isnan(r), 1.0, (1 + np.where(np.isnan(null).any(axis=0), len(null), reached)) / (1 + len(null)))
    table = pd.DataFrame({"pathway": sets.terms, "size": sets.size, "r": r, "r_low": low, "r_high": high})
    table["null_mean"], table["null_high"] = null.mean(axis=0), np.quantile(null, 0.95, axis=0)
    table["p"], table["q"] = p, benjamini_hochberg(p)
    table["coherence_measured"], table["coherence_predicted"] = mean[0, 1], mean[0, 2]
    table["coherence_null"] = mean[1:, 2].mean(axis=0)
    table["n_patients"] = len(rows.patients) if rows.unit == "slide" else len(set(patient))
    table["n_obs"] = len(rows)
    table["leaky"] = joint_mark(leak_marks(adata, key, patient_key)[rows.index])
    table = table.sort_values("r", ascending=False, kind="stable", ignore_index=True)
    table.attrs = {"n_genes": n_genes, "n_random": len(null), "method": method}
    return compact(table, _SHOWN, move=False)


def _over_patients(values: np.ndarray, patient: list[str]) -> np.ndarray:
    """Mean over sections (n_parts, n_terms), then patients; sections where it is undefined are left out."""
    import pandas as pd

    return pd.DataFrame(values).groupby(np.asarray(patient)).mean().mean().to_numpy()
