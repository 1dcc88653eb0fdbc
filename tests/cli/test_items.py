"""Files, folders and tables of slides."""

from __future__ import annotations

from pathlib import Path

import pytest

from stpredict.cli._items import find_items


def test_a_folder_has_its_slides_without_what_is_hidden_or_of_another_kind(tmp_path: Path) -> None:
    for name in ("b.svs", "a.TIF", "._b.svs", ".hidden.tif", "notes.txt", "c.h5ad"):
        (tmp_path / name).touch()
    (tmp_path / "deeper").mkdir()
    (tmp_path / "deeper" / "d.svs").touch()
    found = find_items(tmp_path)
    assert [(item.name, item.is_slide) for item in found] == [("a", True), ("b", True), ("c", False)]


def test_a_table_with_odd_cells(tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    table.write_text(' path ,patient,microns_per_pixel,other\nsub/a.svs,"Doe, J.", 0.25,x\n/data/b.svs,,,\n')
    first, second = find_items(table)
    assert first.path == tmp_path / "sub" / "a.svs"
    assert (first.name, first.patient, first.microns_per_pixel) == ("a", "Doe, J.", 0.25)
    assert (second.path, second.patient, second.microns_per_pixel) == (Path("/data/b.svs"), None, None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("file\na.svs\n", "the columns path .* without path"),
        ("path\n", "at least one row"),
        ("path,sample\n,x\n", "a path in every row .* line 2"),
        ("path,microns_per_pixel\na.svs,zero\n", "positive number .* 'zero' in line 2"),
        ("path,microns_per_pixel\na.svs,-1\n", "positive number"),
        ("path\nx/a.svs\ny/a.svs\n", "one name for each slide .* column `sample`"),
        ("path,sample\na.svs,../b\n", "plain names"),
        ("", "expected a table with the columns path, sample"),
        ('path,sample\na.svs,b,c,d\n"', "expected a table with the columns path, sample"),
    ],
)
def test_tables_that_make_no_sense(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text(text)
    with pytest.raises(ValueError, match=said):
        find_items(tmp_path / "slides.csv")


def test_two_slides_of_one_name_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.svs").touch()
    (tmp_path / "a.tif").touch()
    with pytest.raises(ValueError, match="one name for each slide"):
        find_items(tmp_path)
