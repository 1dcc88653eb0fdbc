"""Maps inside and between spots: what is recovered where the truth is known, and what is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.core._disks import disk_operator

SHAPE, SIDE_PX, RADIUS = (56, 90), 16.0, 27.5 / 8
MINE = stp.targets.Expression(layer="mine")


def lattice(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Centers (n, 2) of spots of 55 µm, 100 µm apart, up to the border, in pixels of 0.5 µm."""
    row, column = (index.ravel() for index in np.indices((int(shape[0] / 10.8), int(shape[1] / 12.5))))
    return np.column_stack([column * 200 + row % 2 * 100 + 40, row * 173.2 + 20])


def section(values: np.ndarray, name: str = "S1", patient: str = "P1", seed: int = 0) -> ad.AnnData:
    """Spots that measure the means over their disks of values (rows, columns, g)."""
    xy = lattice(values.shape[:2])
    place = np.floor(xy / SIDE_PX).astype(int)[:, ::-1]
    operator = disk_operator(place, RADIUS, values.shape[:2])
    obs = pd.DataFrame({"sample": name, "patient": patient}, index=[f"{name}_{i}" for i in range(len(xy))])
    measured = (operator @ values.reshape(-1, values.shape[2])).astype(np.float32)
    adata = ad.AnnData(measured, obs=obs, obsm={"spatial": xy})
    adata.layers["mine"] = measured.copy()
    factors = {"microns_per_pixel": 0.5, "spot_diameter_fullres": 110.0}
    adata.uns["spatial"] = {name: {"images": {}, "scalefactors": factors, "metadata": {}}}
    return adata


def smooth(shape: tuple[int, ...], seed: int, width: float = 3.0) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    field = gaussian_filter(np.random.default_rng(seed).normal(size=shape), (width, width, 0))
    return field / field.std(axis=(0, 1))


def dense_of(features: np.ndarray, **options: Any) -> stp.pp.DenseMap:
    return stp.pp.DenseMap(
        features.astype(np.float32), 8.0, **{"reach_um": 8.0, "record": {"encoder": "made"}, **options}
    )


@pytest.fixture(scope="module")
def linear() -> tuple[ad.AnnData, np.ndarray, np.ndarray]:
    """Spots, features and truth that is linear in the features."""
    features = smooth((*SHAPE, 6), 0)
    truth = features @ np.random.default_rng(1).normal(size=(6, 4)) + 3
    return section(truth), features, truth


def test_a_linear_field_is_recovered(linear: tuple, record_property: Any) -> None:
    adata, features, truth = linear
    found = stp.tl.super_resolve(adata.copy(), dense_of(features), target=MINE, n_blocks=0)["S1"]
    r = stp.metrics.pearson(truth.reshape(-1, 4), np.asarray(found.values, dtype=float).reshape(-1, 4))
    record_property("printed", f"super-resolution, linear field: r = {r.min():.4f} at least")
    assert r.min() > 0.99
    assert found.std is not None
    assert float(np.min(found.std)) >= 0


