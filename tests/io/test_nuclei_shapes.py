"""Nuclei of an AnnData as shapes of a SpatialData, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import spatialdata
from spatialdata.transformations import Scale, set_transformation

import stpredict as stp

NAMES = ["A", "b c", "bare", "empty"]


@pytest.fixture(scope="module")
def _adata() -> Any:
    """Sections with nuclei of known types, with nuclei of two kinds of numbers, with nuclei not looked for, and without any."""
    image = stp.datasets.synthetic_nuclei(60, seed=4)[0]
    index = [f"s{number}" for number in range(4)]
    height, width = image.shape[:2]
    adata = stp.io.from_tables(
        pd.DataFrame(np.ones((4, 2), int), index=index, columns=["g", "h"]),
        pd.DataFrame({"x": width / 2, "y": height / 2, "sample": NAMES}, index=index).drop(columns="sample"),
        sample="A", patient="P", microns_per_pixel=0.5, spot_diameter_um=20, check=False,
    )  # fmt: skip
    adata.obs["sample"] = NAMES
    adata.uns["spatial"] = dict.fromkeys(NAMES, adata.uns["spatial"]["A"])
    labels = np.zeros((height, width), int)
    labels[10:22, 12:40], labels[50:70, 60:75] = 1, 2
    given = stp.io.read_nuclei(labels)
    given["type"] = pd.Categorical(["tumor", "immune"])
    pictures = {"A": image, "b c": image, "empty": np.full_like(image, 255), "bare": image}
    options: dict[str, Any] = {"image": pictures, "progress": False}
    stp.pp.nuclei(adata, {"A": given}, key_added="known", **options)
    stp.pp.nuclei(adata[adata.obs["sample"] != "bare"].copy(), **options)
    found = stp.pp.nuclei(adata, copy=True, **options)
    adata.uns["nuclei"] = {name: entry for name, entry in found.uns["nuclei"].items() if name != "bare"}
    adata.uns["stpredict"]["nuclei"] = found.uns["stpredict"]["nuclei"]
    return adata


@pytest.fixture
def adata(_adata: Any) -> Any:
    return _adata.copy()


@pytest.mark.parametrize("stored", [False, True])
def test_there_and_back(adata: Any, tmp_path, stored: bool) -> None:
    before = adata.copy()
    sdata = stp.io.to_spatialdata(adata, images=False)
    assert len(stp.get.nuclei(sdata, "empty")) == len(stp.get.nuclei(before, "empty")) == 0
    with pytest.raises(KeyError, match="bare_nuclei"):
        stp.get.nuclei(sdata, "bare")
    assert {name for name in sdata.shapes if not name.endswith("_spots")} == {"A_known", "A_nuclei", "b_c_nuclei"}
    assert not {"nuclei", "known"} & set(sdata.tables["table"].uns)
    assert set(adata.uns) == set(before.uns)
    if stored:
        sdata = spatialdata.read_zarr(stp.io.write_zarr(sdata, tmp_path / "s.zarr"))
    for name, key in (("A", "known"), ("A", "nuclei"), ("b c", "nuclei")):
        pd.testing.assert_frame_equal(
            pd.DataFrame(stp.get.nuclei(sdata, name, key)), pd.DataFrame(stp.get.nuclei(before, name, key))
        )
    back = stp.io.from_spatialdata(sdata)
    assert back.uns["stpredict"]["nuclei"]["n_nuclei"] == before.uns["stpredict"]["nuclei"]["n_nuclei"]
    for key in ("nuclei", "known"):
        assert set(back.uns[key]) == set(before.uns[key])
        for name, arrays in back.uns[key].items():
            assert list(arrays) == list(before.uns[key][name])
            for column, values in arrays.items():
                np.testing.assert_array_equal(values, before.uns[key][name][column], err_msg=column)
    part = back[back.obs["sample"] != "bare"].copy()
    stp.pp.nuclei_features(part)
    assert part.obsm["X_nuclei"].shape == (3, 38)


def test_looking_again_and_finding_none_leaves_no_shapes(adata: Any) -> None:
    sdata = stp.io.to_spatialdata(adata[adata.obs["sample"] == "A"].copy(), images=False)
    assert "A_nuclei" in sdata.shapes
    stp.pp.nuclei(sdata, image=np.full((160, 160, 3), 255, np.uint8), progress=False)
    assert "A_nuclei" not in sdata.shapes
    assert len(stp.get.nuclei(sdata, "A")) == 0


def test_only_sections_that_are_there(adata: Any) -> None:
    sdata = stp.io.to_spatialdata(adata[adata.obs["sample"] == "b c"].copy(), images=False)
    assert sorted(sdata.shapes) == ["b_c_nuclei", "b_c_spots"]


def test_a_coordinate_system_moves_nuclei_with_the_spots(adata: Any) -> None:
    sdata = stp.io.to_spatialdata(adata[adata.obs["sample"] == "A"].copy(), images=False)
    for element in sdata.shapes.values():
        set_transformation(element, Scale([2.0, 3.0], axes=("x", "y")), "scanner")
    plain, moved = (stp.io.from_spatialdata(sdata, coordinate_system=name) for name in (None, "scanner"))
    np.testing.assert_allclose(moved.obsm["spatial"], plain.obsm["spatial"] * [2, 3])
    for column in ("x", "y", "outline"):
        factor = {"x": 2, "y": 3, "outline": np.array([2, 3])}[column]
        np.testing.assert_allclose(
            moved.uns["nuclei"]["A"][column], plain.uns["nuclei"]["A"][column] * factor, rtol=1e-6
        )


def test_shapes_of_others_are_left_alone(adata: Any) -> None:
    for key in ("nuclei", "known"):
        del adata.uns[key], adata.uns["stpredict"][key]
    sdata = stp.io.to_spatialdata(adata, images=False)
    sdata.shapes["A_nuclei"] = sdata.shapes["A_spots"]
    assert "nuclei" not in stp.io.from_spatialdata(sdata).uns
