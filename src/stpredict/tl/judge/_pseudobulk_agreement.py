"""Whether predicted profiles of patients agree with measured ones, across patients and across genes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._compact import compact
from stpredict.core._validate import check_choice
from stpredict.slots._checks import check_obs
from stpredict.slots._container import get_table, is_spatialdata
from stpredict.slots._keys import Key
from stpredict.slots._marks import joint_mark, read_marks
from stpredict.slots._people import one_name
from stpredict.tl.judge._pseudobulk import BASELINE

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container

GENE_MEAN = "gene mean"
ACROSS_PATIENTS, ACROSS_GENES = "across patients", "across genes"
_SHOWN = ("model", "kind", "gene", "patient", "r", "baseline", "r_centered", "q", "n", "leaky")


def pseudobulk_agreement(
    data: Container | Mapping[str, Container],
    truth: pd.DataFrame | None = None,
    *,
    correlation: str = "pearson",
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Correlate predicted and measured profiles of patients: per gene across patients, and per patient across genes.

    The first answers the main question: does the prediction tell in which patients a gene is high? The second is the
    weaker statement, although it is the published one :cite:p:`li2026`: some genes are abundant in everyone, and a
    prediction that is the same for all patients correlates across genes without any information about this one. The
    table gives the correlation of such a prediction beside it, and the correlation that remains when each gene is taken
    relative to its mean over patients.

    Parameters
    ----------
    data
        Result of :func:`stpredict.tl.pseudobulk`; slides are averaged within their patient. A mapping from names of
        models to such results compares maps of spots, maps of tiles and predictions of slides, for the patients and
        genes that all of them have.
    truth
        Measured profiles, a DataFrame (patients × genes), for example bulk RNA sequencing; `layers["measured"]` when
        `None`, of several results that of the first one with any. Patients and genes are joined by name.
    correlation
        Kind of correlation: `"pearson"` or `"spearman"`.
    patient_key
        Column of `obs` with the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    A table with one row per gene (`kind` `"across patients"`) and one per patient (`"across genes"`), and the columns

    - `kind`, `gene`, `patient`: what the correlation is of; the other name is missing;
    - `r`: the correlation; NaN where it is undefined (a gene without variation, fewer than two values);
    - `n`, `p`, `q`: patients (or genes) behind it, its p-value with n - 2 degrees of freedom and, across patients, the
      false-discovery rate over genes. Across genes there is no `p`: genes are not independent observations;
    - `baseline`, `baseline_of`: across genes, the correlation of the measured profile with one that is the same for
      every patient: the training mean, or the mean of the other patients' measured profiles where that is not known;
    - `r_centered`: across genes, the correlation after the mean over patients was subtracted from every gene, each side
      with its own mean: agreement in what distinguishes this patient;
    - `leaky`: `True` where the model saw a patient behind this row, `"unknown"` where nothing tells.

    Of several results also `model`, the name of each, and at the end `"gene mean"`: the prediction that is the same for
    every patient, whose `r` across patients is undefined.

    Raises
    ------
    KeyError
        When there are no measured profiles or no patients.
    ValueError
        When `truth` has no patient or no gene in common with `bulk`, or names one twice; or when several results have none
        in common, or a model is called `"gene mean"`.
    TypeError
        When `truth` is not a DataFrame, or `bulk` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> truth = np.array([[1.0, 9], [2, 8], [4, 9], [3, 7]])
    >>> bulk = ad.AnnData(truth + [[0.5, 0], [0, 0], [0, 0], [0, 0]], layers={"measured": truth})
    >>> bulk.obs["patient"] = ["p1", "p2", "p3", "p4"]
    >>> stp.tl.pseudobulk_agreement(bulk)[["kind", "r", "n"]].round(2).head(3)
                  kind     r  n
    0  across patients  0.99  4
    1  across patients  1.00  4
    2     across genes  1.00  2
    """
    import pandas as pd

    check_choice(correlation, ("pearson", "spearman"), "correlation")
    several = isinstance(data, Mapping) and not is_spatialdata(data)
    given = dict(data) if several else {"": data}
    if not given or GENE_MEAN in given:
        raise ValueError(f"expected one or more models, none called {GENE_MEAN!r}; found {', '.join(given) or 'none'}")
    profiles = {str(name): _profiles(get_table(each, table_key), patient_key) for name, each in given.items()}
    if truth is None:
        known = [each.measured for each in profiles.values() if each.measured is not None]
        if not known:
            found = sorted({layer for each in given.values() for layer in get_table(each, table_key).layers})
            raise KeyError(
                f"expected layers['measured']; found {found}; average measured slides with "
                "stp.tl.pseudobulk, or pass the measured profiles with `truth=`"
            )
        measured = known[0]
    else:
        measured = _given(truth, next(iter(profiles.values())).predicted)
    if several:
        measured = _shared(measured, profiles)
    measured = measured.loc[measured.notna().any(axis=1), measured.notna().any(axis=0)]
    tables = {name: _agreement(each, measured, correlation) for name, each in profiles.items()}
    if not several:
        return compact(next(iter(tables.values())), _SHOWN, move=False)
    flat = next(iter(tables.values())).copy()
    flat["r"], flat["r_centered"], flat["p"], flat["q"] = flat["baseline"], np.nan, np.nan, np.nan
    whole = pd.concat([*tables.values(), flat], ignore_index=True)
    whole.insert(0, "model", np.repeat([*tables, GENE_MEAN], len(flat)))
    return compact(whole, _SHOWN, move=False)


