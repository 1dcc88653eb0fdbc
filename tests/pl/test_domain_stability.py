from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import stpredict as stp


def test_curve_null_plateau_and_numbers():
    table = pd.DataFrame({"resolution": [0.1, 0.4, 1.0], "ari": [0.9, 0.95, 0.4], "low": [0.8, 0.9, 0.2]})
    table["high"], table["n_domains"], table["null_ari"] = [1.0, 1.0, 0.5], [2.0, 4.0, 9.5], [np.nan, 0.2, 0.1]
    plain = stp.pl.domain_stability(table)
    assert not plain.patches
    table.attrs |= {"plateau": (0.1, 0.4), "suggested": 0.4}
    ax = stp.pl.domain_stability(table)
    assert [text.get_text() for text in ax.texts] == ["2", "4", "10"]
    ring = next(line for line in ax.lines if line.get_label() == "suggested")
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (0.4, 0.95)
    assert len(ax.patches) == 1
    assert ax.get_xscale() == "log"
    low, high = ax.get_ylim()
    assert low < 0 < 1 < high
    with pytest.raises(KeyError, match="no column null_ari"):
        stp.pl.domain_stability(table.drop(columns="null_ari"))
    plt.close("all")
