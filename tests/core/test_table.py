"""Wide tables print what matters."""

from __future__ import annotations

import pickle

import pandas as pd
import pytest

import stpredict as stp
from stpredict.core._table import compact


def test_columns_that_matter_come_first_and_the_others_are_named() -> None:
    plain = pd.DataFrame({"x": [1.23456], "y": [2.0], "z": ["text"]})
    table = compact(plain, ["z", "x", "absent"])
    assert list(table.columns) == ["z", "x", "y"]
    text = repr(table)
    assert text.splitlines() == ["      z    x", "0  text 1.23", "More columns: y"]
    assert "More columns: y" in table._repr_html_()
    assert type(table[["y"]]) is type(table.copy()) is pd.DataFrame
    assert pickle.loads(pickle.dumps(table)).equals(table)


@pytest.mark.parametrize(("n", "n_shown"), [(60, 60), (61, 21), (20_000, 21)])
def test_a_table_of_all_genes_prints_its_ends(n: int, n_shown: int) -> None:
    table = compact(
        pd.DataFrame({"gene": [f"G{number}" for number in range(n)], "pearson": 0.1, "more": 0}), ["gene", "pearson"]
    )
    shown = repr(table).splitlines()
    assert sum("G" in line or "..." in line for line in shown) == n_shown
    assert shown[1].split() == ["0", "G0", "0.1"]
    assert (f"{n:,} rows" in shown) == (n > 60)
    assert shown[-1] == "More columns: more"
    assert table._repr_html_().count("<tr") == n_shown + 1


@pytest.mark.parametrize("listed", [stp.models.list_models, stp.encoders.list_encoders])
def test_lists_fit_a_terminal(listed) -> None:
    text = repr(listed())
    assert max(len(line) for line in text.splitlines()) <= 110
    assert text.count("\n") == len(listed()) + 2


def test_summaries_show_what_matters() -> None:
    scores = pd.DataFrame({"model": "ridge", "sample": list("aabb"), "patient": list("ppqq"), "gene": list("GHGH")})
    scores["pearson"], scores["ceiling"] = [0.1, 0.3, 0.5, 0.7], 0.8
    scores["pearson_given_depth"], scores["ssim"], scores["leaky"] = 0.1, 0.2, True
    shown = repr(stp.tl.summarize(scores)).splitlines()
    assert shown[0].split() == [
        "model", "pearson", "low", "high", "r_over_ceiling", "pearson_given_depth", "n_undefined", "n_patients", "leaky",
    ]  # fmt: skip
    assert "ssim" in shown[-1]
