import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from stpredict import get, pp


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.random((6, 4)).astype(np.float32), var=pd.DataFrame(index=list("ABCD")))
    adata.obs["sample"] = "s1"
    adata.obsm["spatial"] = rng.random((6, 2))
    adata.uns["spatial"] = {"s1": {"images": {}, "scalefactors": {"microns_per_pixel": 0.5}, "metadata": {}}}
    adata.obsm["predicted"] = pd.DataFrame(rng.random((6, 3), np.float32), adata.obs_names, ["C", "A", "Z"])
    return adata


def test_prediction_as_an_object(adata):
    found = get.predicted(adata)
    assert found.var_names.tolist() == ["C", "A", "Z"]
    assert found.X.dtype == np.float32
    np.testing.assert_array_equal(found.X, adata.obsm["predicted"])
    np.testing.assert_array_equal(found.layers["measured"][:, :2], adata[:, ["C", "A"]].X)
    assert np.isnan(found.layers["measured"][:, 2]).all()
    assert found.var["measured"].tolist() == [True, True, False]
    pd.testing.assert_frame_equal(found.obs, adata.obs)
    np.testing.assert_array_equal(found.obsm["spatial"], adata.obsm["spatial"])
    assert found.uns["spatial"]["s1"]["scalefactors"]["microns_per_pixel"] == 0.5


def test_result_does_not_share_values(adata):
    before = adata.copy()
    found = get.predicted(adata)
    found.X[:] = 0
    found.obsm["spatial"][:] = 0
    found.obs["sample"] = "other"
    pd.testing.assert_frame_equal(adata.obsm["predicted"], before.obsm["predicted"])
    np.testing.assert_array_equal(adata.obsm["spatial"], before.obsm["spatial"])
    assert (adata.obs["sample"] == "s1").all()


def test_sparse_layer_and_bounds(adata):
    dense = get.predicted(adata)
    adata.layers["target"] = sparse.csr_matrix(adata.X)
    adata.X = None
    assert "measured" not in get.predicted(adata).layers
    found = get.predicted(adata, layer="target")
    np.testing.assert_array_equal(found.layers["measured"], dense.layers["measured"])
    adata.obsm["predicted_upper"] = adata.obsm["predicted"] + 1
    adata.obsm["predicted_std"] = adata.obsm["predicted"][["C", "A"]]
    found = get.predicted(adata)
    np.testing.assert_array_equal(found.layers["upper"], found.X + 1)
    assert "std" not in found.layers


def test_nothing_measured(adata):
    adata.obsm["predicted"].columns = ["X", "Y", "Z"]
    found = get.predicted(adata)
    assert "measured" not in found.layers
    assert not found.var["measured"].any()


def test_no_positions(adata):
    bare = ad.AnnData(adata.X, var=adata.var)
    bare.obsm["other"] = adata.obsm["predicted"]
    assert "spatial" not in get.predicted(bare, "other").obsm


def test_errors(adata):
    with pytest.raises(KeyError, match=r"stp\.tl\.predict"):
        get.predicted(adata, "other")
    with pytest.raises(KeyError, match="layers"):
        get.predicted(adata, layer="target")
    with pytest.raises(ValueError, match="DataFrame"):
        get.predicted(adata, "spatial")
    with pytest.raises(TypeError, match="AnnData or SpatialData"):
        get.predicted(pd.DataFrame())
    adata.obsm["predicted"].columns = ["A", "A", "Z"]
    with pytest.raises(ValueError, match="unique genes"):
        get.predicted(adata)


def steps_of(shape, lattice):
    row, col = np.indices(shape).reshape(2, -1)
    return np.column_stack([row, 2 * col + row % 2 if lattice == "hex" else col])


