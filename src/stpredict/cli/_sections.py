"""Sections that commands read: one file into memory, several as a cohort that stays on disk."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.cohorts import Cohort

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.cli._items import Item

_TEXTURE = "color-texture"  # needs no weights: where nobody names an encoder


def open_sections(paths: Sequence[Path]) -> AnnData | Cohort:
    """Sections of files, folders and tables: in memory where there is one file, a cohort where there are several.

    Files that hold several sections each, and maps, are joined in memory.
    """
    from stpredict.cli._items import SECTIONS, find_items
    from stpredict.cli._objects import read_object, read_objects

    items = [item for where in paths for item in find_items(where, SECTIONS)]
    if len(items) == 1 and items[0].patient is None and items[0].name == items[0].path.stem:
        return read_object(items[0].path)
    if any(_holds_several(item.path) for item in items):
        return read_objects([item.path for item in items])
    return Cohort(_as_table(items))


def _holds_several(path: Path) -> bool:
    """Whether a file is not one section that a cohort could read: there are several in it, or it is a map."""
    from stpredict.cohorts._section_files import distinct_values, kind_of, table_in
    from stpredict.io._read_map import mark_of
    from stpredict.slots._keys import Key

    if kind_of(path) is None or mark_of(path) is not None:
        return True
    try:
        with table_in(path, Key.TABLE) as table:
            return len(distinct_values(table, Key.SAMPLE) or []) > 1
    except (OSError, KeyError):  # the cohort says what is wrong with it
        return False


def _as_table(items: Sequence[Item]) -> Any:
    """The table of a cohort, with the names and patients that a table of the user gave."""
    import pandas as pd

    rows: dict[str, list[Any]] = {"path": [str(item.path) for item in items]}
    rows["sample"] = [None if item.name == item.path.stem else item.name for item in items]
    if any(item.patient for item in items):
        rows["patient"] = [item.patient for item in items]
    return pd.DataFrame(rows)


class Prepared(Cohort):
    """A cohort whose sections get something as they are opened; their files stay as they are."""

    def __init__(self, cohort: Cohort, prepare: Callable[[AnnData], None]) -> None:
        self.__dict__.update(cohort.__dict__)
        self._prepare = prepare

    def _open(self, name: str) -> Any:
        from stpredict.slots._container import get_table

        data = super()._open(name)
        self._prepare(get_table(data, self.table_key))
        return data


@dataclass(frozen=True)
class Inputs:
    """What a fit reads of sections, computed where it is missing.

    Attributes
    ----------
    features
        Encoders; where there are none and the sections have no features, one that needs no weights.
    reads_features, neighbors, grid
        Whether the network reads features, those of the tiles around, places in a grid.
    normalize
        Method of :func:`stpredict.pp.normalize` for sections that have no record of it; its default when `None`.
    compute
        `weights` by encoder, `device` and `batch_size`.
    """

    features: tuple[str, ...]
    reads_features: bool
    neighbors: bool
    grid: bool
    normalize: str | None
    compute: dict[str, Any] = field(hash=False)

    def _wanted(self, adata: AnnData) -> list[str]:
        """Slots of features."""
        from stpredict.slots._provenance import records

        if not self.reads_features:
            return []
        names = self.features or (() if any(key.startswith("X_") for key in records(adata)) else (_TEXTURE,))
        return [f"X_{name.removeprefix('X_')}" for name in names]

    def missing(self, adata: AnnData) -> list[str]:
        """What is missing, in words; the first observation of a section is enough to know."""
        from stpredict.slots._features import feature_matrix
        from stpredict.slots._keys import Key
        from stpredict.slots._provenance import read_record

        found = [
            key for key in self._wanted(adata)
            if feature_matrix(adata, key) is None or (self.neighbors and Key.neighbors(key) not in adata.obsm)
        ]  # fmt: skip
        found += ["grid"] if self.grid and Key.GRID_ROW not in adata.obs else []
        return found + ["normalization"] * (read_record(adata, "normalize") is None)

    def add(self, adata: AnnData) -> None:
        """Compute what is missing."""
        import stpredict as stp
        from stpredict.cli._inputs import compute_features
        from stpredict.slots._keys import Key
        from stpredict.slots._provenance import read_record

        for key in self._wanted(adata):
            compute_features(adata, key, {}, self.compute, neighbors=self.neighbors)
        if self.grid and Key.GRID_ROW not in adata.obs:
            stp.pp.grid(adata)
        if read_record(adata, "normalize") is None:
            stp.pp.normalize(adata, **({"method": self.normalize} if self.normalize else {}))  # type: ignore[arg-type]

    def content(self) -> dict[str, Any]:
        """All that a section with these inputs follows from, the section itself aside."""
        return {
            "features": self.features, "neighbors": self.neighbors, "grid": self.grid, "normalization": self.normalize,
            "weights": {name: str(path) for name, path in self.compute["weights"].items()},
        }  # fmt: skip


def with_inputs(cohort: Cohort, inputs: Inputs, folder: Path | None = None) -> Cohort:
    """A cohort whose files have all that a fit reads: itself, or copies with what was missing.

    Parameters
    ----------
    cohort
        The sections, whose files stay as they are.
    inputs
        What they need.
    folder
        Where copies go, a folder in the cache when `None`. They stay there: the next call takes those of sections that
        were not changed since, and a call after an interruption goes on.
    """
    from stpredict.cli._digest import digest_of
    from stpredict.cohorts._table import heads
    from stpredict.core._settings import settings

    lacking = {name: inputs.missing(head) for name, head in heads(cohort)}
    if not any(lacking.values()):
        return cohort
    if folder is None:
        content = digest_of({"paths": [str(path) for path in cohort.paths.values()], **inputs.content()})
        folder = settings.cache_dir / "cohorts" / "prepared" / content[:24]
    folder.mkdir(parents=True, exist_ok=True)
    places = {}
    for number, (name, missing) in enumerate(lacking.items(), start=1):
        places[name] = _prepared(cohort, name, missing, inputs, folder, f"[{number}/{len(lacking)}] {name}")
    return Cohort(places, sample_key=cohort.sample_key, patient_key=cohort.patient_key, table_key=cohort.table_key)


def _prepared(cohort: Cohort, name: str, missing: Sequence[str], inputs: Inputs, folder: Path, said: str) -> Path:
    """File of a section with all that is read of it: its own, or a copy in a folder."""
    from stpredict.cli._digest import digest_of, record_of, recorded
    from stpredict.cli._objects import write_h5ad
    from stpredict.cohorts._cohort import file_name
    from stpredict.cohorts._section_files import kind_of, signature
    from stpredict.core._turns import turn
    from stpredict.slots._provenance import write_record

    source = cohort.paths[name]
    if not missing:
        return source
    if kind_of(source) == "spatialdata":
        raise ValueError(
            f"expected {', '.join(missing)} in the table of {source}; found none; compute it in Python: pp functions, such as "
            "stp.pp.image_features, take stp.Cohort(folder)"
        )
    place, start = folder / f"{file_name(name)}.h5ad", time.perf_counter()
    content = {"section": signature(source, cohort.table_key), **inputs.content()}
    with turn(place):
        if place.exists() and recorded(place) == digest_of(content):
            return place
        adata = cohort[name]
        inputs.add(adata)
        write_record(adata, "shell", record_of(content))
        write_h5ad(adata, place)
    print(f"{said}: computed {', '.join(missing)}, {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return place