@dataclass
class _Profiles:
    """Profiles of patients (patients × genes): predicted, measured, and what the training mean says; and marks of leaks."""

    predicted: pd.DataFrame
    measured: pd.DataFrame | None
    training_mean: pd.DataFrame | None
    leaky: pd.Series


def _profiles(adata: AnnData, patient_key: str) -> _Profiles:
    import pandas as pd

    check_obs(adata, patient_key, "run stp.tl.pseudobulk(adata) first, or pass `patient_key=`")
    patient = one_name(adata.obs[patient_key])

    def layer(name: str) -> pd.DataFrame | None:
        return _by_patient(adata.layers[name], patient, adata.var_names) if name in adata.layers else None

    return _Profiles(
        _by_patient(adata.X, patient, adata.var_names),
        layer(Key.MEASURED),
        layer(BASELINE),
        pd.Series(read_marks(adata, "leaky")).groupby(patient).agg(joint_mark),
    )


def _shared(measured: pd.DataFrame, profiles: Mapping[str, _Profiles]) -> pd.DataFrame:
    """Measured profiles of the patients and genes that every model predicts."""
    for each in profiles.values():
        people, genes = measured.index.isin(each.predicted.index), measured.columns.isin(each.predicted.columns)
        measured = measured.loc[people, genes]
    if not measured.size:
        raise ValueError(
            f"expected patients and genes that all models have in common; found {measured.shape[0]} patients and "
            f"{measured.shape[1]} genes; name patients and genes alike, or compare fewer models"
        )
    return measured


