"""The panel of genes to predict, chosen on training sections only."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._file_rows import read_rows
from stpredict.core._moments import row_slices
from stpredict.core._validate import check_choice, check_unique
from stpredict.metrics._dispersion import section_dispersions
from stpredict.pp._spatially_variable import section_morans_i, write_moran
from stpredict.slots._checks import as_mask, check_genes, check_obs
from stpredict.slots._container import begin
from stpredict.slots._expression import matrix_of, to_dense, usable_rows
from stpredict.slots._keys import Key, check_key
from stpredict.slots._provenance import genes_digest, read_record, write_record
from stpredict.slots._selections import patients_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container

_METHODS = ("moran", "spatial_hvg", "mean")
# RPL3, RPS27A, RPLP0 and RPSA, but neither the kinases RPS6KA1 … nor RPS19BP1, which only bind to ribosomal proteins
_RIBOSOMAL = re.compile(r"(?i)RP(?:[SL]\d+(?!\d*(?:K|BP))|LP\d|SA\d*$)")
_MITOCHONDRIAL = re.compile(r"(?i)MT-")


def select_genes(
    data: Container,
    method: str | Sequence[str] = "moran",
    *,
    n_genes: int | None = None,
    p_value: float = 0.01,
    min_i: float = 0.1,
    min_fraction: float = 0.0,
    train: np.ndarray | str | None = None,
    always: Sequence[str] = (),
    drop_ribosomal: bool = True,
    drop_mitochondrial: bool = True,
    n_neighbors: int = 15,
    layer: str | None = None,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    key_added: str | None = None,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Choose the genes to predict from the training sections.

    With a panel chosen on all sections, the test sections help to decide which genes they are scored on. Pass the
    training observations as `train`; the samples and patients that took part are recorded, and :func:`stpredict.tl.fit`
    refuses a panel that saw patients outside its training set.

    Parameters
    ----------
    data
        AnnData, or SpatialData whose table is used, with a normalized `X`.
    method
        Method of selection, or a list of genes, which is recorded as given, without filters. `"moran"`: genes with
        spatial structure in every training section, that is `p < p_value` in each and a median Moran's I above `min_i`
        :cite:p:`li2026`; with `n_genes`, the best of them by median I. `"spatial_hvg"`: the `2 * n_genes` most highly
        variable genes within sections (normalized dispersion), of which the `n_genes` with the highest median I.
        `"mean"`: the `n_genes` with the highest mean over the training observations. Where `X` holds residuals, their
        variance says how variable a gene is, and the counts how much there is of it.
    n_genes
        Size of the panel. Needed by `"spatial_hvg"` and `"mean"`; fewer are taken when fewer pass the filters.
    p_value
        Largest p-value of Moran's I, for `"moran"`.
    min_i
        Median Moran's I over sections that a gene must exceed, for `"moran"`. The published 0.4 was chosen for Visium
        sections with thousands of counts and spots; I shrinks with counting noise, and in sections of a few hundred
        spots 0.4 keeps hardly any gene, so the default is 0.1.
    min_fraction
        Share of the observations of a section in which a gene must be seen, in every training section. A gene must
        be seen at least once in each in any case.
    train
        Training observations, a boolean array (n_obs,) or a column of `obs`; all measured ones when `None`.
    always
        Genes that are in the panel whatever the data say, beyond `n_genes`: markers of lineages, as in HiST, or genes
        of interest. They have to be among `var_names`.
    drop_ribosomal
        Whether to drop genes of ribosomal proteins, named like `RPS6`, `Rpl3`, `RPLP0` or `RPSA`.
    drop_mitochondrial
        Whether to drop genes named like `MT-CO1` or `mt-Nd1`.
    n_neighbors
        Number of neighbors of each observation for Moran's I.
    layer
        Layer to read instead of `X`.
    sample_key
        Column of `obs` that names the section.
    patient_key
        Column of `obs` that names the patient, for the record; it may be absent.
    key_added
        Name of the result, `"selected"` by default.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `var[key_added]`: whether a gene is in the panel.
    - `varm["moran_i"]`, `varm["moran_p"]`: Moran's I and p per training section, for `"moran"` and `"spatial_hvg"`; NaN
      for genes dropped before the test.
    - `uns["stpredict"][key_added]`: `method` (`"given"` for a list), the thresholds, `n_genes`, `samples`, `patients`,
      `genes` and their `digest`, `dropped`, the number of genes that each filter removed, in their order, and `added`, the
      genes that are in the panel for `always` only.

    Raises
    ------
    ValueError
        When no gene passes (the message says what each filter removed), or an option is missing or out of range.
    KeyError
        When `obs[sample_key]`, `obsm["spatial"]`, the layer or genes of a list are missing.
    TypeError
        When `data` is neither AnnData nor SpatialData. Also when `obs[train]` is not boolean.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> from stpredict.pp._select_genes import select_genes
    >>> x, y = np.meshgrid(np.arange(8.0), np.arange(8.0))
    >>> values = np.stack([x.ravel(), np.random.default_rng(0).random(64)], axis=1)
    >>> adata = ad.AnnData(values, obs=pd.DataFrame({"sample": "A"}, index=[str(i) for i in range(64)]))
    >>> adata.obsm["spatial"] = np.stack([x.ravel(), y.ravel()], axis=1)
    >>> select_genes(adata, "moran")
    >>> adata.var["selected"].tolist()
    [True, False]
    """
    check_key(key_added)
    container, adata = begin(data, copy, table_key, measured=True)
    key = key_added or Key.SELECTED
    mask = as_mask(adata, train)
    is_list = not isinstance(method, str)
    if is_list:
        chosen = _Selection(_given(adata, method, always))
        rows = mask
    else:
        rows = usable_rows(adata, mask, layer)
        chosen = _select(
            adata,
            str(method),
            rows,
            n_genes=n_genes,
            p_value=p_value,
            min_i=min_i,
            min_fraction=min_fraction,
            always=always,
            drop_ribosomal=drop_ribosomal,
            drop_mitochondrial=drop_mitochondrial,
            n_neighbors=n_neighbors,
            layer=layer,
            sample_key=sample_key,
        )

    entry: dict[str, Any] = {"method": "given" if is_list else method, "n_genes": len(chosen.genes)}
    entry |= {"digest": genes_digest(chosen.genes), "genes": chosen.genes}
    if is_list:
        # A list has not looked at the data, unless it is a selection, or was cut from one, that has.
        entry["patients"] = patients_of(adata, chosen.genes) or None
    else:
        entry |= {"min_fraction": min_fraction, "drop_ribosomal": drop_ribosomal, "layer": layer}
        entry |= {"drop_mitochondrial": drop_mitochondrial, "dropped": chosen.dropped}
        entry["added"] = chosen.added or None
        for name, column in (("samples", sample_key), ("patients", patient_key)):
            if column in adata.obs:
                entry[name] = sorted(set(adata.obs[column].astype(str).to_numpy()[rows]))
    if method == "moran":
        entry |= {"p_value": p_value, "min_i": min_i}
    if chosen.moran_i is not None and chosen.moran_p is not None:
        entry["n_neighbors"] = n_neighbors
        write_moran(adata, chosen.moran_i, chosen.moran_p)
    adata.var[key] = adata.var_names.isin(chosen.genes)
    write_record(adata, key, entry)
    return container if copy else None


