"""One self-contained HTML page with a table and figures."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

_STYLE = """
body{font:16px/1.5 system-ui,sans-serif;color:#1f2933;max-width:1080px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.7rem;margin-bottom:.2rem} h2{font-size:1.2rem;margin-top:2.2rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:.9rem}
th,td{padding:.3rem .7rem;text-align:right;border-bottom:1px solid #e4e7eb} th:first-child,td:first-child{text-align:left}
thead th{border-bottom:2px solid #9aa5b1} dl{display:grid;grid-template-columns:8rem 1fr;gap:.2rem 1rem} dt{color:#616e7c}
dd{margin:0} figure{margin:2rem 0} figcaption{color:#616e7c;margin-bottom:.4rem} img{max-width:100%} .wide{overflow-x:auto}
"""
_READING = """
<p>Every prediction comes from a model that saw no section of that patient, or, where <i>leaky</i> says <i>within
section</i>, only other parts of the same section, behind a buffer. Correlations are taken per gene over the
spots of one section (or block), then averaged over genes, sections and patients, with a bootstrap interval. Those that are undefined (a
prediction without variation) are left out and counted in <i>n_undefined</i>.</p>
<p><i>r_over_ceiling</i> divides by the noise ceiling: the correlation that a perfect model would reach given the
counting noise of the measurement. <i>pearson_given_depth</i> is the correlation after the total counts of the spot have been
regressed out: what is predicted beyond the density of the tissue and the efficiency of the capture. <i>mean</i>,
<i>ridge</i>, <i>ridge (smoothed)</i> and <i>ridge (permuted labels)</i> are the baselines: a model that does not beat
them has learned nothing beyond them. Permuted labels score zero on average over shuffles; genes that vary together err together in
one shuffle, and its mean can lie off zero. <i>ridge (null genes)</i> was fitted to and compared with counts that were redrawn with
constant proportions at the depths that were measured: genes without any biology. What it scores, depth alone gives.</p>
<p>Genes that are shown were ranked without the patient shown: the best of many genes on a section are partly the luckiest
ones there, and without correlations given depth many of them are maps of depth. With one patient they were ranked before
training.</p>
"""


def write_report(path: Path, facts: Mapping[str, str], table: pd.DataFrame, figures: Mapping[str, Path]) -> Path:
    """Write the page.

    Parameters
    ----------
    path
        File to write.
    facts
        Names and values for the head of the page.
    table
        Scores, one row per model.
    figures
        Caption and PNG file of each figure; the pictures are embedded.

    Returns
    -------
    The path.
    """
    items = "".join(f"<dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd>" for k, v in facts.items())
    rows = table.to_html(index=False, border=0, na_rep="undefined", float_format=lambda value: f"{value:.3f}")
    pictures = "".join(
        f"<figure><figcaption>{html.escape(caption)}</figcaption><img alt='{html.escape(caption)}' "
        f"src='data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}'></figure>"
        for caption, file in figures.items()
    )
    path.write_text(
        f"<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
        f"<title>stpredict report</title><style>{_STYLE}</style><h1>Expression predicted from histology</h1>"
        f"<dl>{items}</dl><h2>Scores</h2><div class='wide'>{rows}</div>{_READING}<h2>Figures</h2>{pictures}</html>"
    )
    return path
