from __future__ import annotations

import gzip
from importlib.util import find_spec

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score, roc_auc_score

import stpredict as stp
from stpredict.core._gtf import read_gtf
from stpredict.tl.biology._gene_positions import gene_positions

needs_infercnvpy = pytest.mark.skipif(find_spec("infercnvpy") is None, reason="needs infercnvpy (extra `cnv`)")


@pytest.fixture
def tumor() -> ad.AnnData:
    """Two sections of 60 spots; half of each is tumor, with chr3 gained and chr5 lost; 6 × 60 genes, shuffled."""
    rng = np.random.default_rng(0)
    n, per = 120, 60
    chromosome = np.repeat([f"chr{i + 1}" for i in range(6)], per)
    is_tumor = np.arange(n) % 60 >= 30
    rate = rng.gamma(2, 2, 6 * per)[None] * np.ones((n, 1))
    rate[np.ix_(is_tumor, chromosome == "chr3")] *= 2
    rate[np.ix_(is_tumor, chromosome == "chr5")] *= 0.5
    rate[60:] *= rng.uniform(0.5, 2, 6 * per)  # a batch effect between the sections
    order = rng.permutation(6 * per)
    var = pd.DataFrame({"chromosome": chromosome, "start": np.tile(np.arange(per) * 1000, 6)})
    var["end"] = var["start"] + 500
    var = var.set_axis([f"g{i}" for i in range(6 * per)]).iloc[order]
    counts = rng.poisson(rate)[:, order].astype(np.float32)
    obs = pd.DataFrame(
        {"sample": np.repeat(["s1", "s2"], 60), "patient": "p", "label": np.where(is_tumor, "tumor", "normal")},
        index=[f"o{i}" for i in range(n)],
    )
    return ad.AnnData(obs=obs, var=var, layers={"counts": counts})


@needs_infercnvpy
def test_gains_and_losses_are_found(tumor, tmp_path) -> None:
    stp.tl.cnv(tumor, "label", "normal", window=20, step=5, n_clusters=2)
    start = tumor.uns["cnv"]["chr_pos"]
    profile, is_tumor = tumor.obsm["X_cnv"], (tumor.obs["label"] == "tumor").to_numpy()
    mean = profile[is_tumor].mean(axis=0)
    assert mean[start["chr3"] : start["chr4"]].mean() > 0.2
    assert mean[start["chr5"] : start["chr6"]].mean() < -0.2
    assert abs(profile[~is_tumor].mean()) < 0.02
    np.testing.assert_allclose(tumor.obs["cnv_score"], (profile.astype(float) ** 2).mean(axis=1))
    for _, table in tumor.obs.groupby("sample"):
        assert roc_auc_score(table["label"] == "tumor", table["cnv_score"]) > 0.95
    assert adjusted_rand_score(tumor.obs["label"], tumor.obs["cnv_cluster"]) > 0.9
    record = tumor.uns["stpredict"]["cnv"]
    assert (record["positions"], record["n_genes"], record["n_reference"]) == ("var", 360, 60)
    tumor.write_h5ad(tmp_path / "cnv.h5ad")


@needs_infercnvpy
def test_sparse_is_dense_and_a_table_is_var(tumor) -> None:
    stp.tl.cnv(tumor, "label", "normal", window=20)
    table = tumor.var[["chromosome", "start", "end"]].iloc[::-1].assign(chromosome=lambda t: t["chromosome"].str[3:])
    other = ad.AnnData(obs=tumor.obs, var=tumor.var[[]], layers={"counts": sparse.csr_matrix(tumor.layers["counts"])})
    stp.tl.cnv(other, "label", ["normal"], window=20, positions=table)
    np.testing.assert_allclose(other.obsm["X_cnv"], tumor.obsm["X_cnv"], atol=1e-5)


@needs_infercnvpy
def test_reference_of_the_same_section(tumor) -> None:
    tumor.obs.loc[tumor.obs["sample"] == "s2", "label"] = "tumor"
    with pytest.warns(UserWarning, match="fewer than 5 normal observations in s2"):
        stp.tl.cnv(tumor, "label", "normal", window=20, n_clusters=2)
    assert tumor.obs["cnv_score"].isna().to_numpy().tolist() == [False] * 60 + [True] * 60
    assert tumor.obs["cnv_cluster"].isna().sum() == 60
    assert np.isnan(tumor.obsm["X_cnv"][60:]).all()
    changed = stp.tl.cnv(tumor, "label", "normal", window=20, by="patient", copy=True)
    assert changed.obs["cnv_score"].notna().all()


