from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import stpredict as stp
from stpredict.slots._unit import say_slides
from stpredict.tl.biology._set_scores import coherence, standardized_rows

G, SIZE = 240, 12
GENES = [f"G{i}" for i in range(G)]
SETS = {f"t{i}": GENES[i * SIZE : (i + 1) * SIZE] for i in range(20)}
OPTIONS = {"n_random": 50}


def make(n: int = 160, seed: int = 0) -> ad.AnnData:
    """Two patients with two sections; sets 0 to 4 vary as wholes and are predicted, of the others only their genes are."""
    rng = np.random.default_rng(seed)
    level = rng.permutation(np.linspace(0, 4, G))
    truth = level + rng.normal(size=(n, G))
    truth[:, : 5 * SIZE] += np.repeat(rng.normal(size=(n, 5)), SIZE, axis=1)
    adata = ad.AnnData(truth.astype(np.float32), var=pd.DataFrame(index=GENES))
    adata.obs["sample"] = np.repeat(list("abcd"), n // 4)
    adata.obs["patient"] = np.repeat(["p", "q"], n // 2)
    adata.obsm["predicted"] = pd.DataFrame(truth + 2 * rng.normal(size=(n, G)), adata.obs_names, GENES)
    adata.layers["log"] = adata.X
    return adata


@pytest.fixture
def maps() -> ad.AnnData:
    return make()


def test_sets_that_vary_as_wholes_beat_random_ones(maps, frozen) -> None:
    before = frozen(maps)
    table = stp.tl.pathway_agreement(maps, SETS, layer="log", **OPTIONS)
    assert frozen(maps) == before
    assert table["r"].is_monotonic_decreasing
    table = table.set_index("pathway")
    whole, other = table.loc[[f"t{i}" for i in range(5)]], table.loc[[f"t{i}" for i in range(5, 20)]]
    assert (whole["p"] == 1 / 51).all()
    assert (whole["r"] > whole["null_high"]).all()
    assert ((whole["r_low"] <= whole["r"]) & (whole["r"] <= whole["r_high"])).all()
    # The others are predicted too, r is far from 0, and no better than random sets are.
    assert other["r"].mean() > 0.3
    assert abs(other["r"] - other["null_mean"]).mean() < 0.15
    assert (other["q"] > 0.05).all()
    assert (whole["coherence_measured"] > whole["coherence_predicted"]).all()  # noise in the prediction
    assert (whole["coherence_predicted"] > whole["coherence_null"] + 0.05).all()
    assert abs(other["coherence_predicted"] - other["coherence_null"]).max() < 0.05
    assert table["leaky"].eq("unknown").all()
    assert table[["n_patients", "n_obs"]].drop_duplicates().to_numpy().tolist() == [[2, 160]]


def test_shuffled_predictions_fall_to_the_null() -> None:
    tables = []
    for seed in range(4):
        maps = make(seed=seed)
        rng = np.random.default_rng(seed)
        for name in "abcd":
            rows = np.flatnonzero(maps.obs["sample"] == name)
            maps.obsm["predicted"].iloc[rows] = maps.obsm["predicted"].iloc[rng.permutation(rows)].to_numpy()
        tables.append(stp.tl.pathway_agreement(maps, SETS, layer="log", seed=seed, **OPTIONS))
    table = pd.concat(tables)
    assert abs(table["r"].mean()) < 0.03
    assert abs(table["r"] - table["null_mean"]).mean() < 0.12
    assert 0.4 < table["p"].mean() < 0.6
    assert (table["p"] < 0.05).mean() < 0.12
    assert (table["q"] > 0.05).mean() > 0.95


def test_r_is_that_of_the_scores_within_sections(maps) -> None:
    table = stp.tl.pathway_agreement(maps, SETS, layer="log", n_random=1).set_index("pathway")
    # With the genes of the prediction in the order of the truth both scores have the same controls.
    both = maps.copy()
    both.layers["counts"] = np.exp(maps.X).round()
    stp.tl.pathway_scores(both, SETS)
    stp.tl.pathway_scores(both, SETS, use="measured", layer="log")
    again = stp.tl.pathway_agreement(both, SETS, layer="log", n_random=1).set_index("pathway")
    column = list(SETS).index("t3")
    scores = pd.DataFrame(
        {"y": both.obsm["pathways_measured"][:, column], "x": both.obsm["pathways"][:, column]}, both.obs_names
    )
    within = scores.groupby(both.obs["sample"]).apply(lambda part: part["x"].corr(part["y"]))
    assert again.loc["t3", "r"] == pytest.approx(within.mean(), rel=1e-4)
    assert table.loc["t3", "r"] == pytest.approx(again.loc["t3", "r"], abs=0.1)


@pytest.mark.parametrize("method", ["mean", "gsva", "ssgsea"])
def test_slides_are_compared_over_patients(method: str) -> None:
    slides = make(80)
    slides.obs["patient"] = [f"p{i // 2}" for i in range(80)]
    say_slides(slides)
    table = stp.tl.pathway_agreement(slides, SETS, layer="log", method=method, n_random=2)
    assert table["n_patients"].eq(40).all()
    assert table["r_low"].isna().all()
    assert set(table["pathway"][:8]) >= {f"t{i}" for i in range(5)}
    if method == "gsva":
        import gseapy

        people = slides.obs["patient"]
        sides = []
        for frame in (slides.to_df().astype(float), slides.obsm["predicted"]):
            means = frame.groupby(people).mean()
            found = gseapy.gsva(means.T, SETS, outdir=None, min_size=1, threads=1).res2d
            sides.append(found.pivot(index="Name", columns="Term", values="ES").astype(float))
        expected = sides[0].corrwith(sides[1])
        assert table.set_index("pathway").loc["t1", "r"] == pytest.approx(expected["t1"], rel=1e-4)


def test_coherence_is_the_mean_correlation_of_pairs() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(40, 9)) @ rng.normal(size=(9, 9))
    member = np.array([[1, 1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 0, 1, 1, 0, 0, 1, 1], [1, 0, 0, 0, 0, 0, 0, 0, 0]])
    found = coherence(standardized_rows(values.T), sparse.csr_array(member.astype(float)))
    r = np.corrcoef(values.T)
    for row in range(2):
        at = np.flatnonzero(member[row])
        assert found[row] == pytest.approx(r[np.ix_(at, at)][np.triu_indices(len(at), 1)].mean())
    assert np.isnan(found[2])


def test_rates_are_compared_with_rates(maps) -> None:
    """Both sides are those of stp.get.predicted, in the unit of the prediction."""
    maps.layers["counts"] = np.exp(maps.X).round()
    stp.pp.normalize(maps)
    table = stp.tl.pathway_agreement(maps, SETS, n_random=1)
    assert table["r"].notna().all()


def test_errors(maps, frozen) -> None:
    before = frozen(maps)
    with pytest.raises(KeyError, match="'guess'"):
        stp.tl.pathway_agreement(maps, SETS, key="guess")
    with pytest.raises(ValueError, match="measured and predicted genes.*Entrez numbers"):
        stp.tl.pathway_agreement(maps, {"t": list(map(str, range(20)))})
    with pytest.raises(ValueError, match="n_random"):
        stp.tl.pathway_agreement(maps, SETS, n_random=0)
    with pytest.raises(MemoryError, match="method='mean'"):
        stp.tl.pathway_agreement(maps, SETS, method="gsva", max_gb=1e-6)
    with pytest.raises(KeyError, match="people"):
        stp.tl.pathway_agreement(maps, SETS, patient_key="people")
    assert frozen(maps) == before
    maps.obs["measured"] = False
    with pytest.raises(ValueError, match="at least 3 observations"):
        stp.tl.pathway_agreement(maps, SETS)
