from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from scipy import sparse
from scipy.stats import rankdata

import stpredict as stp
from stpredict.metrics import emd, emd_uniform, pearson
from stpredict.tl.judge._compare_to_st import median_of_neighbors, nearest_spots
from stpredict.tl.maps._windows import neighborhoods

GENES = ["A", "B", "C", "D"]
SIDE, PITCH = 256.0, 190.0


def section(seed, holes=0.2, shape=(11, 9)):
    """Tiles with gaps and a prediction; spots of a rotated lattice with counts that follow the same gradients."""
    rng = np.random.default_rng(seed)
    row, col = np.nonzero(rng.random(shape) >= holes)
    xy = np.column_stack([col, row]) * SIDE + 1000
    grid = np.stack(np.meshgrid(np.arange(40), np.arange(40)), axis=-1).reshape(-1, 2) - 8
    angle = 0.3
    spots = grid * PITCH @ np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) + 1000
    inside = ((spots > 900) & (spots < 1000 + SIDE * np.array(shape[::-1]))).all(axis=1)
    spots = spots[inside]

    def fields(at):
        x, y = ((at - 1000) / (SIDE * 10)).T
        return np.column_stack([x, y, np.sin(4 * x + 3 * y), x * 0 + 1])

    counts = rng.poisson(np.exp(fields(spots) + 2)).astype(np.float32)
    counts[:, 3] = rng.poisson(40, len(spots))
    predicted = fields(xy) + 0.05 * rng.normal(size=(len(xy), 4))
    return row, col, xy, predicted, spots, counts


@pytest.fixture
def pair():
    """Tile table and spots of two sections."""
    tiles, spots = [], []
    for number, name in enumerate(("s1", "s2")):
        row, col, xy, predicted, at, counts = section(number)
        obs = pd.DataFrame({"sample": name, "array_row": row, "array_col": col})
        tile = ad.AnnData(obs=obs.set_axis([f"{name}t{i}" for i in range(len(row))]), obsm={"spatial": xy})
        tile.obsm["predicted"] = pd.DataFrame(predicted, tile.obs_names, GENES).assign(Z=0.0)
        spot = ad.AnnData(counts, var=pd.DataFrame(index=GENES), obsm={"spatial": at})
        spot.obs_names = [f"{name}p{i}" for i in range(len(at))]
        spot.obs["sample"] = name
        spot.layers["counts"] = spot.X.copy()
        tiles.append(tile)
        spots.append(spot)
    return ad.concat(tiles), ad.concat(spots)


def reference(tiles, spots, name, median=True):
    """The published steps with scanpy and loops."""
    part = spots[spots.obs["sample"] == name].copy()
    part.X = part.layers["counts"].copy()
    sc.pp.normalize_total(part)
    sc.pp.log1p(part)
    sc.pp.scale(part)
    here = tiles[tiles.obs["sample"] == name]
    at, xy = np.asarray(part.obsm["spatial"]), np.asarray(here.obsm["spatial"])
    kept, truth = [], []
    for number, center in enumerate(xy):
        distance = np.hypot(*(at - center).T)
        if distance.min() <= 1.5 * PITCH:
            kept.append(number)
            truth.append(part.X[np.argsort(distance)[:4]].mean(axis=0))
    truth = np.array(truth)
    place = list(zip(here.obs["array_row"].iloc[kept], here.obs["array_col"].iloc[kept], strict=True))
    filtered = truth.copy()
    for number, (row, col) in enumerate(place):
        near = [other for other, (r, c) in enumerate(place) if abs(r - row) <= 1 and abs(c - col) <= 1]
        if median and len(near) > 4.5:
            filtered[number] = np.median(truth[near], axis=0)
    return np.array(kept), filtered, here.obsm["predicted"][GENES].to_numpy()[kept], xy[kept]


