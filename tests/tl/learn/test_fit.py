from __future__ import annotations

import errno
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import stpredict as stp
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._provenance import read_record
from stpredict.training import FittedModel


def train_mask(adata) -> np.ndarray:
    return (adata.obs["patient"] != "p0").to_numpy()


def test_fit_returns_the_model_and_records_its_path(toy) -> None:
    model = stp.tl.fit(toy, "ridge", train_mask(toy), seed=3)
    assert model.panel == list(toy.var_names)
    assert model.training.patients == ["p1", "p2"]
    assert model.training.samples == ["s2", "s3", "s4", "s5"]
    assert (model.training.n_obs, model.training.seed) == (48, 3)
    assert model.normalization["method"] == "log1p"
    assert model.features["slots"]["X_toy"]["encoder"] == "toy"
    assert set(model.baselines) == {"mean"}
    record = read_record(toy, "model")
    assert record["model"] == "ridge"
    assert FittedModel.load(record["path"]).panel == model.panel
    assert Path(record["path"]).is_relative_to(stp.settings.cache_dir)


def test_mask_series_and_column_are_the_same(toy) -> None:
    mask = train_mask(toy)
    toy.obs["known"] = mask
    fits = [stp.tl.fit(toy, "ridge", train) for train in (mask, toy.obs["known"], "known")]
    weights = [fit.network.weight.numpy() for fit in fits]
    np.testing.assert_array_equal(weights[0], weights[1])
    np.testing.assert_array_equal(weights[0], weights[2])


def test_series_in_another_order_is_refused(toy) -> None:
    mask = pd.Series(train_mask(toy), index=toy.obs_names)
    with pytest.raises(ValueError, match="reindex"):
        stp.tl.fit(toy, "ridge", mask.iloc[::-1])
    with pytest.raises(ValueError, match="72 values"):
        stp.tl.fit(toy, "ridge", mask.to_numpy()[:-1])


def test_sparse_equals_dense_and_spatialdata_equals_anndata(toy) -> None:
    pytest.importorskip("spatialdata")
    from spatialdata import SpatialData
    from spatialdata.models import TableModel

    other = toy.copy()
    other.X = sparse.csr_matrix(other.X)
    sdata = SpatialData(tables={"table": TableModel.parse(toy.copy())})
    models = [stp.tl.fit(data, "ridge", train_mask(toy)) for data in (toy, other, sdata)]
    for model in models[1:]:
        np.testing.assert_array_equal(model.network.weight.numpy(), models[0].network.weight.numpy())
    assert read_record(sdata.tables["table"], "model") is not None
    stp.tl.predict(toy)
    changed = stp.tl.predict(sdata, copy=True)
    assert "predicted" not in sdata.tables["table"].obsm
    stp.tl.predict(sdata)
    for table in (changed.tables["table"], sdata.tables["table"]):
        pd.testing.assert_frame_equal(prediction_frame(table, "predicted"), prediction_frame(toy, "predicted"))
    pd.testing.assert_frame_equal(
        stp.tl.evaluate(sdata, metrics=["pearson"]), stp.tl.evaluate(toy, metrics=["pearson"])
    )


def test_only_training_rows_matter(toy) -> None:
    mask = train_mask(toy)
    before = stp.tl.fit(toy, "mlp", mask, training={"max_epochs": 3}).network.state_dict()
    toy.X[~mask] = 99.0
    toy.obsm["X_toy"][~mask] = -7.0
    after = stp.tl.fit(toy, "mlp", mask, training={"max_epochs": 3}).network.state_dict()
    for name in before:
        np.testing.assert_array_equal(before[name].numpy(), after[name].numpy())


def test_unmeasured_sections_in_the_same_object(toy) -> None:
    mask = train_mask(toy)
    toy.obs["measured"] = mask
    truth = toy.X.copy()
    toy.X[~mask] = np.nan
    with pytest.raises(ValueError, match="24 without a measurement.*train='measured'"):
        stp.tl.fit(toy)
    assert read_record(toy, "model") is None
    stp.tl.fit(toy, train="measured")
    stp.tl.predict(toy)
    predicted = toy.obsm["predicted"]
    assert np.isfinite(predicted).all()
    assert np.mean(stp.metrics.pearson(truth[~mask], predicted[~mask])) > 0.3
    scores = stp.tl.evaluate(toy, metrics=["pearson"])
    assert set(scores["sample"]) == {"s2", "s3", "s4", "s5"}


