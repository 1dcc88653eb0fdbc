from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

import stpredict as stp
from stpredict.encoders._resize import resized
from stpredict.pp import _encode_sections as module
from stpredict.pp._image_features import image_features
from stpredict.slots._provenance import read_record

KEY = "X_color-texture"


class Center(torch.nn.Module):
    """Mean color of the 4 x 4 central pixels: tells where a tile was cut."""

    def forward(self, tiles):
        middle = tiles.shape[-1] // 2
        return tiles[:, :, middle - 2 : middle + 2, middle - 2 : middle + 2].mean(dim=(2, 3))


def picture(seed: int = 0, height: int = 300, width: int = 420) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ramp(height: int = 300, width: int = 420) -> np.ndarray:
    """Red grows with x, green with y."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x / 2, y / 2, np.full((height, width), 100)], axis=2).astype(np.uint8)


@pytest.fixture(autouse=True)
def cache_in_a_temporary_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(stp.settings, "cache_dir", tmp_path / "cache")
    monkeypatch.setattr(stp.settings, "progress", False)
    monkeypatch.setattr(stp.settings, "device", "cpu")


@pytest.fixture
def adata():
    """Two sections of 5 and 4 observations, interleaved, at 1 and 0.5 µm per pixel."""
    rng = np.random.default_rng(0)
    names = np.array(["b", "a", "b", "a", "b", "a", "b", "a", "b"])
    positions = np.stack([rng.uniform(60, 360, 9), rng.uniform(60, 240, 9)], axis=1).round()
    result = anndata.AnnData(
        np.zeros((9, 2), dtype=np.float32),
        obs=pd.DataFrame({"sample": pd.Categorical(names)}, index=[f"spot{i}" for i in range(9)]),
        obsm={"spatial": positions},
    )
    result.uns["spatial"] = {
        sample: {
            "images": {"hires": picture(seed)},
            "scalefactors": {"tissue_hires_scalef": 1.0, "microns_per_pixel": mpp, "spot_diameter_fullres": 50.0},
        }
        for seed, (sample, mpp) in enumerate({"a": 1.0, "b": 0.5}.items())
    }
    return result


def untouched(adata):
    return not adata.uns.get("stpredict") and list(adata.obsm) == ["spatial"]


def test_writes_features_and_provenance(adata):
    assert image_features(adata, tile_um=60) is None
    assert adata.obsm[KEY].shape == (9, 306)
    assert adata.obsm[KEY].dtype == np.float32
    record = read_record(adata, KEY)
    encoder = stp.encoders.get_encoder("color-texture")
    assert (record["encoder"], record["fingerprint"], record["dim"]) == ("color-texture", encoder.fingerprint, 306)
    assert (record["tile_um"], record["tile_px"], record["context"]) == (60, 112, [1, 5])
    assert record["microns_per_pixel"] == {"a": 1.0, "b": 0.5}
    assert set(record["padded"]) == {"a", "b"}


def test_sections_are_independent_of_each_other(adata):
    image_features(adata, tile_um=60, cache=False)
    for sample in ("a", "b"):
        part = adata[adata.obs["sample"] == sample].copy()
        del part.obsm[KEY]
        image_features(part, tile_um=60, cache=False, batch_size=2)
        np.testing.assert_allclose(part.obsm[KEY], adata[part.obs_names].obsm[KEY], atol=1e-4)


def test_features_are_those_of_the_tile_cut_by_hand(adata):
    image_features(adata, tile_um=60, context=(1,), cache=False)
    encoder = stp.encoders.get_encoder("color-texture")
    row = int(np.flatnonzero(adata.obs["sample"] == "a")[0])
    x, y = (adata.obsm["spatial"][row] - 30).astype(int)
    window = adata.uns["spatial"]["a"]["images"]["hires"][y : y + 60, x : x + 60]
    expected = encoder(resized(window[None], 112, torch.device("cpu")))[0].numpy()
    np.testing.assert_allclose(adata.obsm[KEY][row], expected, atol=1e-4)


def test_tiles_are_centered_on_x_and_y(adata):
    one = adata[adata.obs["sample"] == "a"].copy()
    image_features(one, Center(), image=ramp(), tile_um=40, tile_px=40, key_added="X_center", cache=False)
    red_green = one.obsm["X_center"][:, :2] * [0.229, 0.224] + [0.485, 0.456]
    np.testing.assert_allclose(red_green * 255, one.obsm["spatial"] / 2, atol=1)
    assert read_record(one, "X_center")["encoder"] == "center"


def test_resolution_does_not_change_what_is_seen(adata):
    """The same tissue scanned at twice the resolution gives the same features of color."""
    coarse = np.kron(picture(5, 75, 105), np.ones((4, 4, 1), dtype=np.uint8))
    fine = np.kron(coarse, np.ones((2, 2, 1), dtype=np.uint8))
    one, two = (adata[adata.obs["sample"] == "a"].copy() for _ in range(2))
    two.obsm["spatial"] = two.obsm["spatial"] * 2
    image_features(one, image=coarse, microns_per_pixel=1.0, tile_um=56, cache=False)
    image_features(two, image=fine, microns_per_pixel=0.5, tile_um=56, cache=False)
    names = stp.encoders.color_texture_names()
    means = [names.index(f"{channel}_mean") for channel in ("red", "green", "blue")]
    np.testing.assert_allclose(one.obsm[KEY][:, means], two.obsm[KEY][:, means], atol=0.01)


def test_padding_is_counted_and_reflected(adata):
    one = adata[adata.obs["sample"] == "a"].copy()
    one.obsm["spatial"][0] = [2, 2]
    image_features(one, tile_um=60, context=(1,), cache=False)
    assert read_record(one, KEY)["padded"] == {"a": 1}
    assert np.isfinite(one.obsm[KEY]).all()


def test_context_adds_fields_of_view(adata):
    image_features(adata, tile_um=30, context=(1, 3), key_added="both", cache=False)
    image_features(adata, tile_um=30, context=(1,), key_added="near", cache=False)
    image_features(adata, tile_um=90, context=(1,), key_added="far", cache=False)
    np.testing.assert_allclose(adata.obsm["both"], np.hstack([adata.obsm["near"], adata.obsm["far"]]), atol=1e-4)
    assert read_record(adata, "both")["dim"] == 306


def test_the_encoder_says_which_surroundings_are_read_without_being_asked(adata):
    image_features(adata, tile_um=30)
    image_features(adata, tile_um=30, context=stp.encoders.get_encoder("color-texture").context, key_added="named")
    np.testing.assert_array_equal(adata.obsm[KEY], adata.obsm["named"])
    image_features(adata, "color-statistics", tile_um=30)
    assert read_record(adata, "X_color-statistics")["context"] == [1]
    assert adata.obsm["X_color-statistics"].shape == (9, 6)


def test_a_picture_smaller_than_the_surroundings_is_reflected(adata):
    small = adata[adata.obs["sample"] == "a"].copy()
    small.obsm["spatial"] = small.obsm["spatial"] / 6
    image_features(small, image=picture(height=50, width=70), microns_per_pixel=1.0, tile_um=60, cache=False)
    assert np.isfinite(small.obsm[KEY]).all()
    assert read_record(small, KEY)["padded"] == {"a": 4}


def test_copy_and_in_place_agree(adata):
    changed = image_features(adata, tile_um=60, copy=True)
    assert untouched(adata)
    image_features(adata, tile_um=60)
    np.testing.assert_array_equal(adata.obsm[KEY], changed.obsm[KEY])


def test_images_from_files_mappings_and_jpegs(adata, tmp_path):
    for seed, sample in enumerate("ab"):
        Image.fromarray(picture(seed)).save(tmp_path / f"{sample}.png")
    paths = {sample: tmp_path / f"{sample}.png" for sample in "ab"}
    image_features(adata, tile_um=60, cache=False)
    image_features(adata, tile_um=60, image=paths, key_added="mapped", cache=False)
    for sample in "ab":
        adata.uns["spatial"][sample]["metadata"] = {"source_image_path": str(paths[sample])}
        del adata.uns["spatial"][sample]["images"]
    image_features(adata, tile_um=60, key_added="stored", cache=False)
    np.testing.assert_allclose(adata.obsm["mapped"], adata.obsm[KEY], atol=1e-5)
    np.testing.assert_allclose(adata.obsm["stored"], adata.obsm[KEY], atol=1e-5)


def test_spatialdata(adata):
    spatialdata = pytest.importorskip("spatialdata")
    from spatialdata.models import Image2DModel, TableModel

    one = adata[adata.obs["sample"] == "a"].copy()
    expected = image_features(one, tile_um=60, copy=True, cache=False)
    element = Image2DModel.parse(picture(0), dims=("y", "x", "c"), c_coords=["r", "g", "b"])
    del one.uns["spatial"]["a"]["images"]
    sdata = spatialdata.SpatialData(images={"a_full_image": element}, tables={"spots": TableModel.parse(one)})
    changed = image_features(sdata, tile_um=60, table_key="spots", copy=True, cache=False)
    assert KEY not in sdata["spots"].obsm
    np.testing.assert_allclose(changed["spots"].obsm[KEY], expected.obsm[KEY], atol=1e-5)


def test_cache_is_used_and_a_damaged_file_recomputed(adata, monkeypatch):
    runs = []
    encode = module._encode
    monkeypatch.setattr(module, "_encode", lambda *args: runs.append(args[1].name) or encode(*args))
    image_features(adata, tile_um=60)
    first = adata.obsm[KEY].copy()
    image_features(adata, tile_um=60)
    assert runs == ["b", "a"]
    np.testing.assert_array_equal(adata.obsm[KEY], first)
    for file in (stp.settings.cache_dir / "features").rglob("*.npy"):
        file.write_bytes(file.read_bytes()[:-40])
    image_features(adata, tile_um=60)
    assert runs == ["b", "a"] * 2
    np.testing.assert_array_equal(adata.obsm[KEY], first)


@pytest.mark.parametrize("change", ["tile_um", "position", "pixel", "context", "mpp"])
def test_cache_sees_every_input(adata, monkeypatch, change):
    one = adata[adata.obs["sample"] == "a"].copy()
    image_features(one, tile_um=60)
    runs = []
    encode = module._encode
    monkeypatch.setattr(module, "_encode", lambda *args: runs.append(1) or encode(*args))
    kwargs = {"tile_um": 60}
    if change == "tile_um":
        kwargs["tile_um"] = 60.1
    elif change == "position":
        one.obsm["spatial"][0] += 1
    elif change == "pixel":
        one.uns["spatial"]["a"]["images"]["hires"] = picture(0)
        one.uns["spatial"]["a"]["images"]["hires"][0, 0, 0] ^= 1
    elif change == "context":
        kwargs["context"] = (1.01,)
    else:
        kwargs["microns_per_pixel"] = 1.001
    image_features(one, **kwargs)
    assert runs == [1]


def test_functions_are_never_cached(adata):
    image_features(adata, lambda tiles: tiles.mean(dim=(2, 3)), tile_um=60, tile_px=8, key_added="X_mean")
    assert adata.obsm["X_mean"].shape == (9, 3)
    assert not list(stp.settings.cache_dir.rglob("*.npy"))


def test_an_unwritable_cache_costs_no_features(adata, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(stp.settings, "cache_dir", tmp_path / "file")
    with pytest.warns(UserWarning, match="could not be cached"):
        image_features(adata, tile_um=60)
    assert KEY in adata.obsm


def test_all_sections_are_checked_before_the_first_is_encoded(adata, monkeypatch):
    monkeypatch.setattr(module, "_encode", lambda *_: pytest.fail("encoded before all sections were checked"))
    del adata.uns["spatial"]["a"]["scalefactors"]["microns_per_pixel"]
    with pytest.raises(ValueError, match="µm per pixel of section 'a'"):
        image_features(adata)
    assert untouched(adata)


def test_errors_leave_the_object_as_it_was(adata):
    def attempt(error, match, data=adata, **kwargs):
        with pytest.raises(error, match=match):
            image_features(data, **kwargs)
        assert untouched(adata)

    attempt(ValueError, "mapping by section", image=picture())
    attempt(KeyError, "image of section 'b'", image={"a": picture()})
    attempt(KeyError, "no_such", sample_key="no_such")
    attempt(ValueError, "context", context=())
    attempt(ValueError, "batch_size", batch_size=0)
    attempt(ValueError, "tile_um", tile_um=-1)
    attempt(ValueError, "tile_px=112", tile_px=64)
    attempt(ValueError, "key_added", encoder=Center(), tile_px=8)
    attempt(ValueError, "tile_px", encoder=Center(), key_added="X_c")
    attempt(
        ValueError, "not finite|finite features", encoder=lambda t: t.mean(dim=(2, 3)) / 0, tile_px=8, key_added="X_c"
    )
    attempt(TypeError, "AnnData or SpatialData", data=np.zeros(3))
    adata.obsm["spatial"][1, 0] = 10_000
    attempt(ValueError, "outside")


def test_damaged_image(adata, tmp_path):
    one = adata[adata.obs["sample"] == "a"].copy()
    path = tmp_path / "a.jpg"
    Image.fromarray(picture()).save(path)
    path.write_bytes(path.read_bytes()[:4000])
    with pytest.raises(ValueError, match="truncated or damaged"):
        image_features(one, image=path)
    assert untouched(one)


def test_one_observation_and_missing_positions(adata):
    single = adata[:1].copy()
    image_features(single, tile_um=60)
    assert single.obsm[KEY].shape == (1, 306)
    del single.obsm["spatial"]
    with pytest.raises(KeyError, match="spatial"):
        image_features(single)


def test_resizing_agrees_with_floats():
    windows = picture(3, 80, 80)[None]
    tiles = resized(windows, 56, torch.device("cpu"))
    floats = torch.nn.functional.interpolate(
        torch.from_numpy(windows).permute(0, 3, 1, 2).float(), size=(56, 56), mode="bilinear", antialias=True
    )
    assert tiles.dtype == torch.uint8
    assert float((tiles.float() - floats).abs().max()) <= 1


@pytest.mark.parametrize(
    ("apart_um", "jitter", "options", "warned"),
    [
        (12.0, 0.3, {}, True),
        (12.0, 0.0, {}, False),  # bins of a lattice
        (12.0, 0.3, {"tile_um": 30}, False),
        (100.0, 0.3, {}, False),  # spots of any arrangement
        (45.0, 0.3, {}, False),
    ],
)
def test_cells_need_smaller_tiles(apart_um, jitter, options, warned, recwarn):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:6, :6].reshape(2, -1)
    xy = 300 + 2 * apart_um * (np.column_stack([x, y]) + rng.uniform(-jitter, jitter, (36, 2)))
    cells = anndata.AnnData(np.zeros((36, 1)), obs=pd.DataFrame({"sample": "s"}, index=[f"c{i}" for i in range(36)]))
    cells.obsm["spatial"] = xy
    image_features(
        cells, Center(), image=picture(height=1700, width=1700), microns_per_pixel=0.5, tile_px=16, key_added="X_c",
        cache=False, check=False, **options,
    )  # fmt: skip
    assert any("look like cells" in str(warning.message) for warning in recwarn) is warned
