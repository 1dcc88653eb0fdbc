from __future__ import annotations

import numpy as np
import pytest

from stpredict.core._gene_sets import identifier_kind, membership, read_gene_sets

KINDS = {
    "Ensembl genes": ["ENSG00000141736", "ENSMUSG00000000001.4"],
    "Entrez numbers": ["2064", "7157", "672.0"],
    "RefSeq accessions": ["NM_000125", "NM_004448.4"],
    "Affymetrix probes": ["200039_s_at", "216836_s_at", "AFFX-BioB-5_at"],
    "human symbols": ["ERBB2", "C1orf112", "HLA-A", "MT-CO1"],
    "mouse symbols": ["Erbb2", "Trp53", "mt-Co1", "Gm1992"],
    "UniProt accessions": ["P04626", "A0A024R1R8"],
    "names of several kinds or none known": ["foo bar", "ERBB2", "2064", "_x"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_names(kind: str) -> None:
    assert identifier_kind(KINDS[kind]) == kind


def test_members_are_those_of_the_background(tmp_path) -> None:
    path = tmp_path / "sets.gmt"
    path.write_text("a\tx\tG1\tG2\tG2\tZ\nb\tx\tG3\nc\tx\tZ\tY\n")
    found = membership(path, ["G3", "G2", "G1"], 1, 10)
    assert found.terms == ["a", "b"]
    assert found.member.toarray().tolist() == [[0, 1, 1], [1, 0, 0]]
    assert found.size.tolist() == [2, 1]
    assert found.n_given == 3
    assert read_gene_sets(str(path)) == {"a": ["G1", "G2", "Z"], "b": ["G3"], "c": ["Z", "Y"]}
    for sizes, terms in (((2, 2), ["a"]), ((1, 1), ["b"])):
        assert membership(path, ["G3", "G2", "G1"], *sizes).terms == terms


SYMBOLS = {"t": ["ERBB2", "GRB7", "ESR1"]}
NO_OVERLAP = {
    "Ensembl": (["ENSG00000141736", "ENSG00000141738"], "seem to be Ensembl genes .*of the sets human symbols"),
    "Entrez": (["2064", "2886"], "Entrez numbers"),
    "mouse": (["Erbb2", "Grb7"], "seem to be mouse symbols .*differ in upper"),
    "case": (["erbb2", "grb7"], "erbb2, grb7.*differ in upper and lower case"),
    "other genes": (["TP53", "BRCA1"], "0 of the 3 names .*seem to be human symbols .TP53.*human symbols .ERBB2"),
    "small": (["ERBB2", "GRB7"], "the largest has 2.*min_size"),
}


@pytest.mark.parametrize("case", NO_OVERLAP)
def test_without_overlap_the_kinds_are_named(case: str) -> None:
    genes, message = NO_OVERLAP[case]
    with pytest.raises(ValueError, match=message):
        membership(SYMBOLS, genes, 3, 10)


def test_errors(tmp_path, monkeypatch) -> None:
    import gseapy

    def offline(*_, **__):
        raise OSError("no route")

    def unknown(*_, **__):
        raise ValueError("Sorry")

    with pytest.raises(FileNotFoundError, match=r"none\.gmt"):
        read_gene_sets(str(tmp_path / "none.gmt"))
    with pytest.raises(TypeError, match="mapping, a GMT file"):
        read_gene_sets([["G1"]])
    with pytest.raises(TypeError, match="genes of 't' as a list"):
        read_gene_sets({"t": "ERBB2"})
    with pytest.raises(ValueError, match="at least one gene set"):
        read_gene_sets({})
    monkeypatch.setattr(gseapy, "get_library", offline)
    with pytest.raises(ConnectionError, match="KEGG_2016.*OSError.*GMT file"):
        read_gene_sets("KEGG_2016")
    monkeypatch.setattr(gseapy, "get_library", unknown)
    with pytest.raises(ValueError, match="KEGG_201.*get_library_name"):
        read_gene_sets("KEGG_201")
    monkeypatch.setattr(gseapy, "get_library", lambda name, organism: {name: [organism]})
    assert read_gene_sets("KEGG_2016", "mouse") == {"KEGG_2016": ["mouse"]}
    with pytest.raises(ValueError, match="genes of the background; found ERBB2 more than once"):
        membership(SYMBOLS, ["ERBB2", "ERBB2"], 1, 10)
    with pytest.raises(ValueError, match="min_size"):
        membership(SYMBOLS, ["ERBB2"], 0, 10)
    assert np.array_equal(membership(SYMBOLS, ["ERBB2"], 1, 10).size, [1])


def test_what_two_sides_name_differently_is_told() -> None:
    from stpredict.core._gene_sets import kinds_in_words

    symbols = ["ESR1", "MKI67", "TP53"]
    assert kinds_in_words(["ENSG00000148773"], symbols, "signature") == (
        " (those of the signature seem to be Ensembl genes, those there human symbols)"
    )
    assert kinds_in_words(["Esr1"], symbols, "signature") == " (they differ in upper and lower case)"
    assert kinds_in_words(["BRCA1"], symbols, "signature") == ""
