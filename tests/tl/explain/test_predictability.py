"""Which genes places that look alike share, and that chance is told from it."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.ndimage import gaussian_filter
from scipy.stats import kstest, norm

import stpredict as stp

SIDE = 14
GRID = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2) * 200.0


def smooth(rng, n, length=1.5):
    """Smooth random maps (SIDE * SIDE, n) of unit variance."""
    field = gaussian_filter(rng.normal(size=(n, SIDE + 12, SIDE + 12)), (0, length, length))[:, 6:-6, 6:-6]
    flat = field.reshape(n, -1).T
    return (flat - flat.mean(axis=0)) / flat.std(axis=0)


def tissue(seed=0, *, patients=2, sections=1, related=0, unrelated=40, rate=3.0, permuted=False):
    """Sections with three smooth features, genes that follow them, and genes with smooth maps of their own."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(size=(3, related)) * 0.5
    counts, features, obs = [], [], []
    for patient in range(patients):
        for section in range(sections):
            image = smooth(rng, 3)
            log_rate = np.hstack([image @ effect, 0.5 * smooth(rng, unrelated)]) if unrelated else image @ effect
            depth = rng.gamma(6, 1 / 6, size=(SIDE**2, 1))
            counts.append(rng.poisson(depth * rate * np.exp(log_rate)))
            order = rng.permutation(SIDE**2) if permuted else slice(None)
            features.append(image[order] * [1, 3, 1] + 5 * patient)
            obs.append(pd.DataFrame({"sample": f"s{patient}{section}", "patient": f"p{patient}"}, index=range(SIDE**2)))
    table = pd.concat(obs, ignore_index=True)
    table.index = table.index.astype(str)
    counts = np.concatenate(counts).astype(np.float32)
    adata = ad.AnnData(obs=table, var=pd.DataFrame(index=[f"G{i}" for i in range(counts.shape[1])]))
    adata.layers["counts"] = sparse.csr_matrix(counts)
    adata.obsm["X_image"] = np.concatenate(features).astype(np.float32)
    adata.obsm["spatial"] = np.tile(GRID, (patients * sections, 1))
    return adata


def by_gene(table):
    return table.set_index("gene").loc[sorted(table["gene"], key=lambda name: int(name[1:]))]


def test_genes_that_follow_the_picture_are_found_and_come_first():
    adata = tissue(related=10, unrelated=30)
    table = stp.tl.predictability(adata, "image", n_neighbors=10)
    assert set(table["gene"][:10]) == {f"G{i}" for i in range(10)}
    own, other = by_gene(table)[:10], by_gene(table)[10:]
    assert (own["q"] < 0.05).all()
    assert (other["q"] < 0.05).mean() < 0.1
    strong = own[own["ceiling"] > 0.5]
    assert len(strong) >= 6
    assert ((strong["pearson"] > 0.5 * strong["ceiling"]) & (strong["pearson"] < strong["ceiling"])).all()
    assert set(table["neighbors_from"]) == {"other patients"}
    assert table[["n_obs", "n_sections", "n_patients"]].drop_duplicates().values.tolist() == [[2 * SIDE**2, 2, 2]]


def test_p_is_uniform_under_permuted_features():
    """With power: z too large by a fifth would be seen."""
    tables = [stp.tl.predictability(tissue(seed, unrelated=250, permuted=True), "image") for seed in range(6)]
    z, p = (pd.concat(tables)[name].to_numpy() for name in ("z", "p"))
    assert np.isfinite(p).all()
    assert kstest(p, "uniform").pvalue > 0.01
    assert kstest(norm.sf(1.2 * z), "uniform").pvalue < 0.001
    assert kstest(norm.sf(z / 1.2), "uniform").pvalue < 0.001


