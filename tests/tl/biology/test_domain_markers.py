from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, ranksums, ttest_ind

import stpredict as stp

GENES = ["KRT8", "VIM", "CD3E", "FLAT"]


@pytest.fixture
def adata():
    rng = np.random.default_rng(0)
    domain = np.repeat(["2", "10", "0"], [30, 20, 14])
    values = rng.normal(0, 1, (64, 4)) - 0.5
    values[:30, 0] += 2
    values[30:50, 1] += 2
    values[:, 3] = 1.0
    made = ad.AnnData(
        np.zeros((64, 4)), obs=pd.DataFrame(index=[f"o{i}" for i in range(64)]), var=pd.DataFrame(index=GENES)
    )
    made.obs["domain"] = pd.Categorical(domain, ["0", "2", "10"])
    made.obsm["predicted"] = pd.DataFrame(values, made.obs_names, GENES)
    made.X = values.astype(np.float32)
    return made


@pytest.mark.parametrize("method", ["t-test", "wilcoxon"])
def test_scores_are_those_of_scipy_and_differences_those_of_means(adata, method):
    table = stp.tl.domain_markers(adata, method=method)
    values = adata.obsm["predicted"].to_numpy(dtype=np.float32)
    assert len(table) == 12
    for name, part in table.groupby("domain"):
        own = (adata.obs["domain"] == name).to_numpy()
        part = part.set_index("gene").loc[GENES[:3]]
        np.testing.assert_allclose(part["mean"], values[own, :3].mean(axis=0), rtol=1e-5)
        np.testing.assert_allclose(
            part["difference"], values[own, :3].mean(axis=0) - values[~own, :3].mean(axis=0), atol=1e-5
        )
        np.testing.assert_allclose(part["effect"], part["difference"] / values[:, :3].std(axis=0), rtol=1e-4)
        test = (
            ttest_ind(values[own], values[~own], equal_var=False)
            if method == "t-test"
            else ranksums(values[own], values[~own])
        )
        np.testing.assert_allclose(part["p"], test.pvalue[:3], rtol=2e-3)
        assert part["n"].eq(own.sum()).all()
    best = table[table["rank"] == 1].set_index("domain")["gene"]
    assert best["2"] == "KRT8"
    assert best["10"] == "VIM"
    one = table[table["domain"] == "2"].dropna(subset=["p"])
    if method == "wilcoxon":
        np.testing.assert_allclose(one["q"], false_discovery_control(one["p"].to_numpy()), rtol=1e-6)


def test_domains_come_in_their_order_and_what_does_not_vary_last(adata):
    table = stp.tl.domain_markers(adata)
    assert list(dict.fromkeys(table["domain"])) == ["0", "2", "10"]
    flat = table[table["gene"] == "FLAT"]
    assert flat["difference"].abs().max() < 1e-6
    assert flat["effect"].isna().all()


def test_measured_values_and_rows_that_are_left_out(adata):
    adata.obs["measured"] = np.arange(64) % 2 == 0
    adata.X[1::2] = np.nan
    adata.obs["in_tissue"] = np.arange(64) != 0
    table = stp.tl.domain_markers(adata, use="measured")
    assert table.groupby("domain")["n"].first().to_dict() == {"0": 7, "10": 10, "2": 14}
    assert table.attrs["use"] == "measured"
    assert "domain_markers" not in adata.uns


def test_markers_go_into_enrich(adata):
    table = stp.tl.domain_markers(adata)
    lists = {name: part.loc[part["difference"] > 0.5, "gene"] for name, part in table.groupby("domain")}
    lists = {name: list(genes) for name, genes in lists.items() if len(genes)}
    found = stp.tl.enrich(lists, {"epithelium": ["KRT8"], "stroma": ["VIM"]}, background=GENES, min_size=1)
    assert found[found["list"] == "2"].iloc[0]["term"] == "epithelium"


def test_one_domain_or_single_observations_are_refused(adata):
    with pytest.raises(KeyError, match=r"stp\.tl\.domains"):
        stp.tl.domain_markers(adata, "other")
    with pytest.raises(ValueError, match="at least two domains"):
        stp.tl.domain_markers(adata[adata.obs["domain"] == "0"].copy())
    with pytest.raises(ValueError, match="method"):
        stp.tl.domain_markers(adata, method="logreg")
