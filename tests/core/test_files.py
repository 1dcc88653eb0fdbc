"""Text files of other programs: what their readers raise names the file, and says what was expected and found."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pandas as pd
import pytest

from stpredict.core._files import check_columns, damage_named, parse_table, read_json, read_parquet, read_text

TABLE = "gene,value\nERBB2,1\nß,2\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "cp1252"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_in_any_usual_encoding(tmp_path: Path, encoding: str, end: str) -> None:
    data = TABLE.replace("\n", end).encode(encoding)
    for name, content in (
        ("plain.csv", data),
        ("packed.csv.gz", gzip.compress(data)),
        ("hidden.csv", gzip.compress(data)),
    ):
        (tmp_path / name).write_bytes(content)
        assert read_text(tmp_path / name, "a table") == TABLE


DAMAGED = {
    "cut gzip": gzip.compress(TABLE.encode())[:-9],
    "gzip with a wrong checksum": gzip.compress(TABLE.encode())[:-8] + bytes(8),
    "no gzip behind its mark": b"\x1f\x8b" + bytes(30),
    "bytes that are no text": bytes([1, 2, 3, 255, 254]),
    "zeros": bytes(100),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_text(tmp_path: Path, damage: str) -> None:
    (tmp_path / "a.tsv").write_bytes(DAMAGED[damage])
    with pytest.raises(ValueError, match=r"expected a table in .*a\.tsv; found .*damaged"):
        read_text(tmp_path / "a.tsv", "a table")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a table in .*Is a directory"):
        read_text(tmp_path, "a table")


@pytest.mark.parametrize("text", ['a,b\n"1,2\n', "a\n1,2\n3,4,5\n", ""])
def test_text_that_is_no_table(tmp_path: Path, text: str) -> None:
    with pytest.raises(ValueError, match=r"expected positions in x\.csv; found an empty or damaged file"):
        parse_table(text, Path("x.csv"), "positions")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("{", "found Expecting"), ("[1]", "found list"), ('{"a": NaN}', "found NaN"), ('{"a": -Infinity}', "found -Inf"),
        ("[" * 100_000, "found maximum recursion depth"),
    ],
)  # fmt: skip
def test_text_that_is_no_json(tmp_path: Path, text: str, found: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ValueError, match=rf"expected .*JSON.* in .*a\.json .*{found}"):
        read_json(tmp_path / "a.json", "scale factors")


def test_json(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"a": 1.5}), encoding="utf-16")
    assert read_json(tmp_path / "a.json", "scale factors") == {"a": 1.5}


def test_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pd.DataFrame({"a": ["x", "y"]}).to_parquet(path)
    whole = path.read_bytes()
    assert read_parquet(path, "positions")["a"].tolist() == ["x", "y"]
    for content in (b"", whole[:-9], whole[:40] + bytes(60) + whole[100:]):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"expected positions in .*a\.parquet; found an empty or damaged file"):
            read_parquet(path, "positions")


def test_columns() -> None:
    check_columns(pd.DataFrame({"x": [1], "y": [2], "z": [3]}), ["x", "y"], "a.csv")
    with pytest.raises(ValueError, match=r"expected the columns x, y, w in a\.csv; found x, y, without w"):
        check_columns(pd.DataFrame({"x": [1], "y": [2]}), ["x", "y", "w"], "a.csv")
    with pytest.raises(ValueError, match="found none, without x"):
        check_columns(pd.DataFrame(), ["x"], "a.csv")


def test_errors_of_the_package_pass_as_they_are() -> None:
    with pytest.raises(ValueError, match=r"^expected more; found less$"), damage_named(Path("a"), "much"):
        raise ValueError("expected more; found less")
    with pytest.raises(FileNotFoundError, match=r"^gone$"), damage_named(Path("a"), "much"):
        raise FileNotFoundError("gone")
    with pytest.raises(ValueError, match=r"expected much in a; found .*EOFError"), damage_named(Path("a"), "much"):
        raise EOFError
