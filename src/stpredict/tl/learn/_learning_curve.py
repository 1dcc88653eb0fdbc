"""What more patients would buy: scores with fewer of them, and where the curve leads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._progress import steps
from stpredict.slots._container import beside, get_table
from stpredict.slots._keys import Key
from stpredict.slots._marks import table_mark
from stpredict.slots._people import among
from stpredict.slots._score_tables import LOWER_IS_BETTER
from stpredict.tl.judge._pooled import POOLED
from stpredict.tl.learn._cross_validate import cross_validate
from stpredict.tl.learn._splitters import make_folds
from stpredict.tl.learn.targets._base import Keys

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.cohorts import Fold
    from stpredict.slots._container import Container
    from stpredict.tl.learn._cross_validate import Models
    from stpredict.tl.learn._splitters import Splitter

_SHOWN = ("model", "n_patients", "score", "low", "high", "n_genes_found", "n_genes", "extrapolated", "leaky")
_FEWEST = 3  # patients of a test over patients, and sizes of a line


def learning_curve(
    data: Container,
    models: Models = ("ridge",),
    splitter: Splitter = "patient",
    *,
    fractions: Sequence[float] = (0.2, 0.4, 0.6, 0.8, 1.0),
    n_repeats: int = 3,
    metric: str = "pearson",
    features: str | Sequence[str] | Mapping[str, Any] | None = None,
    target: Any = None,
    fdr: float = 0.05,
    level: float = 0.95,
    n_boot: int = 1000,
    n_jobs: int = 1,
    client: Any = None,
    seed: int = 0,
    progress: bool | None = None,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    r"""Cross-validate with a share of the training patients, and say what twice as many would buy.

    Test patients stay the same, and whole patients are left out of training, drawn anew in every fold and repeat. The curve is
    continued as :math:`s(n) = a - b / \sqrt n`, the rate at which errors of estimation fall; with few sizes no other form can be
    told from it. The interval resamples test patients, and knows nothing of patients of another kind than these.

    Parameters
    ----------
    data
        Sections as for :func:`stpredict.tl.cross_validate`; of a SpatialData the table is used.
    models, splitter, features, target
        As there; folds have to keep patients apart.
    fractions
        Shares of the training patients of a fold, above 0 and at most 1. Shares that come to the same number of patients are one.
    n_repeats
        Draws of patients for each share below 1.
    metric
        Score, as in :func:`stpredict.tl.evaluate`.
    fdr
        False-discovery rate of the genes that are counted.
    level, n_boot
        Level of the intervals, and resamples of test patients.
    n_jobs
        Processes that work on folds side by side.
    client
        Dask client, or the address of one, on whose workers folds run; see :func:`stpredict.tl.cross_validate`.
    seed
        Random seed for patients, folds, weights and resamples.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    One row per model and number of training patients, nothing written to `data`:

    - `n_patients`: training patients of a fold, on average over folds;
    - `score`, the mean over genes, sections, test patients and repeats, with the interval `low` to `high` over test patients;
    - `sd_repeats`, the standard deviation of the score over draws of patients;
    - `n_genes_found`: genes whose score is above 0 over test patients (one-sided t-test, false-discovery rate `fdr`, from three
      patients on; mean over repeats), of `n_genes`; and `n_test_patients`, `leaky`;
    - `extrapolated`: `True` in the last row of each model, for twice the patients that there are, where there are three sizes; its
      interval is that of the curve.

    Raises
    ------
    ValueError
        When a fraction or another option is out of range, folds do not keep patients apart, or slides are compared across patients.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=4, n_sections=1, n_spots=60, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> curve = stp.tl.learning_curve(adata, fractions=(0.3, 0.6, 1), n_repeats=1)
    >>> curve["n_patients"].tolist(), curve["extrapolated"].tolist()
    ([1.0, 2.0, 3.0, 6.0], [False, False, False, True])
    """
    import pandas as pd

    from stpredict.core._table import compact

    fractions = sorted(set(map(float, fractions)))
    if not fractions or not all(0 < share <= 1 for share in fractions):
        raise ValueError(f"expected fractions above 0 and at most 1; found {fractions}")
    for name, value in (("n_repeats", n_repeats), ("n_boot", n_boot)):
        if value < 1:
            raise ValueError(f"expected {name} to be at least 1; found {value}")
    adata = get_table(data, table_key)
    keys = Keys(sample_key, patient_key)
    folds = make_folds(adata, splitter, seed, keys, {})
    if any(fold.leaky or fold.within for fold in folds):
        raise ValueError(
            "expected folds that keep patients apart; found a patient on both sides; use splitter='patient' or a number"
        )
    patients = adata.obs[patient_key].astype(str).to_numpy()
    draws = list(_draws(folds, patients, fractions, n_repeats, np.random.default_rng(seed)))
    tables = []
    for kept, size, repeat in steps(draws, "learning curve", show=progress):
        scores = cross_validate(
            beside(adata), models, kept, features=features, target=target, metrics=[metric], ceiling=False, baselines=False,
            n_jobs=n_jobs, client=client, seed=seed, progress=False, sample_key=sample_key, patient_key=patient_key,
        )  # fmt: skip
        if metric not in scores or set(scores["patient"]) == {POOLED}:
            raise ValueError(
                "expected scores of genes within sections; found slides, or no expression; compare slides with stp.tl.well_predicted"
            )
        tables.append(scores.assign(n_train=size, repeat=repeat))
    scores = pd.concat(tables, ignore_index=True)
    rows = [
        row
        for model in scores["model"].unique()
        for row in _curve(scores[scores["model"] == model], metric, fdr, level, n_boot, seed)
    ]
    table = compact(pd.DataFrame(rows), list(_SHOWN))
    table.attrs |= {"metric": metric, "level": level}
    return table


def _draws(
    folds: Sequence[Fold], patients: np.ndarray, fractions: Sequence[float], n_repeats: int, rng: np.random.Generator
) -> Iterator[tuple[list[Fold], float, int]]:
    """Folds with fewer training patients, their mean number, and the repeat; each number once."""
    there = [list(dict.fromkeys(patients[fold.train])) for fold in folds]
    numbers = list(dict.fromkeys(tuple(max(1, round(share * len(names))) for names in there) for share in fractions))
    for each in numbers:
        full = all(number == len(names) for number, names in zip(each, there, strict=True))
        for repeat in range(1 if full else n_repeats):
            kept = [
                replace(fold, train=fold.train & among(patients, rng.permutation(names)[:number]))
                for fold, names, number in zip(folds, there, each, strict=True)
            ]
            yield kept, float(np.mean(each)), repeat


def _curve(
    scores: pd.DataFrame, metric: str, fdr: float, level: float, n_boot: int, seed: int
) -> Iterator[dict[str, Any]]:
    """Rows of one model."""
    values = scores.groupby(["n_train", "repeat", "patient", "sample"], observed=True)[metric].mean()
    by_patient = values.groupby(["n_train", "repeat", "patient"], observed=True).mean()
    wide = by_patient.groupby(["n_train", "patient"], observed=True).mean().unstack("patient")  # sizes × patients
    sizes, n = wide.index.to_numpy(dtype=float), wide.shape[1]
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_boot) / n
    defined = wide.notna().to_numpy()
    with np.errstate(invalid="ignore"):
        drawn = (weights @ np.nan_to_num(wide.to_numpy()).T) / (weights @ defined.T)  # (n_boot, sizes)
    bounds = [(1 - level) / 2, (1 + level) / 2]
    found = scores.groupby(["n_train", "repeat"], observed=True)[["patient", "sample", "gene", metric]].apply(
        lambda part: _genes_found(part, metric, fdr)
    )
    common = {
        "model": scores["model"].iloc[0],
        "n_genes": int(scores["gene"].nunique()),
        "n_test_patients": n,
        "leaky": table_mark(scores),
    }
    for number, size in enumerate(sizes):
        low, high = np.quantile(drawn[:, number], bounds) if n > 1 else (np.nan, np.nan)
        repeats = by_patient[size].groupby("repeat").mean()
        yield common | {
            "n_patients": size, "score": float(wide.loc[size].mean()), "low": low, "high": high,
            "sd_repeats": float(repeats.std()) if len(repeats) > 1 else np.nan, "n_genes_found": float(found[size].mean()),
            "extrapolated": False,
        }  # fmt: skip
    if len(sizes) >= _FEWEST:
        design = np.stack([np.ones(len(sizes)), -1 / np.sqrt(sizes)], axis=1)
        at = np.array([1.0, -1 / np.sqrt(2 * sizes[-1])])
        ahead = at @ np.linalg.pinv(design)  # weights of the sizes
        low, high = np.quantile(drawn @ ahead, bounds) if n > 1 else (np.nan, np.nan)
        yield common | {
            "n_patients": 2 * sizes[-1], "score": float(ahead @ wide.mean(axis=1).to_numpy()), "low": low, "high": high,
            "sd_repeats": np.nan, "n_genes_found": np.nan, "extrapolated": True,
        }  # fmt: skip


def _genes_found(part: pd.DataFrame, metric: str, fdr: float) -> float:
    """Number of genes whose score is above 0 over patients; NaN for errors, and with too few patients."""
    from scipy.stats import t

    from stpredict.metrics import benjamini_hochberg

    by_patient = part.groupby(["gene", "patient"], observed=True)[metric].mean().groupby("gene", observed=True)
    n = by_patient.count()
    if metric in LOWER_IS_BETTER or part["patient"].nunique() < _FEWEST:
        return float("nan")
    with np.errstate(invalid="ignore", divide="ignore"):
        found: Any = by_patient.mean() / (by_patient.std() / np.sqrt(n))
        p = np.where(n >= _FEWEST, t.sf(found, n - 1), np.nan)
    return float((benjamini_hochberg(p) < fdr).sum())
