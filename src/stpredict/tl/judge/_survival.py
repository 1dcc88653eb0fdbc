"""Judge a risk score by the survival of the patients."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._compact import compact
from stpredict.core._optional import optional_import
from stpredict.core._validate import few
from stpredict.slots._checks import check_obs
from stpredict.slots._container import get_table
from stpredict.slots._covariates import read_covariates
from stpredict.slots._keys import Key
from stpredict.slots._marks import UNKNOWN, joint_mark, leak_marks
from stpredict.slots._outcome import fold_numbers, patient_outcomes, patients_of, read_outcome
from stpredict.tl.judge._cox import COLUMNS, coded, constant_columns, cox_regression

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container

_SHOWN = (
    "n_patients",
    "n_events",
    "c_index",
    "c_low",
    "c_high",
    "hazard_ratio",
    "hr_low",
    "hr_high",
    "logrank_p",
    "leaky",
)
_NO_SPREAD = 1e-6  # of a risk, relative to its size


def survival(
    data: Container,
    risk: str | pd.Series = Key.RISK,
    *,
    time: str = Key.TIME,
    event: str = Key.EVENT,
    group: str | None = "risk_group",
    covariates: str | Sequence[str] | None = None,
    by: str | None = None,
    patient_key: str = Key.PATIENT,
    level: float = 0.95,
    n_boot: int = 2000,
    seed: int = 0,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Compare a predicted risk with the follow-up of the patients: C-index, hazard ratio and log-rank test.

    Risks of several slides of one patient are averaged. The groups of the log-rank test are those that
    :func:`stpredict.tl.predict` wrote, high and low by the median of the *training* patients: a cut at the median of
    the patients that are judged would be chosen on them.

    Parameters
    ----------
    data
        One row per slide, with a risk and the follow-up. Rows without a risk (`NaN`) are left out.
    risk
        Column of `obs`, or a series indexed by the slides; higher means an earlier event.
    time
        Column with the follow-up time.
    event
        Column with 1 or true where the follow-up ended in the event, 0 where it was censored.
    group
        Column with two groups for the log-rank test, or `None` to leave it out. A patient whose slides fall into both
        is counted with the greater number of them, and with the slide of the higher risk where they are equally many.
    covariates
        Columns of `obs` to adjust the hazard ratio for: numbers, or categories. :func:`stpredict.tl.hazard_ratios` has a row
        for each of them.
    by
        Column, such as the cohort or cancer, whose values are judged one by one.
    patient_key
        Column of `obs` with the patient.
    level
        Level of the intervals.
    n_boot
        Bootstrap samples of patients for the interval of the C-index.
    seed
        Random seed for the bootstrap.
    table_key
        Table of a SpatialData.

    Returns
    -------
    One row, or one per value of `by` (the first column then):

    - `n_patients`, `n_slides`, `n_events`;
    - `c_index` with `c_low` and `c_high`: Harrell's, see :func:`stpredict.metrics.concordance`, with the percentile
      interval over resampled patients;
    - `c_index_folds`: the same over pairs of patients of one fold (`obs["{risk}_fold"]`), since risks from different
      models are on different scales; NaN without folds;
    - `hazard_ratio` per standard deviation of the risk with `hr_low` and `hr_high`, and its p-value `cox_p` (Wald), by
      Cox regression without penalty (ties by Efron's method); NaN where the risk is constant or the fit does not
      converge, as with a risk that orders all events;
    - `logrank_p` of the two groups, `n_high` patients in the group with the higher mean risk; NaN, with a warning, where
      all patients are in one group;
    - with `covariates`, on the `n_complete` patients that have all of them: `hr_adjusted` with `hr_adjusted_low`,
      `hr_adjusted_high` and `cox_adjusted_p`, of the risk beside the covariates; `c_index_covariates` of a Cox model of the
      covariates alone, and `c_index_both` with the risk. These two models are fitted to the patients that they are
      scored on, which flatters them, the larger one more;
    - `leaky`: `True` where the model saw one of these patients, `"unknown"` where the risk has lost its record, or is no
      prediction of this package.

    Raises
    ------
    ImportError
        When lifelines is not installed (extra `survival`).
    KeyError
        When the risk, the follow-up or the groups are missing.
    ValueError
        When times are not positive and finite, events are not 0 or 1, all follow-ups are censored, slides of one
        patient disagree, or there are more than two groups.

    Warns
    -----
    UserWarning
        When one of the two groups is empty, a value of `by` has no event, or a covariate is the same in all patients.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> risk = rng.normal(size=80)
    >>> obs = pd.DataFrame({"patient": np.arange(80), "risk": risk, "time": rng.exponential(np.exp(-risk))})
    >>> obs["event"], obs["risk_group"] = rng.random(80) < 0.7, np.where(risk > 0, "high", "low")
    >>> slides = ad.AnnData(obs=obs.set_index("s" + obs["patient"].astype(str)))
    >>> table = stp.tl.survival(slides)
    >>> bool(table["c_low"].item() > 0.5), bool(table["hr_low"].item() > 1)
    (True, True)
    """
    import pandas as pd

    optional_import("lifelines", "survival")
    if not 0 < level < 1:
        raise ValueError(f"expected level between 0 and 1; found {level!r}")
    if n_boot < 1:
        raise ValueError(f"expected at least one resample; found n_boot={n_boot}")
    adata = get_table(data, table_key)
    values, rows = read_risk(adata, risk, group)
    parts: dict[Any, np.ndarray] = {None: rows}
    if by is not None:
        check_obs(adata, by)
        labels = adata.obs[by].astype(object).to_numpy()[rows]
        parts = {label: rows[labels == label] for label in pd.unique(labels[~pd.isna(labels)])}
    fold = fold_numbers(adata, Key.fold(risk)) if isinstance(risk, str) else None
    leaky = leak_marks(adata, risk, patient_key) if isinstance(risk, str) else None
    happened = read_outcome(adata, time, event, rows, patient_key=patient_key)[1]
    records = []
    for label, here in parts.items():
        mark = UNKNOWN if leaky is None else joint_mark(leaky[here])
        if by is not None and not happened[np.isin(rows, here)].any():
            n_people = len(np.unique(patients_of(adata, patient_key)[here]))
            warnings.warn(
                f"all {n_people} patients with obs[{by!r}] = {label} are censored; nothing can be judged there (NaN)",
                stacklevel=2,
            )
            records.append({by: label, "n_patients": n_people, "n_slides": len(here), "n_events": 0, "leaky": mark})
            continue
        patients = patient_outcomes(
            adata, here, risk=values[here], time=time, event=event, group=group, fold=fold, patient_key=patient_key
        )
        record = {} if by is None else {by: label}
        record |= {"n_patients": len(patients), "n_slides": len(here), "n_events": int(patients["event"].sum())}
        record |= _concordance(patients, level, n_boot, seed)
        record |= _hazard_ratio(patients, level)
        record |= _groups(patients)
        if covariates is not None:
            names = [covariates] if isinstance(covariates, str) else list(covariates)
            frame = patient_covariates(adata, here, names, patient_key, list(patients["patient"]))
            record |= _adjusted(patients, frame.reset_index(drop=True), level)
        if group is not None and patients["group"].nunique() < 2:
            told = f" with obs[{by!r}] = {label}" if by is not None else ""
            warnings.warn(
                f"expected two groups in obs[{group!r}]; found all {len(patients)} patients{told} in "
                f"{patients['group'].iloc[0]!r}: the other one is empty, and the log-rank test has nothing to compare (NaN)",
                stacklevel=2,
            )
        records.append(record | {"leaky": mark})
    # The first record may be of a group without events, which has few columns.
    columns = list(dict.fromkeys(name for record in sorted(records, key=len, reverse=True) for name in record))
    return compact(pd.DataFrame(records, columns=columns), [*([by] if by is not None else []), *_SHOWN], move=False)


