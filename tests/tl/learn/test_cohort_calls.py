"""What takes a cohort on disk gives what it gives in memory, and reads no array as a whole."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import stpredict as stp
from stpredict.core._file_rows import FileRows, FileSparseRows
from stpredict.training import FittedModel

TINY = {"hyperparameters": "small", "training": {"max_epochs": 2}}
ORDER = ["sample", "model", "gene"]


@pytest.fixture
def disk(toy: ad.AnnData, tmp_path: Path) -> stp.Cohort:
    """The six sections of `toy`, each in an h5ad."""
    return stp.Cohort.divide(toy, tmp_path / "sections")


def weights(model: FittedModel) -> list[np.ndarray]:
    """Everything that a network has learned."""
    return [tensor.numpy() for tensor in model.network.state_dict().values()]


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Scores in an order of their own."""
    return table.sort_values(ORDER).reset_index(drop=True)


@pytest.mark.parametrize("model", ["ridge", "mlp", "hist"])
@pytest.mark.parametrize("normalization", ["log1p", "pearson_residuals"])
def test_fits_are_those_in_memory(toy: ad.AnnData, tmp_path: Path, model: str, normalization: Any) -> None:
    toy.layers["counts"] = toy.layers["counts"].astype(np.float64)
    for data in (toy, disk := stp.Cohort.divide(toy, tmp_path / "sections")):
        stp.pp.normalize(data, method=normalization, layer="counts")
        if model == "hist":
            stp.pp.grid(data)
    options: dict[str, Any] = {"baselines": ["mean"], **({} if model == "ridge" else TINY)}
    one = stp.tl.fit(toy, model, toy.obs["patient"] != "p2", **options)
    two = stp.tl.fit(disk, model, disk.obs["patient"] != "p2", **options)
    assert all(np.array_equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))
    assert one.fingerprint() == two.fingerprint()


@pytest.mark.parametrize("model", ["ridge", "mlp"])
@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
def test_fits_of_counts_are_those_in_memory(toy: ad.AnnData, tmp_path: Path, model: str, form: Any) -> None:
    toy.layers["counts"] = form(toy.layers["counts"])
    disk = stp.Cohort.divide(toy, tmp_path / "sections")
    target = stp.targets.Counts(panel=list(toy.var_names[[4, 0, 2, 1]]), family="negative_binomial")
    options: dict[str, Any] = {"target": target, "baselines": ["mean"], **({} if model == "ridge" else TINY)}
    one, two = (stp.tl.fit(data, model, data.obs["patient"] != "p2", **options) for data in (toy, disk))
    assert one.target == two.target
    assert all(np.array_equal(a, b) for a, b in zip(weights(one), weights(two), strict=True))