def test_rows_marked_unmeasured_are_no_zeros(toy) -> None:
    """A sparse matrix cannot hold NaN cheaply: the column `measured` decides."""
    mask = train_mask(toy)
    toy.obs["measured"] = mask
    toy.X[~mask] = 0
    toy.X = sparse.csr_matrix(toy.X)
    with pytest.raises(ValueError, match="without a measurement"):
        stp.tl.fit(toy)
    stp.tl.fit(toy, train="measured")
    stp.tl.predict(toy)
    assert set(stp.tl.evaluate(toy, metrics=["pearson"])["patient"]) == {"p1", "p2"}
    scores = stp.tl.cross_validate(toy, ["ridge"], metrics=["pearson"], baselines=False)
    assert set(scores["patient"]) == {"p1", "p2"}
    assert np.isfinite(toy.obsm["predicted_ridge"]).all()


@pytest.mark.parametrize("panel", [["G4", "G1"], "chosen", "mean", {"method": "mean", "n_genes": 3}])
def test_panels(toy, panel) -> None:
    toy.var["chosen"] = toy.var_names.isin(["G4", "G1"])
    if panel == "mean":
        with pytest.raises(ValueError, match="n_genes"):
            stp.tl.fit(toy, "ridge", train_mask(toy), target={"panel": panel})
        return
    model = stp.tl.fit(toy, "ridge", train_mask(toy), target={"panel": panel})
    if isinstance(panel, dict):
        assert len(model.panel) == 3
        top = np.argsort(-toy.X[train_mask(toy)].mean(axis=0))[:3]
        assert set(model.panel) == set(toy.var_names[top])
    else:
        assert set(model.panel) == {"G4", "G1"}
        assert (model.panel == ["G4", "G1"]) == (panel != "chosen")
    full = stp.tl.fit(toy, "ridge", train_mask(toy), hyperparameters={"alpha": 0.1})
    part = stp.tl.fit(toy, "ridge", train_mask(toy), target=model.panel, hyperparameters={"alpha": 0.1})
    columns = [full.panel.index(gene) for gene in part.panel]
    np.testing.assert_allclose(part.network.weight.numpy(), full.network.weight.numpy()[:, columns], rtol=1e-5)


def test_selected_genes_are_the_default_and_strangers_are_refused(toy, frozen) -> None:
    mask = train_mask(toy)
    stp.pp.select_genes(toy, "mean", n_genes=2, train=mask)
    assert len(stp.tl.fit(toy, "ridge", mask).panel) == 2
    stp.pp.select_genes(toy, "mean", n_genes=2)
    before = frozen(toy)
    with pytest.raises(ValueError, match="found p0 among the patients.*select_genes"):
        stp.tl.fit(toy, "ridge", mask)
    with pytest.raises(ValueError, match="found p0"):
        stp.tl.cross_validate(toy, ["mean"])
    assert frozen(toy) == before
    model = stp.tl.fit(toy, "ridge", mask, allow_leakage=True)
    assert model.training.allow_leakage is True
    stp.tl.predict(toy, model)
    assert toy.obs["predicted_leaky"].all()  # p0 had a say in the genes it is scored on
    scores = stp.tl.cross_validate(toy, ["ridge"], metrics=["pearson"], allow_leakage=True, baselines=False)
    assert scores["leaky"].all()
    assert len(stp.tl.fit(toy, "ridge", mask, target={"panel": {"method": "mean", "n_genes": 4}}).panel) == 4


def test_a_given_list_has_no_strangers(toy) -> None:
    stp.pp.select_genes(toy, ["G1", "G2"])
    assert stp.tl.fit(toy, "ridge", train_mask(toy)).panel == ["G1", "G2"]


def test_each_fit_keeps_its_own_saved_model(toy) -> None:
    """Same patients, panel and settings, but other hyperparameters or other values: another directory."""
    other, permuted = toy.copy(), toy.copy()
    permuted.X = permuted.X[::-1].copy()
    fits = [
        stp.tl.fit(toy, "ridge", train_mask(toy), hyperparameters={"alpha": 0.01}),
        stp.tl.fit(other, "ridge", train_mask(toy), hyperparameters={"alpha": 10.0}),
        stp.tl.fit(permuted, "ridge", train_mask(toy), hyperparameters={"alpha": 0.01}),
    ]
    paths = [read_record(adata, "model")["path"] for adata in (toy, other, permuted)]
    assert len(set(paths)) == 3
    for adata, fit in zip((toy, other, permuted), fits, strict=True):
        stp.tl.predict(adata)
        expected = stp.tl.predict(adata, fit, copy=True)
        pd.testing.assert_frame_equal(prediction_frame(adata, "predicted"), prediction_frame(expected, "predicted"))


