from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from stpredict.io import read_map
from stpredict.models import Shape, get_model
from stpredict.models.base._bag import BagPredictor
from stpredict.models.base._batch import Batch
from stpredict.slots._prediction import prediction_frame
from stpredict.tl.maps._map import gene_chunks, map_table, predict_map
from stpredict.tl.maps._map_store import MapStore
from stpredict.tl.maps._mapper import Mapper
from stpredict.tl.maps._windows import lay_windows
from stpredict.training.targets import ExpressionTarget


@dataclasses.dataclass(frozen=True)
class NoConfig:
    pass


class MeanBag(BagPredictor):
    """The mean token times a matrix, after a nonlinear map of each token."""

    def __init__(self, n_genes, n_features, seed=0):
        super().__init__(NoConfig(), Shape(n_genes, {"tokens": n_features}))
        torch.manual_seed(seed)
        self.inner = torch.nn.Linear(n_features, 6)
        self.head = torch.nn.Linear(6, n_genes)

    def tokens(self, bag):
        return torch.tanh(self.inner(bag))

    def pool(self, tokens, mask):
        return (tokens * mask.unsqueeze(-1)).sum(dim=1) / mask.sum(dim=1, keepdim=True)

    def read_out(self, pooled, mask=None, genes=slice(None)):
        return F.linear(pooled, self.head.weight[genes], self.head.bias[genes])


class MaxBag(MeanBag):
    """The highest score of each gene: not affine in what is pooled."""

    affine_read_out = False

    def pool(self, tokens, mask):
        return tokens

    def read_out(self, pooled, mask=None, genes=slice(None)):
        scores = super().read_out(pooled, None, genes)
        return scores.masked_fill(~mask.unsqueeze(-1), -torch.inf).amax(dim=1)


def build(name, n_genes=5, n_features=8, seed=0):
    if name in {"mean", "max"}:
        return {"mean": MeanBag, "max": MaxBag}[name](n_genes, n_features, seed).eval()
    info = get_model(name)
    small = {"depth": 2, "heads": 2, "d_head": 4, "hidden": (8,) if name == "hist2rna" else 8}
    known = {field.name for field in dataclasses.fields(info.config)}
    torch.manual_seed(seed)
    config = info.config(**{key: value for key, value in small.items() if key in known})
    network = info.cls(config, Shape(n_genes, {"tokens": n_features}))
    network.target_mean.normal_()
    network.target_std.uniform_(0.5, 2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return network.eval()


def tissue(shape, holes, seed=0):
    rng = np.random.default_rng(seed)
    row, col = np.nonzero(rng.random(shape) >= holes)
    order = rng.permutation(len(row))
    return row[order] + 2, col[order] + 7


LAYOUTS = {
    "ragged": tissue((14, 13), 0.35),
    "one": (np.array([3]), np.array([5])),
    "strip": tissue((3, 30), 0.1),
}


def brute_force(network, features, windows):
    """One call of the network for each window, with its features stacked and zeros for what is missing."""
    outputs = []
    for places in windows.index():
        bag = torch.zeros(1, len(places), features.shape[1])
        size = torch.zeros(1, len(places))
        for place, tile in enumerate(places):
            if tile >= 0:
                bag[0, place], size[0, place] = torch.from_numpy(features[tile]), 1
        zero = torch.zeros(1, dtype=torch.long)
        with torch.no_grad():
            outputs.append(network(Batch(zero, zero, {"tokens": bag, "token_size": size})).mean[0].numpy())
    result = np.zeros((len(features), network.n_outputs))
    for tile in range(len(features)):
        own = []
        for number, places in enumerate(windows.index()):
            if tile in places.tolist() and windows.partial[number] == windows.partial_tiles[tile]:
                own.append(outputs[number])
        result[tile] = np.mean(own, axis=0)
    return result


@pytest.mark.parametrize("stride", [1, 3, 10])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["mean", "max", "sequoia", "slide_transformer", "he2rna", "hist2rna", "deeppt"])
def test_windows_equal_brute_force(name, layout, stride):
    network, (row, col) = build(name), LAYOUTS[layout]
    features = np.random.default_rng(1).normal(size=(len(row), 8)).astype(np.float32)
    windows, parts = predict_map(network, features, row, col, stride=stride, batch_size=7, gene_chunk=2)
    parts = list(parts)
    assert [(genes.start, genes.stop) for genes, _ in parts] == [(0, 2), (2, 4), (4, 5)]
    found = np.concatenate([values for _, values in parts], axis=1)
    assert found.dtype == np.float32
    expected = brute_force(network, features, windows)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("stride", [1, 2])
