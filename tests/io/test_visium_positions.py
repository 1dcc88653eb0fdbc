"""Positions as Space Ranger, R, spreadsheets and people write them, and barcodes that have none."""

from __future__ import annotations

import csv
import gzip
import json
import warnings

import numpy as np
import pandas as pd
import pytest

import stpredict as stp

TABLE = "spatial/tissue_positions.csv"


def read(root):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return stp.io.read_visium(root, sample="S")


def check(adata, spots) -> None:
    assert list(adata.obs_names) == list(spots["barcode"])
    np.testing.assert_allclose(adata.obsm["spatial"], spots[["pxl_col_in_fullres", "pxl_row_in_fullres"]], atol=1e-6)
    assert adata.obs["array_col"].dtype == np.int64
    np.testing.assert_array_equal(adata.obs["array_row"], spots["array_row"])
    assert adata.uns["spatial"]["S"]["scalefactors"]["microns_per_pixel"] == pytest.approx(10)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "cp1252"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("packed", [True, False])
def test_encodings(visium, spots, encoding, header, packed) -> None:
    root = visium()
    data = spots.to_csv(index=False, header=header).encode(encoding)
    (root / TABLE).unlink()
    (root / (TABLE + ".gz" * packed)).write_bytes(gzip.compress(data) if packed else data)
    check(read(root), spots)


def test_names_outside_ascii(visium, spots) -> None:
    """Latin-1 and UTF-8 give the same column, which nobody needs."""
    root = visium()
    for encoding in ("latin-1", "utf-8", "utf-16"):
        (root / TABLE).write_bytes(spots.assign(Größe="für µm").to_csv(index=False).encode(encoding))
        check(read(root), spots)


TEXTS = {
    "all quoted": lambda t: t.to_csv(index=False, quoting=csv.QUOTE_ALL),
    "quoted without header": lambda t: t.to_csv(index=False, header=False, quoting=csv.QUOTE_ALL),
    "single line ends": lambda t: t.to_csv(index=False, lineterminator="\r"),
    "windows line ends": lambda t: t.to_csv(index=False, lineterminator="\r\n"),
    "tabs": lambda t: t.to_csv(index=False, sep="\t"),
    "semicolons": lambda t: t.to_csv(index=False, sep=";"),
    "semicolons and decimal commas": lambda t: t.to_csv(index=False, sep=";", decimal=","),
    "the same without header": lambda t: t.to_csv(index=False, header=False, sep=";", decimal=","),
    "blanks": lambda t: t.to_csv(index=False).replace(",", ", "),
    "upper case": lambda t: t.rename(columns=str.upper).to_csv(index=False),
    "columns in another order": lambda t: t[t.columns[::-1]].to_csv(index=False),
    "row names of R": lambda t: t.to_csv(quoting=csv.QUOTE_NONNUMERIC),
    "barcodes as row names of R": lambda t: t.set_index("barcode").rename_axis("").to_csv(quoting=csv.QUOTE_NONNUMERIC),
    "empty lines": lambda t: t.to_csv(index=False) + "\n\n",
    "in_tissue TRUE": lambda t: t.assign(in_tissue="TRUE").to_csv(index=False),
    "in_tissue 1.0": lambda t: t.assign(in_tissue=1.0).to_csv(index=False, header=False),
}


@pytest.mark.parametrize("write", TEXTS.values(), ids=TEXTS)
def test_forms_of_the_table(visium, spots, write) -> None:
    root = visium()
    (root / TABLE).write_bytes(write(spots).encode())
    check(read(root), spots)


@pytest.mark.parametrize("values", [(1, 0), (True, False), ("TRUE", "FALSE"), ("yes", "no"), (1.0, 0.0)])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_spots_under_tissue(visium, spots, values, kind) -> None:
    root = visium()
    inside = np.arange(len(spots)) % 3 > 0
    table = spots.assign(in_tissue=np.where(inside, *values) if kind == "csv" else [values[not i] for i in inside])
    if kind == "csv":
        table.to_csv(root / TABLE, index=False)
    else:
        (root / TABLE).unlink()
        table.to_parquet(root / "spatial/tissue_positions.parquet")
    check(read(root), spots[inside])
    adata = stp.io.read_visium(root, in_tissue_only=False)
    np.testing.assert_array_equal(adata.obs["in_tissue"], inside.astype(int))


def test_parquet_with_arrow_types_and_barcodes_in_the_index(visium, spots) -> None:
    root = visium()
    (root / TABLE).unlink()
    table = spots.astype({"barcode": "string[pyarrow]", "array_row": "Int64", "pxl_row_in_fullres": "double[pyarrow]"})
    table.set_index("barcode").to_parquet(root / "spatial/tissue_positions.parquet")
    check(read(root), spots)


