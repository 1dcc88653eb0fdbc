from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stpredict.metrics import _noise_ceiling as kernel
from stpredict.pp._normalize import normalize
from stpredict.slots._provenance import read_record
from stpredict.tl.judge._noise_ceiling import noise_ceiling, section_ceiling


@pytest.fixture
def adata() -> ad.AnnData:
    rng = np.random.default_rng(0)
    rates = rng.lognormal(1, 1, 15) * np.exp(rng.normal(size=(90, 1)) * np.linspace(0, 1, 15))
    obs = pd.DataFrame({"sample": ["B"] * 50 + ["A"] * 40}, index=[f"s{i}" for i in range(90)])
    var = pd.DataFrame(index=[f"G{i}" for i in range(15)])
    return ad.AnnData(sparse.csr_matrix(rng.poisson(rates).astype(np.float32)), obs=obs, var=var)


def test_each_section_with_the_normalization_of_the_data(adata) -> None:
    normalize(adata, method="log1p", target_sum=500)
    assert noise_ceiling(adata, seed=3, n_repeats=4) is None
    table = adata.varm["noise_ceiling"]
    counts = adata.layers["counts"]
    for section, rows in (("B", slice(0, 50)), ("A", slice(50, 90))):
        expected = kernel.noise_ceiling(counts[rows], target_sum=500, n_repeats=4, seed=3)
        np.testing.assert_array_equal(table[section], expected)
    record = read_record(adata, "noise_ceiling")
    assert (record["target_sum"], record["size_factors"], record["seed"]) == (500, "all", 3)
    assert record["sections"] == ["B", "A"]


def test_panel_size_factors(adata) -> None:
    genes = ["G14", "G2", "G5"]
    normalize(adata, method="log1p", size_factors="panel", panel=genes)
    noise_ceiling(adata, genes=genes)
    table = adata.varm["noise_ceiling"]
    at = adata.var_names.get_indexer(genes)
    expected = kernel.noise_ceiling(adata.layers["counts"][:50], genes=at, size_columns=at)
    np.testing.assert_array_equal(table.loc[genes, "B"], expected)
    assert table.drop(index=genes).isna().all(axis=None)


def test_sections_without_counts_are_skipped(adata) -> None:
    dense = adata.to_df().to_numpy()
    dense[50:] = np.nan
    adata.X = dense
    normalize(adata, method="log1p")
    noise_ceiling(adata)
    assert list(adata.varm["noise_ceiling"].columns) == ["B"]
    assert np.isnan(section_ceiling(adata, np.arange(50, 90), ["G1", "G2"])).all()


def test_rows_as_mask_or_indices(adata) -> None:
    assert np.isnan(section_ceiling(adata, np.arange(5), ["G1"])).all()
    normalize(adata, method="log1p")
    mask = (adata.obs["sample"] == "A").to_numpy()
    by_mask = section_ceiling(adata, mask, ["G14", "G3"])
    np.testing.assert_array_equal(by_mask, section_ceiling(adata, np.flatnonzero(mask), ["G14", "G3"]))
    assert by_mask[0] > by_mask[1]


def test_copy_and_key(adata) -> None:
    normalize(adata, method="log1p")
    changed = noise_ceiling(adata, copy=True, key_added="top")
    assert "top" in changed.varm
    assert not adata.varm
    noise_ceiling(adata, key_added="top")
    pd.testing.assert_frame_equal(adata.varm["top"], changed.varm["top"])


def test_errors_leave_the_object(adata) -> None:
    with pytest.raises(KeyError, match="stp.pp.normalize"):
        noise_ceiling(adata)
    normalize(adata, method="log1p")
    with pytest.raises(KeyError, match="none"):
        noise_ceiling(adata, genes=["none"])
    with pytest.raises(KeyError, match="slide"):
        noise_ceiling(adata, sample_key="slide")
    with pytest.raises(KeyError, match="raw"):
        noise_ceiling(adata, layer="raw")
    adata.layers["raw"] = adata.X
    with pytest.raises(ValueError, match="whole-number"):
        noise_ceiling(adata, layer="raw")
    adata.layers["raw"] = adata.X * 0
    with pytest.raises(ValueError, match="at least one section"):
        noise_ceiling(adata, layer="raw")
    assert not adata.varm
