from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse, stats

import stpredict as stp
from stpredict.metrics import _pairs, benjamini_hochberg, pearson, pearson_p, rmse, rmse_iqr, steiger_z, williams_t

NAMES = ("untrained", "permuted", "ridge")


def make(truth, predicted, comparators, *, patient=None, fold=None) -> ad.AnnData:
    """Slides with a record of their normalization."""
    n, g = truth.shape
    obs = pd.DataFrame(
        {"patient": np.arange(n).astype(str) if patient is None else patient}, index=[f"s{i}" for i in range(n)]
    )
    slides = ad.AnnData(truth, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(g)]))
    slides.uns["stpredict"] = {"normalize": {"method": "log2"}}
    slides.obsm["predicted"] = pd.DataFrame(predicted, slides.obs_names, slides.var_names)
    for name, values in comparators.items():
        slides.obsm[f"predicted_baseline_{name}"] = pd.DataFrame(values, slides.obs_names, slides.var_names)
    if fold is not None:
        slides.obs["predicted_fold"] = fold
    return slides


def simulate(seed=0, n=60, g=200, signal=40, quality=1.0):
    """Truth, a prediction that follows it for the first genes, and three comparators that follow nothing."""
    rng = np.random.default_rng(seed)
    truth = 5 + rng.normal(size=(n, g))
    follows = quality * (np.arange(g) < signal)
    predicted = 5 + 0.5 * (follows * (truth - 5) + rng.normal(size=truth.shape))
    comparators = {name: 5 + rng.normal(size=truth.shape) for name in NAMES}
    return truth, predicted, comparators


@pytest.fixture
def arrays():
    return simulate()


@pytest.fixture
def slides(arrays) -> ad.AnnData:
    truth, predicted, comparators = arrays
    return make(truth, predicted, comparators, fold=np.arange(60) % 5)


@pytest.mark.parametrize(("test", "function"), [("williams", williams_t), ("steiger", steiger_z)])
def test_columns_match_the_metrics(slides, arrays, test, function):
    truth, predicted, comparators = arrays
    table = stp.tl.well_predicted(slides, test=test)
    assert table["gene"].tolist() == list(slides.var_names)
    r = pearson(truth, predicted)
    np.testing.assert_allclose(table["pearson"], r, rtol=1e-10)
    np.testing.assert_allclose(table["pearson_p"], pearson_p(r, 60), rtol=1e-8)
    np.testing.assert_allclose(table["rmse"], rmse(truth, predicted), rtol=1e-10)
    np.testing.assert_allclose(table["rmse_iqr"], rmse_iqr(truth, predicted), rtol=1e-10)
    passes = (r > 0) & (pearson_p(r, 60) < 0.05)
    for name, other in comparators.items():
        r2, r12 = pearson(truth, other), pearson(predicted, other)
        statistic, p = function(r, r2, r12, 60)
        q = benjamini_hochberg(p)
        for column, values in {
            "pearson": r2, "r_between": r12, "rmse": rmse(truth, other), "statistic": statistic, "p": p, "q": q,
        }.items():  # fmt: skip
            np.testing.assert_allclose(table[f"{column}_{name}"], values, rtol=1e-7)
        beats = (r > r2) & (p < 0.05) & (q < 0.2) & (rmse(truth, predicted) < rmse(truth, other))
        np.testing.assert_array_equal(table[f"beats_{name}"], beats)
        passes &= beats
    np.testing.assert_array_equal(table["well_predicted"], passes)
    assert table["well_predicted"][:40].mean() > 0.5
    assert table.attrs["n_well_predicted"] == passes.sum()
    assert table.attrs["n_patients"] == 60
    assert table.attrs["test"] == test


@pytest.mark.parametrize("independent", [True, False])
def test_noise_stays_within_the_false_discovery_rate(independent):
    """2,000 genes that nothing predicts: no run may call more than the share of the false-discovery rate, few any."""
    rng = np.random.default_rng(11)
    calls = []
    for _ in range(10):
        truth = rng.normal(size=(50, 2000)).astype(np.float32)
        shared = 0 if independent else rng.normal(size=truth.shape)
        predicted, other = (shared + rng.normal(size=truth.shape) for _ in range(2))
        # The comparator is of a larger scale, so that the errors alone would let every gene pass.
        table = stp.tl.well_predicted(make(truth, 0.1 * predicted, {"permuted": 3 * other}), comparators=["permuted"])
        assert (table["rmse"] < table["rmse_permuted"]).mean() > 0.99
        calls.append(table.attrs["n_well_predicted"])
    assert max(calls) <= 0.2 * 2000
    assert np.mean(np.array(calls) > 0) <= 0.3  # expected at most 0.2
    assert np.mean(calls) < 2


