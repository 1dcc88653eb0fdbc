from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.cohorts import Fold
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import read_record

MLP = {"model": "mlp", "training": {"max_epochs": 2}, "hyperparameters": {"hidden": 8}}
QUICK = {"metrics": ["pearson"], "ceiling": False}


def test_out_of_fold_predictions_are_those_of_fit_and_predict(toy) -> None:
    scores = stp.tl.cross_validate(toy, {"net": MLP, "ridge": "ridge"}, **QUICK)
    beside = {"mean", "ridge (permuted labels)", "ridge (smoothed)", "ridge (null genes)"}
    assert set(scores["model"]) == {"net", "ridge", *beside}
    assert not scores["leaky"].any()
    assert set(scores["patient"]) == {"p0", "p1", "p2"}
    for patient in ("p0", "p2"):
        train = (toy.obs["patient"] != patient).to_numpy()
        alone = toy.copy()
        options = {"training": MLP["training"], "hyperparameters": MLP["hyperparameters"]}
        stp.tl.predict(alone, stp.tl.fit(alone, "mlp", train, **options), key_added="net")
        stp.tl.predict(alone, stp.tl.fit(alone, "ridge", train), key_added="ridge")
        for label in ("net", "ridge"):
            np.testing.assert_allclose(
                toy.obsm[f"predicted_{label}"][~train], alone.obsm[label][~train], rtol=1e-4, atol=1e-5
            )  # fmt: skip
    record = read_record(toy, "predicted_net")
    assert record["folds"] == ["p0", "p1", "p2"]
    assert record["allow_leakage"] is False


def test_repeats_change_nothing_and_another_seed_does(toy) -> None:
    """Workers change nothing either: see test_fit_folds.py."""
    tables, frames = [], []
    for _ in range(2):
        adata = toy.copy()
        tables.append(stp.tl.cross_validate(adata, {"net": MLP, "ridge": "ridge"}, seed=5, **QUICK))
        frames.append(adata.obsm)
    pd.testing.assert_frame_equal(tables[1], tables[0], check_exact=True)
    for key in frames[0]:
        np.testing.assert_array_equal(np.asarray(frames[1][key]), np.asarray(frames[0][key]))
    other = toy.copy()
    stp.tl.cross_validate(other, {"net": MLP}, seed=6, **QUICK)
    assert not np.array_equal(other.obsm["predicted_net"], frames[0]["predicted_net"])


def test_models_of_a_fold_share_a_target_that_none_of_them_changes(toy, monkeypatch) -> None:
    """The target is read once for a fold, and the last of several models has what the first one had."""
    from stpredict.tl.learn.targets._expression import ExpressionSlots

    read, original = [], ExpressionSlots.read

    def counted(self, adata, request, target, rows, keys):
        read.append(original(self, adata, request, target, rows, keys))
        return read[-1]

    monkeypatch.setattr(ExpressionSlots, "read", counted)
    models = {"first": "ridge", "net": MLP, "last": "ridge"}
    stp.tl.cross_validate(toy, models, baselines=["ridge (permuted labels)"], **QUICK)
    assert len(read) == 3  # folds
    np.testing.assert_array_equal(np.asarray(toy.obsm["predicted_first"]), np.asarray(toy.obsm["predicted_last"]))


def test_sections_need_leave_and_are_marked(toy, frozen) -> None:
    before = frozen(toy)
    with pytest.raises(ValueError, match="p0 in training and test.*leave_one_patient_out.*allow_leakage=True"):
        stp.tl.cross_validate(toy, ["ridge"], "section", **QUICK)
    assert frozen(toy) == before
    scores = stp.tl.cross_validate(toy, ["ridge"], "section", allow_leakage=True, **QUICK)
    assert scores["leaky"].all()
    assert toy.obs["predicted_ridge_leaky"].all()
    assert stp.tl.summarize(scores)["leaky"].all()
    assert read_record(toy, "predicted_ridge")["allow_leakage"] is True


