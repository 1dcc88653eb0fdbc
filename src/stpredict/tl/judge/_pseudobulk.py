"""Profiles of whole slides or patients from maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._validate import check_choice
from stpredict.slots._checks import check_layer, check_patients
from stpredict.slots._container import get_table
from stpredict.slots._depth import counted_rows, depth_of
from stpredict.slots._expression import in_tissue, matrix_of, measured_matrix, measured_rows
from stpredict.slots._keys import Key
from stpredict.slots._marks import group_marks, leak_marks, written_marks
from stpredict.slots._people import one_name
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import read_record, write_record
from stpredict.slots._scale import BASES, RATE, converted, known, panel_counts, unit_in, unit_of_prediction
from stpredict.slots._truth import check_of_genes
from stpredict.slots._unit import say_slides

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container

BASELINE = "baseline_mean"
_PER = 1e4


def pseudobulk(
    data: Container,
    key: str = Key.PREDICTED,
    *,
    layer: str | None = None,
    by: Literal["sample", "patient"] = "patient",
    scale: Literal["log", "linear"] = "log",
    measured: Literal["values", "counts"] = "values",
    genes: Sequence[str] | None = None,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> AnnData:
    """Average maps over the tissue of each slide, and slides over each patient.

    Parameters
    ----------
    data
        AnnData or SpatialData with a prediction.
    key
        Slot of the prediction in `obsm`.
    layer
        Layer with the measured values; `X` by default.
    by
        Unit of a profile. `"sample"`: one profile per slide. `"patient"`: the mean over the slides of each patient, all
        with the same weight however large they are.
    scale
        Scale of the mean. `"log"`: the values as they are, that is logged expression. `"linear"`: the logarithm is
        undone before the mean and taken again after it, as bulk sequencing of ground tissue does; a prediction that is
        smoother than the truth then comes out lower, since peaks weigh more than their share; below 0 it counts as 0. What logarithm follows from
        the record of the prediction, of tiles of a slide that a model of spots predicted as well. Residuals have no logarithm
        to undo, and no level within a section: their mean is about 0 in each, whatever the section expresses.
    measured
        What the measured profile is made of. `"values"`: the mean of the measured values, as of the predicted ones.
        `"counts"`: all counts of a slide together, as in a tube: the logarithm of 1 + counts per 10,000, in which deep
        observations weigh more. It needs no normalization, and is there for models of residuals and rates too.
    genes
        Genes to average; those of the prediction by default.
    sample_key, patient_key
        Columns of `obs` with the slide and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    A new AnnData (n_slides or n_patients, n_genes), in the unit of `data`; nothing is written to `data`. It has

    - `X`: predicted;
    - `layers["measured"]`: measured (see `measured`), over the predicted observations that were measured too; NaN for genes and slides
      that were not; left out when none was;
    - `layers["baseline_mean"]`: the training mean, where :func:`stpredict.tl.predict` wrote that baseline;
    - `obs["sample"]` or `obs["n_samples"]`, `obs["patient"]`, `obs["n_obs"]` (predicted observations on tissue) and
      `obs["leaky"]` (the model saw this patient; `"unknown"` where the prediction has lost its record);
    - `uns["stpredict"]`: the provenance of `data`, and of this mean as `"pseudobulk"`.

    Raises
    ------
    KeyError
        When the prediction, a gene, the slides or the patients are missing, or the counts where `measured` asks for them.
    ValueError
        When nothing on tissue was predicted, or the logarithm to undo is not known, as with residuals; or when the genes of
        the prediction are not known.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Notes
    -----
    Rates, which models of counts predict, are put on the scale of a normalized `X` first.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> adata = ad.AnnData(obs=pd.DataFrame({"sample": ["a", "a", "b"], "patient": "p"}, index=["1", "2", "3"]))
    >>> adata.obsm["predicted"] = pd.DataFrame({"G": [1.0, 3.0, 6.0]}, index=adata.obs_names)
    >>> stp.tl.pseudobulk(adata, by="sample").X.ravel().tolist()
    [2.0, 6.0]
    >>> stp.tl.pseudobulk(adata).X.ravel().tolist()
    [4.0]
    """
    import pandas as pd
    from anndata import AnnData

    check_choice(by, ("sample", "patient"), "by")
    check_choice(scale, ("log", "linear"), "scale")
    check_choice(measured, ("values", "counts"), "measured")
    adata = get_table(data, table_key, key)
    check_of_genes(adata, key)
    frame = prediction_frame(adata, key, genes)
    check_patients(adata, sample_key, patient_key)
    own, unit = unit_in(read_record(adata, "normalize")), unit_of_prediction(adata, key)
    if layer is None and known(own) and unit.get("method") == RATE:
        unit = own
        rates = frame.to_numpy(dtype=np.float64)
        on_scale = converted(adata, key, rates, list(frame.columns), "normalized", sample_key)
        frame = pd.DataFrame(on_scale, index=frame.index, columns=frame.columns)
    base = _log_base(adata, unit, layer) if scale == "linear" else None
    if layer is not None:
        check_layer(adata, layer, "name the layer that holds the target")
    names = pd.Index(frame.columns.astype(str))
    predicted = frame.to_numpy(dtype=np.float64)
    rows = in_tissue(adata) & ~np.isnan(predicted).all(axis=1)
    if not rows.any():
        raise ValueError(f"expected predicted observations on tissue in obsm[{key!r}]; found none")
    obs = adata.obs.loc[rows, [sample_key, patient_key]].astype(str)
    obs.columns = [Key.SAMPLE, Key.PATIENT]
    obs[Key.PATIENT] = one_name(obs[Key.PATIENT])
    code, slides = pd.factorize(obs[Key.SAMPLE])
    values: dict[str, np.ndarray] = {key: _means(predicted[rows], code, len(slides), base)}
    is_measured = names.isin(adata.var_names)
    if measured == "counts":
        values[Key.MEASURED] = _pooled_counts(adata, list(names), rows, sample_key, slides)
    elif is_measured.any() and (adata.X is not None or layer is not None):
        measured_index = np.flatnonzero(rows & measured_rows(adata, matrix_of(adata, layer)))
        truth = np.full(values[key].shape, np.nan)
        if len(measured_index):
            code_here = pd.Index(slides).get_indexer(adata.obs[sample_key].astype(str).to_numpy()[measured_index])
            matrix = measured_matrix(adata, list(names[is_measured]), measured_index, layer)
            own_base = _log_base(adata, own, layer) if scale == "linear" else None
            truth[:, is_measured] = _means(matrix, code_here, len(slides), own_base)
            values[Key.MEASURED] = truth
    slot = Key.baseline(key, "mean")
    baseline = prediction_frame(adata, slot) if slot in adata.obsm else None
    if baseline is not None and names.isin(baseline.columns).all():
        values[BASELINE] = _means(baseline[frame.columns].to_numpy(dtype=np.float64)[rows], code, len(slides), base)

    table = obs.drop_duplicates(Key.SAMPLE).set_axis(list(slides))
    table["n_obs"] = np.bincount(code, minlength=len(slides))
    marks = group_marks(leak_marks(adata, key, patient_key)[rows], code, len(slides))
    if by == "patient":
        who, people = pd.factorize(table[Key.PATIENT])
        values = {name: _means(value, who, len(people), None) for name, value in values.items()}
        groups = table.groupby(Key.PATIENT, sort=False)
        marks = group_marks(marks, who, len(people))
        table = pd.DataFrame(
            {"patient": people, "n_samples": groups.size(), "n_obs": groups["n_obs"].sum()}, index=list(people)
        )
    table["leaky"] = written_marks(marks)
    uns = {Key.UNS: dict(adata.uns[Key.UNS])} if Key.UNS in adata.uns else {}
    bulk = AnnData(values.pop(key), obs=table, var=pd.DataFrame(index=names), layers=values, uns=uns)
    say_slides(bulk)
    write_record(bulk, "pseudobulk", {"key": key, "layer": layer, "by": by, "scale": scale, "measured": measured})
    return bulk


def _pooled_counts(adata: AnnData, genes: list[str], rows: np.ndarray, sample_key: str, slides: Any) -> np.ndarray:
    """Log of 1 + counts per 10,000 of whole slides (n_slides, G); NaN where a slide has no counts, or a gene."""
    import pandas as pd

    depth = depth_of(adata)
    if depth is None or Key.COUNTS not in adata.layers:
        raise KeyError(
            f"expected layers['counts'] for measured='counts'; found {sorted(adata.layers)}; put the raw counts there"
        )
    index = np.flatnonzero(rows & counted_rows(adata, adata.layers[Key.COUNTS], depth))
    code = pd.Index(slides).get_indexer(adata.obs[sample_key].astype(str).to_numpy()[index])
    total = np.bincount(code, weights=depth[index], minlength=len(slides))
    counts = panel_counts(adata, index, genes)
    summed = np.zeros((len(slides), len(genes)))
    np.add.at(summed, code, counts)
    return np.log1p(_PER * summed / np.where(total > 0, total, np.nan)[:, None])


def _log_base(adata: AnnData, record: Mapping[str, Any], layer: str | None) -> float:
    """Base of the logarithm of (1 + value) that values of a unit are in."""
    if layer is None and record.get("method") in BASES:
        return float(BASES[record["method"]])
    if layer is None and not record and "log1p" in adata.uns:
        return float(adata.uns["log1p"].get("base") or np.e)
    if layer is None and record.get("method") == "pearson_residuals":
        raise ValueError(
            "expected logged expression for scale='linear'; found Pearson residuals, which are relative to their section: "
            "their mean is about 0 in each, and no level of expression follows from it; normalize with "
            "stp.pp.normalize(adata, method='log1p'), and fit and predict again"
        )
    raise ValueError(
        f"expected values that were normalized by stp.pp.normalize for scale='linear'; found "
        f"{'a layer of unknown unit' if layer is not None else 'no record of a logarithm'}; pass scale='log'"
    )


def _means(values: Any, code: np.ndarray, n_groups: int, base: float | None) -> np.ndarray:
    """Means (n_groups, G) over the rows (n, G) of each group, NaN left out; dense or sparse."""
    from scipy import sparse

    if base is not None:
        scale = np.log(base)
        if sparse.issparse(values):
            values = values.astype(np.float64)
            values.data = np.expm1(values.data * scale)
        else:
            values = np.expm1(np.maximum(np.asarray(values, dtype=np.float64), 0) * scale)
    member = sparse.csr_array((np.ones(len(code)), (code, np.arange(len(code)))), shape=(n_groups, len(code)))
    if sparse.issparse(values):
        total, count = (member @ values).toarray(), np.asarray(member.sum(axis=1)).reshape(-1, 1)
    else:
        finite = np.isfinite(values)
        total, count = member @ np.where(finite, values, 0.0), member @ finite.astype(np.float64)
    mean = np.divide(total, count, out=np.full(total.shape, np.nan), where=np.broadcast_to(count > 0, total.shape))
    return mean if base is None else np.log1p(mean) / scale
