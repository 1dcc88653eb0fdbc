"""One self-contained HTML page with tables and figures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.core._atomic import new_file

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1f2933;max-width:1080px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem} h2{font-size:1.2rem;margin-top:2.2rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid #e4e7eb} th:first-child,td:first-child{text-align:left}
thead th{border-bottom:2px solid #9aa5b1} dl{display:grid;grid-template-columns:11rem 1fr;gap:.2rem 1rem} dt{color:#616e7c}
dd{margin:0;overflow-wrap:anywhere} figure{margin:2rem 0} figcaption{color:#616e7c;margin-bottom:.4rem}
img{max-width:100%} .wide{overflow-x:auto} .note{color:#616e7c} .warn{border-left:4px solid #d97706;padding-left:.8rem}
"""


@dataclass(frozen=True)
class Part:
    """A headed part of a page, of blocks of HTML."""

    title: str
    blocks: Sequence[str]


def note(text: str, *, warn: bool = False) -> str:
    """A paragraph of plain text."""
    return f"<p class='{'warn' if warn else 'note'}'>{html.escape(text)}</p>"


def table(frame: pd.DataFrame) -> str:
    """A table, whose first column names the rows."""
    rows = frame.to_html(index=False, border=0, na_rep="undefined", float_format=lambda value: f"{value:.3f}")
    return f"<div class='wide'>{rows}</div>"


def picture(caption: str, png: bytes) -> str:
    """A picture that the page holds itself."""
    shown = html.escape(caption, quote=True)
    data = base64.b64encode(png).decode()
    return f"<figure><figcaption>{shown}</figcaption><img alt='{shown}' src='data:image/png;base64,{data}'></figure>"


def figure(caption: str, drawn: Any) -> str:
    """What a function of `stpredict.pl` returned (axes, or an array of them), as a picture; the figure is closed."""
    import matplotlib.pyplot as plt
    import numpy as np

    first = np.asarray(drawn, dtype=object).flat[0]
    shown: Figure = first if hasattr(first, "savefig") else first.figure
    buffer = io.BytesIO()
    shown.savefig(buffer, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    plt.close(shown)
    return picture(caption, buffer.getvalue())


def write_page(path: Path, title: str, facts: Mapping[str, str], parts: Sequence[Part]) -> Path:
    """Write a page at once.

    Parameters
    ----------
    path
        File to write.
    title
        Its heading.
    facts
        Names and values for the head of the page.
    parts
        What follows.

    Returns
    -------
    The path.
    """
    items = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items())
    body = "".join(f"<h2>{html.escape(part.title)}</h2>{''.join(part.blocks)}" for part in parts)
    page = (
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style><h1>{html.escape(title)}</h1><dl>{items}</dl>{body}</html>\n"
    )
    with new_file(path) as fresh:
        fresh.write_text(page, encoding="utf-8")
    return path
