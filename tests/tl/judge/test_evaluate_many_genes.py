"""Time that grows with the number of genes, not with its square."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp


class Counted(str):
    """A name that counts how often it is compared with another."""

    n = 0
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.n += 1
        return str.__eq__(self, other)


@pytest.mark.parametrize("slides_only", [False, True])
def test_named_genes_are_looked_up_not_searched_for(slides_only: bool) -> None:
    n_genes, rng = 400, np.random.default_rng(0)
    obs = pd.DataFrame({"sample": [f"s{i // 4}" for i in range(8)], "patient": [f"p{i // 4}" for i in range(8)]})
    names = [f"g{i}" for i in range(n_genes)]
    adata = ad.AnnData(rng.poisson(2, (8, n_genes)).astype(np.float32), obs.set_axis(list("abcdefgh")))
    adata.var_names = names
    if slides_only:
        adata.obs["sample"] = list("abcdefgh")
        adata.uns["stpredict"] = {"unit": {"is": "slide"}}
    adata.obsm["spatial"] = rng.random((8, 2))
    adata.obsm["predicted"] = pd.DataFrame(rng.random((8, n_genes)), adata.obs_names, names)
    stp.pp.normalize(adata)
    options = {"metrics": ["rmse"], "ceiling": False, "baselines": False}
    whole = stp.tl.evaluate(adata, **options).set_index(["sample", "gene"])["rmse"]
    Counted.n = 0
    named = stp.tl.evaluate(adata, genes=[Counted(name) for name in reversed(names)], **options)
    assert Counted.n < 30 * n_genes  # a search of the list compares 80,000 pairs and more
    assert named["gene"].tolist()[:n_genes] == names[::-1]
    named = named.set_index(["sample", "gene"])["rmse"]
    pd.testing.assert_series_equal(named.sort_index(), whole.sort_index())
