"""Counts in 10x files of every version, whole and damaged: damage ends in an error that names the file."""

from __future__ import annotations

import gzip
import random
import subprocess

import h5py
import numpy as np
import pytest

import stpredict as stp
from stpredict.io import _counts_h5
from stpredict.io._counts_h5 import check_h5, read_counts_h5
from stpredict.io._counts_mtx import read_counts_mtx

BARCODES, GENES = [f"AC{i}-1" for i in range(6)], list("ABCDE")


@pytest.fixture
def h5(tmp_path, counts_writer):
    path = tmp_path / "counts.h5"
    return path, counts_writer(path, BARCODES, GENES)


@pytest.fixture
def mtx(tmp_path, counts_writer):
    path = tmp_path / "counts"
    return path, counts_writer(path, BARCODES, GENES)


def test_h5_gives_the_counts(h5) -> None:
    found = read_counts_h5(h5[0])
    np.testing.assert_array_equal(found.X.toarray(), h5[1])
    assert list(found.obs_names) == BARCODES
    assert list(found.var_names) == GENES
    assert found.var["gene_ids"].tolist() == [f"ENSG{i}" for i in range(5)]


def test_other_features_than_genes_are_left_out(tmp_path, counts_writer) -> None:
    types = np.array(
        ["Gene Expression", "Antibody Capture", "Gene Expression", "Antibody Capture", "Gene Expression"], "S"
    )
    counts = counts_writer(tmp_path / "a.h5", BARCODES, GENES, **{"features/feature_type": types})
    np.testing.assert_array_equal(read_counts_h5(tmp_path / "a.h5").X.toarray(), counts[:, ::2])
    counts_writer(
        tmp_path / "b.h5", BARCODES, GENES, **{"features/feature_type": np.array(["Antibody Capture"] * 5, "S")}
    )
    with pytest.raises(ValueError, match="'Gene Expression'"):
        read_counts_h5(tmp_path / "b.h5")


def test_genomes(tmp_path, counts_writer) -> None:
    genomes = np.array(["GRCh38", "mm10", "mm10", "mm10", "GRCh38"], "S")
    counts_writer(tmp_path / "a.h5", BARCODES, GENES, **{"features/genome": genomes})
    assert list(read_counts_h5(tmp_path / "a.h5", "mm10").var_names) == ["B", "C", "D"]
    with pytest.raises(ValueError, match=r"genome 'rn6' in .*a\.h5; found GRCh38, mm10"):
        read_counts_h5(tmp_path / "a.h5", "rn6")


def test_h5_of_cell_ranger_2(h5, tmp_path) -> None:
    """Groups named after genomes; they are read by name, or the only one."""
    old = tmp_path / "old.h5"
    with h5py.File(h5[0]) as new, h5py.File(old, "w") as file:
        for genome in ("hg19", "mm9"):
            for name in ("data", "indices", "indptr", "shape", "barcodes"):
                file[f"{genome}/{name}"] = new[f"matrix/{name}"][()]
            file[f"{genome}/genes"], file[f"{genome}/gene_names"] = (
                new[f"matrix/features/{n}"][()] for n in ("id", "name")
            )
    np.testing.assert_array_equal(read_counts_h5(old, "mm9").X.toarray(), h5[1])
    with pytest.raises(ValueError, match=r"one genome.*hg19, mm9.*`genome=`"):
        read_counts_h5(old)
    with h5py.File(old, "r+") as file:
        del file["mm9"]
    assert read_counts_h5(old).n_obs == 6


BROKEN = {
    "fewer barcodes": {"barcodes": np.array(BARCODES[:-1], "S")},
    "fewer names": {"features/name": np.array(GENES[:-1], "S")},
    "pointers back": {"indptr": np.array([0, 9, 3, 4, 5, 6, 7], np.int32)},
    "pointers beyond": {"indptr": np.array([0, 1, 2, 3, 4, 5, 9999], np.int32)},
    "negative genes": {"indices": np.full(30, -1, np.int32)},
    "an absurd shape": {"shape": np.array([2**60, 6])},
    "a shape of one": {"shape": np.array([5])},
    "counts as text": {"data": np.array(["1"] * 30, "S")},
    "a table of names": {"features/name": np.array([GENES], "S")},
    "one type for all": {"features/feature_type": np.array(b"Gene Expression")},
    "one genome for all": {"features/genome": np.array(b"GRCh38")},
    "no pointers": {"indptr": None},
    "no names": {"features/name": None, "features/id": None},
    "names that are numbers of another length": {"features/name": np.arange(3)},
    "names in another encoding": {"features/name": np.array([b"\xff\xfe", b"B", b"C", b"D", b"E"])},
}


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN)
def test_parts_of_an_h5_that_do_not_fit(tmp_path, counts_writer, changes) -> None:
    counts_writer(tmp_path / "a.h5", BARCODES, GENES, **changes)
    with pytest.raises(ValueError, match=r"expected .*a\.h5.*found"):
        read_counts_h5(tmp_path / "a.h5")