def test_scale_factors_with_a_mark_and_packed(visium, spots) -> None:
    root = visium()
    path = root / "spatial/scalefactors_json.json"
    text = path.read_text()
    for data in (text.encode("utf-8-sig"), text.encode("utf-16")):
        path.write_bytes(data)
        check(read(root), spots)
    path.unlink()
    (path.parent / f"{path.name}.gz").write_bytes(gzip.compress(text.encode()))
    check(read(root), spots)


@pytest.mark.parametrize("kind", ["mtx", "h5"])
@pytest.mark.parametrize(("lost", "most"), [(1, False), (24, False), (48, False), (49, True), (200, True)])
def test_barcodes_without_position_are_counted(visium, spots, kind, lost, most) -> None:
    root = visium(kind, [*spots["barcode"], *(f"TTTT{i}-2" for i in range(lost))])
    said = f"{lost} of {48 + lost}"
    if most:
        with pytest.raises(ValueError, match=f"expected a position for most .* found none for {said}.*TTTT0-2"):
            stp.io.read_visium(root)
        return
    with pytest.warns(UserWarning, match=f"{said} barcodes of the counts have no position.*TTTT0-2"):
        assert stp.io.read_visium(root).n_obs == 48


def test_positions_without_counts_are_no_news(visium, spots) -> None:
    root = visium("h5", list(spots["barcode"][:10]))
    assert read(root).n_obs == 10


def test_tables_of_ones_own_say_what_they_leave_out() -> None:
    counts = pd.DataFrame(np.ones((5, 2), int), index=list("abcde"), columns=["G1", "G2"])
    positions = pd.DataFrame({"x": [1, 2], "y": [1, 2]}, index=["a", "b"])
    with pytest.warns(UserWarning, match="3 of 5 barcodes of the counts have no position"):
        assert stp.io.from_tables(counts, positions, microns_per_pixel=1).n_obs == 2


@pytest.mark.parametrize(
    "data",
    [
        b"\x00" * 50,
        b"\x89PNG\r\n\x1a\n" + b"\x01" * 40,
        b"barcode,in_tissue\n",
        b"a,b,c\n1,2,3\n",
        b'barcode,in_tissue,array_row,array_col,pxl_row_in_fullres,pxl_col_in_fullres\n"AC,1,2,3',
        b"AC-1,1,0,0,nan,5\n",
        b"AC-1,1,0,0,1e400,5\n",
        b"AC-1,2,0,0,4,5\n",
        b"AC-1,1,0,0,4\n",
        b"\xff\xfea\x00b",
        gzip.compress(b"AC-1,1,0,0,4,5\n", mtime=0)[:-9],
        b"AC-1,1,0,0,1e300,5\nAC-2,1,1,1,5,5\nAC-3,1,0,2,5,9\n",
    ],
)
def test_damaged_positions_name_the_file(visium, data) -> None:
    root = visium()
    (root / TABLE).write_bytes(data)
    with pytest.raises(
        ValueError, match=r"expected .*(tissue_positions\.csv|positions in .*spatial).*found|positions in .*expected"
    ):
        stp.io.read_visium(root)


@pytest.mark.parametrize("entry", ["[]", "7", "{", '{"spot_diameter_fullres": "x"}', '{"tissue_hires_scalef": NaN}',
                                   '{"bin_size_um": -2}', '{"microns_per_pixel": null}', "\x00"])  # fmt: skip
def test_damaged_scale_factors_name_the_file(visium, entry) -> None:
    root = visium()
    (root / "spatial/scalefactors_json.json").write_text(entry)
    with pytest.raises(ValueError, match=r"expected .*scalefactors_json\.json.*found"):
        stp.io.read_visium(root)


def test_damaged_parquet_names_the_file(visium, spots) -> None:
    root = visium()
    path = root / "spatial/tissue_positions.parquet"
    spots.to_parquet(path)
    whole = path.read_bytes()
    for data in (b"", whole[:100], whole[:-20], b"PAR1" + bytes(100) + b"PAR1", whole[:60] + bytes(200) + whole[260:]):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=r"expected .*tissue_positions\.parquet.*found"):
            stp.io.read_visium(root)


def test_errors_leave_nothing_behind(visium) -> None:
    root = visium()
    before = {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}
    (root / "spatial/scalefactors_json.json").write_text(json.dumps({"spot_diameter_fullres": 0}))
    with pytest.raises(ValueError, match="positive"):
        stp.io.read_visium(root)
    assert set(before) == {path for path in root.rglob("*") if path.is_file()}
