from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom, spearmanr

import stpredict as stp
from stpredict.tl.outcomes._signature_table import read_signature

GENES = [f"G{i}" for i in range(12)]


@pytest.fixture
def slides() -> ad.AnnData:
    rng = np.random.default_rng(0)
    adata = ad.AnnData(rng.normal(4, 2, (20, 12)).astype(np.float32), var=pd.DataFrame(index=GENES))
    adata.obs_names = [f"s{i}" for i in range(20)]
    adata.obs["patient"] = [f"p{i // 2}" for i in range(20)]
    adata.obsm["predicted"] = pd.DataFrame(adata.X[:, ::-1] + 1, adata.obs_names, GENES[::-1])
    return adata


def test_sum_of_coefficients_times_expression(slides) -> None:
    weights = {"G1": 0.5, "G3": -2.0, "G7": 1.0}
    stp.tl.risk_score(slides, weights)
    expected = slides.X[:, [1, 3, 7]] @ np.array([0.5, -2, 1])
    np.testing.assert_allclose(slides.obs["risk"], expected, rtol=1e-6)
    assert "risk_group" not in slides.obs
    assert slides.obs["risk_leaky"].astype(str).eq("unknown").all()
    table = pd.DataFrame({"symbol": ["G1", "G3", "G7", "ACTB"], "weight": [0.5, -2.0, 1.0, np.nan], "group": "x"})
    stp.tl.risk_score(slides, table, key_added="again")
    np.testing.assert_allclose(slides.obs["again"], expected, rtol=1e-6)
    named = table.rename(columns={"symbol": "name", "weight": "beta"})
    with pytest.raises(KeyError, match="gene_column"):
        stp.tl.risk_score(slides, named)
    stp.tl.risk_score(slides, named, gene_column="name", coefficient_column="beta", use="predicted", key_added="third")
    expected = slides.obsm["predicted"][["G1", "G3", "G7"]].to_numpy() @ np.array([0.5, -2, 1])
    np.testing.assert_allclose(slides.obs["third"], expected, rtol=1e-6)


def test_scale_of_the_cohort(slides) -> None:
    stp.tl.risk_score(slides, {"G0": 1.0, "G2": -1.0}, scale="cohort")
    frame = slides.to_df().astype(float)
    people = frame.groupby(slides.obs["patient"]).mean()
    z = (frame - people.mean()) / people.std(ddof=0)
    np.testing.assert_allclose(slides.obs["risk"], z["G0"] - z["G2"], rtol=1e-4, atol=1e-5)


def test_fitted_signature_keeps_its_scale(slides) -> None:
    known = stp.tl.Signature(
        ("G0", "G5"), np.array([1.0, -0.5]), np.array([4.0, 3.0]), np.array([2.0, 0.5]), 0.1, ("p0", "P1")
    )
    stp.tl.risk_score(slides, known)
    expected = (slides.X[:, 0] - 4) / 2 - 0.5 * (slides.X[:, 5] - 3) / 0.5
    np.testing.assert_allclose(slides.obs["risk"], expected, rtol=1e-5)
    assert (slides.obs["risk_group"] == "high").tolist() == (expected > 0.1).tolist()
    again = slides.copy()
    stp.tl.risk_score(again, known.to_frame(), key_added="again", cutoff=0.1)
    np.testing.assert_allclose(again.obs["again"], expected, rtol=1e-5)
    # Whom it was learned from is marked, whatever the spelling.
    assert slides.obs["risk_leaky"].tolist() == [True] * 4 + [False] * 16
    record = slides.uns["stpredict"]["risk"]
    assert record["fraction"] == 1
    assert record["used"].tolist() == ["G0", "G5"]


def test_missing_genes_are_listed_and_refused(slides, frozen) -> None:
    before = frozen(slides)
    weights = {"G0": 1.0, "G1": 1.0, "ESR1": -1.0, "MKI67": 2.0}
    with pytest.raises(ValueError, match="found 50%, 2 of 4 genes missing: ESR1, MKI67"):
        stp.tl.risk_score(slides, weights)
    with pytest.raises(ValueError, match="found 0%"):
        stp.tl.risk_score(slides, {"ESR1": 1.0}, min_fraction=0.01)
    assert frozen(slides) == before
    with pytest.warns(UserWarning, match="50% of the signature is used, 2 of 4 genes missing: ESR1, MKI67"):
        stp.tl.risk_score(slides, weights, min_fraction=0.5)
    assert slides.uns["stpredict"]["risk"]["missing"].tolist() == ["ESR1", "MKI67"]


def test_the_kind_of_names_is_told(slides) -> None:
    with pytest.raises(ValueError, match="signature seem to be Ensembl genes"):
        stp.tl.risk_score(slides, {"ENSG00000148773": 0.2, "ENSG00000091831": 0.1})
    lower = {str(name).lower(): 0.1 for name in slides.var_names}
    with pytest.raises(ValueError, match="differ in upper and lower case"):
        stp.tl.risk_score(slides, lower)


def test_gaps_count_as_average(slides) -> None:
    slides.X[3, 0] = np.nan
    stp.tl.risk_score(slides, {"G0": 1.0, "G1": 1.0}, scale="cohort")
    z = slides.to_df().astype(float)
    people = z.groupby(slides.obs["patient"]).mean()
    assert slides.obs["risk"].iloc[3] == pytest.approx(
        ((z["G1"] - people["G1"].mean()) / people["G1"].std(ddof=0)).iloc[3], rel=1e-4
    )
    slides.X[4] = np.nan
    stp.tl.risk_score(slides, {"G0": 1.0, "G1": 1.0}, cutoff=8)
    assert np.isnan(slides.obs["risk"].iloc[4])
    assert slides.obs["risk_group"].isna().tolist() == [i == 4 for i in range(20)]


