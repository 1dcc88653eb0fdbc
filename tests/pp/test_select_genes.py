from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from stpredict.pp._select_genes import select_genes, select_panel
from stpredict.slots._provenance import genes_digest, read_record


@pytest.fixture
def adata() -> ad.AnnData:
    """Three sections. `S*` vary over space in all of them, `T0` only in the test section C, `N*` are noise."""
    rng = np.random.default_rng(0)
    n = 100
    xy = rng.random((3 * n, 2)) * 1000
    section = np.repeat(["A", "B", "C"], n)
    names = (
        [f"S{i}" for i in range(6)] + [f"N{i}" for i in range(20)] + ["T0", "RPS3", "rpl11", "MT-CO1", "mt-Nd1", "RARE"]
    )
    rates = np.full((3 * n, len(names)), 3.0)
    structured = [
        names.index(g) for g in ("S0", "S1", "S2", "S3", "S4", "S5", "RPS3", "rpl11", "MT-CO1", "mt-Nd1", "RARE")
    ]
    rates[:, structured] = (1 + 10 * (xy[:, 0] > 500))[:, None]
    rates[section == "C", names.index("T0")] = 1 + 10 * (xy[section == "C", 0] > 500)
    values = np.log1p(rng.poisson(rates)).astype(np.float32)
    values[section == "B", names.index("RARE")] = 0
    obs = pd.DataFrame(
        {"sample": section, "patient": np.repeat(["p1", "p2", "p3"], n)}, index=[f"o{i}" for i in range(3 * n)]
    )
    obs["train"] = section != "C"
    return ad.AnnData(values, obs=obs, var=pd.DataFrame(index=names), obsm={"spatial": xy})


STRUCTURED = [f"S{i}" for i in range(6)]


def panel(adata: ad.AnnData, key: str = "selected") -> list[str]:
    return list(adata.var_names[adata.var[key]])


def test_moran(adata) -> None:
    assert select_genes(adata, "moran", train="train") is None
    assert panel(adata) == STRUCTURED
    assert list(adata.varm["moran_i"].columns) == ["A", "B"]
    record = read_record(adata, "selected")
    assert record["method"] == "moran"
    assert record["samples"] == ["A", "B"]
    assert record["patients"] == ["p1", "p2"]
    assert record["digest"] == genes_digest(STRUCTURED)
    assert record["dropped"]["drop_ribosomal"] == 2
    assert record["dropped"]["drop_mitochondrial"] == 2
    assert record["dropped"]["min_fraction"] == 1
    assert sum(record["dropped"].values()) + 6 == adata.n_vars


def test_test_sections_have_no_say(adata) -> None:
    before = select_panel(adata, "moran", adata.obs["train"].to_numpy())
    test = (~adata.obs["train"]).to_numpy()
    adata.X[test] = np.random.default_rng(1).random((test.sum(), adata.n_vars))
    for method, options in (("moran", {}), ("mean", {"n_genes": 5}), ("spatial_hvg", {"n_genes": 5})):
        changed = select_panel(adata, method, "train", **options)
        adata.X[test] = 0
        assert select_panel(adata, method, np.flatnonzero(~test), **options) == changed
    assert select_panel(adata, "moran", "train") == before


def test_significance_in_every_section(adata) -> None:
    assert "T0" not in select_panel(adata, "moran")
    assert "T0" in select_panel(adata, "moran", (adata.obs["sample"] == "C").to_numpy())


def test_best_by_median_i(adata) -> None:
    select_genes(adata, n_genes=2, train="train", key_added="few")
    order = adata.varm["moran_i"].loc[STRUCTURED].median(axis=1).sort_values(ascending=False)
    assert set(panel(adata, "few")) == set(order.index[:2])
    assert "selected" not in adata.var


def test_filters_can_be_switched_off(adata) -> None:
    genes = select_panel(adata, "moran", "train", drop_ribosomal=False, drop_mitochondrial=False)
    assert set(genes) == {*STRUCTURED, "RPS3", "rpl11", "MT-CO1", "mt-Nd1"}


def test_min_fraction(adata) -> None:
    adata.X[:95, adata.var_names.get_loc("S0")] = 0
    assert "S0" not in select_panel(adata, "mean", "train", n_genes=27, min_fraction=0.1)
    assert "S0" in select_panel(adata, "mean", "train", n_genes=27)


def test_mean(adata) -> None:
    select_genes(adata, "mean", n_genes=4, train="train")
    train = adata.obs["train"].to_numpy()
    eligible = [name for name in adata.var_names if name[0] in "SNT"]
    means = pd.Series(adata.X[train].mean(axis=0), index=adata.var_names)[eligible]
    assert set(panel(adata)) == set(means.nlargest(4).index)
    assert "moran_i" not in adata.varm


