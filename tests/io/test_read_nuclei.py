from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import stpredict as stp
from stpredict.io._outlines import outlines

SQUARE = [[10, 20], [18, 20], [18, 28], [10, 28], [10, 20]]
OTHER = [[40, 20], [50, 20], [50, 30], [40, 30], [40, 20]]


def geojson(path: Path, *features: dict, listed: bool = False) -> Path:
    content = list(features) if listed else {"type": "FeatureCollection", "features": list(features)}
    path.write_text(json.dumps(content))
    return path


def feature(ring: list, **more: object) -> dict:
    return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}, **more}


@pytest.mark.parametrize("last", [12, 70_000])  # less, and more, than the image has pixels
@pytest.mark.parametrize("kind", [np.uint32, np.int64])
def test_outlines_are_those_of_the_objects(last: int, kind: type):
    labels = np.zeros((60, 80), kind)
    labels[10:20, 30:50] = 7
    labels[40:45, 0:6] = last
    labels[0, 79] = 9
    numbers, polygons = outlines(labels)
    assert numbers.tolist() == [7, 9, last]
    assert polygons[0].bounds == (30, 10, 50, 20)
    assert polygons[2].bounds == (0, 40, 6, 45)
    assert polygons[0].area == pytest.approx(200, abs=1)
    assert outlines(np.zeros((5, 5), int))[0].size == 0
    assert len(outlines(np.ones((5, 5), int))[0]) == 1


def test_space_ranger(tmp_path):
    path = geojson(
        tmp_path / "nucleus_segmentations.geojson",
        feature(SQUARE, properties={"cell_id": 1}),
        feature(OTHER, properties={"cell_id": 5, "classification": {"name": "Cluster 2", "color": [1, 2, 3]}}),
    )
    found = stp.io.read_nuclei(path)
    assert found["source_id"].tolist() == ["1", "5"]
    assert found["type"].tolist() == ["unknown", "Cluster 2"]
    assert found.area.tolist() == [64, 100]
    assert "type" not in stp.io.read_nuclei(geojson(path, feature(SQUARE, properties={"cell_id": 1})))


@pytest.mark.parametrize("listed", [True, False])
def test_qupath_cells_give_their_nucleus_and_annotations_are_left_out(tmp_path, listed):
    cell = feature(OTHER, id="a", properties={"objectType": "cell", "classification": {"name": "Tumor"}})
    cell["nucleusGeometry"] = {"type": "Polygon", "coordinates": [SQUARE]}
    region = feature([[0, 0], [900, 0], [900, 900], [0, 0]], properties={"objectType": "annotation"})
    found = stp.io.read_nuclei(geojson(tmp_path / "cells.geojson", region, cell, listed=listed))
    assert found.area.tolist() == [64]
    assert found["type"].tolist() == ["Tumor"]
    assert found["source_id"].tolist() == ["a"]


def test_of_several_pieces_the_largest_is_kept_and_bow_ties_are_mended(tmp_path):
    pieces = {"type": "MultiPolygon", "coordinates": [[SQUARE], [OTHER]]}
    bow = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
    path = geojson(tmp_path / "a.geojson", {"type": "Feature", "geometry": pieces}, feature(bow))
    found = stp.io.read_nuclei(path)
    assert found.area.tolist() == [100, 25]
    assert found.is_valid.all()


def test_hover_net(tmp_path):
    nuclei = {
        "1": {"contour": [[9, 9], [19, 9], [19, 19], [9, 19]], "centroid": [14, 14], "type": 1, "type_prob": 0.9},
        "2": {"contour": [[30, 9], [34, 9], [34, 13], [30, 13]], "centroid": [32, 11], "type": 2, "type_prob": None},
        "3": {"contour": [[1, 1], [2, 2]], "centroid": [1, 1], "type": 1, "type_prob": 0.5},
    }
    path = tmp_path / "slide.json"
    path.write_text(json.dumps({"mag": 40, "nuc": nuclei}))
    with pytest.raises(ValueError, match=r"expected `scale=` for .*magnification 40"):
        stp.io.read_nuclei(path)
    found = stp.io.read_nuclei(path, scale=2.0, types={1: "neoplastic"})
    assert found["type"].tolist() == ["neoplastic", "2"]
    assert found.area.tolist() == [400, 64]
    assert found["type_probability"].iloc[0] == pytest.approx(0.9)
    assert np.isnan(found["type_probability"].iloc[1])
    assert found.total_bounds.tolist() == [19, 19, 69, 39]
    path.write_text(json.dumps({"mag": None, "nuc": nuclei}))
    assert len(stp.io.read_nuclei(path)) == 2