SECTION_SCALED = {"slot": ["toy", "X_other"], "scaling": "section"}


def test_several_feature_slots_and_section_scaling(toy) -> None:
    toy.obsm["X_other"] = np.random.default_rng(1).normal(size=(72, 3)).astype(np.float32)
    model = stp.tl.fit(toy, "ridge", train_mask(toy), features=SECTION_SCALED)
    assert model.network.shape.width("features") == 7
    stp.tl.predict(toy, model)
    first = toy.obsm["predicted"].copy()
    section = toy.obs["sample"].cat.codes.to_numpy() if hasattr(toy.obs["sample"], "cat") else None
    section = np.unique(toy.obs["sample"].astype(str), return_inverse=True)[1] if section is None else section
    toy.obsm["X_toy"] = toy.obsm["X_toy"] * (1 + section[:, None]) + 10 * section[:, None]
    stp.tl.predict(toy, model)
    np.testing.assert_allclose(toy.obsm["predicted"], first, rtol=1e-3, atol=1e-3)


def test_layer_as_target(toy) -> None:
    toy.layers["other"] = toy.X * 2 + 1
    model = stp.tl.fit(toy, "ridge", train_mask(toy), target={"layer": "other"}, hyperparameters={"alpha": 0.1})
    plain = stp.tl.fit(toy, "ridge", train_mask(toy), hyperparameters={"alpha": 0.1})
    np.testing.assert_allclose(model.network.weight.numpy(), 2 * plain.network.weight.numpy(), rtol=1e-3, atol=1e-5)
    assert model.normalization == {"method": "layer", "layer": "other"}


def test_pixels_and_features(cohort) -> None:
    mask = (cohort.obs["patient"] != "P1").to_numpy()
    options = {"hyperparameters": {"patch_px": 16}, "training": {"max_epochs": 1}}
    model = stp.tl.fit(cohort, "color", mask, **options)
    assert model.training.patch == [112.0, 16]
    assert set(model.baselines) == {"mean"}  # no features were named
    model = stp.tl.fit(cohort, "color", mask, features="color-texture", **options)
    assert set(model.baselines) == {"mean", "ridge"}
    stp.tl.predict(cohort)
    assert {"predicted", "predicted_baseline_mean", "predicted_baseline_ridge"} <= set(cohort.obsm)
    assert np.isfinite(cohort.obsm["predicted"]).all()
    part = cohort[cohort.obs["sample"] == "P1_S1"].copy()
    stp.tl.predict(part, model)
    np.testing.assert_allclose(
        part.obsm["predicted"],
        prediction_frame(cohort, "predicted").loc[part.obs_names].to_numpy(),
        rtol=1e-5,
    )


def mutate(toy, **changes):
    for key, value in changes.items():
        if key == "feature":
            toy.obsm["X_toy"][5, 1] = value
        elif key == "target":
            toy.X[40, 2] = value