def _agreement(profiles: _Profiles, measured: pd.DataFrame, correlation: str) -> pd.DataFrame:
    """The table of one model."""
    import pandas as pd

    from stpredict import metrics as m

    predicted = profiles.predicted.reindex(index=measured.index, columns=measured.columns)
    shared = None
    if profiles.training_mean is not None:
        shared = profiles.training_mean.reindex_like(measured).to_numpy()
    marks = profiles.leaky.reindex(measured.index)

    correlate = getattr(m, correlation)
    y, x = measured.to_numpy(), predicted.to_numpy()
    finite = np.isfinite(y) & np.isfinite(x)
    per_gene = pd.DataFrame({"kind": ACROSS_PATIENTS, "gene": measured.columns, "patient": None})
    per_gene["r"], per_gene["n"] = _columns(correlate, y, x, finite), finite.sum(axis=0)
    per_gene["p"] = m.pearson_p(per_gene["r"].to_numpy(), per_gene["n"].to_numpy())
    per_gene["q"] = np.where(per_gene["p"].isna(), np.nan, m.benjamini_hochberg(per_gene["p"].to_numpy()))
    per_gene["leaky"] = joint_mark(marks)

    baseline_of = "training mean" if shared is not None else "other patients"
    flat = _others(y) if shared is None else shared
    defined = finite & np.isfinite(flat)
    per_patient = pd.DataFrame({"kind": ACROSS_GENES, "gene": None, "patient": measured.index})
    per_patient["r"], per_patient["n"] = _columns(correlate, y.T, x.T, finite.T), finite.sum(axis=1)
    per_patient["baseline"] = _columns(correlate, y.T, flat.T, defined.T)
    per_patient["baseline_of"] = baseline_of
    alone = finite.sum(axis=0) < 2
    centered = [np.where(alone, np.nan, v - _mean(v, finite)) for v in (y, x)]
    per_patient["r_centered"] = _columns(correlate, centered[0].T, centered[1].T, (finite & ~alone).T)
    per_patient["leaky"] = marks.to_numpy()
    columns = ["kind", "gene", "patient", "r", "n", "p", "q", "baseline", "baseline_of", "r_centered", "leaky"]
    records = per_gene.to_dict("records") + per_patient.to_dict("records")
    return pd.DataFrame.from_records(records, columns=columns)


def _by_patient(values: Any, patient: np.ndarray, genes: Any) -> pd.DataFrame:
    """Mean over the slides of each patient (patients × genes), NaN left out."""
    import pandas as pd

    values = values.toarray() if hasattr(values, "toarray") else np.asarray(values)
    frame = pd.DataFrame(values.astype(np.float64), columns=list(genes))
    return frame.groupby(patient, sort=False).mean()


def _given(truth: pd.DataFrame, predicted: pd.DataFrame) -> pd.DataFrame:
    """Measured profiles that came as a table, of the patients and genes that were predicted."""
    import pandas as pd

    if not isinstance(truth, pd.DataFrame):
        raise TypeError(f"expected `truth` to be a DataFrame, patients × genes; found {type(truth).__name__}")
    truth = truth.set_axis(truth.index.astype(str)).set_axis(truth.columns.astype(str), axis=1)
    for names, what in ((truth.index, "patients"), (truth.columns, "genes")):
        if not names.is_unique:
            raise ValueError(f"expected unique {what} in `truth`; found {names[names.duplicated()][0]!r} twice")
    people = [name for name in predicted.index if name in set(truth.index)]
    genes = [name for name in predicted.columns if name in set(truth.columns)]
    if not people or not genes:
        raise ValueError(
            f"expected patients and genes of the prediction in `truth`; found {len(people)} patients and {len(genes)} "
            "genes in common; name its rows by patient and its columns by gene"
        )
    return truth.loc[people, genes].astype(np.float64)


def _columns(correlate: Any, y: np.ndarray, x: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Correlate columns over the rows where both are known; columns with the same gaps go together."""
    result = np.full(y.shape[1], np.nan)
    patterns, which = np.unique(finite, axis=1, return_inverse=True)
    for i in range(patterns.shape[1]):
        rows, columns = patterns[:, i], np.flatnonzero(which.ravel() == i)
        if rows.sum() > 1:
            result[columns] = correlate(y[np.ix_(rows, columns)], x[np.ix_(rows, columns)])
    return result


def _mean(values: np.ndarray, finite: np.ndarray) -> np.ndarray:
    """Mean over the rows (G,) where both sides are known."""
    count = finite.sum(axis=0)
    return np.divide(np.where(finite, values, 0.0).sum(axis=0), count, out=np.full(len(count), np.nan), where=count > 0)


def _others(y: np.ndarray) -> np.ndarray:
    """Mean over the other patients (n, G); NaN where there is no other."""
    finite = np.isfinite(y)
    value = np.where(finite, y, 0.0)
    count = finite.sum(axis=0) - finite
    total = value.sum(axis=0) - value
    return np.divide(total, count, out=np.full(y.shape, np.nan), where=count > 0)
