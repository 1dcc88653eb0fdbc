"""Every plot has a size and a file."""

from __future__ import annotations

import inspect

import matplotlib.pyplot as plt
import numpy as np
import pytest

import stpredict as stp
from stpredict.pl._finished import figure_of, finished


@finished
def plot(*, ax=None):
    """Draw.

    Parameters
    ----------
    ax
        Axes.

    Returns
    -------
    The axes.
    """
    return plt.subplots(figsize=(3, 2))[1] if ax is None else ax


@pytest.mark.parametrize("name", sorted(set(stp.pl.__all__) - {"explore"}))
def test_every_plot_says_that_it_can_be_sized_and_saved(name) -> None:
    function = getattr(stp.pl, name)
    assert {"figsize", "save", "dpi"} <= set(inspect.signature(function).parameters)
    for parameter in ("figsize", "save", "dpi"):
        assert f"    {parameter}\n" in function.__doc__


def test_size_and_file(tmp_path, monkeypatch) -> None:
    from matplotlib.figure import Figure

    saved = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: saved.append((path.name, options["dpi"])))
    ax = plot(figsize=(5, 4), save=tmp_path / "a.pdf", dpi=120)
    assert tuple(ax.figure.get_size_inches()) == (5, 4)
    assert saved == [("a.pdf", 120)]
    assert figure_of(np.array([[ax]])) is figure_of((ax,)) is figure_of(ax.figure) is ax.figure


def test_what_cannot_be_is_refused_before_anything_is_drawn(tmp_path) -> None:
    before = plt.get_fignums()
    with pytest.raises(FileNotFoundError, match="expected a folder for save="):
        plot(save=tmp_path / "none" / "a.pdf")
    with pytest.raises(ValueError, match="expected a file ending in one of"):
        plot(save=tmp_path / "a.xyz")
    with pytest.raises(ValueError, match="found both"):
        plot(ax=object(), figsize=(3, 2))
    assert plt.get_fignums() == before


def test_ends_of_the_color_scale(adata) -> None:
    axes = stp.pl.genes(adata, ["A"], sample="s1", vmin=-1, vmax=9)
    assert axes[0, 1].collections[-1].get_clim() == (-1, 9)
    axes = stp.pl.maps(adata, ["A"], sample="s1", scale="value", vmin=0, vmax=2)
    assert (0, 2) in [each.get_clim() for each in axes.flat[0].collections]
    with pytest.raises(ValueError, match="scale='value'"):
        stp.pl.maps(adata, ["A"], sample="s1", vmin=0)
    with pytest.raises(ValueError, match="expected vmin below vmax; found 3 and 2"):
        stp.pl.genes(adata, ["A"], sample="s1", vmin=3, vmax=2)
