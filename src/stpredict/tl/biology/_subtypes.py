"""Subtypes of observations: which module of genes is highest, relative to the section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._gene_sets import GeneSets, membership
from stpredict.core._palette import category_colors
from stpredict.core._validate import check_choice, few
from stpredict.slots._container import begin
from stpredict.slots._depth import section_codes
from stpredict.slots._expression import in_tissue, measured_rows
from stpredict.slots._keys import Key, check_column
from stpredict.slots._parts import part_codes
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import write_record
from stpredict.slots._truth import predicts_values
from stpredict.slots._values import read_values
from stpredict.tl.biology._domains import expression_matrix
from stpredict.tl.biology._pathway_scores import Aliases, expression_level, genes_to_score, with_aliases
from stpredict.tl.biology._set_scores import expression_bins, linear_score, within_bins
from stpredict.tl.biology._subtype_calls import Calls, call, drawn_scores

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container


def subtypes(
    data: Container,
    gene_sets: GeneSets | None = None,
    *,
    scores: str | None = None,
    use: Literal["predicted", "measured"] = "predicted",
    key: str = Key.PREDICTED,
    layer: str | None = None,
    aliases: Aliases = None,
    min_size: int = 5,
    max_size: int = 500,
    min_margin: float = 0.0,
    n_random: int = 20,
    organism: str = "human",
    seed: int = 0,
    sample_key: str = Key.SAMPLE,
    key_added: str = "subtype",
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Call each observation by the module of genes that is highest in it, relative to its section.

    Scores of modules have different scales, so each becomes its percentile within the section before they are compared, as in
    the maps of :cite:t:`pizurica2024`; the score is that of :func:`stpredict.tl.pathway_scores`, which takes off what genes
    of similar expression have.

    Percentiles make modules compete fairly, and they have a price: every module is high *somewhere* in every section, so each
    is called about as often as the others, whether or not the section has any such cells. Calls say where within a section a
    module is relatively highest, never how much of it a section has. Random modules of the same sizes and expression are
    called as often; what tells a module from them is whether its genes vary together here, its `coherence`.

    Parameters
    ----------
    data
        AnnData or SpatialData with predicted, or measured and normalized, expression, or with scores.
    gene_sets
        Genes of each module: a mapping, a GMT file (the meta-modules of :cite:t:`neftel2019`, say), or the name of a
        library of Enrichr.
    scores
        Slot of `obsm` with scores to compare instead, whatever they were made of; measured or predicted.
    use
        Expression to score: `"predicted"` for `obsm[key]`, `"measured"` for the measured expression.
    key
        Slot of the prediction in `obsm`. With `use="measured"` it supplies the genes, where there is one.
    layer
        Layer with the measured values; `X` by default.
    aliases
        Present symbols of genes that have had others, or `"ensembl"`, see :func:`stpredict.tl.pathway_scores`.
    min_size, max_size
        Smallest and largest size of the modules, counted within the genes at hand.
    min_margin
        Percentile points that the highest module must be above the second one; other observations are not called.
    n_random
        Number of draws of random modules, in which every gene is replaced by another of its bin of expression.
    organism
        Organism of a library of Enrichr.
    seed
        Random seed for the random modules.
    sample_key
        Column of `obs` that names the section; without it all observations are one. Where blocks of a section were predicted
        by models of their own, percentiles are those of the block; name the column of the folds (`"predicted_fold"`) to call
        measured expression alike.
    key_added
        Beginning of what is written.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes, for observations on tissue with expression,

    - `obs[key_added]`: the module, categorical, with colors in `uns["{key_added}_colors"]`;
      :func:`stpredict.pl.domains` draws it (`key="subtype"`),
    - `obs["{key_added}_margin"]`: percentile points above the second module,
    - `obsm["{key_added}_percentiles"]` and, of gene sets, `obsm["{key_added}_scores"]` (n_obs, n_modules) float32, with
      names in `uns["{slot}_names"]`,
    - `uns["{key_added}_control"]`: one row per module: `subtype`, `share` of the observations that are called so and their
      mean `margin`; of gene sets also `size`, `coherence` (mean correlation of two of its genes within a section), and of
      random modules `share_random`, `margin_random`, `coherence_random`, with `p`, the share of random modules as
      coherent as this one (with itself among them),
    - `uns["stpredict"][key_added]`: parameters, and with `aliases` what was `renamed` and `not_renamed`.

    Raises
    ------
    KeyError
        When the prediction, the measurement or the scores are missing.
    ValueError
        When there are both gene sets and scores, or neither; when fewer than two modules fit, or values are not finite.
    TypeError
        When gene sets are of another kind, or `data` is neither AnnData nor SpatialData.
    FileNotFoundError
        When there is no GMT file at the path.
    ImportError
        When `aliases="ensembl"` and hgfind is not installed.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 2, 40, n_spots=60)
    >>> stp.pp.normalize(adata)
    >>> kind = adata.var_names.str[:3]
    >>> modules = {name: adata.var_names[kind == name] for name in ("TUM", "IMM")}
    >>> stp.tl.subtypes(adata, modules, use="measured")
    >>> control = adata.uns["subtype_control"].set_index("subtype")
    >>> (control["coherence"] > control["coherence_random"]).tolist()
    [True, True]
    """
    import pandas as pd

    check_column(key_added)
    check_choice(use, ("predicted", "measured"), "use")
    if (gene_sets is None) == (scores is None):
        raise ValueError(
            f"expected either gene sets or `scores=`, a slot of obsm; found {'neither' if scores is None else 'both'}"
        )
    if n_random < 0 or not 0 <= min_margin < 100:
        raise ValueError(
            f"expected n_random of at least 0, and min_margin from 0 to below 100; found {n_random} and {min_margin}"
        )
    container, adata = begin(data, copy, table_key, *([key] if use == "predicted" and scores is None else []))
    section = section_codes(adata, sample_key)[1]
    predicted = (
        key if scores is None and use == "predicted" else scores if scores and predicts_values(adata, scores) else None
    )
    if predicted is not None:
        # Blocks of a section come from models of their own, whose offsets are no percentiles.
        section = part_codes(adata, predicted, Key.PATIENT, section)
    record: dict[str, Any] = {"min_margin": min_margin, "sample_key": sample_key}
    if scores is not None:
        if predicts_values(adata, scores):
            frame = prediction_frame(adata, scores)
        else:
            frame = read_values(adata, scores, what="run stp.tl.pathway_scores, or name the slot with the scores")
        terms = [str(name) for name in frame.columns]
        rows = np.flatnonzero(in_tissue(adata) & frame.notna().all(axis=1).to_numpy())
        _check_modules(terms, rows, f"obsm[{scores!r}]")
        values = frame.to_numpy()[rows]
        calls = call(values, section[rows])
        control = _shares(terms, calls)
        record |= {"scores": scores}
    else:
        assert gene_sets is not None
        matrix, genes = expression_matrix(adata, key, use, genes_to_score(adata, key, use), layer)
        gene_sets, told = with_aliases(gene_sets, genes, aliases, organism)
        sets = membership(gene_sets, genes, min_size, max_size, what=f"genes with {use} expression", organism=organism)
        terms = sets.terms
        there = ~np.isnan(matrix).all(axis=1) if use == "predicted" else measured_rows(adata, matrix)
        rows = np.flatnonzero(in_tissue(adata) & there)
        _check_modules(terms, rows, f"{sets.n_given} gene sets")
        bins = expression_bins(expression_level(adata, matrix, genes, rows))
        rng = np.random.default_rng(seed)
        places = [np.arange(len(genes)), *(within_bins(bins, rng) for _ in range(n_random))]
        drawn, coherence = drawn_scores(
            matrix, rows, section[rows], linear_score(sets.member, bins), sets.member, places
        )
        values = drawn[0].astype(np.float64)
        calls = call(values, section[rows])
        control = _shares(terms, calls)
        control.insert(1, "size", sets.size)
        control["coherence"] = coherence[0]
        if n_random:
            random = [_shares(terms, call(one.astype(np.float64), section[rows])) for one in drawn[1:]]
            control["share_random"] = np.mean([one["share"] for one in random], axis=0)
            control["margin_random"] = np.mean([one["margin"] for one in random], axis=0)
            control["coherence_random"] = coherence[1:].mean(axis=0)
            control["p"] = (1 + (coherence[1:] >= coherence[0]).sum(axis=0)) / (1 + n_random)
        _write(adata, f"{key_added}_scores", values, rows, terms)
        record |= {
            "use": use, "key": key if use == "predicted" else None, "layer": layer, "n_genes": len(genes),
            "n_random": n_random, "seed": seed, **told,
        }  # fmt: skip
    best = np.where(calls.margin >= min_margin, calls.best, -1)
    code, margin = np.full(adata.n_obs, -1), np.full(adata.n_obs, np.nan)
    code[rows], margin[rows] = best, calls.margin
    adata.obs[key_added] = pd.Categorical.from_codes(code.tolist(), categories=pd.Index(terms))
    adata.obs[f"{key_added}_margin"] = margin
    adata.uns[Key.colors(key_added)] = category_colors(len(terms))
    _write(adata, f"{key_added}_percentiles", calls.percentile, rows, terms)
    adata.uns[f"{key_added}_control"] = control
    write_record(adata, key_added, record)
    return container if copy else None


def _check_modules(terms: list[str], rows: np.ndarray, where: str) -> None:
    if len(terms) < 2:
        raise ValueError(
            f"expected at least two modules that fit, of {where}; found {few(terms) or 'none'}; one alone is called everywhere"
        )
    if not len(rows):
        raise ValueError("expected an observation on tissue with expression or scores; found none")


def _shares(terms: list[str], calls: Calls) -> pd.DataFrame:
    """Share of the observations called by each module, and their mean margin."""
    import pandas as pd

    called = calls.best[:, None] == np.arange(len(terms))
    n = called.sum(axis=0)
    margin = np.where(called, calls.margin[:, None], 0).sum(axis=0)
    return pd.DataFrame(
        {
            "subtype": terms,
            "share": n / max(len(calls.best), 1),
            "margin": np.divide(margin, n, out=np.full(len(terms), np.nan), where=n > 0),
        }
    )


def _write(adata: AnnData, slot: str, values: np.ndarray, rows: np.ndarray, names: list[str]) -> None:
    whole = np.full((adata.n_obs, len(names)), np.nan, dtype=np.float32)
    whole[rows] = values
    adata.obsm[slot] = whole
    adata.uns[f"{slot}_names"] = np.array(names)
