from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from PIL import Image

from stpredict.io._image import SectionImage, check_positions, microns_per_pixel, section_image


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)


@pytest.fixture
def tissue() -> np.ndarray:
    """A dark block in the right third of a bright, wide image."""
    image = np.full((300, 300, 3), 240, dtype=np.uint8)
    image[20:120, 180:280] = 90
    return image


def grid(x0: float, y0: float, side: float = 80, n: int = 6) -> np.ndarray:
    x, y = np.meshgrid(np.linspace(x0, x0 + side, n), np.linspace(y0, y0 + side, n))
    return np.column_stack([x.ravel(), y.ravel()])


def collect(image: SectionImage, centers: np.ndarray, side: int, batch_size: int) -> np.ndarray:
    out = np.zeros((len(centers), side, side, 3), dtype=np.uint8)
    seen = np.zeros(len(centers), dtype=int)
    for index, windows in image.windows(centers, side, batch_size):
        out[index] = windows
        seen[index] += 1
    assert (seen == 1).all()
    return out


@pytest.mark.parametrize("side", [7, 8, 21])
@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("source", ["array", "png", "xarray"])
def test_windows_equal_naive_slicing(pixels, tmp_path, side, batch_size, source):
    if source == "png":
        Image.fromarray(pixels).save(tmp_path / "image.png")
        image = SectionImage(tmp_path / "image.png")
    elif source == "xarray":
        import xarray as xr

        image = SectionImage(xr.DataArray(np.moveaxis(pixels, -1, 0), dims=("c", "y", "x")))
    else:
        image = SectionImage(pixels)
    centers = np.array([[40.0, 30.0], [0.0, 0.0], [79.0, 59.0], [2.3, 50.7], [78.6, 1.2], [20.5, 20.5]])
    pad = 30
    padded = np.pad(pixels, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    corner = np.round(centers - side / 2).astype(int) + pad
    naive = np.stack([padded[y : y + side, x : x + side] for x, y in corner])
    np.testing.assert_array_equal(collect(image, centers, side, batch_size), naive)


def test_windows_larger_than_the_image_are_filled(pixels):
    windows = collect(SectionImage(pixels[:5, :6]), np.array([[3.0, 2.0]]), 15, 4)
    assert windows.shape == (1, 15, 15, 3)
    assert np.isin(windows[0].reshape(-1, 3), pixels[:5, :6].reshape(-1, 3)).all()


def test_windows_of_no_centers(pixels):
    assert list(SectionImage(pixels).windows(np.empty((0, 2)), 8)) == []


@pytest.mark.parametrize(("dtype", "scale"), [(np.uint16, 257), (np.float32, 1 / 255)])
def test_other_pixel_types_become_uint8(pixels, dtype, scale):
    image = SectionImage((pixels * np.array(scale)).astype(dtype))
    np.testing.assert_array_equal(image.band(0, 60), pixels)


def test_gray_and_alpha_become_rgb(pixels):
    assert SectionImage(pixels[:, :, 0]).band(0, 60).shape == (60, 80, 3)
    opaque = np.concatenate([pixels, np.full_like(pixels[:, :, :1], 255)], axis=2)
    np.testing.assert_array_equal(SectionImage(opaque).band(3, 9), pixels[3:9])


def test_integers_that_are_no_image_are_refused(pixels):
    with pytest.raises(TypeError, match="int64"):
        SectionImage(pixels.astype(np.int64)).band(0, 5)
    with pytest.raises(ValueError, match="shape"):
        SectionImage(np.zeros(5))


def test_thumbnail_size_factor_and_content(tmp_path):
    gradient = np.repeat(np.linspace(0, 255, 400).astype(np.uint8)[None, :, None], 200, axis=0).repeat(3, axis=2)
    Image.fromarray(gradient).save(tmp_path / "image.jpg", quality=95)
    for source in (gradient, tmp_path / "image.jpg"):
        small, factor = SectionImage(source).thumbnail(100)
        assert small.shape == (50, 100, 3)
        assert factor == 0.25
        assert abs(small[:, 50].mean() - gradient[0, 202].mean()) < 3
    whole, factor = SectionImage(gradient).thumbnail(1000)
    assert factor == 1.0
    np.testing.assert_array_equal(whole, gradient)


def test_truncated_jpeg(pixels, tmp_path):
    big = np.random.default_rng(0).integers(0, 256, (400, 400, 3), dtype=np.uint8)
    Image.fromarray(big).save(tmp_path / "whole.jpg")
    data = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(data[: len(data) // 2])
    image = SectionImage(tmp_path / "cut.jpg")
    assert (image.height, image.width) == (400, 400)
    with pytest.raises(ValueError, match="truncated or damaged"):
        image.band(0, 10)
    with pytest.raises(ValueError, match="truncated or damaged"):
        SectionImage(tmp_path / "cut.jpg").thumbnail(100)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.png"):
        SectionImage(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match="cannot read"):
        SectionImage(tmp_path / "text.png")


def test_fingerprint_depends_on_content_only(pixels, tmp_path):
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    a, b = (SectionImage(tmp_path / name).fingerprint() for name in ("a.png", "b.png"))
    assert a == b
    changed = pixels.copy()
    changed[30, 40, 1] ^= 1
    assert SectionImage(pixels).fingerprint() == SectionImage(pixels.copy()).fingerprint()
    assert SectionImage(pixels).fingerprint() != SectionImage(changed).fingerprint()
    assert SectionImage(pixels).fingerprint() != SectionImage(pixels.reshape(80, 60, 3)).fingerprint()


def test_positions_on_tissue_pass(tissue):
    check_positions(grid(190, 30), SectionImage(tissue), "S1")


def test_swapped_positions_are_found_by_tissue(tissue):
    with pytest.raises(ValueError, match="x and y look swapped"):
        check_positions(grid(190, 30)[:, ::-1], SectionImage(tissue), "S1")


def test_swapped_positions_are_found_by_size(tissue):
    with pytest.raises(ValueError, match="x and y look swapped"):
        check_positions(grid(190, 30)[:, ::-1], SectionImage(tissue[:130]), "S1")


def test_few_spots_that_lie_better_transposed_by_chance_pass():
    picture = np.full((300, 300, 3), 245, dtype=np.uint8)
    picture[60:240, 10:290] = 120
    inside = np.random.default_rng(0).uniform(90, 210, (21, 2))
    beside = np.array([[150.0, 30.0]] * 4)  # off tissue, and on it when transposed: 84 % against all
    image = SectionImage(picture)
    check_positions(np.concatenate([inside, beside]), image, "S1")
    with pytest.raises(ValueError, match="x and y look swapped"):
        check_positions(np.concatenate([inside, beside] * 10), image, "S1")


def test_positions_outside_the_image(tissue):
    with pytest.raises(ValueError, match="at full resolution"):
        check_positions(grid(290, 290), SectionImage(tissue), "S1")
    with pytest.raises(ValueError, match="NaN"):
        check_positions(np.array([[1.0, np.nan]]), SectionImage(tissue), "S1")


def test_positions_on_a_uniform_image_pass():
    check_positions(grid(190, 30), SectionImage(np.full((300, 300, 3), 200, dtype=np.uint8)), "S1")


def with_entry(**entry) -> AnnData:
    adata = AnnData(np.zeros((2, 1), dtype=np.float32))
    adata.uns["spatial"] = {"S1": entry}
    return adata


def test_section_image_is_found_in_order(pixels, tmp_path):
    Image.fromarray(pixels[:40]).save(tmp_path / "source.png")
    adata = with_entry(
        images={"hires": pixels},
        scalefactors={"tissue_hires_scalef": 1.0},
        metadata={"source_image_path": str(tmp_path / "source.png")},
    )
    assert section_image(adata, adata, "S1", pixels[:20]).height == 20
    assert section_image(adata, adata, "S1", {"S1": pixels[:30]}).height == 30
    assert section_image(adata, adata, "S1").height == 40
    (tmp_path / "source.png").unlink()
    assert section_image(adata, adata, "S1").height == 60
    with pytest.raises(KeyError, match="S2"):
        section_image(adata, adata, "S1", {"S2": pixels})


def test_a_downscaled_thumbnail_is_no_full_resolution_image(pixels):
    adata = with_entry(images={"hires": pixels}, scalefactors={"tissue_hires_scalef": 0.5})
    with pytest.raises(KeyError, match="pass `image=`"):
        section_image(adata, adata, "S1")


def test_microns_per_pixel_given_stored_unknown():
    adata = with_entry(scalefactors={"microns_per_pixel": 0.5})
    assert microns_per_pixel(adata, "S1") == 0.5
    assert microns_per_pixel(adata, "S1", 0.7) == 0.7
    assert microns_per_pixel(adata, "S2", {"S2": 0.3}) == 0.3
    with pytest.raises(ValueError, match="µm per pixel"):
        microns_per_pixel(adata, "S2")
    with pytest.raises(ValueError, match="positive"):
        microns_per_pixel(adata, "S1", -1.0)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda p: np.moveaxis(p, -1, 0), ValueError, "np.moveaxis"),
        (lambda p: np.dstack([p, p]), ValueError, "three of its channels"),
        (lambda p: p.astype(np.int32), TypeError, "int32"),
        (lambda p: p > 100, TypeError, "bool"),
    ],
)
def test_arrays_that_are_no_image_are_refused_at_once(pixels, change, error, match):
    with pytest.raises(error, match=match):
        SectionImage(change(pixels))


