"""Whether the pathways of genes that differ between two groups are the same in prediction and truth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._compact import compact
from stpredict.core._gene_sets import GeneSets, membership
from stpredict.core._validate import check_choice, check_finite, few
from stpredict.metrics._over_representation import over_representation
from stpredict.metrics._welch import welch
from stpredict.slots._checks import check_layer, check_obs, check_obsm
from stpredict.slots._container import get_table
from stpredict.slots._expression import in_tissue, matrix_of, measured_matrix, measured_rows, to_dense
from stpredict.slots._keys import Key
from stpredict.slots._positions import positions_of
from stpredict.slots._prediction import of_all_folds, prediction_frame
from stpredict.slots._truth import check_of_genes
from stpredict.tl.judge._spatial_null import Null, displaced

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.slots._container import Container

_SHOWN = ("direction", "n_shared", "overlap", "null_mean", "null_high", "p", "n_terms_measured", "n_terms_predicted")
_SIDES = ("measured", "predicted")
_SHOWN_TERMS = ("direction", "term", "size", *(f"{column}_{side}" for column in ("hits", "q") for side in _SIDES))
_SHOWN_GENES = ("gene", *(f"{column}_{side}" for column in ("difference", "q") for side in _SIDES))
_DIRECTIONS = (("up", 1.0), ("down", -1.0))


@dataclass(frozen=True, repr=False)
class DEOverlap:
    """What :func:`stpredict.tl.de_overlap` returns.

    Attributes
    ----------
    overlap
        One row per direction.
    terms
        One row per direction and gene set.
    genes
        One row per gene.
    """

    def __repr__(self) -> str:
        """The overlap, and how much else there is."""
        return (
            f"DEOverlap with terms ({len(self.terms)} rows), genes ({len(self.genes)} rows) and overlap:\n"
            f"{self.overlap!r}"
        )

    overlap: pd.DataFrame
    terms: pd.DataFrame
    genes: pd.DataFrame


def de_overlap(
    data: Container,
    groupby: str,
    group: str,
    *,
    gene_sets: GeneSets,
    reference: str = "rest",
    key: str = Key.PREDICTED,
    layer: str | None = None,
    alpha: float = 0.01,
    term_alpha: float = 0.05,
    n_top: int | None = None,
    min_size: int = 5,
    max_size: int = 500,
    null: Null = "shuffle",
    n_permutations: int = 200,
    sample_key: str = Key.SAMPLE,
    spatial_key: str = Key.SPATIAL,
    seed: int = 0,
    table_key: str = Key.TABLE,
) -> DEOverlap:
    """Compare the genes and pathways that differ between two groups, measured and predicted.

    Genes are tested by Welch's t :cite:p:`welch1947` with false-discovery rates :cite:p:`benjamini1995`; higher and
    lower ones are tested separately for over-representation in gene sets (hypergeometric), against *all genes that were
    both predicted and measured* as the background. The overlap is the share of the measured side's terms that the
    prediction finds too. Genes that vary together lead to the same terms, so that some overlap arises without any
    skill. The null model takes as many predicted genes, those that differ most between groups whose labels were moved
    over the section, and counts the measured terms that these find.

    Neighboring spots are not independent observations, so that the p-values of genes are too small.

    Parameters
    ----------
    data
        AnnData or SpatialData with measured and predicted expression, on a log scale.
    groupby
        Column of `obs` with the groups, for example domains; boolean groups are named `"True"` and `"False"`.
    group
        Group to test.
    gene_sets
        Genes of each term: a mapping, a GMT file, or the name of a library of Enrichr, which gseapy fetches.
    reference
        Group to compare with, or `"rest"` for all other labeled observations.
    key
        Slot of the prediction in `obsm`. Genes that were not predicted in all its observations, as when folds choose genes
        of their own, are left out with a warning.
    layer
        Layer with the measured values; `X` by default.
    alpha
        False-discovery rate of genes.
    term_alpha
        False-discovery rate of terms.
    n_top
        Largest number of genes per direction, those with the largest t; no limit when `None`. With a smooth prediction
        nearly every gene differs, and nothing is over-represented among all genes.
    min_size, max_size
        Smallest and largest size of the gene sets to test, counted within the background.
    null
        Null model, which moves labels within their section: `"shuffle"` exchanges them among observations. `"rotation"`
        turns (and mirrors) their map, so that patches remain patches. It is stricter, since a small turn leaves a
        region mostly where it was, which then finds its terms again; read `null_mean` there rather than `p`.
    n_permutations
        Number of draws from the null.
    sample_key
        Column of `obs` that names the section.
    spatial_key
        Slot of the positions in `obsm`, for `"rotation"`.
    seed
        Random seed for the null model.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Object with three tables; nothing is written to `data`.

    - `overlap`, per direction (`"up"`, `"down"`): `n_genes_measured`, `n_genes_predicted`, `n_terms_measured`,
      `n_terms_predicted`, `n_shared`, `overlap` (shared over measured; NaN where the measured side has no term),
      `null_mean`, `null_high` (95 % of the null is below), `p` (share of the null that reaches it), `n_background`
      (genes) and `n_terms` (tested).
    - `terms`: `direction`, `term`, `size` and, for either side, `hits`, `p` and `q`.
    - `genes`: `gene` and, for either side, `difference` of the means, `t`, `p` and `q`.

    Raises
    ------
    KeyError
        When a column, a group, the prediction or the positions are missing.
    ValueError
        When a group has fewer than two observations, or no gene set fits the background; or when the genes of the
        prediction are not known.
    FileNotFoundError
        When there is no GMT file at the path.
    TypeError
        When `gene_sets` is neither a mapping nor a path, `data` is neither
        AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When some genes were not predicted in all observations.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 20, n_spots=60)
    >>> stp.pp.normalize(adata)
    >>> adata.obsm["predicted"] = adata.to_df()
    >>> adata.obs["region"] = (adata.obs["tumor"] > adata.obs["tumor"].median()).map({True: "tumor", False: "other"})
    >>> sets = {"first": adata.var_names[:10], "second": adata.var_names[10:]}
    >>> found = stp.tl.de_overlap(adata, "region", "tumor", gene_sets=sets, n_permutations=10)
    >>> found.overlap["n_background"].tolist()
    [20, 20]
    """
    import pandas as pd

    adata = get_table(data, table_key, groupby)
    check_obs(adata, groupby, "name the column with the groups")
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    check_choice(null, ("rotation", "shuffle"), "null")
    for value, name in ((alpha, "alpha"), (term_alpha, "term_alpha")):
        if not 0 < value < 1:
            raise ValueError(f"expected {name} between 0 and 1; found {value}")
    if n_permutations < 1 or (n_top is not None and n_top < 1):
        raise ValueError(f"expected positive numbers; found n_permutations={n_permutations} and n_top={n_top}")
    check_of_genes(adata, key)
    frame = of_all_folds(prediction_frame(adata, key), key, stacklevel=3)
    genes = [gene for gene in frame.columns.astype(str) if gene in adata.var_names]
    if not genes:
        raise KeyError("expected predicted genes among var_names; found none in common")
    if layer is not None:
        check_layer(adata, layer, "name the layer with the measured values")
    elif adata.X is None:
        raise ValueError("expected measured expression in X; found none; put it there, or name a layer with `layer=`")
    labels = _labels(adata.obs[groupby], group, reference, groupby)
    predicted = frame.set_axis(frame.columns.astype(str), axis=1)[genes].to_numpy(dtype=np.float64)
    measured = measured_rows(adata, matrix_of(adata, layer))
    rows = np.flatnonzero(in_tissue(adata) & measured & ~np.isnan(predicted).all(axis=1))
    labels, predicted = labels[rows], predicted[rows]
    if min((labels == 1).sum(), (labels == 0).sum()) < 2:
        raise ValueError(
            f"expected at least two observations in either group, measured and predicted on tissue; found "
            f"{int((labels == 1).sum())} in {group!r} and {int((labels == 0).sum())} in {reference!r}"
        )
    check_finite(predicted, f"predictions in obsm[{key!r}]", "take genes that every fold predicted")
    truth = to_dense(measured_matrix(adata, genes, rows, layer)).astype(np.float64)
    check_finite(truth, "measured expression", "leave out observations without it")
    xy = None
    if null == "rotation":
        check_obsm(adata, spatial_key, "write the positions there, or pass null='shuffle'")
        xy = positions_of(adata, spatial_key)[rows]
        check_finite(xy, f"positions in obsm[{spatial_key!r}]", "correct them, or pass null='shuffle'")
    sets = membership(gene_sets, genes, min_size, max_size, what="predicted and measured genes")
    terms, member = sets.terms, sets.member.toarray()

    sides = {"measured": welch(truth, labels[None]), "predicted": welch(predicted, labels[None])}
    table = pd.DataFrame({"gene": genes})
    chosen: dict[tuple[str, str], np.ndarray] = {}
    for side, (difference, t, p) in sides.items():
        q = _adjust(p[0])
        table[[f"difference_{side}", f"t_{side}", f"p_{side}", f"q_{side}"]] = np.column_stack(
            [difference[0], t[0], p[0], q]
        )
        for direction, sign in _DIRECTIONS:
            picked = (q < alpha) & (sign * t[0] > 0)
            if n_top is not None and picked.sum() > n_top:
                picked = _strongest(sign * t, n_top, picked)[0]
            chosen[side, direction] = picked
    section = adata.obs[sample_key].astype(str).to_numpy()[rows]
    moved = labels[displaced(section, xy, n_permutations, null, np.random.default_rng(seed))]
    t_null = welch(predicted, moved)[1]

    summary, details = [], []
    for direction, sign in _DIRECTIONS:
        term_columns, enriched = {"direction": direction, "term": terms, "size": member.sum(axis=1).astype(int)}, {}
        for side in sides:
            picked = chosen[side, direction]
            term_columns[f"hits_{side}"], p = (v[0] for v in over_representation(member, picked[None]))
            term_columns[f"p_{side}"], term_columns[f"q_{side}"] = p, _adjust(p)
            enriched[side] = term_columns[f"q_{side}"] < term_alpha
        details.append(pd.DataFrame(term_columns))
        n_measured = int(enriched["measured"].sum())
        shared = int((enriched["measured"] & enriched["predicted"]).sum())
        n_picked = int(chosen["predicted", direction].sum())
        row: dict[str, Any] = {
            "direction": direction,
            "n_genes_measured": int(chosen["measured", direction].sum()),
            "n_genes_predicted": n_picked,
            "n_terms_measured": n_measured,
            "n_terms_predicted": int(enriched["predicted"].sum()),
            "n_shared": shared,
            "overlap": shared / n_measured if n_measured else np.nan,
        }
        row |= dict.fromkeys(("null_mean", "null_high", "p"), np.nan)
        if n_measured:
            drawn = _strongest(sign * t_null, n_picked)
            chance = (_adjust(over_representation(member, drawn)[1]) < term_alpha)[:, enriched["measured"]].mean(axis=1)
            row |= {
                "null_mean": chance.mean(),
                "null_high": np.quantile(chance, 0.95),
                "p": (1 + (chance >= row["overlap"] - 1e-12).sum()) / (1 + n_permutations),
            }
        summary.append(row | {"n_background": len(genes), "n_terms": len(terms)})
    terms_table = compact(pd.concat(details, ignore_index=True), _SHOWN_TERMS, move=False)
    return DEOverlap(
        compact(pd.DataFrame(summary), _SHOWN, move=False), terms_table, compact(table, _SHOWN_GENES, move=False)
    )


def _labels(column: pd.Series, group: str, reference: str, groupby: str) -> np.ndarray:
    """1 in the group, 0 in the reference, -1 elsewhere (n_obs,)."""
    text = column.astype(object).where(column.notna(), None).map(lambda value: None if value is None else str(value))
    names = sorted({value for value in text if value is not None})
    for name in (group, reference):
        if name not in names and not (name == reference == "rest"):
            raise KeyError(f"expected a group of obs[{groupby!r}]; found {name!r}; choose among {few(names, 20)}")
    if group == reference:
        raise ValueError(f"expected two different groups; found {group!r} twice")
    values = text.to_numpy(dtype=object)
    in_reference = text.notna().to_numpy() if reference == "rest" and "rest" not in names else values == reference
    return np.where(values == group, 1, np.where(in_reference, 0, -1))


def _strongest(t: np.ndarray, n: int, among: np.ndarray | None = None) -> np.ndarray:
    """Mask (n_draws, G) of the `n` genes with the largest t of each draw."""
    score = np.where(np.isnan(t), -np.inf, t)
    if among is not None:
        score = np.where(among, score, -np.inf)
    mask = np.zeros(score.shape, dtype=bool)
    np.put_along_axis(mask, np.argsort(-score, axis=1, kind="stable")[:, :n], True, axis=1)
    return mask


def _adjust(p: np.ndarray) -> np.ndarray:
    """False-discovery rates along the last axis; NaN counts as 1."""
    from scipy.stats import false_discovery_control

    return false_discovery_control(np.clip(np.where(np.isnan(p), 1.0, p), 0, 1), axis=-1)
