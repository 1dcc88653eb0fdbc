"""The command line and its report."""

from __future__ import annotations

import pandas as pd
from PIL import Image

from stpredict.cli._main import main
from stpredict.demo._report import write_report


def test_missing_data_is_a_message_and_not_a_traceback(tmp_path, capsys):
    assert main(["demo", "--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert "nowhere" in message
    assert "Traceback" not in message
    assert not (tmp_path / "out").exists()


def test_report_holds_everything_itself(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "figure.png")
    table = pd.DataFrame({"model": ["ridge", "mean"], "pearson": [0.1234, float("nan")]})
    path = write_report(tmp_path / "report.html", {"Data": "<cohort>"}, table, {"A figure": tmp_path / "figure.png"})
    page = path.read_text()
    assert "&lt;cohort&gt;" in page
    assert "0.123" in page
    assert "undefined" in page
    assert "data:image/png;base64," in page
    assert "http" not in page