def test_false_share_among_the_called():
    called = false = 0
    for seed in range(5):
        truth, predicted, comparators = simulate(seed, g=2000, signal=400, quality=0.8)
        found = stp.tl.well_predicted(make(truth, predicted, comparators), comparators=["permuted"])["well_predicted"]
        called, false = called + found.sum(), false + found[400:].sum()
    assert called > 500
    assert false / called <= 0.2


def test_worse_than_the_comparator_is_no_discovery(arrays):
    """A gene far worse than the comparator has a large statistic of the wrong sign."""
    truth, predicted, comparators = arrays
    comparators["ridge"] = truth + 0.01 * np.random.default_rng(1).normal(size=truth.shape)
    table = stp.tl.well_predicted(make(truth, predicted, comparators))
    assert not table["well_predicted"].any()
    assert (table["p_ridge"] > 0.99).all()
    assert stp.tl.well_predicted(make(truth, predicted, comparators), comparators=["permuted"])["well_predicted"].any()


def test_lower_error_is_asked_for(arrays):
    truth, predicted, comparators = arrays
    table = stp.tl.well_predicted(make(truth, predicted + 100, comparators))
    assert (table["p_permuted"] < 0.05).any()
    assert not table["well_predicted"].any()


def test_slides_of_a_patient_are_averaged(arrays):
    truth, predicted, comparators = arrays
    expected = stp.tl.well_predicted(make(truth, predicted, comparators))
    rng = np.random.default_rng(3)
    apart = rng.normal(size=truth.shape)

    def twice(values, spread):
        return np.concatenate([values + spread, values - spread])

    patient = np.tile(np.arange(60), 2).astype(str)
    order = rng.permutation(120)
    both = make(
        twice(truth, apart)[order], twice(predicted, 2 * apart)[order],
        {name: twice(v, -apart)[order] for name, v in comparators.items()}, patient=patient[order],
    )  # fmt: skip
    found = stp.tl.well_predicted(both)
    assert found.attrs["n_patients"] == 60
    assert found.attrs["n_slides"] == 120
    expected, found = (t.set_index("gene") for t in (expected, found))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-6)


def test_correlation_within_folds(arrays):
    """Offsets of the fold models change the correlation over all patients, and not that within folds."""
    truth, predicted, comparators = arrays
    fold = np.repeat([0, 1, 2], [30, 27, 3])  # the last one is too small
    offset = np.array([0.0, 8.0, -20.0])[fold][:, None]
    plain, moved = (
        stp.tl.well_predicted(make(truth, values, comparators, fold=fold)) for values in (predicted, predicted + offset)
    )
    np.testing.assert_allclose(plain["pearson_folds"], moved["pearson_folds"], rtol=1e-8)
    assert abs(plain["pearson"] - moved["pearson"]).max() > 0.2
    for gene in (0, 100):
        z = [np.arctanh(stats.pearsonr(truth[fold == f, gene], predicted[fold == f, gene])[0]) for f in (0, 1)]
        assert plain["pearson_folds"][gene] == pytest.approx(np.tanh(np.average(z, weights=[27, 24])))
    assert stp.tl.well_predicted(make(truth, predicted, comparators))["pearson_folds"].isna().all()


def test_unmeasured_and_unpredicted_slides_are_left_out(slides, arrays):
    truth, predicted, comparators = arrays
    slides.obs["measured"] = np.arange(60) >= 5
    slides.X[:5] = 1e6
    for key in slides.obsm:
        slides.obsm[key].iloc[5:10] = np.nan
    slides.obs["predicted_fold"] = np.where(np.arange(60) < 10, np.nan, np.arange(60) % 5)
    table = stp.tl.well_predicted(slides)
    assert table.attrs["n_patients"] == 50
    np.testing.assert_allclose(table["pearson"], pearson(truth[10:], predicted[10:]), rtol=1e-9)
    slides.X = truth
    slides.X[:5] = np.nan
    del slides.obs["measured"]
    pd.testing.assert_frame_equal(stp.tl.well_predicted(slides), table)


