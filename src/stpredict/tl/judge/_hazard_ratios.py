"""Hazard ratios of a risk and of covariates, together and one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._compact import compact
from stpredict.core._optional import optional_import
from stpredict.core._validate import few
from stpredict.slots._container import get_table
from stpredict.slots._covariates import is_number
from stpredict.slots._keys import Key
from stpredict.slots._marks import UNKNOWN, joint_mark, leak_marks
from stpredict.slots._outcome import patient_outcomes
from stpredict.tl.judge._cox import COLUMNS, coded, constant_columns, cox_regression
from stpredict.tl.judge._survival import patient_covariates, read_risk

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.slots._container import Container


def hazard_ratios(
    data: Container,
    covariates: str | Sequence[str],
    risk: str | pd.Series | None = Key.RISK,
    *,
    time: str = Key.TIME,
    event: str = Key.EVENT,
    standardize: bool = True,
    patient_key: str = Key.PATIENT,
    level: float = 0.95,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Tabulate the hazard ratios of a risk and of clinical covariates: each by itself, and all together.

    Parameters
    ----------
    data
        One row per slide, with a risk, covariates and the follow-up.
    covariates
        Columns of `obs`: numbers, or categories, which are compared with their first.
    risk
        Column of `obs` with the risk, or a series indexed by the slides; `None` for covariates alone.
    time, event
        Columns of `obs` with the follow-up time and the event (1 or true where it occurred).
    standardize
        Whether numbers are taken per standard deviation; per unit otherwise. The risk always is.
    patient_key
        Column of `obs` with the patient; risks of several slides are averaged.
    level
        Level of the intervals.
    table_key
        Table of a SpatialData.

    Returns
    -------
    One row per term: `term` (the column), `level` (`"b vs a"` for categories, `"per SD"` or `"per unit"`),
    `hazard_ratio`, `low`, `high` and `p` (Wald) of all terms together, and the same with the ending `_alone` of the
    covariate by itself, on the same patients: those with all covariates. NaN where the fit has no answer.
    `attrs` has `n_patients`, `n_left_out` (patients without a covariate), `n_events` and `leaky`.

    Raises
    ------
    ImportError
        When lifelines is not installed (extra `survival`).
    KeyError
        When a column is missing.
    ValueError
        When the follow-up is unusable, covariates differ between slides of one patient or are the same in all
        patients, or nobody has all of them.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> obs = pd.DataFrame(
    ...     {"patient": np.arange(80), "risk": rng.normal(size=80), "er": rng.choice(["neg", "pos"], 80)}
    ... )
    >>> obs["time"], obs["event"] = rng.exponential(np.exp(-obs["risk"])), rng.random(80) < 0.7
    >>> table = stp.tl.hazard_ratios(ad.AnnData(obs=obs.set_index("s" + obs["patient"].astype(str))), "er")
    >>> table[["term", "level"]].values.tolist()
    [['risk', 'per SD'], ['er', 'pos vs neg']]
    """
    import pandas as pd

    optional_import("lifelines", "survival")
    if not 0 < level < 1:
        raise ValueError(f"expected level between 0 and 1; found {level!r}")
    adata = get_table(data, table_key)
    names = [covariates] if isinstance(covariates, str) else list(covariates)
    if risk is None:
        values, rows = np.zeros(adata.n_obs), np.arange(adata.n_obs)
    else:
        values, rows = read_risk(adata, risk, None)
    patients = patient_outcomes(
        adata, rows, risk=values[rows], time=time, event=event, group=None, fold=None, patient_key=patient_key
    )
    frame = patient_covariates(adata, rows, names, patient_key, list(patients["patient"]))
    whole = frame.notna().all(axis=1).to_numpy()
    if not whole.any():
        raise ValueError(f"expected a patient with all of {', '.join(names)}; found none of {len(patients)}")
    patients, frame = patients[whole].reset_index(drop=True), frame[whole].reset_index(drop=True)
    if not patients["event"].any():
        raise ValueError(
            f"expected an event among the patients with all of {', '.join(names)}; found {len(patients)} censored"
        )
    if same := constant_columns(frame):
        raise ValueError(
            f"expected covariates that differ between patients; found one value in all {len(frame)} for {few(same)}; leave it out"
        )
    unit = {name: ("per SD" if standardize else "per unit") for name in names if is_number(frame[name])}
    if risk is not None:
        own = risk if isinstance(risk, str) else "risk"
        frame.insert(0, own, patients["risk"].to_numpy())
        unit[own] = "per SD"
    x, terms = coded(frame)
    for column, (name, _) in zip(x.columns, terms, strict=True):
        if unit.get(name) == "per SD":
            spread = x[column].std()
            x[column] = (x[column] - x[column].mean()) / (spread if spread > 0 else 1.0)
    lasted, ended = patients["time"].to_numpy(), patients["event"].to_numpy()
    table = pd.DataFrame({"term": [n for n, _ in terms], "level": [kind or unit[n] for n, kind in terms]})
    table[list(COLUMNS)] = _fit(x, lasted, ended, level)
    alone = [
        _fit(x.loc[:, [n == name for n, _ in terms]], lasted, ended, level)
        for name in dict.fromkeys(n for n, _ in terms)
    ]
    table[[f"{column}_alone" for column in COLUMNS]] = np.concatenate(alone)
    marks = leak_marks(adata, risk, patient_key)[rows] if isinstance(risk, str) else None
    table.attrs = {
        "n_patients": len(patients), "n_left_out": int((~whole).sum()), "n_events": int(ended.sum()),
        "leaky": UNKNOWN if marks is None else joint_mark(marks),
    }  # fmt: skip
    return compact(table, ("term", "level", *COLUMNS), move=False)


def _fit(x: pd.DataFrame, time: np.ndarray, event: np.ndarray, level: float) -> Any:
    found = cox_regression(x, time, event, level)
    return np.full((x.shape[1], len(COLUMNS)), np.nan) if found is None else found[0][list(COLUMNS)].to_numpy()
