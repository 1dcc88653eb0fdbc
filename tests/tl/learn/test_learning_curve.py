from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.tl.learn._learning_curve import _curve, _draws


@pytest.fixture(scope="module")
def adata():
    adata = stp.datasets.synthetic_cohort(n_patients=5, n_sections=1, n_spots=50, n_genes=12, seed=1)
    rng = np.random.default_rng(0)
    adata.obsm["X_f"] = np.asarray(np.log1p(adata.X.toarray())[:, :6] + rng.normal(0, 1, (adata.n_obs, 6)), np.float32)
    stp.pp.normalize(adata)
    return adata


def test_more_patients_help_and_nothing_is_written(adata):
    before = (set(adata.obs), set(adata.obsm), set(adata.uns["stpredict"]))
    curve = stp.tl.learning_curve(adata, ["ridge", "mean"], features="X_f", fractions=(0.25, 0.5, 1), n_repeats=2)
    assert (set(adata.obs), set(adata.obsm), set(adata.uns["stpredict"])) == before
    ridge = curve[curve["model"] == "ridge"]
    assert ridge["n_patients"].tolist() == [1, 2, 4, 8]
    assert ridge["extrapolated"].tolist() == [False] * 3 + [True]
    assert ridge["score"].iloc[2] > ridge["score"].iloc[0]
    assert (ridge["low"] <= ridge["score"]).all()
    assert (ridge["score"] <= ridge["high"]).all()
    # The last size is the cross-validation itself.
    scores = stp.tl.cross_validate(
        adata.copy(), ["ridge"], features="X_f", metrics=["pearson"], baselines=False, ceiling=False
    )
    assert ridge["score"].iloc[2] == pytest.approx(stp.tl.summarize(scores)["pearson"].iloc[0])
    mean = curve[curve["model"] == "mean"]
    assert mean[["score", "low", "high"]].isna().all(axis=None)
    ax = stp.pl.learning_curve(curve)
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["ridge"]
    assert ax.lines[0].get_xdata().tolist() == [1, 2, 4]
    assert ax.lines[1].get_xdata().tolist() == [4, 8]
    assert ax.get_ylabel() == "mean Pearson's r over genes"
    plt.close(ax.figure)


def test_whole_patients_are_left_out_of_training_and_tests_stay(adata):
    folds = stp.cohorts.leave_one_patient_out(adata)
    patients = adata.obs["patient"].astype(str).to_numpy()
    draws = list(_draws(folds, patients, [0.5, 0.55, 1.0], 3, np.random.default_rng(0)))
    assert [(size, repeat) for _, size, repeat in draws] == [
        (2, 0),
        (2, 1),
        (2, 2),
        (4, 0),
    ]  # .55 of four are two as well
    chosen = set()
    for kept, size, _ in draws:
        for fold, full in zip(kept, folds, strict=True):
            assert (fold.test == full.test).all()
            names = set(patients[fold.train])
            assert len(names) == size
            assert (fold.train == np.isin(patients, list(names))).all()
            assert not names & set(patients[fold.test])
            chosen.add(frozenset(names))
    assert len(chosen) > len(folds)


def test_a_curve_of_the_known_form_is_continued():
    rng = np.random.default_rng(0)
    rows = [
        {"model": "m", "n_train": float(n), "repeat": r, "patient": f"P{p}", "sample": f"P{p}", "gene": f"G{g}",
         "pearson": 0.6 - 0.4 / np.sqrt(n) + rng.normal(0, 0.02) - (0.5 if g else 0) * (p % 2)}
        for n in (4, 8, 16) for r in range(2) for p in range(10) for g in range(2)
    ]  # fmt: skip
    scores = pd.DataFrame(rows)
    *_, last = _curve(scores, "pearson", 0.05, 0.95, 500, 0)
    assert last["n_patients"] == 32
    assert last["score"] == pytest.approx(0.6 - 0.4 / np.sqrt(32) - 0.125, abs=0.02)
    assert last["low"] < last["score"] < last["high"]
    rows = list(_curve(scores, "pearson", 0.05, 0.95, 10, 0))
    assert rows[0]["n_genes_found"] == 2  # G1 is .4 and -.1 in turns: .15 on average over ten patients
    assert list(_curve(scores[scores["n_train"] > 4], "pearson", 0.05, 0.95, 10, 0))[-1]["extrapolated"] is False


def test_what_makes_no_curve_is_refused(adata):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        stp.tl.learning_curve(adata, features="X_f", fractions=(0.5, 20))
    with pytest.raises(ValueError, match="n_repeats"):
        stp.tl.learning_curve(adata, features="X_f", n_repeats=0)
    twice = adata.copy()
    twice.obs["patient"] = twice.obs["patient"].astype(str).replace("P2", "P1")
    with pytest.raises(ValueError, match="keep patients apart"):
        stp.tl.learning_curve(twice, splitter="section", features="X_f")
    with pytest.raises(KeyError, match="learning_curve"):
        stp.pl.learning_curve(pd.DataFrame({"model": ["a"]}))
