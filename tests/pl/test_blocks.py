from __future__ import annotations

import numpy as np
import pytest

import stpredict as stp


@pytest.fixture(scope="module")
def section():
    return stp.datasets.synthetic_cohort(n_patients=1, n_sections=2, n_genes=5, n_spots=100)


def test_panels_show_each_side(section) -> None:
    from matplotlib.colors import to_rgba

    folds = stp.cohorts.spatial_blocks(section, 5, 250)
    axes = stp.pl.blocks(section, folds, sample="P1_S2")
    assert len(axes) == 5
    own = (section.obs["sample"] == "P1_S2").to_numpy()
    for ax, fold in zip(axes, folds[5:], strict=True):
        n = {name: int((side & own).sum()) for name, side in (("test", fold.test), ("training", fold.train))}
        n["buffer"] = 100 - n["test"] - n["training"]
        assert n["buffer"] > 0
        assert ax.get_title() == (
            f"{fold.name.removeprefix('P1_S2 ')}\ntest {n['test']}, buffer {n['buffer']}, training {n['training']}"
        )
        colors, counts = np.unique(ax.collections[0].get_facecolor(), axis=0, return_counts=True)
        assert sorted(counts) == sorted(n.values())
        test_color = ax.collections[0].get_facecolor()[np.flatnonzero(fold.test[own])]
        assert len(np.unique(test_color, axis=0)) == 1
        assert to_rgba(tuple(test_color[0])) in map(to_rgba, map(tuple, colors))
    figure = axes[0].figure
    assert figure._suptitle.get_text() == "P1_S2, within section"
    assert figure.legends[0].get_title().get_text() == "observations"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["test", "buffer", "training"]


def test_default_folds_follow_the_features(section) -> None:
    with pytest.raises(ValueError, match="buffer_um"):
        stp.pl.blocks(section)


def test_refusals(section) -> None:
    folds = stp.cohorts.spatial_blocks(section, 2, 100)
    with pytest.raises(ValueError, match="a fold that tests observations of section 'P1_S2'; found none of 2"):
        stp.pl.blocks(section, folds[:2], sample="P1_S2")
    with pytest.raises(ValueError, match="masks of 100 values"):
        stp.pl.blocks(section[:100], folds)
