"""DNA around the starts of genes: strands, ends of chromosomes, signals, regions, and what is wrong with files."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._rows import rows_of
from stpredict.slots._sequences import encoded, reverse_complement
from stpredict.tl.learn.inputs._reader import Source, readers

BASES = "".join(np.random.default_rng(0).choice(list("ACGTacgtN"), 1000))
LENGTHS = {"chr1": 600, "chr2": 400}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A genome, genes, signals and regions."""
    folder = tmp_path_factory.mktemp("genome")
    parts = {"chr1": BASES[:600], "chr2": BASES[600:]}
    lines = [f">{name} toy\n" + "\n".join(p[i : i + 50] for i in range(0, len(p), 50)) for name, p in parts.items()]
    (folder / "toy.fa").write_text("\n".join(lines) + "\n")
    rows = [
        ("1", 100, 180, "+", "AAA", "E1"), ("1", 201, 300, "-", "BBB", "E2"), ("2", 3, 90, "+", "CCC", "E3"),
        ("2", 250, 398, "-", "DDD", "E4"), ("1", 10, 20, "+", "TWO", "E5"), ("2", 10, 20, "+", "TWO", "E6"),
    ]  # fmt: skip
    gtf = [
        f'{c}\tx\t{what}\t{a}\t{b}\t.\t{s}\t.\tgene_id "{number}"; gene_name "{name}";'
        for c, a, b, s, name, number in rows
        for what in ("gene", "exon")
    ]
    (folder / "toy.gtf").write_text("\n".join(gtf) + "\n")
    (folder / "out.bed").write_text("track x\nchr1\t90\t104\nchr2\t0\t5\nchr9\t0\t5\n")
    _bigwig(folder / "dnase.bw", LENGTHS)
    _bigwig(folder / "other.bw", {"1": 700})
    _cool(folder / "hic.cool")
    return folder


def _bigwig(path: Path, lengths: dict[str, int]) -> None:
    package = pytest.importorskip("pyBigWig")
    file = package.open(str(path), "w")
    file.addHeader(list(lengths.items()))
    for name in lengths:  # the value of a base is its number, but for the first ten, of which there is none
        file.addEntries(name, 10, values=[float(n) for n in range(10, 300)], span=1, step=1)
    file.close()


def _cool(path: Path) -> None:
    cooler = pytest.importorskip("cooler")
    starts = [(name, start) for name, length in LENGTHS.items() for start in range(0, length, 100)]
    bins = pd.DataFrame({"chrom": [n for n, _ in starts], "start": [s for _, s in starts]})
    bins["end"] = bins["start"] + 100
    n = len(bins)
    pairs = [(a, b) for a in range(n) for b in range(a, n)]
    pixels = pd.DataFrame(pairs, columns=["bin1_id", "bin2_id"])
    cooler.create_cooler(str(path), bins, pixels.assign(count=10 * pixels["bin1_id"] + pixels["bin2_id"]))


def text(codes: np.ndarray) -> str:
    return "".join("ACGTN"[code] for code in codes)


def test_windows_of_both_strands(files: Path) -> None:
    adata = stp.io.read_sequences(files / "toy.fa", files / "toy.gtf", 20)
    assert list(adata.obs_names) == ["AAA", "BBB", "CCC", "DDD"]  # what stands for two places is left out
    assert adata.obs["tss"].tolist() == [100, 300, 3, 398]
    upper = BASES.upper()
    assert text(adata.obsm["sequence"][0]) == upper[99 - 10 : 99 + 10]
    assert text(adata.obsm["sequence"][0])[10] == upper[99]
    other = upper[299 - 9 : 299 + 11].translate(str.maketrans("ACGT", "TGCA"))[::-1]
    assert text(adata.obsm["sequence"][1]) == other
    assert text(adata.obsm["sequence"][2]) == "N" * 8 + upper[600:612]
    assert adata.obs["n_padded"].tolist() == [0, 0, 8, 8]
    assert (adata.obs["n_unknown"] == (adata.obsm["sequence"] == 4).sum(axis=1)).all()
    assert adata.uns["stpredict"]["unit"]["is"] == "gene"
    assert [fold.name for fold in stp.cohorts.leave_chromosomes_out(adata)] == ["1", "2"]


