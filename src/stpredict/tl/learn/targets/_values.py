"""Values of observations: which they are, their link, and where predictions go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import few
from stpredict.slots._keys import Key
from stpredict.slots._matrix import check_float32
from stpredict.slots._prediction import NAMES, SOURCE
from stpredict.slots._provenance import read_record
from stpredict.slots._rows import Rows
from stpredict.slots._values import MATRIX, OBS, read_values
from stpredict.targets import Values
from stpredict.tl.learn.targets._base import Keys, TargetSlots

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.training.targets import Target, ValueTarget

_SUM = 1e-3  # by which a sum of fractions may differ from 1: half precision leaves half of it


class ValueSlots(TargetSlots):
    """Columns of `obs` or a slot of `obsm`; predictions are tables in `obsm`."""

    kind = "values"
    request = Values
    names = "values"
    closed_form = True
    maps = True
    stores = True
    quantities = True
    skips_unmeasured = True

    def resolve(
        self, adata: AnnData, request: Values, train: np.ndarray, keys: Keys, *, allow_leakage: bool
    ) -> tuple[Target, list[str]]:
        """Read names and link; the range, and the means, are those of the training rows."""
        from stpredict.training.targets import ValueTarget

        frame = request_values(adata, request)
        values = frame.to_numpy()[train]
        if (values == values[:1]).all():
            raise ValueError(
                f"expected values that differ in {_where(request)}; found the same in all training observations"
            )
        link = request.link or ("softmax" if _are_fractions(values) else "identity")
        check_range(values, link, frame.columns, _where(request), adata.obs_names[train])
        names = tuple(map(str, frame.columns))
        return ValueTarget.of(names, link, values, _units(request, names), request.obsm or OBS), []

    def usable(self, adata: AnnData, request: Values) -> np.ndarray:
        """Observations with all of the values, whether or not their expression was measured."""
        frame = request_values(adata, request)
        known = frame.notna()
        if not known.all(axis=1).any():
            empty = frame.columns[~known.any()]
            what = f"no value at all in {few(empty)}" if len(empty) else "none without a gap"
            raise ValueError(
                f"expected observations with all values of {_where(request)}; found {what}; leave columns without values out"
            )
        return known.all(axis=1).to_numpy()

    def read(self, adata: AnnData, request: Values, target: Target, rows: Rows, keys: Keys) -> np.ndarray:
        """Values (n, n_values) float32; NaN in rows that lack one."""
        values = request_values(adata, request).to_numpy()[rows.index]
        check_float32(values, f"values of {_where(request)}")
        values[~rows.measured] = np.nan
        if target.link_name == "softmax":  # type: ignore[attr-defined]
            values /= values.sum(axis=1, keepdims=True)
        return values.astype(np.float32)

    def key(self, target: Target) -> str:
        """`obsm["predicted"]`."""
        return Key.PREDICTED

    def check(self, adata: AnnData, target: Target) -> None:
        """Accept any object: nobody recorded the unit of its values."""

    def record(self, target: Target) -> Mapping[str, Any]:
        """Where the values stand that predictions are compared with, their units and their link."""
        values: ValueTarget = target  # type: ignore[assignment]
        units = list(values.units) if any(values.units) else None
        return {SOURCE: values.slot, "units": units, "link": values.link_name}


def request_values(adata: AnnData, request: Values) -> pd.DataFrame:
    """Values (n_obs, n_values) of a request; an error where the slot holds a prediction."""
    if request.obsm is None:
        return read_values(adata, OBS, request.obs)
    record = read_record(adata, request.obsm) or {}
    if any(name in record for name in NAMES):
        raise ValueError(
            f"expected values that were measured in obsm[{request.obsm!r}]; found a prediction of {record.get('model')!r}; name "
            "the slot that it was fitted to"
        )
    return read_values(adata, request.obsm, request.columns)


def check_range(values: np.ndarray, link: str, columns: Any, where: str, rows: Any) -> None:
    """Raise where values (n, n_values) lie outside of the range of their link."""
    if link == "identity":
        return
    high = np.inf if link == "log" else 1.0
    outside = (values < 0) | (values > high)
    if outside.any():
        row, column = np.argwhere(outside)[0]
        limits = "of at least 0" if link == "log" else "between 0 and 1"
        raise ValueError(
            f"expected values {limits} in {where} for link={link!r}; found {int(outside.sum())} others (first: "
            f"{values[row, column]:g} in {columns[column]}, observation {rows[row]!r}); correct them, or pass link='identity'"
        )
    if link != "softmax":
        return
    if values.shape[1] < 2:
        raise ValueError(
            f"expected several values that sum to 1 in {where} for link='softmax'; found {columns[0]} alone; pass "
            "link='logit' for a fraction whose rest is not told"
        )
    off = np.abs(values.sum(axis=1) - 1) > _SUM
    if off.any():
        row = int(np.argmax(off))
        raise ValueError(
            f"expected rows of {where} that sum to 1 for link='softmax'; found {int(off.sum())} others (first: "
            f"{values[row].sum():g}, observation {rows[row]!r}); divide them by their sums, or pass link='logit' for fractions "
            "that are told each by itself"
        )


def _are_fractions(values: np.ndarray) -> bool:
    return values.shape[1] > 1 and bool((values >= 0).all() and (np.abs(values.sum(axis=1) - 1) <= _SUM).all())


def _where(request: Values) -> str:
    if request.obsm == MATRIX:
        return MATRIX
    return f"obsm[{request.obsm!r}]" if request.obs is None else f"obs[{', '.join(map(repr, request.obs))}]"


def _units(request: Values, names: tuple[str, ...]) -> tuple[str, ...]:
    units = request.units
    if units is None or isinstance(units, str):
        return (units or "",) * len(names)
    if isinstance(units, Mapping):
        unknown = [name for name in units if name not in names]
        if unknown:
            raise ValueError(f"expected units of {few(names, 8)}; found some of {few(unknown)}; correct the names")
        return tuple(str(units.get(name, "")) for name in names)
    if len(units) != len(names):
        raise ValueError(f"expected one unit, or one for each of the {len(names)} values; found {len(units)}")
    return tuple(map(str, units))
