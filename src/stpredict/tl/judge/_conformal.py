"""Prediction intervals calibrated on patients that the model has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._validate import check_choice, check_finite, few
from stpredict.slots._checks import as_mask, check_obs
from stpredict.slots._container import begin
from stpredict.slots._expression import to_dense
from stpredict.slots._keys import Key, check_key
from stpredict.slots._marks import Mark, joint_mark, leak_marks
from stpredict.slots._prediction import about, prediction_frame, what_columns, write_prediction
from stpredict.slots._provenance import read_record, write_record
from stpredict.slots._samples import quantiles_of
from stpredict.slots._truth import measured_of

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container

_BLOCK = 2**21  # values per block of genes


def conformal(
    data: Container,
    key: str = Key.PREDICTED,
    *,
    calibration: np.ndarray | str,
    level: float = 0.9,
    by: Literal["observation", "patient"] = "observation",
    use_std: bool | None = None,
    use_quantiles: bool = False,
    layer: str | None = None,
    patient_key: str = Key.PATIENT,
    allow_leakage: bool = False,
    key_added: str | None = None,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    r"""Bound each predicted value by split-conformal intervals, per gene :cite:p:`lei2018`.

    The errors of the calibration observations, \|measured - predicted\|, are divided by the predicted standard
    deviation where the model gives one. Their quantile per gene is the half-width of the interval, in units of that
    standard deviation. Every calibration patient has the same weight, however many observations it has.

    The guarantee depends on the unit: patients are exchangeable, the spots of one patient are not. With
    `by="observation"` the finite-sample correction :math:`\lceil (n + 1)\,level \rceil / n` counts observations:
    coverage holds for new spots of the calibration patients, and for new patients only on average and only as far as
    the calibration patients represent them. No method can guarantee more with a few patients. With `by="patient"` the
    correction counts patients :cite:p:`lee2023`: coverage then holds for a spot of a new patient drawn like the others,
    and needs at least `level / (1 - level)` calibration patients (9 for 0.9). Either way the coverage that was reached
    is recorded for every other patient whose expression was measured.

    For a model that draws samples there is another way: with `use_quantiles` the interval starts from the central quantiles of
    the samples of each observation :cite:p:`romano2019`, and is widened on both sides, or narrowed, by the quantile of how far
    calibration values lie outside (below 0: inside). It is skewed where the samples are, and wide where they are.

    Parameters
    ----------
    data
        AnnData or SpatialData with predictions, and measured expression of the calibration observations.
    key
        Slot of the prediction in `obsm`.
    calibration
        Observations to calibrate on, a boolean mask (n_obs,) or boolean column of `obs`. Their patients must have no
        observation outside it, and must not have been used to train the model.
    level
        Coverage of the intervals, between 0 and 1.
    by
        Unit that the finite-sample correction counts: `"observation"` or `"patient"`.
    use_std
        Whether to scale by `obsm["{key}_std"]`; when `None`, it is used where it exists.
    use_quantiles
        Whether to start from the quantiles `(1 - level) / 2` and `(1 + level) / 2` of the samples, those of
        `obsm["{key}_quantiles"]` where these levels are there, instead of the prediction.
    layer
        Layer with the measured values; `X` by default.
    patient_key
        Column of `obs` that names the patient.
    allow_leakage
        Whether to accept calibration patients that occur outside the calibration or were trained on; recorded as
        `leaky`, which is `"unknown"` where the prediction has lost its record.
    key_added
        Prefix of the results; `key` by default.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obsm["{key_added}_lower"]` and `obsm["{key_added}_upper"]`: bounds, float32 (n_obs, n_genes) in the unit of
      the prediction; NaN for calibration observations,
    - `uns["stpredict"]["{key_added}_conformal"]`: parameters, `n_calibration` and `calibration_patients`, `leaky`, and
      for the `patients` measured outside the calibration their `coverage` and mean interval `width`.

    Raises
    ------
    KeyError
        When the prediction, the patients or a measured gene is missing, or there are neither samples nor quantiles to use.
    ValueError
        When a calibration patient occurs outside the calibration or was trained on, when nothing is left to bound,
        when there are too few observations or patients for the level, or values are missing or not finite; or when the
        genes of the prediction are not known.
    TypeError
        When `obs[calibration]` is not boolean, or `data` is neither AnnData nor
        SpatialData.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> adata = ad.AnnData(rng.normal(size=(200, 1)), var=pd.DataFrame(index=["A"]))
    >>> adata.obs["patient"] = np.repeat(["p1", "p2"], 100)
    >>> adata.obsm["predicted"] = pd.DataFrame({"A": np.zeros(200)}, index=adata.obs_names)
    >>> stp.tl.conformal(adata, calibration=(adata.obs["patient"] == "p1").to_numpy())
    >>> bool(stp.get.predicted(adata).layers["upper"][-1, 0] > 1)
    True
    """
    import pandas as pd

    check_key(key_added)
    check_choice(by, ("observation", "patient"), "by")
    if not 0 < level < 1:
        raise ValueError(f"expected level between 0 and 1; found {level}")
    container, adata = begin(data, copy, table_key, key)
    frame = prediction_frame(adata, key)
    if calibration is None:
        raise ValueError("expected `calibration`, a mask or an obs key; found None; name the patients to calibrate on")
    held = as_mask(adata, calibration, "calibration")
    if held.all():
        raise ValueError("expected observations outside `calibration` to bound; found none")
    patient = _patients(adata, patient_key, held, allow_leakage)
    mark = _check_leaky(adata, key, patient_key, held, allow_leakage)
    leaky = True if set(patient[held]) & set(patient[~held]) else mark
    prediction = frame.to_numpy()
    if use_quantiles and use_std:
        raise ValueError("expected one of use_std and use_quantiles; found both; leave one out")
    scale = None if use_quantiles else _scale(adata, key, frame, use_std)
    low = high = prediction
    if use_quantiles:
        low, high = quantiles_of(adata, key, [(1 - level) / 2, (1 + level) / 2]).transpose(1, 0, 2)
        check_finite(low + high, f"quantiles of obsm[{key!r}]", "predict all observations with samples")
    truth = measured_of(adata, key, list(frame.columns), layer)
    measured = to_dense(truth[np.flatnonzero(held)])
    check_finite(measured, "measured expression of the calibration observations", "calibrate on measured ones only")
    check_finite(prediction, f"predictions in obsm[{key!r}]", "leave out observations without a prediction")

    weights, n = _weights(patient[held], by)
    corrected_level = level * (n + 1) / n
    if corrected_level > 1 + 1e-12:
        needed = int(np.ceil(level / (1 - level) - 1e-9))
        raise ValueError(
            f"expected at least {needed} calibration {by}s for level {level:g}; found {n}; lower `level`"
            + (", or pass by='observation'" if by == "patient" else "")
        )
    scores = np.maximum(low[held] - measured, measured - high[held])
    if scale is not None:
        scores /= scale[held]
    quantile = weighted_quantile(scores, weights, corrected_level)

    half = np.broadcast_to(quantile, prediction.shape) if scale is None else scale * quantile
    dtype = prediction.dtype if prediction.dtype.kind == "f" else np.dtype(np.float64)
    bounds = {}
    for name, sign, start in ((Key.lower, -1, low), (Key.upper, 1, high)):
        values = (start + sign * half).astype(dtype)
        values[held] = np.nan
        bounds[name] = values
    patients, coverage, width = _coverage(truth, bounds[Key.lower], bounds[Key.upper], patient, ~held)

    added = key_added or key
    told, columns = about(read_record(adata, key) or {}), what_columns(adata, key)
    for name, values in bounds.items():
        table = pd.DataFrame(values, index=adata.obs_names, columns=frame.columns)
        write_prediction(adata, name(added), table, told, beside=added, names=columns)
    record = {
        "key": key,
        "level": float(level),
        "by": by,
        "use_std": scale is not None,
        "use_quantiles": use_quantiles,
        "layer": layer,
        "n_calibration": int(held.sum()),
        "calibration_patients": sorted(set(patient[held])),
        "leaky": leaky,
        "patients": patients,
        "coverage": coverage,
        "width": width,
    }
    write_record(adata, Key.conformal(added), record)
    return container if copy else None


def _patients(adata: AnnData, patient_key: str, held: np.ndarray, allow_leakage: bool) -> np.ndarray:
    """Patient of each observation, after checking that no calibration patient is predicted as well."""
    check_obs(adata, patient_key, "name the people, or pass `patient_key=`")
    column = adata.obs[patient_key]
    if column.isna().any():
        raise ValueError(f"expected obs[{patient_key!r}] without gaps; found {int(column.isna().sum())} missing values")
    patient = column.astype(str).to_numpy().astype(object)
    shared = sorted(set(patient[held]) & set(patient[~held]))
    if shared and not allow_leakage:
        raise ValueError(
            f"expected calibration patients to have no other observations; found {few(shared)} on both sides; "
            "calibrate on whole patients, or pass allow_leakage=True, which is recorded"
        )
    return patient


def _check_leaky(adata: AnnData, key: str, patient_key: str, held: np.ndarray, allow_leakage: bool) -> Mark:
    """Whether the model was trained on calibration patients; an error unless leakage is allowed."""
    marks = leak_marks(adata, key, patient_key)[held]
    n_leaky = int((marks == 1).sum())
    if n_leaky and not allow_leakage:
        raise ValueError(
            f"expected calibration patients that the model was not trained on; found {n_leaky} observations with "
            f"obs[{Key.leaky(key)!r}] or a patient of its record; their errors are too small; hold patients out of stp.tl.fit for the calibration, "
            "or pass allow_leakage=True, which is recorded"
        )
    return joint_mark(marks)


def _scale(adata: AnnData, key: str, frame: Any, use_std: bool | None) -> np.ndarray | None:
    """Predicted standard deviations (n_obs, n_genes), or `None` where intervals have one width per gene."""
    slot = Key.std(key)
    if use_std is False or (use_std is None and slot not in adata.obsm):
        return None
    std = prediction_frame(adata, slot, list(frame.columns)).to_numpy(dtype=np.float64)
    if not (np.isfinite(std) & (std > 0)).all():
        raise ValueError(
            f"expected positive finite values in obsm[{slot!r}]; found others; pass use_std=False for intervals of one "
            "width per gene"
        )
    return std


def _weights(patient: np.ndarray, by: str) -> tuple[np.ndarray, int]:
    """Weight of each calibration observation, equal sums per patient, and the number the correction counts."""
    _, codes, counts = np.unique(patient.astype(str), return_inverse=True, return_counts=True)
    weights = 1 / (len(counts) * counts[codes])
    return weights, len(patient) if by == "observation" else len(counts)


def weighted_quantile(scores: np.ndarray, weights: np.ndarray, level: float) -> np.ndarray:
    """Smallest score (n_genes,) at which the weight of the scores (n, n_genes) up to it reaches `level`."""
    result = np.empty(scores.shape[1])
    step = max(1, _BLOCK // len(scores))
    for start in range(0, scores.shape[1], step):
        block = scores[:, start : start + step]
        order = np.argsort(block, axis=0)
        reached = np.cumsum(weights[order], axis=0) >= level - 1e-9
        reached[-1] = True
        first = np.take_along_axis(order, reached.argmax(axis=0)[None], axis=0)
        result[start : start + step] = np.take_along_axis(block, first, axis=0)[0]
    return result


def _coverage(
    truth: Any, lower: np.ndarray, upper: np.ndarray, patient: np.ndarray, bounded: np.ndarray
) -> tuple[list[str], list[float], list[float]]:
    """Fraction of measured values inside their interval and mean width, per patient outside the calibration."""
    patients, coverage, width = [], [], []
    for name in sorted(set(patient[bounded])):
        rows = np.flatnonzero(bounded & (patient == name))
        values = to_dense(truth[rows])
        is_measured = np.isfinite(values)
        if not is_measured.any():
            continue
        inside = (values >= lower[rows]) & (values <= upper[rows])
        patients.append(name)
        coverage.append(float(inside[is_measured].mean()))
        width.append(float((upper[rows] - lower[rows]).mean()))
    return patients, coverage, width
