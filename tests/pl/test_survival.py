from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from stpredict import pl
from stpredict.pl._style import BLUE, VERMILION
from stpredict.tl import survival

pytest.importorskip("lifelines")


@pytest.fixture
def slides():
    """Forty patients, high risks first to go; a third is censored, times are whole months with ties."""
    rng = np.random.default_rng(0)
    risk = rng.normal(size=40)
    until, censored = rng.exponential(20 * np.exp(-risk)), rng.exponential(40, 40)
    obs = pd.DataFrame(
        {
            "patient": [f"p{i}" for i in range(40)],
            "risk": risk,
            "risk_group": pd.Categorical(np.where(risk > 0, "high", "low")),
            "time": np.ceil(np.minimum(until, censored)),
            "event": (until <= censored).astype(int),
        },
        index=[f"s{i}" for i in range(40)],
    )
    return ad.AnnData(np.zeros((40, 1), np.float32), obs=obs)


def steps(ax):
    return [line for line in ax.lines if line.get_drawstyle() == "steps-post"]


def kaplan_meier(time, event, at):
    """Survival just after a time, by its definition."""
    value = 1.0
    for t in np.unique(time[(event == 1) & (time <= at)]):
        value *= 1 - ((time == t) & (event == 1)).sum() / (time >= t).sum()
    return value


def test_curves_follow_the_definition(slides):
    ax = pl.survival(slides)
    low, high = steps(ax)
    assert (to_hex(low.get_color()), to_hex(high.get_color())) == (BLUE.lower(), VERMILION.lower())
    for line, name in ((low, "low"), (high, "high")):
        part = slides.obs[slides.obs["risk_group"] == name]
        time, event = part["time"].to_numpy(), part["event"].to_numpy()
        assert line.get_ydata()[0] == 1
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True):
            assert y == pytest.approx(kaplan_meier(time, event, x))
    assert len(ax.collections) == 2


def test_censored_follow_ups_are_marked(slides):
    ax = pl.survival(slides)
    marks = [line for line in ax.lines if line.get_marker() == "|"]
    for line, name in zip(marks, ("low", "high"), strict=True):
        part = slides.obs[slides.obs["risk_group"] == name]
        np.testing.assert_array_equal(line.get_xdata(), np.unique(part.loc[part["event"] == 0, "time"]))
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True):
            assert y == pytest.approx(kaplan_meier(part["time"].to_numpy(), part["event"].to_numpy(), x))


def test_legend_and_logrank(slides):
    legend = pl.survival(slides).get_legend()
    n = slides.obs["risk_group"].value_counts()
    assert [text.get_text() for text in legend.get_texts()] == [f"low risk ({n['low']})", f"high risk ({n['high']})"]
    p = survival(slides)["logrank_p"].item()
    assert legend.get_title().get_text() == ("log-rank p < 0.0001" if p < 1e-4 else f"log-rank p = {p:.2g}")


def test_numbers_at_risk(slides):
    ax = pl.survival(slides)
    ax.figure.draw_without_rendering()
    ticks = [tick for tick in ax.get_xticks() if ax.get_xlim()[0] <= tick <= ax.get_xlim()[1]]
    texts = [text.get_text() for text in ax.texts]
    expected = ["at risk"]
    for name in ("low", "high"):
        time = slides.obs.loc[slides.obs["risk_group"] == name, "time"]
        expected += [name, *(str((time >= tick).sum()) for tick in ticks)]
    assert texts == expected
    figure, label = ax.figure.get_window_extent(), ax.xaxis.label.get_window_extent()
    for text in ax.texts:
        box = text.get_window_extent()
        assert box.y1 <= label.y0 + 1
        assert box.y0 >= figure.y0
        assert box.x0 >= figure.x0


def test_slides_of_a_patient_count_once(slides):
    twice = ad.concat([slides, slides], index_unique="-")
    one, two = pl.survival(slides), pl.survival(twice)
    for a, b in zip(steps(one), steps(two), strict=True):
        np.testing.assert_allclose(a.get_xydata(), b.get_xydata())
    assert [t.get_text() for t in one.texts] == [t.get_text() for t in two.texts]


def test_one_group(slides):
    slides.obs["risk_group"] = "low"
    ax = pl.survival(slides)
    assert len(steps(ax)) == 1
    assert ax.get_legend().get_title().get_text() in ("", "None")


def test_risks_as_series_and_slides_without(slides):
    ax = pl.survival(slides, slides.obs["risk"].iloc[:30], time_label="months")
    assert ax.get_xlabel() == "months"
    assert sum(int(text.get_text().split("(")[1][:-1]) for text in ax.get_legend().get_texts()) == 30


def test_draws_into_axes(slides):
    figure, ax = plt.subplots()
    assert pl.survival(slides, ax=ax) is ax
    assert plt.get_fignums() == [figure.number]


def test_errors(slides, frozen):
    before = frozen(slides)
    with pytest.raises(KeyError, match="training patients"):
        pl.survival(slides, group="group")
    with pytest.raises(KeyError, match="'score'"):
        pl.survival(slides, "score")
    with pytest.raises(ValueError, match="level between"):
        pl.survival(slides, level=0)
    with pytest.raises(ValueError, match="at least one slide"):
        pl.survival(slides, slides.obs["risk"] * np.nan)
    with pytest.raises(TypeError, match="Axes"):
        pl.survival(slides, ax="here")
    slides.obs["time"] -= 1
    with pytest.raises(ValueError, match="positive, finite"):
        pl.survival(slides)
    slides.obs["time"] += 1
    assert frozen(slides) == before
    assert plt.get_fignums() == []
