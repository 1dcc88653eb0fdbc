from __future__ import annotations

import warnings
import weakref
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.pp import _bag, _slide_tiles
from stpredict.pp._bag import bag
from stpredict.pp._tokens import kmeans_tokens, tile_order
from stpredict.slots._provenance import read_record, write_record

DIM = 6
RECORD = {"encoder": "toy", "fingerprint": "abc", "dim": DIM, "tile_um": 128.0, "tile_px": 256, "context": (1.0,)}


def tile_table(name: str, n: int = 40, seed: int = 0, patient: str | None = "P", **record: Any) -> ad.AnnData:
    """The tile table of a slide: features in X."""
    rng = np.random.default_rng([seed, *name.encode()])
    kinds = 4.0 * rng.normal(size=(5, DIM))
    features = (kinds[rng.integers(5, size=n)] + rng.normal(size=(n, DIM))).astype(np.float32)
    row, col = np.divmod(np.arange(n), 8)
    obs = pd.DataFrame({"tile_id": np.arange(n), "library_id": "tiles", "array_row": row, "array_col": col})
    obs["sample"] = name
    if patient is not None:
        obs["patient"] = patient + name
    table = ad.AnnData(features, obs=obs.set_axis(obs["tile_id"].astype(str).tolist()))
    table.obsm["spatial"] = np.column_stack([col, row]) * 512.0 + 256
    write_record(table, "X_toy", RECORD | {"microns_per_pixel": {name: 0.25}} | record)
    return table


def slides_of(*names: str, **options: Any) -> dict[str, ad.AnnData]:
    return {name: tile_table(name, **options) for name in names}


def as_spatialdata(table: ad.AnnData) -> Any:
    import geopandas as gpd
    from shapely import box
    from spatialdata import SpatialData
    from spatialdata.models import ShapesModel, TableModel

    x, y = table.obsm["spatial"].T
    frame = gpd.GeoDataFrame(
        {"tile_id": table.obs["tile_id"].to_numpy()}, geometry=box(x - 256, y - 256, x + 256, y + 256)
    )
    table = table.copy()
    table.obs["library_id"] = pd.Categorical(table.obs["library_id"])
    table = TableModel.parse(table, region="tiles", region_key="library_id", instance_key="tile_id")
    return SpatialData(
        shapes={"tiles": ShapesModel.parse(frame)},
        tables={"toy_tiles": table},
        attrs={"stpredict": {"sample": table.obs["sample"].iloc[0], "patient": "from attrs"}},
    )


def one_table(slides: dict[str, ad.AnnData]) -> ad.AnnData:
    """Tiles of several slides in one AnnData, features in obsm."""
    obs = pd.concat([table.obs.drop(columns=["tile_id", "library_id"]) for table in slides.values()])
    adata = ad.AnnData(obs=obs.set_axis([f"t{i}" for i in range(len(obs))]))
    adata.obsm["X_toy"] = np.concatenate([table.X for table in slides.values()])
    adata.obsm["spatial"] = np.concatenate([table.obsm["spatial"] for table in slides.values()])
    write_record(adata, "X_toy", RECORD | {"microns_per_pixel": dict.fromkeys(slides, 0.25)})
    return adata


def expression_of(*names: str, seed: int = 0) -> pd.DataFrame:
    values = np.random.default_rng(seed).gamma(1.0, 50.0, (len(names), 4))
    return pd.DataFrame(values, index=list(names), columns=["G1", "G2", "G3", "G4"])


def assert_same(one: ad.AnnData, other: ad.AnnData) -> None:
    assert one.obs_names.equals(other.obs_names)
    for key in ("X_toy", "X_toy_bag", "X_toy_bag_size"):
        np.testing.assert_array_equal(one.obsm[key], other.obsm[key])


