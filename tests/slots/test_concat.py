"""Joined objects keep their records, or say what was made differently."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._content import as_recorded
from stpredict.slots._marks import leak_marks
from stpredict.slots._prediction import prediction_frame, write_prediction
from stpredict.slots._provenance import read_record, write_record

QUICK: dict[str, Any] = {"metrics": ["pearson"], "ceiling": False, "baselines": False}


def by_patient(adata: ad.AnnData) -> dict[str, ad.AnnData]:
    parts = {}
    for name in sorted(adata.obs["patient"].unique()):
        parts[name] = adata[adata.obs["patient"] == name].copy()
        sections = set(parts[name].obs["sample"])
        parts[name].uns["spatial"] = {key: value for key, value in adata.uns["spatial"].items() if key in sections}
        record = parts[name].uns["stpredict"]["X_toy"]
        record["microns_per_pixel"] = dict.fromkeys(sections, 0.5)
    return parts


@pytest.fixture
def parts(toy: ad.AnnData) -> dict[str, ad.AnnData]:
    """The patients of `toy` as objects of their own, each normalized and on a grid by itself."""
    found = by_patient(toy)
    for part in found.values():
        stp.pp.normalize(part, method="log1p")
        stp.pp.grid(part, lattice="square")
    return found


def test_everything_is_there_and_works(parts: dict[str, ad.AnnData], tmp_path: Path) -> None:
    before = {name: part.copy() for name, part in parts.items()}
    joined = stp.concat(parts, label="object")
    assert joined.obs["object"].tolist() == joined.obs["patient"].tolist()
    sections = sorted(joined.obs["sample"].unique())
    assert sorted(joined.uns["spatial"]) == sections
    assert sorted(read_record(joined, "X_toy")["microns_per_pixel"]) == sections
    assert sorted(read_record(joined, "grid")["shape"]) == sections
    assert read_record(joined, "normalize")["method"] == "log1p"
    train = (joined.obs["patient"] == "p0").to_numpy()
    stp.tl.predict(joined, stp.tl.fit(joined, "ridge", train, baselines=[]))
    assert set(stp.tl.evaluate(joined, **QUICK).groupby("patient")["leaky"].agg(any)) == {True, False}
    joined.write_zarr(tmp_path / "a.zarr")
    for name, part in parts.items():
        assert set(part.uns["stpredict"]) == set(before[name].uns["stpredict"])
        pd.testing.assert_frame_equal(part.obs, before[name].obs)


def test_a_sequence_and_one_object(parts: dict[str, ad.AnnData]) -> None:
    pd.testing.assert_frame_equal(stp.concat(list(parts.values())).obs, stp.concat(parts).obs)
    assert set(stp.concat([parts["p1"]]).uns["stpredict"]) == set(parts["p1"].uns["stpredict"])


def other_target_sum(part: ad.AnnData) -> None:
    stp.pp.normalize(part, layer="counts", method="log1p", target_sum=100)


def median(part: ad.AnnData) -> None:
    stp.pp.normalize(part, layer="counts", method="log1p", target_sum="median")


def residuals(part: ad.AnnData) -> None:
    stp.pp.normalize(part, layer="counts", method="pearson_residuals")


def not_normalized(part: ad.AnnData) -> None:
    part.X = part.layers["counts"]
    del part.uns["stpredict"]["normalize"]


def other_tiles(part: ad.AnnData) -> None:
    part.uns["stpredict"]["X_toy"]["tile_um"] = 55.0


def features_without_record(part: ad.AnnData) -> None:
    del part.uns["stpredict"]["X_toy"]


def a_panel(part: ad.AnnData) -> None:
    stp.pp.select_genes(part, "mean", n_genes=3)


def no_grid(part: ad.AnnData) -> None:
    del part.uns["stpredict"]["grid"]


def slides(part: ad.AnnData) -> None:
    write_record(part, "unit", {"is": "slide"})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (other_target_sum, r"'normalize', target_sum: 10000.0 in 'p0' and 100.0 in 'p1'; call stp.pp.normalize"),
        (median, r"'normalize', target_sum: 10000.0 in 'p0' and 'median' in 'p1'"),
        (residuals, r"'normalize', method: 'log1p' in 'p0' and 'pearson_residuals' in 'p1'"),
        (not_normalized, r"'normalize', method: 'log1p' in 'p0' and nothing in 'p1'"),
        (other_tiles, r"'X_toy', tile_um: 100.0 in 'p0' and 55.0 in 'p1'; call stp.pp.image_features"),
        (features_without_record, r"'X_toy', encoder: 'toy' in 'p0' and nothing in 'p1'"),
        (no_grid, r"'grid', .*nothing in 'p1'.*stp.pp.grid|'grid'"),
        (slides, r"'unit', is: 'observation' in 'p0' and 'slide' in 'p1'"),
    ],
)
@pytest.mark.parametrize("join", ["inner", "outer"])
def test_what_was_made_differently_is_refused(parts: dict[str, ad.AnnData], change: Any, told: str, join: Any) -> None:
    change(parts["p1"])
    with pytest.raises(ValueError, match=told):
        stp.concat(parts, join=join)


@pytest.mark.parametrize(
    "options", [{"method": "log1p", "target_sum": "median"}, {"method": "pearson_residuals", "theta": 10}]
)
def test_normalizations_of_sections_are_joined(parts: dict[str, ad.AnnData], options: dict) -> None:
    """Sections are normalized by themselves: before joining or after it is the same."""
    for part in parts.values():
        stp.pp.normalize(part, layer="counts", **options)
    joined = stp.concat(parts)
    again = stp.pp.normalize(joined, layer="counts", **options, copy=True)
    np.testing.assert_array_equal(joined.X, again.X)
    assert joined.uns["stpredict"]["normalize"] == again.uns["stpredict"]["normalize"]
    np.testing.assert_array_equal(joined.obs["depth"], again.obs["depth"])
    stp.pp.normalize(parts["p1"], layer="counts", method="log1p")
    with pytest.raises(ValueError, match="'normalize'"):
        stp.concat(parts)


def test_selections(parts: dict[str, ad.AnnData]) -> None:
    whole = stp.concat(parts)
    stp.pp.select_genes(whole, "mean", train=(whole.obs["patient"] == "p0").to_numpy(), n_genes=3)
    again = stp.concat([whole[whole.obs["patient"] == name] for name in ("p0", "p1")])
    assert again.var["selected"].sum() == 3
    assert read_record(again, "selected")["patients"] == ["p0"]
    a_panel(parts["p0"])
    a_panel(parts["p1"])
    with pytest.raises(ValueError, match=r"'selected', .*in '0' and .* in '1'; select genes once"):
        stp.concat([parts["p0"], parts["p1"]])
    alone = stp.concat([parts["p0"], parts["p2"]]) if "selected" not in parts["p2"].var else None
    assert alone is not None
    assert "selected" not in alone.var
    assert read_record(alone, "selected") is None


def test_filters_remember_who_had_a_part(parts: dict[str, ad.AnnData]) -> None:
    for name in ("p0", "p1"):
        stp.pp.filter_genes(parts[name], gene_types=None, min_median=0.1)
    joined = stp.concat(parts)
    assert read_record(joined, "filter_genes")["patients"] == ["p0", "p1"]
    assert joined.n_vars == min(part.n_vars for part in parts.values())


def test_seals_of_features(cohort: ad.AnnData) -> None:
    halves = {name: cohort[cohort.obs["patient"] == name].copy() for name in ("P1", "P2")}
    for part in halves.values():
        del part.uns["stpredict"]["X_color-texture"]
        stp.pp.image_features(part)
    record = read_record(joined := stp.concat(halves), "X_color-texture") or {}
    assert as_recorded(joined.obsm["X_color-texture"], record)
    assert sum(record["n_rows"].values()) == joined.n_obs
    halves["P2"].obsm["X_color-texture"] += 1  # of which nobody knows where it is from
    joined = stp.concat(halves)
    assert not as_recorded(joined.obsm["X_color-texture"], read_record(joined, "X_color-texture") or {})


def test_sections_of_one_name_have_one_picture(parts: dict[str, ad.AnnData]) -> None:
    half = stp.concat({"one": parts["p0"][:12], "other": parts["p0"][12:]})
    assert set(half.uns["spatial"]) == {"s0", "s1"}
    parts["p1"].uns["spatial"]["s0"] = {"scalefactors": {"microns_per_pixel": 9.0}}
    with pytest.raises(ValueError, match="'s0' in 'p0' and 'p1'; rename"):
        stp.concat(parts)


def predicted(parts: dict[str, ad.AnnData], panels: dict[str, list[str]]) -> dict[str, pd.DataFrame]:
    """Each patient predicted by a model of the next one, with a panel of its own."""
    names = list(parts)
    for number, name in enumerate(names):
        source = parts[names[(number + 1) % 3]]
        model = stp.tl.fit(source, "ridge", target=panels[name], baselines=["mean"])
        stp.tl.predict(parts[name], model)
    return {name: prediction_frame(part, "predicted") for name, part in parts.items()}


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_panels_of_each_fold(parts: dict[str, ad.AnnData], join: Any, tmp_path: Path) -> None:
    panels = {"p0": ["G0", "G1", "G2"], "p1": ["G2", "G0", "G3"], "p2": ["G4", "G2", "G0"]}
    frames = predicted(parts, panels)
    joined = stp.concat(parts, join=join)
    expected = pd.concat(frames.values(), join=join)
    genes = ["G0", "G2"] if join == "inner" else ["G0", "G1", "G2", "G3", "G4"]
    for again in (joined, _stored(joined, tmp_path)):
        frame = prediction_frame(again, "predicted")
        assert sorted(frame.columns) == genes
        pd.testing.assert_frame_equal(frame[genes], expected[genes], check_dtype=False)
        assert prediction_frame(again, "predicted_baseline_mean").columns.equals(frame.columns)
        assert (leak_marks(again, "predicted") == 0).all()  # though each patient was seen by the model of another
        assert not stp.tl.evaluate(again, **QUICK)["leaky"].any()


def _stored(adata: ad.AnnData, path: Path) -> ad.AnnData:
    adata.write_h5ad(path / "a.h5ad")
    return ad.read_h5ad(path / "a.h5ad")


def test_marks_of_each_object(parts: dict[str, ad.AnnData]) -> None:
    for name in ("p0", "p1"):
        stp.tl.predict(parts[name], stp.tl.fit(parts["p1"], "ridge", baselines=[]))
    marks = leak_marks(stp.concat([parts["p0"], parts["p1"]]), "predicted")
    assert marks.tolist() == [0] * 24 + [1] * 24
    del parts["p0"].uns["stpredict"]["predicted"]["patients_seen"], parts["p0"].obs["predicted_leaky"]
    joined = stp.concat([parts["p0"], parts["p1"]])
    assert leak_marks(joined, "predicted").tolist() == [-1] * 24 + [1] * 24
    assert "predicted" not in stp.concat(parts).obsm
    outer = stp.concat(parts, join="outer")
    assert prediction_frame(outer, "predicted").isna().all(axis=1).tolist() == [False] * 48 + [True] * 24


def test_no_gene_in_common(parts: dict[str, ad.AnnData]) -> None:
    predicted(parts, {"p0": ["G0"], "p1": ["G1"], "p2": ["G0"]})
    with pytest.raises(ValueError, match=r"obsm\['predicted'\].*none in common in p0, p1, p2"):
        stp.concat(parts)


def test_lost_genes_are_not_guessed(parts: dict[str, ad.AnnData]) -> None:
    predicted(parts, dict.fromkeys(parts, ["G0", "G1"]))
    parts["p1"].uns["stpredict"].pop("predicted")
    with pytest.raises(ValueError, match=r"genes of obsm\['predicted'\]"):
        stp.concat(parts)


def test_a_frame_beside_an_array(parts: dict[str, ad.AnnData]) -> None:
    frames = predicted(parts, dict.fromkeys(parts, ["G0", "G1"]))
    parts["p1"].obsm["predicted"] = frames["p1"][["G1", "G0"]]
    pd.testing.assert_frame_equal(prediction_frame(stp.concat(parts), "predicted"), pd.concat(frames.values()))


def test_analyses_of_each_object_are_left_out(parts: dict[str, ad.AnnData]) -> None:
    for number, part in enumerate(parts.values()):
        write_record(part, "domain", {"seed": number})
        write_record(part, "read", {"reader": f"r{number}"})
    with pytest.warns(UserWarning, match="left out: domain; run"):
        joined = stp.concat(parts)
    assert not {"domain", "read"} & set(joined.uns["stpredict"])


def test_unmeasured_sections_and_gaps(parts: dict[str, ad.AnnData], tmp_path: Path) -> None:
    parts["p0"].obs["in_tissue"] = True
    stained = ad.AnnData(obs=parts["p1"].obs[["sample", "patient"]], obsm={"spatial": parts["p1"].obsm["spatial"]})
    joined = stp.concat([parts["p0"], stained], join="outer", fill_value=np.nan)
    assert read_record(joined, "normalize")["method"] == "log1p"
    assert joined.obs["in_tissue"].isna().sum() == 24
    joined.write_h5ad(tmp_path / "a.h5ad")
    assert stp.concat([ad.read_h5ad(tmp_path / "a.h5ad"), joined]).obs["in_tissue"].isna().sum() == 48


def test_errors(parts: dict[str, ad.AnnData]) -> None:
    with pytest.raises(ValueError, match="found none"):
        stp.concat([])
    with pytest.raises(TypeError, match="found DataFrame"):
        stp.concat([parts["p0"], parts["p0"].obs])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="join"):
        stp.concat(parts, join="left")  # type: ignore[arg-type]


def test_views_and_slots_of_classes(parts: dict[str, ad.AnnData]) -> None:
    for number, part in enumerate(parts.values()):
        values = pd.DataFrame(np.full((24, 2), number), part.obs_names, ["a", "b"])
        write_prediction(part, "kind_probability", values, names="classes")
    joined = stp.concat({name: part[::2] for name, part in parts.items()})
    assert prediction_frame(joined, "kind_probability")["b"].tolist() == [0] * 12 + [1] * 12 + [2] * 12
    assert read_record(joined, "kind_probability")["classes"] == ["a", "b"]
