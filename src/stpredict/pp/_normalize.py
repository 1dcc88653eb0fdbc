"""Counts to the normalized target of training."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict import _provenance
from stpredict._container import begin
from stpredict._keys import Key
from stpredict._validate import check_choice, check_counts, check_genes, check_layer, check_positive
from stpredict.metrics._log_normalize import log_normalize

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict._container import Container


def normalize(
    data: Container,
    *,
    size_factors: Literal["all", "panel"] = "all",
    panel: Sequence[str] | None = None,
    target_sum: float = 1e4,
    layer: str | None = None,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Scale the counts of every observation to the same total and take log1p.

    The counts are read from `layers["counts"]`; without that layer, from `X`, which is then kept as
    `layers["counts"]`. Calling the function again starts from the counts, so it can be repeated with other options.

    Parameters
    ----------
    data
        AnnData, or SpatialData whose table is used, with raw counts.
    size_factors
        `"all"` divides by the total over all measured genes. `"panel"` divides by the total over the genes of
        `panel` only, the habit of several published models: the value of one gene then depends on which
        others are in the panel.
    panel
        Genes whose counts make the size factors, for `size_factors="panel"`. All genes are normalized either way.
    target_sum
        Counts that every observation is scaled to.
    layer
        Layer with the raw counts, instead of `layers["counts"]`.
    copy
        Return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `X`: log1p of counts per `target_sum`, float32, sparse when the counts are. Observations without counts are 0;
      observations that were not measured (`obs["measured"]` is false, or their counts are NaN) keep NaN or 0.
    - `layers["counts"]`: the raw counts.
    - `uns["stpredict"]["normalize"]`: `method`, `size_factors`, `target_sum`, `panel` (for `"panel"`), and
      `n_empty`, the number of measured observations without counts.

    Raises
    ------
    ValueError
        The matrix holds negative numbers, fractions or NaN in some genes of an observation only; `panel` is missing
        or given without use.
    KeyError
        `layer`, the table or genes of `panel` are missing.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> from stpredict.pp._normalize import normalize
    >>> adata = ad.AnnData(np.array([[1.0, 3.0], [2.0, 2.0]], dtype=np.float32))
    >>> normalize(adata, target_sum=4)
    >>> adata.X.round(3)
    array([[0.693, 1.386],
           [1.099, 1.099]], dtype=float32)
    """
    from scipy import sparse

    container, adata = begin(data, copy, table_key)
    check_choice(size_factors, ("all", "panel"), "size_factors")
    target_sum = check_positive(target_sum, "target_sum")
    if size_factors == "panel":
        if panel is None:
            raise ValueError("expected `panel` with size_factors='panel'; found None; pass the genes, for example "
                             "adata.var_names[adata.var['selected']]")  # fmt: skip
        panel = list(panel)
        check_genes(adata, panel)
    elif panel is not None:
        raise ValueError("expected no `panel` with size_factors='all'; drop it, or pass size_factors='panel'")

    counts = _counts(adata, layer)
    measured = measured_rows(adata, counts)
    check_counts(counts if measured.all() else counts[measured], "counts in the measured observations")
    columns = slice(None) if panel is None else adata.var_names.get_indexer(panel)
    totals = np.asarray(counts[:, columns].sum(axis=1, dtype=np.float64)).ravel()
    n_empty = int((totals[measured] == 0).sum())

    values = log_normalize(counts.astype(np.float32), totals, target_sum)
    if sparse.issparse(values) and values.format not in {"csr", "csc"}:
        values = values.tocsr()
    adata.layers[Key.COUNTS] = counts
    adata.X = values
    entry: dict[str, Any] = {"method": "log1p", "size_factors": size_factors, "target_sum": target_sum}
    _provenance.write(adata, "normalize", {**entry, "panel": panel, "n_empty": n_empty})
    if n_empty:
        genes = "" if panel is None else " in the genes of the panel"
        warnings.warn(
            f"{n_empty} of {int(measured.sum())} observations have no counts{genes} and are 0 after normalization; "
            "consider dropping them",
            UserWarning,
            stacklevel=2,
        )
    return container if copy else None


def _counts(adata: AnnData, layer: str | None) -> Any:
    """Raw counts of the object: the layer named, `layers["counts"]`, or `X`."""
    if layer is not None:
        check_layer(adata, layer, "pass the layer that holds the raw counts as `layer=`")
        return adata.layers[layer]
    counts = adata.layers.get(Key.COUNTS, adata.X)
    if counts is None:
        raise ValueError("expected raw counts in layers['counts'] or X; found neither; set one of them")
    return counts


def measured_rows(adata: AnnData, values: Any) -> np.ndarray:
    """Mask (n_obs,) of observations with a measurement: not marked as unmeasured, and not NaN throughout."""
    from scipy import sparse

    marked = adata.obs["measured"].to_numpy() if "measured" in adata.obs else np.ones(adata.n_obs, dtype=bool)
    if marked.dtype != bool:
        raise TypeError(f"expected obs['measured'] to be boolean; found {marked.dtype}")
    if sparse.issparse(values) or values.dtype.kind != "f":
        return marked
    return marked & ~np.isnan(values).all(axis=1)
