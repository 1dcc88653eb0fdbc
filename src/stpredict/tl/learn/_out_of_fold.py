"""Predictions of observations by the models that never saw them, as they are written into an object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.slots._keys import Key
from stpredict.slots._marks import MARK_CODES, UNKNOWN, WITHIN, written_marks
from stpredict.slots._people import among, one_name
from stpredict.slots._prediction import write_predictions
from stpredict.slots._provenance import read_record, write_record
from stpredict.tl.learn._folds import FoldResult
from stpredict.tl.learn.targets._base import Keys, Outputs, slots_of, unit_record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.cohorts import Fold


def write_out_of_fold(
    adata: AnnData,
    key: str,
    results: Sequence[FoldResult],
    folds: Sequence[Fold],
    keys: Keys,
    record: Mapping[str, Any],
) -> None:
    """Write the results of one task: predictions, standard deviations, the fold of each observation, leaks, the record.

    Genes that a fold did not select, and observations that no fold tested, are NaN.
    """
    # What a comparator is unsure of is of no use, and as large as its prediction.
    frame, std = (tables(adata, results, which) for which in ("mean", "std"))
    std = None if record.get("comparator") else std
    assert frame is not None
    # Groups and classes follow from the outputs of each fold by itself.
    columns: dict[str, Any] = {}
    written = {key: frame} | ({} if std is None else {Key.std(key): std})
    slots = slots_of(results[0].target.kind)
    for result in results:
        part = Outputs([result.model] if result.model else [], {key: frame.iloc[result.test]})
        arranged = slots.arrange(key, part)
        if not arranged.frames:
            written = {}
        for name, values in arranged.columns.items():
            columns.setdefault(name, _empty(values, adata.n_obs))[result.test] = values
    by_number = {result.number: result.target for result in results}
    trained = [by_number[number] for number in range(len(folds))]
    write_predictions(adata, key, written, {**record, **unit_record(trained, list(frame.columns))}, names=slots.names)
    drawn = [result.samples for result in results if result.samples is not None]
    if len(drawn) == len(results):
        write_record(adata, key, {**(read_record(adata, key) or {}), "n_samples": int(drawn[0].shape[1])})
        adata.obsm[Key.samples(key)] = _joined_samples(adata, results, drawn, list(frame.columns))
    for name, values in columns.items():
        adata.obs[name] = _as_category(values) if values.dtype == object else values
    adata.obs[Key.leaky(key)] = written_marks(marks_of(adata, results, folds, keys))
    adata.obs[Key.fold(key)] = fold_numbers(adata, folds)


def tables(adata: AnnData, results: Sequence[FoldResult], which: str) -> pd.DataFrame | None:
    """Table (n_obs, n_outputs) float32 of the mean or the standard deviation of all folds; `None` without any."""
    import pandas as pd

    if any(getattr(result, which) is None for result in results):
        return None
    outputs = results[0].target.names
    if any(result.target.names != outputs for result in results):
        union = {name for result in results for name in result.target.names}
        outputs = [name for name in adata.var_names if name in union]
    elif slots_of(results[0].target.kind).of_genes and set(outputs) <= set(adata.var_names):
        chosen = set(outputs)
        outputs = [name for name in adata.var_names if name in chosen]
    values = np.full((adata.n_obs, len(outputs)), np.nan, dtype=np.float32)
    index = pd.Index(outputs)
    for result in results:
        values[np.ix_(result.test, index.get_indexer(pd.Index(result.target.names)))] = getattr(result, which)
    return pd.DataFrame(values, index=adata.obs_names, columns=outputs)


def _joined_samples(
    adata: AnnData, results: Sequence[FoldResult], drawn: Sequence[np.ndarray], outputs: Sequence[str]
) -> np.ndarray:
    """Samples (n_obs, n_samples, n_outputs) of all folds, NaN as in their mean."""
    import pandas as pd

    values = np.full((adata.n_obs, drawn[0].shape[1], len(outputs)), np.nan, dtype=np.float32)
    index = pd.Index(outputs)
    for result, samples in zip(results, drawn, strict=True):
        at = index.get_indexer(pd.Index(result.target.names))
        values[result.test[:, None], :, at] = samples.transpose(0, 2, 1)
    return values


def marks_of(adata: AnnData, results: Sequence[FoldResult], folds: Sequence[Fold], keys: Keys) -> np.ndarray:
    """Marks (n_obs,), see :func:`leak_marks`: a leak where the model, its panel or its starting weights have seen the patient.

    The training rows of a fold within a section are no leak; that they are of the patient is what its mark says.
    """
    leaky = np.zeros(adata.n_obs, dtype=bool)
    within = np.zeros(adata.n_obs, dtype=bool)
    patient, sample = one_name(adata.obs[keys.patient]), adata.obs[keys.sample].astype(str).to_numpy()
    for result in results:
        seen = [name for name in result.seen if name != UNKNOWN]
        # Said of the patients themselves: folds made by hand need not say it of themselves.
        fold = folds[result.number]
        again = np.unique(patient[fold.test & np.isin(sample, result.recognized)])
        trained = patient[:0] if fold.within else np.unique(patient[fold.train])
        leaky |= fold.test & among(patient, [*trained, *seen, *again])
        within |= fold.test & fold.within
    unknown = any(UNKNOWN in result.seen for result in results)
    return np.select([leaky, np.full(len(leaky), unknown), within], [1, MARK_CODES[UNKNOWN], MARK_CODES[WITHIN]], 0)


def fold_numbers(adata: AnnData, folds: Sequence[Fold]) -> np.ndarray:
    """Number of the fold that tested each observation (n_obs,), -1 for none."""
    numbers = np.full(adata.n_obs, -1)
    for number, fold in enumerate(folds):
        numbers[fold.test] = number
    return numbers


def _empty(values: Any, n_obs: int) -> np.ndarray:
    if np.asarray(values).dtype.kind == "f":
        return np.full(n_obs, np.nan, dtype=np.asarray(values).dtype)
    return np.full(n_obs, None, dtype=object)


def _as_category(values: np.ndarray) -> pd.Categorical:
    import pandas as pd

    return pd.Categorical(values)
