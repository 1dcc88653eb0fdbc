from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from scipy.stats import percentileofscore

import stpredict as stp
from stpredict.core._gene_sets import membership
from stpredict.tl.biology._set_scores import coherence, standardized_rows

N, G = 80, 120
GENES = [f"G{i}" for i in range(G)]
MODULES = {"A": GENES[:10], "B": GENES[10:20], "C": GENES[20:30]}


@pytest.fixture
def sections() -> ad.AnnData:
    """Two sections; a third of the spots is high in each module, which has another scale and level."""
    rng = np.random.default_rng(0)
    kind = np.tile([0, 1, 2, 3], N // 4)
    values = rng.normal(5, 1, (N, G)) + rng.uniform(0, 20, G)
    for module, (start, strength) in enumerate(((0, 2.0), (10, 6.0), (20, 20.0))):
        values[:, start : start + 10] += strength * (kind == module)[:, None]
    values[N // 2 :] += 3
    obs = pd.DataFrame({"sample": np.repeat(["s1", "s2"], N // 2), "kind": np.array(list("ABC-"))[kind]})
    adata = ad.AnnData(values.astype(np.float32), obs=obs.set_index("spot" + obs.index.astype(str)))
    adata.var_names = GENES
    return adata


def test_modules_of_other_scales_compete_fairly(sections) -> None:
    stp.tl.subtypes(sections, MODULES, use="measured")
    calls = sections.obs["subtype"]
    assert calls.cat.categories.tolist() == ["A", "B", "C"]
    known = (sections.obs["kind"] != "-").to_numpy()
    assert (calls[known].astype(str) == sections.obs["kind"][known]).all()
    control = sections.uns["subtype_control"].set_index("subtype")
    assert control["share"].between(0.25, 0.45).all()
    # Spots of no module are called all the same, with less of a margin.
    margin = sections.obs["subtype_margin"]
    assert margin[~known].median() < margin[known].median()
    stp.tl.subtypes(sections, MODULES, use="measured", min_margin=30, key_added="sure")
    assert (sections.obs["sure"].notna() == (margin >= 30)).all()


def test_percentiles_are_those_of_the_section(sections) -> None:
    stp.tl.subtypes(sections, MODULES, use="measured", n_random=0)
    stp.tl.pathway_scores(sections, MODULES, use="measured")
    np.testing.assert_allclose(sections.obsm["subtype_scores"], sections.obsm["pathways_measured"], rtol=1e-5)
    for name in ("s1", "s2"):
        rows = (sections.obs["sample"] == name).to_numpy()
        part = sections.obsm["pathways_measured"][rows]
        expected = [[percentileofscore(part[:, c], x) for c, x in enumerate(row)] for row in part]
        np.testing.assert_allclose(sections.obsm["subtype_percentiles"][rows], expected, rtol=1e-5)
    ranked = np.sort(sections.obsm["subtype_percentiles"], axis=1)
    np.testing.assert_allclose(sections.obs["subtype_margin"], ranked[:, -1] - ranked[:, -2], atol=1e-4)
    assert "share_random" not in sections.uns["subtype_control"]


def test_random_modules_are_called_as_often_and_are_less_coherent(sections) -> None:
    """What the calls of noise look like: a share of each, and no coherence beyond that of random genes."""
    stp.tl.subtypes(sections, MODULES, use="measured")
    control = sections.uns["subtype_control"]
    assert control["share_random"].between(0.25, 0.42).all()
    assert control["share_random"].sum() == pytest.approx(1)
    assert (control["p"] == 1 / 21).all()
    assert (control["coherence"] > control["coherence_random"] + 0.2).all()
    member = membership(MODULES, GENES, 1, 100).member
    x = sections.X.astype(float)
    parts = [coherence(standardized_rows(x[rows].T), member) for rows in (slice(0, 40), slice(40, 80))]
    np.testing.assert_allclose(control["coherence"], np.mean(parts, axis=0), rtol=1e-6)
    noise = sections.copy()
    noise.X = np.random.default_rng(1).normal(size=noise.shape).astype(np.float32)
    stp.tl.subtypes(noise, MODULES, use="measured")
    assert noise.uns["subtype_control"]["share"].between(0.2, 0.5).all()
    assert (noise.uns["subtype_control"]["p"] > 0.05).all()


def test_predicted_sparse_and_blocks_agree(sections, monkeypatch) -> None:
    stp.tl.subtypes(sections, MODULES, use="measured")
    first = sections.obs["subtype"].astype(str).tolist()
    control = sections.uns["subtype_control"].copy()
    sections.obsm["predicted"] = sections.to_df()
    stp.tl.subtypes(sections, MODULES)
    assert sections.obs["subtype"].astype(str).tolist() == first
    monkeypatch.setattr("stpredict.tl.biology._subtype_calls._BLOCK", 7 * G)
    other = sections.copy()
    other.X = sparse.csr_matrix(other.X)
    found = stp.tl.subtypes(other, MODULES, use="measured", copy=True)
    assert found.obs["subtype"].astype(str).tolist() == first
    pd.testing.assert_frame_equal(found.uns["subtype_control"], control, rtol=1e-4)


def test_scores_of_ones_own(sections) -> None:
    rng = np.random.default_rng(0)
    sections.obsm["programmes"] = pd.DataFrame(rng.random((N, 3)), sections.obs_names, list("xyz"))
    sections.obs["in_tissue"] = np.arange(N) != 5
    stp.tl.subtypes(sections, scores="programmes")
    assert sections.obs["subtype"].isna().tolist() == [i == 5 for i in range(N)]
    assert list(sections.uns["subtype_control"]) == ["subtype", "share", "margin"]
    assert "subtype_scores" not in sections.obsm


def test_predicted_scores_have_their_names(toy) -> None:
    rng = np.random.default_rng(0)
    toy.obsm["own"] = pd.DataFrame(rng.random((toy.n_obs, 3)), toy.obs_names, list("xyz"))
    stp.tl.predict(toy, stp.tl.fit(toy, "ridge", target=stp.targets.Values(obsm="own")))
    stp.tl.subtypes(toy, scores="predicted")
    assert toy.obs["subtype"].cat.categories.tolist() == ["x", "y", "z"]


def test_blocks_of_models_of_their_own_are_called_by_themselves(sections) -> None:
    """A block whose model has an offset is not all of one subtype."""
    values = np.random.default_rng(0).random((N, G))
    block = np.arange(N) % 40 < 20
    values[np.ix_(block, np.arange(10))] += 50
    sections.obsm["predicted"] = pd.DataFrame(values, sections.obs_names, GENES)
    stp.tl.subtypes(sections, MODULES, n_random=0)

    def called() -> list[float]:
        return [float((sections.obs["subtype"][rows] == "A").mean()) for rows in (block, ~block)]

    # Percentiles of A are in the upper half in one block, and in the lower half in the other.
    assert called()[0] > called()[1] + 0.3
    sections.obs["predicted_leaky"] = pd.Categorical(["within section"] * N)
    sections.obs["predicted_fold"] = np.where(block, 0, 1)
    sections.obs["patient"] = "p"
    sections.uns["stpredict"] = {"predicted": {"folds": ["left", "right"], "patients_seen": ["q"]}}
    stp.tl.subtypes(sections, MODULES, n_random=0)
    assert all(0.15 < share < 0.55 for share in called())


def test_a_module_that_is_constant_in_a_section_is_not_called_there(sections) -> None:
    sections.X[:40, 10:20] = 5
    values = pd.DataFrame(np.random.default_rng(0).random((N, 3)), sections.obs_names, list("ABC"))
    values.loc[sections.obs["sample"] == "s1", "B"] = 0.4
    sections.obsm["own"] = values
    stp.tl.subtypes(sections, scores="own")
    calls = pd.crosstab(sections.obs["sample"], sections.obs["subtype"])
    assert calls.loc["s1", "B"] == 0
    assert calls.loc["s2", "B"] > 0
    assert np.isnan(sections.obsm["subtype_percentiles"][:40, 1]).all()


def test_aliases_are_found_and_told(sections, tmp_path) -> None:
    old = {"A": ["OLD", *GENES[1:10]], "B": MODULES["B"]}
    stp.tl.subtypes(sections, MODULES | {}, use="measured", n_random=0)
    stp.tl.subtypes(
        sections, old | {"C": MODULES["C"]}, use="measured", n_random=0, aliases={"OLD": "G0"}, key_added="a"
    )
    pd.testing.assert_series_equal(sections.obs["a"], sections.obs["subtype"], check_names=False)
    assert list(sections.uns["stpredict"]["a"]["renamed"]) == ["OLD: G0"]
    assert len(sections.uns["stpredict"]["a"]["not_renamed"]) == 0
    sections.write_h5ad(tmp_path / "a.h5ad")
    assert ad.read_h5ad(tmp_path / "a.h5ad").uns["a_control"]["size"].tolist() == [10, 10, 10]


def test_synonyms_of_ensembl() -> None:
    """Symbols that have changed since the modules were published, of the table that comes with hgfind."""
    pytest.importorskip("hgfind")
    from stpredict.tl.biology._ensembl import ensembl_aliases

    aliases = ensembl_aliases()
    assert {old: aliases.get(old) for old in ("KIAA0101", "MLF1IP", "HMP19", "LPPR1")} == {
        "KIAA0101": "PCLAF", "MLF1IP": "CENPU", "HMP19": "NSG2", "LPPR1": "PLPPR1",
    }  # fmt: skip
    assert not set(aliases) & set(aliases.values())


BAD = {
    "neither": (lambda a: stp.tl.subtypes(a), ValueError, "found neither"),
    "both": (lambda a: stp.tl.subtypes(a, MODULES, scores="s"), ValueError, "found both"),
    "one": (lambda a: stp.tl.subtypes(a, {"A": GENES[:9]}, use="measured"), ValueError, "two modules .* found A"),
    "no slot": (lambda a: stp.tl.subtypes(a, scores="s"), KeyError, "'s'"),
    "column": (
        lambda a: stp.tl.subtypes(a, MODULES, use="measured", key_added="measured"), ValueError, "take another name",
    ),
    "margin": (lambda a: stp.tl.subtypes(a, MODULES, use="measured", min_margin=100), ValueError, "below 100"),
    "aliases": (lambda a: stp.tl.subtypes(a, MODULES, use="measured", aliases=["x"]), TypeError, "found list"),
    "source": (lambda a: stp.tl.subtypes(a, MODULES, use="measured", aliases="hgnc"), ValueError, "'ensembl'"),
    "kind": (
        lambda a: stp.tl.subtypes(a, {"A": [f"ENSG0000000{i}" for i in range(1000, 1009)]}, use="measured"),
        ValueError, "Ensembl genes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_errors_leave_the_object_as_it_was(sections, frozen, case: str) -> None:
    call, error, message = BAD[case]
    before = frozen(sections)
    with pytest.raises(error, match=message):
        call(sections)
    assert frozen(sections) == before
