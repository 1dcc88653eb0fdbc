"""The null genes: counts without biology at the real depths, fitted and scored like the data."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

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

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from anndata import AnnData

    from stpredict.cohorts import Fold
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
    from anndata import AnnData as Table
    from scipy import sparse

    from stpredict.pp import normalize

    record = read_record(adata, "normalize") or {}
    settings = {name: record[name] for name in _SETTINGS if name in record}
    wanted = {*genes, *(settings.get("panel") or [])}
    names = [name for name in adata.var_names if name in wanted]
    counts = numeric_matrix(adata.layers[Key.COUNTS], f"layers[{Key.COUNTS!r}]")
    measured = measured_rows(adata, counts)
    own = sparse.csr_array(counts[:, adata.var_names.get_indexer(names)][measured])
    depth = total_counts(counts[measured])
    if settings.get("size_factors") == "all":  # genes that were left out since have a part in the depth
        known = depth_of(adata)
        depth = np.maximum(depth, known[measured]) if known is not None else depth
    rest = np.rint(depth - total_counts(own))
    both = sparse.hstack([own, sparse.csr_array(rest[:, None])], format="csr").astype(np.float32)
    section = adata.obs[keys.sample].astype(str).to_numpy()[measured]
    drawn = null_counts(both, section, np.random.default_rng(seed)).tocoo()
    rows = np.flatnonzero(measured)[drawn.row]
    values = sparse.csr_matrix((drawn.data, (rows, drawn.col)), shape=(adata.n_obs, drawn.shape[1]))
    obsm = {slot: adata.obsm[slot] for slot in (*slots, Key.SPATIAL) if slot in adata.obsm}
    null = Table(values, obs=adata.obs.copy(), obsm=obsm)
    null.var_names = [*names, _REST]
    null.obs[Key.MEASURED] = measured
    null.uns["spatial"] = adata.uns.get("spatial", {})
    kept = {*slots, Key.UNIT}
    null.uns[Key.UNS] = {name: entry for name, entry in records(adata).items() if name in kept}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # observations without counts: told of the object itself
        normalize(null, **settings)
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
    """
    genes = list(dict.fromkeys(name for result in results for name in result.target.names))
    null = null_cohort(adata, genes, task.slots, keys, seed)
    found = []
    for number, fold in enumerate(folds):
        names = next(list(result.target.names) for result in results if result.number == number)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of features, told of the object itself
            parts = run_folds(
                null, null, {NULL: task}, [fold], Expression(panel=names), keys,
                allow_leakage=True, threads=1, device=device, seed=seed, progress=False,
            )  # fmt: skip
        for part in parts:
            part.number = number
        found += parts
    record = {
        "label": NULL, "comparator": True, "model": task.info.name, "folds": [fold.name for fold in folds],
        "samples": sorted(set(null.obs[keys.sample].astype(str))), "sample_key": keys.sample,
    }  # fmt: skip
    write_out_of_fold(null, _KEY, found, folds, keys, record)
    null.obs[Key.leaky(_KEY)] = leaky
    return evaluate(null, _KEY, baselines=False, **scoring)
