"""Spatial autocorrelation of every gene in every section."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._file_rows import read_rows
from stpredict.metrics._morans_i import morans_i
from stpredict.pp._spatial_graph import spatial_weights
from stpredict.slots._checks import as_mask, check_genes, check_obs, check_obsm
from stpredict.slots._container import begin
from stpredict.slots._expression import matrix_of, usable_rows
from stpredict.slots._keys import Key, escaped
from stpredict.slots._positions import positions_of
from stpredict.slots._provenance import write_record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container

_MIN_OBSERVATIONS = 4  # fewer have no variance under randomization


def spatially_variable(
    data: Container,
    *,
    n_neighbors: int = 15,
    layer: str | None = None,
    genes: Sequence[str] | None = None,
    train: np.ndarray | str | None = None,
    sample_key: str = Key.SAMPLE,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Compute Moran's I :cite:p:`moran1950,cliff1981` and its one-sided p-value for every gene within every section.

    Neighbors are the nearest observations of the same section by distance on the tissue, with weight 1; distances
    on the lattice would stretch the tissue, because lattice steps differ along rows and columns.

    Parameters
    ----------
    data
        AnnData, or SpatialData whose table is used, with `obsm["spatial"]` and a normalized `X`.
    n_neighbors
        Number of neighbors of each observation, at most all others of the section.
    layer
        Layer to read instead of `X`.
    genes
        Genes to test; all by default.
    train
        Observations to use, a boolean array (n_obs,) or a column of `obs`; sections without any have no column. All
        when `None`.
    sample_key
        Column of `obs` that names the section.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `varm["moran_i"]`: Moran's I, table genes × sections; NaN for genes not tested or constant in a section.
    - `varm["moran_p"]`: p-value under randomization, of the alternative of positive autocorrelation.
    - `uns["stpredict"]["spatially_variable"]`: `n_neighbors`, `layer`, `sections`.

    Raises
    ------
    KeyError
        When `obsm["spatial"]`, `obs[sample_key]`, the layer or genes are missing.
    ValueError
        When a section has fewer than 4 measured observations, or values are not finite.
    TypeError
        When `data` is neither AnnData nor SpatialData. Also when `obs[train]` is not boolean.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> from stpredict.pp._spatially_variable import spatially_variable
    >>> x, y = np.meshgrid(np.arange(8.0), np.arange(8.0))
    >>> values = np.stack([x.ravel(), np.random.default_rng(0).random(64)], axis=1)
    >>> adata = ad.AnnData(values, obs=pd.DataFrame({"sample": "A"}, index=[str(i) for i in range(64)]))
    >>> adata.obsm["spatial"] = np.stack([x.ravel(), y.ravel()], axis=1)
    >>> spatially_variable(adata)
    >>> (adata.varm["moran_p"]["A"] < 0.01).tolist()
    [True, False]
    """
    container, adata = begin(data, copy, table_key, measured=True)
    names = list(adata.var_names) if genes is None else [str(gene) for gene in genes]
    check_genes(adata, names)
    rows = usable_rows(adata, as_mask(adata, train), layer)
    matrix = matrix_of(adata, layer)
    moran_i, moran_p = section_morans_i(adata, rows, names, matrix, n_neighbors=n_neighbors, sample_key=sample_key)
    write_moran(adata, moran_i, moran_p)
    entry = {"n_neighbors": n_neighbors, "layer": layer, "sections": list(moran_i.columns)}
    write_record(adata, "spatially_variable", entry)
    return container if copy else None


def section_morans_i(
    adata: AnnData, rows: np.ndarray, genes: Sequence[str], matrix: Any, *, n_neighbors: int, sample_key: str
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Moran's I and p of values (n_obs, n_vars), tables genes × sections, over the rows of a mask (n_obs,)."""
    import pandas as pd

    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    check_obsm(adata, Key.SPATIAL, "read the data with stp.io, which writes it")
    samples = adata.obs[sample_key].astype(str).to_numpy()
    sections = list(dict.fromkeys(samples[rows]))
    sizes = {section: int((samples[rows] == section).sum()) for section in sections}
    small = [section for section, size in sizes.items() if size < _MIN_OBSERVATIONS]
    if small:
        raise ValueError(
            f"expected at least {_MIN_OBSERVATIONS} measured observations in every section; found fewer in "
            f"{', '.join(small[:5])}; leave these sections out with `train=`"
        )
    xy = positions_of(adata)
    columns = adata.var_names.get_indexer(genes)
    all_genes = len(columns) == adata.n_vars and bool((columns == np.arange(adata.n_vars)).all())
    statistic, p_value = {}, {}
    for section in sections:
        section_rows = np.flatnonzero(rows & (samples == section))
        values = read_rows(matrix, section_rows)
        values = values if all_genes else values[:, columns]
        result = morans_i(values, spatial_weights(xy[section_rows], n_neighbors))
        statistic[section], p_value[section] = result["I"].to_numpy(), result["p"].to_numpy()
    index = pd.Index(genes)
    return pd.DataFrame(statistic, index=index), pd.DataFrame(p_value, index=index)


def write_moran(adata: AnnData, moran_i: pd.DataFrame, moran_p: pd.DataFrame) -> None:
    """Store both tables in `varm`, with NaN for genes that were not tested."""
    for name, table in (("moran_i", moran_i), ("moran_p", moran_p)):
        adata.varm[name] = table.reindex(adata.var_names).rename(columns=escaped)