def test_folds_by_hand_cannot_hide_a_leak(toy) -> None:
    patient, sample = toy.obs["patient"].to_numpy(), toy.obs["sample"].to_numpy()
    fold = Fold("mine", train=sample != "s0", test=sample == "s0", leaky=False)
    with pytest.raises(ValueError, match="found p0"):
        stp.tl.cross_validate(toy, ["ridge"], [fold], **QUICK)
    clean = Fold("clean", train=patient == "p1", test=patient == "p2")
    scores = stp.tl.cross_validate(toy, ["ridge"], [fold, clean], allow_leakage=True, baselines=False, **QUICK)
    assert scores.groupby("sample")["leaky"].all().to_dict() == {"s0": True, "s4": False, "s5": False}


def test_untested_rows_stay_empty_and_untouched_rows_are_not_read(toy) -> None:
    patient = toy.obs["patient"].to_numpy()
    toy.obsm["X_toy"][patient == "p1"] = np.nan
    fold = Fold("one", train=patient == "p0", test=patient == "p2")
    scores = stp.tl.cross_validate(toy, ["ridge"], [fold], **QUICK)
    predicted = prediction_frame(toy, "predicted_ridge")
    assert predicted[patient != "p2"].isna().all(axis=None)
    assert np.isfinite(predicted[patient == "p2"]).all(axis=None)
    assert set(scores["patient"]) == {"p2"}


def test_part_of_a_section_can_be_tested(toy) -> None:
    test = np.arange(72) < 6
    train = (toy.obs["patient"] != "p0").to_numpy()
    scores = stp.tl.cross_validate(toy, ["ridge"], [Fold("part", train, test)], baselines=False, **QUICK)
    assert (scores["n_obs"] == 6).all()
    assert len(scores) == 6


def test_panel_is_selected_inside_each_fold(toy) -> None:
    patient = toy.obs["patient"].to_numpy()
    counts = np.full((72, 6), 2.0, dtype=np.float32)
    counts[:, 0] = 9 + np.arange(72) % 3
    for gene, name in ((1, "p0"), (2, "p1"), (3, "p2")):
        counts[patient == name, gene] = 60 + np.arange(24) % 5  # high in one patient only
    toy.layers["counts"] = counts
    stp.pp.normalize(toy)
    stp.tl.cross_validate(toy, ["ridge"], target={"panel": {"method": "mean", "n_genes": 2}}, baselines=False, **QUICK)
    frame = prediction_frame(toy, "predicted_ridge")
    selected = {name: set(frame.columns[frame[patient == name].notna().all()]) for name in ("p0", "p1", "p2")}
    assert selected == {"p0": {"G2", "G3"}, "p1": {"G1", "G3"}, "p2": {"G1", "G2"}}


def test_number_of_folds_and_function(toy) -> None:
    stp.tl.cross_validate(toy, ["ridge"], 2, baselines=False, **QUICK)
    assert len(read_record(toy, "predicted_ridge")["folds"]) == 2
    stp.tl.cross_validate(toy, "ridge", stp.cohorts.leave_one_patient_out, key_added="f", baselines=False, **QUICK)
    assert read_record(toy, "f_ridge")["folds"] == ["p0", "p1", "p2"]


def test_baselines_and_permuted_labels(toy) -> None:
    table = stp.tl.summarize(stp.tl.cross_validate(toy, ["ridge"], **QUICK)).set_index("model")
    assert table.loc["ridge", "low"] > 0.3
    assert abs(table.loc["ridge (permuted labels)", "pearson"]) < 0.25
    assert table.loc["mean", "n_undefined"] == table.loc["mean", "n_scores"]