def select_panel(
    adata: AnnData,
    method: str | Sequence[str],
    train: np.ndarray | str | None = None,
    values: Any = None,
    **options: Any,
) -> list[str]:
    """Return the panel that :func:`select_genes` would choose, and write nothing.

    `values` are rows (n_obs, n_vars) that are read in place of `X`, or of the layer, where they are not in the object.
    `train` is a mask (n_obs,), row indices, or an `obs` key; `options` are those of :func:`select_genes` that have a
    say in the choice. The genes come in the order of `var_names`; a list of genes is returned in its own order.
    """
    if not isinstance(method, str):
        return _given(adata, method, options.get("always", ()))
    if train is not None and not isinstance(train, str) and np.asarray(train).dtype.kind in "iu":
        mask = np.zeros(adata.n_obs, dtype=bool)
        mask[np.asarray(train)] = True
        train = mask
    rows = usable_rows(adata, as_mask(adata, train), options.get("layer"))
    return _select(adata, method, rows, values, **options).genes


def _given(adata: AnnData, *lists: Sequence[str]) -> list[str]:
    """Genes of lists, each once, which all have to be there."""
    for genes in lists:
        if isinstance(genes, str):
            raise TypeError(f"expected a list of genes; found the text {genes!r}; put it into a list")
        if genes is lists[0] or len(genes):
            check_genes(adata, [str(gene) for gene in genes])
    return list(dict.fromkeys(str(gene) for genes in lists for gene in genes))


