"""Maps of everything that is a quantity, in memory and in a store: rates of counts, scores, amounts and fractions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

GENES = ["G0", "G1", "G2", "G3"]
SMALL: dict[str, Any] = {
    "training": {"max_epochs": 2},
    "baselines": False,
    "hyperparameters": {"depth": 1, "heads": 1, "d_head": 4},
}
TARGETS: dict[str, Any] = {
    "counts": stp.targets.Counts(),
    "scores": stp.targets.Values(obs=["score", "other"], units={"score": "mm"}),
    "amounts": stp.targets.Values(obs=["amount"], link="log", units="ng"),
    "shares": stp.targets.Values(obsm="shares"),
}
LINKS = {"scores": "identity", "amounts": "log", "shares": "softmax"}


@pytest.fixture(scope="module")
def tiles() -> ad.AnnData:
    """Six slides of 3 x 4 tiles with features."""
    rng = np.random.default_rng(0)
    row, col = np.mgrid[:3, :4].reshape(2, -1)
    sample = np.repeat(list("abcdef"), 12)
    obs = pd.DataFrame({"sample": sample, "array_row": np.tile(row, 6), "array_col": np.tile(col, 6)})
    obs["patient"] = obs["sample"]
    adata = ad.AnnData(obs=obs.rename(index=str), obsm={"X_toy": rng.normal(size=(72, 5)).astype(np.float32)})
    adata.obsm["spatial"] = np.column_stack([adata.obs["array_col"], adata.obs["array_row"]]) * 64.0
    return adata


@pytest.fixture(scope="module")
def bags(tiles: ad.AnnData) -> ad.AnnData:
    """The slides with bulk counts, two scores, an amount and three shares of each."""
    rng = np.random.default_rng(1)
    counts = pd.DataFrame(rng.poisson([20, 200, 5, 60], (6, 4)), index=list("abcdef"), columns=GENES)
    found = stp.pp.bag(tiles, "toy", expression=counts.astype(float), n_tokens=4, progress=False)
    stp.pp.normalize(found)
    found.obs["score"], found.obs["other"] = rng.normal(size=(2, 6))
    found.obs["amount"] = rng.gamma(2, 50, 6)
    shares = pd.DataFrame(rng.dirichlet([1, 2, 3], 6), index=found.obs_names, columns=["tumor", "stroma", "immune"])
    found.obsm["shares"] = shares
    return found


@pytest.fixture(scope="module")
def model_of(bags: ad.AnnData) -> Callable[[str, int], Any]:
    """A model of each kind of target."""
    known: dict[tuple[str, int], Any] = {}

    def of(name: str, seed: int = 0) -> Any:
        if (name, seed) not in known:
            known[name, seed] = stp.tl.fit(bags, "sequoia", target=TARGETS[name], seed=seed, **SMALL)
        return known[name, seed]

    return of


@pytest.mark.parametrize("name", TARGETS)
def test_a_store_holds_the_map_and_says_what_it_is_of(tiles, model_of, tmp_path: Path, name: str) -> None:
    path, model = tmp_path / "m.zarr", model_of(name)
    adata = tiles.copy()
    stp.tl.predict(adata, model, window=2, progress=False)
    stp.tl.predict(tiles.copy(), model, window=2, store=path, progress=False)
    found = stp.io.read_map(path)
    np.testing.assert_array_equal(found.obsm["predicted"], adata.obsm["predicted"])
    assert np.ptp(found.obsm["predicted"], axis=0).min() > 0
    here, there = (each.uns["stpredict"]["predicted"] for each in (adata, found))
    assert there["target"] == ("counts" if name == "counts" else "values")
    for key in ("genes", "values", "units", "link", "values_in", "unit", "target"):
        assert (key in here) == (key in there)
        assert np.array_equal(np.asarray(here.get(key)), np.asarray(there.get(key))), key
    assert "stpredict_map" not in found.uns["stpredict"]
    assert stp.get.predicted(found).var_names.tolist() == model.target.names


@pytest.mark.parametrize("name", LINKS)
def test_values_stay_in_range_whatever_the_chunks(tiles, model_of, tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.setattr("stpredict.tl.maps._map._LEAST", 1)
    monkeypatch.setattr("stpredict.tl.maps._map._CHUNK", 1)  # a chunk for every output
    stp.tl.predict(tiles.copy(), model_of(name), window=2, store=tmp_path / "m.zarr", progress=False)
    found = stp.io.read_map(tmp_path / "m.zarr")
    assert found.uns["stpredict"]["predicted"]["link"] == LINKS[name]
    values = found.obsm["predicted"]
    if name == "amounts":
        assert values.min() > 0
        assert found.uns["stpredict"]["predicted"]["units"] == ["ng"]
    if name == "shares":
        assert values.min() > 0
        np.testing.assert_allclose(values.sum(axis=1), 1, atol=1e-6)


def test_some_columns_keep_their_own_units(tiles, model_of, tmp_path: Path) -> None:
    stp.tl.predict(tiles.copy(), model_of("scores"), window=2, store=tmp_path / "m.zarr", progress=False)
    found = stp.io.read_map(tmp_path / "m.zarr", ["other"])
    assert list(found.uns["stpredict"]["predicted"]["units"]) == [""]
    assert list(found.uns["stpredict"]["predicted"]["values"]) == ["other"]
    found = stp.io.read_map(tmp_path / "m.zarr", ["other", "score"])
    assert list(found.uns["stpredict"]["predicted"]["units"]) == ["", "mm"]


@pytest.mark.parametrize("genes", [None, ["G2", "G0"]])
def test_rates_of_a_store_can_be_put_on_another_scale(tiles, model_of, tmp_path: Path, genes) -> None:
    adata = tiles.copy()
    stp.tl.predict(adata, model_of("counts"), window=2, progress=False)
    assert 0 < adata.obsm["predicted"].min() < adata.obsm["predicted"].max() <= 1
    stp.tl.predict(tiles.copy(), model_of("counts"), window=2, store=tmp_path / "m.zarr", progress=False)
    found = stp.io.read_map(tmp_path / "m.zarr", genes)
    for scale in ("rate", "log1p", "residuals"):
        expected = stp.get.predicted(adata, scale=scale)[:, genes or GENES].X
        np.testing.assert_allclose(stp.get.predicted(found, scale=scale).X, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["counts", "shares"])
def test_several_models_are_averaged_in_the_unit_of_users(tiles, model_of, tmp_path: Path, name: str) -> None:
    """As :func:`stpredict.tl.predict` does without a map: the mean over models is that of rates or values."""
    members = [model_of(name, seed) for seed in (0, 1)]
    alone = []
    for member in members:
        adata = tiles.copy()
        stp.tl.predict(adata, member, window=2, progress=False)
        alone.append(adata.obsm["predicted"])
    assert not np.allclose(*alone)
    stp.tl.predict(tiles.copy(), members, window=2, store=tmp_path / "m.zarr", progress=False)
    np.testing.assert_allclose(
        stp.io.read_map(tmp_path / "m.zarr").obsm["predicted"], np.mean(alone, axis=0), rtol=1e-5
    )


def test_the_map_of_another_link_is_another_map(tiles, bags, model_of, tmp_path: Path) -> None:
    stp.tl.predict(tiles.copy(), model_of("amounts"), window=2, store=tmp_path / "m.zarr", progress=False)
    before = stp.io.read_map(tmp_path / "m.zarr").obsm["predicted"]
    other = stp.tl.fit(bags, "sequoia", target=stp.targets.Values(obs=["amount"], link="identity"), **SMALL)
    other.network.load_state_dict(model_of("amounts").network.state_dict())
    with pytest.raises(FileExistsError, match="the map of another model"):
        stp.tl.predict(tiles.copy(), other, window=2, store=tmp_path / "m.zarr", progress=False)
    np.testing.assert_array_equal(stp.io.read_map(tmp_path / "m.zarr").obsm["predicted"], before)


@pytest.mark.parametrize(
    ("target", "message"),
    [(stp.targets.Classes("kind"), "for a map; found one of classes"), ("risk", "`store=` with a map")],
)
def test_what_is_no_quantity_is_refused(tiles, bags, tmp_path: Path, target, message: str) -> None:
    table = bags.copy()
    table.obs["kind"] = list("uvuvuv")
    table.obs["time"], table.obs["event"] = np.arange(1.0, 7.0), [1, 0, 1, 1, 0, 1]
    request = stp.targets.FollowUp("time", "event") if target == "risk" else target
    model = stp.tl.fit(table, "sequoia", target=request, **SMALL)
    adata = tiles.copy()
    with pytest.raises(ValueError, match=message):
        stp.tl.predict(adata, model, window=2, store=tmp_path / "m.zarr", progress=False)
    assert not list(tmp_path.iterdir())
    assert "predicted" not in adata.obsm
    assert not [name for name in adata.obs if name.endswith("leaky")]
