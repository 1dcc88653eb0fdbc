"""Pages that hold everything themselves."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from stpredict.report._page import Part, figure, note, table, write_page


def test_texts_are_escaped_and_figures_are_inside(tmp_path: Path) -> None:
    axes = plt.subplots(1, 2)[1]
    for drawn in (axes, axes[0], axes[0].figure):  # what functions of `pl` return
        assert figure("a < b & 'c'", drawn).count("data:image/png;base64,") == 1
    assert not plt.get_fignums()
    frame = pd.DataFrame({"<gene>": ["A&B"], "r": [np.nan]})
    blocks = [note("<script>", warn=True), table(frame), figure("a < b & 'c'", plt.subplots()[1])]
    path = write_page(tmp_path / "new" / "page.html", "Report on <x>", {"Data": "<y>"}, [Part("A & B", blocks)])
    page = path.read_text()
    assert "<script>" not in page
    assert all(text in page for text in ("&lt;x&gt;", "&lt;y&gt;", "A &amp; B", "&lt;gene&gt;", "A&amp;B", "undefined"))
    assert "alt='a &lt; b &amp; &#x27;c&#x27;'" in page
    assert [path.name for path in path.parent.iterdir()] == ["page.html"]


def test_a_page_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_page(tmp_path / "page.html", "first", {}, [])

    def full(self: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_page(tmp_path / "page.html", "second", {}, [])
    assert "first" in path.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
