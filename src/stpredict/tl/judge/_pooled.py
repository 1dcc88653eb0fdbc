"""Scores of tables whose rows are compared with each other: slides averaged within their patient, and genes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._keys import Key
from stpredict.slots._marks import joint_mark
from stpredict.slots._provenance import read_record
from stpredict.tl.judge._lines import Line

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: Metrics that need neither a map nor counts.
_PLAIN = ("pearson", "spearman", "rmse", "rmse_iqr", "variance_ratio")
#: Scores of genes by what was predicted of their DNA, as that literature has them.
OF_GENES = ("mse", "mae", "r2")
POOLED = "all"  # stands for sample and patient where patients, or all genes, are compared with each other


def score_patients(
    models: Mapping[str, Line],
    truth: np.ndarray,
    genes: Sequence[str],
    patient: np.ndarray,
    measured: np.ndarray,
    metrics: Sequence[str],
) -> pd.DataFrame:
    """Scores across patients, slides averaged within each; one row per model and gene."""
    import pandas as pd

    tables = []
    for label, line in models.items():
        at, columns = _columns(line, genes)
        predicted = line.frame[columns].to_numpy(dtype=np.float64)
        rows = measured & ~np.isnan(predicted).all(axis=1)
        if line.smooth or not rows.any():
            continue
        people = patient[rows]
        y, p = (pd.DataFrame(v[rows]).groupby(people).mean().to_numpy() for v in (truth[:, at], predicted))
        head = {"model": label, "sample": POOLED, "patient": POOLED, "gene": columns}
        tables.append(_table(head, y, p, [name for name in metrics if name in _PLAIN], line.leaky[rows]))
    if not tables:
        raise KeyError("expected measured expression of at least one predicted slide; found none")
    return pd.concat(tables, ignore_index=True)


def score_genes(
    adata: AnnData,
    models: Mapping[str, Line],
    truth: np.ndarray,
    names: Sequence[str],
    measured: np.ndarray,
    metrics: Sequence[str],
) -> pd.DataFrame:
    """Scores over genes, those of each fold by themselves: each has a model of its own, whose offset must not count.

    One row per model, fold and condition; what was predicted by one model is one fold, but genes that it has seen are scored
    apart from those that it has not.
    """
    import pandas as pd

    chosen = [name for name in (*metrics, *OF_GENES) if name in (*_PLAIN, *OF_GENES)]
    tables = []
    for label, line in models.items():
        if line.smooth:
            continue
        at, columns = _columns(line, names)
        predicted = line.frame[columns].to_numpy(dtype=np.float64)
        there = measured & ~np.isnan(predicted).all(axis=1)
        folds = _folds(adata, line.key)
        for fold in dict.fromkeys(folds[there]):
            for mark in np.unique(line.leaky[there & (folds == fold)]):
                rows = there & (folds == fold) & (line.leaky == mark)
                head = {"model": label, "sample": fold, "patient": fold, "gene": columns, "unit": "gene"}
                tables.append(
                    _table(head, truth[rows][:, at], predicted[rows], list(dict.fromkeys(chosen)), line.leaky[rows])
                )
    if not tables:
        raise KeyError("expected measured values of at least one predicted gene; found none")
    return pd.concat(tables, ignore_index=True)


def _columns(line: Line, names: Sequence[str]) -> tuple[np.ndarray, list[str]]:
    """Places among the names, and names, of what a line predicts."""
    import pandas as pd

    columns = [name for name in names if name in line.frame.columns]
    return pd.Index(names).get_indexer(pd.Index(columns)), columns


def _table(
    head: Mapping[str, object], truth: np.ndarray, predicted: np.ndarray, metrics: Sequence[str], leaky: np.ndarray
) -> pd.DataFrame:
    import pandas as pd

    from stpredict import metrics as m

    scores = {name: getattr(m, name)(truth, predicted) for name in metrics}
    return pd.DataFrame({**head, **scores, "n_obs": len(truth), "leaky": joint_mark(leaky)})


def _folds(adata: AnnData, key: str) -> np.ndarray:
    """Name (n_obs,) of the fold that predicted each gene; `"all"` where one model predicted all of them."""
    if Key.fold(key) not in adata.obs:
        return np.full(adata.n_obs, POOLED, dtype=object)
    listed = np.atleast_1d((read_record(adata, key) or {}).get("folds", []))
    numbers = adata.obs[Key.fold(key)].to_numpy()
    return np.array([str(listed[n]) if 0 <= n < len(listed) else f"fold {n}" for n in numbers], dtype=object)
