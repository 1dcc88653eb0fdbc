"""The page of the demonstration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from stpredict.report._page import Part, picture, table, write_page

if TYPE_CHECKING:
    import pandas as pd

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


def write_report(path: Path, facts: Mapping[str, str], scores: pd.DataFrame, figures: Mapping[str, Path]) -> Path:
    """Write the page.

    Parameters
    ----------
    path
        File to write.
    facts
        Names and values for the head of the page.
    scores
        Scores, one row per model.
    figures
        Caption and PNG file of each figure; the pictures are embedded.

    Returns
    -------
    The path.
    """
    pictures = [picture(caption, file.read_bytes()) for caption, file in figures.items()]
    parts = [Part("Scores", [table(scores), _READING]), Part("Figures", pictures)]
    return write_page(path, "Expression predicted from histology", facts, parts)
