"""Tables that say of themselves that their rows are genes."""

from __future__ import annotations

import anndata as ad
import pandas as pd
import pytest

import stpredict as stp


def table(chrom: list[str]) -> ad.AnnData:
    obs = pd.DataFrame({"seqname": chrom, "expr": range(len(chrom))}, index=[f"g{n}" for n in range(len(chrom))])
    return ad.AnnData(obs=obs)


def test_the_chromosome_is_written_and_the_copy_is_another_object() -> None:
    adata = table(["1", "2", "X"])
    found = stp.pp.as_genes(adata, chrom_key="seqname", copy=True)
    assert found.obs["chrom"].tolist() == ["1", "2", "X"]
    assert "chrom" not in adata.obs
    assert "stpredict" not in adata.uns
    assert [fold.name for fold in stp.cohorts.leave_chromosomes_out(found)] == ["1", "2", "X"]


@pytest.mark.parametrize(
    ("chrom", "key", "error", "match"),
    [
        (["1", "2"], "chrom", KeyError, r"chromosomes of the genes in obs\['chrom'\]"),
        (["M", "chrMT"], "seqname", ValueError, "M and chrMT|chrMT and M"),
        (["1", None], "seqname", ValueError, "without gaps"),
    ],
)
def test_faults_are_named(chrom: list[str], key: str, error: type[Exception], match: str) -> None:
    adata = table(chrom)
    with pytest.raises(error, match=match):
        stp.pp.as_genes(adata, chrom_key=key)
    assert "stpredict" not in adata.uns
