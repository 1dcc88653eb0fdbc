"""Names that every store accepts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp
from stpredict.slots._keys import Key, check_key, distinct, escaped, storable, unescaped

ODD = [
    "a b",
    "a/b",
    "ridge (permuted labels)",
    "β-Zellen",
    ".hidden",
    "..",
    ".",
    "",
    "__x",
    "_index",
    "a\\b",
    "é",
    "🙂",
    "x%2Fy",
]


@pytest.mark.parametrize("name", ODD)
def test_storable(name: str) -> None:
    from spatialdata.models import TableModel

    key = storable(name)
    assert storable(key) == key
    for accepted in (key, Key.features(name), Key.probability(name), Key.attribution(name)):
        adata = ad.AnnData(np.ones((2, 1)), obsm={accepted: np.ones((2, 1))})
        adata.obs[accepted] = 1
        TableModel.parse(adata)


@pytest.mark.parametrize("name", ["predicted", "X_uni2-h", "β", "_own", "a.b", "3", "-x"])
def test_names_that_are_accepted_stay(name: str) -> None:
    assert storable(name) == name
    check_key(name)


def test_distinct() -> None:
    assert distinct(["a b", "a/b", "A_B", "c", "a b"]) == {"a b": "a_b", "a/b": "a_b_2", "A_B": "A_B_3", "c": "c"}


def test_escaped(tmp_path: Path) -> None:
    assert [unescaped(escaped(name)) for name in ODD] == ODD
    adata = ad.AnnData(np.ones((1, 1)), uns={"a": {escaped(name): number for number, name in enumerate(ODD)}})
    adata.write_zarr(tmp_path / "a.zarr")
    adata.write_h5ad(tmp_path / "a.h5ad")
    for again in (ad.read_zarr(tmp_path / "a.zarr"), ad.read_h5ad(tmp_path / "a.h5ad")):
        found = {unescaped(key): int(number) for key, number in again.uns["a"].items()}
        assert found == {name: number for number, name in enumerate(ODD)}


def test_plain_names_are_their_own_keys() -> None:
    assert [escaped(name) for name in ("B1", "a b", "β", "x-1.2")] == ["B1", "a b", "β", "x-1.2"]


@pytest.mark.parametrize(
    "call",
    [
        lambda adata, key: stp.tl.domains(adata, key_added=key),
        lambda adata, key: stp.tl.predict(adata, key_added=key),
        lambda adata, key: stp.tl.cross_validate(adata, ["ridge"], key_added=key),
        lambda adata, key: stp.pp.image_features(adata, key_added=key),
        lambda adata, key: stp.pp.select_genes(adata, "mean", key_added=key),
    ],
)
def test_keys_that_a_store_would_refuse(call: Any) -> None:
    adata = ad.AnnData(np.ones((2, 1)))
    with pytest.raises(ValueError, match="key_added='mine_1'"):
        call(adata, "mine/1")
    assert not adata.uns


def test_labels_of_models_are_shown_as_they_are_and_stored_as_can_be(toy: ad.AnnData) -> None:
    stp.pp.normalize(toy)
    models = {"a b": "mean", "A/B": "mean", "Ridge (β)": "ridge"}
    scores = stp.tl.cross_validate(toy, models, metrics=["pearson"], ceiling=False)
    keys = scores.attrs["keys"]
    assert keys["a b"] == "predicted_a_b"
    assert keys["A/B"] == "predicted_A_B_2"
    assert keys["Ridge (β)"] == "predicted_Ridge_β"
    assert keys["ridge (permuted labels)"] == "predicted_ridge_permuted_labels"
    assert set(scores["model"]) >= set(models)
    assert set(keys.values()) == {key for key in toy.obsm if key.startswith("predicted") and not key.endswith("_std")}
    for label, key in keys.items():
        assert toy.uns["stpredict"][key]["label"] == label
        assert set(stp.tl.evaluate(toy, key, metrics=["pearson"], ceiling=False, baselines=False)["model"]) == {label}