def test_smooth_maps_that_have_nothing_to_do_with_each_other_are_no_finding():
    """What a null of shuffled rows would say of them: benchmarks/predictability.py."""
    found = pd.concat([stp.tl.predictability(tissue(seed, unrelated=60), "image") for seed in range(10)])
    assert 0.02 < (found["p"] < 0.05).mean() < 0.09
    assert (found["p"] < 0.001).mean() < 0.006


@pytest.mark.parametrize("sections", [1, 2])
def test_rows_in_another_order_and_shifts_of_sections_change_nothing(sections):
    adata = tissue(sections=sections, related=4, unrelated=4)
    expected = by_gene(stp.tl.predictability(adata, "image"))
    order = np.random.default_rng(0).permutation(adata.n_obs)
    moved = adata[order].copy()
    moved.layers["counts"] = moved.layers["counts"].toarray()
    shift = np.array([[3.0, -2, 7]]) * pd.factorize(moved.obs["sample"])[0][:, None]
    moved.obsm["X_image"] = moved.obsm["X_image"] * 4 + shift.astype(np.float32)
    found = by_gene(stp.tl.predictability(moved, "image"))
    columns = ["pearson", "ceiling", "z", "p", "n_obs"]
    np.testing.assert_allclose(found[columns], expected[columns], rtol=2e-3, atol=1e-4)


def test_genes_asked_for_and_blocks_of_genes_give_what_all_give(monkeypatch):
    adata = tissue(related=4, unrelated=6)
    expected = by_gene(stp.tl.predictability(adata, "image"))
    monkeypatch.setattr("stpredict.tl.explain._predictability._BLOCK", 3 * adata.n_obs)
    some = by_gene(stp.tl.predictability(adata, "image", genes=["G7", "G0"]))
    np.testing.assert_allclose(
        some[["pearson", "z", "p"]], expected.loc[["G0", "G7"], ["pearson", "z", "p"]], rtol=1e-4
    )
    assert adata.var["predictability_q"].notna().tolist() == [g in {"G0", "G7"} for g in adata.var_names]
    every = by_gene(stp.tl.predictability(adata, "image"))
    np.testing.assert_allclose(every[["pearson", "z"]], expected[["pearson", "z"]], rtol=1e-4, atol=1e-6)


def test_rare_genes_and_those_of_one_patient_are_undefined():
    adata = tissue(related=3, unrelated=2)
    counts = adata.layers["counts"].tolil()
    counts[:, 0] = 0
    counts[:5, 0] = 1
    counts[SIDE**2 :, 1] = 0
    adata.layers["counts"] = counts.tocsr()
    table = by_gene(stp.tl.predictability(adata, "image"))
    assert table["p"].isna().tolist() == [True, True, False, False, False]
    assert table["pearson"].isna().tolist() == [True, True, False, False, False]
    assert table["n_patients"].tolist() == [0, 1, 2, 2, 2]
    alone = by_gene(stp.tl.predictability(adata, "image", genes=["G2", "G3", "G4"]))
    np.testing.assert_allclose(table["q"], [np.nan, np.nan, *alone["q"]], rtol=1e-4)


def test_results_are_written_and_survive_a_file(tmp_path):
    adata = tissue(related=2, unrelated=2)
    table = by_gene(stp.tl.predictability(adata, "image", key_added="seen"))
    adata.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    for column, name in (("seen", "pearson"), ("seen_q", "q"), ("seen_ceiling", "ceiling")):
        np.testing.assert_allclose(again.var[column], table[name])
    record = again.uns["stpredict"]["seen"]
    assert record["neighbors_from"] == "other patients"
    assert list(record["features"]) == ["X_image"]


def test_one_patient_is_said_and_looks_among_other_sections():
    adata = tissue(patients=1, sections=2, related=4, unrelated=4)
    with pytest.warns(UserWarning, match="one patient: neighbors come from other sections"):
        table = stp.tl.predictability(adata, "image")
    assert set(table["neighbors_from"]) == {"other sections of the patient"}
    assert (by_gene(table)["q"][:4] < 0.05).all()