def test_peak_is_not_displaced(stride):
    row, col = np.mgrid[:41, :37].reshape(2, -1)
    features = np.exp(-((row - 22) ** 2 + (col - 16) ** 2) / 18).astype(np.float32)[:, None]
    network = MeanBag(1, 1)
    torch.nn.init.ones_(network.head.weight)
    network.tokens = lambda bag: bag.expand(*bag.shape[:-1], 6)
    _, parts = predict_map(network, features, row, col, stride=stride)
    values = next(parts)[1].reshape(41, 37)
    if stride == 1:
        assert np.unravel_index(values.argmax(), values.shape) == (22, 16)
        around = values[22 - 7 : 22 + 8, 16 - 7 : 16 + 8]  # the tiles that all 100 windows cover
        np.testing.assert_allclose(around, around[::-1, ::-1], atol=1e-6)
        np.testing.assert_allclose(around, around.T, atol=1e-6)
    weight = values - values.min()
    assert np.average(np.arange(41), weights=weight.sum(axis=1)) == pytest.approx(22, abs=0.51)
    assert np.average(np.arange(37), weights=weight.sum(axis=0)) == pytest.approx(16, abs=0.51)


def model(network, genes=None):
    panel = genes or [f"G{i}" for i in range(network.n_outputs)]
    return SimpleNamespace(network=network, panel=panel, target=ExpressionTarget(tuple(panel)), training=None)


@pytest.fixture
def tiles():
    """Two slides of tiles, mixed, with features in a slot."""
    places = [tissue((13, 12), 0.2, seed) for seed in (0, 1)]
    row, col = (np.concatenate(part) for part in zip(*places, strict=True))
    sample = np.repeat(["a", "b"], [len(part[0]) for part in places])
    rng = np.random.default_rng(2)
    order = rng.permutation(len(row))
    obs = pd.DataFrame({"sample": sample, "array_row": row, "array_col": col})
    obs = obs.iloc[order].set_axis([f"t{i}" for i in range(len(row))])
    adata = ad.AnnData(obs=obs, obsm={"spatial": np.column_stack([col, row])[order] * 256.0})
    adata.obsm["X_toy"] = rng.normal(size=(len(row), 8)).astype(np.float32)
    adata.uns["spatial"] = {"a": {"images": {"hires": np.zeros((5, 4, 3), np.uint8)}}}
    return adata


@pytest.mark.parametrize("name", ["mean", "max"])
def test_each_slide_alone(tiles, name):
    network = build(name)
    frame, n_windows, partial = map_table(tiles, [model(network)], "X_toy", gene_chunk=3)
    assert frame.columns.tolist() == [f"G{i}" for i in range(5)]
    assert frame.index.equals(tiles.obs_names)
    for sample in ("a", "b"):
        here = (tiles.obs["sample"] == sample).to_numpy()
        part = tiles[here]
        windows, parts = predict_map(network, part.obsm["X_toy"], part.obs["array_row"], part.obs["array_col"])
        np.testing.assert_allclose(frame[here], np.concatenate([v for _, v in parts], axis=1), atol=1e-6)
        np.testing.assert_array_equal(n_windows[here], windows.n_windows)
        np.testing.assert_array_equal(partial[here], windows.partial_tiles)


def test_features_of_a_tile_table_lie_in_x(tiles):
    expected = map_table(tiles, [model(build("mean"))], "X_toy")[0]
    table = ad.AnnData(tiles.obsm["X_toy"], obs=tiles.obs.assign(tile_id=np.arange(tiles.n_obs)))
    table.uns["stpredict"] = {"X_toy": {"encoder": "toy"}}
    pd.testing.assert_frame_equal(map_table(table, [model(build("mean"))], "X_toy")[0], expected)


