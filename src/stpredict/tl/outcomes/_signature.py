"""A signature of survival by penalized Cox regression."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._optional import optional_import
from stpredict.core._validate import check_choice, few
from stpredict.slots._checks import as_mask
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key, check_key
from stpredict.slots._outcome import patients_of, read_outcome
from stpredict.slots._profiles import Use, expression_frame
from stpredict.slots._provenance import write_record
from stpredict.tl.outcomes._coxnet import cross_validate_path, event_folds, fit_path
from stpredict.tl.outcomes._signature_table import Signature

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.slots._container import Container

_MAX_GAPS = 0.2  # share of patients without a value above which a gene is left out
_FEWEST = 2  # events of a fold
_CONSTANT = 1e-9


def signature(
    data: Container,
    candidates: pd.DataFrame | Sequence[str] | None = None,
    train: Any = None,
    *,
    time: str = Key.TIME,
    event: str = Key.EVENT,
    use: Use = "measured",
    key: str = Key.PREDICTED,
    layer: str | None = None,
    n_candidates: int = 5000,
    choose: Literal["min", "1se"] = "min",
    n_folds: int = 5,
    seed: int = 0,
    key_added: str = "signature",
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> Signature:
    """Learn genes and coefficients that predict survival: LASSO-Cox :cite:p:`simon2011`, the penalty by cross-validation.

    Candidates, their standardization, the path of penalties and the choice on it all come from the patients in `train`;
    nothing else is looked at. The deviance at the chosen penalty was chosen to be small: judge the signature on other
    patients, with :func:`stpredict.tl.risk_score` and :func:`stpredict.tl.survival`.

    Parameters
    ----------
    data
        One row per slide (or patient), with expression and the follow-up.
    candidates
        Genes that may come in: names, or the table of :func:`stpredict.tl.well_predicted`, of which the well-predicted ones
        with the highest correlation are taken. All genes when `None`. Genes that are predicted well are worth learning on,
        since the signature is to be read from slides.
    train
        Boolean array (n_obs,) or the name of a boolean column: the slides to learn from; all when `None`.
    time, event
        Columns of `obs` with the follow-up time and the event (1 or true where it occurred).
    use
        Expression to learn on: `"measured"`, or `"predicted"` for `obsm[key]`, predictions by models that did not see the
        patients.
    key
        Slot of the prediction in `obsm`.
    layer
        Layer with the measured values, on a log scale; `X` by default.
    n_candidates
        Largest number of candidates out of a table.
    choose
        Penalty: `"min"`, the one with the least deviance, or `"1se"`, the largest within one standard error of it, which
        takes fewer genes.
    n_folds
        Folds of patients, with as many events in each.
    seed
        Random seed of the folds.
    key_added
        Column of `var` with the coefficients, and their record in `uns["stpredict"]`.
    patient_key
        Column of `obs` with the patient; slides of one patient are averaged.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The :class:`stpredict.tl.Signature`: genes with coefficients per standard deviation, the median risk of these patients
    as the cut, and the whole path. Where nothing predicts the outcome it has no gene, and says so.

    Writes `var[key_added]`, the coefficient of each gene (0 for candidates that were not taken, NaN for all others), and
    `uns["stpredict"][key_added]`.

    The penalty is that of glmnet: it stands beside the log partial likelihood *divided by the number of patients*. The
    penalty of lifelines has another scale.

    Raises
    ------
    ImportError
        When scikit-survival is not installed (extra `survival`).
    KeyError
        When the follow-up, the patients or the expression are missing, or candidates are none of the genes.
    ValueError
        When the follow-up is unusable or all of it censored, folds have fewer than two events, or no candidate varies.

    Warns
    -----
    UserWarning
        When no gene is taken, or genes are left out because they lack values.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> values = rng.normal(size=(80, 20))
    >>> slides = ad.AnnData(values, var=pd.DataFrame(index=[f"G{i}" for i in range(20)]))
    >>> slides.obs["patient"], slides.obs["event"] = [f"p{i}" for i in range(80)], rng.random(80) < 0.7
    >>> slides.obs["time"] = rng.exponential(np.exp(-values[:, 0]))
    >>> found = stp.tl.signature(slides, n_folds=3)
    >>> found.to_frame()["gene"][0], bool(slides.var.loc["G0", "signature"] > 0)
    ('G0', True)
    """
    optional_import("sksurv", "survival")
    import pandas as pd

    check_key(key_added)
    check_choice(choose, ("min", "1se"), "choose")
    check_choice(use, ("measured", "predicted"), "use")
    if n_candidates < 1 or n_folds < 2:
        raise ValueError(f"expected n_candidates ≥ 1 and n_folds ≥ 2; found {n_candidates} and {n_folds}")
    adata = get_table(data, table_key, *([key] if use == "predicted" else []))
    names, given = _candidates(candidates, n_candidates)
    frame, there = expression_frame(adata, use, key, layer, names)
    if not frame.shape[1]:
        raise KeyError(f"expected candidates among the genes with {use} expression; found none of {few(names or ())}")
    rows = np.flatnonzero(as_mask(adata, train) & there)
    if not len(rows):
        raise ValueError(f"expected {use} expression of at least one slide in `train`; found none")
    follow_up, happened = read_outcome(adata, time, event, rows, patient_key=patient_key)
    person = patients_of(adata, patient_key)[rows]
    outcome = pd.DataFrame({"time": follow_up, "event": happened}).groupby(person, sort=True).first()
    values = frame.iloc[rows].groupby(person, sort=True).mean()
    if outcome["event"].sum() < _FEWEST * n_folds:
        raise ValueError(
            f"expected {_FEWEST} events in each of {n_folds} folds; found {int(outcome['event'].sum())} events among "
            f"{len(outcome)} patients; lower `n_folds`"
        )
    values, n_gaps = _usable(values)
    mean, std = values.mean().to_numpy(), values.std(ddof=0).to_numpy()
    x = (values.to_numpy() - mean) / std
    lasted, ended = outcome["time"].to_numpy(), outcome["event"].to_numpy()
    path = fit_path(x, lasted, ended)
    fold = event_folds(ended, n_folds, seed)
    scores = cross_validate_path(x, lasted, ended, path, fold)
    at = scores.at_min if choose == "min" else scores.at_1se
    weight = path.weight[:, at]
    taken = np.flatnonzero(weight)
    if not len(taken):
        warnings.warn(
            f"no gene was taken: at the penalty chosen ({choose}) none of {x.shape[1]} candidates predicts the follow-up of "
            f"{len(outcome)} patients ({int(ended.sum())} events); all risks will be the same",
            stacklevel=2,
        )
    table = pd.DataFrame({"penalty": path.penalty, "deviance": scores.deviance, "error": scores.error})
    table["n_genes"] = (path.weight != 0).sum(axis=0)
    marks = np.full(len(table), "", dtype=object)
    marks[scores.at_1se], marks[scores.at_min] = "1se", "min" if scores.at_1se != scores.at_min else "min, 1se"
    table["is"] = marks
    facts = {
        "use": use, "key": key if use == "predicted" else None, "layer": layer, "choose": choose, "penalty": path.penalty[at],
        "penalty_min": path.penalty[scores.at_min], "penalty_1se": path.penalty[scores.at_1se], "n_candidates": x.shape[1],
        "candidates": given, "n_left_out": n_gaps, "n_folds": n_folds, "n_patients": len(outcome),
        "n_events": int(ended.sum()), "time": time, "event": event, "seed": seed,
    }  # fmt: skip
    found = Signature(
        genes=tuple(str(name) for name in values.columns[taken]),
        coefficients=weight[taken],
        mean=mean[taken],
        std=std[taken],
        cutoff=float(np.median(x @ weight)),
        patients=tuple(str(name) for name in outcome.index),
        path=table,
        facts=facts,
    )
    column = pd.Series(weight, values.columns).reindex(adata.var_names.astype(str)).to_numpy()
    if not np.isnan(column).all():
        adata.var[key_added] = column
    write_record(adata, key_added, facts | {"patients": list(found.patients), "cutoff": found.cutoff})
    return found


def _candidates(candidates: Any, n: int) -> tuple[list[str] | None, str]:
    """Names of genes that may come in, `None` for all, and where they are from."""
    import pandas as pd

    if candidates is None:
        return None, "all genes"
    if isinstance(candidates, pd.DataFrame):
        missing = [name for name in ("gene", "well_predicted", "pearson") if name not in candidates]
        if missing:
            raise KeyError(
                f"expected the table of stp.tl.well_predicted; found one without {few(missing)}; pass names of genes"
            )
        table = candidates[candidates["well_predicted"].astype(bool)].sort_values(
            "pearson", ascending=False, kind="stable"
        )
        if not len(table):
            raise ValueError("expected a well-predicted gene in the table; found none: there is nothing to learn on")
        return [str(name) for name in table["gene"][:n]], "well-predicted genes"
    if isinstance(candidates, str):
        raise TypeError(
            f"expected names of genes, or the table of stp.tl.well_predicted; found the text {candidates!r}"
        )
    return list(dict.fromkeys(map(str, candidates))), "names"


def _usable(values: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Genes that vary, with gaps filled by the mean of the others, and how many are left out for their gaps."""
    gaps = values.isna().mean()
    kept = values.loc[:, gaps <= _MAX_GAPS]
    n_left_out = values.shape[1] - kept.shape[1]
    if n_left_out:
        warnings.warn(
            f"{n_left_out} of {values.shape[1]} candidates are left out: they lack a value in more than {_MAX_GAPS:.0%} of the patients",
            stacklevel=3,
        )
    kept = kept.fillna(kept.mean())
    spread, size = kept.std(ddof=0), kept.abs().max()
    kept = kept.loc[:, spread > _CONSTANT * size]
    if not kept.shape[1]:
        raise ValueError("expected a candidate that varies over the patients; found none")
    return kept, n_left_out
