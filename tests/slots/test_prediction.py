"""Predictions as one array: its genes travel with it, and are never paired with the rows of other genes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._keys import Key
from stpredict.slots._prediction import clear_predictions, prediction_frame, prediction_names, write_prediction

GENES = ["HLA-DQB1/2", "β-actin", ".hidden", "a b (c)"]


def made(genes: list[str], sample: str = "s1", n: int = 5, seed: int = 0) -> ad.AnnData:
    """A section with a prediction of some genes."""
    names = [f"{sample}-{seed}-{i}" for i in range(n)]
    adata = ad.AnnData(obs=pd.DataFrame({"sample": sample, "patient": "P"}, index=names))
    values = np.random.default_rng(seed).normal(size=(n, len(genes)))
    write_prediction(
        adata, "predicted", pd.DataFrame(values, adata.obs_names, genes), {"model": "m", "patients_seen": []}
    )
    write_prediction(adata, "predicted_std", pd.DataFrame(values**2, adata.obs_names, genes), beside="predicted")
    return adata


def test_one_array_with_its_genes() -> None:
    adata = made(GENES)
    assert type(adata.obsm["predicted"]) is np.ndarray
    assert adata.obsm["predicted"].dtype == np.float32
    assert list(adata.uns["stpredict"]["predicted"]["genes"]) == GENES
    frame = prediction_frame(adata, "predicted")
    assert list(frame.columns) == GENES
    assert frame.index.equals(adata.obs_names)
    assert np.shares_memory(frame.to_numpy(), adata.obsm["predicted"])
    assert [name for name in adata.obs if name.endswith("_panel")] == ["predicted_panel"]  # one for both
    some = prediction_frame(adata, "predicted", [GENES[2], GENES[0]])
    np.testing.assert_array_equal(some, adata.obsm["predicted"][:, [2, 0]])


@pytest.mark.parametrize("kind", ["h5ad", "zarr"])
def test_files(tmp_path: Path, kind: str) -> None:
    adata = made(GENES)
    path = tmp_path / f"a.{kind}"
    getattr(adata, f"write_{kind}")(path)
    again = ad.read_h5ad(path) if kind == "h5ad" else ad.read_zarr(path)
    for key in ("predicted", "predicted_std"):
        pd.testing.assert_frame_equal(prediction_frame(again, key), prediction_frame(adata, key))


@pytest.mark.parametrize(
    "change",
    [
        lambda adata: adata[[3, 1]].copy(),
        lambda adata: adata[[3, 3, 1]],
        lambda adata: adata[:0].copy(),
        lambda adata: adata.obs.replace({"sample": {"s1": "renamed"}}).pipe(lambda obs: _with_obs(adata, obs)),
        lambda adata: ad.concat([adata, adata[:2]], uns_merge="first", index_unique="-"),
        lambda adata: ad.concat([adata, made(GENES, "s2")], uns_merge="same"),
        lambda adata: ad.concat([adata, made(GENES, "s2")], uns_merge="first"),
    ],
)
def test_rows_that_belong_to_the_genes(change: Any) -> None:
    adata = made(GENES)
    whole = pd.concat([prediction_frame(part, "predicted") for part in (adata, made(GENES, "s2"))])
    changed = change(adata)
    names = [name.rsplit("-", 1)[0] if name.count("-") > 2 else name for name in changed.obs_names]
    np.testing.assert_array_equal(prediction_frame(changed, "predicted"), whole.loc[names])


def _with_obs(adata: ad.AnnData, obs: pd.DataFrame) -> ad.AnnData:
    adata.obs = obs
    return adata


OTHERS = {
    "narrower": made(GENES[:3], "s2"),
    "wider": made([*GENES, "more"], "s2"),
    "others": made(["A", "B", "C", "D"], "s2"),
    "other_order": made(GENES[::-1], "s2"),
    "of_the_same_section": made(["A", "B", "C", "D"], "s1", seed=1),
    "one_row": made(["A", "B", "C", "D"], "s2", n=1),
}


@pytest.mark.parametrize("uns_merge", ["first", "unique", None])
@pytest.mark.parametrize("join", ["inner", "outer"])
@pytest.mark.parametrize("other", list(OTHERS))
def test_joined_panels_are_never_mixed(other: str, join: Any, uns_merge: Any) -> None:
    joined = ad.concat([made(GENES), OTHERS[other]], join=join, uns_merge=uns_merge, fill_value=np.nan)
    for key in ("predicted", "predicted_std"):
        with pytest.raises(ValueError, match=rf"genes of obsm\['{key}'\].*stp\.concat"):
            prediction_frame(joined, key)


def test_rows_without_a_prediction_belong_to_no_panel() -> None:
    adata = made(GENES)
    bare = ad.AnnData(obs=pd.DataFrame({"sample": "s2", "patient": "Q"}, index=["x", "y"]))
    joined = ad.concat([adata, bare], join="outer", uns_merge="first", fill_value=np.nan)
    frame = prediction_frame(joined, "predicted")
    assert frame.isna().all(axis=1).tolist() == [False] * 5 + [True] * 2
    joined.obsm["predicted"][-1] = 0  # of nobody knows what
    with pytest.raises(ValueError, match="1 of|2 of 7 rows"):
        prediction_frame(joined, "predicted")


def without_record(adata: ad.AnnData) -> None:
    del adata.uns["stpredict"]["predicted"]


def without_column(adata: ad.AnnData) -> None:
    del adata.obs["predicted_panel"]


def renamed(adata: ad.AnnData) -> None:
    adata.obsm["mine"] = adata.obsm.pop("predicted")


def cut(adata: ad.AnnData) -> None:
    adata.obsm["predicted"] = adata.obsm["predicted"][:, :2]


def replaced(adata: ad.AnnData) -> None:
    """Another prediction in the slot, whose bounds are still those of the first."""
    frame = pd.DataFrame(np.ones((5, 4)), adata.obs_names, list("ABCD"))
    adata.obsm["mine"] = adata.obsm["predicted_std"]
    write_prediction(adata, "predicted", frame)
    adata.uns["stpredict"]["mine"] = adata.uns["stpredict"]["predicted_std"]


@pytest.mark.parametrize("change", [without_record, without_column, renamed, cut, replaced])
def test_lost_genes_are_an_error_that_says_how_to_name_them(change: Any) -> None:
    adata = made(GENES)
    change(adata)
    key = "mine" if "mine" in adata.obsm else "predicted"
    with pytest.raises(ValueError, match=rf"adata\.obsm\['{key}'\] = pd\.DataFrame\(values, adata\.obs_names, genes\)"):
        prediction_frame(adata, key)
    adata.obsm[key] = pd.DataFrame(adata.obsm[key], adata.obs_names, GENES[: adata.obsm[key].shape[1]])
    assert list(prediction_frame(adata, key)) == GENES[: adata.obsm[key].shape[1]]


def test_features_have_no_genes() -> None:
    adata = made(GENES)
    adata.obsm["X_own"] = np.zeros((5, 2))
    assert prediction_names(adata, "X_own") is None


def test_repeated_and_missing_genes() -> None:
    with pytest.raises(ValueError, match="unique"):
        prediction_frame(made(["A", "A"]), "predicted")
    with pytest.raises(KeyError, match="1 missing .first: B"):
        prediction_frame(made(["A"]), "predicted", ["B"])


def test_a_new_prediction_removes_what_lay_beside_the_old_one() -> None:
    adata = made(GENES)
    for slot in (Key.lower("predicted"), Key.baseline("predicted", "ridge")):
        write_prediction(adata, slot, prediction_frame(adata, "predicted"), beside="predicted")
    other = pd.DataFrame(np.ones((5, 1)), adata.obs_names, ["A"])
    write_prediction(adata, Key.upper("predicted"), other, beside="predicted")
    write_prediction(adata, "kept", other)
    clear_predictions(adata, "predicted")
    assert list(adata.obsm) == ["kept"]
    assert set(adata.uns["stpredict"]) == {"kept"}
    assert [name for name in adata.obs if name.endswith("_panel")] == ["kept_panel"]


def test_predictions_of_the_package_fill_few_files(toy: ad.AnnData, tmp_path: Path) -> None:
    toy.var_names = ["HLA-DQB1/2", *toy.var_names[1:]]
    stp.pp.normalize(toy)
    stp.tl.predict(toy, stp.tl.fit(toy, "ridge", (toy.obs["patient"] == "p0").to_numpy()))
    toy.write_zarr(tmp_path / "a.zarr")
    again = ad.read_zarr(tmp_path / "a.zarr")
    assert stp.get.predicted(again).var_names.tolist() == toy.var_names.tolist()
    pd.testing.assert_frame_equal(stp.get.predicted(again).to_df(), prediction_frame(toy, "predicted"))
    assert len(list((tmp_path / "a.zarr" / "obsm" / "predicted").rglob("*"))) < 6