def test_several_models(tiles, tmp_path):
    members = [model(build("mean", seed=seed)) for seed in range(3)]
    single = np.stack([map_table(tiles, [member], "X_toy")[0].to_numpy() for member in members])
    frame, *_ = map_table(tiles, members, "X_toy")
    np.testing.assert_allclose(frame, single.mean(axis=0), atol=1e-6)
    path, *_ = map_table(tiles, members, "X_toy", store=tmp_path / "m.zarr", std=True, gene_chunk=2)
    stored = ad.read_zarr(path)
    np.testing.assert_array_equal(stored.X, map_table(tiles, members, "X_toy", gene_chunk=2)[0])
    np.testing.assert_allclose(stored.layers["std"], single.std(axis=0, ddof=1), atol=1e-6)


def test_batches_and_chunks_do_not_matter(tiles):
    network = [model(build("sequoia"))]
    one, *_ = map_table(tiles, network, "X_toy", batch_size=1, gene_chunk=1)
    many, *_ = map_table(tiles, network, "X_toy", batch_size=1000)
    np.testing.assert_allclose(one, many, atol=1e-5)


def test_networks_are_left_as_they_were(tiles):
    network = build("mean").train()
    map_table(tiles, [model(network)], "X_toy")
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_default_chunks_bound_a_slice():
    assert gene_chunks(20_000, 4000)[0] == slice(0, 1048)
    assert gene_chunks(20_000, 4000)[-1].stop == 20_000
    assert gene_chunks(50, 4000) == [slice(0, 50)]
    assert gene_chunks(200, 10**9) == [slice(0, 64), slice(64, 128), slice(128, 192), slice(192, 200)]