def test_equals_the_published_steps(pair):
    tiles, spots = pair
    scores = stp.tl.compare_to_st(tiles, spots)
    columns = ["gene", "sample", "pearson", "emd", "emd_uniform", "n_tiles", "n_left_out", "n_unique", "method"]
    assert list(scores.columns) == columns
    assert scores["gene"].tolist() == GENES * 2
    for name in ("s1", "s2"):
        kept, truth, predicted, xy = reference(tiles, spots, name)
        rows = np.flatnonzero(tiles.obs["sample"] == name)
        stored = tiles.obsm["measured_st"][rows]
        np.testing.assert_allclose(stored[kept], truth, atol=1e-5)
        assert np.isnan(np.delete(stored, kept, axis=0)).all()
        ranks = [100 * rankdata(values, axis=0) / len(values) for values in (truth, predicted)]
        own = scores[scores["sample"] == name]
        np.testing.assert_allclose(own["pearson"], pearson(*ranks), atol=1e-6)
        np.testing.assert_allclose(own["emd"], emd(*ranks, xy, method="exact"), atol=1e-6)
        np.testing.assert_allclose(own["emd_uniform"], emd_uniform(ranks[0], xy, method="exact"), atol=1e-6)
        assert (own["n_tiles"] == len(kept)).all()
        assert (own["n_left_out"] == len(rows) - len(kept)).all()
    by_gene = scores.groupby("gene")["pearson"].mean()
    assert (by_gene[["A", "B", "C"]] > 0.8).all()
    assert abs(by_gene["D"]) < 0.5
    assert (scores["emd"] < scores["emd_uniform"])[scores["gene"] != "D"].all()


def test_tiles_far_from_spots_are_left_out(pair):
    tiles, spots = pair
    spots = spots[spots.obsm["spatial"][:, 0] < 2000].copy()
    scores = stp.tl.compare_to_st(tiles, spots, genes=["A"])
    kept, *_ = reference(tiles, spots, "s1")
    first = scores.iloc[0]
    assert 0 < first["n_tiles"] == len(kept) < (tiles.obs["sample"] == "s1").sum()
    assert first["n_tiles"] + first["n_left_out"] == (tiles.obs["sample"] == "s1").sum()
    tiles.uns["spatial"] = {name: {"scalefactors": {"microns_per_pixel": 0.5}} for name in ("s1", "s2")}
    narrow = stp.tl.compare_to_st(tiles, spots, genes=["A"], max_distance_um=40)
    distance = np.hypot(*(tiles.obsm["spatial"][:, None] - spots.obsm["spatial"][None]).transpose(2, 0, 1))
    near = distance[:, spots.obs["sample"] == "s1"].min(axis=1) <= 80
    assert narrow["n_tiles"].iloc[0] == near[tiles.obs["sample"] == "s1"].sum()


def test_one_section_needs_no_name(pair):
    tiles, spots = (part[part.obs["sample"] == "s1"].copy() for part in pair)
    expected = stp.tl.compare_to_st(tiles, spots, key_added=None)
    spots.obs["sample"] = "another name"
    pd.testing.assert_frame_equal(stp.tl.compare_to_st(tiles, spots), expected)
    del spots.obs["sample"]
    pd.testing.assert_frame_equal(stp.tl.compare_to_st(tiles, spots), expected)


def test_other_frame_of_the_spots(pair):
    tiles, spots = pair
    expected = stp.tl.compare_to_st(tiles, spots, genes=["A", "C"])
    moved = spots.copy()
    moved.obsm["spatial"] = spots.obsm["spatial"] / 4
    pd.testing.assert_frame_equal(stp.tl.compare_to_st(tiles, moved, genes=["A", "C"], spots_to_tiles=4), expected)
    moved.obsm["spatial"] = spots.obsm["spatial"][:, ::-1] * 2 - 7
    matrix = [[0, 0.5, 3.5], [0.5, 0, 3.5]]
    found = stp.tl.compare_to_st(tiles, moved, genes=["A", "C"], spots_to_tiles=matrix)
    pd.testing.assert_frame_equal(found, expected)


