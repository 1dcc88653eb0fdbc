"""What a prediction is compared with: expression, or values of observations; told by the record of the prediction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import few
from stpredict.slots._checks import check_genes
from stpredict.slots._expression import (
    marked_measured,
    matrix_of,
    measured_matrix,
    measured_rows,
    read_normalization,
    to_dense,
)
from stpredict.slots._keys import Key
from stpredict.slots._prediction import SOURCE
from stpredict.slots._provenance import read_record
from stpredict.slots._scale import RATE, measured_in, scale_of_truth
from stpredict.slots._values import MATRIX, OBS, read_values, value_names

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

_CALL = "put the values that were measured there, or score objects that have them"


@dataclass(frozen=True)
class Truth:
    """What was measured of the columns of a prediction.

    Attributes
    ----------
    adata
        The table.
    layer
        Layer with the expression instead of `X`.
    slot
        Where values of observations stand; `None` for expression.
    names
        What was measured.
    unit
        Unit of expression: that of `X`, of a layer, or rates of the counts.
    """

    adata: AnnData
    layer: str | None = None
    slot: str | None = None
    names: Sequence[str] = ()
    _values: Any = field(default=None, repr=False)
    unit: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_expression(self) -> bool:
        """Whether it is the expression of genes."""
        return self.slot is None

    @property
    def measured(self) -> np.ndarray:
        """Mask (n_obs,) of the observations with a measurement."""
        if self.slot is None:
            counted = self.unit.get("method") == RATE
            return measured_rows(
                self.adata, self.adata.layers[Key.COUNTS] if counted else matrix_of(self.adata, self.layer)
            )
        return np.isfinite(self._values.to_numpy()).all(axis=1)

    @property
    def where(self) -> str:
        """Name of the slot, for tables and messages."""
        if self.slot is None:
            return "X" if self.layer is None else f"layers[{self.layer!r}]"
        return str(self.slot) if self.slot in (OBS, MATRIX) else f"obsm[{self.slot!r}]"

    def read(self, names: Sequence[str], rows: Any = None) -> np.ndarray:
        """Measured values (n, len(names)) float64."""
        if self.unit.get("method") == RATE:
            return measured_in(self.adata, names, self.unit, rows)
        if self.slot is None:
            return to_dense(measured_matrix(self.adata, names, rows, self.layer)).astype(np.float64)
        values = self._values[list(names)].to_numpy()
        return values if rows is None else values[rows]

    def check(self, names: Sequence[str]) -> None:
        """Raise where a name is none of what was measured."""
        if self.slot is None:
            check_genes(self.adata, names)
            return
        missing = [name for name in names if name not in self._values]
        if missing or not len(names):
            raise KeyError(
                f"expected values of {self.where}: {few(self.names, 8)}; found {few(missing) or 'an empty list'}; correct them"
            )


def truth_of(adata: AnnData, keys: str | Sequence[str], layer: str | None = None) -> Truth:
    """What the predictions of one or several slots are compared with, all of the same kind.

    Raises
    ------
    KeyError
        When what the record names is not there, or nobody recorded how the expression was normalized.
    ValueError
        When the slots are compared with different things, or a layer is named for values of observations.
    """
    keys = [keys] if isinstance(keys, str) else list(keys)
    records = {key: read_record(adata, key) or {} for key in keys}
    slots = {key: record.get(SOURCE) for key, record in records.items()}
    if len(set(slots.values())) > 1:
        told = few(f"obsm[{key!r}] with {'expression' if slot is None else slot}" for key, slot in slots.items())
        raise ValueError(f"expected predictions of one target; found {told}; score them in calls of their own")
    slot = next(iter(slots.values()), None)
    if slot is None:
        unit = scale_of_truth(adata, keys, layer)
        if unit.get("method") != RATE:
            read_normalization(adata, layer)
        return Truth(adata, layer, None, list(adata.var_names), unit=unit)
    if layer is not None:
        raise ValueError(_no_layer(str(slot), layer))
    names = list(
        dict.fromkeys(str(name) for record in records.values() for name in np.atleast_1d(record.get("values", [])))
    )
    frame = read_values(adata, str(slot), names, what=_CALL)
    return Truth(adata, None, str(slot), names, frame)


def measured_values_of(adata: AnnData, key: str, names: Sequence[str], layer: str | None = None) -> pd.DataFrame:
    """What was measured of some columns of a prediction (n_obs, at most len(names)); without those that were not.

    Unlike :func:`truth_of` it asks for no record of a normalization, and for no measurement.
    """
    import pandas as pd

    slot = (read_record(adata, key) or {}).get(SOURCE)
    if slot is None:
        there = [name for name in names if name in adata.var_names]
        if not there or (adata.X is None and layer is None):
            return pd.DataFrame(index=adata.obs_names)
        values = to_dense(measured_matrix(adata, there, layer=layer))
        return pd.DataFrame(values, index=adata.obs_names, columns=there, copy=False)
    if layer is not None:
        raise ValueError(_no_layer(slot, layer))
    known = adata.obs.columns if slot == OBS else value_names(adata, slot) if slot in adata.obsm else []
    return (
        read_values(adata, slot, there)
        if (there := [n for n in names if n in known])
        else pd.DataFrame(index=adata.obs_names)
    )


def measured_columns(adata: AnnData, key: str, names: Sequence[str], layer: str | None = None) -> np.ndarray:
    """What was measured of columns of a prediction (n_obs, len(names)) float64; NaN for columns and observations without."""
    values = measured_values_of(adata, key, names, layer).reindex(columns=list(names)).to_numpy(dtype=float)
    if not predicts_values(adata, key):
        values[~marked_measured(adata)] = np.nan
    return values


def measured_of(adata: AnnData, key: str, names: Sequence[str], layer: str | None = None, rows: Any = None) -> Any:
    """What was measured of all of some columns of a prediction (n, len(names)); sparse expression stays sparse."""
    if not predicts_values(adata, key):
        return measured_matrix(adata, names, rows, layer)
    truth = truth_of(adata, key, layer)
    truth.check(names)
    return truth.read(names, rows)


def check_of_genes(adata: AnnData, key: str) -> None:
    """Raise where a slot holds predictions of values: their names are none of genes, even where genes are called the same."""
    slot = (read_record(adata, key) or {}).get(SOURCE)
    if slot is not None:
        raise ValueError(
            f"expected a prediction of genes in obsm[{key!r}]; found one of values ({slot}), which stp.tl.evaluate scores; name "
            "another slot with `key=`"
        )


def _no_layer(slot: str, layer: str) -> str:
    return f"expected no `layer=` for predictions of values, which are compared with {slot!r}; found {layer!r}; leave it out"


def predicts_values(adata: AnnData, key: str) -> bool:
    """Whether a slot holds predictions of values of observations."""
    return SOURCE in (read_record(adata, key) or {})
