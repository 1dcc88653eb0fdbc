"""Find the genes that are predicted significantly, and better than by models that should not know them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._validate import check_choice, check_unique
from stpredict.metrics._pairs import center, check_matrix, dense, gene_blocks
from stpredict.metrics._pearson import correlation
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._marks import joint_mark, leak_marks
from stpredict.slots._outcome import fold_numbers, patients_of
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._truth import measured_of, truth_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container

_MIN_PATIENTS = 5
_MIN_FOLD = 4  # patients of a fold: Fisher's z has the variance 1 / (n - 3)
_ERROR_ONLY = "mean"


def well_predicted(
    data: Container,
    key: str = Key.PREDICTED,
    *,
    comparators: Sequence[str] = ("untrained", "permuted", "ridge"),
    layer: str | None = None,
    patient_key: str = Key.PATIENT,
    alpha: float = 0.05,
    fdr: float = 0.2,
    test: Literal["williams", "steiger"] = "williams",
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Test for each gene whether its prediction follows the truth, and better than every comparator does.

    The criteria are those of :cite:t:`pizurica2024`, with patients as observations. A gene is well predicted when its
    correlation is positive and significant (p < `alpha`, two-sided) and, against every comparator, the correlation is
    higher, significantly so (one-sided p < `alpha`, false-discovery rate over all genes < `fdr`), and the error lower.
    Slides of one patient are averaged first, truth and predictions alike: they are not independent observations.

    Untrained networks, the published comparator, are easily beaten, and so are networks trained on permuted labels:
    both know the level of each gene, and nothing that links it to the slide. A ridge on the mean feature of a slide
    shows whether the network adds anything to a simple model. The `"mean"` of the training patients can be named too.
    It is constant within a fold, its correlation has no meaning, and it is compared by its error alone.

    Parameters
    ----------
    data
        Table with one row per slide: normalized truth in `X`, predictions from models that did not see the patient, and
        those of the comparators beside them. Rows with `obs["measured"]` false, without a measurement or without a
        prediction are left out.
    key
        Slot of the prediction in `obsm`.
    comparators
        Names of comparators, in `obsm["{key}_baseline_{name}"]`. An empty list tests against zero only.
    layer
        Layer with the truth instead of `X`.
    patient_key
        Column of `obs` with the patient.
    alpha
        Level of the p-values.
    fdr
        Level of the false-discovery rate.
    test
        Test of the difference of two correlations: `"williams"`, see :func:`stpredict.metrics.williams_t`, or
        `"steiger"`, see :func:`stpredict.metrics.steiger_z`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Table with one row per predicted and measured gene; nothing is written to `slides`:

    - `gene`, `well_predicted`, `n_patients`, `leaky` (`True` where the model saw one of these patients, `"unknown"`
      where the prediction has lost its record);
    - `pearson` and its two-sided `pearson_p`;
    - `pearson_folds`: the correlation within each fold of `obs["{key}_fold"]`, averaged as Fisher's z with weights
      n - 3 over folds with at least four patients; NaN without folds. Predictions of different folds come from
      different models, whose offsets enter `pearson`;
    - `rmse`; `rmse_iqr` (over the interquartile range of the truth); `nrmse_scaled`, the latter with its range over
      the genes of this table mapped to 0 to 1, as published: it depends on the other genes, so do not compare it
      between tables;
    - for each comparator `pearson_{name}`, `rmse_{name}`, `r_between_{name}` (correlation of the two predictions),
      `statistic_{name}`, `p_{name}`, `q_{name}` (Benjamini–Hochberg over all genes of the table) and `beats_{name}`;
      for the mean `rmse_mean` and `beats_mean`.

    Correlations of constant truths or predictions are undefined: NaN, not well predicted, with p = 1 among the genes of
    the false-discovery rate. `attrs` counts them (`n_undefined`, for each comparator `n_undefined_{name}`), besides
    `n_genes`, `n_well_predicted`, `n_patients`, `n_slides` and the settings.

    Raises
    ------
    KeyError
        When a prediction, a comparator or a record of the normalization is missing, or no predicted gene is measured.
    TypeError
        When a prediction is no DataFrame.
    ValueError
        When fewer than 5 patients are measured and predicted, a comparator lacks genes or slides, or an option is
        out of range.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(size=(40, 30))
    >>> slides = ad.AnnData(truth, obs=pd.DataFrame({"patient": np.arange(40)}, index=[f"s{i}" for i in range(40)]))
    >>> slides.layers["log2"] = truth
    >>> wrap = lambda values: pd.DataFrame(values, slides.obs_names, slides.var_names)
    >>> slides.obsm["predicted"] = wrap(truth * (np.arange(30) < 10) + rng.normal(size=truth.shape))
    >>> slides.obsm["predicted_baseline_permuted"] = wrap(rng.normal(size=truth.shape))
    >>> table = stp.tl.well_predicted(slides, comparators=["permuted"], layer="log2")
    >>> bool(table["well_predicted"][:10].mean() > 0.5), int(table["well_predicted"][10:].sum())
    (True, 0)
    """
    adata = get_table(data, table_key)
    check_choice(test, ("williams", "steiger"), "test")
    for name, level in (("alpha", alpha), ("fdr", fdr)):
        if not 0 < level <= 1:
            raise ValueError(f"expected {name} above 0 and at most 1; found {level!r}")
    names = [comparators] if isinstance(comparators, str) else list(comparators)
    check_unique(names, "comparators")
    frame = prediction_frame(adata, key)
    frames = {name: _comparator(adata, key, name, frame) for name in names}
    patient = patients_of(adata, patient_key)
    target = truth_of(adata, key, layer)

    genes = _measured_genes(target.names, frame)
    predicted = _columns(frame, genes)
    rows = np.flatnonzero(target.measured & _predicted_rows(predicted))
    if not len(rows):
        raise ValueError(
            f"expected out-of-fold predictions of measured slides in obsm[{key!r}]; found none; "
            "run stp.tl.fit_folds(slides, model), or stp.tl.predict on slides with measured expression"
        )
    others = {}
    for name, other in frames.items():
        others[name] = _columns(other, genes)
        lacking = int((~_predicted_rows(others[name][rows])).sum())
        if lacking:
            raise ValueError(
                f"expected obsm[{Key.baseline(key, name)!r}] for the same slides as obsm[{key!r}]; found {lacking} of "
                f"{len(rows)} without; {_how_to(key, names)}"
            )
    people, member = np.unique(patient[rows], return_inverse=True)
    if len(people) < _MIN_PATIENTS:
        raise ValueError(
            f"expected at least {_MIN_PATIENTS} patients with measured and predicted expression; found {len(people)}"
        )
    fold = _patient_folds(fold_numbers(adata, Key.fold(key)), rows, member, len(people))
    truth = measured_of(adata, key, genes, layer, rows)
    if len(rows) < adata.n_obs:
        predicted, others = predicted[rows], {name: other[rows] for name, other in others.items()}
    pieces = compare(truth, predicted, others, member, fold)
    table = _judge(genes, pieces, len(people), alpha=alpha, fdr=fdr, test=test)
    table["leaky"] = joint_mark(leak_marks(adata, key, patient_key)[rows])
    undefined = {f"n_undefined_{name}": int(np.isnan(c.pearson).sum()) for name, c in pieces.comparators.items()}
    table.attrs = {
        "key": key,
        "comparators": names,
        "test": test,
        "alpha": alpha,
        "fdr": fdr,
        "n_genes": len(table),
        "n_well_predicted": int(table["well_predicted"].sum()),
        "n_undefined": int(table["pearson"].isna().sum()),
        **{count: value for count, value in undefined.items() if count != f"n_undefined_{_ERROR_ONLY}"},
        "n_patients": len(people),
        "n_slides": len(rows),
    }
    return table


