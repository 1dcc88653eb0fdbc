"""Tables of Spatial Transcriptomics in other encodings, with quotes, and damaged."""

from __future__ import annotations

import csv
import gzip
import io
import random

import numpy as np
import pandas as pd
import pytest

import stpredict as stp


@pytest.fixture
def folder(write_her2st):
    return write_her2st()


def rewrite(path, encode, **options):
    """Write a table again in another form; packed where its name says so."""
    packed = path.suffix == ".gz"
    data = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    table = pd.read_csv(io.BytesIO(data), sep="\t", dtype=str, keep_default_na=False)
    if table.columns[0].startswith("Unnamed"):
        table = table.rename(columns={table.columns[0]: ""})
    new = encode(table.to_csv(index=False, **{"sep": "\t"} | options))
    path.write_bytes(gzip.compress(new) if packed else new)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1"])
@pytest.mark.parametrize(
    "options", [{}, {"quoting": csv.QUOTE_ALL}, {"lineterminator": "\r\n"}, {"sep": ","}, {"sep": ";"}]
)
def test_forms_of_the_tables(folder, encoding, options) -> None:
    wanted = stp.io.read_her2st(folder, "A2")
    for name in ("counts/A2.tsv.gz", "spots/A2_selection.tsv", "labels/A2_labeled_coordinates.tsv"):
        rewrite(folder / name, lambda text: text.encode(encoding), **options)
    found = stp.io.read_her2st(folder, "A2")
    np.testing.assert_array_equal(found.X.toarray(), wanted.X.toarray())
    assert list(found.var_names) == list(wanted.var_names)
    pd.testing.assert_frame_equal(found.obs, wanted.obs)


@pytest.mark.parametrize("values", [("1", "0"), ("TRUE", "FALSE"), ("True", "False"), ("1.0", "0.0"), ("yes", "no")])
def test_selected_spots(folder, values) -> None:
    path = folder / "spots" / "A1_selection.tsv"
    table = pd.read_csv(path, sep="\t")
    inside = np.arange(len(table)) % 2 == 0
    table.assign(selected=np.where(inside, *values)).to_csv(path, sep="\t", index=False)
    adata = stp.io.read_her2st(folder, "A1")
    named = {f"A1_{x}x{y}" for x, y in table.loc[inside, ["x", "y"]].to_numpy()}
    assert set(adata.obs_names) <= named
    assert adata.n_obs >= inside.sum() - 1
    table.assign(selected="perhaps").to_csv(path, sep="\t", index=False)
    with pytest.raises(ValueError, match=r"column selected of .*A1_selection\.tsv.*'perhaps'"):
        stp.io.read_her2st(folder, "A1")


def test_spots_that_the_other_file_lacks_are_counted(folder) -> None:
    path = folder / "spots" / "A1_selection.tsv"
    table = pd.read_csv(path, sep="\t")
    table.iloc[:-5].to_csv(path, sep="\t", index=False)
    with pytest.warns(UserWarning, match=r"[45] of 47 spots of A1\.tsv\.gz have no line in A1_selection\.tsv"):
        stp.io.read_her2st(folder, "A1")


@pytest.mark.parametrize("name", ["counts/A2.tsv.gz", "spots/A2_selection.tsv", "labels/A2_labeled_coordinates.tsv"])
@pytest.mark.parametrize("seed", range(12))
def test_damage_is_named(folder, name, seed) -> None:
    """Bytes overwritten, also below the compression: the file is read, or an error says which it is."""
    path, rng = folder / name, random.Random(seed)
    inside = path.suffix == ".gz" and seed % 2
    data = bytearray(gzip.decompress(path.read_bytes()) if inside else path.read_bytes())
    start = rng.randrange(len(data))
    if seed % 3 == 0:
        data = data[:start]
    else:
        data[start : start + 6] = bytes(rng.randrange(256) for _ in data[start : start + 6])
    path.write_bytes(gzip.compress(bytes(data)) if inside else data)
    said = ""
    try:
        assert stp.io.read_her2st(folder, "A2").n_obs
    except ValueError as error:
        said = str(error)
    assert not said or ("expected" in said and "A2" in said), said


def test_numbers_that_no_array_has(folder) -> None:
    path = folder / "spots" / "A1_selection.tsv"
    for value in ("1e300", "inf", "123456789012"):
        path.write_text(f"x\ty\tpixel_x\tpixel_y\n{value}\t2\t5\t5\n2\t3\t5\t9\n3\t2\t9\t5\n")
        with pytest.raises(ValueError, match=r"below 1e\+08 in .*A1_selection"):
            stp.io.read_her2st(folder, "A1")


def test_rows_that_were_cut(folder) -> None:
    (folder / "counts" / "A1.tsv.gz").write_bytes(b"\tG1\tG2\n2x2\t1\t2\n3x2\t1\n")
    with pytest.raises(ValueError, match=r"expected a count of every gene in .*A1\.tsv\.gz; found gaps in 1 spots"):
        stp.io.read_her2st(folder, "A1")