@pytest.mark.parametrize("target", [None, stp.targets.Counts(family="negative_binomial")])
def test_no_array_is_read_whole(disk: stp.Cohort, target: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """No read has more rows than a section, where blocks are smaller than the cohort."""
    largest = {"rows": 0}
    reads: dict[Any, Any] = {kind: kind.__getitem__ for kind in (FileRows, FileSparseRows)}
    for kind, real in reads.items():

        def read(self: Any, index: Any, real: Any = real) -> Any:
            found = real(self, index)
            if self.shape[0] == 72:
                largest["rows"] = max(largest["rows"], found.shape[0])
            return found

        monkeypatch.setattr(kind, "__getitem__", read)
    sampled = ("slots._content._N_SUMMED", "tl.learn.inputs._origin._N_ROWS")  # rows that stand for all
    for name in (*sampled, "training._loader.ROWS"):
        monkeypatch.setattr(f"stpredict.{name}", 12)
    monkeypatch.setattr("stpredict.core._moments.row_slices.__defaults__", (12,))
    blocks = lambda n, *_, **__: (slice(i, i + 12) for i in range(0, n, 12))
    monkeypatch.setattr("stpredict.core._file_rows.row_blocks", blocks)
    stp.tl.fit(disk, "ridge", target=target)
    assert 0 < largest["rows"] <= 12


def test_predictions_and_scores_are_those_in_memory(toy: ad.AnnData, disk: stp.Cohort, tmp_path: Path) -> None:
    model = stp.tl.fit(toy, "ridge", toy.obs["patient"] != "p2")
    for data in (toy, disk):
        stp.tl.predict(data, model)
    one, two = (in_order(stp.tl.evaluate(data)) for data in (toy, disk))
    pd.testing.assert_frame_equal(one, two, check_categorical=False, check_dtype=False)
    assert two["leaky"].tolist() == one["leaky"].tolist()
    joined = disk.to_adata()[toy.obs_names]
    for key in ("predicted", "predicted_std", "predicted_baseline_mean"):
        assert np.array_equal(joined.obsm[key], toy.obsm[key])
    assert (joined.obs["predicted_leaky"].astype(str) == toy.obs["predicted_leaky"].astype(str)).all()
    stamps = [path.stat().st_mtime_ns for path in disk.paths.values()]
    stp.tl.predict(disk, FittedModel.load(model.save(tmp_path / "model")))  # the same model
    assert [path.stat().st_mtime_ns for path in disk.paths.values()] == stamps
    stp.tl.predict(disk, model, baselines=False)
    assert "predicted_baseline_mean" not in disk["s0"].obsm


def test_predictions_in_a_folder(disk: stp.Cohort, toy: ad.AnnData, tmp_path: Path) -> None:
    model, folder = stp.tl.fit(toy, "ridge"), tmp_path / "predictions"
    before = [path.stat().st_mtime_ns for path in disk.paths.values()]
    stp.tl.predict(disk, model, store=folder)
    assert [path.stat().st_mtime_ns for path in disk.paths.values()] == before
    assert sorted(path.name for path in folder.iterdir()) == [f"s{i}.zarr" for i in range(6)]
    stp.tl.predict(toy, model)
    assert np.array_equal(ad.read_zarr(folder / "s3.zarr").X, toy.obsm["predicted"][36:48])
    stamps = {path.name: path.stat().st_ino for path in folder.iterdir()}
    section = disk["s2"]
    section.obsm["X_toy"] = section.obsm["X_toy"][::-1].copy()
    section.write_h5ad(disk.paths["s2"])
    stp.tl.predict(disk, model, store=folder)
    changed = [name for name, inode in stamps.items() if (folder / name).stat().st_ino != inode]
    assert changed == ["s2.zarr"]
    with pytest.raises(ValueError, match="expected the model to predict a cohort with; found none"):
        stp.tl.predict(disk)
    with pytest.raises(ValueError, match="expected copy=False for a cohort"):
        stp.tl.predict(disk, model, copy=True)


def test_folds_are_those_in_memory(toy: ad.AnnData, disk: stp.Cohort) -> None:
    """Also where genes are selected in every fold, and one section was not measured."""
    toy.obs["measured"] = toy.obs["sample"] != "s5"
    toy.obs["density"] = np.random.default_rng(0).normal(size=toy.n_obs)
    for name, section in disk.items():
        section.obs["measured"] = name != "s5"
        section.obs["density"] = toy.obs["density"]
        section.write_h5ad(disk.paths[name])
    options: dict[str, Any] = {"baselines": ["mean"], "metrics": ["pearson", "rmse", "deviance_explained"]}
    options |= {"target": {"panel": {"method": "mean", "n_genes": 4}}, "given": "density"}
    models = {"ridge": "ridge", "mlp": {"model": "mlp", **TINY}}
    one = stp.tl.cross_validate(toy, models, **options)
    two = stp.tl.cross_validate(disk, models, **options)
    pd.testing.assert_frame_equal(in_order(one), in_order(two), check_categorical=False, check_dtype=False)
    assert one.attrs["keys"] == two.attrs["keys"]
    joined = disk.to_adata()[toy.obs_names]
    for key in ("predicted_ridge", "predicted_ridge_std", "predicted_mlp", "predicted_mean"):
        assert np.array_equal(joined.obsm[key], toy.obsm[key], equal_nan=True)
    for column in ("predicted_ridge_leaky", "predicted_ridge_fold"):
        assert joined.obs[column].astype(str).tolist() == toy.obs[column].astype(str).tolist()
    assert not list((stp.settings.cache_dir / "cohorts" / "folds").iterdir())


def test_permuted_labels_and_blocks_are_those_in_memory(toy: ad.AnnData, disk: stp.Cohort) -> None:
    """Labels of a network are shuffled row by row; blocks of sections are normalized and standardized by their training side."""
    models: dict[str, Any] = {"mlp": {"model": "mlp", **TINY}}
    options: dict[str, Any] = {
        "baselines": ["permuted", "ridge (null genes)"],
        "metrics": ["pearson", "rmse"],
        "ceiling": False,
    }
    folds = stp.cohorts.spatial_blocks(toy[toy.obs["sample"].isin(["s0", "s3"])].copy(), 2, buffer_um=0)
    rows = np.flatnonzero(toy.obs["sample"].isin(["s0", "s3"]))
    whole = []
    for fold in folds:
        train, test = np.zeros(72, dtype=bool), np.zeros(72, dtype=bool)
        train[rows[fold.train]], test[rows[fold.test]] = True, True
        whole.append(replace(fold, train=train, test=test))
    for splitter, normalization in ((2, "log1p"), (whole, "log1p"), (whole, "pearson_residuals")):
        kwargs = options | {"splitter": splitter, "allow_leakage": True}
        for data in (toy, disk):
            stp.pp.normalize(data, method=normalization, layer="counts")
        one, two = (in_order(stp.tl.cross_validate(data, models, **kwargs)) for data in (toy, disk))
        pd.testing.assert_frame_equal(one, two, check_categorical=False, check_dtype=False)
        joined = disk.to_adata()[toy.obs_names]
        for key in ("predicted_mlp", "predicted_mlp_permuted"):
            assert np.array_equal(joined.obsm[key], toy.obsm[key], equal_nan=True)


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix])
@pytest.mark.parametrize("normalization", ["log1p", "pearson_residuals"])
def test_shuffled_and_redrawn_genes_are_those_in_memory(
    toy: ad.AnnData, tmp_path: Path, normalization: Any, form: Any
) -> None:
    """Sections are drawn in the order of their names, whichever order they have; nothing of it stays on disk."""
    toy.layers["counts"] = form(toy.layers["counts"])
    toy.obs["measured"] = toy.obs["sample"] != "s5"
    toy.obs["density"] = np.random.default_rng(0).normal(size=toy.n_obs)
    made = stp.Cohort.divide(toy, tmp_path / "sections")
    disk = made[["s3", "s0", "s5", "s1", "s2", "s4"]]
    toy = toy[[name for section in disk for name in toy.obs_names[toy.obs["sample"] == section]]].copy()
    for data in (toy, disk):
        stp.pp.normalize(data, method=normalization, layer="counts")
    known = set(stp.settings.cache_dir.rglob("arrays.json"))
    options: dict[str, Any] = {"target": {"panel": {"method": "mean", "n_genes": 4}}, "given": "density"}
    options |= {"metrics": ["pearson", "rmse"]}
    one, two = (stp.tl.cross_validate(data, ["mean"], features="toy", **options) for data in (toy, disk))
    assert {"ridge (permuted labels)", "ridge (null genes)"} <= set(two["model"])
    pd.testing.assert_frame_equal(in_order(one), in_order(two), check_categorical=False, check_dtype=False)
    joined = disk.to_adata()[toy.obs_names]
    key = "predicted_ridge_permuted_labels"
    assert np.array_equal(joined.obsm[key], toy.obsm[key], equal_nan=True)
    assert not [name for name in (*joined.obsm, *joined.obs) if "null" in name]
    assert not list((stp.settings.cache_dir / "cohorts" / "folds").iterdir())
    left = set(stp.settings.cache_dir.rglob("arrays.json")) - known
    assert len(left) == 1  # of the sections, and of nothing else


