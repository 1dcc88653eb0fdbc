"""Wide tables print what matters."""

from __future__ import annotations

import pickle

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.core._table import compact


@pytest.fixture(autouse=True)
def _hundred_columns(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")


def test_columns_that_matter_come_first_and_the_others_are_named() -> None:
    plain = pd.DataFrame({"x": [1.23456], "y": [2.0], "z": ["text"]})
    table = compact(plain, ["z", "x", "absent"])
    assert list(table.columns) == ["z", "x", "y"]
    text = repr(table)
    assert text.splitlines() == ["     z    x", "0 text 1.23", "More columns: y"]
    assert "More columns: y" in table._repr_html_()
    assert type(table[["y"]]) is type(table.copy()) is pd.DataFrame
    assert pickle.loads(pickle.dumps(table)).equals(table)
    pd.testing.assert_frame_equal(table, plain[["z", "x", "y"]])
    pd.testing.assert_frame_equal(plain[["z", "x", "y"]], table)
    table = compact(plain, ["z"], move=False)
    assert list(table.columns) == ["x", "y", "z"]
    assert repr(table).splitlines()[0].split() == ["z"]


def test_marks_of_leaks_stay_whatever_has_no_room(monkeypatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    plain = pd.DataFrame({"model": ["m"], **{f"column{i}": [0.5] for i in range(9)}, "leaky": [True]})
    text = repr(compact(plain, list(plain.columns)))
    before, after = text.split("More columns: ")
    assert "leaky" in before
    assert "True" in before
    assert "column8" in after
    assert "column0" in before
    assert max(map(len, text.splitlines())) <= 60


def test_the_head_of_a_table_prints_as_the_table_does() -> None:
    plain = pd.DataFrame({"x": [3.0, 1.0, 2.0], "y": [1, 2, 3]})
    table = compact(plain, ["x"])
    for part in (
        table.head(2),
        table.tail(2),
        table.sort_values("x"),
        table.nlargest(2, "x"),
        table.query("x > 1"),
        table.round(1),
    ):
        assert "More columns: y" in repr(part)
    pd.testing.assert_frame_equal(table.sort_values("x"), plain.sort_values("x"))
    assert table.sort_values("x", inplace=False).head(1)["y"].item() == 2
    table.sort_values("x", inplace=True)
    assert table["x"].tolist() == [1.0, 2.0, 3.0]


def test_small_numbers_of_a_column_have_the_same_decimals() -> None:
    lines = repr(compact(pd.DataFrame({"r": [0.00765, -6.29e-06, -3e-18]}), ["r"])).splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["0.00765", "-0.00001", "0.00000"]
    assert repr(compact(pd.DataFrame({"n_found": [2.0, np.nan]}), ["n_found"])).split() == [
        "n_found",
        "0",
        "2",
        "1",
        "NaN",
    ]


def test_a_narrow_terminal_breaks_names_then_cuts_texts_then_leaves_columns_out(monkeypatch) -> None:
    plain = pd.DataFrame({"model": ["m"], "very_long_name_of_a_score": [0.5], "what": ["x" * 80], "last": [1]})
    table = compact(plain, list(plain.columns))

    def lines(width: int) -> list[str]:
        monkeypatch.setenv("COLUMNS", str(width))
        return repr(table).splitlines()

    assert lines(100)[0].split() == list(plain.columns)
    assert max(map(len, lines(70))) <= 70
    assert [line.split()[0] for line in lines(70)[:3]] == ["very_", "long_", "name_"]
    assert "x" * 43 + "…" in lines(70)[-1]
    plain["what_else"] = "y" * 80
    table = compact(plain, list(plain.columns))
    assert max(map(len, lines(65))) <= 65
    assert "x" * 19 + "…" in lines(65)[-1]
    plain[[f"column{i}" for i in range(9)]] = 0.123
    table = compact(plain, list(plain.columns))
    shown = "\n".join(lines(60))
    assert max(map(len, lines(60))) <= 60
    before, after = shown.split("More columns: ")
    assert "what_else" in before
    assert "column0" not in before
    assert {f"column{i}" for i in range(9)} <= set(after.replace(",", " ").split())


def test_columns_without_a_value_are_only_named() -> None:
    table = compact(pd.DataFrame({"a": [1, 2], "b": [np.nan, np.nan], "c": [np.nan, 1]}), ["a", "b", "c"])
    assert repr(table).splitlines()[0].split() == ["a", "c"]
    assert repr(table).splitlines()[-1] == "More columns: b"


def test_numbers_have_the_digits_of_their_column() -> None:
    plain = pd.DataFrame(
        {"r": [0.5, -0.00002, np.nan], "p": [0.5, 2e-8, np.nan], "n": [1, 20, 300], "far": [1e7, 2.5, 0]}
    )
    plain["text"] = ["a", None, "b"]
    rows = [line.split() for line in repr(compact(plain, list(plain.columns))).splitlines()]
    assert rows[1] == ["0", "0.500", "0.5", "1", "1e+07", "a"]
    assert rows[2][:5] == ["1", "0.000", "2e-08", "20", "2.5"]
    assert rows[3] == ["2", "NaN", "NaN", "300", "0", "b"]


@pytest.mark.parametrize("ending", ["h5ad", "zarr"])
def test_tables_are_written_with_an_object(tmp_path, ending) -> None:
    adata = ad.AnnData(np.zeros((1, 1)))
    adata.uns["summary"] = compact(pd.DataFrame({"a": [1.5, 2], "b": ["x", "y"]}), ["b"])
    path = tmp_path / f"a.{ending}"
    getattr(adata, f"write_{ending}")(path)
    read = getattr(ad, f"read_{ending}")(path).uns["summary"]
    assert read.to_numpy().tolist() == [["x", 1.5], ["y", 2.0]]


@pytest.mark.parametrize(("n", "n_shown"), [(60, 60), (61, 21), (20_000, 21)])
def test_a_table_of_all_genes_prints_its_ends(n: int, n_shown: int) -> None:
    table = compact(
        pd.DataFrame({"gene": [f"G{number}" for number in range(n)], "pearson": 0.1, "more": 0}), ["gene", "pearson"]
    )
    shown = repr(table).splitlines()
    assert sum("G" in line or "..." in line for line in shown) == n_shown
    assert shown[1].split() == ["0", "G0", "0.100"]
    assert (f"{n:,} rows" in shown) == (n > 60)
    assert shown[-1] == "More columns: more"
    assert table._repr_html_().count("<tr") == n_shown + 1


@pytest.mark.parametrize("listed", [stp.models.list_models, stp.encoders.list_encoders])
def test_lists_fit_a_terminal(listed) -> None:
    lines = repr(listed()).splitlines()
    assert max(map(len, lines)) <= 100
    assert {line.split()[0] for line in lines} >= set(listed().index)


def test_summaries_show_what_matters() -> None:
    scores = pd.DataFrame(
        {"model": "ridge (permuted labels)", "sample": list("aabb"), "patient": list("ppqq"), "gene": list("GHGH")}
    )
    scores["pearson"], scores["ceiling"] = [0.1, 0.3, 0.5, 0.7], 0.8
    for name in ("pearson_given_depth", "pearson_residual", "deviance_explained", "ssim"):
        scores[name] = [-0.00001, 0.2, 0.3, 0.5]
    scores["leaky"] = True
    lines = repr(stp.tl.summarize(scores)).splitlines()
    assert max(map(len, lines)) <= 100
    more = "".join(lines[-2:]).partition("More columns")[2]
    for name in ("pearson", "low", "high", "r_over_ceiling", "pearson_given_depth", "deviance_explained", "leaky"):
        assert name not in more.replace(",", "").split()
    assert "ssim" in more