def test_layer_and_sparse(pair):
    tiles, spots = pair
    expected = stp.tl.compare_to_st(tiles, spots)
    first = tiles.obsm["measured_st"]
    spots.layers["counts"] = sparse.csr_matrix(spots.layers["counts"])
    pd.testing.assert_frame_equal(stp.tl.compare_to_st(tiles, spots), expected)
    sections = [spots[spots.obs["sample"] == name].copy() for name in ("s1", "s2")]
    for part in sections:
        part.X = part.layers["counts"].copy()
        sc.pp.normalize_total(part)
        sc.pp.log1p(part)
    normalized = ad.concat(sections)
    normalized.layers["mine"] = normalized.X
    for layer in ("X", "mine"):
        found = stp.tl.compare_to_st(tiles, normalized, layer=layer)
        np.testing.assert_allclose(found["pearson"], expected["pearson"], atol=1e-4)
        np.testing.assert_allclose(tiles.obsm["measured_st"], first, atol=1e-4)


def test_scores_ignore_unit_and_scale(pair):
    tiles, spots = pair
    expected = stp.tl.compare_to_st(tiles, spots, genes=["A", "C"])
    tiles.obsm["predicted"] = np.exp(tiles.obsm["predicted"] * 3)
    found = stp.tl.compare_to_st(tiles, spots, genes=["A", "C"])
    pd.testing.assert_frame_equal(found, expected)


def test_gene_with_few_values_is_not_scored(pair):
    tiles, spots = pair
    spots.layers["counts"][:, 1] = 0
    spots.layers["counts"][:3, 1] = 50
    scores = stp.tl.compare_to_st(tiles, spots).set_index(["gene", "sample"])
    second = scores.loc[("B", "s2")]
    assert second["n_unique"] == 1
    assert np.isnan(second[["pearson", "emd", "emd_uniform"]].to_numpy(dtype=float)).all()
    assert scores.loc[("B", "s1"), "n_unique"] < 10
    assert np.isnan(scores.loc[("B", "s1"), "pearson"])
    assert scores["pearson"].notna().sum() == 6
    assert np.isfinite(stp.tl.compare_to_st(tiles, spots, min_unique=2)["pearson"][1])


def test_constant_prediction_has_no_correlation(pair):
    tiles, spots = pair
    tiles.obsm["predicted"]["A"] = 0.1
    scores = stp.tl.compare_to_st(tiles, spots, genes=["A"])
    assert scores["pearson"].isna().all()
    np.testing.assert_allclose(scores["emd"], scores["emd_uniform"])


def test_spots_off_tissue_do_not_count(pair):
    tiles, spots = pair
    expected = stp.tl.compare_to_st(tiles, spots, genes=["A"])
    background = spots[::2].copy()
    background.obsm["spatial"] = background.obsm["spatial"] + 60
    background.layers["counts"] = background.layers["counts"] * 0
    background.obs_names = background.obs_names + "x"
    both = ad.concat([spots, background])
    both.obs["in_tissue"] = np.repeat([True, False], [spots.n_obs, background.n_obs])
    pd.testing.assert_frame_equal(stp.tl.compare_to_st(tiles, both, genes=["A"]), expected)


def test_no_filter(pair):
    tiles, spots = pair
    stp.tl.compare_to_st(tiles, spots, median_filter=None, key_added="raw", method="sliced")
    kept, truth, *_ = reference(tiles, spots, "s2", median=False)
    rows = np.flatnonzero(tiles.obs["sample"] == "s2")[kept]
    np.testing.assert_allclose(tiles.obsm["raw"][rows], truth, atol=1e-5)
    assert tiles.uns["stpredict"]["raw"]["median_filter"] == 1


