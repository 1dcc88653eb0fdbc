"""Meta-modules of glioblastoma (Neftel et al.) on real sections: of glioblastoma, and of a tissue that should not have them."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import stpredict as stp

ROOT = Path(__file__).parents[3] / "shared" / "data"
NEFTEL = ROOT / "genesets" / "neftel2019_metamodules.gmt"
pytestmark = pytest.mark.skipif(not NEFTEL.exists(), reason="needs ../shared/data")


def test_programmes_of_a_glioblastoma_are_called_by_percentile() -> None:
    scores = pd.read_csv(ROOT / "gbm_visium" / "programme_scores.csv", index_col="barcodes").iloc[:, 1:]
    import anndata as ad

    adata = ad.AnnData(obs=pd.DataFrame(index=scores.index))
    adata.obsm["scores"] = scores
    stp.tl.subtypes(adata, scores="scores")
    ranks = scores.rank() / len(scores)
    assert (adata.obs["subtype"].astype(str) == ranks.idxmax(axis=1)).mean() > 0.99  # ties apart
    top = ranks.max(axis=1) - ranks.apply(lambda row: row.nlargest(2).iloc[-1], axis=1)
    np.testing.assert_allclose(adata.obs["subtype_margin"], 100 * top, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.* observations have no counts")
def test_in_breast_cancer_the_cell_cycle_is_a_module_and_glia_are_not() -> None:
    """Every module has its share of the calls; coherence tells those that are there from those that are not."""
    pytest.importorskip("hgfind")
    adata = stp.io.read_her2st(ROOT / "her2st", ["B4"])
    total = np.asarray(adata.layers["counts"].sum(axis=0)).ravel()
    adata = adata[:, np.argsort(-total, kind="stable")[:4000]].copy()
    stp.pp.normalize(adata)
    stp.tl.subtypes(adata, NEFTEL, use="measured", aliases="ensembl", n_random=99)
    control = adata.uns["subtype_control"].set_index("subtype")
    assert control["share"].between(0.05, 0.25).all()
    assert (control.loc[["G1S", "G2M"], "p"] <= 0.05).all()
    assert (control.loc[["OPC"], "p"] > 0.2).all()
    renamed = dict(pair.split(": ") for pair in adata.uns["stpredict"]["subtype"]["renamed"])
    assert renamed
    assert not set(renamed) & set(adata.var_names)
    assert set(renamed.values()) <= set(adata.var_names)
