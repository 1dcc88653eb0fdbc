"""Which table of a SpatialData a call is about: one rule for all functions."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._container import begin, find_table, get_table

sd = pytest.importorskip("spatialdata")


def table(*slots: str, tiles: bool = False, n: int = 8) -> ad.AnnData:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(n, 3)).astype(np.float32)
    adata = ad.AnnData(values, obs=pd.DataFrame({"sample": "s"}, index=[f"t{i}" for i in range(n)]))
    adata.obsm["spatial"] = np.column_stack([np.arange(n) % 4, np.arange(n) // 4]) * 100.0
    for slot in slots:
        adata.obsm[slot] = pd.DataFrame(values, adata.obs_names, ["A", "B", "C"])
    if tiles:
        adata.obs["tile_id"] = np.arange(n)
        adata.uns["stpredict"] = {"X_toy": {"encoder": "toy"}}
    return adata


def container(**tables: ad.AnnData) -> sd.SpatialData:
    return sd.SpatialData(tables=tables)


@pytest.mark.parametrize(
    ("tables", "slots", "found"),
    [
        ({"table": (), "other": ("predicted",)}, ("predicted",), "table"),
        ({"color-texture_tiles": ()}, ("predicted",), "color-texture_tiles"),
        ({"a_tiles": (), "b_tiles": ("predicted",)}, ("predicted",), "b_tiles"),
        ({"a": ("predicted", "x"), "b": ("predicted",)}, ("predicted", "x"), "a"),
    ],
    ids=["the default", "the only one", "the only one with the slot", "with all slots"],
)
def test_the_table_that_fits(tables, slots, found) -> None:
    data = container(**{name: table(*keys) for name, keys in tables.items()})
    assert find_table(data, "table", *slots) == found
    assert get_table(data, "table", *slots) is data.tables[found]


@pytest.mark.parametrize("names", [[], ["a", "b"], ["a_tiles", "b_tiles", "spots"]])
def test_none_or_several_are_listed(names) -> None:
    data = container(**{name: table("predicted") for name in names})
    with pytest.raises(KeyError, match=rf"found {len(names)} that fit among .*{'.*'.join(names)}.*table_key="):
        find_table(data, "table", "predicted")


def test_a_name_that_was_given_is_never_replaced() -> None:
    with pytest.raises(KeyError, match="expected a table 'spots'.*found \\['a'\\]"):
        find_table(container(a=table()), "spots")


def test_tiles_are_no_measured_genes() -> None:
    data = container(toy_tiles=table(tiles=True), spots=table())
    assert find_table(data, "table", measured=True) == "spots"
    with pytest.raises(KeyError, match="measured genes"):
        stp.pp.normalize(container(toy_tiles=table(tiles=True)))


def test_a_copy_has_the_table_under_its_own_name() -> None:
    data = container(toy_tiles=table())
    copied, changed = begin(data, True)
    assert list(copied.tables) == ["toy_tiles"]
    assert changed is copied.tables["toy_tiles"]
    assert changed is not data.tables["toy_tiles"]


def test_every_function_finds_the_tiles_of_a_slide() -> None:
    """`predict`, `domains`, drawing and `get` after each other on an object without the table `"table"`."""
    data = container(toy_tiles=table("predicted", tiles=True, n=16), other_tiles=table(tiles=True))
    stp.tl.domains(data, resolution=0.5, n_neighbors=3)
    assert "domain" in data.tables["toy_tiles"].obs
    assert stp.get.predicted(data).shape == (16, 3)
    assert stp.pl.domains(data).get_title()
    assert stp.pl.maps(data, "A").shape == (1, 1)
    assert stp.pl.genes(data, "A", columns=["predicted"]).shape == (1, 1)


def test_a_slide_without_features_is_told_what_the_model_needs(toy) -> None:
    model = stp.tl.fit(toy, "ridge")
    with pytest.raises(
        KeyError, match=r"stp.pp.tiles\(slide, like=model\), then stp.pp.image_features\(slide, 'toy'\)"
    ):
        stp.tl.predict(sd.SpatialData(), model)
