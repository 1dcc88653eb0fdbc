from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.metrics import pearson
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import read_record, write_record

FOLLOW_UP = stp.targets.FollowUp("time", "event")
QUICK = {"hyperparameters": {"depth": 1, "heads": 2, "d_head": 8}, "training": {"max_epochs": 4}}


def test_every_patient_is_predicted_by_a_model_that_never_saw_them(slides) -> None:
    models = stp.tl.fit_folds(slides, "sequoia", 3, **QUICK)
    assert len(models) == 3
    fold = slides.obs["predicted_fold"]
    assert sorted(fold.unique()) == [0, 1, 2]
    assert (slides.obs.groupby("patient")["predicted_fold"].nunique() == 1).all()
    for number, model in enumerate(models):
        here = slides[fold == number].copy()
        assert not set(model.training.patients) & set(here.obs["patient"])
        stp.tl.predict(here, model)
        for key in ("predicted", "predicted_baseline_ridge", "predicted_baseline_permuted"):
            np.testing.assert_allclose(here.obsm[key], slides.obsm[key][fold == number], rtol=1e-5)
    assert not slides.obs["predicted_leaky"].any()
    assert not prediction_frame(slides, "predicted").isna().any().any()


def test_the_folds_are_averaged_for_other_cohorts(slides, tmp_path) -> None:
    models = stp.tl.fit_folds(slides, "sequoia", 3, path=tmp_path, baselines=(), **QUICK)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["fold0", "fold1", "fold2"]
    other = slides[:6].copy()
    other.obs["patient"] = "other" + other.obs["patient"].astype(str)
    stp.tl.predict(other, models)
    one = other.obsm["predicted"].copy()
    stp.tl.predict(other, sorted(tmp_path.iterdir()))
    np.testing.assert_allclose(other.obsm["predicted"], one, rtol=1e-6)
    assert not other.obs["predicted_leaky"].any()
    # The object itself names all of them, and knows that each patient was in training.
    stp.tl.predict(slides)
    assert read_record(slides, "predicted")["n_models"] == 3
    assert slides.obs["predicted_leaky"].all()


def test_unmeasured_slides_are_left_out(slides) -> None:
    slides.obs["measured"] = True
    slides.obs.loc[["s00", "s01"], "measured"] = False
    slides.X[:2] = np.nan
    stp.tl.fit_folds(slides, "ridge", 3, baselines=["mean"])
    assert slides.obs["predicted_fold"].iloc[:3].tolist()[:2] == [-1, -1]
    assert prediction_frame(slides, "predicted").iloc[:2].isna().all().all()
    assert not prediction_frame(slides, "predicted").iloc[2:].isna().any().any()
    assert not slides.obs["predicted_leaky"].any()


def test_an_outcome_is_predicted_out_of_fold(slides) -> None:
    stp.tl.fit_folds(slides, "sequoia", 3, target=FOLLOW_UP, **QUICK)
    assert slides.obs["risk"].notna().all()
    assert set(slides.obs["risk_group"]) <= {"high", "low"}
    assert sorted(slides.obs["risk_fold"].unique()) == [0, 1, 2]
    assert not slides.obs["risk_leaky"].any()
    assert "predicted" not in slides.obsm


def test_a_second_call_replaces_the_first(slides) -> None:
    stp.tl.fit_folds(slides, "ridge", 3, baselines=["mean"])
    stp.tl.fit_folds(slides, "mean", 4, baselines=[])
    assert "predicted_baseline_mean" not in slides.obsm
    assert sorted(slides.obs["predicted_fold"].unique()) == [0, 1, 2, 3]


def test_scores_compare_patients(slides) -> None:
    stp.tl.fit_folds(slides, "ridge", 3, baselines=["mean"])
    scores = stp.tl.evaluate(slides)
    assert set(scores["model"]) == {"ridge", "mean"}
    assert (scores["n_obs"] == 12).all()
    truth, predicted = (
        pd.DataFrame(values, index=slides.obs_names).groupby(slides.obs["patient"]).mean().to_numpy()
        for values in (slides.X, slides.obsm["predicted"])
    )
    np.testing.assert_allclose(scores[scores["model"] == "ridge"]["pearson"], pearson(truth, predicted), rtol=1e-5)
    table = stp.tl.summarize(scores).set_index("model")
    assert table.loc["ridge", "pearson"] > table.loc["mean", "pearson"]
    assert (table["n_patients"] == 12).all()
    assert (table["interval_over"] == "none").all()
    assert table["low"].isna().all()