def test_spatial_hvg(adata) -> None:
    import scanpy as sc

    select_genes(adata, "spatial_hvg", n_genes=6, train="train")
    eligible = [name for name in adata.var_names if name[0] in "SNT"]
    training = adata[adata.obs["train"], eligible].copy()
    found = sc.pp.highly_variable_genes(training, n_top_genes=12, batch_key="sample", inplace=False)
    variable = training.var_names[found["highly_variable"]]
    tested = adata.varm["moran_i"].dropna()
    assert set(tested.index) == set(variable)
    assert set(panel(adata)) == set(tested.median(axis=1).nlargest(6).index)
    assert read_record(adata, "selected")["dropped"]["spatial_hvg"] == 27 - 12


def test_of_residuals_the_counts_say_how_much_there_is(adata) -> None:
    """Residuals are 0 on average and nowhere 0: abundance and detection are those of the counts, variance is their own."""
    import stpredict as stp

    adata.X = np.expm1(adata.X).round()
    adata.X[:, adata.var_names.get_loc("N3")] += 30
    stp.pp.normalize(adata)
    assert adata.X.min() < 0
    select_genes(adata, "mean", train="train", n_genes=1)
    assert panel(adata) == ["N3"]
    assert read_record(adata, "selected")["dropped"]["min_fraction"] == 1  # RARE, which section B has not
    select_genes(adata, "spatial_hvg", train="train", n_genes=2)
    variance = adata.X[:100].var(axis=0) + adata.X[100:200].var(axis=0)
    allowed = [gene for gene in adata.var_names if gene[0] in "SNT"]
    most = sorted(allowed, key=lambda gene: -variance[adata.var_names.get_loc(gene)])[:4]
    assert set(panel(adata)) < set(most)


def test_given_list(adata) -> None:
    select_genes(adata, ["N3", "MT-CO1"], train="train")
    assert set(panel(adata)) == {"N3", "MT-CO1"}
    record = read_record(adata, "selected")
    assert record["method"] == "given"
    assert "patients" not in record
    assert select_panel(adata, ["N3", "MT-CO1"]) == ["N3", "MT-CO1"]


def test_sparse_equals_dense_and_copy(adata) -> None:
    thin = adata.copy()
    thin.X = sparse.csr_matrix(thin.X)
    for method, options in (("moran", {}), ("mean", {"n_genes": 5}), ("spatial_hvg", {"n_genes": 5})):
        changed = select_genes(adata, method, train="train", copy=True, **options)
        assert panel(changed) == select_panel(thin, method, "train", **options)
    assert "selected" not in adata.var
    assert not adata.uns


def test_unmeasured_observations_are_left_out(adata) -> None:
    expected = select_panel(adata, "moran", "train")
    adata.X[(~adata.obs["train"]).to_numpy()] = np.nan
    select_genes(adata, "moran")
    assert panel(adata) == expected
    assert read_record(adata, "selected")["patients"] == ["p1", "p2"]


@pytest.mark.parametrize(
    ("method", "options", "error", "match"),
    [
        ("moran", {"min_i": 0.99}, ValueError, "min_i removed 6; .*p_value|p_value removed"),
        ("moran", {"p_value": 0.0}, ValueError, "raise `p_value`"),
        ("mean", {}, ValueError, "n_genes"),
        ("mean", {"n_genes": 0}, ValueError, "n_genes"),
        ("moran", {"min_fraction": 2}, ValueError, "min_fraction"),
        ("other", {}, ValueError, "'moran', 'spatial_hvg', 'mean'"),
        (["none"], {}, KeyError, "none"),
        ([], {}, ValueError, "empty"),
        ("moran", {"sample_key": "slide"}, KeyError, "slide"),
        ("moran", {"train": np.zeros(300, dtype=bool)}, ValueError, "at least one observation"),
    ],
)
def test_errors_leave_the_object(adata, method, options, error, match) -> None:
    with pytest.raises(error, match=match):
        select_genes(adata, method, **options)
    assert "selected" not in adata.var
    assert not adata.varm
    assert not adata.uns