@needs_infercnvpy
@pytest.mark.parametrize("column", ["in_tissue", "measured"])
def test_observations_off_tissue_and_unmeasured_ones_change_nothing(tumor, column: str) -> None:
    order = np.random.default_rng(0).permutation(160)
    outside = tumor[:40].copy()
    outside.obs_names = "x" + outside.obs_names
    outside.obs["label"] = "normal"
    outside.layers["counts"] *= 5
    both = ad.concat([tumor, outside], merge="same")[order].copy()
    both.obs[column] = ~both.obs_names.str.startswith("x")
    stp.tl.cnv(tumor, "label", "normal", window=20)
    stp.tl.cnv(both, "label", "normal", window=20)
    inside = both[tumor.obs_names]
    np.testing.assert_allclose(inside.obsm["X_cnv"], tumor.obsm["X_cnv"], atol=1e-6)
    assert both.obs["cnv_score"].isna().equals(~both.obs[column])
    assert both.uns["stpredict"]["cnv"]["n_reference"] == 60


@needs_infercnvpy
def test_normal_observations_off_tissue_are_no_reference(tumor) -> None:
    tumor.obs["in_tissue"] = (tumor.obs["sample"] == "s1") | (tumor.obs["label"] == "tumor")
    with pytest.warns(UserWarning, match="fewer than 5 normal observations in s2"):
        stp.tl.cnv(tumor, "label", "normal", window=20)
    assert tumor.obs["cnv_score"].isna().to_numpy().tolist() == [False] * 60 + [True] * 60


@needs_infercnvpy
def test_chromosomes_left_out_and_clipped_differences(tumor) -> None:
    stp.tl.cnv(tumor, "label", "normal", window=20, exclude=("chr3",), dynamic_threshold=None)
    assert list(tumor.uns["cnv"]["chr_pos"]) == ["chr1", "chr2", "chr4", "chr5", "chr6"]
    assert tumor.uns["stpredict"]["cnv"]["n_genes"] == 300
    assert np.abs(tumor.obsm["X_cnv"]).max() > 0.2
    stp.tl.cnv(tumor, "label", "normal", window=20, clip=0.1, dynamic_threshold=None)
    assert np.abs(tumor.obsm["X_cnv"]).max() < 0.2  # within 0.1 of zero, before the median of a spot is taken off


@needs_infercnvpy
def test_the_first_cluster_is_the_largest(tumor) -> None:
    most = tumor[np.r_[:30, 30:40, 60:90, 90:100]].copy()
    for data, largest in ((most, "normal"), (tumor[np.r_[:10, 30:60, 60:70, 90:120]].copy(), "tumor")):
        stp.tl.cnv(data, "label", "normal", window=20, n_clusters=2)
        assert data.obs.loc[data.obs["cnv_cluster"] == "0", "label"].mode()[0] == largest


@needs_infercnvpy
def test_default_positions_are_those_of_human_genes(tumor) -> None:
    human = ["EGFR", "MYC", "WISP1", "MT-CO1", "CD99", "Y_RNA", "ENSG00000146648"]
    tumor.var = tumor.var[[]].set_axis(human + list(tumor.var_names[7:]))
    found, source = gene_positions(tumor, None)
    assert found.loc["EGFR"].tolist() == ["chr7", 55019017, 55211628]
    assert found.loc["WISP1"].tolist() == ["chr8", 133191039, 133231690]  # the former name of CCN4
    assert found.loc[["MT-CO1", "CD99"], "chromosome"].tolist() == ["chrM", "chrX"]
    assert found.iloc[5:7].isna().all(axis=None)  # a name of many places, and an identifier
    assert "hg38" in source
    from stpredict.tl.biology._gene_positions import _ensembl

    assert _ensembl().index.is_unique


@needs_infercnvpy
def test_default_positions_agree_with_those_of_infercnvpy() -> None:
    import warnings

    import infercnvpy

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the file is of an early AnnData
        theirs = infercnvpy.datasets.oligodendroglioma().var
    ours = gene_positions(ad.AnnData(np.ones((1, len(theirs))), var=pd.DataFrame(index=theirs.index)), None)[0]
    both = (theirs["chromosome"].notna() & ours["chromosome"].notna()).to_numpy()
    assert both.mean() > 0.99
    same = theirs["chromosome"].astype(str).eq(ours["chromosome"])
    assert same[both].mean() > 0.999  # four genes moved between the assemblies
    both &= same.to_numpy()
    order = pd.DataFrame({"theirs": theirs["start"].astype(float), "ours": ours["start"].astype(float)})[both]
    for _, genes in order.groupby(ours.loc[both, "chromosome"]):
        assert genes.corr(method="spearman").iloc[0, 1] > 0.999  # another assembly, the same order


def test_mitochondrial_genes_are_left_out_under_either_name() -> None:
    adata = ad.AnnData(np.ones((1, 2)), var=pd.DataFrame(index=["a", "b"]))
    table = pd.DataFrame({"chromosome": ["MT", "chrM"], "start": 1, "end": 2}, index=["a", "b"])
    assert gene_positions(adata, table)[0]["chromosome"].tolist() == ["chrM", "chrM"]