@dataclass
class _Selection:
    genes: list[str]
    dropped: dict[str, int] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    moran_i: pd.DataFrame | None = None
    moran_p: pd.DataFrame | None = None


def _select(
    adata: AnnData,
    method: str,
    rows: np.ndarray,
    values: Any = None,
    *,
    n_genes: int | None = None,
    p_value: float = 0.01,
    min_i: float = 0.1,
    min_fraction: float = 0.0,
    always: Sequence[str] = (),
    drop_ribosomal: bool = True,
    drop_mitochondrial: bool = True,
    n_neighbors: int = 15,
    layer: str | None = None,
    sample_key: str = Key.SAMPLE,
) -> _Selection:
    check_choice(method, _METHODS, "method")
    required = _given(adata, always) if len(always) else []
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    check_unique(adata.var_names, "var_names")
    if n_genes is None and method != "moran":
        raise ValueError(f"expected `n_genes` with method={method!r}; found None; pass the size of the panel")
    if n_genes is not None and n_genes < 1:
        raise ValueError(f"expected n_genes of at least 1; found {n_genes}")
    if not 0 <= min_fraction <= 1:
        raise ValueError(f"expected min_fraction between 0 and 1; found {min_fraction}")

    matrix = matrix_of(adata, layer) if values is None else values
    samples = adata.obs[sample_key].astype(str).to_numpy()
    names = adata.var_names
    kept = np.ones(adata.n_vars, dtype=bool)
    dropped: dict[str, int] = {}

    def keep(passing: np.ndarray, name: str) -> None:
        dropped[name] = int((kept & ~passing).sum())
        kept[:] = kept & passing

    if drop_ribosomal:
        keep(~_named_like(names, _RIBOSOMAL), "drop_ribosomal")
    if drop_mitochondrial:
        keep(~_named_like(names, _MITOCHONDRIAL), "drop_mitochondrial")
    detected = np.ones(adata.n_vars, dtype=bool)
    residuals = layer is None and (read_record(adata, "normalize") or {}).get("method") == "pearson_residuals"
    # Residuals are 0 on average, and none of them is 0: how much there is of a gene, and where, is said by the counts.
    amount = adata.layers[Key.COUNTS] if residuals and Key.COUNTS in adata.layers else matrix
    for section in dict.fromkeys(samples[rows]):
        section_rows = np.flatnonzero(rows & (samples == section))
        share = np.asarray((read_rows(amount, section_rows) != 0).sum(axis=0)).ravel() / len(section_rows)
        detected &= (share > 0) & (share >= min_fraction)
    keep(detected, "min_fraction")
    if not kept.any():
        raise ValueError(_nothing(dropped))

    selection = _Selection([], dropped)
    score = np.full(adata.n_vars, -np.inf)
    if method == "mean":
        score[kept] = _mean(amount, np.flatnonzero(rows))[kept]
    else:
        if method == "spatial_hvg" and n_genes is not None:
            variable = _most_residual if residuals else _highly_variable
            keep(variable(matrix, rows, kept, samples, 2 * n_genes), "spatial_hvg")
        tested = list(names[kept])
        selection.moran_i, selection.moran_p = section_morans_i(
            adata, rows, tested, matrix, n_neighbors=n_neighbors, sample_key=sample_key
        )
        score[kept] = selection.moran_i.fillna(-1.0).median(axis=1).to_numpy()
        if method == "moran":
            significant = np.zeros(adata.n_vars, dtype=bool)
            significant[kept] = (selection.moran_p < p_value).all(axis=1)
            keep(significant, "p_value")
            keep(score > min_i, "min_i")
    if not kept.any():
        raise ValueError(_nothing(dropped))
    if n_genes is not None and kept.sum() > n_genes:
        best = np.zeros(adata.n_vars, dtype=bool)
        best[np.argsort(np.where(kept, -score, np.inf), kind="stable")[:n_genes]] = True
        keep(best, "n_genes")
    chosen = {str(name) for name in names[kept]}
    selection.added = [gene for gene in required if gene not in chosen]
    selection.genes = [str(name) for name in names if name in chosen or name in selection.added]
    return selection


