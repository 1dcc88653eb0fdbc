from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import stpredict as stp
from stpredict.pp._filter_genes import filter_genes
from stpredict.slots._provenance import read_record


@pytest.fixture
def bulk() -> ad.AnnData:
    """Six slides of five patients; `low` is expressed in two of the first three patients only, `off` in one."""
    values = np.array(
        [
            [5.0, 3.0, 1.0, 0.0, 2.0, 7.0],
            [4.0, 2.0, 2.0, 0.0, 2.0, 7.0],
            [3.0, 1.0, 0.0, 0.0, 2.0, 7.0],
            [2.0, 2.0, 0.0, 0.0, 2.0, 7.0],
            [1.0, 3.0, 0.0, 0.0, 2.0, 7.0],
            [1.0, 3.0, 0.0, 9.0, 2.0, 7.0],
        ],
        dtype=np.float32,
    )
    types = ["protein_coding", "miRNA", "lncRNA", "protein_coding", "rRNA", None]
    var = pd.DataFrame({"gene_type": types}, index=["code", "micro", "low", "off", "ribosome", "odd"])
    obs = pd.DataFrame({"sample": list("abcdef"), "patient": list("ABCDEE")}, index=list("abcdef"))
    return ad.AnnData(values, obs=obs, var=var)


def test_genes_of_the_types_are_kept_in_place(bulk: ad.AnnData) -> None:
    before = bulk.to_df()
    bulk.varm["m"] = np.arange(12).reshape(6, 2)
    assert filter_genes(bulk) is None
    assert bulk.var_names.tolist() == ["code", "micro", "low", "off"]
    pd.testing.assert_frame_equal(bulk.to_df(), before[["code", "micro", "low", "off"]])
    assert bulk.varm["m"].shape == (4, 2)
    record = read_record(bulk, "filter_genes")
    assert record["gene_types"] == ["protein_coding", "miRNA", "lncRNA"]
    assert (record["dropped"], record["n_genes"]) == ({"gene_types": 2}, 4)
    assert "patients" not in record  # biotypes look at no one


@pytest.mark.parametrize("spelling", ["protein coding", "protein-coding", "Protein_Coding", ("PROTEIN-CODING",)])
def test_spellings(bulk: ad.AnnData, spelling: Any) -> None:
    assert filter_genes(bulk, gene_types=spelling, copy=True).var_names.tolist() == ["code", "off"]
    bulk.var["gene_type"] = bulk.var["gene_type"].replace({"miRNA": "microRNA", "lncRNA": "long non-coding RNA"})
    assert filter_genes(bulk, copy=True).n_vars == 4


def test_median_over_training_patients(bulk: ad.AnnData) -> None:
    everyone = filter_genes(bulk, min_median=0, copy=True)
    assert everyone.var_names.tolist() == ["code", "micro"]
    train = np.array([True, True, True, False, False, False])
    filter_genes(bulk, min_median=0, train=train)
    assert bulk.var_names.tolist() == ["code", "micro", "low"]
    record = read_record(bulk, "filter_genes")
    assert record["patients"] == ["A", "B", "C"]
    assert record["samples"] == ["a", "b", "c"]
    assert record["dropped"] == {"gene_types": 2, "min_median": 1}
    assert record["min_median"] == 0


def test_patients_weigh_the_same_however_many_slides(bulk: ad.AnnData) -> None:
    bulk = bulk[["a", "b", "d", "e", "f"]].copy()
    bulk.X[:, 2] = [4, 4, 0, 0, 0]
    bulk.obs["patient"] = ["A", "B", "C", "C", "C"]
    assert "low" in filter_genes(bulk, min_median=0, copy=True).var_names
    del bulk.obs["patient"]
    assert "low" not in filter_genes(bulk, min_median=0, copy=True).var_names


def test_unmeasured_slides_are_ignored_and_sparse_is_dense(bulk: ad.AnnData) -> None:
    thin = bulk.copy()
    thin.X = sparse.csr_matrix(thin.X)
    assert filter_genes(thin, min_median=1, copy=True).var_names.tolist() == ["code", "micro"]
    bulk.X[3:] = np.nan
    filter_genes(bulk, min_median=0)
    assert bulk.var_names.tolist() == ["code", "micro", "low"]
    assert read_record(bulk, "filter_genes")["patients"] == ["A", "B", "C"]
    bulk.X[:] = np.nan
    with pytest.raises(ValueError, match="found none; see `train=`"):
        filter_genes(bulk, min_median=0)


def test_marking_instead_of_removing(bulk: ad.AnnData) -> None:
    bulk.layers["linear"] = bulk.X * 0 + 1
    filter_genes(bulk, gene_types=None, min_median=0, layer="linear", key_added="selected")
    assert bulk.n_vars == 6
    assert bulk.var["selected"].all()
    record = read_record(bulk, "selected")
    assert record["patients"] == list("ABCDE")
    assert record["layer"] == "linear"
    assert record["n_genes"] == 6


def test_a_panel_that_saw_test_patients_is_refused(bulk: ad.AnnData) -> None:
    from stpredict.tl.learn.targets._expression import panel_strangers

    filter_genes(bulk, min_median=0, key_added="selected")
    assert panel_strangers(bulk, stp.targets.Expression(), np.arange(6) < 3, "patient") == ["D", "E"]


def test_errors_leave_the_object(bulk: ad.AnnData, frozen: Any) -> None:
    before = frozen(bulk)
    with pytest.raises(KeyError, match=r"var\['biotype'\].*gene_type_key"):
        filter_genes(bulk, gene_type_key="biotype")
    with pytest.raises(ValueError, match=r"types snRNA in .*found protein_coding"):
        filter_genes(bulk, gene_types="snRNA")
    with pytest.raises(ValueError, match="median above 10"):
        filter_genes(bulk, min_median=10)
    with pytest.raises(ValueError, match="found neither"):
        filter_genes(bulk, gene_types=None)
    with pytest.raises(KeyError, match=r"layers\['none'\]"):
        filter_genes(bulk, min_median=0, layer="none")
    with pytest.raises(ValueError, match="boolean array"):
        filter_genes(bulk, min_median=0, train=np.arange(6))
    assert frozen(bulk) == before
    bulk.X[1, 0] = np.nan
    with pytest.raises(ValueError, match="expected finite expression"):
        filter_genes(bulk, min_median=0)