def test_constant_genes_are_counted(slides):
    slides.X[:, 0] = 3.0
    slides.obsm["predicted"]["G1"] = 0.1
    slides.obsm["predicted_baseline_ridge"]["G2"] = 0.1
    before = stp.tl.well_predicted(slides)
    assert before["pearson"].isna().tolist()[:4] == [True, True, False, False]
    assert not before["well_predicted"][:3].any()
    assert before.attrs["n_undefined"] == 2
    assert (before.attrs["n_undefined_ridge"], before.attrs["n_undefined_permuted"]) == (2, 1)
    assert (before["q_ridge"][:3] == 1).all()
    assert np.isnan(before["rmse_iqr"][0])
    assert before.attrs["n_genes"] == 200


def test_mean_is_compared_by_error(slides, arrays):
    truth, _, _ = arrays
    fold = np.arange(60) % 5
    level = np.stack([truth[fold != f].mean(axis=0) for f in range(5)])[fold]
    slides.obsm["predicted_baseline_mean"] = pd.DataFrame(level, slides.obs_names, slides.var_names)
    plain, table = stp.tl.well_predicted(slides), stp.tl.well_predicted(slides, comparators=["permuted", "mean"])
    assert not {"pearson_mean", "p_mean", "q_mean"} & set(table.columns)
    np.testing.assert_allclose(table["rmse_mean"], rmse(truth, level))
    np.testing.assert_array_equal(table["beats_mean"], table["rmse"] < table["rmse_mean"])
    assert "n_undefined_mean" not in table.attrs
    # The correlation over all patients of the mean of the other folds is negative: nothing to test against.
    assert np.median(pearson(truth, level)) < 0
    assert not table.loc[~table["beats_mean"], "well_predicted"].any()
    assert plain.attrs["comparators"] == list(NAMES)


def test_without_comparators(slides):
    table = stp.tl.well_predicted(slides, comparators=[])
    np.testing.assert_array_equal(table["well_predicted"], (table["pearson"] > 0) & (table["pearson_p"] < 0.05))
    assert not any(column.startswith("p_") for column in table.columns)


def test_scaled_error_spans_the_genes(slides):
    scaled = stp.tl.well_predicted(slides)["nrmse_scaled"]
    assert (scaled.min(), scaled.max()) == (0, 1)
    raw = stp.tl.well_predicted(slides)["rmse_iqr"]
    assert scaled.corr(raw) == pytest.approx(1)


def test_panel_in_another_order_and_partly_measured(slides):
    whole = stp.tl.well_predicted(slides).set_index("gene")
    genes = ["G7", "G3", "G150"]
    slides.obsm["predicted"] = slides.obsm["predicted"][genes].assign(unmeasured=1.0)
    for name in NAMES:
        slides.obsm[f"predicted_baseline_{name}"]["unmeasured"] = 1.0
    table = stp.tl.well_predicted(slides)
    assert table["gene"].tolist() == genes
    for column in ("pearson", "p_ridge", "rmse_permuted"):
        np.testing.assert_allclose(table[column], whole.loc[genes, column])


def test_sparse_layer_single_precision_and_blocks(slides, monkeypatch):
    table = stp.tl.well_predicted(slides)
    slides.layers["log2"] = sparse.csr_matrix(slides.X)
    slides.X = np.zeros_like(slides.X)
    monkeypatch.setattr(_pairs, "_BLOCK", 1000)
    pd.testing.assert_frame_equal(stp.tl.well_predicted(slides, layer="log2"), table)
    for key in slides.obsm:
        slides.obsm[key] = slides.obsm[key].astype(np.float32)
    single = stp.tl.well_predicted(slides, layer="log2")
    np.testing.assert_allclose(single["statistic_ridge"], table["statistic_ridge"], rtol=1e-3, atol=1e-4)


def test_leaks_are_carried(slides):
    assert (stp.tl.well_predicted(slides)["leaky"] == "unknown").all()
    slides.obs["predicted_leaky"] = np.arange(60) == 3
    assert stp.tl.well_predicted(slides)["leaky"].all()
    slides.obs["measured"] = np.arange(60) != 3
    assert not stp.tl.well_predicted(slides)["leaky"].any()


