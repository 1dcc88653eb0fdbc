from __future__ import annotations

import warnings
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import pearsonr, spearmanr

import stpredict as stp
from stpredict.slots._prediction import prediction_frame


@pytest.fixture
def scored(toy):
    mask = (toy.obs["patient"] != "p0").to_numpy()
    stp.tl.predict(toy, stp.tl.fit(toy.copy(), "ridge", mask))
    return toy


def test_columns_and_values(scored) -> None:
    table = stp.tl.evaluate(scored)
    metrics = ["pearson", "pearson_given_depth", "pearson_residual", "deviance_explained"]
    metrics += ["spearman", "rmse", "rmse_iqr", "variance_ratio", "ssim", "emd"]
    ceilings = ["ceiling", "residual_ceiling", "deviance_ceiling"]
    expected = ["model", "sample", "patient", "gene", *metrics, *ceilings, "n_obs", "leaky"]
    assert list(table.columns) == expected
    assert set(table["model"]) == {"ridge", "mean", "ridge (smoothed)"}
    assert len(table) == 3 * 6 * 6
    line = table[(table["model"] == "ridge") & (table["sample"] == "s3") & (table["gene"] == "G2")].iloc[0]
    rows = (scored.obs["sample"] == "s3").to_numpy()
    truth, predicted = scored.X[rows, 2], prediction_frame(scored, "predicted").loc[rows, "G2"]
    assert line["pearson"] == pytest.approx(pearsonr(truth, predicted)[0], abs=1e-6)
    assert line["spearman"] == pytest.approx(spearmanr(truth, predicted)[0], abs=1e-6)
    assert line["rmse"] == pytest.approx(np.sqrt(np.mean((truth - predicted) ** 2)), rel=1e-5)
    assert line["variance_ratio"] == pytest.approx(predicted.var(ddof=0) / truth.var(), rel=1e-4)
    assert line["n_obs"] == 12
    assert (table["leaky"] == (table["patient"] != "p0")).all()
    assert table.loc[table["model"] == "mean", "pearson"].isna().all()


def test_sparse_equals_dense(scored) -> None:
    table = stp.tl.evaluate(scored)
    scored.X = sparse.csr_matrix(scored.X)
    scored.layers["counts"] = sparse.csr_matrix(scored.layers["counts"])
    pd.testing.assert_frame_equal(stp.tl.evaluate(scored), table)


def test_only_tissue_counts(scored) -> None:
    part = scored.copy()
    part.obs["in_tissue"] = np.arange(72) % 12 != 0
    table = stp.tl.evaluate(part, metrics=["pearson"], baselines=False)
    assert (table["n_obs"] == 11).all()
    kept = scored[np.arange(72) % 12 != 0].copy()
    pd.testing.assert_frame_equal(table, stp.tl.evaluate(kept, metrics=["pearson"], baselines=False))


def test_genes(scored) -> None:
    options = {"metrics": ["pearson", "rmse"], "baselines": False, "ceiling": False}  # whose draws depend on the genes
    whole = stp.tl.evaluate(scored, **options)
    some = stp.tl.evaluate(scored, genes=["G4", "G0"], **options)
    wanted = whole[whole["gene"].isin(["G4", "G0"])]
    assert set(some.pop("chosen_genes")) == {f"2 of {whole['gene'].nunique()}"}
    columns = ["sample", "gene"]
    pd.testing.assert_frame_equal(
        some.sort_values(columns, ignore_index=True), wanted.sort_values(columns, ignore_index=True)
    )
    scored.obsm["predicted"] = prediction_frame(scored, "predicted").drop(columns="G4")
    with pytest.raises(KeyError, match="missing G4"):
        stp.tl.evaluate(scored, genes=["G4", "G0"], baselines=False)
    with pytest.raises(KeyError, match="missing NOPE"):
        stp.tl.evaluate(scored, genes=["NOPE"])
    with pytest.raises(ValueError, match="at least one gene"):
        stp.tl.evaluate(scored, genes=[])


def test_distance_of_maps_is_near_that_of_many_directions(scored) -> None:
    table = stp.tl.evaluate(scored, metrics=["emd"], baselines=False, ceiling=False)
    for name, own in table.groupby("sample"):
        rows = (scored.obs["sample"] == name).to_numpy()
        maps = (scored.X[rows], scored.obsm["predicted"][rows], scored.obsm["spatial"][rows])
        many = stp.metrics.emd(*maps, max_exact=0, n_projections=1000)
        np.testing.assert_allclose(own["emd"], many, rtol=0.02)


