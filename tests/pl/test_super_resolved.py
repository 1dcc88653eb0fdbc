from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp


@pytest.fixture(scope="module")
def parts() -> tuple[ad.AnnData, dict[str, stp.pp.DenseMap]]:
    xy = np.array([[x, y] for x in range(100, 600, 100) for y in range(100, 400, 100)], dtype=float)
    obs = pd.DataFrame({"sample": "S1"}, index=[f"s{i}" for i in range(len(xy))])
    adata = ad.AnnData(xy[:, :1] / 100 + np.array([[0, 3]]), obs, obsm={"spatial": xy})
    adata.var_names = ["A", "B"]
    adata.uns["spatial"] = {
        "S1": {"images": {}, "scalefactors": {"spot_diameter_fullres": 55.0, "microns_per_pixel": 1.0}}
    }
    column = np.broadcast_to(np.arange(100)[None, :, None] * 0.08, (80, 100, 1))
    values = np.concatenate([column, column + 3], axis=2)
    return adata, {"S1": stp.pp.DenseMap(values, 8, 1.0, names=["A", "B"], std=np.ones_like(values))}


def test_maps_lie_under_their_spots(parts: tuple) -> None:
    adata, maps = parts
    axes = stp.pl.super_resolved(adata, maps, ["A", "B"], std=True)
    assert axes.shape == (2, 3)
    spots, picture = axes[0, 0], axes[0, 1].images[0]
    assert axes[0, 1].get_xlim() == spots.get_xlim()
    left, right, bottom, top = picture.get_extent()
    assert bottom > top
    values = picture.get_array()
    assert (right - left) / values.shape[1] == pytest.approx(8)
    assert (bottom - top) / values.shape[0] == pytest.approx(8)
    # A place at x = 300 holds what the map has there; the scale is that of the spots.
    assert values[int((200 - top) / 8), int((300 - left) / 8)] == pytest.approx(300 // 8 * 0.08)
    assert picture.norm.vmin == spots.collections[0].norm.vmin


def test_what_is_far_from_spots_is_hidden(parts: tuple) -> None:
    adata, maps = parts
    few = adata[adata.obsm["spatial"][:, 0] != 300].copy()
    shown, whole = (
        stp.pl.super_resolved(few, maps, "A", whole=each)[0, 1].images[0].get_array() for each in (False, True)
    )
    assert shown.mask.any()
    assert not np.ma.getmaskarray(whole).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"genes": "C"}, "C"), ({"genes": "A", "sample": "S2"}, "expected the map of section 'S2'")],
)
def test_errors(parts: tuple, options: dict, message: str) -> None:
    with pytest.raises(KeyError, match=message):
        stp.pl.super_resolved(*parts, **options)