@dataclass
class Compared:
    """Scores per gene (n_genes,) of one comparator."""

    pearson: np.ndarray
    between: np.ndarray
    rmse: np.ndarray


@dataclass
class Scores:
    """Scores per gene (n_genes,) of a prediction, and of its comparators by name."""

    pearson: np.ndarray
    pearson_folds: np.ndarray
    rmse: np.ndarray
    iqr: np.ndarray
    comparators: dict[str, Compared] = field(default_factory=dict)


def compare(
    truth: Any,
    predicted: np.ndarray,
    comparators: dict[str, np.ndarray],
    patient: np.ndarray,
    fold: np.ndarray | None = None,
) -> Scores:
    """Correlations and errors over patients, in one pass over blocks of genes.

    Parameters
    ----------
    truth
        Measured expression (n_slides, n_genes), dense or sparse.
    predicted
        Prediction of the same shape.
    comparators
        Other predictions of the same shape, by name.
    patient
        (n_slides,) number of the patient, from 0 on, without gaps; slides of a patient are averaged.
    fold
        (n_patients,) fold of each patient, -1 for none.
    """
    truth, predicted = check_matrix(truth, "truth"), check_matrix(predicted, "predicted")
    average = _averaging(patient)
    shape = (int(patient.max()) + 1, truth.shape[1])

    def empty() -> np.ndarray:
        return np.full(shape[1], np.nan)

    scores = Scores(empty(), empty(), empty(), empty(), {n: Compared(empty(), empty(), empty()) for n in comparators})
    for genes in gene_blocks(shape, copies=2):
        x = average(dense(truth, genes))
        y = average(dense(predicted, genes))
        scores.iqr[genes] = _interquartile_range(x)
        scores.rmse[genes] = _error(x, y)
        if fold is not None:
            scores.pearson_folds[genes] = _within_folds(x, y, fold, truth.dtype, predicted.dtype)
        others = {name: average(dense(other, genes)) for name, other in comparators.items()}
        for name, z in others.items():
            scores.comparators[name].rmse[genes] = _error(x, z)
        x, xx = center(x, truth.dtype)
        y, yy = center(y, predicted.dtype)
        scores.pearson[genes] = correlation(x, xx, y, yy)
        for name, z in others.items():
            if name == _ERROR_ONLY:
                continue
            z, zz = center(z, comparators[name].dtype)
            scores.comparators[name].pearson[genes] = correlation(x, xx, z, zz)
            scores.comparators[name].between[genes] = correlation(y, yy, z, zz)
    return scores