@st.composite
def gridded(draw):
    """Two sections with holes, in any order of rows, with cells."""
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    parts = []
    for name in ("A", "B"):
        lattice = draw(st.sampled_from(["hex", "square"]))
        steps = steps_of(draw(st.tuples(st.integers(2, 8), st.integers(2, 8))), lattice)
        kept = rng.random(len(steps)) < draw(st.floats(0.2, 1))
        kept[:3] = True
        steps = steps[kept] + draw(st.tuples(st.integers(0, 3), st.integers(0, 3)))
        obs = pd.DataFrame(steps, columns=["array_row", "array_col"], index=[f"{name}{i}" for i in range(len(steps))])
        obs["sample"] = name
        obs["lattice"] = lattice
        parts.append(obs)
    obs = pd.concat(parts)
    obs = obs.iloc[rng.permutation(len(obs))]
    adata = ad.AnnData(rng.random((len(obs), 3), dtype=np.float32), obs=obs, var=pd.DataFrame(index=list("XYZ")))
    adata.obs["unique"] = np.arange(adata.n_obs) + 1
    for name in ("A", "B"):
        part = adata[adata.obs["sample"] == name].copy()
        pp.grid(part, lattice=str(part.obs["lattice"].iloc[0]))
        for key in ("grid_row", "grid_col"):
            adata.obs.loc[part.obs_names, key] = part.obs[key]
        record = part.uns["stpredict"]["grid"]
        kept = adata.uns.setdefault("stpredict", {}).setdefault("grid", {key: {} for key in ("lattice", "shape")})
        for key in kept:
            kept[key][name] = record[key][name]
    return adata


@given(gridded())
@settings(deadline=None, max_examples=60)
def test_maps_and_rows_are_inverse(adata):
    for name in ("A", "B"):
        here = (adata.obs["sample"] == name).to_numpy()
        grid, mask = get.to_grid(adata, adata.X, name)
        assert grid.dtype == np.float32
        assert grid.shape == (*mask.shape, 3)
        assert mask.sum() == here.sum()
        np.testing.assert_array_equal(np.isnan(grid).all(axis=2), ~mask)
        np.testing.assert_array_equal(get.from_grid(grid, adata, name), adata.X[here])
        again, _ = get.to_grid(adata[here], get.from_grid(grid, adata, name))
        np.testing.assert_array_equal(again, grid)


@given(gridded())
@settings(deadline=None, max_examples=40)
def test_features_targets_and_predictions_share_a_cell(adata):
    """A value of its own for every spot, by every way into a map, lies where the array position says."""
    unique = adata.obs["unique"].to_numpy(dtype=np.float32)
    adata.obsm["X_color"] = unique[:, None]
    adata.obsm["predicted"] = pd.DataFrame({"Y": unique}, index=adata.obs_names)
    adata.layers["target"] = sparse.csr_matrix(np.column_stack([0 * unique, unique, 0 * unique]))
    for name in ("A", "B"):
        part = adata.obs[adata.obs["sample"] == name]
        maps = [
            get.to_grid(adata, values, name, fill=0, layer=layer)[0][..., 0]
            for values, layer in [
                ("X_color", None),
                ("predicted", None),
                ("Y", "target"),
                ("unique", None),
                (unique, None),
            ]
        ]
        for other in maps[1:]:
            np.testing.assert_array_equal(other, maps[0])
        # What lies in one row of the array lies in one row of the map, and in the order of its columns.
        row, col = np.nonzero(maps[0])
        found = part.set_index("unique").loc[maps[0][row, col].astype(int)]
        assert np.ptp(found["array_row"].to_numpy() - row) == 0
        step = 2 if part["lattice"].iloc[0] == "hex" else 1
        offset = found["array_col"].to_numpy() - step * col - (row % 2 if step == 2 else 0)
        assert np.ptp(offset) == 0


@pytest.fixture
def mapped(adata):
    adata.obs["array_row"], adata.obs["array_col"] = [0, 0, 1, 1, 2, 2], [0, 1, 0, 2, 1, 2]
    adata.obsm.pop("spatial")
    pp.grid(adata)
    return adata


def test_what_maps_are_made_of(mapped):
    dense, mask = get.to_grid(mapped, ["B", "A"])
    np.testing.assert_array_equal(dense[mask], mapped[:, ["B", "A"]].X)
    mapped.layers["sparse"] = sparse.csc_matrix(mapped.X)
    np.testing.assert_array_equal(get.to_grid(mapped, ["B", "A"], layer="sparse")[0], dense)
    np.testing.assert_array_equal(get.to_grid(mapped, sparse.csr_matrix(mapped.X))[0][mask], mapped.X)
    mapped.obs["tumor"], mapped.obs["score"] = [True, False] * 3, np.arange(6)
    np.testing.assert_array_equal(get.to_grid(mapped, ["tumor", "score"], fill=-1)[0][~mask], -1)
    np.testing.assert_array_equal(get.to_grid(mapped, "tumor")[0][mask][:, 0], [1, 0] * 3)
    mapped.obs["in_tissue"] = [1, 1, 1, 1, 1, 0]
    grid, on_tissue = get.to_grid(mapped, "score")
    assert on_tissue.sum() == 5
    assert np.isnan(grid[2, 2, 0])
    assert np.isnan(get.from_grid(grid, mapped)[-1, 0])
    assert get.from_grid(on_tissue, mapped).tolist() == [True] * 5 + [False]