def test_cross_validation_of_networks_on_bags(slides) -> None:
    models = {"sequoia": {"model": "sequoia", **QUICK}, "ridge": "ridge"}
    scores = stp.tl.cross_validate(slides, models, 3)
    assert set(scores["model"]) == {"sequoia", "ridge", "mean", "ridge (permuted labels)"}
    assert not scores["leaky"].any()
    stp.tl.fit_folds(slides, "sequoia", 3, baselines=(), **QUICK)
    np.testing.assert_allclose(slides.obsm["predicted_sequoia"], slides.obsm["predicted"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(slides.obs["predicted_sequoia_fold"], slides.obs["predicted_fold"])


def test_more_folds_than_patients_are_refused(slides, frozen) -> None:
    before = frozen(slides)
    with pytest.raises(ValueError, match="one per patient"):
        stp.tl.fit_folds(slides, "ridge", 13)
    assert frozen(slides) == before


def test_a_panel_that_saw_test_patients_is_refused_or_marked(slides) -> None:
    slides.var["selected"] = True
    write_record(slides, "selected", {"method": "moran", "patients": list(slides.obs["patient"].unique())})
    with pytest.raises(ValueError, match="training patients only"):
        stp.tl.fit_folds(slides, "ridge", 3, baselines=())
    stp.tl.fit_folds(slides, "ridge", 3, baselines=(), allow_leakage=True)
    assert slides.obs["predicted_leaky"].all()


def test_genes_filtered_on_test_patients_are_refused_or_marked(slides) -> None:
    slides.var["gene_type"] = "protein_coding"
    other = slides.copy()
    stp.pp.filter_genes(slides)  # by biotype alone: no patient was looked at
    stp.tl.fit_folds(slides, "ridge", 3, baselines=())
    assert not slides.obs["predicted_leaky"].any()
    stp.pp.filter_genes(other, min_median=0)
    with pytest.raises(ValueError, match=r"list of genes was selected on; call stp.pp.filter_genes with"):
        stp.tl.fit_folds(other, "ridge", 3, baselines=())


def test_the_seed_draws_the_folds(slides) -> None:
    folds = []
    for seed in (0, 0, 1, 2):
        stp.tl.fit_folds(slides, "ridge", 3, baselines=(), seed=seed)
        folds.append(slides.obs["predicted_fold"].to_numpy())
    np.testing.assert_array_equal(folds[0], folds[1])
    assert any(not np.array_equal(folds[0], fold) for fold in folds[2:])


def test_the_record_names_no_training_patients_of_a_single_fold(slides) -> None:
    stp.tl.fit_folds(slides, "ridge", 3, baselines=())
    record = read_record(slides, "predicted")
    assert not {"training_patients", "training_samples"} & set(record)
    assert (record["n_models"], record["n_folds"]) == (3, 3)


def test_workers_change_nothing(toy) -> None:
    """The only test of the suite that starts processes: closed forms only, since each of them imports torch."""
    found = []
    for n_jobs in (1, 2):
        adata = toy.copy()
        models = stp.tl.fit_folds(adata, "ridge", 3, baselines=["mean", "permuted"], n_jobs=n_jobs, threads=1, seed=5)
        scores = stp.tl.cross_validate(
            adata, ["mean", "ridge"], n_jobs=n_jobs, seed=5, metrics=["pearson"], ceiling=False
        )
        found.append((adata, models, scores))
    (one, models, scores), (two, others, other_scores) = found
    pd.testing.assert_frame_equal(other_scores, scores, check_exact=True)
    assert list(two.obsm) == list(one.obsm)
    for key in one.obsm:
        np.testing.assert_array_equal(np.asarray(two.obsm[key]), np.asarray(one.obsm[key]))
    pd.testing.assert_frame_equal(two.obs, one.obs)
    for here, there in zip(models, others, strict=True):
        assert here.training == there.training
        assert list(here.baselines) == list(there.baselines) == ["mean", "permuted"]
        for part, other in ((here, there), *zip(here.baselines.values(), there.baselines.values(), strict=True)):
            state = other.network.state_dict()
            assert all((value == state[name]).all() for name, value in part.network.state_dict().items())


def test_a_prediction_drops_the_folds_of_the_one_before(slides) -> None:
    """Scores read the folds: predictions of one model for everybody have none."""
    stp.tl.fit_folds(slides, "sequoia", 3, target=FOLLOW_UP, **QUICK)
    assert "c_index_folds" in stp.tl.survival(slides, "risk")
    stp.tl.predict(slides)
    assert "risk_fold" not in slides.obs