def test_correlation_given_columns_of_obs(toy) -> None:
    """Of every line, that of null genes included, and in every section of every fold."""
    toy.obs["density"] = np.random.default_rng(0).normal(size=toy.n_obs)
    baselines = ["mean", "ridge (null genes)"]
    table = stp.tl.cross_validate(toy, "ridge", given=["density"], baselines=baselines, **QUICK)
    assert set(table["given"]) == {"depth, density"}
    defined = table["pearson_given"].notna().groupby(table["model"]).sum()
    assert defined["ridge"] == 36
    assert defined["ridge (null genes)"] >= 12  # where more than depth is predicted
    covariates = np.column_stack([np.log1p(toy.obs["depth"]), toy.obs["density"]])
    for (name, gene), line in table[table["model"] == "ridge"].groupby(["sample", "gene"]):
        here, column = (toy.obs["sample"] == name).to_numpy(), toy.var_names.get_loc(gene)
        truth, predicted = (values[here][:, [column]] for values in (toy.X, toy.obsm["predicted_ridge"]))
        expected = stp.metrics.partial_pearson(truth, predicted, covariates[here]).item()
        assert line["pearson_given"].item() == pytest.approx(expected, rel=1e-4)


def test_results_can_be_stored(toy, tmp_path) -> None:
    import anndata as ad

    stp.tl.cross_validate(toy, ["ridge"], **QUICK)
    toy.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    before = stp.tl.evaluate(toy, "predicted_ridge", metrics=["pearson"])
    pd.testing.assert_frame_equal(stp.tl.evaluate(again, "predicted_ridge", metrics=["pearson"]), before)


def test_images(cohort) -> None:
    color = {"model": "color", "hyperparameters": {"patch_px": 16}, "training": {"max_epochs": 2}}
    scores = stp.tl.cross_validate(cohort, {"color": color, "ridge": "ridge"})
    table = stp.tl.summarize(scores).set_index("model")
    assert {"color", "ridge", "mean", "ridge (smoothed)"} <= set(table.index)
    assert 0.2 < table.loc["ridge", "r_over_ceiling"] < 1