def test_errors_of_maps(mapped):
    before = mapped.copy()
    with pytest.raises(KeyError, match="or genes; found Z"):
        get.to_grid(mapped, "Z")
    with pytest.raises(KeyError, match="an empty list"):
        get.to_grid(mapped, [])
    with pytest.raises(TypeError, match="numbers or booleans in obs sample"):
        get.to_grid(mapped, "sample")
    with pytest.raises(TypeError, match="found <U1|found str"):
        get.to_grid(mapped, np.array(list("abcdef")))
    with pytest.raises(ValueError, match=r"shape \(6, k\), one row per observation; found \(5, 2\)"):
        get.to_grid(mapped, np.ones((5, 2)))
    with pytest.raises(ValueError, match="found another; align it"):
        get.to_grid(mapped, mapped.obsm["predicted"].iloc[::-1])
    with pytest.raises(KeyError, match="among s1; found 's2'"):
        get.to_grid(mapped, "A", "s2")
    with pytest.raises(ValueError, match=r"3 × 3 cells.*found shape \(4, 3, 1\); cut padding off"):
        get.from_grid(np.ones((4, 3, 1)), mapped)
    mapped.obs["sample"] = ["s1"] * 3 + ["s2"] * 3
    with pytest.raises(ValueError, match="found 2 sections: s1, s2"):
        get.to_grid(mapped, "A")
    with pytest.raises(KeyError, match="shape of section 's2'.*run stp.pp.grid"):
        get.to_grid(mapped, "A", "s2")
    mapped.obs["grid_row"] += 3
    with pytest.raises(ValueError, match="found others; run stp.pp.grid"):
        get.to_grid(mapped, "A", "s1")
    del mapped.obs["grid_row"]
    with pytest.raises(KeyError, match="run stp.pp.grid"):
        get.from_grid(np.ones((3, 3)), mapped, "s1")
    np.testing.assert_array_equal(mapped.X, before.X)


def test_only_sections_that_are_there(adata):
    adata.obs["sample"] = ["s1", "s1", "a/b", "a/b", "s3", "s3"]
    adata.uns["spatial"] = {name: {"scalefactors": {}} for name in ("s1", "a%2Fb", "s3", "library")}
    assert list(get.predicted(adata).uns["spatial"]) == ["s1", "a%2Fb", "s3"]
    assert list(get.predicted(adata[:4]).uns["spatial"]) == ["s1", "a%2Fb"]
    assert len(adata.uns["spatial"]) == 4
    adata.uns["spatial"] = {"library": {}}  # other names than those of the sections
    assert list(get.predicted(adata).uns["spatial"]) == ["library"]


@pytest.fixture
def scores():
    """Two models, three patients of whom one has two sections; gene A is best on p1, B on p2 and p3, C is undefined there."""
    rows = [(m, s, s[:2], g) for m in ("ridge", "net") for s in ("p1a", "p1b", "p2a", "p3a") for g in "ABCD"]
    table = pd.DataFrame(rows, columns=["model", "sample", "patient", "gene"])
    value = {"p1": {"A": 0.9, "B": 0.1, "C": 0.8, "D": 0.2}, "p2": {"A": 0.3, "B": 0.6, "C": np.nan, "D": 0.5}}
    value["p3"] = {"A": 0.2, "B": 0.7, "C": np.nan, "D": 0.4}
    table["pearson"] = [value[p][g] - 0.1 * (m == "net") for m, p, g in table[["model", "patient", "gene"]].to_numpy()]
    table["pearson_given_depth"] = -table["pearson"]
    table["rmse"] = 1 - table["pearson"]
    return table


def test_top_genes_are_ranked_on_other_patients_than_those_shown(scores):
    assert get.top_genes(scores, 2, shown="p1", metric="pearson") == ["B", "D"]
    assert get.top_genes(scores, 2, shown=["p2", "P3 "], metric="pearson") == ["A", "C"]
    # Whatever the scores of those shown are.
    changed = scores.copy()
    changed.loc[changed["patient"] == "p1", "pearson"] = np.random.default_rng(0).random(16)
    assert get.top_genes(changed, 4, shown="p1", metric="pearson") == ["B", "D", "A"]
    everyone = get.top_genes(scores, 1, metric="pearson")
    assert everyone.ranked_on == ("p1", "p2", "p3")
    assert everyone.model == "ridge"