@pytest.mark.parametrize("values", [np.array([0.0, 200.0]), np.array([-1.0, 0.5]), np.array([0.5, np.nan])])
def test_floats_beyond_one_are_refused(values):
    picture = np.resize(values, (4, 4, 3))
    with pytest.raises(ValueError, match="floats in 0–1; found floats from"):
        SectionImage(picture).band(0, 4)


def test_channels_of_an_element(pixels):
    import xarray as xr

    many = xr.DataArray(np.moveaxis(np.dstack([pixels, pixels]), -1, 0), dims=("c", "y", "x"))
    with pytest.raises(ValueError, match="three of its channels"):
        SectionImage(many)


def test_files_of_sixteen_bits_keep_their_gray(tmp_path):
    gray = np.arange(60 * 80, dtype=np.uint16).reshape(60, 80) * 13
    Image.fromarray(gray).save(tmp_path / "gray.png")
    image = SectionImage(tmp_path / "gray.png")
    np.testing.assert_array_equal(image.thumbnail(1000)[0][..., 1], gray >> 8)
    np.testing.assert_array_equal(image.band(0, 60)[..., 2], gray >> 8)
    Image.fromarray(gray.astype(np.float32)).save(tmp_path / "floats.tif")
    with pytest.raises(ValueError, match="mode 'F'"):
        SectionImage(tmp_path / "floats.tif").band(0, 60)
