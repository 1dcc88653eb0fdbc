from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import kstest

import stpredict as stp
from stpredict.tl.outcomes._coxnet import (
    cross_validate_path,
    event_folds,
    fit_path,
    largest_penalty,
    partial_likelihood,
)

pytest.importorskip("sksurv")
pytest.importorskip("lifelines")
N, G = 120, 40
GENES = [f"G{i}" for i in range(G)]


def make(seed: int = 0, n: int = N, slope: float = 1.0) -> ad.AnnData:
    """A slide per patient; the hazard grows with the first gene and falls with the second, a third is censored."""
    rng = np.random.default_rng(seed)
    values = rng.normal(5, 2, (n, G))
    hazard = slope * (values[:, 0] - values[:, 1]) / 2
    until, censored = rng.exponential(20 * np.exp(-hazard)), rng.exponential(40, n)
    adata = ad.AnnData(values.astype(np.float32), var=pd.DataFrame(index=GENES))
    adata.obs_names = [f"s{i}" for i in range(n)]
    adata.obs["patient"] = [f"p{i}" for i in range(n)]
    adata.obs["time"], adata.obs["event"] = np.ceil(np.minimum(until, censored)), until <= censored
    return adata


@pytest.fixture
def slides() -> ad.AnnData:
    return make()