def test_tokens_are_the_means_of_kmeans_clusters() -> None:
    from sklearn.cluster import KMeans

    table = tile_table("a")
    adata = bag({"a": table}, n_tokens=7, seed=3)
    reference = KMeans(7, n_init=1, random_state=3).fit(table.X)
    means = pd.DataFrame(table.X).groupby(reference.labels_).mean().to_numpy()
    tokens, size = adata.obsm["X_toy_bag"][0], adata.obsm["X_toy_bag_size"][0]
    np.testing.assert_allclose(tokens[np.lexsort(tokens.T)], means[np.lexsort(means.T)], rtol=1e-5)
    assert sorted(size) == sorted(np.bincount(reference.labels_))
    assert (np.diff(size) <= 0).all()
    assert tokens.dtype == size.dtype == np.float32
    np.testing.assert_allclose((tokens * size[:, None]).sum(axis=0) / size.sum(), adata.obsm["X_toy"][0], atol=1e-5)
    np.testing.assert_allclose(adata.obsm["X_toy"][0], table.X.mean(axis=0), atol=1e-5)
    assert adata.obs.loc["a", "n_tiles"] == 40


def test_few_tiles_are_tokens_and_the_rest_is_padding() -> None:
    small = tile_table("a", n=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adata = bag({"a": small, "b": tile_table("b", n=30)}, n_tokens=5)
    tokens, size = adata.obsm["X_toy_bag"][0], adata.obsm["X_toy_bag_size"][0]
    assert size.tolist() == [1, 1, 1, 0, 0]
    np.testing.assert_array_equal(tokens[:3][np.argsort(tokens[:3, 0])], small.X[np.argsort(small.X[:, 0])])
    assert not tokens[3:].any()
    assert adata.obsm["X_toy_bag_size"].sum(axis=1).tolist() == [3, 30]
    assert read_record(adata, "X_toy_bag")["n_padded"] == 1


def test_repeated_features_share_a_token_without_warnings() -> None:
    table = tile_table("a", n=60)
    table.X[:] = table.X[np.arange(60) % 4]
    close = tile_table("b", n=60)
    close.X[:] = 1 + np.float32(1e-7) * np.random.default_rng(0).integers(0, 3, close.shape)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adata = bag({"a": table, "b": close}, n_tokens=10)
    assert adata.obsm["X_toy_bag_size"][0].tolist() == [15] * 4 + [0] * 6
    assert adata.obsm["X_toy_bag_size"][1].sum() == 60
    tokens, size = kmeans_tokens(np.repeat(table.X[:4], [5, 1, 1, 1], axis=0), 2)
    assert size.sum() == 8
    weighted = np.repeat(table.X[:4], [5, 1, 1, 1], axis=0).mean(axis=0)
    np.testing.assert_allclose((tokens * size[:, None]).sum(axis=0) / 8, weighted, rtol=1e-5)


def test_the_same_in_every_run_for_every_number_of_jobs_and_order_of_tiles() -> None:
    from threadpoolctl import threadpool_limits

    slides = slides_of("a", "b", "c", n=400)
    once = bag(slides, n_tokens=20)
    assert_same(bag(slides, n_tokens=20), once)
    assert_same(bag(slides, n_tokens=20, n_jobs=2), once)
    with threadpool_limits(limits=1):
        assert_same(bag(slides, n_tokens=20), once)
    rng = np.random.default_rng(0)
    shuffled = {name: table[rng.permutation(table.n_obs)].copy() for name, table in slides.items()}
    assert_same(bag(shuffled, n_tokens=20), once)
    table = one_table(slides)
    table = table[rng.permutation(table.n_obs)].copy()
    assert_same(bag(table, n_tokens=20), once)
    assert not np.array_equal(bag(slides, n_tokens=20, seed=1).obsm["X_toy_bag"], once.obsm["X_toy_bag"])


def test_order_without_positions_depends_on_content_only() -> None:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(50, 3)).astype(np.float32)
    features[10:20] = features[0]
    mixed = rng.permutation(50)
    np.testing.assert_array_equal(features[tile_order(features)], features[mixed][tile_order(features[mixed])])
    positions = np.column_stack([np.arange(50) // 10, np.zeros(50)])  # ten tiles share each place
    ordered = tile_order(features[mixed], positions[mixed])
    np.testing.assert_array_equal(features[mixed][ordered], features[tile_order(features, positions)])
    assert (np.diff(positions[mixed][ordered][:, 0]) >= 0).all()


@pytest.mark.parametrize("form", ["h5ad", "zarr", "spatialdata", "spatialdata-zarr", "sequence", "paths", "one"])
def test_every_form_of_slides_gives_the_same(form: str, tmp_path: Path) -> None:
    slides = slides_of("a", "b")
    expected = bag(slides, n_tokens=6)
    given: Any = slides
    if form == "h5ad":
        for name, table in slides.items():
            table.write_h5ad(tmp_path / f"{name}.h5ad")
        given = {name: tmp_path / f"{name}.h5ad" for name in slides}
    elif form == "paths":
        for name, table in slides.items():
            table.write_h5ad(tmp_path / f"file_{name}.h5ad")
        given = [str(tmp_path / f"file_{name}.h5ad") for name in slides]
    elif form == "zarr":
        for name, table in slides.items():
            table.write_zarr(tmp_path / f"{name}.zarr")
        given = {name: tmp_path / f"{name}.zarr" for name in slides}
    elif form == "spatialdata":
        given = [as_spatialdata(table) for table in slides.values()]
    elif form == "spatialdata-zarr":
        for name, table in slides.items():
            as_spatialdata(table).write(tmp_path / f"{name}.zarr")
        given = {name: tmp_path / f"{name}.zarr" for name in slides}
    elif form == "sequence":
        given = list(slides.values())
    elif form == "one":
        given = one_table(slides)
    adata = bag(given, "toy", n_tokens=6)
    assert_same(adata, expected)
    assert adata.obs["patient"].tolist() == ["Pa", "Pb"]
    record = read_record(adata, "X_toy")
    assert record["fingerprint"] == "abc"
    assert record["tile_um"] == 128.0
    assert record["microns_per_pixel"] == {"a": 0.25, "b": 0.25}
    made = read_record(adata, "X_toy_bag")
    assert (made["method"], made["n_tokens"], made["seed"]) == ("kmeans", 6, 0)


def test_patient_of_a_slide_from_its_attributes_and_names_from_files(tmp_path: Path) -> None:
    table = tile_table("a", patient=None)
    assert bag([as_spatialdata(table)], n_tokens=3).obs["patient"].tolist() == ["from attrs"]
    del table.obs["sample"]
    table.write_h5ad(tmp_path / "TCGA-1.h5ad")
    adata = bag([tmp_path / "TCGA-1.h5ad"], n_tokens=3, patient={"TCGA-1": "me"})
    assert adata.obs_names.tolist() == ["TCGA-1"]
    assert adata.obs["patient"].tolist() == ["me"]
    assert read_record(adata, "X_toy")["microns_per_pixel"] == {"TCGA-1": 0.25}
    with pytest.raises(ValueError, match="expected the name of a slide"):
        bag([table], n_tokens=3)


def test_slides_on_disk_are_held_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {}
    for name in "abcde":
        tile_table(name).write_h5ad(tmp_path / f"{name}.h5ad")
        paths[name] = tmp_path / f"{name}.h5ad"
    opened: list[weakref.ref[ad.AnnData]] = []
    most = 0
    load = _slide_tiles.load

    def counted(path: Path) -> ad.AnnData:
        nonlocal most
        table = load(path)
        opened.append(weakref.ref(table))
        most = max(most, sum(one() is not None for one in opened))
        return table

    monkeypatch.setattr(_slide_tiles, "load", counted)
    bag(paths, n_tokens=4)
    assert len(opened) == 5
    assert most == 1


def test_expression_is_joined_by_name() -> None:
    expression = expression_of("b", "c", "a")
    adata = bag(slides_of("a", "b", "c"), n_tokens=4, expression=expression)
    np.testing.assert_allclose(adata.to_df(), expression.loc[["a", "b", "c"]], rtol=1e-6)
    assert adata.X.dtype == np.float32
    assert adata.obs["measured"].all()
    by_patient = bag(slides_of("a", "b", "c"), n_tokens=4, expression=expression.add_prefix("P", axis=0), by="patient")
    np.testing.assert_array_equal(by_patient.X, adata.X)


def test_left_join_ignores_further_rows_and_leaves_gaps() -> None:
    expression = expression_of("z", "b", "a")
    with pytest.raises(ValueError, match=r"unknown slides z and no row for c.*join='left'"):
        bag(slides_of("a", "b", "c"), n_tokens=4, expression=expression)
    adata = bag(slides_of("a", "b", "c"), n_tokens=4, expression=expression, join="left")
    assert adata.obs["measured"].tolist() == [True, True, False]
    assert np.isnan(adata.X[2]).all()
    np.testing.assert_allclose(adata.to_df().iloc[:2], expression.loc[["a", "b"]], rtol=1e-6)
    with pytest.raises(ValueError, match=r"none in common.*by='patient'"):
        bag(slides_of("a"), n_tokens=4, expression=expression.add_prefix("P", axis=0), join="left")
    with pytest.raises(ValueError, match="named after the patients"):
        bag(slides_of("a"), n_tokens=4, expression=expression, by="patient")


def test_columns_and_layers_of_an_anndata_come_along(tmp_path: Path) -> None:
    table = ad.AnnData(expression_of("b", "a", "z"))
    table.var["gene_type"] = ["miRNA", "protein_coding", "lncRNA", "protein_coding"]
    table.obs["time"] = [3, 7, 1]
    table.obs["event"] = [True, False, True]
    table.obs["stage"] = ["I", "II", "III"]
    stp.pp.normalize(table, unit="fpkm-uq")
    adata = bag(slides_of("c", "a", "b"), n_tokens=4, expression=table, join="left")
    assert adata.var["gene_type"].tolist() == table.var["gene_type"].tolist()
    assert adata.obs["time"].tolist()[1:] == [7, 3]
    assert adata.obs["event"].tolist()[1:] == [False, True]
    assert adata.obs[["time", "event", "stage"]].iloc[0].isna().all()
    np.testing.assert_allclose(adata["a"].layers["fpkm_uq"], table["a"].layers["fpkm_uq"], rtol=1e-6)
    assert read_record(adata, "normalize")["method"] == "log2p1"
    adata.write_h5ad(tmp_path / "bags.h5ad")
    back = ad.read_h5ad(tmp_path / "bags.h5ad")
    assert_same(back, adata)
    exact = bag(slides_of("a", "b", "z"), n_tokens=4, expression=table)
    assert exact.obs["event"].dtype == bool
    assert exact.obs["time"].dtype.kind == "i"


def test_slides_of_one_patient_with_different_expression() -> None:
    slides = slides_of("a1", "a2", "b1")
    who = {"a1": "A", "a2": "A", "b1": "B"}
    expression = expression_of("a1", "a2", "b1")
    with pytest.raises(ValueError, match=r"patient 'A' \(slides a1, a2\)"):
        bag(slides, n_tokens=4, expression=expression, patient=who)
    adata = bag(slides, n_tokens=4, expression=expression, patient=pd.Series(who), shared=False)
    np.testing.assert_allclose(adata.to_df(), expression, rtol=1e-6)
    expression.loc["a2"] = expression.loc["a1"]
    assert bag(slides, n_tokens=4, expression=expression, patient=who).obs["patient"].tolist() == ["A", "A", "B"]
    both = bag(slides, n_tokens=4, expression=expression_of("A", "B"), by="patient", patient=who)
    np.testing.assert_array_equal(both.X[0], both.X[1])


def test_the_patient_must_be_known() -> None:
    slides = slides_of("a", "b", patient=None)
    with pytest.raises(ValueError, match=r"found none for a, b.*`patient=`"):
        bag(slides, n_tokens=4)
    with pytest.raises(ValueError, match="found none for b"):
        bag(slides, n_tokens=4, patient={"a": "A"})
    table = ad.AnnData(expression_of("a", "b"), obs=pd.DataFrame({"patient": ["A", "B"]}, index=["a", "b"]))
    assert bag(slides, n_tokens=4, expression=table).obs["patient"].tolist() == ["A", "B"]
    with pytest.raises(ValueError, match="'Pa' in the tile table and 'A' in expression"):
        bag(slides_of("a", "b"), n_tokens=4, expression=table)


@pytest.mark.parametrize(
    ("field", "value"), [("fingerprint", "xyz"), ("tile_um", 56.0), ("encoder", "other"), ("tile_px", 128)]
)
def test_features_made_in_different_ways(field: str, value: Any) -> None:
    slides = {"a": tile_table("a"), "b": tile_table("b", **{field: value})}
    with pytest.raises(ValueError, match=rf"slides 'a' and 'b' {field}: .*{RECORD[field]}.* and .*{value}"):
        bag(slides, n_tokens=4)


@pytest.mark.parametrize("factor", [1.019, 1.021])
def test_tiles_that_differ_by_rounding(factor: float) -> None:
    slides = {"a": tile_table("a"), "b": tile_table("b", tile_um=128.0 / factor)}
    if factor > 1.02:
        with pytest.raises(ValueError, match=r"tile_um: 128.0 and 125.*stp.pp.tiles\(slide, tile_um=…\)"):
            bag(slides, n_tokens=4)
        return
    records = bag(slides, n_tokens=4).uns["stpredict"]
    assert records["X_toy"]["tile_um"] == 128.0
    assert records["X_toy_bag"]["tile_um"] == {"a": 128.0, "b": 128.0 / factor}


def test_features_of_different_encoders_or_width() -> None:
    slides = slides_of("a", "b")
    slides["b"].uns["stpredict"] = {"X_uni": slides["b"].uns["stpredict"]["X_toy"]}
    with pytest.raises(ValueError, match="slot: 'X_toy' and 'X_uni'"):
        bag(slides, n_tokens=4)
    with pytest.raises(KeyError, match=r"expected features 'X_toy' in slide 'b'; found \['X_uni'\]"):
        bag(slides, "toy", n_tokens=4)
    slides = slides_of("a", "b")
    slides["b"] = slides["b"][:, :4].copy()
    with pytest.raises(ValueError, match="dim: 6 and 4"):
        bag(slides, n_tokens=4)


def test_refused_tables() -> None:
    slides = slides_of("a", "b")
    with pytest.raises(ValueError, match="expected unique rows of expression"):
        bag(slides, expression=expression_of("a", "b", "a"))
    with pytest.raises(ValueError, match="expected unique genes"):
        bag(slides, expression=expression_of("a", "b").set_axis(["x", "x", "y", "z"], axis=1))
    with pytest.raises(ValueError, match="other values in name; set the names of slides or patients as the index"):
        bag(slides, expression=expression_of("a", "b").assign(name="?"))
    with pytest.raises(TypeError, match="found ndarray"):
        bag(slides, expression=np.ones((2, 2)))
    with pytest.raises(ValueError, match="expected unique slides; found a"):
        bag([slides["a"], slides["a"]])
    slides["b"].X[4, 1] = np.nan
    with pytest.raises(ValueError, match=r"features 'X_toy' of slide 'b'.*in 1 rows \(first: 4\)"):
        bag(slides)


def test_refused_slides(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one slide"):
        bag({})
    with pytest.raises(TypeError, match="found int"):
        bag(3)
    with pytest.raises(TypeError, match="slide 'a'.*found list"):
        bag({"a": [1]})
    with pytest.raises(ValueError, match="expected tiles in slide 'a'; found none"):
        bag({"a": tile_table("a")[:0].copy()})
    with pytest.raises(FileNotFoundError, match="found nothing"):
        bag({"a": tmp_path / "none.h5ad"})
    (tmp_path / "bad.h5ad").write_text("no")
    with pytest.raises(ValueError, match=r"expected an HDF5 file at .*bad\.h5ad; found a file that begins with"):
        bag({"a": tmp_path / "bad.h5ad"})
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"expected a Zarr store .*empty; found"):
        bag({"a": tmp_path / "empty"})
    with pytest.raises(ValueError, match="pass a table of several slides by itself"):
        bag({"a": one_table(slides_of("a", "b"))})
    with pytest.raises(KeyError, match="expected one slot of image features in slide 'a'; found none"):
        bag({"a": ad.AnnData(np.ones((3, 2)), obs=pd.DataFrame({"sample": "a"}, index=list("xyz")))})
    table = one_table(slides_of("a"))
    table.obsm["X_two"] = table.obsm["X_toy"]
    table.uns["stpredict"]["X_two"] = RECORD
    with pytest.raises(KeyError, match=r"several \(X_toy, X_two\); name one"):
        bag(table)
    assert "X_two_bag" in bag(table, "two", n_tokens=3).obsm
    with pytest.raises(ValueError, match="n_tokens"):
        bag(table, "toy", n_tokens=0)
    with pytest.raises(ValueError, match="expected method to be one of 'kmeans'"):
        bag(table, "toy", method="random")


@pytest.mark.parametrize("end", ["h5ad", "zarr"])
def test_damaged_slides_on_disk(tmp_path: Path, end: str) -> None:
    path, table = tmp_path / f"a.{end}", tile_table("a")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of the format of Zarr that anndata writes
        getattr(table, f"write_{end}")(path)
    bag({"a": path}, n_tokens=3)
    files = (
        [path]
        if end == "h5ad"
        else [file for file in path.rglob("*") if file.is_file() and "obsm/X_toy" in file.as_posix()]
    )
    for file in files:
        whole = file.read_bytes()
        for content in (whole[: len(whole) // 2], b"\xff" * len(whole)):
            file.write_bytes(content)
            with pytest.raises(ValueError, match=rf"expected .*a\.{end}; found .*again"):
                bag({"a": path}, n_tokens=3)
        file.write_bytes(whole)


def test_names_that_do_not_match_are_refused_before_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_bag, "read_slide", lambda *_: pytest.fail("opened a slide"))
    with pytest.raises(ValueError, match="none in common"):
        bag({"a": "a.h5ad"}, expression=expression_of("x"))
    with pytest.raises(ValueError, match="unknown patients"):
        bag({"a": "a.h5ad"}, expression=expression_of("A", "B"), by="patient", patient={"a": "A"})


def test_the_tiles_are_left_alone(frozen: Any) -> None:
    slides = slides_of("a", "b")
    before = {name: frozen(table) for name, table in slides.items()}
    bag(slides, n_tokens=4, expression=expression_of("a", "b"))
    assert {name: frozen(table) for name, table in slides.items()} == before


def test_equal_tiles_weigh_as_many_as_they_are() -> None:
    from sklearn.cluster import KMeans

    values, count = np.array([0.0, 4.0, 10.0], dtype=np.float32), np.array([50, 50, 1])
    features = np.repeat(values, count)[:, None]
    expected = KMeans(2, n_init=1, random_state=0, algorithm="lloyd").fit(values[:, None], sample_weight=count)
    tokens, size = kmeans_tokens(features, 2)
    groups = [expected.labels_ == label for label in range(2)]
    means = sorted(np.average(values[group], weights=count[group]) for group in groups)
    np.testing.assert_allclose(np.sort(tokens[:, 0]), means, rtol=1e-6)
    assert sorted(size) == [50, 51]  # the 10 joins the 4, though 0 and 4 lie closer


def test_tokens_of_equal_size_come_by_their_first_feature() -> None:
    features = np.array([[3, 0], [-1, 1], [2, 5], [0, 7]], dtype=np.float32)
    tokens, size = kmeans_tokens(features, 8)
    np.testing.assert_array_equal(tokens, features[[1, 3, 2, 0]])
    assert size.tolist() == [1, 1, 1, 1]


def test_zeros_of_either_sign_are_the_same_tile() -> None:
    tokens, size = kmeans_tokens(np.array([[0.0, 1.0], [-0.0, 1.0], [2.0, 1.0]], dtype=np.float32), 8)
    assert size.tolist() == [2, 1]
    np.testing.assert_array_equal(tokens, [[0, 1], [2, 1]])


def test_means_of_many_tiles_are_exact() -> None:
    features = (1000 + np.random.default_rng(0).normal(size=(200_000, 3))).astype(np.float32)
    tokens, size = kmeans_tokens(features, 1)
    assert size.tolist() == [200_000]
    np.testing.assert_array_equal(tokens[0], features.mean(axis=0, dtype=np.float64).astype(np.float32))
