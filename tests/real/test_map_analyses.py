"""Copy numbers and enriched terms on labeled sections of the HER2-positive breast tumors."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
HER2ST, TERMS = SHARED / "her2st", SHARED / "genesets" / "enrichr.GO_Biological_Process_2021.gmt"
NORMAL = ["connective tissue", "adipose tissue", "breast glands"]
pytestmark = pytest.mark.skipif(not HER2ST.exists() or not TERMS.exists(), reason="the her2st sections are not here")


@pytest.fixture(scope="module")
def sections() -> ad.AnnData:
    adata = stp.io.read_her2st(HER2ST, sections=["E1", "G2"])
    stp.pp.normalize(adata, method="log1p")
    return adata


def test_smoothed_expression_finds_the_terms_of_the_measured(sections) -> None:
    from stpredict.pp._spatial_graph import spatial_weights

    one = sections[sections.obs["sample"] == "G2"].copy()
    genes = one.to_df().mean().nlargest(1500).index
    smooth = spatial_weights(one.obsm["spatial"], 6) @ one[:, genes].to_df().to_numpy() / 6
    one.obsm["predicted"] = pd.DataFrame(smooth, one.obs_names, genes)
    found = stp.tl.de_overlap(
        one, "label", "invasive cancer", gene_sets=TERMS, n_top=100, n_permutations=50
    ).overlap.set_index("direction")
    down = found.loc["down"]
    assert down["n_terms_measured"] > 5
    assert down["overlap"] > 0.5
    assert down["p"] < 0.05
    assert down["null_mean"] < down["overlap"]


@pytest.mark.skipif(find_spec("infercnvpy") is None, reason="needs infercnvpy (extra `cnv`)")
def test_invasive_cancer_has_copy_numbers(sections) -> None:
    adata = sections.copy()
    stp.tl.cnv(adata, "label", NORMAL)
    assert adata.uns["stpredict"]["cnv"]["n_genes"] > 2000
    adata.obs["invasive"] = (adata.obs["label"] == "invasive cancer").to_numpy()
    for _, table in adata.obs.groupby("sample", observed=True):
        normal = table.loc[table["label"].isin(NORMAL), "cnv_score"]
        assert table.loc[table["invasive"], "cnv_score"].mean() > normal.mean()
    agreement = stp.tl.cluster_agreement(adata, "invasive", n_permutations=100).set_index("sample")
    assert agreement.loc["E1", "p"] < 0.05
    assert np.isfinite(agreement["value"]).all()
