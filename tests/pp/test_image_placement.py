"""Image elements of a SpatialData give the features of the picture before it was cropped, turned or registered."""

from __future__ import annotations

import warnings

import anndata
import numpy as np
import pandas as pd
import pytest
from scipy import ndimage

import stpredict as stp
from stpredict.io._image import section_image

SIZE, KEY = (520, 600), "X_color-texture"


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setattr(stp.settings, "progress", False)
    monkeypatch.setattr(stp.settings, "device", "cpu")


def picture() -> np.ndarray:
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.normal(size=(*SIZE, 3)), (4, 4, 0)) * 400
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    return np.clip(smooth + np.stack([x / 4, y / 4, 0 * x], axis=2) + 90, 0, 255).astype(np.uint8)


def container(pixels: np.ndarray, transformation: object, system: str = "S", **options: object):
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, TableModel

    x, y = np.meshgrid(np.arange(230.0, 400, 31), np.arange(200.0, 340, 31))
    adata = anndata.AnnData(
        obs=pd.DataFrame({"sample": "S"}, index=[f"spot{i}" for i in range(x.size)]),
        obsm={"spatial": np.column_stack([x.ravel(), y.ravel()])},
    )
    adata.uns["spatial"] = {"S": {"images": {}, "scalefactors": {"microns_per_pixel": 1.0}, "metadata": {}}}
    element = Image2DModel.parse(pixels, dims=("y", "x", "c"), transformations={system: transformation}, **options)
    return SpatialData(images={"S_image": element}, tables={"table": TableModel.parse(adata)})


def features(sdata: object, tile_um: float = 56, **options: object) -> np.ndarray:
    stp.pp.image_features(sdata, tile_um=tile_um, cache=False, **{"context": (1,)} | options)
    return sdata["table"].obsm[KEY]


def affine(*rows: tuple[float, float, float]) -> object:
    from spatialdata.transformations import Affine

    matrix = np.vstack([np.array(rows, dtype=float), [0, 0, 1]])
    return Affine(matrix, input_axes=("x", "y"), output_axes=("x", "y"))


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    from spatialdata.transformations import Identity

    return features(container(picture(), Identity()))


HEIGHT, WIDTH = SIZE
EXACT = {
    "mirrored x": (lambda p: p[:, ::-1], lambda: affine((-1, 0, WIDTH), (0, 1, 0))),
    "mirrored y": (lambda p: p[::-1], lambda: affine((1, 0, 0), (0, -1, HEIGHT))),
    "half turn": (lambda p: p[::-1, ::-1], lambda: affine((-1, 0, WIDTH), (0, -1, HEIGHT))),
    "transposed": (lambda p: p.swapaxes(0, 1), lambda: affine((0, 1, 0), (1, 0, 0))),
    "quarter turn": (lambda p: np.rot90(p), lambda: affine((0, -1, WIDTH), (1, 0, 0))),
    "three quarters": (lambda p: np.rot90(p, -1), lambda: affine((0, 1, 0), (-1, 0, HEIGHT))),
    "cropped": (lambda p: p[91:, 103:], lambda: affine((1, 0, 103), (0, 1, 91))),
    "cropped and mirrored": (lambda p: p[50:, 77:][:, ::-1], lambda: affine((-1, 0, WIDTH), (0, 1, 50))),
}  # fmt: skip


@pytest.mark.parametrize("tile_um", [56, 57])
@pytest.mark.parametrize("kind", EXACT)
def test_crops_turns_and_mirror_images_give_the_same_features(kind, tile_um):
    from spatialdata.transformations import Identity

    change, transformation = EXACT[kind]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        whole = features(container(picture(), Identity()), tile_um=tile_um)
        found = features(container(np.ascontiguousarray(change(picture())), transformation()), tile_um=tile_um)
    np.testing.assert_allclose(found, whole, atol=1e-5)