def test_top_genes_take_what_carries_no_depth_and_know_which_way_is_better(scores):
    assert get.top_genes(scores, 2, shown="p1") == ["A", "D"]
    assert get.top_genes(scores, 1, shown="p1").metric == "pearson_given_depth"
    assert get.top_genes(scores, 2, shown="p1", metric="rmse") == ["B", "D"]
    assert get.top_genes(scores.drop(columns="pearson_given_depth"), 2, shown="p1") == ["B", "D"]
    assert get.top_genes(scores, 1, shown="p1", model="net").model == "net"


def test_genes_that_the_fold_of_those_shown_did_not_select_are_left_out(scores):
    absent = scores[~((scores["patient"] == "p1") & (scores["gene"] == "B"))]
    assert get.top_genes(absent, 2, shown="p1", metric="pearson") == ["D", "A"]
    # A score that is undefined there is no reason to hide the gene.
    scores.loc[(scores["patient"] == "p1") & (scores["gene"] == "B"), "pearson"] = np.nan
    assert get.top_genes(scores, 2, shown="p1", metric="pearson") == ["B", "D"]


def test_sections_count_within_their_patient(scores):
    """A patient with many sections has one voice."""
    more = pd.concat([scores, *[scores[scores["sample"] == "p1a"].assign(sample=f"p1{c}") for c in "cdefgh"]])
    assert get.top_genes(more, 1, metric="pearson", shown="p3") == get.top_genes(
        scores, 1, metric="pearson", shown="p3"
    )


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"shown": ["p1", "p2", "p3"]}, ValueError, "picked on the patients that they are shown on"),
        ({"shown": "p4"}, KeyError, "among the patients p1, p2, p3; found p4"),
        ({"shown": []}, KeyError, "found none"),
        ({"n": 0}, ValueError, "at least 1; found 0"),
        ({"metric": "r"}, KeyError, "'r'"),
        ({"model": "other"}, KeyError, "found 'other'"),
    ],
)
def test_top_genes_refuse(scores, options, error, words):
    with pytest.raises(error, match=words):
        get.top_genes(scores, **options)


def test_models_of_a_cross_validation_saw_those_shown(scores):
    """What is tested on one of two patients was trained on the other: both scores are one comparison."""
    scores.attrs["keys"] = {"ridge": "cv_ridge"}
    assert get.top_genes(scores, 2, shown="p1").saw_shown
    assert not get.top_genes(scores, 2).saw_shown
    two = scores[scores["patient"] != "p3"]
    with pytest.raises(ValueError, match="three patients or more from a cross-validation; found p1, p2"):
        get.top_genes(two, 2, shown="p1")
    two.attrs.clear()  # predicted by a model that was trained elsewhere
    assert not get.top_genes(two, 2, shown="p1").saw_shown


@pytest.mark.parametrize(("method", "base"), [("log2p1", 2.0), ("log1p", np.e)])
def test_the_linear_scale_undoes_the_logarithm_and_holds_nothing_below_zero(slides, method: str, base: float) -> None:
    slides.X = np.abs(slides.X)
    slides.uns["stpredict"]["normalize"] = {"method": method}
    wanted = base ** slides.X.astype(float) - 1
    values = slides.X[:, :4].copy()
    values[0, 0], values[1, 1] = -0.7, np.nan
    slides.obsm["predicted"] = pd.DataFrame(values, slides.obs_names, slides.var_names[:4])
    found = get.predicted(slides, scale="linear")
    expected = wanted[:, :4].copy()
    expected[0, 0], expected[1, 1] = 0, np.nan
    np.testing.assert_allclose(found.X, expected, rtol=1e-5)
    np.testing.assert_allclose(found.layers["measured"], wanted[:, :4], rtol=1e-5)
    assert get.predicted(slides).X[0, 0] == np.float32(-0.7)
    slides.layers["own"] = slides.X * 2
    np.testing.assert_allclose(get.predicted(slides, scale="linear", layer="own").layers["measured"],
                               slides.layers["own"][:, :4])  # fmt: skip
    slides.uns["stpredict"]["normalize"] = {"method": "pearson_residuals", "theta": 100.0}
    with pytest.raises(
        ValueError, match="logarithm of 1 . value for scale='linear'; found .'method': 'pearson_residuals'"
    ):
        get.predicted(slides, scale="linear")