def test_one_empty_group_is_told(slides) -> None:
    with pytest.warns(UserWarning, match="all 20 risks are high: none is on the other side of the cut -100"):
        stp.tl.risk_score(slides, {"G0": 1.0}, cutoff=-100)
    known = stp.tl.Signature(("G0",), np.ones(1), np.full(1, 100.0), np.ones(1), 0.0, ("q",))
    with pytest.warns(UserWarning, match=r"all 20 risks are low.*scale='cohort'"):
        stp.tl.risk_score(slides, known)
    slides.obs["time"], slides.obs["event"] = np.repeat(np.arange(1.0, 11), 2), True
    assert np.isnan(stp.tl.survival(slides)["logrank_p"].item())


def test_a_signature_without_genes(slides) -> None:
    empty = stp.tl.Signature((), np.zeros(0), np.zeros(0), np.zeros(0), 0.0, ("q",))
    with pytest.warns(UserWarning, match="all 20 risks are low"):
        stp.tl.risk_score(slides, empty)
    assert (slides.obs["risk"] == 0).all()


def test_errors(slides, frozen) -> None:
    before = frozen(slides)
    with pytest.raises(TypeError, match="found list"):
        stp.tl.risk_score(slides, ["G1"])
    with pytest.raises(ValueError, match="G1 more than once"):
        stp.tl.risk_score(slides, pd.DataFrame({"gene": ["G1", "G1"], "weight": [1, 2]}))
    with pytest.raises(ValueError, match="coefficients alone"):
        stp.tl.risk_score(slides, {"G1": 1.0}, scale="training")
    with pytest.raises(KeyError, match="'guess'"):
        stp.tl.risk_score(slides, {"G1": 1.0}, use="predicted", key="guess")
    with pytest.raises(ValueError, match="min_fraction"):
        stp.tl.risk_score(slides, {"G1": 1.0}, min_fraction=0)
    with pytest.raises(ValueError, match="one gene with a coefficient"):
        read_signature(pd.DataFrame({"gene": ["G1"], "weight": [np.nan]}))
    assert frozen(slides) == before


def test_nearest_centroid_against_scipy(slides) -> None:
    rng = np.random.default_rng(1)
    centroids = pd.DataFrame(rng.normal(size=(8, 3)), GENES[2:10], ["Basal", "LumA", "LumB"])
    stp.tl.nearest_centroid(slides, centroids, weights={"Basal": 0.5, "LumA": -1})
    frame = slides.to_df().astype(float)
    people = frame.groupby(slides.obs["patient"]).mean()
    z = ((frame - people.mean()) / people.std(ddof=0))[centroids.index]
    expected = np.array([[spearmanr(z.loc[s], centroids[c]).statistic for c in centroids] for s in z.index])
    np.testing.assert_allclose(slides.obsm["centroid_r"], expected, atol=1e-6)
    assert slides.obs["centroid_class"].tolist() == centroids.columns[expected.argmax(axis=1)].tolist()
    np.testing.assert_allclose(slides.obs["centroid_risk"], expected @ [0.5, -1, 0], atol=1e-6)
    assert slides.uns["centroid_r_names"].tolist() == list(centroids)
    slides.X[0, 2] = np.nan
    slides.X[1] = np.nan
    stp.tl.nearest_centroid(slides, centroids, scale="none")
    left = centroids.index[1:]
    assert slides.obsm["centroid_r"][0, 1] == pytest.approx(
        spearmanr(frame.loc["s0", left], centroids.loc[left, "LumA"])[0]
    )
    assert slides.obs["centroid_class"].isna().tolist() == [i == 1 for i in range(20)]


def test_centroid_errors(slides, frozen) -> None:
    before = frozen(slides)
    centroids = pd.DataFrame({"a": [1.0, 2, 3, 4], "b": [4.0, 1, 2, 3]}, ["G0", "G1", "ESR1", "G2"])
    with pytest.raises(ValueError, match="found 75%, 1 of 4 genes missing: ESR1"):
        stp.tl.nearest_centroid(slides, centroids)
    with pytest.raises(KeyError, match="found LumC"):
        stp.tl.nearest_centroid(slides, centroids, weights={"LumC": 1})
    with pytest.raises(TypeError, match="DataFrame of numbers"):
        stp.tl.nearest_centroid(slides, centroids.astype(str))
    assert frozen(slides) == before
    with pytest.warns(UserWarning, match="75% of the genes"):
        stp.tl.nearest_centroid(slides, centroids, min_fraction=0.7)


def test_coverage_by_well_predicted_genes() -> None:
    table = pd.DataFrame({"gene": GENES, "well_predicted": np.arange(12) < 6})
    row = stp.tl.signature_coverage(table, {"G0": 1.0, "G1": -2.0, "G8": 0.5, "ESR1": 0.5}).iloc[0]
    assert row[["n_genes", "n_predicted", "n_well_predicted"]].tolist() == [4, 3, 2]
    assert row["fraction"] == 0.5
    assert row["weight_fraction"] == 0.75
    assert row["expected"] == 1.5
    assert row["p"] == pytest.approx(hypergeom.sf(1, 12, 6, 3))
    assert (row["genes"], row["missing"]) == ("G0;G1", "ESR1")
    with pytest.raises(ValueError, match="none in common"):
        stp.tl.signature_coverage(table, {"ESR1": 1.0})
    with pytest.raises(KeyError, match="well_predicted"):
        stp.tl.signature_coverage(table[["gene"]], {"G0": 1.0})