def test_sequences_and_the_global_system(expected):
    from spatialdata.transformations import MapAxis, Scale, Sequence, Translation

    steps = Sequence([Translation([40, 10], ("x", "y")), Scale([2, 2], ("x", "y")), Scale([0.5, 0.5], ("x", "y")), Translation([10, 25], ("x", "y"))])  # fmt: skip
    # 40 + 10 and 10 + 25, as both scales cancel.
    found = features(container(picture()[35:, 50:], steps, system="global"))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    swapped = container(np.ascontiguousarray(picture().swapaxes(0, 1)), MapAxis({"x": "y", "y": "x"}), system="own")
    np.testing.assert_allclose(features(swapped), expected, atol=1e-5)


def test_levels_and_dask(expected):
    import dask.array as da
    from spatialdata.transformations import Scale, Translation

    pyramid = container(picture()[91:, 103:], Translation([103, 91], ("x", "y")), scale_factors=[2, 2])
    np.testing.assert_allclose(features(pyramid), expected, atol=1e-5)
    lazy = container(da.from_array(picture()[91:, 103:], chunks=(100, 100, 3)), Translation([103, 91], ("x", "y")))
    np.testing.assert_allclose(features(lazy), expected, atol=1e-5)
    # A finer scan with a level of just the right resolution needs no resampling.
    fine = container(picture().repeat(2, axis=0).repeat(2, axis=1), Scale([0.5, 0.5], ("x", "y")), scale_factors=[2])
    np.testing.assert_allclose(features(fine), expected, atol=0.02)


def test_a_box_query_of_a_pyramid(expected):
    import spatialdata as sd
    from spatialdata.transformations import Identity

    whole = container(picture(), Identity(), scale_factors=[2])
    part = sd.bounding_box_query(
        whole["S_image"], axes=("x", "y"), min_coordinate=[101, 77], max_coordinate=[520, 470],
        target_coordinate_system="S",
    )  # fmt: skip
    adata = whole["table"]
    stp.pp.image_features(adata, image={"S": part}, tile_um=56, context=(1,), cache=False)
    np.testing.assert_allclose(adata.obsm[KEY], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["turned", "registered", "sheared", "finer"])
def test_other_transformations_are_resampled_and_said_once(kind, expected):
    matrix = {
        "turned": np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]]),
        "registered": 0.9 * np.array([[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]]),
        "sheared": np.array([[1.0, 0.1], [0.0, 1.0]]),
        "finer": np.diag([0.7, 0.7]),
    }[kind]
    center = np.array([WIDTH / 2, HEIGHT / 2])
    side = np.array([900, 900])
    shift = center - matrix @ (side / 2)
    # What a scanner would have seen whose pixels lie as the transformation says.
    y, x = np.mgrid[: side[1], : side[0]] + 0.5
    px, py = matrix @ np.stack([x.ravel(), y.ravel()]) + shift[:, None]
    seen = [
        ndimage.map_coordinates(picture()[..., c].astype(float), [py - 0.5, px - 0.5], order=1, cval=255)
        for c in range(3)
    ]
    pixels = np.stack(seen, axis=1).reshape(*side, 3).round().astype(np.uint8)
    sdata = container(pixels, affine((*matrix[0], shift[0]), (*matrix[1], shift[1])))
    with pytest.warns(UserWarning, match="resampled") as said:
        found = features(sdata)
    assert sum("resampled" in str(item.message) for item in said) == 1
    assert "transformation" in str(said[0].message)
    correlation = [np.corrcoef(a, b)[0, 1] for a, b in zip(found.T[:9], expected.T[:9], strict=True)]
    assert np.median(correlation) > 0.98
    colors = section_image(sdata, sdata["table"], "S")
    corner = np.array([230, 200]) - colors.origin.astype(int)
    difference = (
        colors.band(corner[1], corner[1] + 100)[:, corner[0] : corner[0] + 100].astype(int)
        - picture()[200:300, 230:330]
    )
    assert np.abs(difference).mean() < 4