def test_store(tiles, tmp_path):
    network = [model(build("mean"))]
    frame, n_windows, partial = map_table(tiles, network, "X_toy")
    path, *counts = map_table(tiles, network, "X_toy", store=tmp_path / "m.zarr", gene_chunk=2)
    assert path == tmp_path / "m.zarr"
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.zarr"]
    np.testing.assert_array_equal(counts, [n_windows, partial])
    stored = ad.read_zarr(path)
    np.testing.assert_allclose(stored.X, frame, atol=1e-6)
    assert stored.X.dtype == np.float32
    assert stored.var_names.tolist() == list(frame.columns)
    assert stored.obs_names.equals(tiles.obs_names)
    np.testing.assert_array_equal(stored.obs["predicted_n_windows"], n_windows)
    np.testing.assert_array_equal(stored.obs["predicted_partial"], partial)
    np.testing.assert_array_equal(stored.obsm["spatial"], tiles.obsm["spatial"])
    assert stored.uns["spatial"]["a"]["images"]["hires"].shape == (5, 4, 3)
    import zarr

    group = zarr.open_group(path, mode="r")
    assert group["X"].chunks == (tiles.n_obs, 2)
    some = prediction_frame(read_map(path, ["G3", "G0"]), "predicted")
    pd.testing.assert_frame_equal(some, frame[["G3", "G0"]], rtol=0, atol=1e-6)
    assert not [name for name in group if name.startswith("stpredict")]


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("moment", ["windows", "genes", "last step"])
def test_interrupted_call_goes_on(tiles, tmp_path, monkeypatch, moment):
    monkeypatch.setattr("stpredict.tl.maps._mapper._BLOCK", 8)
    network, path = build("mean"), tmp_path / "m.zarr"
    options = {"store": path, "gene_chunk": 1, "batch_size": 4}
    expected = map_table(tiles, [model(network)], "X_toy")[0]
    count = {"pool": 0, "read_out": 0}
    stop = {"windows": ("pool", 5), "genes": ("read_out", 5)}.get(moment, ("", 0))

    def counted(name):
        original = getattr(MeanBag, name)

        def call(self, *arguments):
            count[name] += 1
            if (name, count[name]) == stop:
                raise StoppedError
            return original(self, *arguments)

        monkeypatch.setattr(MeanBag, name, call)

    with monkeypatch.context() as patch:
        patch.setattr("stpredict.tl.maps._map_store.os.replace", _refuse_last(path, moment == "last step"))
        counted("pool")
        counted("read_out")
        with pytest.raises(StoppedError):
            map_table(tiles, [model(network)], "X_toy", **options)
    assert not path.exists()
    with pytest.raises(FileNotFoundError, match=r"unfinished one \(\d of \d chunks"):
        read_map(path)
    with pytest.raises(FileNotFoundError, match="unfinished"):
        read_map(tmp_path / "m.zarr.partial")
    assert np.isnan(ad.io.read_elem(_group(tmp_path / "m.zarr.partial")["X"])).any() == (moment != "last step")
    with pytest.raises(FileExistsError, match="unfinished map of another call"):
        map_table(tiles, [model(build("mean", seed=9))], "X_toy", **options)
    before, stop = dict(count), ("", 0)
    map_table(tiles, [model(network)], "X_toy", **options)
    np.testing.assert_allclose(ad.read_zarr(path).X, expected, atol=1e-6)
    assert not (tmp_path / "m.zarr.partial").exists()
    monkeypatch.undo()
    total = sum(-(-len(lay_windows(*_places(tiles, sample))) // 4) for sample in "ab")
    if moment == "windows":
        assert before["pool"] == 5
        assert count["pool"] == 5 + total - 3  # the block that was begun is pooled again
    elif moment == "genes":
        assert before["pool"] == count["pool"] == total
        assert count["read_out"] - before["read_out"] == 2 * 5 - 4
    else:
        assert count == before


def _group(path):
    import zarr

    return zarr.open_group(path, mode="r", use_consolidated=False)


def _places(tiles, sample):
    here = tiles.obs[tiles.obs["sample"] == sample]
    return here["array_row"], here["array_col"]


def _refuse_last(path, refuse):
    import os

    replace = os.replace

    def call(source, target):
        if refuse and Path(target) == path:
            raise StoppedError
        replace(source, target)

    return call


def test_finished_map_is_left_alone(tiles, tmp_path, monkeypatch):
    network = [model(build("mean"))]
    map_table(tiles, network, "X_toy", store=tmp_path / "m.zarr")
    monkeypatch.setattr(MeanBag, "tokens", None)
    monkeypatch.setattr(MeanBag, "read_out", None)
    path, n_windows, _ = map_table(tiles, network, "X_toy", store=tmp_path / "m.zarr")
    assert path == tmp_path / "m.zarr"
    assert n_windows.min() > 0


@pytest.mark.parametrize("change", ["weights", "features", "place", "stride", "panel", "names"])
def test_store_of_another_call_is_refused(tiles, tmp_path, change):
    network, options = model(build("mean")), {}
    map_table(tiles, [network], "X_toy", store=tmp_path / "m.zarr")
    before = ad.read_zarr(tmp_path / "m.zarr").X
    if change == "weights":
        with torch.no_grad():
            network.network.head.bias[0] += 1
    elif change == "features":
        tiles.obsm["X_toy"][0, 0] += 1
    elif change == "place":
        tiles.obs.loc[tiles.obs.index[0], "array_row"] += 50
    elif change == "stride":
        options["stride"] = 2
    elif change == "panel":
        network.panel = [*network.panel[:-1], "other"]
    else:
        tiles.obs_names = [f"u{i}" for i in range(tiles.n_obs)]
    with pytest.raises(FileExistsError, match="another model, other tiles or options"):
        map_table(tiles, [network], "X_toy", store=tmp_path / "m.zarr", **options)
    np.testing.assert_array_equal(ad.read_zarr(tmp_path / "m.zarr").X, before)


@pytest.mark.parametrize("name", ["m.zarr", "m.zarr.partial"])
def test_other_files_are_not_touched(tiles, tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "thesis.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="files that are no map"):
        map_table(tiles, [model(build("mean"))], "X_toy", store=tmp_path / "m.zarr")
    assert [str(entry.relative_to(tmp_path)) for entry in tmp_path.rglob("*.txt")] == [f"{name}/thesis.txt"]
    assert len(list(tmp_path.iterdir())) == 1


def test_failed_begin_leaves_nothing(tiles, tmp_path):
    tiles.uns["stpredict"] = {"bad": {"value": object()}}
    with pytest.raises(Exception, match="object"):
        map_table(tiles, [model(build("mean"))], "X_toy", store=tmp_path / "m.zarr")
    assert not list(tmp_path.iterdir())


def test_other_layouts_of_store_agree(tiles, tmp_path):
    expected = map_table(tiles, [model(build("max"))], "X_toy")[0]
    with ad.settings.override(zarr_write_format=3):
        map_table(tiles, [model(build("max"))], "X_toy", store=tmp_path / "m.zarr", gene_chunk=3)
    np.testing.assert_allclose(ad.read_zarr(tmp_path / "m.zarr").X, expected, atol=1e-6)


def test_errors_leave_the_table(tiles, frozen):
    before = frozen(tiles)
    network = model(build("mean"))
    with pytest.raises(KeyError, match="image_features"):
        map_table(tiles, [network], "X_other")
    with pytest.raises(ValueError, match=r"\(\d+, 9\).*found \(\d+, 8\)"):
        map_table(tiles, [model(build("mean", n_features=9))], "X_toy")
    stranger = model(build("mean"), ["a"])
    stranger.network = torch.nn.Linear(8, 5)
    with pytest.raises(TypeError, match="networks on bags; found Linear"):
        map_table(tiles, [stranger], "X_toy")
    with pytest.raises(ValueError, match="same genes and features"):
        Mapper([build("mean"), build("mean", n_genes=4)])
    with pytest.raises(ValueError, match="gene_chunk"):
        map_table(tiles, [network], "X_toy", gene_chunk=0)
    with pytest.raises(ValueError, match="std=True"):
        map_table(tiles, [network], "X_toy", std=True)
    with pytest.raises(KeyError, match="array_col"):
        map_table(ad.AnnData(obs=tiles.obs.drop(columns="array_col")), [network], "X_toy")
    with pytest.raises(KeyError, match="slide"):
        map_table(tiles, [network], "X_toy", sample_key="slide")
    with pytest.raises(ValueError, match="at least one tile"):
        map_table(tiles[:0].copy(), [network], "X_toy")
    assert frozen(tiles) == before
    tiles.obsm["X_toy"][3, 1] = np.nan
    with pytest.raises(ValueError, match="finite"):
        map_table(tiles, [network], "X_toy")
    tiles.obs["sample"] = "one"
    with pytest.raises(ValueError, match="finite|one tile at each place"):
        map_table(tiles, [network], "X_toy")


def test_store_opens_in_any_case(tiles, tmp_path):
    chunks = gene_chunks(5, tiles.n_obs, 2)
    store = MapStore.open(tmp_path / "deep.zarr", "d", tiles, list("abcde"), chunks, {})
    again = MapStore.open(tmp_path / "deep.zarr", "d", tiles, list("abcde"), chunks, {})
    store.write(chunks[1], np.ones((tiles.n_obs, 2), np.float32))
    assert [again.has(genes) for genes in chunks] == [False, True, False]


def test_store_knows_which_windows_were_partial(tmp_path):
    """The same windows, full ones by one limit and partial ones by the other."""
    row, col = np.divmod(np.arange(12), 2)
    obs = pd.DataFrame({"sample": "s", "array_row": row, "array_col": col}, index=[f"t{i}" for i in range(12)])
    adata = ad.AnnData(obs=obs, obsm={"spatial": np.column_stack([col, row]) * 256.0})
    adata.obsm["X_toy"] = np.random.default_rng(0).normal(size=(12, 8)).astype(np.float32)
    options = {"window": 3, "store": tmp_path / "m.zarr"}
    *_, partial = map_table(adata, [model(build("mean"))], "X_toy", min_tiles=1, **options)
    assert not partial.any()
    with pytest.raises(FileExistsError, match="other tiles or options"):
        map_table(adata, [model(build("mean"))], "X_toy", min_tiles=7, **options)


def test_networks_in_training_are_mapped_as_in_evaluation(tiles):
    network = build("he2rna")
    expected, *_ = map_table(tiles, [model(network)], "X_toy", window=4)
    found, *_ = map_table(tiles, [model(network.train())], "X_toy", window=4)
    pd.testing.assert_frame_equal(found, expected)