def read_risk(adata: AnnData, risk: Any, group: str | None) -> tuple[np.ndarray, np.ndarray]:
    """Risks (n_obs,), float64, from a column of `obs` or a series, and the rows that have one; their groups checked."""
    import pandas as pd

    if isinstance(risk, str):
        call = "run stp.tl.predict with a model that was fitted to a follow-up, or name the column with `risk=`"
        check_obs(adata, risk, call)
        name, column = f"obs[{risk!r}]", adata.obs[risk]
    elif isinstance(risk, pd.Series):
        name, column = "the risk", risk.reindex(adata.obs_names)
        if not risk.index.is_unique:
            raise ValueError("expected one risk per slide; found slides more than once in the index of the risk")
    else:
        raise TypeError(f"expected the risk as a column of obs or a series; found {type(risk).__name__}")
    if not pd.api.types.is_numeric_dtype(column.dtype):
        raise TypeError(f"expected numbers in {name}; found {column.dtype}")
    values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    if np.isinf(values).any():
        raise ValueError(f"expected finite risks in {name}; found {int(np.isinf(values).sum())} infinite")
    _check_group(adata, group)
    rows = np.flatnonzero(~np.isnan(values))
    if not len(rows):
        raise ValueError(f"expected a risk of at least one slide in {name}; found none; run stp.tl.predict")
    return values, rows


def _check_group(adata: AnnData, group: str | None) -> None:
    """Raise unless the groups that were cut at the training median are there, two of them at most."""
    if group is None:
        return
    if group not in adata.obs:
        raise KeyError(
            f"expected obs[{group!r}] with the groups high and low, cut at the median risk of the training patients; "
            f"found {list(adata.obs.columns)}; run stp.tl.predict with the fitted model, which writes them, or pass "
            "`group=None`: a cut at the median of these patients would be chosen on the patients it is judged by"
        )
    names = sorted(adata.obs[group].dropna().astype(str).unique())
    if len(names) > 2:
        raise ValueError(f"expected two groups in obs[{group!r}]; found {len(names)}: {', '.join(names[:5])}")