@pytest.mark.parametrize("suffix", [".tif", ".png", ".npy"])
def test_label_images(tmp_path, suffix):
    from PIL import Image

    labels = np.zeros((50, 60), np.uint16)
    labels[5:15, 10:30], labels[20:24, 40:50] = 300, 2
    path = tmp_path / f"masks{suffix}"
    if suffix == ".npy":
        np.save(path, labels)
    elif suffix == ".png":
        Image.fromarray(labels).save(path)
    else:
        import tifffile

        tifffile.imwrite(path, labels[None])
    found = stp.io.read_nuclei(path)
    assert found["source_id"].tolist() == ["2", "300"]
    assert found.geometry.iloc[1].bounds == (10, 5, 30, 15)


def test_outlines_of_cellpose(tmp_path):
    path = tmp_path / "image_cp_outlines.txt"
    path.write_text("10,20,18,20,18,28,10,28\n\n40,20,50,20,50,30,40,30\n")
    found = stp.io.read_nuclei(path)
    assert found.area.tolist() == [64, 100]
    path.write_text("10,20,18\n")
    with pytest.raises(ValueError, match="expected outlines of Cellpose in .*damaged"):
        stp.io.read_nuclei(path)


def test_coordinates_of_stardist():
    angle = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    ring = np.stack([50 + 6 * np.sin(angle), 80 + 6 * np.cos(angle)])  # y, then x
    found = stp.io.read_nuclei({"coord": ring[None], "points": [[50, 80]], "prob": [0.9]})
    assert found.centroid.x.iloc[0] == pytest.approx(80.5)
    assert found.centroid.y.iloc[0] == pytest.approx(50.5)
    with pytest.raises(ValueError, match="expected 'coord' of shape"):
        stp.io.read_nuclei({"coord": np.zeros((3, 32, 2))})
    with pytest.raises(TypeError, match="expected a mapping of StarDist"):
        stp.io.read_nuclei({"masks": 1})


def test_a_table_of_polygons_is_taken_as_it_is(tmp_path):
    first = stp.io.read_nuclei(geojson(tmp_path / "a.geojson", feature(SQUARE, properties={"classification": "T"})))
    again = stp.io.read_nuclei(first, scale=0.5, types={"T": "tumor"})
    assert again["type"].tolist() == ["tumor"]
    assert again.area.tolist() == [16]
    assert first.area.tolist() == [64]


def test_objects_are_not_unpickled(tmp_path):
    path = tmp_path / "image_seg.npy"
    np.save(path, {"masks": np.zeros((3, 3), int)}, allow_pickle=True)
    with pytest.raises(ValueError, match="found Python objects, which are not read because they may run code"):
        stp.io.read_nuclei(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.geojson", b"{", "expected a segmentation in JSON in .* damaged"),
        ("a.json", b'{"a": 1}', "expected GeoJSON .*; found JSON with a"),
        ("a.json", b"3", "found JSON with no list"),
        ("a.geojson", b'{"features": [{"geometry": {"type": "Polygon"}}]}', "expected GeoJSON in .* damaged"),
        ("a.geojson", b'{"features": [{"geometry": {"type": "Point", "coordinates": [1, 2]}}]}', "found none among 1"),
        ("a.tif", b"no picture", "expected a label image in .* damaged"),
        ("a.csv", b"x,y", "expected GeoJSON .*; found a.csv"),
    ],
)
def test_damaged_and_other_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        stp.io.read_nuclei(tmp_path / name)


def test_missing_files_and_other_objects():
    with pytest.raises(FileNotFoundError, match="expected a segmentation at nowhere"):
        stp.io.read_nuclei("nowhere.geojson")
    with pytest.raises(ValueError, match="expected a label image"):
        stp.io.read_nuclei(np.zeros((4, 4)))
    with pytest.raises(TypeError, match="found int"):
        stp.io.read_nuclei(3)
    assert len(stp.io.read_nuclei(np.zeros((4, 4), int))) == 0
