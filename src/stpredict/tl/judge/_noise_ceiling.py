"""Noise ceiling of every gene and section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_counts
from stpredict.metrics._noise_ceiling import noise_ceiling as ceiling_of
from stpredict.metrics._residual_ceiling import residual_ceiling
from stpredict.slots._checks import check_genes, check_layer, check_obs
from stpredict.slots._container import begin
from stpredict.slots._depth import depth_of
from stpredict.slots._expression import measured_rows
from stpredict.slots._keys import Key, check_key, escaped
from stpredict.slots._provenance import read_record, write_record

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container


def noise_ceiling(
    data: Container,
    *,
    genes: Sequence[str] | None = None,
    sample_key: str = Key.SAMPLE,
    n_repeats: int = 10,
    seed: int = 0,
    layer: str = Key.COUNTS,
    key_added: str | None = None,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Estimate, per gene and section, the correlation that a perfect model would reach given the counting noise.

    Of residuals it follows from the counts, see :func:`stpredict.metrics.residual_ceiling`. Of log1p values two halves of the counts, split at random and normalized as the data were, show how much of the variance of a gene
    over a section is signal :cite:p:`spearman1910,neufeld2024`. See :func:`stpredict.metrics.noise_ceiling` for the
    method and its limits.

    Parameters
    ----------
    data
        AnnData, or SpatialData whose table is used, normalized with :func:`stpredict.pp.normalize`.
    genes
        Genes to estimate; all by default.
    sample_key
        Column of `obs` that names the section.
    n_repeats
        Number of random splits to average over.
    seed
        Random seed for the splits. Sections are independent of each other: each starts from this seed.
    layer
        Layer with the raw counts.
    key_added
        Name of the result; `"noise_ceiling"` when `None`.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `varm[key_added]`: table genes × sections, between -1 and 1; genes without signal scatter around 0. NaN for
      genes not asked for and for genes seen in fewer than 3 observations. Sections without counts have no column.
    - `uns["stpredict"][key_added]`: `size_factors`, `target_sum` or `theta`, `n_repeats`, `seed`, `layer`, `sections`, `n_genes`.

    Raises
    ------
    KeyError
        When the data were not normalized with `stp.pp.normalize`; the layer, `obs[sample_key]` or genes are missing.
    ValueError
        When the layer holds no counts, or no section has any.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import stpredict as stp
    >>> counts = np.random.default_rng(0).poisson(5, (40, 6)).astype(np.float32)
    >>> adata = ad.AnnData(counts, obs=pd.DataFrame({"sample": "A"}, index=[str(i) for i in range(40)]))
    >>> stp.pp.normalize(adata)
    >>> stp.tl.noise_ceiling(adata)
    >>> adata.varm["noise_ceiling"].shape
    (6, 1)
    """
    import pandas as pd

    check_key(key_added)
    container, adata = begin(data, copy, table_key)
    key = key_added or "noise_ceiling"
    normalization = read_record(adata, "normalize")
    if normalization is None:
        raise KeyError(
            "expected uns['stpredict']['normalize'], which says how X was made; found none; run stp.pp.normalize(adata)"
        )
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    check_layer(adata, layer, "pass the layer that holds the raw counts as `layer=`")
    names = list(adata.var_names) if genes is None else [str(gene) for gene in genes]
    check_genes(adata, names)
    samples = adata.obs[sample_key].astype(str).to_numpy()
    counts = adata.layers[layer]
    measured = measured_rows(adata, counts)
    check_counts(counts[measured], f"counts in layers[{layer!r}]")
    usable = measured & (np.asarray(np.nan_to_num(counts.sum(axis=1))).ravel() > 0)
    sections = list(dict.fromkeys(samples[usable]))
    if not sections:
        raise ValueError(f"expected counts in at least one section; found none in layers[{layer!r}]")

    columns = {}
    for section in sections:
        rows = np.flatnonzero(samples == section)
        values = np.full(adata.n_vars, np.nan)
        values[adata.var_names.get_indexer(names)] = section_ceiling(
            adata, rows, names, n_repeats=n_repeats, seed=seed, layer=layer
        )
        columns[escaped(section)] = values
    adata.varm[key] = pd.DataFrame(columns, index=adata.var_names)
    entry: dict[str, Any] = {
        name: normalization[name] for name in ("size_factors", "target_sum", "theta") if name in normalization
    }
    entry |= {"n_repeats": n_repeats, "seed": seed, "layer": layer, "sections": sections, "n_genes": len(names)}
    write_record(adata, key, entry)
    return container if copy else None


def section_ceiling(
    adata: AnnData,
    rows: np.ndarray,
    genes: Sequence[str],
    *,
    n_repeats: int = 10,
    seed: int = 0,
    layer: str = Key.COUNTS,
) -> np.ndarray:
    """Ceiling of each gene (G,) over some rows (a mask or indices), which should be of one section.

    NaN for every gene when the rows have no counts, or when no record of `stp.pp.normalize` says how `X` was made.
    """
    normalization = read_record(adata, "normalize")
    nothing = np.full(len(genes), np.nan)
    method = (normalization or {}).get("method")
    if normalization is None or method not in ("log1p", "pearson_residuals") or layer not in adata.layers:
        return nothing
    rows = np.arange(adata.n_obs)[rows]
    counts = adata.layers[layer][rows]
    measured = measured_rows(adata, adata.layers[layer])[rows]
    if not measured.any():
        return nothing
    if method == "pearson_residuals":
        depth = depth_of(adata)
        assert depth is not None  # there is a record and a layer
        at = rows[measured]
        counts = adata.layers[layer][at][:, adata.var_names.get_indexer(genes)]
        return residual_ceiling(counts, depth[at], theta=float(normalization["theta"]))
    panel = normalization.get("panel") if normalization["size_factors"] == "panel" else None
    return ceiling_of(
        counts if measured.all() else counts[measured],
        genes=adata.var_names.get_indexer(genes),
        size_columns=None if panel is None else adata.var_names.get_indexer(panel),
        target_sum=_target_sum(adata, normalization, rows[measured]),
        n_repeats=n_repeats,
        seed=seed,
    )


def _target_sum(adata: AnnData, normalization: Mapping[str, Any], rows: np.ndarray) -> float:
    """Total that some rows of a section were scaled to: about the median of their depths where that is what was asked for."""
    if normalization["target_sum"] != "median":
        return float(normalization["target_sum"])
    depth = depth_of(adata)
    return max(float(np.median(depth[rows])), 1.0) if depth is not None else 1.0