def test_another_h5_file_is_named_so(tmp_path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["X"] = np.zeros(3)
    with pytest.raises(ValueError, match=r"10x matrix in .*a\.h5; found an HDF5 file without the group 'matrix'"):
        read_counts_h5(tmp_path / "a.h5")


@pytest.mark.parametrize("seed", range(25))
def test_mutated_h5_never_ends_the_process(h5, seed) -> None:
    """Among a hundred such files, some end the process of the HDF5 library by a signal."""
    path, counts = h5
    rng, data = random.Random(seed), bytearray(path.read_bytes())
    for _ in range(rng.randrange(1, 12)):
        start = rng.randrange(len(data))
        data[start : start + 8] = bytes(rng.randrange(256) for _ in data[start : start + 8])
    path.write_bytes(data)
    said = ""
    try:
        shape = read_counts_h5(path).shape
    except ValueError as error:
        said, shape = str(error), counts.shape
    assert shape == counts.shape
    assert not said or all(word in said for word in ("expected", "found", str(path)))


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (subprocess.CompletedProcess([], -11, "", ""), "ends its reader .signal 11"),
        (subprocess.CompletedProcess([], 1, "", "x\nRuntimeError: bad heap"), "damaged one .RuntimeError: bad heap"),
        (subprocess.TimeoutExpired([], 60), "could not be read within 60 s"),
    ],
)
def test_how_the_other_process_may_end(h5, monkeypatch, outcome, message) -> None:
    def run(*_, **__):
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    monkeypatch.setattr(_counts_h5.subprocess, "run", run)
    with pytest.raises(ValueError, match=rf"expected an HDF5 file at .*counts\.h5; found .*{message}"):
        check_h5(h5[0])


def test_where_the_other_process_lacks_h5py(h5, monkeypatch) -> None:
    """Paths that were added to this process alone: the file is read without the trial."""
    monkeypatch.setattr(_counts_h5.subprocess, "run", lambda *_, **__: subprocess.CompletedProcess([], 77, "", ""))
    assert read_counts_h5(h5[0]).n_obs == 6


def test_a_module_of_the_users_own_is_not_taken_for_h5py(h5, tmp_path, monkeypatch) -> None:
    (tmp_path / "h5py.py").write_text("raise SystemExit('taken')")
    monkeypatch.chdir(tmp_path)
    check_h5(h5[0])


@pytest.mark.parametrize("claim", [10**12, 2**40])
def test_an_h5_that_claims_more_than_it_holds(tmp_path, claim) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("matrix/data", shape=(claim,), dtype="i4", chunks=(1000,))
    with pytest.raises(ValueError, match=f"claims {claim} values"):
        read_counts_h5(tmp_path / "a.h5")


def test_mtx_gives_the_counts(mtx) -> None:
    found = read_counts_mtx(mtx[0])
    np.testing.assert_array_equal(found.X.toarray(), mtx[1])
    assert list(found.var_names) == GENES


FORMS = {
    "packed": lambda f: [(f / n).rename(f / f"{n}.gz") and (f / f"{n}.gz").write_bytes(gzip.compress((f / f"{n}.gz").read_bytes())) for n in ("matrix.mtx", "barcodes.tsv", "features.tsv")],
    "named gz but plain": lambda f: (f / "barcodes.tsv").rename(f / "barcodes.tsv.gz"),
    "packed but not named gz": lambda f: (f / "matrix.mtx").write_bytes(gzip.compress((f / "matrix.mtx").read_bytes())),
    "genes.tsv of two columns": lambda f: ((f / "genes.tsv").write_text("".join(f"ENSG{i}\t{g}\n" for i, g in enumerate(GENES))), (f / "features.tsv").unlink()),
    "one column": lambda f: (f / "features.tsv").write_text("\n".join(GENES)),
    "prefix": lambda f: [path.rename(f / f"GSM1_{path.name}") for path in list(f.iterdir())],
    "header and quotes": lambda f: (f / "barcodes.tsv").write_text('"x"\n' + "".join(f'"{b}"\n' for b in BARCODES)),
    "utf-16": lambda f: (f / "features.tsv").write_bytes((f / "features.tsv").read_text().encode("utf-16")),
    "mark": lambda f: (f / "barcodes.tsv").write_bytes(b"\xef\xbb\xbf" + (f / "barcodes.tsv").read_bytes()),
    "windows": lambda f: [p.write_bytes(p.read_bytes().replace(b"\n", b"\r\n")) for p in f.iterdir()],
    "hidden file": lambda f: (f / "._matrix.mtx").write_bytes(b"\x00\x05"),
    "real numbers": lambda f: (f / "matrix.mtx").write_text((f / "matrix.mtx").read_text().replace("integer", "real")),
}  # fmt: skip


