"""The logarithm of the variance over the mean of every gene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.metrics._log_normalize import log_normalize
from stpredict.slots._checks import as_mask, check_obs
from stpredict.slots._container import begin
from stpredict.slots._depth import depth_of
from stpredict.slots._expression import matrix_of, usable_rows
from stpredict.slots._keys import Key, check_key, escaped
from stpredict.slots._provenance import read_record, write_record

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container

_KEY = "log_vmr"
_LARGEST = 30.0  # log1p of more counts than a spot can have
_BLOCK = 2**21  # values of a dense matrix that are worked on at once
_CONSTANT = 1e-20  # of the squared mean; what rounding leaves of no variance at all


def log_vmr(
    data: Container,
    *,
    layer: str | None = None,
    train: np.ndarray | str | None = None,
    sample_key: str = Key.SAMPLE,
    key_added: str | None = None,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    r"""Compute the log of the variance over the mean of every gene, a statistic of genes and no normalization.

    For log-normalized values x it is :math:`\ln(\mathrm{var}(e^x - 1) / \mathrm{mean}(e^x - 1))` over observations,
    with the variance of a sample, as Seurat's `LogVMR` :cite:p:`satija2015`. It says how much more a gene varies than
    counting noise alone would explain, and replaces Moran's I where positions should not matter. Values for training
    come from :func:`stpredict.pp.normalize`.

    Parameters
    ----------
    data
        AnnData, or SpatialData whose table is used, with the `X` of :func:`stpredict.pp.normalize`.
    layer
        Layer with log-normalized values, log(1 + x), to read instead of `X`. Where `X` holds Pearson residuals, log1p of the
        counts per 10,000 is read.
    train
        Observations to use, a boolean array (n_obs,) or a column of `obs`; all measured ones when `None`.
    sample_key
        Column of `obs` that names the section.
    key_added
        Name of the result, `"log_vmr"` by default.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `var[key_added]`: over all observations used, whatever their section.
    - `varm[key_added]`: within each section, table genes × sections.
    - `uns["stpredict"][key_added]`: `layer`, `sections`.

    Genes without counts or without variance have NaN, as do all genes of sections with a single observation.

    Raises
    ------
    KeyError
        When `obs[sample_key]`, the layer or the column of `train` are missing.
    ValueError
        When the values are not log(1 + x) of counts.
    TypeError
        When `data` is neither AnnData nor SpatialData. Also when `obs[train]` is not boolean.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import stpredict as stp
    >>> counts = np.array([[1.0, 0.0], [1.0, 3.0], [2.0, 0.0]])
    >>> adata = ad.AnnData(np.log1p(counts), obs=pd.DataFrame({"sample": "A"}, index=list("abc")))
    >>> stp.pp.log_vmr(adata)
    >>> adata.var["log_vmr"].round(3).tolist()
    [-1.386, 1.099]
    """
    import pandas as pd

    check_key(key_added)
    container, adata = begin(data, copy, table_key, measured=True)
    key = key_added or _KEY
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    rows = np.flatnonzero(usable_rows(adata, as_mask(adata, train), layer))
    values = _logarithms(adata, layer)[rows]
    _check_logarithms(adata, values, layer)
    codes, sections = pd.factorize(adata.obs[sample_key].astype(str).to_numpy()[rows])
    within = grouped_log_vmr(values, codes, len(sections))
    pooled = within[0] if len(sections) == 1 else grouped_log_vmr(values, np.zeros(len(rows), dtype=np.int64), 1)[0]
    adata.var[key] = pooled
    adata.varm[key] = pd.DataFrame(within.T, index=adata.var_names, columns=[escaped(name) for name in sections])
    write_record(adata, key, {"layer": layer, "sections": list(sections)})
    return container if copy else None


def _logarithms(adata: AnnData, layer: str | None) -> Any:
    """`X` or a layer; where `X` holds residuals, log1p of their counts per 10,000."""
    record = read_record(adata, "normalize") or {}
    if layer is None and record.get("method") == "pearson_residuals" and Key.COUNTS in adata.layers:
        depth = depth_of(adata)
        assert depth is not None  # there are counts
        return log_normalize(adata.layers[Key.COUNTS], depth)
    return matrix_of(adata, layer)


def grouped_log_vmr(values: Any, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Log of variance over mean of expm1 of values (n, G), dense or sparse, by group 0 … n_groups - 1 (n_groups, G)."""
    from scipy import sparse

    step = values.shape[1] if sparse.issparse(values) else max(1, _BLOCK // len(group))
    starts = range(0, values.shape[1], max(1, step))
    parts = [_moments(values[:, start : start + step], group, n_groups) for start in starts]
    if not parts:
        return np.empty((n_groups, 0))
    mean, variance = (np.concatenate(moment, axis=1) for moment in zip(*parts, strict=True))
    ratio = np.full(mean.shape, np.nan)
    np.divide(variance, mean, out=ratio, where=(mean > 0) & (variance > _CONSTANT * mean**2))
    return np.log(ratio)


def _moments(values: Any, group: np.ndarray, n_groups: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance (n_groups, G) of expm1 of values; the variance from differences to the mean, for accuracy."""
    from scipy import sparse

    n = len(group)
    size = np.bincount(group, minlength=n_groups)[:, None].astype(float)
    degrees = np.where(size > 1, size - 1, np.nan)
    member = sparse.csr_matrix((np.ones(n), (group, np.arange(n))), shape=(n_groups, n))
    if not sparse.issparse(values):
        linear = np.expm1(np.asarray(values, dtype=np.float64))
        mean = member @ linear / size
        linear -= mean[group]
        return mean, member @ linear**2 / degrees
    linear = sparse.csr_matrix(values, dtype=np.float64, copy=True)
    linear.data = np.expm1(linear.data)
    mean = (member @ linear).toarray() / size
    stored = sparse.csr_matrix((np.ones_like(linear.data), linear.indices, linear.indptr), shape=linear.shape)
    n_zeros = size - (member @ stored).toarray()
    row = np.repeat(np.arange(n), np.diff(linear.indptr))
    linear.data = (linear.data - mean[group[row], linear.indices]) ** 2
    return mean, ((member @ linear).toarray() + n_zeros * mean**2) / degrees


def _check_logarithms(adata: AnnData, values: Any, layer: str | None) -> None:
    record = read_record(adata, "normalize") or {}
    method = record.get("method", "log1p")
    if layer is None and method not in ("log1p", "pearson_residuals"):
        raise ValueError(
            f"expected X normalized as log(1 + x) of counts; found {method!r} in uns['stpredict']['normalize']; pass a layer "
            "with such values as `layer=`"
        )
    stored = values.data if hasattr(values, "tocsr") else np.asarray(values)
    if stored.size and not (np.isfinite(stored).all() and stored.min() >= 0 and stored.max() <= _LARGEST):
        raise ValueError(
            f"expected log(1 + x) of counts, between 0 and {_LARGEST:g}; found values from {np.min(stored):g} to "
            f"{np.max(stored):g}; run stp.pp.normalize(adata), or name the layer with `layer=`"
        )
