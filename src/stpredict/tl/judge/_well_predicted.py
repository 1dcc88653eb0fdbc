"""Find the genes that are predicted significantly, and better than by models that should not know them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.cohorts import Cohort
from stpredict.core._compact import compact
from stpredict.core._engine import check_client
from stpredict.core._validate import check_choice, check_unique, few
from stpredict.slots._checks import check_obs
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._marks import joint_mark, leak_marks
from stpredict.slots._outcome import fold_numbers, patients_of
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._truth import measured_of, truth_of
from stpredict.tl.judge._over_patients import ERROR_ONLY, Scores, compare

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container

_MIN_PATIENTS = 5
_COLUMNS = frozenset({"gene", "well_predicted", "pearson", "pearson_p", "pearson_folds", "rmse", "n_patients", "leaky"})


def well_predicted(
    data: Container | Cohort,
    key: str = Key.PREDICTED,
    *,
    comparators: Sequence[str] = ("untrained", "permuted", "ridge"),
    groupby: str | None = None,
    layer: str | None = None,
    patient_key: str = Key.PATIENT,
    alpha: float = 0.05,
    fdr: float = 0.2,
    test: Literal["williams", "steiger"] = "williams",
    client: Any = None,
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

    A model that tells two subtypes apart predicts every gene that differs between them, and nothing else of it. With
    `groupby` genes are tested within each subtype by itself. Fewer patients make fewer genes significant, so compare the
    correlations of groups rather than their numbers of genes, or the numbers with those of a shuffled column.

    Parameters
    ----------
    data
        Table with one row per slide: normalized truth in `X`, predictions from models that did not see the patient, and
        those of the comparators beside them. Rows with `obs["measured"]` false, without a measurement or without a
        prediction are left out. Of a :class:`stpredict.Cohort` all slides are read, without their features.
    key
        Slot of the prediction in `obsm`.
    comparators
        Names of comparators, in `obsm["{key}_baseline_{name}"]`. An empty list tests against zero only.
    groupby
        Column of `obs` with groups of patients (receptor status, a subtype) or, in a table of spots, of spots (a region),
        whose means per patient are then compared. Rows without a group are left out.
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
    client
        A `dask.distributed.Client`, or the address of a scheduler, whose workers compare a block of genes each at a time.
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
    - with `groupby` a column of that name, and the rows of each group after those of the other;
    - for each comparator `pearson_{name}`, `rmse_{name}`, `r_between_{name}` (correlation of the two predictions),
      `statistic_{name}`, `p_{name}`, `q_{name}` (Benjamini–Hochberg over all genes of the table) and `beats_{name}`;
      for the mean `rmse_mean` and `beats_mean`.

    Correlations of constant truths or predictions are undefined: NaN, not well predicted, with p = 1 among the genes of
    the false-discovery rate. `attrs` counts them (`n_undefined`, for each comparator `n_undefined_{name}`), besides
    `n_genes`, `n_well_predicted`, `n_patients`, `n_slides` and the settings; with `groupby` these are in
    `attrs["groups"]`, by group, and `attrs["left_out"]` has the number of patients of groups with fewer than 5.

    Raises
    ------
    KeyError
        When a prediction, a comparator, the groups or a record of the normalization are missing, or no predicted gene is
        measured.
    TypeError
        When a prediction is no DataFrame, or `client` is no client.
    ValueError
        When fewer than 5 patients are measured and predicted (in every group), a comparator lacks genes or slides, or an
        option is out of range.

    Warns
    -----
    UserWarning
        When a group has fewer than 5 patients and is left out.

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
    import pandas as pd

    check_client(client)
    if isinstance(data, Cohort):
        table_key, data = Key.TABLE, data.to_adata(features=False)
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
    fold = fold_numbers(adata, Key.fold(key))
    marks = leak_marks(adata, key, patient_key)

    def test_rows(part: np.ndarray) -> pd.DataFrame:
        people, member = np.unique(patient[part], return_inverse=True)
        folds = _patient_folds(fold, part, member, len(people))
        truth = measured_of(adata, key, genes, layer, part)
        whole = len(part) == adata.n_obs
        own = predicted if whole else predicted[part]
        beside = others if whole else {name: other[part] for name, other in others.items()}
        pieces = compare(truth, own, beside, member, folds, client)
        table = _judge(genes, pieces, len(people), alpha=alpha, fdr=fdr, test=test)
        table["leaky"] = joint_mark(marks[part])
        table.attrs |= _counts(table, pieces) | {"n_patients": len(people), "n_slides": len(part)}
        return table

    options = {"key": key, "comparators": names, "test": test, "alpha": alpha, "fdr": fdr}
    if groupby is None:
        n_people = len(np.unique(patient[rows]))
        if n_people < _MIN_PATIENTS:
            raise ValueError(
                f"expected at least {_MIN_PATIENTS} patients with measured and predicted expression; found {n_people}"
            )
        table = test_rows(rows)
        table.attrs |= options
        return compact(table, _shown(groupby, names), move=False)
    groups, left_out = _groups(adata, groupby, rows, patient)
    tables = {name: test_rows(part) for name, part in groups.items()}
    table = pd.concat([one.assign(**{groupby: name}) for name, one in tables.items()], ignore_index=True)
    table.insert(0, groupby, table.pop(groupby))
    table.attrs |= options | {
        "groupby": groupby,
        "groups": {name: one.attrs for name, one in tables.items()},
        "left_out": left_out,
    }
    return compact(table, _shown(groupby, names), move=False)


def _shown(groupby: str | None, names: Sequence[str]) -> list[str]:
    """Columns that print shows: the verdict, the correlation, and that of what it is compared with."""
    beside = [f"{column}_{name}" for name in names for column in ("pearson", "beats")]
    head = [groupby] if groupby is not None else []
    return [*head, "gene", "well_predicted", "pearson", "pearson_folds", *beside, "beats_mean", "n_patients", "leaky"]


def _counts(table: pd.DataFrame, pieces: Scores) -> dict[str, int]:
    """What `attrs` counts."""
    undefined = {
        f"n_undefined_{name}": int(np.isnan(other.pearson).sum())
        for name, other in pieces.comparators.items()
        if name != ERROR_ONLY
    }
    return {
        "n_genes": len(table),
        "n_well_predicted": int(table["well_predicted"].sum()),
        "n_undefined": int(table["pearson"].isna().sum()),
        **undefined,
    }


def _groups(
    adata: AnnData, groupby: str, rows: np.ndarray, patient: np.ndarray
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Rows of each group with patients enough, and the number of patients of the others."""
    import pandas as pd

    check_obs(adata, groupby, "name the column with the groups")
    if groupby in _COLUMNS:
        raise ValueError(
            f"expected a column of groups that is not called as one of the table; found {groupby!r}; rename it"
        )
    column = adata.obs[groupby]
    text = column.astype(object).where(column.notna(), None).to_numpy()
    if isinstance(column.dtype, pd.CategoricalDtype):
        labels = list(column.cat.categories)  # those that nobody has among them
    else:
        labels = sorted(set(text) - {None}, key=str)
    parts = {str(label): rows[text[rows] == label] for label in labels}
    n_people = {name: len(np.unique(patient[part])) for name, part in parts.items()}
    found = {name: part for name, part in parts.items() if n_people[name] >= _MIN_PATIENTS}
    left_out = {name: n for name, n in n_people.items() if name not in found}
    told = few(f"{name} ({n})" for name, n in left_out.items())
    if not found:
        raise ValueError(
            f"expected a group in obs[{groupby!r}] of at least {_MIN_PATIENTS} patients with measured and predicted expression; "
            f"found {told or 'no group'}; merge groups"
        )
    if left_out:
        warnings.warn(
            f"groups of obs[{groupby!r}] with fewer than {_MIN_PATIENTS} patients are left out: {told}", stacklevel=3
        )
    return found, left_out


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
        if name != ERROR_ONLY:
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