def logrank_p(patients: pd.DataFrame) -> float:
    """p-value of the log-rank test of the groups of patients; NaN with one group."""
    names = patients["group"].unique()
    if len(names) < 2:
        return float("nan")
    test = optional_import("lifelines.statistics", "survival").logrank_test
    first, second = (patients[patients["group"] == name] for name in names)
    return float(test(first["time"], second["time"], first["event"], second["event"]).p_value)


def _concordance(patients: pd.DataFrame, level: float, n_boot: int, seed: int) -> dict[str, float]:
    from stpredict.metrics._concordance import concordant_pairs

    n = len(patients)
    arrays = [patients[column].to_numpy() for column in ("time", "event", "risk")]
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot)
    right, comparable = concordant_pairs(*arrays, weights=np.concatenate([np.ones((1, n)), draws]))
    with np.errstate(invalid="ignore"):
        values = right / comparable
    drawn = values[1:][comparable[1:] > 0]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2]) if n > 1 and len(drawn) else (np.nan, np.nan)
    within = float("nan")
    if "fold" in patients:
        folded = patients["fold"].to_numpy() >= 0
        right, comparable = concordant_pairs(
            *(values[folded] for values in arrays), strata=patients["fold"].to_numpy()[folded]
        )
        within = float(right[0] / comparable[0]) if comparable[0] else within
    return {"c_index": float(values[0]), "c_low": float(low), "c_high": float(high), "c_index_folds": within}


def _hazard_ratio(patients: pd.DataFrame, level: float) -> dict[str, float]:
    """Hazard ratio per standard deviation; NaN where Cox regression has no answer."""
    names = ("hazard_ratio", "hr_low", "hr_high", "cox_p")
    found = cox_regression(_per_deviation(patients), *_follow_up(patients), level)
    if found is None:
        return dict.fromkeys(names, float("nan"))
    return dict(zip(names, _of_risk(found[0]), strict=True))


def _adjusted(patients: pd.DataFrame, covariates: pd.DataFrame, level: float) -> dict[str, Any]:
    """Hazard ratio of the risk beside covariates, and the C-index of these alone and with the risk, of complete patients."""
    from stpredict.metrics import concordance

    whole = covariates.notna().all(axis=1).to_numpy()
    names = ("hr_adjusted", "hr_adjusted_low", "hr_adjusted_high", "cox_adjusted_p")
    record: dict[str, Any] = {"n_complete": int(whole.sum())} | dict.fromkeys(
        (*names, "c_index_covariates", "c_index_both"), float("nan")
    )
    patients, covariates = patients[whole], covariates[whole]
    if not patients["event"].any():
        return record
    same = constant_columns(covariates)
    if same:  # beside it the hazard ratio would be called adjusted, and be that of the risk alone
        warnings.warn(
            f"expected covariates that differ between patients; found one value in all {len(patients)} for {few(same)}: nothing is "
            "adjusted (NaN); leave it out",
            stacklevel=3,
        )
        return record
    x, follow_up = coded(covariates)[0], _follow_up(patients)
    alone = cox_regression(x, *follow_up, level)
    if alone is not None:
        record["c_index_covariates"] = concordance(*follow_up, alone[1])
    both = cox_regression(_per_deviation(patients).join(x), *follow_up, level)
    if both is not None:
        record |= dict(zip(names, _of_risk(both[0]), strict=True))
        record["c_index_both"] = concordance(*follow_up, both[1])
    return record


def _of_risk(table: pd.DataFrame) -> list[float]:
    """The row of the risk."""
    return table.loc[["risk"], list(COLUMNS)].to_numpy(dtype=np.float64)[0].tolist()


def _per_deviation(patients: pd.DataFrame) -> pd.DataFrame:
    """The risk (n, 1), standardized; as it is, and so refused by the fit, where it is constant."""
    risk = patients[["risk"]]
    spread = risk["risk"].std(ddof=1)
    return (risk - risk.mean()) / spread if spread > _NO_SPREAD * risk["risk"].abs().max() else risk * 0


def _follow_up(patients: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    return patients["time"].to_numpy(), patients["event"].to_numpy()


def patient_covariates(
    adata: AnnData, rows: np.ndarray, names: Sequence[str], patient_key: str, patients: Sequence[str]
) -> pd.DataFrame:
    """Covariates (n_patients, d) of some rows, a row for each of the patients; an error where slides disagree."""
    frame = read_covariates(adata, list(names), "name columns of obs with `covariates=`").iloc[rows]
    person = patients_of(adata, patient_key)[rows]
    for name in names:
        differs = frame[name].groupby(person).nunique() > 1
        if differs.any():
            raise ValueError(
                f"expected one value per patient in obs[{name!r}]; found slides that disagree in {few(differs.index[differs])}"
            )
    return frame.groupby(person).first().reindex(list(patients))


def _groups(patients: pd.DataFrame) -> dict[str, Any]:
    if "group" not in patients:
        return {}
    mean = patients.groupby("group")["risk"].mean()
    return {"logrank_p": logrank_p(patients), "n_high": int((patients["group"] == mean.idxmax()).sum())}
