"""Where the sections of a cohort are: a folder, a list, a mapping or a table, turned into named files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.cohorts._section_files import distinct_values, kind_of, n_rows, stores_in, table_in
from stpredict.core._validate import few

if TYPE_CHECKING:
    import pandas as pd

_TABLES = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


@dataclass(frozen=True)
class SectionFile:
    """A section on disk.

    Attributes
    ----------
    name, patient
        Name of the section, and of the patient.
    path
        Where it is.
    n_obs
        Number of its observations.
    """

    name: str
    patient: str
    path: Path
    n_obs: int


@dataclass(frozen=True)
class _Entry:
    """What a source says of a section; `where` is how it is called in messages."""

    where: str
    path: Path
    name: str | None = None
    patient: str | None = None


def find_sections(
    source: Any, *, sample_key: str, patient_key: str, table_key: str, patients: Mapping[str, str] | None
) -> list[SectionFile]:
    """Sections of a source, in its order; every one is looked at, and none is read.

    Raises
    ------
    FileNotFoundError
        When a file is missing; the message names the row.
    KeyError
        When a column of the table is missing.
    ValueError
        When there is no section, a file is none, names are not unique, nobody says the patient, or file and table contradict
        each other.
    """
    found = [_looked_at(entry, sample_key, patient_key, table_key, patients or {}) for entry in _entries(source)]
    if not found:
        raise ValueError(f"expected at least one section; found none in {source!r}; name .h5ad files or Zarr stores")
    names = [each.name for each in found]
    if len(twice := sorted({name for name in names if names.count(name) > 1})):
        both = [str(each.path) for each in found if each.name == twice[0]]
        raise ValueError(
            f"expected sections of different names; found {few(twice)} more than once ({few(both)}); name them in a table with "
            "columns sample, patient and path"
        )
    if unknown := sorted(set(patients or {}) - set(names)):
        raise ValueError(f"expected sections of the cohort in `patients`; found {few(unknown)}; they are {few(names)}")
    return found


def _entries(source: Any) -> list[_Entry]:
    """What a source names."""
    if isinstance(source, str | os.PathLike):
        place = Path(source)
        if place.suffix in _TABLES and place.is_file():
            import pandas as pd

            return _of_table(pd.read_csv(place, sep=_TABLES[place.suffix], dtype=str), place.parent, place.name)
        if not place.exists():
            raise FileNotFoundError(f"expected a folder of sections, or a table of them; found nothing at {place}")
        if kind_of(place) is not None or not place.is_dir():
            raise ValueError(
                f"expected a folder of sections, or a .csv or .tsv with columns sample, patient and path; found {place}; of a "
                f"single section, pass a list: [{str(place)!r}]"
            )
        return [_Entry(str(path), path) for path in stores_in(place)]
    if isinstance(source, Mapping):
        return [_Entry(f"section {name!r}", Path(path), name=str(name)) for name, path in source.items()]
    if hasattr(source, "iloc"):
        return _of_table(source, Path(), "the table")
    if isinstance(source, Sequence):
        return [_Entry(f"entry {number}", Path(path)) for number, path in enumerate(source)]
    raise TypeError(
        f"expected a folder, a list of paths, a mapping from names to paths, or a table; found {type(source).__name__}"
    )


def _of_table(table: pd.DataFrame, folder: Path, what: str) -> list[_Entry]:
    """Rows of a table; paths are relative to the folder that it is in."""
    if "path" not in table:
        raise KeyError(f"expected columns path, sample and patient in {what}; found {list(table.columns)}")
    entries = []
    for number, row in enumerate(table.to_dict("records")):
        known = {name: None if _is_gap(row.get(name)) else str(row[name]) for name in ("path", "sample", "patient")}
        where = f"row {number} of {what}" + (f" ({known['sample']!r})" if known["sample"] else "")
        if known["path"] is None:
            raise ValueError(f"expected a path in {where}; found none")
        if "patient" in table and known["patient"] is None:
            raise ValueError(
                f"expected a patient in {where}; found none; name the person, whom no other section may share"
            )
        entries.append(_Entry(where, folder / known["path"], known["sample"], known["patient"]))
    return entries


def _is_gap(value: Any) -> bool:
    return value is None or value != value or not str(value).strip()


def _looked_at(
    entry: _Entry, sample_key: str, patient_key: str, table_key: str, patients: Mapping[str, str]
) -> SectionFile:
    """A section with what its file says of itself."""
    if not entry.path.exists():
        raise FileNotFoundError(f"expected the file of {entry.where}; found nothing at {entry.path}; correct the path")
    if kind_of(entry.path) is None:
        raise ValueError(
            f"expected an .h5ad file, or a Zarr store of an AnnData or a SpatialData, as {entry.where}; found {entry.path}"
        )
    try:
        with table_in(entry.path, table_key) as table:
            n_obs = n_rows(table)
            known = {key: distinct_values(table, key) for key in (sample_key, patient_key)}
    except (OSError, KeyError) as error:
        raise type(error)(f"expected a section that can be read as {entry.where}; found: {error}") from error
    name = _one(known[sample_key], entry.name, f"name of the section in obs[{sample_key!r}]", entry)
    name = name or entry.path.name.split(".")[0]
    person = _one(known[patient_key], patients.get(name, entry.patient), f"patient in obs[{patient_key!r}]", entry)
    if person is None:
        raise ValueError(
            f"expected the patient of section {name!r}, in obs[{patient_key!r}], or in a column `patient` of the table; found "
            f"none in {entry.path}; pass patients={{{name!r}: …}}, or a table with columns sample, patient and path"
        )
    return SectionFile(name, person, entry.path.absolute(), n_obs)


def _one(found: list[str] | None, given: str | None, what: str, entry: _Entry) -> str | None:
    """The one value that a file and its source agree on; `None` where neither says any."""
    if found is None or not found:
        return given
    if len(found) > 1:
        raise ValueError(
            f"expected one {what} of {entry.where}, a file of one section; found {few(found)} in {entry.path}; divide it: "
            "stp.Cohort.divide(adata, folder)"
        )
    if found[0] is None or (given is not None and given != found[0]):
        raise ValueError(
            f"expected the {what} of {entry.where} to be the same in its file and its source; found {found[0]!r} in "
            f"{entry.path}, and {given!r}; correct one of them"
        )
    return found[0]
