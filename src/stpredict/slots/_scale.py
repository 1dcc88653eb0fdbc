"""The scale of expression: rates per count, log1p values and residuals, and the way from one to another by section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._moments import columnwise
from stpredict.metrics._log_normalize import log_normalize
from stpredict.metrics._pearson_residuals import proportions_of
from stpredict.metrics._rates import log1p_of_rates, rates_of_log1p, rates_of_residuals, residuals_of_rates
from stpredict.slots._depth import counted_rows, depth_of, section_codes, section_residuals
from stpredict.slots._expression import measured_matrix, taken, to_dense
from stpredict.slots._keys import Key
from stpredict.slots._matrix import numeric_matrix
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    from anndata import AnnData

RATE, LINEAR = "rate", "linear"
#: Bases of the logarithms of 1 + value.
BASES = {"log1p": np.e, "log2p1": 2.0}
_FIELDS = ("method", "unit", "target_sum", "theta", "layer")
_BY_NAME = {
    "log1p": {"method": "log1p", "target_sum": 1e4},
    "residuals": {"method": "pearson_residuals", "theta": 100.0},
}


def unit_in(record: Mapping[str, Any] | None) -> dict[str, Any]:
    """What a record of a normalization says of the unit of values."""
    return {name: record[name] for name in _FIELDS if name in record} if record else {}


def unit_of_prediction(adata: AnnData, key: str) -> dict[str, Any]:
    """Unit of a prediction: what its record says, or that of the one it lies beside, else that of `X`."""
    own = _main_record(adata, key)[0].get("unit")
    return dict(own) if own else unit_in(read_record(adata, "normalize"))


def scale_of_truth(adata: AnnData, keys: Sequence[str], layer: str | None) -> dict[str, Any]:
    """Unit that truth and predictions are compared in: that of `X`; rates where `X` was not normalized and all are rates."""
    if layer is not None:
        return {"method": "layer", "layer": layer}
    own = unit_in(read_record(adata, "normalize"))
    if not own and keys and all(unit_of_prediction(adata, key).get("method") == RATE for key in keys):
        return {"method": RATE}
    return own


def unit_named(adata: AnnData, name: str) -> dict[str, Any]:
    """The unit that a user asks for: `"rate"`, `"log1p"`, `"residuals"`, `"linear"`, or `"normalized"`, that of `X`.

    Raises
    ------
    ValueError
        When there is no such unit, or `X` has none that rates can be turned into.
    """
    own = unit_in(read_record(adata, "normalize"))
    if name == "normalized":
        if own.get("method") not in ("log1p", "pearson_residuals"):
            raise ValueError(
                f"expected X normalized by stp.pp.normalize for scale='normalized'; found {own.get('method')!r}; take "
                "'rate', 'log1p' or 'residuals'"
            )
        return own
    if name == LINEAR:
        return {"method": LINEAR}
    if name != RATE and name not in _BY_NAME:
        raise ValueError(f"expected scale to be 'rate', 'log1p', 'residuals', 'linear' or 'normalized'; found {name!r}")
    asked = {"method": RATE} if name == RATE else _BY_NAME[name]
    return own if own.get("method") == asked["method"] else dict(asked)


@dataclass(frozen=True)
class Scale:
    """What has to be known of a section, or of the training, to go from one scale to another.

    Attributes
    ----------
    depth
        (m,) depths of the observations.
    proportions
        (n_genes,) share of each gene in their counts.
    target_sum
        Total that the counts were scaled to, where that is the median of the section.
    """

    depth: np.ndarray
    proportions: np.ndarray
    target_sum: float

    def _sum(self, unit: Mapping[str, Any]) -> float:
        return self.target_sum if unit["target_sum"] == "median" else float(unit["target_sum"])

    def rates(self, values: np.ndarray, unit: Mapping[str, Any]) -> np.ndarray:
        """Rates (n, n_genes) of mean values of a unit; those of residuals may be below 0."""
        if unit["method"] == "log1p":
            return rates_of_log1p(values, self.depth, self._sum(unit))
        if unit["method"] == "pearson_residuals":
            return rates_of_residuals(values, self.proportions, self.depth, float(unit["theta"]))
        return values

    def of_rates(self, rates: np.ndarray, unit: Mapping[str, Any]) -> np.ndarray:
        """Mean values (n, n_genes) of rates in a unit."""
        if unit["method"] == "log1p":
            return log1p_of_rates(np.maximum(rates, 0), self.depth, self._sum(unit))
        if unit["method"] == "pearson_residuals":
            return residuals_of_rates(rates, self.proportions, self.depth, float(unit["theta"]))
        return rates


@dataclass(frozen=True)
class Origin:
    """What the predictions of an object were learned from: what they are worth follows from the depths of that.

    Attributes
    ----------
    code
        (n_obs,) number of the training behind each observation's prediction.
    scales
        Scale of each training; empty where nobody has written it down.
    """

    code: np.ndarray
    scales: list[Scale]

    def rates(self, values: np.ndarray, rows: np.ndarray, unit: Mapping[str, Any], own: Scale | None) -> np.ndarray:
        """Rates (n, n_genes) of predictions of some rows; by the scale of their own section where the training's is lost."""
        values = values.astype(np.float64)
        if unit.get("method") == RATE:
            return values
        found = np.full(values.shape, np.nan)
        if not known(unit):
            return found
        for number in np.unique(self.code[rows]):
            here = self.code[rows] == number
            scale = self.scales[number] if 0 <= number < len(self.scales) else own
            if scale is not None and here.all():
                return scale.rates(values, unit)
            if scale is not None:
                found[here] = scale.rates(values[here], unit)
        return found