def test_some_genes_are_always_in_the_panel(adata) -> None:
    select_genes(adata, train="train", always=["N3", "MT-CO1", "S0"])
    assert panel(adata) == [*STRUCTURED, "N3", "MT-CO1"]
    record = read_record(adata, "selected")
    assert record["added"] == ["N3", "MT-CO1"]
    assert record["n_genes"] == 8
    assert record["digest"] == genes_digest(panel(adata))
    assert sum(record["dropped"].values()) + 6 == adata.n_vars
    assert select_panel(adata, "moran", "train", always=["N3", "MT-CO1", "S0"]) == panel(adata)
    best = select_panel(adata, "moran", "train", n_genes=2)
    assert set(select_panel(adata, "moran", "train", n_genes=2, always=["N1"])) == {*best, "N1"}
    with pytest.raises(ValueError, match="N1 more than once"):
        select_panel(adata, "mean", n_genes=1, always=["N1", "N2", "N1"])
    select_genes(adata, ["N5", "N1"], always=["N1", "N0"], key_added="given")
    assert panel(adata, "given") == ["N0", "N1", "N5"]
    assert select_panel(adata, ["N5", "N1"], always=["N1", "N0"]) == ["N5", "N1", "N0"]
    assert "added" not in read_record(select_genes(adata, copy=True), "selected")


def test_genes_that_are_always_wanted_must_be_there(adata) -> None:
    for method in ("moran", ["S0"]):
        with pytest.raises(KeyError, match="missing CD3D"):
            select_genes(adata, method, always=["S0", "CD3D"])
        with pytest.raises(TypeError, match="found the text 'S0'"):
            select_genes(adata, method, always="S0")
    assert "selected" not in adata.var


def test_rule_of_hist(adata) -> None:
    """Significant in every training section, a median I above 0.4, fifteen neighbors at distances on the tissue."""
    select_genes(adata, p_value=0.01, min_i=0.4, n_neighbors=15, train="train", key_added="hist")
    i, p = adata.varm["moran_i"], adata.varm["moran_p"]
    names = adata.var_names
    ribosomal = names.isin(["RPS3", "rpl11", "MT-CO1", "mt-Nd1", "RARE"])
    expected = (p < 0.01).all(axis=1) & (i.median(axis=1) > 0.4) & ~ribosomal
    assert 0 < expected.sum() < adata.n_vars
    assert panel(adata, "hist") == list(names[expected])
    assert read_record(adata, "hist")["min_i"] == 0.4


def test_ribosomal_proteins_by_name() -> None:
    proteins = [
        "RPL3",
        "RPL10A",
        "RPL36AL",
        "RPL7L1",
        "RPS4Y1",
        "RPS27A",
        "RPLP0",
        "Rplp1",
        "RPSA",
        "RPSA2",
        "RPS10-NUDT3",
        "rpl11",
    ]
    others = ["RPS6KA1", "RPS6KB1", "Rps6kl1", "RPS19BP1", "RPA1", "RPN1", "RPE", "RPP30", "RPRM", "MT1X", "MTOR"]
    values = np.random.default_rng(0).random((4, len(proteins + others)))
    obs = pd.DataFrame({"sample": "A"}, index=list("abcd"))
    adata = ad.AnnData(values, obs=obs, var=pd.DataFrame(index=proteins + others))
    assert select_panel(adata, "mean", n_genes=99) == others


@pytest.mark.parametrize("dtype", ["object", "string[python]", "string[pyarrow]", "category", "str"])
def test_types_of_gene_names(dtype) -> None:
    """Arrow knows no look-ahead, which the names of ribosomal proteins need."""
    names = ["ERBB2", "RPS6", "RPS6KA1", "rps19bp1", "RPSA", "RPLP0", "MT-CO1", "mt-Nd1", "MTOR", "CD8A"]
    counts = np.random.default_rng(0).poisson(5, (30, len(names))).astype(np.float32)
    adata = ad.AnnData(counts, obs=pd.DataFrame({"sample": "a"}, index=[f"s{i}" for i in range(30)]))
    adata.var = pd.DataFrame(index=pd.Index(names) if dtype == "str" else pd.Index(pd.array(names, dtype=dtype)))
    select_genes(adata, "mean", n_genes=10)
    assert adata.var_names[adata.var["selected"]].astype(str).tolist() == [
        "ERBB2",
        "RPS6KA1",
        "rps19bp1",
        "MTOR",
        "CD8A",
    ]
    assert (read_record(adata, "selected") or {})["dropped"]["drop_ribosomal"] == 3


@pytest.mark.parametrize(
    "train", [np.array([True] * 15 + [False] * 15), ["1"] * 15 + ["0"] * 15, "yes or no", "number"]
)
def test_spellings_of_the_training_observations(train) -> None:
    counts = np.random.default_rng(0).poisson(5, (30, 4)).astype(np.float32)
    obs = pd.DataFrame({"sample": ["a"] * 15 + ["b"] * 15, "number": [1.0] * 15 + [0.0] * 15})
    obs["yes or no"] = ["Yes"] * 15 + ["no"] * 15
    adata = ad.AnnData(counts, obs=obs.rename(index=str), var=pd.DataFrame(index=list("ABCD")))
    select_genes(adata, "mean", n_genes=2, train=train)
    assert (read_record(adata, "selected") or {})["samples"] == ["a"]