def test_two_predictions_of_one_model_are_two_lines(scored) -> None:
    scored.obsm["second"] = -prediction_frame(scored, "predicted")
    scored.uns["stpredict"]["second"] = {"model": "ridge"}
    table = stp.tl.evaluate(scored, ["predicted", "second"], metrics=["pearson"], baselines=False)
    means = table.groupby("model")["pearson"].mean()
    assert means["ridge"] == pytest.approx(-means["second"])


def test_smoothed_line_is_the_mean_with_neighbors(scored) -> None:
    """On 12 spots, 6 neighbors each: recomputed with sklearn."""
    from sklearn.neighbors import NearestNeighbors

    scored.obsm["spatial"] = np.random.default_rng(0).uniform(0, 1000, (72, 2))
    table = stp.tl.evaluate(scored, metrics=["pearson"])
    rows = np.flatnonzero(scored.obs["sample"] == "s1")
    xy = scored.obsm["spatial"][rows]
    index = NearestNeighbors(n_neighbors=7).fit(xy).kneighbors(xy, return_distance=False)
    smooth = prediction_frame(scored, "predicted")["G0"].to_numpy()[rows][index].mean(axis=1)
    line = table[(table["model"] == "ridge (smoothed)") & (table["sample"] == "s1") & (table["gene"] == "G0")]
    assert line["pearson"].item() == pytest.approx(pearsonr(scored.X[rows, 0], smooth)[0], abs=1e-5)


def test_undefined_correlations_are_counted_not_hidden(scored) -> None:
    scored.X[:, 3] = 1.5  # constant everywhere
    part = scored[(scored.obs["sample"] != "s5") | (scored.obs_names == "o60")].copy()  # one spot of s5
    table = stp.tl.evaluate(part, metrics=["pearson", "rmse"], baselines=False)
    assert len(table) == 36
    undefined = table["pearson"].isna()
    assert undefined.sum() == 6 + 5
    assert table.loc[table["sample"] == "s5", "n_obs"].eq(1).all()
    summary = stp.tl.summarize(table).iloc[0]
    assert (summary["n_undefined"], summary["n_scores"], summary["n_genes"]) == (11, 36, 6)
    by_hand = table.groupby(["patient", "sample"])["pearson"].mean().groupby("patient").mean().mean()
    assert summary["pearson"] == pytest.approx(by_hand)


def test_all_metrics_survive_one_spot(scored) -> None:
    table = stp.tl.evaluate(scored[["o0", "o30", "o31"]].copy(), ceiling=True)
    assert table["pearson"].isna().sum() >= 12
    assert np.isfinite(table["rmse"]).all()


def test_partly_predicted_section_is_scored_where_predicted(scored) -> None:
    scored.obsm["predicted"][:4] = np.nan
    table = stp.tl.evaluate(scored, metrics=["pearson"], baselines=False)
    line = table[(table["sample"] == "s0") & (table["gene"] == "G1")]
    assert line["n_obs"].item() == 8
    expected = pearsonr(scored.X[4:12, 1], prediction_frame(scored, "predicted")["G1"].to_numpy()[4:12])[0]
    assert line["pearson"].item() == pytest.approx(expected, abs=1e-6)


