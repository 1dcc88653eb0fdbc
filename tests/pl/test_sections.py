"""What all plots of sections can do: several sections, axes of the user, and a place for the picture."""

from __future__ import annotations

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.pl._sections import is_flat

pytestmark = pytest.mark.filterwarnings("ignore:the figure shows section")


@pytest.fixture
def drawable(adata):
    """Two sections with all that plots of sections read."""
    adata.obs["attribution_A"] = np.linspace(-1, 1, 50)
    for name, shift in (("lower", -1.0), ("upper", 1.0)):
        adata.obsm[f"predicted_{name}"] = adata.obsm["predicted"] + shift
    return adata


@pytest.fixture
def crowded():
    """One section of 1,024 spots with a picture, two domains and a prediction."""
    y, x = np.mgrid[:32, :32].reshape(2, -1)
    obs = pd.DataFrame({"sample": "s", "domain": np.where(x < 9, "0", "1")}, index=[f"o{i}" for i in range(1024)])
    adata = ad.AnnData(obs=obs.assign(attribution_A=x / 31.0))
    adata.obsm["spatial"] = np.column_stack([x, y]) * 10.0 + 10
    adata.obsm["predicted"] = pd.DataFrame({"A": x * 1.0, "B": y * 1.0}, adata.obs_names)
    picture = np.full((40, 40, 3), (200, 80, 160), np.uint8)
    adata.uns["spatial"] = {"s": {"images": {"hires": picture}, "scalefactors": {"tissue_hires_scalef": 0.1}}}
    return adata


CALLS = {
    "genes": (lambda adata, **o: stp.pl.genes(adata, ["A", "Z"], **o), (2, 2, 4)),
    "maps": (lambda adata, **o: stp.pl.maps(adata, ["A", "Z"], **o), (2, 2, 1)),
    "domains": (lambda adata, **o: stp.pl.domains(adata, **o), (2,)),
    "attribution": (lambda adata, **o: stp.pl.attribution(adata, "A", **o), (2,)),
    "uncertainty": (lambda adata, **o: stp.pl.uncertainty(adata, ["A"], **o), (2, 1, 3)),
}


@pytest.mark.parametrize("name", CALLS)
def test_all_sections_in_axes_of_the_user(drawable, name) -> None:
    call, shape = CALLS[name]
    drawn = call(drawable, sample="all")
    assert drawn.shape == shape
    _, given = plt.subplots(1, drawn.size)
    again = call(drawable, sample="all", ax=given)
    assert list(again.ravel()) == list(given)
    titles = [[ax.get_title() for ax in axes.ravel()] for axes in (drawn, again)]
    assert titles[0] == titles[1]
    assert titles[0][0].startswith("s1")
    with pytest.raises(ValueError, match=f"expected {drawn.size} axes in `ax`, one per panel; found {drawn.size - 1}"):
        call(drawable, sample="all", ax=given[1:])


@pytest.mark.parametrize("name", ["maps", "domains", "attribution"])
def test_a_crowded_section_has_its_picture_beside(crowded, name) -> None:
    call = {"maps": lambda **o: stp.pl.maps(crowded, ["A", "B"], **o)}.get(
        name, lambda **o: CALLS[name][0](crowded, **o)
    )

    def pictures(drawn):
        """Images in what is returned, and in the rest of its figure."""
        own = list(np.ravel(np.asarray(drawn, dtype=object)))
        rest = [ax for ax in own[0].figure.axes if ax not in own]
        return [len(ax.images) for ax in own], [ax.get_title() for ax in rest if ax.images]

    n = 2 if name == "maps" else 1
    assert pictures(call()) == ([0] * n, ["s: H&E"])
    assert pictures(call(picture="none")) == ([0] * n, [])
    under = call(picture="under")
    assert pictures(under) == ([1] * n, [])
    shown = np.ravel(np.asarray(under, dtype=object))[0].images[0].get_array()
    assert (shown[..., 0] == shown[..., 2]).all()  # gray
    assert shown.min() == round(255 - 0.7 * (255 - (0.299 * 200 + 0.587 * 80 + 0.114 * 160)))
    given = list(plt.subplots(1, n, squeeze=False)[1][0])
    assert pictures(call(ax=given))[0] == [1] * n  # there is no panel for it
    with pytest.raises(ValueError, match="needs a panel more"):
        call(ax=given, picture="beside")
    with pytest.raises(ValueError, match="picture"):
        call(picture="above")