def gradient(x: np.ndarray, time: np.ndarray, event: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Gradient of the log partial likelihood (Breslow), the sum over events written out."""
    risk = np.exp(x @ weight)
    total = np.zeros(x.shape[1])
    for i in np.flatnonzero(event):
        at_risk = time >= time[i]
        total += x[i] - (risk[at_risk] @ x[at_risk]) / risk[at_risk].sum()
    return total


def test_penalty_is_on_the_scale_of_glmnet(slides) -> None:
    """At the optimum the gradient over n is the penalty, with the sign of the weight, and no more than it elsewhere."""
    x = (slides.X - slides.X.mean(axis=0)) / slides.X.std(axis=0)
    time, event = (slides.obs[name].to_numpy(dtype=float) for name in ("time", "event"))
    path = fit_path(x.astype(float), time, event)
    assert np.abs(gradient(x, time, event, np.zeros(G)) / N).max() == pytest.approx(path.penalty[0], rel=1e-4)
    for at in (20, 50):
        weight = path.weight[:, at]
        slope = gradient(x, time, event, weight) / N
        taken = weight != 0
        assert 0 < taken.sum() < G
        np.testing.assert_allclose(slope[taken], np.sign(weight[taken]) * path.penalty[at], rtol=1e-2)
        assert np.abs(slope[~taken]).max() <= path.penalty[at] * 1.001


def test_a_path_of_a_part_has_every_penalty(slides) -> None:
    """Coxnet stops where the deviance does not change, and so at once where a path begins with models without genes."""
    x = ((slides.X - slides.X.mean(axis=0)) / slides.X.std(axis=0)).astype(float)
    time, event = (slides.obs[name].to_numpy(dtype=float) for name in ("time", "event"))
    own = fit_path(x, time, event)
    assert own.penalty[0] == pytest.approx(largest_penalty(x, time, event), rel=1e-6)
    asked = np.concatenate([own.penalty[0] * np.linspace(9, 1.01, 20), own.penalty])
    found = fit_path(x, time, event, penalty=asked)
    np.testing.assert_array_equal(found.penalty, asked)
    assert (found.weight[:, :20] == 0).all()
    np.testing.assert_allclose(found.weight[:, 21:], own.weight[:, 1:], atol=2e-3)
    assert (fit_path(x, time, event, penalty=asked[:5]).weight == 0).all()


def test_partial_likelihood_against_lifelines(slides) -> None:
    from lifelines import CoxPHFitter

    time, event = slides.obs["time"].to_numpy() + np.arange(N) / 1000, slides.obs["event"].to_numpy()
    frame = pd.DataFrame({"x": slides.X[:, 0].astype(float), "time": time, "event": event})
    model = CoxPHFitter().fit(frame, "time", "event")
    score = frame["x"].to_numpy()[:, None] * np.array([[float(model.params_["x"]), 0.0]])
    found = partial_likelihood(score, time, event)
    assert found[0] == pytest.approx(model.log_likelihood_, rel=1e-6)
    assert found[0] - found[1] == pytest.approx(model.log_likelihood_ratio_test().test_statistic / 2, rel=1e-5)
    # With ties everybody with an equal time is at risk.
    tied = partial_likelihood(np.array([[0.5], [0.0], [1.0]]), np.array([2.0, 2.0, 3.0]), np.array([1, 1, 0]))
    at_risk = np.log(np.exp([0.5, 0.0, 1.0]).sum())
    assert tied[0] == pytest.approx(0.5 - at_risk + 0.0 - at_risk)


def test_finds_the_genes_and_validates(slides) -> None:
    values = slides.X.copy()
    found = stp.tl.signature(slides)
    assert {"G0", "G1"} <= set(found.genes)
    table = found.to_frame()
    assert set(table["gene"][:2]) == {"G0", "G1"}
    weight = table.set_index("gene")["coefficient"]
    assert weight["G0"] > 0.3
    assert weight["G1"] < -0.3
    assert repr(found).startswith("Signature of")
    pd.testing.assert_series_equal(
        slides.var["signature"][list(found.genes)], pd.Series(found.coefficients, found.genes), check_names=False
    )
    assert (slides.var["signature"] == 0).sum() == G - len(found.genes)
    np.testing.assert_array_equal(slides.X, values)
    one_se = stp.tl.signature(slides, choose="1se")
    assert len(one_se.genes) < len(found.genes)
    path = found.path.set_index("is")
    assert path.loc["1se", "penalty"] > path.loc["min", "penalty"]
    assert path.loc["1se", "deviance"] <= path.loc["min", "deviance"] + path.loc["min", "error"]
    assert path["deviance"].min() == path.loc["min", "deviance"]

    # The median split of the training patients, and as good on others.
    stp.tl.risk_score(slides, found)
    assert found.cutoff == pytest.approx(np.median(slides.obs["risk"]), abs=1e-6)
    assert (slides.obs["risk_group"] == "high").sum() == N // 2
    assert slides.obs["risk_leaky"].all()
    others = make(1)
    others.obs["patient"] = [f"q{i}" for i in range(N)]
    stp.tl.risk_score(others, found)
    assert not others.obs["risk_leaky"].any()
    row = stp.tl.survival(others).iloc[0]
    assert row["c_low"] > 0.6
    assert row["logrank_p"] < 1e-3
    assert not row["leaky"]


def test_cross_validation_is_that_of_its_parts(slides) -> None:
    x = ((slides.X - slides.X.mean(axis=0)) / slides.X.std(axis=0)).astype(float)
    time, event = (slides.obs[name].to_numpy(dtype=float) for name in ("time", "event"))
    path = fit_path(x, time, event, n_penalties=10)
    fold = event_folds(event, 3, 0)
    assert np.ptp([event[fold == k].sum() for k in range(3)]) <= 1
    found = cross_validate_path(x, time, event, path, fold)
    parts, weights = [], []
    for k in range(3):
        inside = fold != k
        z = (x - x[inside].mean(axis=0)) / x[inside].std(axis=0)
        part = fit_path(z[inside], time[inside], event[inside], penalty=path.penalty)
        eta = z @ part.weight
        every = [partial_likelihood(eta[rows], time[rows], event[rows]) for rows in (slice(None), inside)]
        weights.append(event[fold == k].sum())
        parts.append(-2 * (every[0] - every[1]) / weights[-1])
    np.testing.assert_allclose(found.deviance, np.average(parts, axis=0, weights=weights))
    assert found.at_1se <= found.at_min


def test_slides_of_a_patient_are_averaged(slides) -> None:
    expected = stp.tl.signature(slides)
    twice = ad.concat([slides, slides], index_unique="-")
    twice.X = twice.X + np.repeat([0.5, -0.5], N)[:, None].astype(np.float32)
    found = stp.tl.signature(twice)
    assert found.genes == expected.genes
    np.testing.assert_allclose(found.coefficients, expected.coefficients, atol=1e-3)


def test_candidates_are_those_predicted_well(slides) -> None:
    table = pd.DataFrame({"gene": GENES, "well_predicted": np.arange(G) > 0, "pearson": np.linspace(1, 0, G)})
    found = stp.tl.signature(slides, table, n_candidates=10)
    assert set(found.genes) <= set(GENES[1:11])
    assert slides.var["signature"].notna().tolist() == [1 <= i <= 10 for i in range(G)]
    names = stp.tl.signature(slides, ["G0", "G1", "unmeasured"])
    assert set(names.genes) == {"G0", "G1"}
    rows = np.arange(N) < 80
    part = stp.tl.signature(slides, train=rows)
    assert part.patients == tuple(sorted(slides.obs["patient"][rows]))


def test_on_predictions(slides) -> None:
    slides.obsm["predicted"] = slides.to_df()[GENES[::-1]]
    found = stp.tl.signature(slides, use="predicted")
    assert {"G0", "G1"} <= set(found.genes)
    stp.tl.risk_score(slides, found, use="predicted")
    assert slides.obs["risk_leaky"].all()


def test_gaps_are_filled_and_told(slides) -> None:
    slides.X[:10, 2] = np.nan
    slides.X[:60, 3] = np.nan
    with pytest.warns(UserWarning, match="1 of 40 candidates are left out"):
        found = stp.tl.signature(slides)
    assert "G3" not in found.genes
    assert np.isnan(slides.var.loc["G3", "signature"])
    assert found.facts["n_candidates"] == G - 1


def test_permuted_outcomes_give_nothing(record_property) -> None:
    """The whole pipeline, selection included: C-index .5 on other patients, and log-rank p uniform where a gene is taken."""
    rows = []
    for seed in range(60):
        rng = np.random.default_rng(100 + seed)
        slides = make(seed, 240)
        slides.obs["time"], slides.obs["event"] = (
            slides.obs[name].to_numpy()[order] for order in [rng.permutation(240)] for name in ("time", "event")
        )
        train = np.arange(240) < 100
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(no gene was taken|all 140 risks are)")
            found = stp.tl.signature(slides, train=train, n_folds=3, seed=seed)
            test = slides[~train].copy()
            stp.tl.risk_score(test, found)
        rows.append(stp.tl.survival(test, n_boot=1).iloc[0])
    table = pd.DataFrame(rows)
    tested = table["logrank_p"].dropna().astype(float)
    p, first = kstest(tested, "uniform").pvalue, table["c_index"][:20].mean()
    record_property(
        "printed",
        f"permuted outcomes: C-index {first:.3f} over 20 runs, {table['c_index'].mean():.3f} over 60; {len(tested)} log-rank tests, "
        f"{(tested < 0.05).mean():.0%} below .05, KS p {p:.2f}",
    )
    assert abs(first - 0.5) < 0.03
    assert abs(table["c_index"].mean() - 0.5) < 0.02
    assert len(tested) >= 12
    assert p > 0.02
    assert (tested < 0.05).mean() <= 0.2


BAD = {
    "censored": ({}, "event", 0, ValueError, "at least one event"),
    "few events": ({"n_folds": 60}, None, None, ValueError, "events in each of 60 folds"),
    "time": ({"time": "days"}, None, None, KeyError, "'days'"),
    "candidates": ({"candidates": ["X1"]}, None, None, KeyError, "none of X1"),
    "text": ({"candidates": "G1"}, None, None, TypeError, "found the text 'G1'"),
    "table": ({"candidates": pd.DataFrame({"gene": ["G1"]})}, None, None, KeyError, "without well_predicted"),
    "choose": ({"choose": "max"}, None, None, ValueError, "'max'"),
    "use": ({"use": "predicted"}, None, None, KeyError, "predicted"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors(slides, case: str, frozen) -> None:
    options, column, value, error, message = BAD[case]
    if column:
        slides.obs[column] = value
    before = frozen(slides)
    with pytest.raises(error, match=message):
        stp.tl.signature(slides, **options)
    assert frozen(slides) == before


def test_names_the_extra(slides, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sksurv", None)
    with pytest.raises(ImportError, match="survival"):
        stp.tl.signature(slides)