def test_one_section_is_said_and_looks_among_blocks_behind_a_buffer():
    adata = tissue(patients=1, related=4, unrelated=4, rate=10)
    adata.uns["spatial"] = {"s00": {"scalefactors": {"microns_per_pixel": 1.0}}}
    adata.uns["stpredict"] = {"X_image": {"encoder": "image", "tile_um": 200.0}}
    # Other features that look further, or less far, have no say.
    adata.obsm["X_other"] = adata.obsm["X_image"]
    adata.uns["stpredict"]["X_other"] = {"encoder": "other", "tile_um": 20.0}
    with pytest.warns(UserWarning, match="one patient: neighbors come from other blocks"):
        table = by_gene(stp.tl.predictability(adata, "image"))
    assert set(table["neighbors_from"]) == {"other blocks of the section"}
    folds = stp.cohorts.spatial_blocks(adata, 4, 220.0)
    pd.testing.assert_frame_equal(by_gene(stp.tl.predictability(adata, "image", across=folds)), table)
    # What lies in the buffer of a block, or in the block itself, is nobody's neighbor there.
    adata.uns["stpredict"].pop("X_image")
    with pytest.raises(ValueError, match="how far the features of X_image look"):
        stp.tl.predictability(adata, "image", across="blocks")
    wide = by_gene(stp.tl.predictability(adata, "image", across=stp.cohorts.spatial_blocks(adata, 2, 900.0)))
    assert not np.allclose(wide["pearson"], table["pearson"])


def test_other_sections_of_two_patients_are_those_of_the_own_patient():
    adata = tissue(sections=2, related=3, unrelated=3)
    table = by_gene(stp.tl.predictability(adata, "image", across="sections"))
    # Neighbors of the other patient would be taken first, were they looked at.
    copy = adata.copy()
    own = (copy.obs["patient"] == "p1").to_numpy()
    counts = copy.layers["counts"].toarray()
    counts[own] = np.random.default_rng(0).permutation(counts[own])
    copy.layers["counts"] = counts
    changed = by_gene(stp.tl.predictability(copy, "image", across="sections"))
    assert set(table["neighbors_from"]) == {"other sections of the patient"}
    assert (changed["pearson"][:3] < table["pearson"][:3]).all()
    with pytest.raises(ValueError, match="expected other sections of the patient, with"):
        stp.tl.predictability(adata[adata.obs["sample"].isin(["s00", "s10"])].copy(), "image", across="sections")


@pytest.mark.parametrize(
    ("change", "options", "error", "words"),
    [
        (lambda a: a.layers.pop("counts"), {}, KeyError, "layers"),
        (lambda a: a.obsm.pop("X_image"), {}, KeyError, "X_image"),
        (lambda a: a.obsm.pop("spatial"), {}, KeyError, "spatial"),
        (lambda a: a.layers.update(counts=a.layers["counts"] * 0.5), {}, ValueError, "whole-number"),
        (lambda a: a.layers.update(counts=a.layers["counts"] * 0), {}, ValueError, "found none"),
        (lambda a: None, {"n_neighbors": 0}, ValueError, "n_neighbors"),
        (lambda a: None, {"n_components": 1.5}, ValueError, "n_components"),
        (lambda a: None, {"across": "spots"}, ValueError, "across"),
        (lambda a: None, {"genes": ["nothing"]}, KeyError, "nothing"),
        (lambda a: a.obs.drop(columns="patient", inplace=True), {}, KeyError, "patient"),
    ],
)
def test_errors_say_what_was_expected_and_leave_the_object(change, options, error, words):
    adata = tissue(unrelated=3)
    change(adata)
    before = adata.copy()
    with pytest.raises(error, match=words):
        stp.tl.predictability(adata, "image", **options)
    pd.testing.assert_frame_equal(adata.var, before.var)
    assert "stpredict" not in adata.uns