def test_sections_stay_in_their_rows_beside_their_pictures(crowded) -> None:
    other = crowded.copy()
    other.obs["sample"] = "t"
    other.obs_names = "t" + other.obs_names
    both = ad.concat([crowded, other])
    both.uns["spatial"] = dict.fromkeys("st", crowded.uns["spatial"]["s"])
    axes = stp.pl.maps(both, ["A", "B"], sample="all")
    figure = axes[0, 0, 0].figure
    figure.draw_without_rendering()
    rest = {ax.get_title(): ax for ax in figure.axes if ax.get_title().endswith("H&E")}
    assert list(rest) == ["s: H&E", "t: H&E"]
    for row, ax in zip(axes[:, :, 0], rest.values(), strict=True):
        places = [each.get_position() for each in (ax, *row)]
        assert places[0].x0 < places[1].x0 < places[2].x0
        assert len({round(place.y0, 3) for place in places}) == 1


def test_blocks_of_all_sections() -> None:
    adata = stp.datasets.synthetic_cohort(n_patients=1, n_sections=2, n_genes=4, n_spots=60)
    folds = stp.cohorts.spatial_blocks(adata, 2, buffer_um=150)
    axes = stp.pl.blocks(adata, folds, sample="all")
    assert [ax.get_title().split("\n")[0] for ax in axes] == [fold.name for fold in folds]
    _, given = plt.subplots(1, 2)
    assert list(stp.pl.blocks(adata, folds, sample="P1_S2", ax=given)) == list(given)


@pytest.mark.parametrize(
    ("low", "high", "spread", "noise", "flat"),
    [
        (14.176, 14.181, np.nan, np.nan, True),
        (1.0, 1.2, np.nan, np.nan, False),
        (
            -0.216,
            -0.213,
            np.nan,
            2.0,
            True,
        ),  # residuals: their values are near zero, so that 0.003 is not little of them
        (-0.216, -0.213, np.nan, 0.02, False),
        (0.0, 0.04, 1.0, 0.1, True),  # what differs between patients counts before the noise
        (0.0, 0.06, 1.0, 10.0, False),
        (2.0, 2.0, np.nan, np.nan, True),
        (np.nan, np.nan, np.nan, np.nan, False),
    ],
)
def test_flat_maps(low, high, spread, noise, flat) -> None:
    assert is_flat(low, high, spread, noise) is flat


def test_constant_maps_say_so(drawable) -> None:
    drawable.obsm["predicted"]["A"] = -0.2 + 1e-3 * np.linspace(0, 1, 50)
    drawable.obsm["predicted_std"] = drawable.obsm["predicted"] * 0 + 0.5
    says = "practically constant"
    assert says in stp.pl.genes(drawable, "A", sample="s1")[0, 2].get_title()
    assert says not in stp.pl.genes(drawable, "B", sample="s1")[0, 2].get_title()
    assert says in stp.pl.maps(drawable, "A", sample="s1")[0, 0].get_title()
    assert [says in ax.get_title() for ax in stp.pl.uncertainty(drawable, ["A"], sample="s1")[0]] == [True, True, False]
    # Another unit says nothing of the range.
    drawable.uns["stpredict"]["predicted"] = {"unit": {"method": "rate"}}
    assert says not in stp.pl.maps(drawable, "A", sample="s1")[0, 0].get_title()