def test_redrawn_genes_have_the_marks_of_the_genes(toy: ad.AnnData, tmp_path: Path) -> None:
    """Selected on all patients, they leak, whatever was drawn for them."""
    stp.pp.select_genes(toy, "mean", n_genes=3)
    disk = stp.Cohort.divide(toy, tmp_path / "sections")
    options: dict[str, Any] = {"allow_leakage": True, "metrics": ["pearson"], "ceiling": False}
    options |= {"features": "toy", "baselines": ["ridge (null genes)"]}
    for data in (toy, disk):
        scores = stp.tl.cross_validate(data, ["mean"], **options)
        assert (scores.loc[scores["model"] == "ridge (null genes)", "leaky"].astype(str) == "True").all()


def test_samples_of_folds_are_those_in_memory(toy: ad.AnnData, disk: stp.Cohort) -> None:
    models: dict[str, Any] = {"stem": {"model": "stem", "hyperparameters": "small", "training": {"max_epochs": 1}}}
    options: dict[str, Any] = {"baselines": False, "metrics": ["pearson", "crps"], "n_samples": 3, "splitter": 2}
    one, two = (in_order(stp.tl.cross_validate(data, models, **options)) for data in (toy, disk))
    assert one["crps"].notna().all()
    pd.testing.assert_frame_equal(one, two, check_categorical=False, check_dtype=False)
    joined = disk.to_adata()[toy.obs_names]
    assert np.array_equal(joined.obsm["predicted_stem_samples"], toy.obsm["predicted_stem_samples"])