def test_other_keys_and_the_object_stays(slides, frozen):
    slides.obs = slides.obs.rename(columns={"patient": "case"})
    for key in list(slides.obsm):
        slides.obsm[key.replace("predicted", "net")] = slides.obsm[key]
        del slides.obsm[key]
    before = frozen(slides)
    assert stp.tl.well_predicted(slides, "net", patient_key="case").attrs["key"] == "net"
    assert frozen(slides) == before


def test_errors(slides, frozen):
    before = frozen(slides)
    with pytest.raises(KeyError, match=r"predicted_baseline_noise.*fit_folds\(slides, model, baselines=\['noise'\]\)"):
        stp.tl.well_predicted(slides, comparators=["ridge", "noise"])
    with pytest.raises(KeyError, match="obsm\\['other'\\]"):
        stp.tl.well_predicted(slides, "other")
    with pytest.raises(ValueError, match="at least 5 patients.*found 4"):
        stp.tl.well_predicted(slides[:4].copy())
    with pytest.raises(ValueError, match="test to be one of"):
        stp.tl.well_predicted(slides, test="student")
    with pytest.raises(ValueError, match="fdr above 0"):
        stp.tl.well_predicted(slides, fdr=0)
    with pytest.raises(KeyError, match="obs\\['person'\\]"):
        stp.tl.well_predicted(slides, patient_key="person")
    assert frozen(slides) == before


def test_errors_of_the_slots(slides):
    slides.obsm["predicted_baseline_ridge"].iloc[3] = np.nan
    with pytest.raises(ValueError, match="same slides.*found 1 of 60"):
        stp.tl.well_predicted(slides)
    slides.obsm["predicted_baseline_ridge"] = slides.obsm["predicted_baseline_permuted"].drop(columns="G4")
    with pytest.raises(ValueError, match="1 missing .*G4"):
        stp.tl.well_predicted(slides)
    slides.obsm["predicted"].iloc[:] = np.nan
    with pytest.raises(ValueError, match="out-of-fold predictions"):
        stp.tl.well_predicted(slides, comparators=[])
    slides.obsm["predicted"] = np.zeros((60, 200))
    with pytest.raises(ValueError, match="DataFrame"):
        stp.tl.well_predicted(slides)


def test_normalization_is_asked_for(slides):
    del slides.uns["stpredict"]
    with pytest.raises(KeyError, match="normalized target"):
        stp.tl.well_predicted(slides)


@pytest.mark.parametrize(("alpha", "fdr"), [(1.0, 1.0), (0.001, 0.2), (0.2, 0.001)])
def test_every_criterion_counts(alpha, fdr):
    """Each level decides for some genes that the other would let pass; at 1, the higher correlation is still asked for."""
    truth, predicted, comparators = simulate(g=300, signal=300, quality=0.5)
    table = stp.tl.well_predicted(make(truth, predicted, comparators), alpha=alpha, fdr=fdr, comparators=["permuted"])
    p, q = table["p_permuted"], table["q_permuted"]
    higher, lower = table["pearson"] > table["pearson_permuted"], table["rmse"] < table["rmse_permuted"]
    beats = higher & lower & (p < alpha) & (q < fdr)
    np.testing.assert_array_equal(table["beats_permuted"], beats)
    without = {
        1.0: lower & (p < alpha) & (q < fdr),
        0.001: higher & lower & (q < fdr),
        0.2: higher & lower & (p < alpha),
    }
    assert without[alpha].sum() > beats.sum() > 0


def test_patients_with_unequally_many_slides(arrays):
    truth, predicted, comparators = arrays
    patient = np.sort(np.concatenate([np.arange(20), np.arange(10), np.arange(10), np.arange(20)])).astype(str)

    def average(values):
        return pd.DataFrame(values).groupby(patient).mean().to_numpy()

    table = stp.tl.well_predicted(make(truth, predicted, comparators, patient=patient))
    np.testing.assert_allclose(table["pearson"], pearson(average(truth), average(predicted)), rtol=1e-8)
    np.testing.assert_allclose(table["rmse"], rmse(average(truth), average(predicted)), rtol=1e-8)