PATIENT = np.repeat(["p0", "p1", "p2"], 24)
A, B = Fold("a", PATIENT == "p0", PATIENT == "p1"), Fold("b", PATIENT == "p2", PATIENT != "p2")
BAD = {
    "one_patient": (lambda a: setattr(a, "obs", a.obs.assign(patient="p0")), {}, ValueError,
                    r"two patients in obs\['patient'\]; found p0; .*leave_one_section_out"),
    "two_patients_in_a_section": (lambda a: setattr(a, "obs", a.obs.assign(sample="s")), {}, ValueError, r"found several.* s$"),
    "no_patient": (lambda a: a.obs.drop(columns="patient", inplace=True), {}, KeyError, r"obs\['patient'\]"),
    "overlapping_tests": (None, {"splitter": [A, B]}, ValueError, r"test side of one fold at most"),
    "both_sides": (None, {"splitter": [Fold("x", PATIENT != "p0", PATIENT != "p1")]}, ValueError, r"found p2"),
    "same_rows": (None, {"splitter": [Fold("x", PATIENT != "p0", PATIENT != "p1")], "allow_leakage": True},
                  ValueError, r"fold 'x' on one side; found 24"),
    "short_mask": (None, {"splitter": [Fold("x", A.train[:5], A.test)]}, ValueError, r"train of fold 'x'.*72 values"),
    "empty_test": (None, {"splitter": [Fold("x", A.train, A.test & False)]}, ValueError, r"test observations.*'x'"),
    "few_rows": (None, {"splitter": [Fold("x", np.arange(72) < 2, PATIENT == "p1")]}, ValueError,
                 r"at least 3 measured training observations in fold 'x'; found 2"),
    "no_splitter": (None, {"splitter": "spot"}, TypeError, r"'patient', 'section', 'blocks', 'chromosomes', a number.*found 'spot'"),
    "masks": (None, {"splitter": [(A.train, A.test)]}, TypeError, r"found \[\(array.*stp.cohorts.Fold\('name', train, test\)"),
    "too_many_folds": (None, {"splitter": 4}, ValueError, r"one per patient \(3\); found n_folds=4"),
    "no_models": (None, {"models": []}, ValueError, r"at least one model.*list_models"),
    "unknown_model": (None, {"models": ["net"]}, KeyError, r"mean, mlp.*'net'"),
    "unknown_option": (None, {"models": {"m": {"model": "mlp", "lr": 1}}}, TypeError, r"'m'.*hyperparameters"),
    "unknown_hyperparameter": (None, {"models": {"m": {"model": "mlp", "hyperparameters": {"x": 1}}}}, TypeError,
                               r"hidden, depth.*found x"),
    "unknown_setting": (None, {"models": {"m": {"model": "mlp", "training": {"x": 1}}}}, TypeError, r"max_epochs.*found x"),
    "scaling": (None, {"features": {"slot": "X_toy", "scaling": "slide"}}, ValueError, r"'global', 'section'; found 'slide'"),
    "metric": (None, {"metrics": ["r3"]}, ValueError, r"metrics to be one of.*'r3'"),
    "not_normalized": (lambda a: a.uns["stpredict"].pop("normalize"), {}, KeyError, r"stp.pp.normalize"),
    "nan_features": (lambda a: a.obsm["X_toy"].__setitem__((0, 0), np.nan), {}, ValueError, r"finite features"),
    "nan_target": (lambda a: a.X.__setitem__((0, 0), np.nan), {}, ValueError, r"finite expression"),
    "missing_gene": (None, {"target": ["NOPE"]}, KeyError, r"missing NOPE"),
    "text_given": (None, {"given": "patient"}, TypeError, r"numbers in the columns of `given`; found patient"),
    "unknown_given": (None, {"given": ["density"]}, KeyError, r"density"),
    "given_of_slides": (lambda a: a.uns["stpredict"].update(unit={"is": "slide"}), {"given": ["depth"]}, ValueError,
                        r"no given for slides, which have no map; found depth"),
    "given_of_classes": (lambda a: a.obs.insert(0, "grade", np.tile(["x", "y"], 36)), {"target": "grade", "given": ["depth"]},
                         ValueError, r"no `given=` for a target of classes"),
    "empty_panel": (None, {"target": []}, ValueError, r"empty one"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_changes_nothing(toy, frozen, case: str) -> None:
    change, options, error, message = BAD[case]
    if change is not None:
        change(toy)
    before = frozen(toy)
    with pytest.raises(error, match=message):
        stp.tl.cross_validate(toy, **({"models": ["ridge"]} | options))
    assert frozen(toy) == before


def test_selection_reads_the_sections_and_the_layer_of_the_fit(toy):
    toy.layers["target"] = toy.X.copy()
    toy.layers["target"][:, :3] = 0  # the layer, unlike X, has three genes only
    toy.obs = toy.obs.rename(columns={"sample": "slide"})
    stp.tl.cross_validate(
        toy, "ridge", target={"panel": {"method": "mean", "n_genes": 6}, "layer": "target"}, sample_key="slide",
        ceiling=False, baselines=False, metrics=["pearson"],
    )  # fmt: skip
    assert list(prediction_frame(toy, "predicted_ridge").columns) == ["G3", "G4", "G5"]


def test_the_error_of_one_section_names_what_works(toy) -> None:
    one = toy[toy.obs["sample"] == "s0"].copy()
    with pytest.raises(
        ValueError, match=r"found p0; .*splitter='blocks' \(stp.cohorts.spatial_blocks\).*within section"
    ):
        stp.tl.cross_validate(one, ["ridge"])
    scores = stp.tl.cross_validate(one, ["ridge"], stp.cohorts.spatial_blocks(one, 2, 100), ceiling=False)
    assert set(scores["leaky"]) == {"within section"}
    left = one.obsm["spatial"][:, 0] < 150
    splitter = [stp.cohorts.Fold("left", left, ~left)]
    scores = stp.tl.cross_validate(one, ["ridge"], splitter=splitter, allow_leakage=True, ceiling=False)
    assert scores["leaky"].all()
