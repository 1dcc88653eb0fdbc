"""What `uns` holds is read where it has the form that the package writes, and refused by name elsewhere."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pytest

from stpredict.io._image import microns_per_pixel
from stpredict.slots._provenance import read_record, records, write_record
from stpredict.slots._sections import section_entry


def test_what_is_known_of_a_section(toy: ad.AnnData) -> None:
    assert section_entry(toy, "s0")["scalefactors"] == {"microns_per_pixel": 0.5}
    assert section_entry(toy, "nobody") == {}
    toy.uns["spatial"]["s%2F0"] = {"metadata": {"a": 1}}
    assert section_entry(toy, "s/0") == {"metadata": {"a": 1}}
    del toy.uns["spatial"]
    assert section_entry(toy, "s0") == {}


@pytest.mark.parametrize(
    ("spatial", "where"),
    [
        (np.arange(3), r"a mapping at uns\['spatial'\]; found ndarray"),
        ({"s0": "text"}, r"uns\['spatial'\]\['s0'\]; found str"),
        ({"s0": {"images": 3}}, r"\['s0'\]\['images'\]; found int"),
        ({"s0": {"scalefactors": np.array([1.0])}}, r"\['s0'\]\['scalefactors'\]; found ndarray"),
        (
            {"s0": {"scalefactors": {"microns_per_pixel": "half"}}},
            r"a number at .*\['microns_per_pixel'\]; found 'half'",
        ),
        ({"s0": {"scalefactors": {"tissue_hires_scalef": None}}}, r"\['tissue_hires_scalef'\]; found 'None'"),
    ],
)
def test_other_things_in_spatial(toy: ad.AnnData, spatial: Any, where: str) -> None:
    toy.uns["spatial"] = spatial
    with pytest.raises(ValueError, match=f"expected {where if where.startswith('a ') else '.*' + where}"):
        section_entry(toy, "s0")
    with pytest.raises(ValueError, match="expected .*uns"):
        microns_per_pixel(toy, "s0")


@pytest.mark.parametrize("value", ["text", np.arange(3), 1.0])
def test_records_that_are_none(toy: ad.AnnData, value: Any) -> None:
    toy.uns["stpredict"]["X_toy"] = value
    with pytest.raises(ValueError, match=r"a mapping at uns\['stpredict'\]\['X_toy'\]; found"):
        read_record(toy, "X_toy")
    toy.uns["stpredict"] = value
    for call in (lambda: read_record(toy, "X_toy"), lambda: records(toy), lambda: write_record(toy, "a", {})):
        with pytest.raises(ValueError, match=r"a mapping at uns\['stpredict'\]; found"):
            call()


@pytest.mark.parametrize("values", [{"s0": b"0.5"}, {"s0": [0.5]}, "0.5", {"s0": 0.5, "s1": "x"}])
def test_records_by_section_hold_numbers(toy: ad.AnnData, values: Any) -> None:
    toy.uns["stpredict"]["X_toy"]["microns_per_pixel"] = values
    with pytest.raises(ValueError, match=r"expected .*\['X_toy'\]\['microns_per_pixel'\]; found"):
        read_record(toy, "X_toy")