def test_patients_of_several_folds_belong_to_none(arrays):
    truth, predicted, comparators = arrays
    patient, fold = (np.arange(60) // 2).astype(str), np.arange(60) // 20
    expected = stp.tl.well_predicted(make(truth, predicted, comparators, patient=patient, fold=fold))
    split = fold.copy()
    split[:16:2] = 2  # the first eight patients
    found = stp.tl.well_predicted(make(truth, predicted, comparators, patient=patient, fold=split))
    rest = stp.tl.well_predicted(
        make(
            truth[16:],
            predicted[16:],
            {k: v[16:] for k, v in comparators.items()},
            patient=patient[16:],
            fold=fold[16:],
        )
    )
    np.testing.assert_allclose(found["pearson_folds"], rest["pearson_folds"], rtol=1e-8)
    assert abs(found["pearson_folds"] - expected["pearson_folds"]).max() > 0.01


def test_groups_are_tested_by_themselves() -> None:
    """Genes that differ between two groups, and are known by the group alone, are well predicted over both and in neither."""
    rng = np.random.default_rng(3)
    group = np.repeat(["neg", "pos", "rare"], [40, 40, 3])
    truth = rng.normal(size=(83, 60)) + 2 * (group == "pos")[:, None] * (np.arange(60) < 20)
    predicted = 0.3 * rng.normal(size=truth.shape) + 2 * (group == "pos")[:, None] * (np.arange(60) < 20)
    predicted[:, 20:40] = truth[:, 20:40] + rng.normal(size=(83, 20))
    slides = make(truth, predicted, {"permuted": rng.normal(size=truth.shape)})
    slides.obs["er"] = pd.Categorical(group, categories=["neg", "pos", "rare", "nobody"])
    both = stp.tl.well_predicted(slides, comparators=["permuted"])
    with pytest.warns(UserWarning, match=r"left out: rare \(3\), nobody \(0\)"):
        table = stp.tl.well_predicted(slides, comparators=["permuted"], groupby="er")
    assert both["well_predicted"][:40].mean() > 0.9
    share = table.groupby("er", sort=False)["well_predicted"].agg(
        lambda found: (found[:20].mean(), found[20:40].mean())
    )
    assert share.index.tolist() == ["neg", "pos"]
    for differ, follow in share:
        assert differ < 0.2
        assert follow > 0.8
    # Each group is what a call with its slides alone gives.
    alone = stp.tl.well_predicted(slides[slides.obs["er"] == "pos"].copy(), comparators=["permuted"])
    part = table[table["er"] == "pos"].drop(columns="er").reset_index(drop=True)
    pd.testing.assert_frame_equal(part, alone, check_flags=False)
    assert table.attrs["groups"]["pos"]["n_patients"] == 40
    assert table.attrs["groups"]["pos"]["n_well_predicted"] == alone.attrs["n_well_predicted"]
    assert table.attrs["left_out"] == {"rare": 3, "nobody": 0}


def test_groups_of_spots_are_averaged_within_patients() -> None:
    """Of spots, the means of a region per patient are compared."""
    rng = np.random.default_rng(4)
    n, spots = 12, 6
    patient = np.repeat([f"p{i}" for i in range(n)], spots)
    region = np.tile(["in", "out"], n * spots // 2)
    truth = rng.normal(size=(n * spots, 5))
    predicted = truth + rng.normal(size=truth.shape)
    slides = make(truth, predicted, {}, patient=patient)
    slides.obs["region"] = region
    table = stp.tl.well_predicted(slides, comparators=[], groupby="region")
    inside = region == "in"
    means = [pd.DataFrame(values[inside]).groupby(patient[inside]).mean() for values in (truth, predicted)]
    np.testing.assert_allclose(table.loc[table["region"] == "in", "pearson"], pearson(*(m.to_numpy() for m in means)))
    assert set(table["n_patients"]) == {n}


@pytest.mark.parametrize(
    ("column", "error", "message"),
    [
        ("er", KeyError, "'er'"),
        ("gene", ValueError, "rename it"),
        ("few", ValueError, r"found a \(4\), b \(4\)"),
        ("none", ValueError, "found no group"),
    ],
)
def test_groups_that_cannot_be_tested(column, error, message) -> None:
    rng = np.random.default_rng(5)
    slides = make(*(rng.normal(size=(8, 4)) for _ in range(2)), {})
    slides.obs["gene"], slides.obs["few"], slides.obs["none"] = "a", list("aaaabbbb"), None
    with pytest.raises(error, match=message):
        stp.tl.well_predicted(slides, comparators=[], groupby=column)
