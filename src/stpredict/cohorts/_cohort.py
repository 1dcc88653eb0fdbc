"""Sections on disk that are worked on together without being in memory together."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tqdm.auto import tqdm

from stpredict.cohorts._calls import call_section
from stpredict.cohorts._section_files import kind_of, read_section, write_section
from stpredict.cohorts._sources import SectionFile, find_sections
from stpredict.cohorts._table import mapped_table, signatures
from stpredict.core._engine import Parcel, run_calls
from stpredict.core._settings import settings
from stpredict.core._validate import check_choice, few
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    import os

    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container

_SHOWN = 10


class Cohort:
    """Named sections or slides in files, opened when they are needed.

    Each file is an AnnData (`.h5ad`, Zarr) or a SpatialData, and holds one section (or the tiles of one slide). Functions that
    take a cohort go through it section by section, or read blocks of rows of all of them: what they keep in memory is bounded
    by `stpredict.settings.memory` and by the largest section, and not by the number of sections.

    Parameters
    ----------
    source
        A folder of such files; a list of paths; a mapping from names to paths; or a table (DataFrame, or a `.csv` or `.tsv`)
        with the columns `path`, `sample` and `patient`, with paths relative to the folder of the table. Names that nobody
        gives are those in `obs`, or of the files.
    patients
        Patient of each section, by its name, where neither the files nor the table says it.
    sample_key, patient_key
        Columns of `obs` with the section and the patient. A section gets them when it is opened where its file lacks them.
    table_key
        Table of every SpatialData.

    Raises
    ------
    FileNotFoundError
        When a file is missing; the message names the row.
    KeyError
        When the table lacks the column `path`.
    ValueError
        When there is no section, two have one name, a file holds several, nobody says the patient, or the file and the table
        contradict each other.
    TypeError
        When the source is none of these.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=2, n_spots=30, n_genes=5)
    >>> cohort = stp.Cohort.divide(adata, "sections")
    >>> cohort
    Cohort of 4 sections of 2 patients, 120 observations
    >>> stp.pp.normalize(cohort)
    >>> cohort["P1_S1"].shape
    (30, 5)
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | Mapping[str, Any] | pd.DataFrame,
        *,
        patients: Mapping[str, str] | None = None,
        sample_key: str = Key.SAMPLE,
        patient_key: str = Key.PATIENT,
        table_key: str = Key.TABLE,
    ) -> None:
        self.sample_key, self.patient_key, self.table_key = sample_key, patient_key, table_key
        found = find_sections(
            source, sample_key=sample_key, patient_key=patient_key, table_key=table_key, patients=patients
        )
        self._sections = {each.name: each for each in found}
        self._table: tuple[list[list[str]], AnnData] | None = None

    @classmethod
    def divide(
        cls,
        adata: AnnData,
        folder: str | os.PathLike[str],
        *,
        form: Literal["h5ad", "zarr"] = "h5ad",
        sample_key: str = Key.SAMPLE,
        patient_key: str = Key.PATIENT,
    ) -> Cohort:
        """Write every section of an object to a file of its own, and open these.

        Parameters
        ----------
        adata
            Sections in memory.
        folder
            Where to, `{section}.h5ad` or `{section}.zarr`.
        form
            Kind of the files.
        sample_key, patient_key
            Columns of `obs` with the section and the patient.

        Returns
        -------
        The cohort.

        Raises
        ------
        FileExistsError
            When a file is there already.

        Examples
        --------
        >>> import stpredict as stp
        >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=30, n_genes=5)
        >>> stp.Cohort.divide(adata, "one_each").names
        ['P1_S1', 'P2_S1']
        """
        from stpredict.slots._checks import check_patients
        from stpredict.slots._sections import kept_sections

        check_choice(form, ("h5ad", "zarr"), "form")
        adata = get_table(adata)
        check_patients(adata, sample_key, patient_key)
        sample = adata.obs[sample_key].astype(str).to_numpy()
        paths = {str(name): Path(folder) / f"{file_name(str(name))}.{form}" for name in np.unique(sample)}
        _check_free(paths.values())
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, path in paths.items():
            part = adata[sample == name].copy()
            if Key.SPATIAL in part.uns:
                part.uns[Key.SPATIAL] = kept_sections(part.uns, [name])
            write_section(part, path, Key.TABLE)
        return cls(paths, sample_key=sample_key, patient_key=patient_key)

    @property
    def names(self) -> list[str]:
        """Names of the sections, in their order."""
        return list(self._sections)

    @property
    def patients(self) -> pd.Series:
        """Patient of each section, by its name."""
        import pandas as pd

        found = {name: section.patient for name, section in self._sections.items()}
        return pd.Series(found, name=self.patient_key, dtype=object)

    @property
    def paths(self) -> dict[str, Path]:
        """File of each section, by its name."""
        return {name: section.path for name, section in self._sections.items()}

    @property
    def sizes(self) -> dict[str, int]:
        """Number of observations of each section, by its name."""
        return {name: section.n_obs for name, section in self._sections.items()}

    @property
    def n_obs(self) -> int:
        """Number of observations of all sections."""
        return sum(section.n_obs for section in self._sections.values())

    @property
    def obs(self) -> pd.DataFrame:
        """Section and patient of every observation of :meth:`table`, for masks such as `cohort.obs["patient"] != "P1"`."""
        return self.table().obs[[self.sample_key, self.patient_key]]

    def __len__(self) -> int:
        return len(self._sections)

    def __iter__(self) -> Iterator[str]:
        return iter(self._sections)

    def __contains__(self, name: object) -> bool:
        return name in self._sections

    def __getitem__(self, name: str | Iterable[str]) -> Any:
        """Open a section, or return the cohort of some of them: by names, or by a mask of the sections."""
        if isinstance(name, str):
            return self._open(name)
        wanted = list(name)
        if wanted and all(isinstance(each, bool | np.bool_) for each in wanted):
            if len(wanted) != len(self):
                raise ValueError(f"expected a mask of {len(self)} sections; found one of {len(wanted)}")
            wanted = [each for each, kept in zip(self.names, wanted, strict=True) if kept]
        if not wanted:
            raise ValueError("expected the names of sections; found none")
        part = copy(self)
        part._sections, part._table = {each: self._file(each) for each in wanted}, None
        return part

    def __repr__(self) -> str:
        n_patients = self.patients.nunique()
        return (
            f"Cohort of {len(self)} section{'s'[: len(self) > 1]} of {n_patients} patient{'s'[: n_patients > 1]}, "
            f"{self.n_obs:,} observations"
        )

    def _file(self, name: str) -> SectionFile:
        if name not in self._sections:
            raise KeyError(f"expected a section of the cohort; found {name!r}; they are {few(self.names, _SHOWN)}")
        return self._sections[name]

    def _open(self, name: str) -> Container:
        """A section with the names of the section and the patient in `obs`."""
        section = self._file(name)
        data = read_section(section.path)
        adata = get_table(data, self.table_key)
        for key, value in ((self.sample_key, section.name), (self.patient_key, section.patient)):
            if key not in adata.obs:
                adata.obs[key] = value
        return data

    def items(self) -> Iterator[tuple[str, Any]]:
        """Open the sections one after the other."""
        for name in self:
            yield name, self._open(name)

    def map(
        self,
        function: Callable[..., Any],
        *args: Any,
        write: bool | None = None,
        resume: bool = True,
        progress: bool | None = None,
        client: Any = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Call a function of AnnData or SpatialData on every section, one after the other, or on the workers of a client.

        A section that the function has changed takes the place of its file in one step: whenever the process is killed, every
        file is as it was before the call or as it is after it. The same call again goes on with the sections that are left.

        Parameters
        ----------
        function
            Takes a section first.
        *args, **kwargs
            What else it is called with.
        write
            Whether sections are written back; those of which the function returns nothing, as all that write into an object
            do, when `None`.
        resume
            Whether sections are left alone on which the same call was the last of this function, in this and any process. What
            came after a call is done again where it is called in another way.
        progress
            Whether to show a progress bar; `settings.progress` when `None`.
        client
            A `dask.distributed.Client`, or the address of a scheduler, whose workers take the sections. They open and write the
            files themselves, under the same paths, and use `settings.cache_dir` of this process.

        Returns
        -------
        What the function returned, by section; nothing of sections that were left alone.

        Examples
        --------
        >>> import stpredict as stp
        >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=30, n_genes=5)
        >>> cohort = stp.Cohort.divide(adata, "mapped")
        >>> cohort.map(lambda section: section.n_obs)
        {'P1_S1': 30, 'P2_S1': 30}
        """
        return self.call(function, args, kwargs, write=write, resume=resume, progress=progress, client=client)

    def call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: Mapping[str, Any],
        *,
        write: bool | None = None,
        resume: bool = True,
        progress: bool | None = None,
        client: Any = None,
    ) -> dict[str, Any]:
        """The same as :meth:`map`, for functions that have arguments with the names of its own."""
        held: Any = (function, args, kwargs) if client is None else Parcel((function, args, kwargs))
        how = {"write": write, "resume": resume, "cache": str(settings.cache_dir)}
        calls = ((call_section, {"cohort": self[[name]], "held": held, **how}) for name in self)
        found: dict[str, Any] = {}
        show = settings.progress if progress is None else progress
        what = getattr(function, "__name__", "sections")
        with tqdm(total=len(self), desc=what, unit="section", disable=not show) as bar:
            for name, result in zip(self, run_calls(client, calls), strict=True):
                if result is not None:
                    found[name] = result
                bar.update()
        return found

    def write(self, folder: str | os.PathLike[str], *, form: Literal["h5ad", "zarr"] | None = None) -> Cohort:
        """Copy the sections to another folder, and open the copies: what is computed on these leaves the first files alone.

        Parameters
        ----------
        folder
            Where to.
        form
            Kind of the files; that of each file when `None`. SpatialData stays SpatialData.

        Raises
        ------
        FileExistsError
            When a file is there already.

        Examples
        --------
        >>> import stpredict as stp
        >>> adata = stp.datasets.synthetic_cohort(n_patients=1, n_sections=1, n_spots=30, n_genes=5)
        >>> stp.Cohort.divide(adata, "first").write("second", form="zarr").paths["P1_S1"].name
        'P1_S1.zarr'
        """
        if form is not None:
            check_choice(form, ("h5ad", "zarr"), "form")
        paths = {}
        for name, section in self._sections.items():
            kind = kind_of(section.path)
            paths[name] = Path(folder) / f"{file_name(name)}.{'zarr' if kind == 'spatialdata' else form or kind}"
        _check_free(paths.values())
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, data in self.items():
            write_section(data, paths[name], self.table_key)
        return Cohort(paths, sample_key=self.sample_key, patient_key=self.patient_key, table_key=self.table_key)

    def table(self) -> AnnData:
        """All sections as one AnnData whose arrays stay on disk.

        `X`, layers and arrays of `obsm` (without predictions) are copied once to files below `settings.cache_dir`, block by
        block, and mapped from there; when a section changes, that is done again. `obs` is in memory. The object is for reading:
        what is written into it is not written to the sections.

        Returns
        -------
        AnnData (n_obs, n_genes), the sections in their order, with the records of :func:`stpredict.concat`.

        Raises
        ------
        ValueError
            When sections have other genes, or were made in different ways.

        Examples
        --------
        >>> import stpredict as stp
        >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=30, n_genes=5)
        >>> stp.Cohort.divide(adata, "mapped_table").table().shape
        (60, 5)
        """
        sections = list(self._sections.values())
        known = signatures(sections, self.table_key)
        if self._table is None or self._table[0] != known:
            keys = {"sample_key": self.sample_key, "patient_key": self.patient_key, "table_key": self.table_key}
            self._table = known, mapped_table(sections, **keys, known=known)
        return self._table[1]

    def to_adata(self, *, features: bool = True) -> AnnData:
        """All sections as one AnnData in memory, see :func:`stpredict.concat`.

        Parameters
        ----------
        features
            Whether image features and bags, `obsm["X_…"]`, come along.

        Examples
        --------
        >>> import stpredict as stp
        >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=30, n_genes=5)
        >>> stp.Cohort.divide(adata, "for_memory").to_adata().shape
        (60, 5)
        """
        from stpredict.slots._concat import concat

        tables = {}
        for name, data in self.items():
            tables[name] = get_table(data, self.table_key)
            for key in [] if features else [key for key in tables[name].obsm if key.startswith("X_")]:
                del tables[name].obsm[key]
        return concat(tables)


def file_name(name: str) -> str:
    """A name that any file system takes."""
    kept = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
    return kept.lstrip(".") or "_"


def _check_free(paths: Iterable[Path]) -> None:
    paths = list(paths)
    if len(set(paths)) < len(paths):
        raise ValueError(f"expected names of sections that files can have; found several of {few(sorted(set(paths)))}")
    if there := [str(path) for path in paths if path.exists()]:
        raise FileExistsError(f"expected a folder without these sections; found {few(there)}; name another")