@pytest.mark.parametrize("target", ["state", stp.targets.FollowUp("time", "event")])
def test_classes_and_follow_up_are_judged_as_in_memory(toy: ad.AnnData, tmp_path: Path, target: Any) -> None:
    rng = np.random.default_rng(0)
    toy.obs["state"] = pd.Categorical(rng.choice(["a", "b", "c"], 72))
    toy.obs["time"] = toy.obs["patient"].map({"p0": 1.0, "p1": 2.5, "p2": 4.0}).astype(float)
    toy.obs["event"] = True
    disk = stp.Cohort.divide(toy, tmp_path / "sections")
    models: dict[str, Any] = {"mlp": {"model": "mlp", **TINY}}
    one, two = (stp.tl.cross_validate(data, models, target=target, ceiling=False) for data in (toy, disk))
    pd.testing.assert_frame_equal(one, two, check_categorical=False, check_dtype=False)
    joined = disk.to_adata()[toy.obs_names]
    if target == "state":
        assert np.array_equal(joined.obsm["predicted_mlp"], toy.obsm["predicted_mlp"])
    else:
        assert joined.obs["predicted_mlp"].tolist() == toy.obs["predicted_mlp"].tolist()


def test_what_a_cohort_is_refused(disk: stp.Cohort) -> None:
    section = disk["s0"]
    stp.pp.normalize(section, layer="counts")
    section.write_h5ad(disk.paths["s0"])
    with pytest.raises(ValueError, match="call stp.pp.normalize alike on all of them"):
        stp.tl.fit(disk, "ridge")


def test_predictability_is_that_in_memory(tmp_path: Path) -> None:
    adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=49, n_genes=8, microns_per_pixel=4.0)
    stp.pp.image_features(adata)
    disk = stp.Cohort.divide(adata, tmp_path / "sections")
    one, two = stp.tl.predictability(adata), stp.tl.predictability(disk)
    pd.testing.assert_frame_equal(pd.DataFrame(one), pd.DataFrame(two), rtol=1e-6)


def test_slides_are_scored_together(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = [f"s{i}" for i in range(8)]
    obs = pd.DataFrame({"sample": names, "patient": [f"p{i}" for i in range(8)]}, index=names)
    slides = ad.AnnData(rng.normal(size=(8, 3)).astype(np.float32), obs=obs)
    stp.pp.as_slides(slides)
    slides.layers["log2"], slides.obsm["X_bag"] = slides.X.copy(), rng.normal(size=(8, 2))
    for key in ("predicted", "predicted_baseline_permuted"):
        values = slides.X + rng.normal(size=(8, 3)).astype(np.float32)
        slides.obsm[key] = pd.DataFrame(values, index=names, columns=slides.var_names)
    disk = stp.Cohort.divide(slides, tmp_path / "slides")
    options: dict[str, Any] = {"comparators": ["permuted"], "layer": "log2"}
    pd.testing.assert_frame_equal(stp.tl.well_predicted(slides, **options), stp.tl.well_predicted(disk, **options))
    pd.testing.assert_frame_equal(
        in_order(stp.tl.evaluate(slides, layer="log2")),
        in_order(stp.tl.evaluate(disk, layer="log2")),
        check_dtype=False,
    )