def test_median_in_blocks_of_genes(monkeypatch):
    rng = np.random.default_rng(0)
    row, col = np.nonzero(rng.random((9, 8)) < 0.6)
    values, around = rng.normal(size=(len(row), 7)), neighborhoods(row, col, 5)
    expected = values.copy()
    for tile, near in enumerate(around):
        if (near >= 0).sum() > 12.5:
            expected[tile] = np.median(values[near[near >= 0]], axis=0)
    assert (expected != values).any(axis=1).sum() not in (0, len(values))
    np.testing.assert_allclose(median_of_neighbors(values, around), expected)
    monkeypatch.setattr("stpredict.tl.judge._compare_to_st._BLOCK", 1)
    np.testing.assert_allclose(median_of_neighbors(values, around), expected)


def test_nearest_spots():
    rng = np.random.default_rng(0)
    spots, tiles = rng.random((50, 2)), rng.random((20, 2))
    weights, near = nearest_spots(tiles, spots, 1, np.inf, "s")
    assert near.tolist() == list(range(20))
    distance = np.hypot(*(tiles[:, None] - spots[None]).transpose(2, 0, 1))
    np.testing.assert_array_equal(weights.toarray().argmax(axis=1), distance.argmin(axis=1))


def test_slide(pair):
    from spatialdata import SpatialData

    tiles, spots = (part[part.obs["sample"] == "s1"].copy() for part in pair)
    expected = stp.tl.compare_to_st(tiles, spots, genes=["A"], key_added=None)
    assert "measured_st" not in tiles.obsm
    data = SpatialData(tables={"toy_tiles": tiles, "other": spots.copy()})
    pd.testing.assert_frame_equal(stp.tl.compare_to_st(data, spots, genes=["A"]), expected)
    assert data.tables["toy_tiles"].obsm["measured_st"].shape == (tiles.n_obs, 1)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        (None, {"genes": ["Z"]}, KeyError, "Z"),
        (None, {"genes": ["Q"]}, KeyError, "Q"),
        (None, {"key": "other"}, KeyError, "tl.predict"),
        (None, {"layer": "none"}, KeyError, "none"),
        (None, {"n_neighbors": 0}, ValueError, "n_neighbors"),
        (None, {"median_filter": 2}, ValueError, "odd"),
        (None, {"min_unique": 1}, ValueError, "min_unique"),
        (None, {"spots_to_tiles": np.eye(3)}, ValueError, r"\(2, 3\)"),
        (None, {"spots_to_tiles": -1.0}, ValueError, "positive"),
        (None, {"spots_to_tiles": 0.01}, ValueError, "spots_to_tiles"),
        (None, {"max_distance_um": 100}, ValueError, "µm per pixel"),
        (None, {"n_neighbors": 10_000}, ValueError, "at least 10000 spots"),
        (None, {"method": "wrong"}, ValueError, "method"),
        (lambda tiles, spots: spots.layers.pop("counts"), {}, KeyError, "counts"),
        (lambda tiles, spots: spots.layers["counts"].__iadd__(0.5), {}, ValueError, "whole-number"),
        (lambda tiles, spots: spots.obs.__setitem__("sample", "other"), {}, KeyError, "in both"),
        (lambda tiles, spots: tiles.obs.pop("array_row"), {}, KeyError, "array_row"),
        (lambda tiles, spots: setattr(spots, "var_names", list("wxyz")), {}, KeyError, "in common"),
        (lambda tiles, spots: tiles.obsm["predicted"].iloc.__setitem__((0, 0), np.nan), {}, ValueError, "finite"),
        (lambda tiles, spots: spots.obsm["spatial"].__setitem__((0, 0), np.nan), {}, ValueError, "finite"),
    ],
)
def test_errors_leave_the_tiles(pair, frozen, change, options, error, message):
    tiles, spots = pair
    tiles.X = np.zeros((tiles.n_obs, 0), dtype=np.float32)
    if change is not None:
        change(tiles, spots)
    before = frozen(tiles)
    with pytest.raises(error, match=message):
        stp.tl.compare_to_st(tiles, spots, **options)
    assert frozen(tiles) == before
