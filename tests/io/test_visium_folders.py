"""Visium HD and segmented cells: which folder is read, and where the cells are."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

import stpredict as stp

FACTORS = {"spot_diameter_fullres": 14.6, "microns_per_pixel": 0.55}


def write_bins(base, size_um, counts_writer) -> None:
    folder = base / "binned_outputs" / f"square_{size_um:03d}um"
    (folder / "spatial").mkdir(parents=True)
    row, col = np.mgrid[:4, :5].reshape(2, -1)
    names = [f"s_{size_um:03d}um_{r:05d}_{c:05d}-1" for r, c in zip(row, col, strict=True)]
    table = pd.DataFrame({"barcode": names, "in_tissue": 1, "array_row": row, "array_col": col})
    table["pxl_row_in_fullres"], table["pxl_col_in_fullres"] = 50.0 + 2 * size_um * row, 70.0 + 2 * size_um * col
    table.to_parquet(folder / "spatial" / "tissue_positions.parquet")
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(FACTORS | {"bin_size_um": float(size_um)}))
    counts_writer(folder / "filtered_feature_bc_matrix.h5", names, list("ABC"))


def outline(x, y, half, kind="Polygon"):
    ring = [
        [x - half, y - half],
        [x + half, y - half],
        [x + half, y + half],
        [x - half, y + half],
        [x - half, y - half],
    ]
    return {"type": kind, "coordinates": [ring] if kind == "Polygon" else [[ring], [[[x, y]] * 4]]}


def write_cells(base, counts_writer, *, name="cellid_{:09d}-1", geometry=None, extra=0):
    folder = base / "segmented_outputs"
    (folder / "spatial").mkdir(parents=True)
    cells = {12: (10.0, 20.0), 3: (30.0, 40.0), 7: (55.0, 15.0)}
    features = [
        {"type": "Feature", "properties": {"cell_id": cell}, "geometry": (geometry or outline)(*place, 4.0)}
        for cell, place in cells.items()
    ]
    (folder / "cell_segmentations.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    (folder / "spatial" / "scalefactors_json.json").write_text(json.dumps(FACTORS))
    order = [3, 12, 7, *range(100, 100 + extra)]
    counts_writer(folder / "filtered_feature_cell_matrix.h5", [name.format(cell) for cell in order], list("ABC"))
    return np.array([cells[cell] for cell in order[:3]])


@pytest.fixture
def outs(tmp_path):
    folder = tmp_path / "run" / "outs"
    (folder / "spatial").mkdir(parents=True)  # pictures only
    return folder


def test_bins_of_the_size_asked_for(outs, counts_writer) -> None:
    for size in (2, 8, 16):
        write_bins(outs, size, counts_writer)
    for path in (outs, outs.parent, outs / "binned_outputs"):
        for size in (2, 8, 16.0):
            adata = stp.io.read_visium(path, bin_um=size)
            assert adata.obs_names[0].startswith(f"s_{int(size):03d}um")
            assert adata.uns["stpredict"]["read"]["pitch_um"] == size
    same = stp.io.read_visium(outs / "binned_outputs" / "square_008um", bin_um=8, sample="S")
    assert same.n_obs == 20
    assert list(stp.io.read_visium(outs, bin_um=8).uns["spatial"]) == ["run"]


@pytest.mark.parametrize("above", [False, True])
def test_several_sizes_have_to_be_chosen_from(outs, counts_writer, above) -> None:
    for size in (2, 8):
        write_bins(outs, size, counts_writer)
    write_cells(outs, counts_writer)
    path = outs.parent if above else outs
    with pytest.raises(ValueError, match=r"square_002um, square_008um, segmented_outputs; .*bin_um=8"):
        stp.io.read_visium(path)
    with pytest.raises(ValueError, match="bin_um among 2, 8; found 4"):
        stp.io.read_visium(path, bin_um=4)


def test_a_single_folder_needs_no_choice(outs, counts_writer) -> None:
    write_bins(outs, 16, counts_writer)
    assert stp.io.read_visium(outs).n_obs == 20


def test_a_bin_size_of_spots_is_refused(visium) -> None:
    with pytest.raises(ValueError, match=r"binned_outputs/square_008um.*leave `bin_um` out"):
        stp.io.read_visium(visium(), bin_um=8)


@pytest.mark.parametrize("name", ["cellid_{:09d}-1", "cellid_{:09d}", "{}", "cellid_{:06d}-2"])
@pytest.mark.parametrize("kind", ["Polygon", "MultiPolygon"])
def test_cells_lie_at_the_centroids_of_their_outlines(outs, counts_writer, name, kind) -> None:
    wanted = write_cells(outs, counts_writer, name=name, geometry=lambda x, y, h: outline(x, y, h, kind))
    for path in (outs, outs.parent, outs / "segmented_outputs"):
        adata = stp.io.read_visium(path, "S", "P1")
        np.testing.assert_allclose(adata.obsm["spatial"], wanted)
        factors = adata.uns["spatial"]["S"]["scalefactors"]
        assert factors["microns_per_pixel"] == 0.55
        assert "in_tissue" not in adata.obs
        assert "array_row" not in adata.obs
    assert (
        stp.io.read_visium(outs, "S", microns_per_pixel=0.3).uns["spatial"]["S"]["scalefactors"]["microns_per_pixel"]
        == 0.3
    )


def test_an_uneven_outline_against_shapely(outs, counts_writer) -> None:
    from shapely import Polygon

    ring = np.array([[0, 0], [9, 1], [7, 4], [8, 9], [2, 6], [0, 0]]) * 1.0

    def uneven(x, y, half):
        return {"type": "Polygon", "coordinates": [(ring + [x + 1e6, y]).tolist()]}

    places = write_cells(outs, counts_writer, geometry=uneven)
    center = Polygon(ring).centroid
    np.testing.assert_allclose(stp.io.read_visium(outs).obsm["spatial"], places + [center.x + 1e6, center.y])


def test_cells_without_outline_are_counted(outs, counts_writer) -> None:
    write_cells(outs, counts_writer, extra=2)
    with pytest.warns(UserWarning, match="2 of 5 barcodes of the counts have no position"):
        assert stp.io.read_visium(outs).n_obs == 3


def test_cells_of_an_unknown_pixel_size(outs, counts_writer) -> None:
    write_cells(outs, counts_writer)
    (outs / "segmented_outputs/spatial/scalefactors_json.json").write_text("{}")
    with pytest.raises(ValueError, match="expected microns_per_pixel in the scale factors"):
        stp.io.read_visium(outs)
    factors = stp.io.read_visium(outs, "S", microns_per_pixel=0.5).uns["spatial"]["S"]["scalefactors"]
    assert factors["spot_diameter_fullres"] == pytest.approx(2 * np.sqrt(64 / np.pi))


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{}", '{"features": []}', '{"features": [{"properties": {"cell_id": 1}}]}',
     '{"features": [{"properties": {}, "geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [0, 1]]]}}]}',
     '{"features": [{"properties": {"cell_id": 1}, "geometry": {"type": "Point", "coordinates": [0, 0]}}]}',
     '{"features": [{"properties": {"cell_id": 1}, "geometry": {"type": "Polygon", "coordinates": [[[0, "a"]]]}}]}'],
)  # fmt: skip
def test_damaged_outlines_name_the_file(outs, counts_writer, text) -> None:
    write_cells(outs, counts_writer)
    (outs / "segmented_outputs/cell_segmentations.geojson").write_text(text)
    with pytest.raises(ValueError, match=r"expected .*cell_segmentations\.geojson.*found"):
        stp.io.read_visium(outs)


def test_visium_hd_has_the_usual_bins(outs, counts_writer) -> None:
    for size in (2, 8, 16):
        write_bins(outs, size, counts_writer)
    for path in (outs, outs.parent):
        adata = stp.io.read_visium_hd(path, patient="P")
        assert adata.obs_names[0].startswith("s_008um")
        assert adata.obs["sample"].unique().tolist() == ["run"]
        record = adata.uns["stpredict"]["read"]
        assert (record["reader"], record["bin_um"], record["pitch_um"]) == ("read_visium_hd", 8.0, 8.0)
    assert stp.io.read_visium_hd(outs, "S", bin_um=2).uns["stpredict"]["read"]["bin_um"] == 2
    with pytest.raises(ValueError, match="expected bin_um among 2, 8, 16; found 4"):
        stp.io.read_visium_hd(outs, bin_um=4)
    with pytest.raises(FileNotFoundError, match=r"expected segmented_outputs in .*binned_outputs.*cells=False"):
        stp.io.read_visium_hd(outs, cells=True)


def test_visium_hd_has_cells(outs, counts_writer) -> None:
    places = write_cells(outs, counts_writer)
    write_bins(outs, 8, counts_writer)
    adata = stp.io.read_visium_hd(outs, "S", "P", cells=True)
    np.testing.assert_allclose(adata.obsm["spatial"], places)
    assert adata.uns["stpredict"]["read"]["cells"]
    assert stp.io.read_visium_hd(outs, "S", "P").n_obs == 20


def test_spots_of_visium_are_no_visium_hd(visium) -> None:
    with pytest.raises(FileNotFoundError, match=r"expected binned_outputs or segmented_outputs .*stp\.io\.read_visium"):
        stp.io.read_visium_hd(visium())
