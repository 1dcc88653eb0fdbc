"""Predictions of folds that stay in files, and how they get from there into the sections of a cohort."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts import Cohort, Fold
from stpredict.core._file_rows import rows_in_file
from stpredict.core._settings import settings
from stpredict.slots._container import get_table

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.tl.learn.targets._base import Keys
    from stpredict.training import ArraySet, Predicted


@contextmanager
def room_on_disk() -> Iterator[Path]:
    """A folder for as long as it is needed, where caches are: on a disk, which temporary folders need not be."""
    parent = settings.cache_dir / "cohorts" / "folds"
    parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=parent) as folder:
        yield Path(folder)


def stored_by_section(test: ArraySet, predict: Callable[[ArraySet], Predicted], stem: Path) -> Predicted:
    """Predict rows section by section, into files; what is returned reads them from there."""
    from stpredict.training import Predicted

    found: dict[str, Path] = {}
    for code in np.unique(test.section):
        rows = np.flatnonzero(test.section == code)
        part = predict(test.take(rows))
        for name in ("mean", "std", "samples"):
            if (values := getattr(part, name)) is None:
                continue
            mode: Any = "r+" if name in found else "w+"
            path = found.setdefault(name, stem.with_name(f"{stem.name}-{name}.npy"))
            table = np.lib.format.open_memmap(path, mode, np.float32, (len(test), *values.shape[1:]))
            table[rows] = values
            table.flush()
            del table  # and the pages with it
    rows_of: dict[str, Any] = {name: rows_in_file(np.load(path, mmap_mode="r")) for name, path in found.items()}
    return Predicted(**rows_of)


def write_to_sections(
    cohort: Cohort,
    written: Mapping[str, tuple[Sequence[Any], Mapping[str, Any]]],
    folds: Sequence[Fold],
    keys: Keys,
    write: Callable[..., None],
) -> None:
    """Write the results of all folds into the files of the sections, every file once.

    Parameters
    ----------
    cohort
        The sections, whose observations the rows of the folds are, in their order.
    written
        Results and record of each slot.
    folds
        Training and test sides over all rows.
    keys
        Columns of `obs` with the section and the patient.
    write
        :func:`stpredict.tl.learn._out_of_fold.write_out_of_fold`.
    """
    start = 0
    for name in cohort:
        stop = start + cohort.sizes[name]
        here = [replace(fold, train=fold.train[start:stop], test=fold.test[start:stop]) for fold in folds]

        def put(section: Any, start: int = start, stop: int = stop, here: Sequence[Fold] = here) -> None:
            adata = get_table(section, cohort.table_key)
            for key, (results, record) in written.items():
                write(adata, key, [_some_rows(result, start, stop) for result in results], here, keys, record)

        cohort[[name]].map(put, write=True, resume=False, progress=False)
        start = stop


def judged_together(
    adata: AnnData,
    written: Mapping[str, tuple[Sequence[Any], Mapping[str, Any]]],
    folds: Sequence[Fold],
    keys: Keys,
    write: Callable[..., None],
) -> AnnData:
    """All observations with what was predicted of them, and without expression and features: for scores of classes or follow-up."""
    from anndata import AnnData

    found = AnnData(obs=adata.obs.copy(), uns=dict(adata.uns))
    for key, (results, record) in written.items():
        write(found, key, [_some_rows(result, 0, adata.n_obs) for result in results], folds, keys, record)
    return found


def _some_rows(result: Any, start: int, stop: int) -> Any:
    """What a fold predicted of some rows of the table, in their own numbers."""
    rows = np.flatnonzero((result.test >= start) & (result.test < stop))
    beside = {name: getattr(result, name) for name in ("std", "samples")}
    beside = {name: None if values is None else values[rows] for name, values in beside.items()}
    return replace(result, test=result.test[rows] - start, mean=result.mean[rows], **beside)