@pytest.mark.parametrize("width", [2, 7, 20])
def test_the_start_of_every_gene_is_at_the_same_index(files: Path, width: int) -> None:
    adata = stp.io.read_sequences(files / "toy.fa", files / "toy.gtf", width, names=["BBB", "AAA"])
    assert list(adata.obs_names) == ["BBB", "AAA"]
    here = encoded(BASES[299]), encoded(BASES[99])
    assert adata.obsm["sequence"][:, width // 2].tolist() == [int(reverse_complement(here[0])[0]), int(here[1][0])]


def test_signals_and_regions_turn_with_the_strand(files: Path) -> None:
    signals = {"dnase": files / "dnase.bw", "contacts": files / "hic.cool"}
    adata = stp.io.read_sequences(files / "toy.fa", files / "toy.gtf", 20, signals=signals, blacklist=files / "out.bed")
    dnase, contacts = adata.obsm["signals"][..., 0], adata.obsm["signals"][..., 1]
    np.testing.assert_array_equal(dnase[0], np.arange(89, 109))
    np.testing.assert_array_equal(dnase[1], [0] * 10 + list(range(299, 289, -1)))
    np.testing.assert_array_equal(dnase[2], [0] * 18 + [10, 11])
    np.testing.assert_array_equal(contacts[0], [0] * 11 + [1] * 9)  # the start is in bin 0, its window reaches bin 1
    np.testing.assert_array_equal(contacts[3, :8], 0)  # beyond the end
    np.testing.assert_array_equal(contacts[3, 8:], 10 * 9 + 9)
    np.testing.assert_array_equal(adata.obsm["sequence_mask"][0], [0] + [-1] * 14 + [0] * 5)
    np.testing.assert_array_equal(adata.obsm["sequence_mask"][2], [0] * 8 + [-1] * 5 + [0] * 7)
    assert list(adata.uns["stpredict"]["sequence"]["signals"]) == ["dnase", "contacts"]


def test_lazy_windows_are_those_in_memory(files: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"signals": {"dnase": files / "dnase.bw"}, "names": ["BBB", "CCC", "DDD"]}
    whole, lazy = (
        stp.io.read_sequences(files / "toy.fa", files / "toy.gtf", 30, lazy=each, **options) for each in (False, True)
    )
    assert not {"sequence", "signals"} & set(lazy.obsm)
    lazy.write_h5ad(tmp_path / "lazy.h5ad")
    lazy = ad.read_h5ad(tmp_path / "lazy.h5ad")
    found: dict[str, Any] = {}
    for name, adata in (("whole", whole), ("lazy", lazy)):
        source = Source(adata, adata, rows_of(adata, sample_key="chrom", patient_key="chrom"), None)
        known = readers()
        found[name] = {key: known[key].read(source)[key] for key in ("sequence", "signals", "sequence_mask")}
    for key, values in found["whole"].items():
        np.testing.assert_array_equal(found["lazy"][key][np.array([2, 0])], values[[2, 0]])
        assert found["lazy"][key].shape == values.shape
    assert found["lazy"]["sequence"].fingerprint() != found["lazy"]["signals"].fingerprint()
    assert len(stp.cohorts.leave_chromosomes_out(lazy)) == 2
    lazy.obs["sequence_digest"] = "same"
    with pytest.raises(ValueError, match="other sequences in training"):
        stp.cohorts.leave_chromosomes_out(lazy)


def test_expression_joins_by_name(files: Path) -> None:
    expression = pd.DataFrame({"K562": [1.0, 2.0]}, index=["DDD", "AAA"])
    adata = stp.io.read_sequences(files / "toy.fa", files / "toy.gtf", 8, expression=expression)
    np.testing.assert_array_equal(adata.X[:, 0], [2, np.nan, np.nan, 1])
    assert list(adata.var_names) == ["K562"]


def table(**changes: Any) -> pd.DataFrame:
    return pd.DataFrame({"chrom": ["1"], "tss": [50], "strand": ["+"]}, index=["AAA"]).assign(**changes)


@pytest.mark.parametrize(
    ("genes", "options", "error", "match"),
    [
        (table(chrom="3"), {}, KeyError, r"chromosomes of all genes in toy\.fa; found no 3 among chr1, chr2"),
        (table(tss=601), {}, ValueError, r"601 on 1, which has 600 bases in toy\.fa.*one assembly"),
        (table(tss=0), {}, ValueError, "whole numbers from 1 as `tss`"),
        (table(strand="."), {}, ValueError, "'\\+' or '-' as `strand`"),
        (table().drop(columns="strand"), {}, KeyError, r"columns chrom, tss, strand.*GTF"),
        (table(), {"names": ["ZZZ"]}, KeyError, "found no ZZZ"),
        (table(), {"width": 1}, ValueError, "at least 2 bases"),
        (table(), {"width": 9 * 2**30}, ValueError, "lazy=True"),
        (pd.concat([table(), table()]), {}, ValueError, "AAA"),
        ("none.gtf", {}, FileNotFoundError, "none.gtf"),
        (table(), {"signals": {"x": "toy.fa"}}, ValueError, "bigWig file at .*toy.fa"),
        (table(), {"signals": {"x": "none.bw"}}, FileNotFoundError, "none.bw"),
        (table(), {"signals": {"x": "other.bw"}}, ValueError, "signal 'x' on the assembly of toy.fa; found 1 with 700"),
        (table(), {"signals": {"x": "hic.cool::ten"}}, ValueError, "resolution in bases"),
        (table(), {"blacklist": "toy.fa"}, ValueError, "regions in BED"),
        (table(), {"expression": pd.DataFrame({"a": [1.0]}, index=["ZZZ"])}, ValueError, "none in common"),
    ],
)  # fmt: skip
def test_faults_are_named(
    files: Path, genes: Any, options: dict[str, Any], error: type[Exception], match: str, monkeypatch: Any
) -> None:
    monkeypatch.chdir(files)
    with pytest.raises(error, match=match):
        stp.io.read_sequences("toy.fa", genes, **({"width": 8} | options))


def test_damaged_genomes(files: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.fa").write_text(">chr1\nACGT\nAC\nACGTAA\n")
    (tmp_path / "packed.fa.gz").write_bytes(gzip.compress((files / "toy.fa").read_bytes()))
    (tmp_path / "both.fa").write_text(">chr1\nACGT\n>1\nACGT\n")
    for name, match in (("bad.fa", "lines of one length"), ("packed.fa.gz", "gunzip"), ("both.fa", "chr1 and 1")):
        with pytest.raises(ValueError, match=match):
            stp.io.read_sequences(tmp_path / name, table(), 8)
    with pytest.raises(FileNotFoundError, match=r"none\.fa"):
        stp.io.read_sequences(tmp_path / "none.fa", table(), 8)
