"""Counts, or bulk expression, to the normalized target of training."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.cohorts._on_sections import is_cohort, write_sections
from stpredict.core._validate import check_choice, check_counts, check_finite, check_positive, few
from stpredict.metrics._log_normalize import log_normalize
from stpredict.slots._checks import check_genes, check_layer
from stpredict.slots._container import begin
from stpredict.slots._depth import counted_rows, section_codes, section_residuals, total_counts
from stpredict.slots._expression import measured_rows
from stpredict.slots._keys import Key
from stpredict.slots._matrix import check_float32, numeric_matrix
from stpredict.slots._provenance import read_record, write_record

_TARGET_SUM = 1e4
_THETA = 100.0
_DEFAULTS = {
    "method": None,
    "size_factors": "all",
    "panel": None,
    "target_sum": None,
    "theta": _THETA,
    "clip": None,
}
_BULK = ("fpkm-uq", "tpm")
_LARGE_GIB = 2.0  # of residuals, from which on a warning says what they take
_LOG_RANGE = 30.0  # log2 of the largest values, some 10^7, is 23; on the linear scale one abundant gene exceeds it

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container


def normalize(
    data: Container,
    *,
    method: Literal["pearson_residuals", "log1p"] | None = None,
    unit: Literal["counts", "fpkm-uq", "tpm"] = "counts",
    size_factors: Literal["all", "panel"] = "all",
    panel: Sequence[str] | None = None,
    target_sum: float | Literal["median"] | None = None,
    theta: float = _THETA,
    clip: float | None = None,
    layer: str | None = None,
    sample_key: str = Key.SAMPLE,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Turn counts into log1p values or Pearson residuals, or take log2(x + 1) of bulk expression.

    The same proportion of a gene gives other log1p values at other depths, so that these carry the depth of an
    observation; residuals are 0 on average at any depth :cite:p:`lause2021`. How much of a score that makes is said in the
    concepts, "Depth".

    The counts are read from `layers["counts"]`; without that layer, from `X`, which is then kept as `layers["counts"]`.
    Calling the function again starts from the counts, so it can be repeated with other options. Bulk expression in
    FPKM-UQ or TPM is scaled already and kept in `layers["fpkm_uq"]` or `layers["tpm"]` in the same way.

    Parameters
    ----------
    data
        AnnData, or SpatialData whose table is used, with raw counts, or bulk expression on a linear scale.
    method
        `"pearson_residuals"`: deviations from the proportion that a gene has in its section, in units of the counting noise;
        float32 and dense, 4 bytes for each observation and gene: where that is too much, leave genes out before
        (:func:`stpredict.pp.filter_genes`), and the depth is that of the genes that stay. `"log1p"`: every observation is
        scaled to the same total, `target_sum`; values are at least 0, and sparse when the counts are. `None`: log1p where
        `target_sum` is given, residuals otherwise.
    unit
        Unit of the input: `"counts"`; or `"fpkm-uq"` or `"tpm"` for bulk expression, of which log2(x + 1) is taken as
        by SEQUOIA :cite:p:`pizurica2024`, and with which the options of scaling must be left out.
    size_factors
        Genes whose total is the size factor: `"all"` divides by the total over all measured genes. `"panel"` divides by
        the total over the genes of `panel` only, as several published models do: the value of one gene then depends on
        which others are in the panel.
    panel
        Genes whose counts make the size factors, for `size_factors="panel"`. All genes are normalized either way.
    target_sum
        Total that the counts of every observation are scaled to before log1p, 10,000 when `None`; `"median"`: the median
        depth of the observations on tissue of the same section, other sections having others.
    theta
        Inverse dispersion of residuals: counts of mean `mu` are taken to have the variance `mu + mu**2 / theta`.
    clip
        Largest residual; the square root of the number of observations on tissue of the section when `None`.
    layer
        Layer with the raw counts or linear expression, instead of `layers["counts"]` (`"fpkm_uq"`, `"tpm"`).
    sample_key
        Column of `obs` that names the section, for `"median"` and residuals; an object without it is one section.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `X`: log1p of counts per `target_sum`, or log2(x + 1) of bulk expression, float32, sparse when the input is; or
      residuals, float32, dense. Observations without counts are 0; observations that were not measured (`obs["measured"]` is false, or their
      counts are NaN) keep NaN or 0.
    - `layers["counts"]`, `layers["fpkm_uq"]` or `layers["tpm"]`: the input.
    - `obs["depth"]`, of counts: the total over the genes behind the size factors, which stays when genes are left out.
    - `uns["stpredict"]["normalize"]`: `method` (`"log1p"`, `"pearson_residuals"` or `"log2p1"`), `n_empty`, the number of
      measured observations without counts, and `size_factors`, `panel` (for `"panel"`), `target_sum` with
      `section_sums` (for `"median"`), `theta`, `clip` (where it is given), `sample_key`, or `unit`.

    Raises
    ------
    ValueError
        When the matrix holds negative numbers, fractions (of counts) or NaN in some genes of an observation only; `X`
        was normalized before and the input is not there; an option is missing or given without use.
    KeyError
        When `layer`, the table or genes of `panel` are missing.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When observations have no counts, residuals take more than 2 GiB, or bulk expression looks logarithmic already.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> from stpredict.pp._normalize import normalize
    >>> adata = ad.AnnData(np.array([[1.0, 3.0], [2.0, 2.0]], dtype=np.float32))
    >>> normalize(adata)
    >>> adata.X.round(2)
    array([[-0.41,  0.31],
           [ 0.41, -0.31]], dtype=float32)
    >>> normalize(adata, method="log1p", target_sum=4)
    >>> adata.X.round(3)
    array([[0.693, 1.386],
           [1.099, 1.099]], dtype=float32)
    """
    if is_cohort(data):
        return write_sections(normalize, locals())
    from scipy import sparse

    container, adata = begin(data, copy, table_key, measured=True)
    check_choice(unit, ("counts", *_BULK), "unit")
    if method is not None:
        check_choice(method, ("log1p", "pearson_residuals"), "method")
    panel = None if panel is None else list(panel)
    options = dict(zip(_DEFAULTS, (method, size_factors, panel, target_sum, theta, clip), strict=True))
    if method is None and unit == "counts":
        method = "pearson_residuals" if target_sum is None else "log1p"
    senseless = _DEFAULTS if unit != "counts" else ("theta", "clip") if method == "log1p" else ("target_sum",)
    given = {name: options[name] for name in senseless if options[name] != _DEFAULTS[name]}
    if given and unit == "counts" and method == "pearson_residuals":
        raise ValueError(
            f"expected method='log1p' with target_sum={target_sum!r}; found method={method!r}, which has none"
        )
    if unit != "counts":
        if given:
            raise ValueError(
                f"expected no {few(_DEFAULTS)} with unit={unit!r}, which is scaled already; found "
                + ", ".join(f"{name}={'genes' if name == 'panel' else repr(value)}" for name, value in given.items())
            )
        _normalize_bulk(adata, unit, layer)
        return container if copy else None
    if given:
        raise ValueError(f"expected no {few(given)} with method={method!r}, which has none; leave it out")
    check_choice(size_factors, ("all", "panel"), "size_factors")
    target_sum = _TARGET_SUM if target_sum is None else target_sum
    total = None if target_sum == "median" else check_positive(target_sum, "target_sum")
    theta, clip = check_positive(theta, "theta"), None if clip is None else check_positive(clip, "clip")
    if size_factors == "panel":
        if panel is None:
            raise ValueError("expected `panel` with size_factors='panel'; found None; pass the genes, for example "
                             "adata.var_names[adata.var['selected']]")  # fmt: skip
        check_genes(adata, panel)
    elif panel is not None:
        raise ValueError("expected no `panel` with size_factors='all'; drop it, or pass size_factors='panel'")

    counts = numeric_matrix(_counts(adata, layer), "the counts")
    check_float32(counts, "counts")
    measured = measured_rows(adata, counts)
    check_counts(counts if measured.all() else counts[measured], "counts in the measured observations")
    depth = total_counts(counts if panel is None else counts[:, adata.var_names.get_indexer(panel)])
    n_empty = int((depth[measured] == 0).sum())
    entry: dict[str, Any] = {"method": method, "size_factors": size_factors}
    if method != "log1p" or total is None:
        entry["sample_key"] = sample_key
    names, section = section_codes(adata, sample_key)
    counted = counted_rows(adata, counts, depth)
    if method == "log1p":
        entry["target_sum"] = "median" if total is None else total
        sums: Any = total
        if total is None:
            medians = [float(np.median(depth[rows])) if rows.any() else 1.0 for rows in _sections(section, counted)]
            entry["section_sums"], sums = dict(zip(names, medians, strict=True)), np.array(medians)[section]
        values = log_normalize(counts.astype(np.float32), depth, sums)
        if sparse.issparse(values) and values.format not in {"csr", "csc"}:
            values = values.tocsr()
    else:
        entry |= {"theta": theta, "clip": clip}
        _warn_of_size(counts.shape)
        values = section_residuals(counts, depth, section, counted, theta=theta, clip=clip)
    adata.layers[Key.COUNTS] = counts
    adata.X = values
    adata.obs[Key.DEPTH] = depth
    write_record(adata, "normalize", {**entry, "panel": panel, "n_empty": n_empty})
    if n_empty:
        genes = "" if panel is None else " in the genes of the panel"
        warnings.warn(
            f"{n_empty} of {int(measured.sum())} observations have no counts{genes} and are 0 after normalization; "
            "consider dropping them",
            UserWarning,
            stacklevel=2,
        )
    return container if copy else None