def _averaging(patient: np.ndarray) -> Any:
    """Function from slides (n_slides, g) to their means per patient (n_patients, g)."""
    slides = np.bincount(patient)
    if len(slides) == len(patient):
        order = np.argsort(patient)
        return (lambda block: block) if (order == np.arange(len(order))).all() else (lambda block: block[order])
    from scipy import sparse

    weights = sparse.csr_array(
        (1 / slides[patient], (patient, np.arange(len(patient)))), shape=(len(slides), len(patient))
    )
    return lambda block: weights @ block


def _interquartile_range(x: np.ndarray) -> np.ndarray:
    """Distance of the quartiles (linear, as `numpy.percentile` has them); sorting is several times as fast."""
    ordered = x.T.copy(order="C")
    ordered.sort(axis=1)  # NaN last
    at = np.array([0.25, 0.75]) * (len(x) - 1)
    low = at.astype(int)
    quartiles = ordered[:, low] * (1 - (at - low)) + ordered[:, np.minimum(low + 1, len(x) - 1)] * (at - low)
    return np.where(np.isnan(ordered[:, -1]), np.nan, quartiles[:, 1] - quartiles[:, 0])


def _error(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    difference = x - y
    return np.sqrt(np.einsum("ij,ij->j", difference, difference) / len(x))


def _within_folds(x: np.ndarray, y: np.ndarray, fold: np.ndarray, x_dtype: np.dtype, y_dtype: np.dtype) -> np.ndarray:
    """Correlation within each fold, averaged as Fisher's z with weights n - 3."""
    total, weight = np.zeros(x.shape[1]), np.zeros(x.shape[1])
    for number in range(fold.max() + 1):
        rows = np.flatnonzero(fold == number)
        if len(rows) < _MIN_FOLD:
            continue
        r = correlation(*center(x[rows], x_dtype), *center(y[rows], y_dtype))
        defined = ~np.isnan(r)
        with np.errstate(divide="ignore"):
            total[defined] += (len(rows) - 3) * np.arctanh(r[defined])
        weight[defined] += len(rows) - 3
    with np.errstate(invalid="ignore"):
        return np.tanh(total / np.where(weight > 0, weight, np.nan))


def _judge(
    genes: Sequence[str], scores: Scores, n_patients: int, *, alpha: float, fdr: float, test: str
) -> pd.DataFrame:
    """Table of the scores with tests and verdicts."""
    import pandas as pd

    from stpredict.metrics import benjamini_hochberg, pearson_p, steiger_z, williams_t

    # 1e-5 as in `metrics.rmse_iqr`; a range of 0 leaves the ratio undefined.
    relative = scores.rmse / np.where(scores.iqr > 0, scores.iqr + 1e-5, np.nan)
    p = pearson_p(scores.pearson, n_patients)
    columns: dict[str, Any] = {
        "gene": list(genes),
        "well_predicted": (scores.pearson > 0) & (p < alpha),
        "pearson": scores.pearson,
        "pearson_p": p,
        "pearson_folds": scores.pearson_folds,
        "rmse": scores.rmse,
        "rmse_iqr": relative,
        "nrmse_scaled": _scaled(relative),
    }
    compare_pairs = williams_t if test == "williams" else steiger_z
    for name, other in scores.comparators.items():
        beats = scores.rmse < other.rmse
        if name != _ERROR_ONLY:
            statistic, tail = compare_pairs(scores.pearson, other.pearson, other.between, n_patients)
            q = benjamini_hochberg(tail)
            beats = beats & (scores.pearson > other.pearson) & (tail < alpha) & (q < fdr)
            columns |= {
                f"pearson_{name}": other.pearson,
                f"r_between_{name}": other.between,
                f"statistic_{name}": statistic,
                f"p_{name}": tail,
                f"q_{name}": q,
            }
        columns |= {f"rmse_{name}": other.rmse, f"beats_{name}": beats}
        columns["well_predicted"] = columns["well_predicted"] & beats
    columns["n_patients"] = n_patients
    return pd.DataFrame(columns)


def _scaled(values: np.ndarray) -> np.ndarray:
    """Map the range of the finite values to 0 to 1; NaN where there is no range."""
    finite = values[np.isfinite(values)]
    width = np.ptp(finite) if len(finite) else 0.0
    return (values - finite.min()) / width if width > 0 else np.full_like(values, np.nan)


def _comparator(adata: AnnData, key: str, name: str, frame: pd.DataFrame) -> pd.DataFrame:
    slot = Key.baseline(key, name)
    if slot not in adata.obsm:
        raise KeyError(f"expected obsm[{slot!r}]; found {sorted(adata.obsm)}; {_how_to(key, [name])}")
    other = prediction_frame(adata, slot)
    lacking = frame.columns.difference(other.columns)
    if len(lacking):
        raise ValueError(
            f"expected the genes of obsm[{key!r}] in obsm[{slot!r}]; found {len(lacking)} missing "
            f"(first: {lacking[0]}); {_how_to(key, [name])}"
        )
    return other


def _how_to(key: str, names: Sequence[str]) -> str:
    """What to run for comparators."""
    called = ", ".join(repr(name) for name in names)
    added = "" if key == Key.PREDICTED else f", key_added={key!r}"
    return f"run stp.tl.fit_folds(slides, model, baselines=[{called}]{added}), or name others with `comparators=`"


def _measured_genes(measured: Sequence[str], frame: pd.DataFrame) -> list[str]:
    genes = list(frame.columns[frame.columns.isin(measured)])
    if not genes:
        raise KeyError("expected predicted genes among those that were measured; found none in common")
    return genes


def _columns(frame: pd.DataFrame, genes: list[str]) -> np.ndarray:
    """Values of some genes, without a copy where they are all there are."""
    import pandas as pd

    values = frame.to_numpy()
    if values.dtype.kind != "f":
        values = values.astype(np.float64)
    at: Any = frame.columns.get_indexer(pd.Index(genes))
    return values if list(frame.columns) == genes else values[:, at]


def _predicted_rows(values: np.ndarray) -> np.ndarray:
    """Rows with a prediction of any gene."""
    return ~np.isnan(values).all(axis=1)


def _patient_folds(fold: np.ndarray | None, rows: np.ndarray, member: np.ndarray, n: int) -> np.ndarray | None:
    """Fold of each patient, -1 where its slides are in several."""
    if fold is None:
        return None
    lowest, highest = np.full(n, np.iinfo(np.int64).max), np.full(n, -1)
    np.minimum.at(lowest, member, fold[rows])
    np.maximum.at(highest, member, fold[rows])
    return np.where(lowest == highest, lowest, -1)