def stripes() -> tuple[np.ndarray, np.ndarray]:
    """Stripes of 32 µm, narrower than a spot, and features that show them under noise."""
    rng = np.random.default_rng(2)
    column = np.broadcast_to(np.arange(SHAPE[1]) // 4 % 2, SHAPE).astype(float)
    features = column[..., None] * [2.0, -2.0, 0, 0, 0] + rng.normal(size=(*SHAPE, 5))
    return column[..., None] * [4.0, -3.0] + [1.0, 5.0], features


@pytest.mark.parametrize(("head", "options"), [("ridge", None), ("mlp", "small")])
def test_halves_of_spots_are_told_apart(head: str, options: str | None, record_property: Any) -> None:
    from sklearn.metrics import roc_auc_score

    truth, features = stripes()
    adata = section(truth)
    share = (adata.layers["mine"][:, 0] - 1) / 4
    assert share.min() > 0.2
    assert share.max() < 0.8
    found = stp.tl.super_resolve(
        adata, dense_of(features), head=head, n_members=1, target=MINE, n_blocks=0, hyperparameters=options
    )["S1"]
    place = found.places(adata.obsm["spatial"])
    inside = np.diff(disk_operator(place, RADIUS, SHAPE).tocsc().indptr) > 0
    high = (truth[..., 0].ravel() > 2)[inside]
    auc = roc_auc_score(high, np.asarray(found.values)[..., 0].ravel()[inside])
    record_property("printed", f"super-resolution, {head}: AUC {auc:.3f} of the halves of spots")
    assert auc > 0.9


@pytest.mark.parametrize("head", ["ridge", "mlp"])
def test_mass_is_kept(head: str) -> None:
    """The places of a spot sum to the count that is predicted for it, also where the border cuts a disk."""
    from stpredict.tl.learn._super_fit import Head, configured

    rng = np.random.default_rng(3)
    features = smooth((*SHAPE, 5), 4)
    adata = section(np.exp(features[..., :3] / 2))
    adata.layers["counts"] = rng.poisson(adata.X * 40).astype(np.float32)
    options = {"max_epochs": 3, "hidden": 16} if head == "mlp" else None
    given = {"counts": True, "n_blocks": 0, "hyperparameters": options, "n_members": 2}
    found = stp.tl.super_resolve(adata, dense_of(features), head=head, chunk=500, **given)["S1"]
    operator = disk_operator(found.places(adata.obsm["spatial"]), RADIUS, SHAPE)
    whole = np.diff(operator.tocsr().indptr) == 37
    assert 0 < whole.sum() < len(whole)
    values = np.asarray(found.values, dtype=np.float64).reshape(-1, 3)
    predicted = adata.obsm["super_resolved"]
    sums = (operator.tocsr() > 0).astype(float) @ values
    assert np.allclose(sums[whole], predicted[whole], rtol=1e-5, atol=1e-5)
    assert np.allclose(37 * (operator @ values), predicted, rtol=1e-5, atol=1e-5)
    if head == "ridge":  # a line with an intercept keeps the total of what it was fitted to
        assert np.allclose(predicted.sum(axis=0), adata.layers["counts"].sum(axis=0), rtol=1e-5)
    assert Head(head, configured(head, options), 2, 0, None, 10).reads_places == (head == "mlp")


def test_a_line_of_means_is_the_mean_of_the_line(linear: tuple) -> None:
    """What a ridge says of the mean features of a disk is the mean of what it says of its places."""
    from stpredict.tl.learn._places import spots_on
    from stpredict.training._disk_ridge import RidgeConfig, fit_disk_ridge
    from stpredict.training._disks import standardize

    adata, features, _ = linear
    dense = dense_of(features, microns_per_pixel=0.5)
    spots = spots_on(adata, "S1", dense, np.arange(adata.n_obs), None)
    disks = spots.disks(0, 300, places=False)
    moments = disks.moments()
    ridge = fit_disk_ridge(
        disks.standardized(*moments),
        adata.layers["mine"].astype(float),
        RidgeConfig(),
        reach_um=70,
        n_members=1,
        seed=0,
    )
    every = ridge.predict(standardize(features.reshape(-1, 6).astype(np.float32), *moments))[0]
    assert spots.operator is not None
    assert np.abs(spots.operator @ every - ridge.predict(disks.standardized(*moments).mean)[0]).max() < 1e-5


@pytest.mark.parametrize("head", ["ridge", "mlp"])
def test_a_constant_stays_constant(head: str) -> None:
    features = smooth((*SHAPE, 4), 5)
    values = np.concatenate([np.full((*SHAPE, 1), 7.0), features[..., :1]], axis=2)
    options = {"max_epochs": 2, "hidden": 8} if head == "mlp" else None
    found = stp.tl.super_resolve(
        section(values), dense_of(features), head=head, n_members=2, target=MINE, n_blocks=0, hyperparameters=options
    )["S1"]
    assert np.abs(np.asarray(found.values)[..., 0] - 7).max() < 1e-4


@pytest.mark.parametrize("head", ["ridge", "mlp"])
def test_the_scale_of_features_does_not_matter(head: str, linear: tuple) -> None:
    adata, features, _ = linear
    options = {"max_epochs": 3, "hidden": 16} if head == "mlp" else None
    given: dict[str, Any] = {"head": head, "n_members": 1, "target": MINE, "n_blocks": 0, "hyperparameters": options}
    usual = stp.tl.super_resolve(adata.copy(), dense_of(features), **given)["S1"]
    larger = stp.tl.super_resolve(adata.copy(), dense_of(features * [1, 1, 1, 100, 100, 100]), **given)["S1"]
    assert np.abs(np.asarray(usual.values) - np.asarray(larger.values)).max() < 1e-3


def test_exchanged_axes_are_refused_or_score_less(linear: tuple) -> None:
    adata, features, _ = linear
    with pytest.raises(ValueError, match=r"56 columns \(x\).*exchanged"):
        stp.tl.super_resolve(adata.copy(), dense_of(features.swapaxes(0, 1)), target=MINE)
    padded = np.zeros((90, 90, 6))
    padded[:56] = features
    given: dict[str, Any] = {"target": MINE, "n_members": 1, "n_blocks": 2}
    scores = []
    for values in (padded, padded.swapaxes(0, 1)):
        found = adata.copy()
        stp.tl.super_resolve(found, dense_of(values), **given)
        scores.append(float(np.nanmean(stp.metrics.pearson(found.layers["mine"], found.obsm["super_resolved"]))))
    assert scores[0] > 0.95
    assert scores[1] < 0.5


def test_members() -> None:
    """The median of members of one seed is that member; members of several seeds differ."""
    from stpredict.tl.learn._places import spots_on
    from stpredict.training._disk_nets import NetConfig, fit_disk_nets

    features = smooth((*SHAPE, 4), 6)
    adata = section(features[..., :2])
    spots = spots_on(adata, "S1", dense_of(features, microns_per_pixel=0.5), np.arange(adata.n_obs), None)
    disks = spots.disks(0, 1000, places=True)
    disks, target = disks.standardized(*disks.moments()), adata.layers["mine"].astype(float)
    config = NetConfig(hidden=8, max_epochs=2, patience=None, combine="median")
    shown = features.reshape(-1, 4)[:50]

    def told(seed: Any, n: int = 1) -> tuple[np.ndarray, np.ndarray | None]:
        return fit_disk_nets(disks, target, config, reach_um=70, n_members=n, seed=seed).predict(shown)

    same, spread = told([3, 3, 3])
    assert np.allclose(same, told(3)[0], atol=1e-6)
    assert spread is not None
    assert spread.max() < 1e-6
    _, spread = told(0, 5)
    assert spread is not None
    assert spread.min() > 0


def test_held_out_blocks_and_genes_without_biology(record_property: Any) -> None:
    """Spots are predicted by fits that did not see their block; noise is predicted by next to nothing."""
    adata = stp.datasets.synthetic_cohort(1, 1, 24, n_spots=320, lattice="hex", microns_per_pixel=2.0)
    stp.pp.normalize(adata)
    dense = stp.pp.dense_features(adata, microns=16, color=(1, 2))
    maps = stp.tl.super_resolve(adata, dense)
    assert set(adata.obs["super_resolved_leaky"]) == {"within section"}
    assert adata.obs["super_resolved_fold"].nunique() == 4
    record = adata.uns["stpredict"]["super_resolved"]
    assert list(record["training_samples"]) == ["P1_S1"]
    assert not len(record["transferred"])
    scores = stp.tl.evaluate(adata, key="super_resolved", metrics=["pearson_residual", "deviance_explained"])
    scores = scores[~scores["model"].str.contains("smooth")]
    null = scores["gene"].map(~adata.var["signal"])
    mean = scores.groupby(null)[["pearson_residual", "deviance_explained"]].mean()
    record_property("printed", f"super-resolution, held-out blocks:\n{mean.round(3)}")
    assert mean.loc[False, "pearson_residual"] > 0.4
    assert abs(mean.loc[True, "deviance_explained"]) < 0.02
    assert maps["P1_S1"].names == tuple(adata.var_names)


def test_in_sample_spots_are_marked(linear: tuple) -> None:
    adata, features, _ = linear
    adata = adata.copy()
    stp.tl.super_resolve(adata, dense_of(features), target=MINE, n_blocks=0, n_members=1)
    assert adata.obs["super_resolved_leaky"].all()
    assert np.allclose(adata.obsm["super_resolved"], adata.layers["mine"], atol=0.2)


def test_other_sections_are_predicted_and_flagged() -> None:
    loading = np.random.default_rng(8).normal(size=(5, 3))
    features = {name: smooth((*SHAPE, 5), seed) for seed, name in enumerate("abc", start=10)}
    parts = [section(features[name] @ loading, name, patient) for name, patient in zip("ab", ("P1", "P2"), strict=True)]
    adata = ad.concat(parts, uns_merge="unique")
    adata.uns["spatial"] = {
        part.obs["sample"].iloc[0]: part.uns["spatial"][part.obs["sample"].iloc[0]] for part in parts
    }
    maps = {name: dense_of(values, microns_per_pixel=0.5) for name, values in features.items()}
    with pytest.raises(ValueError, match="found none in c; pass the sections"):
        stp.tl.super_resolve(adata, maps, target=MINE)
    found = stp.tl.super_resolve(adata, maps, target=MINE, train=["a"], n_members=1)
    record = adata.uns["stpredict"]["super_resolved"]
    assert list(record["training_samples"]) == ["a"]
    assert list(record["transferred"]) == ["b", "c"]
    assert [dense.record["transferred"] for dense in found.values()] == [False, True, True]
    truth = features["c"] @ loading
    assert stp.metrics.pearson(truth.reshape(-1, 3), np.asarray(found["c"].values).reshape(-1, 3)).min() > 0.95
    marks = adata.obs.groupby("sample", observed=True)["super_resolved_leaky"].unique()
    assert marks["a"].tolist() == ["within section"]
    assert marks["b"].tolist() == ["False"]
    adata.obs["patient"] = "P1"
    stp.tl.super_resolve(adata, maps, target=MINE, train=["a"], n_members=1)
    assert set(adata.obs.loc[adata.obs["sample"] == "b", "super_resolved_leaky"].astype(str)) == {"True"}


def test_patients_of_the_stain_reference_were_seen() -> None:
    adata = stp.datasets.synthetic_cohort(3, 1, 4, n_spots=60)
    stp.pp.normalize(adata)
    others = adata[adata.obs["patient"] != "P3"]
    stp.pp.normalize_stain(adata, reference=stp.pp.stain_reference(others, n_tiles=4), n_tiles=4)
    stp.tl.super_resolve(adata, None, 64, train=["P1_S1"], n_members=1, n_blocks=2, buffer_um=100)
    marks = adata.obs.groupby("patient", observed=True)["super_resolved_leaky"].agg(
        lambda column: set(map(str, column))
    )
    assert marks.to_dict() == {"P1": {"True"}, "P2": {"True"}, "P3": {"False"}}
    assert set(stp.tl.evaluate(adata, key="super_resolved").groupby("patient", observed=True)["leaky"].first()) == {
        True, False,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"encoder": "made", "patients_seen": ["p02"]}, {"P1": "within section", "P2": "True"}),
        ({"color": [1], "patients_seen": ["unknown", "P1"]}, {"P1": "True", "P2": "unknown"}),
        ({}, {"P1": "unknown", "P2": "unknown"}),
    ],
)
def test_who_had_a_part_in_the_features(record: dict[str, Any], expected: dict[str, str]) -> None:
    features = {name: smooth((*SHAPE, 5), seed) for seed, name in enumerate("ab")}
    parts = [section(features[name][..., :2], name, patient) for name, patient in zip("ab", ("P1", "P2"), strict=True)]
    adata = ad.concat(parts)
    adata.uns["spatial"] = {name: part.uns["spatial"][name] for name, part in zip("ab", parts, strict=True)}
    # One map without the others' record is enough.
    maps = {"a": dense_of(features["a"], record=record), "b": dense_of(features["b"])}
    stp.tl.super_resolve(adata, maps, target=MINE, train=["a"], n_members=1)
    marks = adata.obs.groupby("patient", observed=True)["super_resolved_leaky"].unique()
    assert {name: list(map(str, found)) for name, found in marks.items()} == {
        name: [mark] for name, mark in expected.items()
    }