def origin_of(adata: AnnData, key: str, genes: Sequence[str]) -> Origin:
    """Origin of a prediction, or of the one that it lies beside, for some of its genes."""
    import pandas as pd

    record, own = _main_record(adata, key)
    rates = record.get("training_rates")
    if rates is None or "training_depths" not in record:
        return Origin(np.zeros(adata.n_obs, dtype=np.int64), [])
    rates, depths = np.atleast_2d(np.asarray(rates, dtype=np.float64)), np.atleast_2d(record["training_depths"])
    names = pd.Index([str(name) for name in np.atleast_1d(record.get("genes", []))])
    at = names.get_indexer(pd.Index([str(gene) for gene in genes]))
    if rates.shape[1] != len(names) or (at < 0).any():
        return Origin(np.zeros(adata.n_obs, dtype=np.int64), [])
    code = np.zeros(adata.n_obs, dtype=np.int64)
    if len(rates) > 1:
        fold = Key.fold(own)
        code = adata.obs[fold].to_numpy(dtype=np.int64) if fold in adata.obs else code - 1
    scales = [Scale(depth, share, float(np.median(depth))) for depth, share in zip(depths, rates[:, at], strict=True)]
    return Origin(code, scales)


def _main_record(adata: AnnData, key: str) -> tuple[dict[str, Any], str]:
    """Record of a prediction, or of the one that it lies beside, and the slot of that."""
    record = read_record(adata, key) or {}
    owner = str(record.get("panel_key", "")).removesuffix(Key.panel(""))
    if "unit" not in record and owner and owner != key:
        return read_record(adata, owner) or {}, owner
    return record, key


def linear_values(values: np.ndarray, unit: Mapping[str, Any]) -> np.ndarray:
    """Values (n, n_genes) without their logarithm; what was predicted below 0 is 0 there, and only there."""
    if unit.get("method") not in BASES:
        raise ValueError(
            f"expected values in a logarithm of 1 + value for scale='linear'; found {unit or 'no record of a unit'}; take them as "
            "they are, without `scale=`"
        )
    return np.expm1(np.maximum(values, 0) * np.log(BASES[unit["method"]]))


def known(unit: Mapping[str, Any]) -> bool:
    """Whether values of a unit can be turned into rates."""
    return unit.get("method") in (RATE, "log1p", "pearson_residuals")