BAD = {
    "no_prediction": (None, {"key": "nothing"}, KeyError, r"obsm\['nothing'\].*stp.tl.predict"),
    "metric": (None, {"metrics": ["pearsn"]}, ValueError, r"'pearson'.*found 'pearsn'"),
    "not_a_frame": (lambda a: a.obsm.__setitem__("predicted", a.obsm["X_toy"]), {}, ValueError,
                    r"6 names for an array of shape"),
    "not_normalized": (lambda a: a.uns["stpredict"].pop("normalize"), {}, KeyError, r"stp.pp.normalize"),
    "layer": (None, {"layer": "smooth"}, KeyError, r"layers\['smooth'\]"),
    "patient": (lambda a: a.obs.drop(columns="patient", inplace=True), {}, KeyError, r"obs\['patient'\]"),
    "no_measurement": (lambda a: setattr(a, "obs", a.obs.assign(measured=False)), {}, KeyError, r"at least one predicted section"),
    "given": (None, {"given": ["nuclei"]}, KeyError, r"obs\['nuclei'\].*numbers"),
    "given_text": (None, {"given": ["sample"]}, TypeError, "found sample"),
    "no_expression": (lambda a: setattr(a, "X", None), {}, ValueError, r"found none; run stp.pp.normalize"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_changes_nothing(scored, frozen, case: str) -> None:
    change, options, error, message = BAD[case]
    if change is not None:
        change(scored)
    before = None if scored.X is None else frozen(scored)
    with pytest.raises(error, match=message):
        stp.tl.evaluate(scored, **options)
    assert before is None or frozen(scored) == before


@pytest.mark.parametrize("size_factors", ["all", "panel"])
def test_correlation_given_depth_takes_the_counts_behind_the_size_factors(toy, size_factors):
    panel = ["G1", "G3", "G4"]
    stp.pp.normalize(toy, size_factors=size_factors, panel=panel if size_factors == "panel" else None)
    rng = np.random.default_rng(0)
    toy.obsm["predicted"] = pd.DataFrame(rng.normal(size=(72, 3)), toy.obs_names, panel)
    scores = stp.tl.evaluate(toy, metrics=["pearson_given_depth"], baselines=False, ceiling=False)
    columns = panel if size_factors == "panel" else list(toy.var_names)
    for name, table in scores.groupby("sample"):
        here = (toy.obs["sample"] == name).to_numpy()
        depth = np.log1p(np.asarray(toy[here, columns].layers["counts"].sum(axis=1, dtype=np.float64)).ravel())
        truth, predicted = np.asarray(toy[here, panel].X), toy.obsm["predicted"][here].to_numpy()
        np.testing.assert_allclose(
            table["pearson_given_depth"], stp.metrics.partial_pearson(truth, predicted, depth), rtol=1e-6
        )


def test_correlation_given_depth_is_undefined_without_counts(toy):
    toy.obsm["predicted"] = pd.DataFrame(np.random.default_rng(0).normal(size=(72, 2)), toy.obs_names, ["G0", "G1"])
    metrics = ["pearson", "pearson_given_depth"]
    known = stp.tl.evaluate(toy, metrics=metrics, baselines=False)["pearson_given_depth"]
    del toy.layers["counts"]  # the depth of every spot is still there
    scores = stp.tl.evaluate(toy, metrics=metrics, baselines=False)
    np.testing.assert_array_equal(scores["pearson_given_depth"], known)
    del toy.obs["depth"]
    scores = stp.tl.evaluate(toy, metrics=metrics, baselines=False)
    assert scores["pearson_given_depth"].isna().all()
    assert scores["pearson"].notna().all()


def test_correlation_given_columns_of_obs_and_depth(toy):
    """Per section, over the spots that have a number; without counts given the columns alone."""
    rng = np.random.default_rng(0)
    stp.pp.normalize(toy)
    genes = ["G1", "G3"]
    toy.obsm["predicted"] = pd.DataFrame(rng.normal(size=(72, 2)), toy.obs_names, genes)
    toy.obs["density"] = rng.normal(size=72)
    toy.obs.loc[toy.obs_names[:2], "density"] = np.nan
    options = {"metrics": ["pearson"], "baselines": False, "ceiling": False}
    plain = stp.tl.evaluate(toy, **options)
    table = stp.tl.evaluate(toy, given=["density"], **options)
    pd.testing.assert_frame_equal(table[plain.columns], plain)
    assert set(table["given"]) == {"depth, density"}
    depth = np.log1p(toy.obs["depth"].to_numpy())
    del toy.layers["counts"], toy.obs["depth"]
    alone = stp.tl.evaluate(toy, given="density", **options)
    assert set(alone["given"]) == {"density"}
    density = toy.obs["density"].to_numpy()
    for covariates, found in ((np.column_stack([depth, density]), table), (density[:, None], alone)):
        for name, part in found.groupby("sample"):
            here = ((toy.obs["sample"] == name) & toy.obs["density"].notna()).to_numpy()
            truth, predicted = np.asarray(toy[here, genes].X), toy.obsm["predicted"][here].to_numpy()
            expected = stp.metrics.partial_pearson(truth, predicted, covariates[here])
            np.testing.assert_allclose(part["pearson_given"], expected, rtol=1e-6)
    summary = stp.tl.summarize(table)
    assert summary["given"].item() == "depth, density"
    assert np.isfinite(summary["pearson_given"].item())


@pytest.fixture
def gridded(toy) -> tuple[object, np.ndarray]:
    """Predictions that are constant on tissue, in sections with a grid of 20 × 9 cells (32 × 16 padded), but for s5."""
    toy.obsm["predicted"] = pd.DataFrame(np.ones((72, 6)), toy.obs_names, toy.var_names)
    toy.uns["stpredict"]["grid"] = {"shape": {f"s{i}": np.array([20, 9]) for i in range(5)}}
    return toy


def test_published_correlation_counts_the_padded_grid(gridded) -> None:
    metrics = ("pearson", "pearson_with_background")
    scores = stp.tl.evaluate(gridded, metrics=metrics, baselines=False, ceiling=False)
    assert scores["pearson"].isna().all()
    assert scores.loc[scores["sample"] == "s5", "pearson_with_background"].isna().all()
    truth = np.zeros((512, 6))
    truth[:12] = gridded[gridded.obs["sample"] == "s1"].X
    expected = [np.corrcoef(truth[:, g], np.arange(512) < 12)[0, 1] for g in range(6)]
    found = scores.loc[scores["sample"] == "s1", "pearson_with_background"]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert found.min() > 0.8
    summary = stp.tl.summarize(scores).iloc[0]
    assert summary["n_undefined"] == summary["n_scores"]
    assert summary["pearson_with_background"] > 0.8


def test_off_tissue_and_untested_spots_keep_the_size_of_the_map(gridded) -> None:
    gridded.obs["in_tissue"] = np.arange(72) % 12 > 0
    gridded.obsm["predicted"].iloc[1:5] = np.nan
    scores = stp.tl.evaluate(gridded, metrics=("pearson_with_background",), baselines=False, ceiling=False)
    truth = np.zeros((512 - 4, 6))
    truth[:7] = gridded.X[5:12]
    expected = [np.corrcoef(truth[:, g], np.arange(508) < 7)[0, 1] for g in range(6)]
    np.testing.assert_allclose(scores.loc[scores["sample"] == "s0", "pearson_with_background"], expected, rtol=1e-6)


def test_published_correlation_is_no_default(gridded) -> None:
    assert "pearson_with_background" not in stp.tl.evaluate(gridded, baselines=False, ceiling=False)


@pytest.fixture
def compared(slides: ad.AnnData) -> ad.AnnData:
    """Slides with a prediction of their genes in another order, and a baseline of some of them."""
    rng = np.random.default_rng(1)
    values = slides.X + rng.normal(size=slides.shape).astype(np.float32)
    slides.obsm["predicted"] = pd.DataFrame(values, slides.obs_names, slides.var_names).iloc[:, ::-1]
    slides.obsm["predicted_baseline_ridge"] = slides.obsm["predicted"].iloc[:, 2:5] + 1
    return slides


def test_patients_are_compared_gene_by_gene(compared: ad.AnnData) -> None:
    scores = stp.tl.evaluate(compared)
    assert scores["model"].unique().tolist() == ["predicted", "ridge"]  # nothing is smoothed over neighbors
    patient = compared.obs["patient"].to_numpy()
    for slot, label in (("predicted", "predicted"), ("predicted_baseline_ridge", "ridge")):
        frame = compared.obsm[slot].groupby(patient).mean()
        truth = compared.to_df().groupby(patient).mean()[frame.columns]
        found = scores[scores["model"] == label].set_index("gene")
        np.testing.assert_allclose(
            found.loc[frame.columns, "rmse"], stp.metrics.rmse(truth.to_numpy(), frame.to_numpy()), rtol=1e-5
        )
        np.testing.assert_allclose(
            found.loc[frame.columns, "pearson"], stp.metrics.pearson(truth.to_numpy(), frame.to_numpy()), rtol=1e-5
        )
    some = stp.tl.evaluate(compared, genes=["g5", "g1"])
    assert some.loc[some["model"] == "predicted", "gene"].tolist() == ["g5", "g1"]
    pd.testing.assert_series_equal(
        some[some["model"] == "predicted"].set_index("gene")["rmse"],
        scores[scores["model"] == "predicted"].set_index("gene").loc[["g5", "g1"], "rmse"],
    )


def test_unmeasured_and_unpredicted_slides_do_not_count(compared: ad.AnnData) -> None:
    assert (stp.tl.evaluate(compared)["leaky"] == "unknown").all()  # nobody said which patients the models saw
    compared.obs["predicted_leaky"] = False
    rest = stp.tl.evaluate(compared[8:].copy())
    compared.obsm["predicted"].iloc[:4] = np.nan  # no fold predicted them
    compared.obsm["predicted_baseline_ridge"].iloc[:4] = np.nan
    compared.obs["measured"] = np.arange(compared.n_obs) >= 8
    compared.obs["predicted_leaky"] = np.arange(compared.n_obs) < 8
    scores = stp.tl.evaluate(compared)
    assert (scores["n_obs"] == 8).all()
    assert not scores["leaky"].any()  # those that leak are not among them
    pd.testing.assert_frame_equal(scores, rest, rtol=1e-5)
    compared.obs["predicted_leaky"] = np.arange(compared.n_obs) == 8
    assert stp.tl.evaluate(compared)["leaky"].all()
    del compared.obs["measured"]  # measured after all
    assert (stp.tl.evaluate(compared)["n_obs"] == 10).all()
    compared.obs["measured"] = False
    with pytest.raises(KeyError, match="at least one predicted slide"):
        stp.tl.evaluate(compared)


@pytest.fixture
def squares():
    """Three sections of 8 by 8 spots with a noisy prediction of four genes."""
    rng = np.random.default_rng(0)
    row, col = np.divmod(np.tile(np.arange(64), 3), 8)
    obs = pd.DataFrame({"array_row": row, "array_col": col}, index=[f"o{i}" for i in range(192)])
    obs["sample"] = obs["patient"] = np.repeat(["s1", "s2", "s3"], 64)
    adata = ad.AnnData(rng.normal(size=(192, 4)), obs=obs, var=pd.DataFrame(index=list("ABCD")))
    adata.obsm["predicted"] = pd.DataFrame(adata.X + rng.normal(size=(192, 4)), adata.obs_names, list("DCBA"))
    adata.uns["log1p"] = {}
    return adata[rng.permutation(192)].copy()


SSIM = {"metrics": ["pearson", "ssim"], "baselines": False, "ceiling": False}


def test_ssim_is_that_of_the_maps_of_a_section(squares) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = stp.tl.evaluate(squares, **SSIM)
    assert list(table.columns) == ["model", "sample", "patient", "gene", "pearson", "ssim", "n_obs", "leaky"]
    here = squares[squares.obs["sample"] == "s3"]
    genes = list("ABCD")
    expected = stp.metrics.ssim(
        here[:, genes].X, here.obsm["predicted"][genes].to_numpy(), here.obs["array_row"], here.obs["array_col"]
    )
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(table[table["sample"] == "s3"].set_index("gene")["ssim"][genes], expected)


@pytest.mark.parametrize("absent", [np.nan, 0.5, 0.0, "none"])
def test_ssim_is_undefined_off_the_lattice_and_said(squares, absent) -> None:
    """Positions that are missing, no whole numbers, shared by several spots, or text, in one of the sections."""
    plain = stp.tl.evaluate(squares, **SSIM)
    assert plain["ssim"].notna().all()
    column = squares.obs["array_row"].astype(object if isinstance(absent, str) else float)
    column[squares.obs["sample"] == "s3"] = absent
    squares.obs["array_row"] = column
    with pytest.warns(UserWarning, match=r"undefined \(NaN\) in 1 sections.*: s3$"):
        table = stp.tl.evaluate(squares, **SSIM)
    off = (table["sample"] == "s3").to_numpy()
    assert table.loc[off, "ssim"].isna().all()
    pd.testing.assert_frame_equal(table[~off], plain[~off])
    assert table.loc[off, "pearson"].equals(plain.loc[off, "pearson"])
    del squares.obs["array_row"]
    with pytest.warns(UserWarning, match="in 3 sections"):
        assert stp.tl.evaluate(squares, **SSIM)["ssim"].isna().all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stp.tl.evaluate(squares, **SSIM | {"metrics": ["pearson"]})


@pytest.mark.parametrize("asked", [None, False, True])
def test_a_bar_is_shown_where_it_is_asked_for(monkeypatch: pytest.MonkeyPatch, asked: bool | None) -> None:
    from stpredict.core import _progress

    adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=40, n_genes=5)
    stp.pp.normalize(adata)
    shown: list[bool] = []
    monkeypatch.setattr(stp.settings, "progress", True)
    real = _progress.ticks

    def ticks(total: int, what: str, unit: str, show: bool | None = None) -> Any:
        shown.append(stp.settings.progress if show is None else show)
        return real(total, what, unit, False)

    monkeypatch.setattr("stpredict.tl.judge._evaluate.ticks", ticks)
    stp.tl.cross_validate(adata, ["mean"], baselines=["null"], metrics=["pearson"], ceiling=False, progress=asked)
    assert shown
    assert set(shown) == {asked is not False}