def test_features_of_another_stain_are_standardized_by_their_own_spots() -> None:
    loading = np.random.default_rng(8).normal(size=(5, 3))
    features = {name: smooth((*SHAPE, 5), seed) for seed, name in enumerate("ab", start=20)}
    parts = [section(features[name] @ loading, name, name) for name in "ab"]
    adata = ad.concat(parts)
    adata.uns["spatial"] = {name: part.uns["spatial"][name] for name, part in zip("ab", parts, strict=True)}
    adata.obs["measured"] = adata.obs["sample"] == "a"
    maps = {"a": dense_of(features["a"]), "b": dense_of(features["b"] * [0.5, 2, 1, 1, 3] + [5, 0, -3, 0, 1])}
    found = stp.tl.super_resolve(adata, maps, target=MINE, train=["a"], n_members=1)["b"]
    truth = (features["b"] @ loading).reshape(-1, 3)
    assert stp.metrics.pearson(truth, np.asarray(found.values).reshape(-1, 3)).min() > 0.95


def test_the_published_recipe() -> None:
    from stpredict.tl.learn._super_fit import configured

    paper = configured("mlp", "paper")
    assert (paper.hidden, paper.depth, paper.max_epochs, paper.learning_rate) == (256, 4, 400, 1e-4)
    assert (paper.patience, paper.scale, paper.combine, paper.shrink) == (None, "range", "median", False)
    with pytest.raises(TypeError, match="expected hyperparameters among hidden"):
        configured("mlp", {"width": 3})


