"""The null genes: counts without biology at the real depths, fitted and scored like the data."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._file_rows import read_rows
from stpredict.core._settings import settings
from stpredict.datasets import null_counts
from stpredict.slots._depth import depth_of, total_counts
from stpredict.slots._expression import measured_rows
from stpredict.slots._keys import Key
from stpredict.slots._matrix import numeric_matrix
from stpredict.slots._provenance import read_record, records
from stpredict.targets import Expression
from stpredict.tl.judge._evaluate import evaluate
from stpredict.tl.learn._folds import FoldResult, run_folds
from stpredict.tl.learn._out_of_fold import write_out_of_fold
from stpredict.tl.learn._stored import room_on_disk, write_to_sections

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from anndata import AnnData

    from stpredict.cohorts import Cohort, Fold
    from stpredict.tl.learn._task import Task
    from stpredict.tl.learn.targets._base import Keys

NULL = "ridge (null genes)"
_REST = "rest of the counts"
_SETTINGS = ("method", "size_factors", "panel", "target_sum", "theta", "clip", "sample_key")
_KEY = "null"


def has_null_genes(adata: AnnData, request: Any) -> bool:
    """Whether the target is expression that :func:`stpredict.pp.normalize` made of counts that are there."""
    record = read_record(adata, "normalize") or {}
    known = isinstance(request, Expression) and request.layer is None and Key.COUNTS in adata.layers
    return known and record.get("method") in {"log1p", "pearson_residuals"}


def null_cohort(adata: AnnData, genes: Sequence[str], slots: Sequence[str], keys: Keys, seed: int) -> AnnData:
    """The object with counts of some genes, and of all others together, redrawn with the proportions of each section.

    Normalized as the object is; features, positions and the record of the features are those of the object.
    """
    from scipy import sparse

    null = _NullGenes(adata, genes, slots, keys, seed)
    parts = [(rows, null.drawn(rows).tocoo()) for rows in null.sections.values()]
    row = np.concatenate([np.zeros(0, dtype=np.int64), *(rows[part.row] for rows, part in parts)])
    column = np.concatenate([np.zeros(0, dtype=np.int64), *(part.col for _, part in parts)])
    drawn = np.concatenate([np.zeros(0, dtype=np.float32), *(part.data for _, part in parts)])
    values = sparse.csr_matrix((drawn, (row, column)), shape=(adata.n_obs, len(null.names) + 1))
    obsm = {slot: adata.obsm[slot] for slot in (*slots, Key.SPATIAL) if slot in adata.obsm}
    return null.table(values, np.arange(adata.n_obs), obsm)


def null_sections(
    cohort: Cohort, adata: AnnData, genes: Sequence[str], slots: Sequence[str], keys: Keys, seed: int, folder: Path
) -> Cohort:
    """The same of the sections of a cohort, whose mapped table is `adata`: one file each in a folder, without features."""
    from scipy import sparse

    null = _NullGenes(adata, genes, slots, keys, seed)
    start = dict(zip(cohort, np.cumsum([0, *cohort.sizes.values()]), strict=False))
    paths = {name: folder / f"{number}.h5ad" for number, name in enumerate(cohort)}
    for name in sorted(cohort):  # the order in which they are drawn from in memory
        every = np.arange(start[name], start[name] + cohort.sizes[name])
        rows = null.sections.get(name, every[:0])
        drawn = null.drawn(rows).tocoo() if len(rows) else sparse.coo_array((0, len(null.names) + 1), dtype=np.float32)
        at = (rows[drawn.row] - every[0], drawn.col)
        values = sparse.csr_matrix((drawn.data, at), shape=(len(every), drawn.shape[1]))
        obsm = {Key.SPATIAL: read_rows(adata.obsm[Key.SPATIAL], every)} if Key.SPATIAL in adata.obsm else {}
        part = null.table(values, every, obsm)
        part.uns["spatial"] = {key: entry for key, entry in part.uns["spatial"].items() if key == name}
        part.write_h5ad(paths[name])
    return type(cohort)(paths, sample_key=keys.sample, patient_key=keys.patient)


class _NullGenes:
    """What null genes are drawn from, one section after the other.

    Attributes
    ----------
    names
        Genes that are drawn by themselves.
    sections
        Measured rows of each section, in the order in which they are to be drawn.
    """

    def __init__(self, adata: AnnData, genes: Sequence[str], slots: Sequence[str], keys: Keys, seed: int) -> None:
        record = read_record(adata, "normalize") or {}
        self.adata, self.slots, self.rng = adata, slots, np.random.default_rng(seed)
        self.settings = {name: record[name] for name in _SETTINGS if name in record}
        wanted = {*genes, *(self.settings.get("panel") or [])}
        self.names = [name for name in adata.var_names if name in wanted]
        self.counts = numeric_matrix(adata.layers[Key.COUNTS], f"layers[{Key.COUNTS!r}]")
        if getattr(self.counts, "format", None) == "csc":  # whose rows are found by going through all of it
            self.counts = self.counts.tocsr()
        self.measured = measured_rows(adata, self.counts)
        # Genes that were left out since have a part in the depth.
        self.depth = depth_of(adata) if self.settings.get("size_factors") == "all" else None
        section = adata.obs[keys.sample].astype(str).to_numpy()
        self.sections = {
            str(name): np.flatnonzero(self.measured & (section == name)) for name in np.unique(section[self.measured])
        }

    def drawn(self, rows: np.ndarray) -> Any:
        """Counts (n, n_names + 1) of the measured rows of a section, redrawn; those of all other genes in the last column."""
        from scipy import sparse

        counts = read_rows(self.counts, rows)
        own = sparse.csr_array(counts[:, self.adata.var_names.get_indexer(self.names)])
        depth = total_counts(counts)
        if self.depth is not None:
            depth = np.maximum(depth, self.depth[rows])
        rest = np.rint(depth - total_counts(own))
        both = sparse.hstack([own, sparse.csr_array(rest[:, None])], format="csr").astype(np.float32)
        return null_counts(both, np.zeros(len(rows)), self.rng)

    def table(self, values: Any, rows: np.ndarray, obsm: Mapping[str, Any]) -> AnnData:
        """Some rows with their counts, normalized as the object is."""
        from anndata import AnnData as Table

        from stpredict.pp import normalize

        null = Table(values, obs=self.adata.obs.iloc[rows].copy(), obsm=dict(obsm))
        null.var_names = [*self.names, _REST]
        null.obs[Key.MEASURED] = self.measured[rows]
        null.uns["spatial"] = self.adata.uns.get("spatial", {})
        kept = {*self.slots, Key.UNIT}
        null.uns[Key.UNS] = {name: entry for name, entry in records(self.adata).items() if name in kept}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # observations without counts: told of the object itself
            normalize(null, **self.settings)
        return null


def null_scores(
    adata: AnnData,
    task: Task,
    folds: Sequence[Fold],
    results: Sequence[FoldResult],
    leaky: Any,
    keys: Keys,
    *,
    device: torch.device,
    seed: int,
    scoring: Mapping[str, Any],
    cohort: Cohort | None = None,
) -> pd.DataFrame:
    """Scores of a ridge on null genes: fitted to them, and compared with them.

    Parameters
    ----------
    adata
        The object.
    task
        The ridge.
    folds, results
        Folds, and results of another task on them, which say the genes of each.
    leaky
        Marks of these results (n_obs,), as they were written.
    keys
        Columns of `obs` with the section and the patient.
    device, seed
        Device and random seed.
    scoring
        Options of :func:`stpredict.tl.evaluate`.
    cohort
        The sections on disk, whose mapped table the object is: null genes are then drawn, kept and judged in files as well.
    """
    genes = list(dict.fromkeys(name for result in results for name in result.target.names))
    fitting: dict[str, Any] = {"device": device, "seed": seed}
    record = {
        "label": NULL, "comparator": True, "model": task.info.name, "folds": [fold.name for fold in folds],
        "samples": sorted(set(adata.obs[keys.sample].astype(str))), "sample_key": keys.sample,
    }  # fmt: skip
    if cohort is None:
        null = null_cohort(adata, genes, task.slots, keys, seed)
        write_out_of_fold(null, _KEY, _fitted(null, task, folds, results, keys, **fitting), folds, keys, record)
        null.obs[Key.leaky(_KEY)] = leaky
        return evaluate(null, _KEY, baselines=False, **scoring)
    with room_on_disk() as folder, _caching_in(folder):
        sections = null_sections(cohort, adata, genes, task.slots, keys, seed, folder)
        null = sections.table()
        for slot in task.slots:
            null.obsm[slot] = adata.obsm[slot]
        found = _fitted(null, task, folds, results, keys, folder=folder, **fitting)
        marks = dict(
            zip(sections, np.split(np.asarray(leaky), np.cumsum([*sections.sizes.values()])[:-1]), strict=True)
        )

        def write(section: AnnData, key: str, *args: Any) -> None:
            write_out_of_fold(section, key, *args)
            (name,) = set(section.obs[keys.sample].astype(str))
            section.obs[Key.leaky(key)] = marks[name]

        write_to_sections(sections, {_KEY: (found, record)}, folds, keys, write)
        return evaluate(sections, _KEY, baselines=False, **scoring)


def _fitted(
    null: AnnData,
    task: Task,
    folds: Sequence[Fold],
    results: Sequence[FoldResult],
    keys: Keys,
    *,
    device: torch.device,
    seed: int,
    folder: Path | None = None,
) -> list[FoldResult]:
    """What the ridge gives on every fold, with the genes of the results; predictions go into a folder where there is one."""
    found = []
    for number, fold in enumerate(folds):
        names = next(list(result.target.names) for result in results if result.number == number)
        place = None if folder is None else folder / f"fold{number}"
        if place is not None:
            place.mkdir()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of features, told of the object itself
            parts = run_folds(
                null, null, {NULL: task}, [fold], Expression(panel=names), keys,
                allow_leakage=True, threads=1, device=device, seed=seed, progress=False, folder=place,
            )  # fmt: skip
        for part in parts:
            part.number = number
        found += parts
    return found


@contextmanager
def _caching_in(folder: Path) -> Iterator[None]:
    """Keep what is cached in a folder, with which it goes."""
    before, settings.cache_dir = settings.cache_dir, folder / "cache"
    try:
        yield
    finally:
        settings.cache_dir = before
