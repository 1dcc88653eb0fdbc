"""Expression of genes: which of them, their values, and where predictions go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._file_rows import FileRows, FileSparseRows, FileTable, rows_in_file
from stpredict.core._validate import check_finite, check_unique, few
from stpredict.metrics._pearson_residuals import proportions_of
from stpredict.slots._booleans import read_bool
from stpredict.slots._checks import check_genes
from stpredict.slots._depth import depth_of
from stpredict.slots._expression import matrix_of, measured_rows, read_normalization
from stpredict.slots._keys import Key
from stpredict.slots._marks import UNKNOWN
from stpredict.slots._matrix import numeric_matrix, part_of
from stpredict.slots._people import strangers
from stpredict.slots._provenance import read_record
from stpredict.slots._rows import Rows
from stpredict.slots._selections import cut_to, taken_from
from stpredict.targets import Expression
from stpredict.targets._requests import Panel
from stpredict.tl.learn.targets._base import Keys, TargetSlots
from stpredict.tl.learn.targets._within import PartRows, PartSections, training_part

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.training.targets import Target

_CALL = "leave unmeasured sections out with `train=`"
_QUANTILES = 16  # of depths, in the middle of equal shares
#: Methods of :func:`stpredict.pp.select_genes` that a panel may name.
SELECTIONS = frozenset({"moran", "spatial_hvg", "mean"})


class ExpressionSlots(TargetSlots):
    """`X` or a layer; predictions are tables in `obsm`."""

    kind = "expression"
    request = Expression
    closed_form = True
    maps = True
    stores = True
    quantities = True

    def resolve(
        self, adata: AnnData, request: Expression, train: np.ndarray, keys: Keys, *, allow_leakage: bool
    ) -> tuple[Target, list[str]]:
        """Choose the panel on the training rows, and read how it is normalized."""
        from stpredict.training.targets import ExpressionTarget

        check_unique(adata.var_names, "var_names (adata.var_names_make_unique() does that)")
        normalization = read_normalization(adata, request.layer)
        genes = choose_panel(adata, request, train, keys, allow_leakage=allow_leakage)
        rates: tuple[float, ...] = ()
        depths: tuple[float, ...] = ()
        if normalization["method"] in ("log1p", "pearson_residuals") and Key.COUNTS in adata.layers:
            rates, depths = training_rates(*panel_counts_of(adata, genes, np.flatnonzero(train)))
        target = ExpressionTarget(tuple(genes), normalization, rates, depths)
        return target, panel_strangers(adata, request, train, keys.patient)

    def usable(self, adata: AnnData, request: Expression) -> np.ndarray:
        """Observations with a measurement."""
        return measured_rows(adata, matrix_of(adata, request.layer))

    def read(self, adata: AnnData, request: Expression, target: Target, rows: Rows, keys: Keys) -> np.ndarray:
        """Values (n, n_genes) float32; NaN where nothing was measured."""
        columns = adata.var_names.get_indexer(target.names)
        whole = matrix_of(adata, request.layer)
        chosen = np.zeros(adata.n_obs, dtype=bool)
        chosen[rows.index] = rows.measured
        part = PartSections(adata, chosen, columns, target.normalization, keys.sample)  # type: ignore[attr-defined]
        if (source := rows_in_file(whole)) is not None:
            return _in_file(source, columns, rows, part)  # type: ignore[return-value]
        values = part_of(whole, rows.index, columns, "the target")
        if (again := np.flatnonzero(part.again[rows.index])).size:
            values = values.copy()
            values[again] = part.values(rows.index[again])
        measured = values if rows.measured.all() else values[rows.measured]
        check_finite(measured, "expression of the training observations", _CALL)
        return values if measured is values else np.where(rows.measured[:, None], values, np.float32(np.nan))

    def key(self, target: Target) -> str:
        """`obsm["predicted"]`."""
        return Key.PREDICTED

    def check(self, adata: AnnData, target: Target) -> None:
        """Raise when the object says that it is normalized otherwise than the training was; name both sides."""
        check_normalization(adata, target.normalization)  # type: ignore[attr-defined]


def _in_file(
    source: FileRows | FileSparseRows, columns: np.ndarray, rows: Rows, part: PartSections
) -> FileTable | PartRows:
    """The same values where the matrix is in a file, read when they are asked for."""
    kept = rows.index[rows.measured]
    check_finite(FileTable([source], kept, columns), "expression of the training observations", _CALL)  # type: ignore[arg-type]
    values = FileTable([source], rows.index, columns, blank=None if rows.measured.all() else ~rows.measured)
    return PartRows(values, rows.index, part) if part.again.any() else values


def choose_panel(
    adata: AnnData, request: Expression, train: np.ndarray, keys: Keys, *, allow_leakage: bool
) -> list[str]:
    """The genes to predict: a list, a selection run on the training rows (n_obs,), a column of `var`, or every gene.

    A selection reads the sections and the layer that the fit reads, unless its own options say otherwise. One that saw
    patients outside the training rows is refused: it would let the test choose its own genes.
    """
    panel = request.panel
    if not allow_leakage:
        _check_origin(adata, request, train, keys.patient)
    if isinstance(panel, Mapping) or (isinstance(panel, str) and panel in SELECTIONS):
        from stpredict.pp._select_genes import select_panel

        chosen = dict(panel) if isinstance(panel, Mapping) else {"method": panel}
        options: dict[str, Any] = {"layer": request.layer, "sample_key": keys.sample} | chosen
        unit = {} if options["layer"] is not None else read_record(adata, "normalize") or {}
        source, rows, values = training_part(adata, train, unit, keys.sample)
        genes = select_panel(source, options.pop("method", "moran"), rows, values=values, **options)
    elif panel is not None and not isinstance(panel, str):
        genes = [str(gene) for gene in panel]
    else:
        genes = _recorded_panel(adata, request, train, keys, allow_leakage=allow_leakage)
    check_genes(adata, [*genes, *(gene for gene in request.always if gene not in set(genes))])
    if request.always:
        asked = {*genes, *request.always}
        return [gene for gene in adata.var_names if gene in asked]
    return genes


def _check_origin(adata: AnnData, request: Expression, train: np.ndarray, patient_key: str) -> None:
    """Raise where genes that were listed are those of a selection on other patients, or all genes of the object are."""
    people = adata.obs[patient_key].astype(str)[train].unique()
    listed = _listed(request)
    same = [(selection, "the listed genes") for selection, same in taken_from(adata, listed) if same]
    for selection, what in [*same, *((selection, "the genes of this object") for selection in cut_to(adata))]:
        others = [name for name in strangers(selection.patients, people) if name != UNKNOWN]
        if others and (what != "the genes of this object" or Key.SELECTED not in adata.var):
            raise ValueError(
                f"expected a panel chosen on training patients only; found {what} to be those of {selection.name}, which "
                f"were selected on {few(others)} too; pass target={{'panel': {{'method': …}}}} to select genes inside the "
                "training set, of all genes that were measured, or allow_leakage=True and have every score marked as leaky"
            )


def _listed(request: Expression) -> list[str]:
    """Genes that the user named, rather than a column or a way to select them."""
    panel: Any = request.panel
    if isinstance(panel, Mapping):
        panel = panel.get("method")
    named = [] if panel is None or isinstance(panel, str) else [str(gene) for gene in panel]
    return [*named, *request.always]


def _recorded_panel(
    adata: AnnData, request: Expression, train: np.ndarray, keys: Keys, *, allow_leakage: bool
) -> list[str]:
    """Genes of a column of `var`, or every gene, unless patients outside the training rows had a part in the choice."""
    panel: Any = request.panel
    key = panel or Key.SELECTED
    if key not in adata.var and panel is not None:
        raise KeyError(f"expected var[{panel!r}]; found {list(adata.var.columns)}; run stp.pp.select_genes first")
    others = _column_strangers(adata, panel, train, keys.patient)
    unknown, others = UNKNOWN in others, [name for name in others if name != UNKNOWN]
    record = read_record(adata, key)
    # A column that someone made by hand has no record; this one is made by stp.pp.select_genes alone.
    if unknown and not allow_leakage and (key == Key.SELECTED or record is not None) and not _is_list(record):
        what = (
            "none"
            if record is None
            else "one without the patients"
            if "patients" not in record
            else "one of other genes"
        )
        raise ValueError(
            f"expected the record of var[{key!r}] in uns['stpredict'][{key!r}]; found {what}, as after joining sections, so "
            f"that nobody knows which patients the genes were selected on; call stp.pp.select_genes(adata, method, "
            f"train=train, key_added={key!r}) again, or pass target={{'panel': {{'method': …}}}} to select them inside the "
            "training set, or a list of genes that were chosen without these sections"
        )
    if others and not allow_leakage:
        filtered = key not in adata.var
        what, call = (
            ("the list of genes", "stp.pp.filter_genes") if filtered else (f"var[{key!r}]", "stp.pp.select_genes")
        )
        raise ValueError(
            f"expected a panel selected on training patients only; found {few(others)} among the patients that "
            f"{what} was selected on; call {call} with `train=`, or pass target={{'panel': {{'method': …}}}} to select "
            "it inside the training set"
        )
    return (
        list(adata.var_names)
        if key not in adata.var
        else list(adata.var_names[read_bool(adata.var[key], f"var[{key!r}]")])
    )


def panel_strangers(adata: AnnData, request: Expression, train: np.ndarray, patient_key: str) -> list[str]:
    """Patients outside the training rows (n_obs,) that a panel, or the genes that it was chosen among, were selected on.

    `"unknown"` among them where a column has no record of it, or one that lost the patients, and where a list of genes
    coincides with such a column, or may have been cut from a selection.
    """
    people = adata.obs[patient_key].astype(str)[train].unique()
    found = set(_column_strangers(adata, request.panel, train, patient_key))
    for selection, same in taken_from(adata, _listed(request)):
        others = strangers(selection.patients, people)
        found.update(others if same else [UNKNOWN] * bool(others))
    for selection in cut_to(adata):
        found.update(strangers(selection.patients, people))
    return sorted(found)


def _is_list(record: Mapping[str, Any] | None) -> bool:
    return record is not None and record.get("method") == "given"


def _column_strangers(adata: AnnData, panel: Panel, train: np.ndarray, patient_key: str) -> list[str]:
    """Patients outside the training rows (n_obs,) that the column of `var` behind a panel was selected on."""
    key = panel or Key.SELECTED
    if isinstance(key, Mapping) or (isinstance(key, str) and key in SELECTIONS):
        key = "filter_genes"  # chosen on the training rows, among the genes that a filter left
    if not isinstance(key, str):
        return []  # chosen by hand
    if key not in adata.var:
        key = "filter_genes"  # every gene that a filter left
    record = read_record(adata, key)
    if record is None:
        return [UNKNOWN] if key in adata.var else []
    if key in adata.var and _of_other_genes(adata, key, record):
        return [UNKNOWN]
    looked = not _is_list(record) and not (record.get("method") == "filter" and "min_median" not in record)
    looked |= "patients" in record
    if not looked:
        return []  # a list of genes, or a filter by their types
    if "patients" not in record:
        return [UNKNOWN]
    return strangers(np.atleast_1d(record["patients"]), adata.obs[patient_key].astype(str)[train].unique())


def _of_other_genes(adata: AnnData, key: str, record: Mapping[str, Any]) -> bool:
    """Whether a column was changed after its record was written: it has genes that are not there, or never were."""
    chosen = set(adata.var_names[read_bool(adata.var[key], f"var[{key!r}]")])
    recorded = {str(gene) for gene in np.atleast_1d(record.get("genes", []))}
    # Genes that were all renamed have nothing in common with the record.
    return bool(chosen & recorded) and not chosen <= recorded


def check_normalization(adata: AnnData, normalization: Mapping[str, Any]) -> None:
    """Raise when the object says it is normalized otherwise than a model's target was; name both sides."""
    record = read_record(adata, "normalize")
    if record is None or normalization.get("method") in {"layer", "scanpy"}:
        return  # an unmeasured object, or a target whose unit the user looks after
    compared = ("method", "unit", "size_factors", "target_sum", "theta", "clip")
    differing = [name for name in compared if normalization.get(name) != record.get(name)]
    if sorted(normalization.get("panel", [])) != sorted(record.get("panel", [])):
        differing.append("panel")
    if differing:

        def side(values: Mapping[str, Any]) -> str:
            shown = {name: values.get(name) for name in differing}
            if "panel" in shown:
                shown["panel"] = f"{len(values.get('panel', []))} genes"
            return str(shown)

        raise ValueError(
            f"expected the normalization of the model's training data, {side(normalization)}; found {side(record)}; "
            "run stp.pp.normalize with the settings of the model"
        )


