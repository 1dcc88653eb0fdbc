"""The mark of a leak: whether the model behind a prediction saw the patient, as far as that is known."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from stpredict.slots._booleans import read_bool
from stpredict.slots._keys import Key
from stpredict.slots._people import among
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: In tables, in place of True and False; among the patients of a model, where nobody wrote down who they are.
UNKNOWN = "unknown"
#: In tables, where the model saw other spots of the same section, behind a buffer: no leak, and nothing about other people.
WITHIN = "within section"
MARK_CODES = {WITHIN: 2, UNKNOWN: -1}
_WORST_FIRST = (1, -1, 2)
Mark: TypeAlias = "bool | str"


def leak_marks(adata: AnnData, key: str, patient_key: str = Key.PATIENT) -> np.ndarray:
    """Marks (n_obs,) of a prediction: 1 where its model saw the patient, 0 where it did not, -1 where that is unknown.

    2 where the split was within a section, see :func:`stpredict.cohorts.spatial_blocks`.

    The column `obs["{key}_leaky"]` counts, with the patients that the record of the prediction names; where the column is
    lost, the record alone. A prediction with neither, as one that was copied to another slot, is of unknown origin, and so
    are rows where the column has gaps and sections that the record does not name: they come from another object than the
    record. A baseline has the marks of the prediction that it stands beside.
    """
    record = read_record(adata, key) or {}
    main = key.split(Key.baseline("", ""))[0]
    if main != key and not {"patients_seen", "training_patients"} & set(record) and Key.leaky(key) not in adata.obs:
        return leak_marks(adata, main, patient_key)
    own = _predicted_here(adata, record)
    return np.where(
        own, _own_marks(adata, key, record, patient_key), np.where(read_marks(adata, Key.leaky(key)) == 1, 1, -1)
    )


def _predicted_here(adata: AnnData, record: dict[str, Any]) -> np.ndarray:
    """Mask (n_obs,) of the sections that the record of a prediction names; all where it names none."""
    if "samples" not in record:
        return np.ones(adata.n_obs, dtype=bool)
    column = record.get("sample_key", Key.SAMPLE)
    if column not in adata.obs:
        return np.zeros(adata.n_obs, dtype=bool)
    return adata.obs[column].astype(str).isin([str(name) for name in np.atleast_1d(record["samples"])]).to_numpy()


def _own_marks(adata: AnnData, key: str, record: dict[str, Any], patient_key: str) -> np.ndarray:
    """Marks (n_obs,) as if every row had been predicted by the call that left the record."""
    seen = record.get("patients_seen")
    people = adata.obs[patient_key].astype(str).to_numpy() if patient_key in adata.obs else None
    marks = read_marks(adata, Key.leaky(key))
    if people is None:
        return marks
    if seen is None:  # a record that tells the training patients only, if any
        marks[among(people, np.atleast_1d(record.get("training_patients", [])))] = 1
        return marks
    names = [str(name) for name in np.atleast_1d(seen)]
    known = seen_marks(people, names) == 1
    complete = bool(names) and UNKNOWN not in names
    if not complete:
        marks = np.where(marks == 1, 1, -1)
    elif Key.leaky(key) not in adata.obs:
        marks = np.zeros(adata.n_obs, dtype=np.int64)
        if record.get("recognized"):
            sample = adata.obs[record.get("sample_key", Key.SAMPLE)].astype(str)
            known = known | among(people, people[sample.isin(np.atleast_1d(record["recognized"]))])
    return np.where(known, 1, marks)


def sections_record(adata: AnnData, sample_key: str) -> dict[str, Any]:
    """What the record of a prediction says of the sections that it is about."""
    return {"samples": sorted(set(adata.obs[sample_key].astype(str))), "sample_key": sample_key}


def read_marks(adata: AnnData, name: str) -> np.ndarray:
    """Marks (n_obs,) of a column of `obs`, -1 for gaps, for `"unknown"`, and without such a column."""
    if name not in adata.obs:
        return np.full(adata.n_obs, -1)
    values = adata.obs[name]
    words = values.astype(str).str.strip().str.casefold()
    values = values.astype(object).where(~words.isin(MARK_CODES), None)
    yes, at_least = (read_bool(values, f"obs[{name!r}]", gaps=gap) for gap in (False, True))
    return np.select([yes, (words == WITHIN).to_numpy(), at_least], [1, MARK_CODES[WITHIN], -1], 0)


def seen_marks(people: Iterable[Any], seen: Iterable[str]) -> np.ndarray:
    """Marks (n,) of people by who was seen: 1 for one of them, -1 for others where not all of them are known, else 0."""
    names = list(seen)
    return np.where(among(people, [name for name in names if name != UNKNOWN]), 1, -1 if UNKNOWN in names else 0)


def mark_column(people: np.ndarray, seen: Iterable[str], recognized: np.ndarray) -> Any:
    """Marks of the patients (n_obs,) of a prediction as they are written to `obs`.

    The model behind it has seen some patients, and those of the observations that are `recognized` (n_obs,); where it names
    none, nobody said who they are.
    """
    return written_marks(seen_marks(people, [*(list(seen) or [UNKNOWN]), *people[recognized]]))


def written_marks(marks: np.ndarray) -> Any:
    """Marks (n_obs,) as they are written to `obs`: booleans, or text where one is unknown."""
    import pandas as pd

    if np.isin(marks, (0, 1)).all():
        return marks == 1
    names = np.select([marks == 1, marks == 0, marks == MARK_CODES[WITHIN]], ["True", "False", WITHIN], UNKNOWN)
    return pd.Categorical(names)


def worst_marks(*marks: Any) -> np.ndarray:
    """Marks (n,) of what has several (n,) or scalar ones: a leak where one is, else unknown, else within a section."""
    every = np.stack(np.broadcast_arrays(*(np.asarray(mark, dtype=np.int64) for mark in marks)))
    return np.select([(every == mark).any(axis=0) for mark in _WORST_FIRST], _WORST_FIRST, 0)


def group_marks(marks: np.ndarray, group: np.ndarray, n_groups: int) -> np.ndarray:
    """Marks (n_groups,) of what each group of marks is together, see :func:`joint_mark`."""
    found = [np.bincount(group, weights=marks == mark, minlength=n_groups) > 0 for mark in _WORST_FIRST]
    return np.select(found, _WORST_FIRST, 0)


def joint_mark(marks: Any) -> Mark:
    """What several marks are together: True where one is, else `"unknown"`, else `"within section"`, else False.

    They are those of :func:`leak_marks`, or a column of a table, which may have come from a text file.
    """
    values = set(np.asarray(marks, dtype=object).ravel().tolist())
    words = {str(value).strip().casefold() for value in values}
    if words & {"true", "1", "1.0"}:
        return True
    within = {WITHIN, "2", "2.0"}
    if words - {"false", "0", "0.0"} - within:
        return UNKNOWN
    return WITHIN if words & within else False


def table_mark(table: pd.DataFrame) -> Mark:
    """The mark of a table of scores; `"unknown"` where it has lost the column."""
    return joint_mark(table["leaky"].unique()) if "leaky" in table else UNKNOWN


def mark_words(mark: Mark) -> str:
    """What a title says of a mark; nothing where the model saw other patients only."""
    return "leaky" if mark is True else {UNKNOWN: "leak unknown", WITHIN: WITHIN}.get(str(mark), "")
