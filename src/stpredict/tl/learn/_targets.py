"""What is to be predicted: genes and their measured expression, or classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from stpredict.core._validate import check_finite, few
from stpredict.slots._checks import check_genes, check_layer, check_obs
from stpredict.slots._keys import Key
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    from anndata import AnnData

Panel: TypeAlias = "None | str | Sequence[str] | Mapping[str, Any]"


def choose_panel(
    adata: AnnData,
    panel: Panel,
    rows: np.ndarray,
    *,
    layer: str | None,
    sample_key: str,
    patient_key: str,
    allow_leakage: bool,
) -> list[str]:
    """The genes to predict: a list, a selection run on these rows, a column of `var`, or every gene.

    A selection reads the sections and the layer that the fit reads, unless its own options say otherwise. One that saw
    patients outside the training rows is refused: it would let the test choose its own genes.
    """
    if isinstance(panel, Mapping) or (isinstance(panel, str) and panel in {"moran", "spatial_hvg", "mean"}):
        from stpredict.pp._select_genes import select_panel

        chosen = dict(panel) if isinstance(panel, Mapping) else {"method": panel}
        options: dict[str, Any] = {"layer": layer, "sample_key": sample_key} | chosen
        return select_panel(adata, options.pop("method", "moran"), rows, **options)
    if panel is not None and not isinstance(panel, str):
        genes = [str(gene) for gene in panel]
        check_genes(adata, genes)
        return genes
    key = panel or Key.SELECTED
    if key not in adata.var and panel is not None:
        raise KeyError(f"expected var[{panel!r}]; found {list(adata.var.columns)}; run stp.pp.select_genes first")
    strangers = panel_strangers(adata, panel, rows, patient_key)
    if strangers and not allow_leakage:
        filtered = key not in adata.var
        what, call = (
            ("the list of genes", "stp.pp.filter_genes") if filtered else (f"var[{key!r}]", "stp.pp.select_genes")
        )
        raise ValueError(
            f"expected a panel selected on training patients only; found {few(strangers)} among the patients that "
            f"{what} was selected on; call {call} with `train=`, or pass panel={{'method': …}} to select it inside the "
            "training set"
        )
    if key not in adata.var:
        return list(adata.var_names)
    genes = list(adata.var_names[adata.var[key].to_numpy(dtype=bool)])
    check_genes(adata, genes)
    return genes


def panel_strangers(adata: AnnData, panel: Panel, rows: np.ndarray, patient_key: str) -> list[str]:
    """Patients outside these rows that the column of `var` behind a panel was selected on."""
    key = panel or Key.SELECTED
    if not isinstance(key, str):
        return []
    if key not in adata.var:
        key = "filter_genes"  # every gene that a filter left
    record = read_record(adata, key) or {}
    if record.get("method") == "given":
        return []
    here = set(adata.obs[patient_key].astype(str).to_numpy()[rows])
    return sorted(set(map(str, np.atleast_1d(record.get("patients", [])))) - here)


def read_target(adata: AnnData, panel: Sequence[str], rows: np.ndarray, layer: str | None) -> np.ndarray:
    """Target (n, n_genes) float32 of the panel for some rows."""
    columns = adata.var_names.get_indexer(panel)
    matrix = adata.X if layer is None else adata.layers[layer]
    values = matrix[rows][:, columns]
    values = np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float32)
    check_finite(values, "expression of the training observations", "leave unmeasured sections out with `train=`")
    return values


def read_measured(
    adata: AnnData, panel: Sequence[str], rows: np.ndarray, layer: str | None, *, counts: bool
) -> dict[str, Any]:
    """Target of some rows and, where `counts` are wanted, their raw counts and size factors."""
    values = {"target": read_target(adata, panel, rows, layer)}
    if not counts:
        return values
    check_layer(adata, Key.COUNTS, "run stp.pp.normalize(adata), or fit without the likelihood of counts (zinb=0)")
    matrix = adata.layers[Key.COUNTS][rows]
    record = read_record(adata, "normalize") or {}
    scaled_by = record.get("panel")
    totals = matrix if scaled_by is None else matrix[:, adata.var_names.get_indexer(scaled_by)]
    depth = np.asarray(totals.sum(axis=1), dtype=np.float64).ravel()
    chosen = matrix[:, adata.var_names.get_indexer(panel)]
    values["counts"] = np.asarray(chosen.toarray() if hasattr(chosen, "toarray") else chosen, dtype=np.float32)
    values["size_factor"] = (depth / max(float(np.median(depth)), 1.0)).astype(np.float32)
    return values


@dataclass(frozen=True)
class Classes:
    """A column of `obs` with classes to predict."""

    key: str
    names: tuple[str, ...]

    @property
    def outputs(self) -> list[str]:
        """What is predicted: the second of two classes, or every class."""
        return [self.names[1]] if len(self.names) == 2 else list(self.names)


def read_classes(adata: AnnData, key: str, rows: np.ndarray) -> Classes:
    """Classes of a column of `obs`, all of which must be among the training rows."""
    import pandas as pd

    check_obs(adata, key, "name the column with the classes")
    column = adata.obs[key]
    known = column[column.notna()]
    names = known.cat.categories if isinstance(known.dtype, pd.CategoricalDtype) else sorted(known.unique())
    if known.dtype.kind == "f" or len(names) < 2:
        raise ValueError(
            f"expected two or more classes in obs[{key!r}] (boolean, strings or categories); found "
            f"{known.dtype} with {len(names)} values"
        )
    absent = [str(name) for name in names if not (column[rows] == name).any()]
    if absent:
        raise ValueError(
            f"expected every class of obs[{key!r}] among the training observations; found none of {few(absent)}; "
            "train on sections that have it, or remove the unused category"
        )
    return Classes(key, tuple(str(name) for name in names))


def class_codes(adata: AnnData, classes: Classes) -> np.ndarray:
    """Number of each observation's class (n_obs,) int64, -1 where it is not known."""
    import pandas as pd

    column = adata.obs[classes.key]
    text = column.astype(object).where(column.notna(), None).map(lambda value: None if value is None else str(value))
    return pd.Index(classes.names).get_indexer(text).astype(np.int64)