def same_unit(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two units are the same."""
    return all(one.get(name) == other.get(name) for name in _FIELDS)


def section_scale(adata: AnnData, rows: np.ndarray, genes: Sequence[str], sample: str | None = None) -> Scale | None:
    """The scale of a section by its own counts, over some rows of it; `None` where there are none."""
    depth = depth_of(adata)
    if depth is None or Key.COUNTS not in adata.layers:
        return None
    rows = rows[np.nan_to_num(depth[rows]) > 0]
    if not len(rows):
        return None
    return scale_of(adata, panel_counts(adata, rows, genes), depth[rows], sample)


def scale_of(adata: AnnData, counts: Any, depth: np.ndarray, sample: str | None = None) -> Scale:
    """The scale of a section by counts (n, n_genes) of observations of a depth (n,) above 0."""
    sums = (read_record(adata, "normalize") or {}).get("section_sums") or {}
    return Scale(depth, proportions_of(counts, depth), float(sums.get(sample, np.median(depth))))


def panel_counts(adata: AnnData, rows: np.ndarray, genes: Sequence[str]) -> Any:
    """Counts (n, n_genes) of some rows, dense, genes one after the other; genes that were not measured have NaN."""
    matrix: Any = numeric_matrix(adata.layers[Key.COUNTS], f"layers[{Key.COUNTS!r}]")
    at = adata.var_names.get_indexer(list(genes))
    found = columnwise(to_dense(taken(matrix, rows, at)))
    found[:, at < 0] = np.nan
    return found


def measured_in(
    adata: AnnData,
    genes: Sequence[str],
    unit: Mapping[str, Any],
    rows: np.ndarray | None = None,
    sample_key: str = Key.SAMPLE,
) -> np.ndarray:
    """Measured values (n, n_genes) of some rows in a unit: those of `X` where it is that of `X`, else from the counts."""
    rows = np.arange(adata.n_obs) if rows is None else rows
    own = read_record(adata, "normalize")
    if adata.X is not None and (not known(unit) or (own is not None and same_unit(unit, unit_in(own)))):
        return to_dense(measured_matrix(adata, genes, rows))
    depth = depth_of(adata)
    if depth is None or Key.COUNTS not in adata.layers:
        raise KeyError(
            f"expected layers['counts'] for measured values in the unit of the prediction ({unit.get('method')}); found none; "
            "put the raw counts there"
        )
    counts = panel_counts(adata, rows, genes)
    if unit["method"] == RATE:
        return counts / np.where(depth[rows] > 0, depth[rows], np.nan)[:, None]
    names, code = section_codes(adata, sample_key)
    counted = counted_rows(adata, adata.layers[Key.COUNTS], depth)
    if unit["method"] == "pearson_residuals":
        return section_residuals(counts, depth[rows], code[rows], counted[rows], theta=float(unit["theta"]))
    sums: Any = unit["target_sum"]
    if sums == "median":
        medians = [
            np.median(depth[counted & (code == i)]) if (counted & (code == i)).any() else 1.0 for i in range(len(names))
        ]
        sums = np.array(medians)[code[rows]]
    return np.asarray(log_normalize(counts, depth[rows], sums))


def converted(
    adata: AnnData, key: str, values: np.ndarray, genes: Sequence[str], scale: str, sample_key: str
) -> np.ndarray:
    """Predicted values (n_obs, n_genes) in another unit, section by section.

    What a value is worth follows from the depths of the training; what that is in another unit, from the depths and
    proportions of the section where it has counts, else from those of the training.

    Raises
    ------
    ValueError
        When the unit of the prediction is not known, or neither the section has counts nor are the training's recorded.
    """
    unit, to = unit_of_prediction(adata, key), unit_named(adata, scale)
    if same_unit(unit, to):
        return values
    if to["method"] == LINEAR:
        return linear_values(values, unit)
    if not known(unit):
        raise ValueError(
            f"expected a prediction of rates, log1p values or residuals to put it on another scale; found {unit or 'no record'} "
            f"of obsm[{key!r}]; read it as it is, without `scale=`"
        )
    origin = origin_of(adata, key, genes)
    names, code = section_codes(adata, sample_key)
    depth = depth_of(adata)
    counted = None
    if depth is not None and Key.COUNTS in adata.layers:
        counted = counted_rows(adata, adata.layers[Key.COUNTS], depth)
    result = np.full(values.shape, np.nan, dtype=np.float32)
    for number, name in enumerate(names):
        rows = np.flatnonzero(code == number)
        own = None if counted is None else section_scale(adata, rows[counted[rows]], genes, name)
        if own is None:
            first = int(origin.code[rows[0]])
            if not 0 <= first < len(origin.scales):
                raise ValueError(
                    f"expected counts in section {name!r}, or those of the training in the record of the prediction; found "
                    "neither; predict again with a model of counts, log1p values or residuals"
                )
            own = origin.scales[first]
        result[rows] = own.of_rates(origin.rates(values[rows], rows, unit, own), to)
    return np.clip(result, 0, None) if to["method"] == RATE else result
