"""Graphs of nuclei from the slots of objects: which nuclei, which links, and what is fixed when a network is fitted."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import stpredict as stp
from stpredict.core._file_rows import FileRows
from stpredict.slots._nuclei import write_nuclei
from stpredict.slots._rows import rows_of
from stpredict.tl.learn.inputs._nuclei_graph import NucleiGraph, graphs_around
from stpredict.tl.learn.inputs._reader import Source

MPP = 0.5
GRAPH = {"branches": "graph", "n_layers": 2, "n_hidden": 8, "mlp": (8,), "dropout": 0.0}
QUICK = {"max_epochs": 3, "patience": 2}


def polygons(xy: np.ndarray, types: list[str] | None = None) -> Any:
    """Nuclei of 8 px around places."""
    import geopandas as gpd
    import shapely

    frame = gpd.GeoDataFrame(geometry=list(shapely.box(*(xy - 4).T, *(xy + 4).T)))
    if types is not None:
        frame["type"] = pd.Categorical(types)
    return frame


@pytest.fixture(scope="module")
def adata() -> AnnData:
    """Two patients with two sections of 30 spots; nuclei of three types in one, of two in the others, none in a corner."""
    rng = np.random.default_rng(0)
    n, side = 30, 1200
    names = ["P1a", "P1b", "P2a", "P2b"]
    obs = pd.DataFrame({"sample": np.repeat(names, n), "patient": np.repeat(["P1", "P1", "P2", "P2"], n)},
                       index=[f"o{i}" for i in range(4 * n)])  # fmt: skip
    adata = AnnData(rng.poisson(5, (4 * n, 6)).astype(np.float32), obs=obs)
    grid = np.stack(np.divmod(np.arange(n), 6), axis=1)[:, ::-1] * 200 + 100.0
    adata.obsm["spatial"] = np.tile(grid, (4, 1))
    adata.uns["spatial"] = {name: {"scalefactors": {"microns_per_pixel": MPP}} for name in names}
    images = {name: rng.integers(60, 250, (side, side, 3), dtype=np.uint8) for name in names}
    given = {}
    for name in names:
        xy = rng.uniform(10, side - 10, (300, 2))
        xy = xy[(xy > 220).any(axis=1)]
        kinds = ["a", "b", "c"] if name == "P1a" else ["a", "b"]
        given[name] = polygons(xy, list(rng.choice(kinds, len(xy))))
    stp.pp.nuclei(adata, given, image=images, microns_per_pixel=MPP, progress=False)
    stp.pp.normalize(adata)
    return adata


def read(adata: AnnData, scaling: str = "global", mask: np.ndarray | None = None, **options: Any) -> dict[str, Any]:
    config = stp.models.get_model("igi_dl").configure({"types": ("a", "b", "c")} | options)
    return NucleiGraph().read(Source(adata, adata, rows_of(adata, mask), config, scaling=scaling))


def test_graphs_are_those_of_all_pairs() -> None:
    rng = np.random.default_rng(0)
    xy, centers = rng.uniform(0, 300, (200, 2)), np.vstack([rng.uniform(0, 300, (9, 2)), [[900, 900]]])
    nodes, n_nodes, links, n_links = graphs_around(xy, centers, 100, 20)
    assert (len(nodes), len(links)) == (n_nodes.sum(), n_links.sum())
    assert n_nodes[-1] == 0 < n_nodes[:-1].min()
    for row, center in enumerate(centers):
        inside = np.flatnonzero((np.abs(xy - center) <= 50).all(axis=1))
        start, first = n_nodes[:row].sum(), n_links[:row].sum()
        np.testing.assert_array_equal(nodes[start : start + n_nodes[row]], inside)
        apart = np.hypot(*(xy[inside][:, None] - xy[inside][None]).transpose(2, 0, 1))
        wanted = np.argwhere((apart <= 20) & ~np.eye(len(inside), dtype=bool))
        np.testing.assert_array_equal(links[first : first + n_links[row]], wanted)


@pytest.mark.parametrize("xy", [np.zeros((0, 2)), np.full((1, 2), 900.0)])
def test_squares_without_nuclei_have_empty_graphs(xy: np.ndarray) -> None:
    nodes, n_nodes, links, n_links = graphs_around(xy, np.zeros((3, 2)), 100, 20)
    assert (len(nodes), links.shape, n_nodes.tolist(), n_links.tolist()) == (0, (0, 2), [0, 0, 0], [0, 0, 0])


def test_rows_have_their_own_nuclei_in_any_order(adata: AnnData) -> None:
    whole = read(adata)
    order = np.random.default_rng(1).permutation(adata.n_obs)
    shuffled = read(adata[order].copy())
    mask = np.arange(adata.n_obs) % 3 == 0
    some = read(adata, mask=mask)
    assert whole["n_nuclei"].min() == 0 < whole["n_links"].max()
    for name, rows in whole.items():
        np.testing.assert_array_equal(shuffled[name][np.argsort(order)], rows[np.arange(adata.n_obs)])
        np.testing.assert_array_equal(some[name][np.arange(mask.sum())], rows[np.flatnonzero(mask)])


def test_every_section_has_the_same_columns_whatever_types_it_has(adata: AnnData) -> None:
    width = len(stp.models.get_model("igi_dl").configure().measures) + 3
    for name in ("P1a", "P2a"):
        found = read(adata, mask=(adata.obs["sample"] == name).to_numpy())["nuclei_graph"]
        assert found.shape[1] == width
        kinds = found.values[:, -3:]
        np.testing.assert_array_equal(kinds.sum(axis=1), 1)
        assert (kinds[:, 2].max() == 0) == (name == "P2a")


def test_nuclei_are_standardized_within_sections_and_types_are_not(adata: AnnData) -> None:
    found = read(adata, "section")
    sample = np.repeat(adata.obs["sample"], found["n_nuclei"])
    raw = read(adata)["nuclei_graph"]
    for name in np.unique(sample):
        values = found["nuclei_graph"].values[sample == name]
        np.testing.assert_allclose(values[:, 0].mean(), 0, atol=1e-5)
        np.testing.assert_allclose(values[:, 6:11].std(axis=0), 1, rtol=1e-4)  # the squares are of one shape
    np.testing.assert_array_equal(found["nuclei_graph"].values[:, -3:], raw[slice(None)][:, -3:])


def test_a_fitted_network_keeps_its_columns_and_predicts_and_scores_spots_without_nuclei(
    adata: AnnData, tmp_path
) -> None:
    train = (adata.obs["patient"] == "P2").to_numpy()
    model = stp.tl.fit(adata, "igi_dl", train, hyperparameters=GRAPH, training=QUICK)
    assert model.network.config.types == ("a", "b", "c")
    assert model.network.config.nuclei_method == "given"
    model.save(tmp_path / "model")
    test = adata[~train].copy()
    stp.tl.predict(test, tmp_path / "model")
    graph = read(test)
    assert (graph["n_nuclei"] == 0).any()
    assert np.isfinite(test.obsm["predicted"]).all()
    scores = stp.tl.evaluate(test)
    assert (scores["n_obs"] == 30).all()
    only_two = test[test.obs["sample"] == "P1b"].copy()
    stp.tl.predict(only_two, model)
    assert np.isfinite(only_two.obsm["predicted"]).all()


def test_no_training_section_supplies_validation_spots(adata: AnnData) -> None:
    """With several patients the inner validation is one of them: no section is on both sides."""
    from stpredict.tl.learn.inputs._collect import collect
    from stpredict.training._validation import inner_sides

    config = stp.models.get_model("igi_dl").configure(GRAPH | {"types": ()})
    arrays = collect(Source(adata, adata, rows_of(adata), config), stp.models.get_model("igi_dl").reads(GRAPH))
    for seed in range(5):
        own, held_out, unit = inner_sides(arrays, 0.2, seed)
        assert (unit, len(own) + len(held_out)) == ("patient", len(arrays))
        assert not set(own.section) & set(held_out.section)
        assert not set(own.patient) & set(held_out.patient)


def test_blocks_of_a_section_are_standardized_by_their_training_side(adata: AnnData) -> None:
    one = adata[adata.obs["sample"] == "P1a"].copy()
    spec = {"model": "igi_dl", "hyperparameters": GRAPH, "training": QUICK | {"patience": 0}}
    table = stp.tl.cross_validate(one, {"graph": spec}, splitter="blocks", baselines=False)
    assert np.isfinite(table["pearson"]).any()


def test_nuclei_found_in_another_way_are_refused(adata: AnnData) -> None:
    other = adata.copy()
    other.uns["stpredict"]["nuclei"] = other.uns["stpredict"]["nuclei"] | {"method": "watershed"}
    with pytest.raises(ValueError, match="by 'given'; found 'watershed'"):
        read(other, nuclei_method="given")
    del other.uns["stpredict"]["nuclei"]
    with pytest.raises(KeyError, match="expected a record of 'nuclei'"):
        stp.tl.fit(other, "igi_dl", hyperparameters=GRAPH, training=QUICK)
    del other.uns["nuclei"]
    with pytest.raises(KeyError, match=r"stp\.pp\.nuclei"):
        read(other)


def test_a_measure_that_is_missing_or_not_finite_is_named(adata: AnnData) -> None:
    with pytest.raises(KeyError, match="expected shade of the nuclei of section 'P1a'"):
        read(adata, measures=("area_um2", "shade"))
    other = adata.copy()
    frame = stp.get.nuclei(other, "P1b")
    frame["shade"] = np.nan
    write_nuclei(other, other, "nuclei", {"P1b": frame})
    with pytest.raises(ValueError, match="expected finite measures of the nuclei of section 'P1b'"):
        read(other, mask=(other.obs["sample"] == "P1b").to_numpy(), measures=("shade",))


def test_a_section_of_few_spots_is_warned_about_as_its_nuclei_are_standardized_by_themselves(adata: AnnData) -> None:
    model = stp.tl.fit(adata, "igi_dl", hyperparameters=GRAPH, training=QUICK | {"max_epochs": 1, "patience": 0})
    with pytest.warns(UserWarning, match="section 'P1b' has 3 observations"):
        stp.tl.predict(adata[40:43].copy(), model)


@pytest.mark.parametrize("scaling", ["global", "section"])
def test_nuclei_of_a_cohort_stay_in_files(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scaling: Any
) -> None:
    """Of a section when it is asked for; what networks read of them is as in memory, and read row by row."""
    disk = stp.Cohort.divide(adata, tmp_path / "sections")
    reads, real = [0], FileRows.__getitem__

    def watched(self: FileRows, index: Any) -> np.ndarray:
        found = real(self, index)
        if self.path.endswith("/rows"):
            reads.append(len(found))
        return found

    monkeypatch.setattr(FileRows, "__getitem__", watched)
    monkeypatch.setattr("stpredict.core._moments.row_slices.__defaults__", (12,))
    folder = stp.settings.cache_dir / "cohorts" / "folds"
    options: dict[str, Any] = {"hyperparameters": GRAPH, "training": QUICK | {"batch_size": 3}, "baselines": False}
    options["features"] = {"scaling": scaling}
    train = (adata.obs["patient"] == "P1").to_numpy()
    two = stp.tl.fit(disk, "igi_dl", train, **options)
    graph = read(adata, mask=train)
    most = [graph[name].reshape(2, 30).sum(axis=1).max() for name in ("n_nuclei", "n_links")]
    assert 0 < max(reads) <= max(most)  # of a section
    gc.collect()  # trainers hold what they were given until then
    assert not list(folder.iterdir())
    one = stp.tl.fit(adata, "igi_dl", train, **options)
    for name, tensor in one.network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), two.network.state_dict()[name].numpy())
    assert list(disk.table().uns["nuclei"]) == ["P1a", "P1b", "P2a", "P2b"]
    assert not isinstance(disk.table().uns["nuclei"], dict)


def test_blocks_of_a_cohort_are_those_in_memory(adata: AnnData, tmp_path: Path) -> None:
    one = adata[adata.obs["sample"] == "P1a"].copy()
    disk = stp.Cohort.divide(one, tmp_path / "sections")
    spec = {"model": "igi_dl", "hyperparameters": GRAPH, "training": QUICK | {"patience": 0}}
    options: dict[str, Any] = {"splitter": "blocks", "baselines": False, "metrics": ["pearson", "rmse"]}
    in_memory, in_files = (stp.tl.cross_validate(data, {"graph": spec}, **options) for data in (one, disk))
    pd.testing.assert_frame_equal(in_memory, in_files, check_categorical=False, check_dtype=False)


def test_nuclei_of_a_cohort_of_spatialdata_are_read_from_their_shapes(adata: AnnData, tmp_path: Path) -> None:
    for name in ("P1a", "P2a"):
        part = adata[adata.obs["sample"] == name].copy()
        for key in ("spatial", "nuclei"):
            part.uns[key] = {name: part.uns[key][name]}
        stp.io.to_spatialdata(part, radius_px=50).write(tmp_path / f"{name}.zarr")
    whole = adata[adata.obs["sample"].isin(["P1a", "P2a"])].copy()
    options: dict[str, Any] = {"hyperparameters": GRAPH, "training": QUICK, "baselines": False}
    one, two = (stp.tl.fit(data, "igi_dl", **options) for data in (whole, stp.Cohort(tmp_path)))
    for name, tensor in one.network.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), two.network.state_dict()[name].numpy())