@pytest.mark.parametrize("change", FORMS.values(), ids=FORMS)
def test_forms_of_an_mtx_folder(mtx, change) -> None:
    change(mtx[0])
    found = read_counts_mtx(mtx[0])
    np.testing.assert_array_equal(found.X.toarray(), mtx[1])
    assert list(found.obs_names) == BARCODES
    assert list(found.var_names) == GENES


def test_gene_names_that_look_like_gaps_are_names(tmp_path, counts_writer) -> None:
    names = ["NA", "nan", "NULL", "1", "TRUE"]
    counts_writer(tmp_path / "m", BARCODES, names)
    assert list(read_counts_mtx(tmp_path / "m").var_names) == names


HEAD = "%%MatrixMarket matrix coordinate integer general\n"
DAMAGED = {
    ("matrix.mtx", "empty"): b"",
    ("matrix.mtx", "another file"): b"GIF89a" + bytes(50),
    ("matrix.mtx", "cut gzip"): gzip.compress(HEAD.encode() * 50)[:60],
    ("matrix.mtx", "no size"): HEAD.encode(),
    ("matrix.mtx", "absurd size"): f"{HEAD}2000000000 2000000000 1\n1 1 1\n".encode(),
    ("matrix.mtx", "absurd entries"): f"{HEAD}5 6 9000000000000\n1 1 1\n".encode(),
    ("matrix.mtx", "beyond"): f"{HEAD}5 6 1\n7 1 1\n".encode(),
    ("matrix.mtx", "from zero"): f"{HEAD}5 6 1\n0 1 1\n".encode(),
    ("matrix.mtx", "text"): f"{HEAD}5 6 1\n1 1 x\n".encode(),
    ("matrix.mtx", "a gap"): f"{HEAD}5 6 2\n1 1 1\n1 2\n".encode(),
    ("matrix.mtx", "dense"): b"%%MatrixMarket matrix array real general\n5 6\n1\n",
    ("barcodes.tsv", "empty"): b"",
    ("barcodes.tsv", "cut"): b"AC0-1\nAC1-1\n",
    ("barcodes.tsv", "zeros"): bytes(80),
    ("features.tsv", "cut"): b"ENSG0\tA\tGene Expression\n",
    ("features.tsv", "ragged"): b"a\tb\nc\td\te\tf\n",
    ("features.tsv", "no genes"): b"".join(b"E\tA\tPeaks\n" for _ in range(5)),
}


@pytest.mark.parametrize(
    ("name", "data"), [(key[0], data) for key, data in DAMAGED.items()], ids=map(" ".join, DAMAGED)
)
def test_damaged_mtx_names_the_file(mtx, name, data) -> None:
    (mtx[0] / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"expected .*{name}.*found"):
        read_counts_mtx(mtx[0])


@pytest.mark.parametrize("name", ["matrix.mtx", "barcodes.tsv", "features.tsv"])
def test_missing_files_of_an_mtx_folder(mtx, name) -> None:
    (mtx[0] / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"expected .*{name.split('.')[0]}.*found"):
        read_counts_mtx(mtx[0])


def test_negative_and_fractional_counts_end_the_reader(visium) -> None:
    root = visium()
    path = root / "filtered_feature_bc_matrix" / "matrix.mtx"
    for value, message in (("-1", "non-negative"), ("0.5", "whole-number"), ("1e300", "at most")):
        path.write_text(f"%%MatrixMarket matrix coordinate real general\n5 48 1\n1 1 {value}\n")
        with pytest.raises(ValueError, match=message):
            stp.io.read_visium(root)