def panel_counts_of(adata: AnnData, genes: Sequence[str], rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Counts (n, n_genes) float32 and depth (n,) of some rows of an object with counts."""
    depth = depth_of(adata)
    assert depth is not None  # there are counts
    what = f"layers[{Key.COUNTS!r}]"
    matrix: Any = numeric_matrix(adata.layers[Key.COUNTS], what)
    columns = adata.var_names.get_indexer(list(genes))
    if (source := rows_in_file(matrix)) is not None:
        return FileTable([source], rows, columns), depth[rows]  # type: ignore[return-value]
    return part_of(matrix, rows, columns, what), depth[rows]


def training_rates(counts: np.ndarray, depth: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Proportion of each gene (n_genes,) in the counts of the training observations, and quantiles of their depths."""
    quantiles = np.quantile(depth, (np.arange(_QUANTILES) + 0.5) / _QUANTILES)
    return tuple(rounded(proportions_of(counts, depth))), tuple(rounded(quantiles))


def rounded(values: np.ndarray) -> list[float]:
    """Numbers as a record holds them, to six digits."""
    return [float(f"{value:.6g}") for value in values]


def genes_of(panels: Sequence[Sequence[str]], adata: AnnData) -> list[str]:
    """Genes of any of several panels, in the order of the object."""
    wanted = {gene for panel in panels for gene in panel}
    return [gene for gene in adata.var_names if gene in wanted]