GTF = """#!genome-build toy
1\tx\tgene\t100\t200\t.\t+\t.\tgene_id "E1"; gene_name "AAA"; gene_biotype "protein_coding";
1\tx\ttranscript\t100\t150\t.\t+\t.\tgene_id "E1"; transcript_id "T1"; gene_name "AAA";
chrX\tx\tgene\t5\t9\t.\t-\t.\tgene_id "E2"; gene_name "BBB";
chrY\tx\tgene\t7\t9\t.\t-\t.\tgene_id "E3"; gene_name "BBB";
2\tx\tgene\t30\t40\t.\t+\t.\tgene_id "E4"; note "has #hash";
"""


@pytest.mark.parametrize("name", ["toy.gtf", "toy.gtf.gz"])
def test_gtf(tmp_path, name: str, monkeypatch) -> None:
    from stpredict.core import _gtf

    monkeypatch.setattr(_gtf, "_LINES", 2)
    text = GTF.replace('"has #hash"', '"plain"')
    (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())
    assert read_gtf(tmp_path / name).index.tolist() == ["AAA", "BBB", "BBB", "E4"]
    adata = ad.AnnData(np.ones((1, 4)), var=pd.DataFrame(index=["BBB", "E4", "zzz", "AAA"]))
    found, source = gene_positions(adata, tmp_path / name)
    assert found["chromosome"].tolist()[:2] == ["chrX", "chr2"]
    assert found.loc["AAA"].tolist() == ["chr1", 100, 200]
    assert found.loc["zzz"].isna().all()
    assert source == name


@pytest.mark.parametrize(("name", "separator"), [("p.csv", ","), ("p.tsv", "\t"), ("p.csv.gz", ",")])
def test_table_files(tmp_path, name: str, separator: str) -> None:
    table = pd.DataFrame({"chromosome": ["1", "X"], "start": [1, 2], "end": [3, 4]}, index=["AAA", "BBB"])
    table.to_csv(tmp_path / name, sep=separator)
    adata = ad.AnnData(np.ones((1, 2)), var=pd.DataFrame(index=["BBB", "AAA"]))
    assert gene_positions(adata, tmp_path / name)[0]["chromosome"].tolist() == ["chrX", "chr1"]


def test_files_that_are_no_positions(tmp_path, tumor) -> None:
    with pytest.raises(FileNotFoundError, match="none.gtf"):
        gene_positions(tumor, tmp_path / "none.gtf")
    (tmp_path / "few.gtf").write_text("1\tx\tgene\n")
    with pytest.raises(ValueError, match=r"nine columns in .*few\.gtf; found"):
        gene_positions(tumor, tmp_path / "few.gtf")
    (tmp_path / "exons.gtf").write_text('1\tx\texon\t1\t2\t.\t+\t.\tgene_id "E";\n')
    with pytest.raises(ValueError, match="feature 'gene' in exons.gtf"):
        gene_positions(tumor, tmp_path / "exons.gtf")


BAD = {
    "column": ({"reference_key": "no"}, KeyError, r"obs\['no'\]"),
    "category": ({"reference_cat": ["normal", "fat"]}, KeyError, r"found fat; choose among normal, tumor"),
    "layer": ({"layer": "raw"}, KeyError, r"layers\['raw'\]"),
    "by": ({"by": "slide"}, ValueError, "'slide'"),
    "window": ({"window": 0}, ValueError, "window"),
    "clusters": ({"n_clusters": 1}, ValueError, "2 to 120 clusters"),
    "no_gene": ({"positions": pd.DataFrame({"chromosome": ["1"], "start": 1, "end": 2}, index=["X"])}, ValueError,
                "none in common"),
    "columns": ({"positions": pd.DataFrame({"chrom": ["1"]}, index=["X"])}, KeyError, r"found \['chrom'\]"),
    "rare": ({"min_mean": 1e4}, ValueError, "lower `min_mean`"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_and_changes_nothing(tumor, frozen, case: str) -> None:
    options, error, message = BAD[case]
    tumor.X = tumor.layers["counts"]
    before = frozen(tumor)
    with pytest.raises(error, match=message):
        stp.tl.cnv(tumor, **({"reference_key": "label", "reference_cat": "normal"} | options))
    assert frozen(tumor) == before


def test_fractions_are_no_counts_and_few_normal_spots_no_reference(tumor) -> None:
    few = tumor[np.r_[0:2, 30:60, 60:62, 90:120]].copy()
    with pytest.raises(ValueError, match="at least 5 normal observations in a sample; found 4 in all"):
        stp.tl.cnv(few, "label", "normal")
    tumor.layers["counts"] = np.log1p(tumor.layers["counts"])
    with pytest.raises(ValueError, match="fractions"):
        stp.tl.cnv(tumor, "label", "normal")


def test_missing_packages_name_the_extra(tumor, monkeypatch) -> None:
    import sys

    from stpredict.tl.biology import _ensembl

    monkeypatch.setitem(sys.modules, "infercnvpy", None)
    monkeypatch.setattr(_ensembl, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"needs infercnvpy.*stpredict-histology\[cnv\]"):
        stp.tl.cnv(tumor, "label", "normal")
    with pytest.raises(ImportError, match=r"needs hgfind.*stpredict-histology\[cnv\]"):
        gene_positions(ad.AnnData(np.ones((1, 1))), None)