def _warn_of_size(shape: tuple[int, int]) -> None:
    """Say what residuals of many observations and genes take, before the memory is taken."""
    gib = 4 * shape[0] * shape[1] / 2**30
    if gib > _LARGE_GIB:
        warnings.warn(
            f"Pearson residuals of {shape[0]:,} observations and {shape[1]:,} genes are dense and take {gib:.1f} GiB; "
            "leave genes out first with stpredict.pp.filter_genes(...), or pass method='log1p', which stays sparse",
            UserWarning,
            stacklevel=3,
        )


def _sections(section: np.ndarray, counted: np.ndarray) -> Iterator[np.ndarray]:
    """Mask (n_obs,) of the counted observations of each section."""
    return (counted & (section == code) for code in range(int(section.max(initial=-1)) + 1))


def _normalize_bulk(adata: AnnData, unit: str, layer: str | None) -> None:
    """Take log2(x + 1) of expression on a linear scale, which is kept in a layer named after the unit."""
    from scipy import sparse

    layer_kept = unit.replace("-", "_")
    if layer is not None:
        check_layer(adata, layer, f"pass the layer that holds the {unit.upper()} values as `layer=`")
        linear = adata.layers[layer]
    elif layer_kept in adata.layers:
        linear = adata.layers[layer_kept]
    elif (record := read_record(adata, "normalize")) is not None:
        raise ValueError(
            f"expected {unit.upper()} values in layers[{layer_kept!r}] of an object that was normalized before "
            f"({record.get('method')}, {record.get('unit', 'counts')}); found none; pass their layer as `layer=`"
        )
    elif adata.X is None:
        raise ValueError(f"expected {unit.upper()} values in X; found none; set it, or pass `layer=`")
    else:
        linear = adata.X
    linear = numeric_matrix(linear, f"{unit.upper()} values")
    check_float32(linear, f"{unit.upper()} values")
    measured = measured_rows(adata, linear)
    rows = linear if measured.all() else linear[measured]
    values = rows.data if sparse.issparse(rows) else np.asarray(rows)
    check_finite(
        values, f"{unit.upper()} values in the measured observations",
        "drop these genes, or mark the observations as unmeasured in obs['measured']",
    )  # fmt: skip
    smallest, largest = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    if smallest < 0:
        raise ValueError(
            f"expected non-negative {unit.upper()} values on the linear scale; found {smallest:g}; these look "
            "logarithmic or standardized: undo that first, or fit on them with `layer=`"
        )
    if 0 < largest < _LOG_RANGE:
        warnings.warn(
            f"the largest value is {largest:g}: this looks like log2 of {unit.upper()} rather than {unit.upper()}, and the "
            "logarithm was taken once more; pass values on the linear scale",
            UserWarning,
            stacklevel=3,
        )
    result: Any = linear.astype(np.float32) if sparse.issparse(linear) else np.asarray(linear, dtype=np.float32)
    if sparse.issparse(result):
        result = result.copy() if result.format in {"csr", "csc"} else result.tocsr()
        result.data = np.log2(result.data + np.float32(1))
    else:
        with np.errstate(invalid="ignore"):  # whatever unmeasured rows hold
            result = np.log2(result + np.float32(1))
    adata.layers[layer_kept] = linear
    adata.X = result
    n_empty = int((np.asarray(rows.sum(axis=1)).ravel() == 0).sum())
    write_record(adata, "normalize", {"method": "log2p1", "unit": unit, "n_empty": n_empty})
    if n_empty:
        warnings.warn(
            f"{n_empty} of {int(measured.sum())} observations have no expression in any gene; consider dropping them",
            UserWarning,
            stacklevel=3,
        )


def _counts(adata: AnnData, layer: str | None) -> Any:
    """Raw counts of the object: the layer named, `layers["counts"]`, or `X`."""
    if layer is not None:
        check_layer(adata, layer, "pass the layer that holds the raw counts as `layer=`")
        return adata.layers[layer]
    counts = adata.layers.get(Key.COUNTS, adata.X)
    if counts is None:
        raise ValueError("expected raw counts in layers['counts'] or X; found neither; set one of them")
    return counts