def test_spots_beside_a_turned_element_are_refused():
    """Its corners leave parts of the rectangle around it empty."""
    turn = np.array([[np.cos(0.8), -np.sin(0.8)], [np.sin(0.8), np.cos(0.8)]])
    shift = np.array([307, 262]) - turn @ [80, 80]
    sdata = container(picture()[:160, :160], affine((*turn[0], shift[0]), (*turn[1], shift[1])))
    with pytest.raises(ValueError, match=r"found \d+ of 30 outside"):
        features(sdata)


def test_spots_beside_a_cropped_element_are_refused():
    with pytest.raises(ValueError, match=r"begins at \(300, 0\).*outside"):
        features(container(picture()[:, 300:], affine((1, 0, 300), (0, 1, 0))))


def test_thumbnails_are_refused_by_their_transformation():
    from spatialdata.transformations import Scale, Sequence, Translation

    for step in (Scale([4, 4], ("x", "y")), Sequence([Scale([2, 2], ("x", "y")), Translation([5, 5], ("x", "y"))])):
        with pytest.raises(KeyError, match="times coarser by its transformation"):
            features(container(picture()[::2, ::2], step))
    given = container(picture()[::2, ::2], Scale([2, 2], ("x", "y")))
    with pytest.warns(UserWarning, match="2 times coarser"):
        features(given, image={"S": given["S_image"]})


def test_transformations_that_say_nothing_or_different_things():
    from spatialdata.transformations import Identity, Translation, set_transformation

    sdata = container(picture(), Identity(), system="one")
    set_transformation(sdata["S_image"], Translation([9, 9], ("x", "y")), "two")
    with pytest.raises(ValueError, match=r"'one', 'two'.*which differ"):
        features(sdata)
    with pytest.raises(ValueError, match="inverted"):
        features(container(picture(), affine((1, 1, 0), (1, 1, 0))))


def test_a_cropped_thumbnail_keeps_its_place():
    from spatialdata.transformations import Scale, Sequence, Translation

    small = picture()[::4, ::4]
    sdata = container(small[20:, 30:], Sequence([Scale([4, 4], ("x", "y")), Translation([120, 80], ("x", "y"))]))
    from stpredict.io._image import thumbnail_of

    found = thumbnail_of(sdata["S_image"], "S")
    np.testing.assert_array_equal(found[20:, 30:], small[20:, 30:])
    assert (found[:20] == 255).all()


def test_coarse_pictures_are_said_once_per_section():
    from spatialdata.transformations import Identity

    sdata = container(picture(), Identity())
    with pytest.warns(UserWarning, match="section 'S' is much coarser than its encoder") as said:
        features(sdata, tile_um=30, context=(1, 1.5))
    assert len(said) == 1
    with pytest.warns(UserWarning, match="is much coarser"):
        stp.pp.patches(sdata, 20, 112, progress=False)


@pytest.mark.parametrize("kind", ["file", "resampled"])
def test_a_single_section_is_decoded_once(kind, tmp_path, monkeypatch):
    from PIL import Image
    from spatialdata.transformations import Identity, Scale

    from stpredict.io import _image_file, _placement

    runs = []
    place = (_image_file.ImageFile, "decode") if kind == "file" else (_placement.Resampled, "_computed")
    plain = getattr(*place)
    monkeypatch.setattr(*place, lambda self: runs.append(1) or plain(self))
    if kind == "file":
        sdata = container(picture(), Identity())
        Image.fromarray(picture()).save(tmp_path / "a.png")
        features(sdata, image=tmp_path / "a.png", context=(1, 2))
    else:
        sdata = container(picture(), Scale([0.8, 0.8], ("x", "y")))
        sdata["table"].obsm["spatial"] *= 0.8
        features(sdata, context=(1, 2))
    assert runs == [1]