def _named_like(names: Sequence[str] | pd.Index, pattern: re.Pattern[str]) -> np.ndarray:
    """Mask (n,) of names that begin with a pattern, matched by Python, as Arrow knows other expressions than pandas."""
    return np.array([pattern.match(str(name)) is not None for name in names], dtype=bool)


def _mean(matrix: Any, rows: np.ndarray) -> np.ndarray:
    """Mean (n_vars,) of some rows of a matrix, some at a time."""
    parts = (read_rows(matrix, rows[part]).sum(axis=0, dtype=np.float64) for part in row_slices(len(rows)))
    return np.asarray(sum(np.asarray(part).ravel() for part in parts) / len(rows))


def _highly_variable(matrix: Any, rows: np.ndarray, kept: np.ndarray, samples: np.ndarray, n_top: int) -> np.ndarray:
    """Mask (n_vars,) of the genes with the highest normalized dispersion within sections."""
    columns = np.flatnonzero(kept)
    sections = (
        read_rows(matrix, np.flatnonzero(rows & (samples == section)))[:, columns]
        for section in np.unique(samples[rows])
    )
    variable = np.zeros(len(kept), dtype=bool)
    variable[columns] = section_dispersions(sections, np.arange(len(columns)).astype(str), n_top)["highly_variable"]
    return variable


def _most_residual(matrix: Any, rows: np.ndarray, kept: np.ndarray, samples: np.ndarray, n_top: int) -> np.ndarray:
    """Mask (n_vars,) of the genes whose residuals vary most within sections :cite:p:`lause2021`."""
    variance = np.zeros(len(kept))
    for section in dict.fromkeys(samples[rows]):
        variance += to_dense(read_rows(matrix, np.flatnonzero(rows & (samples == section)))).var(axis=0)
    best = np.argsort(np.where(kept, -variance, np.inf), kind="stable")[: min(n_top, int(kept.sum()))]
    variable = np.zeros(len(kept), dtype=bool)
    variable[best] = True
    return variable


def _nothing(dropped: dict[str, int]) -> str:
    steps = ", ".join(f"{name} removed {number}" for name, number in dropped.items() if number) or "there were none"
    last = max(dropped, key=lambda name: dropped[name]) if dropped else "min_fraction"
    advice = {
        "p_value": "raise `p_value`, or use method='mean' or 'spatial_hvg'",
        "min_i": "lower `min_i`",
        "min_fraction": "lower `min_fraction`, or leave sections out in which few genes were seen",
    }.get(last, f"change `{last}`")
    return f"expected genes to pass the selection; found none: {steps}; {advice}"
