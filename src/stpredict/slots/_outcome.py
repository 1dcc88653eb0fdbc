"""Follow-up times and events of patients, as an object with several slides per patient holds them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import few
from stpredict.slots._checks import check_obs
from stpredict.slots._keys import Key
from stpredict.slots._matrix import check_float32
from stpredict.slots._people import one_name

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData


def read_outcome(
    adata: AnnData,
    time_key: str = Key.TIME,
    event_key: str = Key.EVENT,
    rows: Any = None,
    *,
    patient_key: str | None = Key.PATIENT,
) -> tuple[np.ndarray, np.ndarray]:
    """Return follow-up times and events (n,), both float32, of some rows (a mask or indices; all when `None`).

    Raises `KeyError` for a missing column, and `ValueError` for times that are not positive and finite, events that are
    neither 0, 1 nor boolean, no event at all, and slides of one patient that disagree. With `patient_key=None` every
    row is a patient of its own.
    """
    for key, what in ((time_key, "follow-up times"), (event_key, "events (1) and censorings (0)")):
        check_obs(adata, key, f"put the {what} there, or name their column")
    obs = adata.obs if rows is None else adata.obs[rows] if np.asarray(rows).dtype == bool else adata.obs.iloc[rows]
    time = _numbers(obs[time_key], f"times in obs[{time_key!r}] to be numbers")
    bad = ~(np.isfinite(time) & (time > 0))
    if bad.any():
        raise ValueError(
            f"expected positive, finite times in obs[{time_key!r}]; found {time[bad][0]:g} "
            f"({int(bad.sum())} such, first {obs.index[bad][0]!r}); leave these slides out"
        )
    event = _numbers(obs[event_key], f"events in obs[{event_key!r}] to be 0, 1 or boolean")
    bad = ~np.isin(event, (0, 1))
    if bad.any():
        raise ValueError(
            f"expected events in obs[{event_key!r}] to be 0, 1 or boolean; found {event[bad][0]:g} "
            f"({int(bad.sum())} such, first {obs.index[bad][0]!r}); code the event as 1 and censoring as 0"
        )
    if not event.any():
        raise ValueError(f"expected at least one event in obs[{event_key!r}]; found {len(event)} censored follow-ups")
    if patient_key is not None:
        _check_agreement(patients_of(adata, patient_key)[_index(rows, adata.n_obs)], time, event, (time_key, event_key))
    return time.astype(np.float32), event.astype(np.float32)


def patients_of(adata: AnnData, patient_key: str) -> np.ndarray:
    """Patient of each observation (n_obs,), as text; one spelling per person."""
    check_obs(adata, patient_key, f"name the people with obs[{patient_key!r}]")
    if adata.obs[patient_key].isna().any():
        raise ValueError(
            f"expected obs[{patient_key!r}] without gaps; found {int(adata.obs[patient_key].isna().sum())} missing values"
        )
    return one_name(adata.obs[patient_key])


def patient_outcomes(
    adata: AnnData,
    rows: np.ndarray,
    *,
    risk: np.ndarray,
    time: str,
    event: str,
    group: str | None,
    fold: np.ndarray | None,
    patient_key: str,
) -> pd.DataFrame:
    """Return one row per patient of some rows (indices): mean `risk`, `time`, `event`, `group` and `fold`.

    A patient whose slides fall into both groups is counted with the greater number of them, and with the slide of the
    higher risk where they are equally many. A fold is kept where all slides of the patient share it.
    """
    import pandas as pd

    follow_up, happened = read_outcome(adata, time, event, rows, patient_key=patient_key)
    slides = pd.DataFrame(
        {"patient": patients_of(adata, patient_key)[rows], "risk": risk, "time": follow_up, "event": happened}
    )
    patients = slides.groupby("patient", sort=False)
    table = patients.agg({"risk": "mean", "time": "first", "event": "first"})
    table["n_slides"] = patients.size()
    if group is not None:
        slides["group"] = adata.obs[group].astype(object).to_numpy()[rows]
        if slides["group"].isna().any():
            raise ValueError(
                f"expected a group for every slide with a risk in obs[{group!r}]; found "
                f"{int(slides['group'].isna().sum())} missing; run stp.tl.predict again"
            )
        slides["group"] = slides["group"].astype(str)
        counts = slides.groupby(["patient", "group"], sort=False)["risk"].agg(["size", "max"]).reset_index()
        chosen = counts.sort_values(["size", "max"], ascending=False).drop_duplicates("patient")
        table["group"] = chosen.set_index("patient")["group"].reindex(table.index)
    if fold is not None:
        slides["fold"] = fold[rows]
        parts = slides.groupby("patient", sort=False)["fold"]
        table["fold"] = np.where(parts.min() == parts.max(), parts.first(), -1)
    return table.reset_index()


def fold_numbers(adata: AnnData, key: str) -> np.ndarray | None:
    """Fold of each observation (n_obs,) from 0 on, -1 where none predicted it; `None` without such a column."""
    import pandas as pd

    if key not in adata.obs:
        return None
    values = adata.obs[key]
    if pd.api.types.is_numeric_dtype(values.dtype):
        values = values.where(values >= 0)
    return np.asarray(pd.factorize(values)[0])


def _numbers(column: pd.Series, what: str) -> np.ndarray:
    try:
        if getattr(column.dtype, "kind", "O") in "cmM":  # numpy makes numbers of dates, and of complex numbers
            raise TypeError
        values = column.to_numpy(dtype=np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        raise ValueError(f"expected {what}; found {column.iloc[0]!r} of type {column.dtype}") from None
    check_float32(values, what.replace(" to be ", ", "))
    return values


def _index(rows: Any, n_obs: int) -> Any:
    return np.arange(n_obs) if rows is None else np.asarray(rows)


def _check_agreement(patient: np.ndarray, time: np.ndarray, event: np.ndarray, keys: tuple[str, str]) -> None:
    import pandas as pd

    table = pd.DataFrame({"time": time, "event": event}).groupby(patient).nunique()
    differing = table.index[(table > 1).any(axis=1)]
    if len(differing):
        raise ValueError(
            f"expected one outcome per patient in obs[{keys[0]!r}] and obs[{keys[1]!r}]; found slides that disagree in "
            f"{few(differing)}"
        )
