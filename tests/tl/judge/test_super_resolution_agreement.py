"""Maps against cells: what is compared with what, on cells whose expression is known."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

SHAPE = (40, 60)


@pytest.fixture(scope="module")
def parts() -> tuple[dict[str, stp.pp.DenseMap], ad.AnnData, ad.AnnData]:
    """A map of rates in stripes of two places, cells drawn from it, and spots that measure means of it."""
    rng = np.random.default_rng(0)
    stripe = np.broadcast_to(np.arange(SHAPE[1]) // 2 % 2, SHAPE)
    rates = np.stack([1 + 6 * stripe, 7 - 6 * stripe, np.full(SHAPE, 4.0)], axis=2)
    xy = rng.uniform(0, np.array(SHAPE[::-1]) * 16, (4000, 2))
    place = np.floor(xy / 16).astype(int)
    counts = rng.poisson(rates[place[:, 1], place[:, 0]]).astype(np.float32)
    cells = ad.AnnData(
        counts, pd.DataFrame({"sample": "S1"}, index=[f"c{i}" for i in range(4000)]), obsm={"spatial": xy}
    )
    cells.var_names = ["A", "B", "C"]
    centers = np.array([[x, y] for x in range(100, 900, 200) for y in range(100, 600, 200)], dtype=float)
    near = ((xy[None] - centers[:, None]) ** 2).sum(axis=2) < 55**2
    spots = ad.AnnData(
        near.astype(np.float32) @ counts,
        pd.DataFrame({"sample": "S1"}, index=[f"s{i}" for i in range(len(centers))]),
        cells.var[[]],
        obsm={"spatial": centers},
    )
    spots.uns["spatial"] = {
        "S1": {"images": {}, "scalefactors": {"spot_diameter_fullres": 110.0, "microns_per_pixel": 0.5}}
    }
    stp.pp.normalize(spots)
    return {"S1": stp.pp.DenseMap(rates, 8, 0.5, names=["A", "B", "C"])}, cells, spots


def test_the_truth_scores_above_what_spots_say(parts: tuple) -> None:
    maps, cells, spots = parts
    table = stp.tl.super_resolution_agreement(maps, cells, spots, microns=(8, 16, 32))
    assert set(table["where"]) == {"all", "inside", "between"}
    mean = table[table["gene"] != "C"].groupby(["microns", "where", "model"])["pearson"].mean().unstack()
    assert (mean.loc[8, "map"] > 0.75).all()
    assert mean.loc[8, ["nearest spot", "interpolated"]].abs().to_numpy().max() < 0.25
    # Stripes of 16 µm cancel in places of 32 µm.
    assert mean.loc[(32, "all"), "map"] != mean.loc[(8, "all"), "map"]
    assert table.loc[(table["gene"] == "C") & (table["model"] == "map"), "pearson"].isna().all()
    whole = table[(table["where"] == "all") & (table["model"] == "map")].groupby("microns")["n_places"].first()
    assert (whole.diff().dropna() < 0).all()


def test_exchanged_axes_score_nothing(parts: tuple) -> None:
    maps, cells, _ = parts
    swapped = cells.copy()
    swapped.obsm["spatial"] = swapped.obsm["spatial"][:, ::-1]
    own, other = (
        stp.tl.super_resolution_agreement(maps, each, microns=[8], genes=["A", "B"])["pearson"].mean()
        for each in (cells, swapped)
    )
    assert own > 0.75
    assert abs(other) < 0.1


def test_counts_are_compared_as_counts(parts: tuple) -> None:
    """Maps of counts are compared with counts, which grow with the cells of a place; residuals do not."""
    maps, cells, _ = parts
    dense = maps["S1"]
    counted = {"S1": stp.pp.DenseMap(dense.values, 8, 0.5, names=dense.names, record={"counts": True, "n_places": 37})}
    of_counts = stp.tl.super_resolution_agreement(counted, cells, microns=[8], genes=["A"])["pearson"].iloc[0]
    of_residuals = stp.tl.super_resolution_agreement(maps, cells, microns=[8], genes=["A"])["pearson"].iloc[0]
    assert 0.3 < of_counts < of_residuals


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"microns": [12]}, "whole multiples of 8"),
        ({}, {"genes": ["D"]}, "found D missing"),
        ({"sample": "S2"}, {}, "expected cells on the maps"),
        ({"shift": 5000}, {}, "expected cells on the maps"),
    ],
)
def test_errors(parts: tuple, change: dict[str, Any], options: dict[str, Any], message: str) -> None:
    maps, cells, _ = parts
    cells = cells.copy()
    cells.obs["sample"] = change.get("sample", "S1")
    cells.obsm["spatial"] = cells.obsm["spatial"] + change.get("shift", 0)
    with pytest.raises((ValueError, KeyError), match=message):
        stp.tl.super_resolution_agreement(maps, cells, **options)