BAD = {
    "nan_features": (lambda a: mutate(a, feature=np.nan), {}, ValueError, r"finite features.*1 rows.*image_features"),
    "infinite_features": (lambda a: mutate(a, feature=np.inf), {}, ValueError, r"finite features in obsm\['X_toy'\]"),
    "nan_target": (lambda a: mutate(a, target=np.nan), {}, ValueError, r"finite expression.*train="),
    "missing_gene": (None, {"target": ["G1", "NOPE"]}, KeyError, r"missing NOPE.*select_genes"),
    "repeated_gene": (None, {"target": ["G1", "G1"]}, ValueError, r"unique genes in the panel; found G1"),
    "empty_panel": (None, {"target": []}, ValueError, r"at least one gene; found an empty one.*select_genes"),
    "missing_column": (None, {"target": {"panel": "mine"}}, KeyError, r"var\['mine'\].*select_genes"),
    "unknown_model": (None, {"model": "hisT"}, KeyError, r"color, .*mean, mlp, ridge, .*stnet, .*; found 'hisT'.*list_models"),
    "unknown_hyperparameter": (None, {"hyperparameters": {"alfa": 1}}, TypeError, r"'ridge' \(.*alpha.*; found alfa"),
    "unknown_setting": (None, {"training": {"epochs": 1}}, TypeError, r"max_epochs.*found epochs"),
    "no_patient": (lambda a: a.obs.drop(columns="patient", inplace=True), {}, KeyError, r"obs\['patient'\]; found"),
    "gap_in_patient": (lambda a: setattr(a, "obs", a.obs.assign(patient=a.obs["patient"].where(a.obs["sample"] != "s0"))), {},
                       ValueError, r"without gaps; found 12"),
    "two_patients": (lambda a: setattr(a, "obs", a.obs.assign(sample="one")), {}, ValueError, r"one patient; found.*one"),
    "not_normalized": (lambda a: a.uns["stpredict"].pop("normalize"), {}, KeyError, r"stp.pp.normalize\(adata\)"),
    "no_features": (lambda a: a.obsm.__delitem__("X_toy"), {}, KeyError, r"found none among.*image_features"),
    "other_features": (None, {"features": "uni2-h"}, KeyError, r"obsm\['X_uni2-h'\]; found.*encoder='uni2-h'"),
    "several_features": (lambda a: (a.obsm.__setitem__("X_b", a.obsm["X_toy"]), a.uns["stpredict"].__setitem__("X_b",
                         a.uns["stpredict"]["X_toy"])), {}, KeyError, r"several \(X_b, X_toy\).*features="),
    "scaling": (None, {"features": {"scaling": "slide"}}, ValueError, r"'global', 'section'; found 'slide'"),
    "non_boolean": (None, {"train": np.arange(72)}, ValueError, r"boolean array of 72.*found int64"),
    "non_boolean_key": (None, {"train": "array_row"}, TypeError, r"obs\['array_row'\] to be boolean; found int64"),
    "unknown_key": (None, {"train": "nowhere"}, KeyError, r"obs\['nowhere'\]; found"),
    "empty_mask": (None, {"train": np.zeros(72, bool)}, ValueError, r"at least one observation in train"),
    "two_rows": (None, {"train": np.arange(72) < 2}, ValueError, r"at least 3 training observations; found 2"),
    "slow_baseline": (None, {"baselines": ["mlp"]}, ValueError, r"closed form.*found mlp.*cross_validate"),
    "layer": (None, {"target": {"layer": "smooth"}}, KeyError, r"layers\['smooth'\]; found \['counts'\]"),
    "pixels_without_image": (None, {"model": "color"}, KeyError, r"full-resolution image of section.*image="),
    "no_positions": (lambda a: a.obsm.__delitem__("spatial"), {"model": "color"}, KeyError, r"obsm\['spatial'\]"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_changes_nothing(toy, frozen, case: str) -> None:
    change, options, error, message = BAD[case]
    if change is not None:
        change(toy)
    before = frozen(toy)
    with pytest.raises(error, match=message):
        stp.tl.fit(toy, **({"model": "ridge"} | options))
    assert frozen(toy) == before


@pytest.mark.parametrize(("value", "message"), [(-1.0, "non-negative"), (0.5, "whole-number"), (np.inf, "finite")])
def test_no_counts_for_normalize(toy, frozen, value: float, message: str) -> None:
    toy.layers["counts"][3, 3] = value
    before = frozen(toy)
    with pytest.raises(ValueError, match=message):
        stp.pp.normalize(toy)
    assert frozen(toy) == before


def test_wrong_container() -> None:
    with pytest.raises(TypeError, match="AnnData or SpatialData; found DataFrame"):
        stp.tl.fit(pd.DataFrame())


def test_model_path_gone(toy, frozen) -> None:
    stp.tl.fit(toy, "ridge", train_mask(toy))
    shutil.rmtree(read_record(toy, "model")["path"])
    before = frozen(toy)
    with pytest.raises(FileNotFoundError, match=r"saved model in .*no config.json.*stp.tl.fit"):
        stp.tl.predict(toy)
    assert frozen(toy) == before


def test_failed_save_leaves_the_object(toy, frozen, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    before = frozen(toy)
    with pytest.raises(FileExistsError, match="other files"):
        stp.tl.fit(toy, "ridge", path=tmp_path)
    assert frozen(toy) == before
    assert (tmp_path / "notes.txt").read_text() == "mine"


def unwritable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> Path:
    """A folder in which nothing can be written, whoever tries."""
    folder = tmp_path / "folder"
    if kind == "file":
        folder.write_text("mine")
    else:
        number = {"full": errno.ENOSPC, "read-only": errno.EROFS, "quota": errno.EDQUOT}[kind]

        def fail(*_: object, **__: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(Path, "mkdir", fail)
    return folder


@pytest.mark.parametrize("kind", ["file", "full", "read-only", "quota"])
def test_a_model_outlives_a_folder_that_cannot_be_written(toy, tmp_path, monkeypatch, kind) -> None:
    whole = stp.tl.fit(toy, "mlp", training={"max_epochs": 2}, baselines=False)
    other = toy.copy()
    del other.uns["stpredict"]["model"]
    folder = unwritable(tmp_path, monkeypatch, kind)
    for options in ({"path": folder / "model"}, {}):
        monkeypatch.setattr(stp.settings, "cache_dir", folder)
        with pytest.warns(UserWarning, match=r"could not be kept in .*returned all the same.*save\(path\)") as caught:
            model = stp.tl.fit(other, "mlp", training={"max_epochs": 2}, baselines=False, **options)
        assert ("cache_dir" in str(caught[0].message)) == (not options)
        assert all(torch.equal(a, b) for a, b in zip(parameters(whole), parameters(model), strict=True))
        assert read_record(other, "model") is None
    monkeypatch.undo()
    model.save(tmp_path / "saved")


def parameters(model) -> list[torch.Tensor]:
    return list(model.network.state_dict().values())


def test_models_of_folds_outlive_a_folder_that_cannot_be_written(toy, tmp_path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.warns(UserWarning, match="could not be kept"):
        models = stp.tl.fit_folds(toy, "ridge", 3, baselines=False, path=tmp_path / "file")
    assert len(models) == 3
    assert np.isfinite(stp.get.predicted(toy).X).all()


def test_other_files_at_the_path_are_found_before_the_training(toy, tmp_path, monkeypatch) -> None:
    from stpredict.training import _fit_arrays

    (tmp_path / "fold1").mkdir()
    (tmp_path / "fold1" / "notes.txt").write_text("mine")
    monkeypatch.setattr(_fit_arrays, "build", None)
    with pytest.raises(FileExistsError, match="expected a new or empty directory"):
        stp.tl.fit(toy, "ridge", path=tmp_path)
    with pytest.raises(FileExistsError, match="fold1"):
        stp.tl.fit_folds(toy, "ridge", 3, path=tmp_path)


def test_fit_on_a_view_warns_of_nothing_and_works(toy) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = stp.tl.fit(toy[train_mask(toy)], "ridge")
        test = toy[~train_mask(toy)]
        stp.tl.predict(test, model)
    whole = stp.tl.fit(toy, "ridge", train_mask(toy))
    np.testing.assert_array_equal(model.network.weight.numpy(), whole.network.weight.numpy())
    assert not test.obs["predicted_leaky"].any()
    assert "predicted" not in toy.obsm


def test_a_model_to_start_from_brings_its_features_along(toy) -> None:
    """Weights trained on features of one slot and scale mean nothing on those of another."""
    toy.obsm["X_b"] = toy.obsm["X_toy"][:, ::-1].copy()
    toy.uns["stpredict"]["X_b"] = {"encoder": "b"}
    once = {"training": {"max_epochs": 1}, "baselines": False}
    first = stp.tl.fit(toy, "mlp", features={"slot": "X_b", "scaling": "section"}, **once)
    second = stp.tl.fit(toy, first, **once)
    assert second.features == first.features
    with pytest.raises(ValueError, match="X_toy"):
        stp.tl.fit(toy, first, features="X_toy", **once)


def test_hyperparameters_of_the_model_to_start_from_are_kept_unless_given(toy, tmp_path) -> None:
    once = {"training": {"max_epochs": 1}, "baselines": False}
    first = stp.tl.fit(toy, "mlp", hyperparameters={"hidden": 8, "dropout": 0.5}, path=tmp_path / "m", **once)
    for start in (first, tmp_path / "m"):
        second = stp.tl.fit(toy, start, hyperparameters={"dropout": 0.0}, **once)
        assert (second.network.config.hidden, second.network.config.dropout) == (8, 0.0)
        assert second.training.pretraining_patients == ["p0", "p1", "p2"]
    with pytest.raises(KeyError, match="found '.*m'"):  # a string is a name
        stp.tl.fit(toy, str(tmp_path / "m"), **once)
    with pytest.raises(ValueError, match="same hyperparameters"):
        stp.tl.fit(toy, first, hyperparameters={"hidden": 4}, **once)