def test_stores_chunks_and_coarser_places(linear: tuple, tmp_path: Path) -> None:
    adata, features, _ = linear
    given: dict[str, Any] = {"target": MINE, "n_blocks": 0, "n_members": 2}
    usual = stp.tl.super_resolve(adata.copy(), dense_of(features), **given)["S1"]
    stored = stp.tl.super_resolve(adata.copy(), dense_of(features), store=tmp_path / "maps", chunk=400, **given)["S1"]
    assert not isinstance(stored.values, np.ndarray)
    assert np.allclose(stored.rows(0, 56), usual.values, atol=1e-5)
    assert np.allclose(stored.rows(3, 9, std=True), usual.std[3:9], atol=1e-5)
    again = stp.io.read_dense(tmp_path / "maps")["S1"]
    assert list(again.names) == list(adata.var_names)
    assert again.microns_per_pixel == 0.5
    coarse = stp.tl.super_resolve(adata.copy(), dense_of(features), 16, **given)["S1"]
    assert coarse.shape == (28, 45, 4)
    assert coarse.side_px == 32
    with pytest.raises(ValueError, match="whole multiple of 8"):
        stp.tl.super_resolve(adata.copy(), dense_of(features), 12, **given)


def test_image_elements_lie_where_the_places_do(linear: tuple) -> None:
    from spatialdata.transformations import get_transformation

    adata, features, _ = linear
    sdata = stp.io.to_spatialdata(adata.copy())
    dense = dense_of(features[2:], origin=(0, 32))  # the first two rows of places are not covered
    keep = adata.obsm["spatial"][:, 1] >= 32
    sdata.tables["table"] = sdata.tables["table"][keep].copy()
    found = stp.tl.super_resolve(sdata, dense, target=MINE, n_blocks=0, n_members=2)["S1"]
    element = sdata.images["S1_super_resolved"]
    assert element.dims == ("c", "y", "x")
    assert element.shape == (4, 54, 90)
    assert np.array_equal(element.transpose("y", "x", "c").values, np.asarray(found.values))
    matrix = get_transformation(element, "S1").to_affine_matrix(("x", "y"), ("x", "y"))
    assert np.allclose(matrix, [[16, 0, 0], [0, 16, 32], [0, 0, 1]])
    assert "S1_super_resolved_std" in sdata.images


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "forest"}, "expected head to be"),
        ({"n_members": 0}, "n_members as a whole number of at least 1"),
        ({"chunk": 1.5}, "chunk as a whole number"),
        ({"train": ["S2"]}, "sections with a map and measured spots"),
        ({"hyperparameters": "paper"}, "expected a preset of head 'ridge'"),
        ({"diameter_um": -1}, "diameter_um"),
        ({"counts": True}, r"layers\['counts'\]"),
    ],
)
def test_errors(linear: tuple, options: dict[str, Any], message: str) -> None:
    adata, features, _ = linear
    adata = adata.copy()
    with pytest.raises((ValueError, KeyError), match=message):
        stp.tl.super_resolve(adata, dense_of(features), **{"target": MINE, **options})
    assert "super_resolved" not in adata.obsm


def test_what_a_map_must_say(linear: tuple) -> None:
    adata, features, _ = linear
    adata = adata.copy()
    with pytest.raises(TypeError, match=r"wrap an array: stp.pp.DenseMap"):
        stp.tl.super_resolve(adata, {"S1": features}, target=MINE)
    with pytest.raises(ValueError, match="expected the reach of the features"):
        stp.tl.super_resolve(adata, dense_of(features, reach_um=None), target=MINE)
    with pytest.raises(ValueError, match="in the pixels of its spots"):
        stp.tl.super_resolve(adata, dense_of(features, microns_per_pixel=0.25), target=MINE)
    bad = features.copy()
    bad[2, 3] = np.nan
    with pytest.raises(ValueError, match="features under the spots of section 'S1'"):
        stp.tl.super_resolve(adata, dense_of(bad), target=MINE)
    del adata.uns["spatial"]["S1"]["scalefactors"]["spot_diameter_fullres"]
    with pytest.raises(ValueError, match="expected the diameter of the spots"):
        stp.tl.super_resolve(adata, dense_of(features), target=MINE)
    assert stp.tl.super_resolve(adata, dense_of(features), target=MINE, diameter_um=55, n_members=1)
