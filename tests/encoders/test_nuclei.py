from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.sparse.csgraph import maximum_bipartite_matching
from scipy.spatial import KDTree

import stpredict as stp
from stpredict.encoders._measure_nuclei import distances, measure_nuclei
from stpredict.encoders._nuclei import tile_summary
from stpredict.encoders._segment_nuclei import BLOCK, REACH_UM, UM_PER_PX, segment_nuclei, stain_densities
from stpredict.encoders._summarize_nuclei import summarize_nuclei

NAMES = stp.encoders.nuclei_names()


@pytest.fixture(scope="module")
def tissue() -> np.ndarray:
    return stp.datasets.synthetic_nuclei(260, seed=50)[0]


def f1(image: np.ndarray, truth: np.ndarray, within_um: float = 4.0) -> float:
    """F1 of one-to-one matches at `UM_PER_PX`."""
    labels = segment_nuclei(image)
    centers = np.array(ndimage.center_of_mass(labels > 0, labels, range(1, labels.max() + 1)))[:, ::-1] + 0.5
    near = KDTree(truth).sparse_distance_matrix(KDTree(centers), within_um / UM_PER_PX, output_type="coo_matrix")
    near = near.tocsr()
    near.data[:] = 1
    return 2 * int((maximum_bipartite_matching(near) >= 0).sum()) / (len(truth) + len(centers))


@pytest.mark.parametrize(
    ("options", "least"), [({}, 0.9), ({"density": 0.4}, 0.9), ({"density": 2.5}, 0.85), ({"stain_shift": 0.4}, 0.85)]
)
def test_nuclei_that_are_known_are_found(options, least):
    image, truth = stp.datasets.synthetic_nuclei(300, seed=51, **options)
    assert len(truth) > 50
    assert f1(image, truth[["x", "y"]].to_numpy()) >= least


def test_blur_costs_little():
    image, truth = stp.datasets.synthetic_nuclei(300, seed=52)
    blurred = ndimage.gaussian_filter(image.astype(float), (2, 2, 0)).astype(np.uint8)
    assert f1(blurred, truth[["x", "y"]].to_numpy()) >= 0.8


@pytest.mark.parametrize("level", [0, 90, 255])
def test_even_pictures_have_no_nuclei(level):
    assert segment_nuclei(np.full((100, 120, 3), level, np.uint8)).max() == 0


@pytest.mark.parametrize("noise", [0, 2])
def test_gray_pictures_have_no_nuclei(tissue, noise):
    gray = np.repeat(tissue.mean(axis=2, keepdims=True), 3, axis=2)
    gray = gray + np.random.default_rng(0).normal(0, noise, gray.shape)  # what a compression leaves
    assert segment_nuclei(np.clip(gray, 0, 255).astype(np.uint8)).max() == 0


@pytest.mark.parametrize("shape", [(1, 1), (3, 50), (50, 7)])
def test_tiny_pictures_are_no_error(tissue, shape):
    assert segment_nuclei(tissue[: shape[0], : shape[1]]).shape == shape


def test_touching_disks_are_two_and_a_long_one_is_one():
    y, x = np.mgrid[:160, :160]
    two = (np.hypot(y - 50, x - 44) < 9) | (np.hypot(y - 50, x - 60) < 9)
    long = (np.abs(y - 110) < 5) & (np.abs(x - 80) < 20)
    density = (0.05 + 0.7 * (two | long))[..., None] * np.array([0.65, 0.70, 0.29]) + 0.2 * np.array([0.07, 0.99, 0.11])
    labels = segment_nuclei((255 * 10**-density).astype(np.uint8))
    assert labels.max() == 3
    assert labels[50, 40] != labels[50, 64]
    assert labels[110, 64] == labels[110, 96] != 0


def test_what_lies_far_away_changes_nothing(tissue):
    """The promise that streaming rests on."""
    reach = int(np.ceil(REACH_UM / UM_PER_PX / BLOCK)) * BLOCK
    piece = tissue[:, : 2 * reach + 80]
    other = piece.copy()
    other[:, reach + 80 :] = 255
    near = slice(0, 40)
    first, second = segment_nuclei(piece)[:, near], segment_nuclei(other)[:, near]
    assert first.max() > 3
    np.testing.assert_array_equal(first > 0, second > 0)


def test_measures_of_a_disk_and_an_ellipse():
    y, x = np.mgrid[:100, :100] + 0.5
    labels = np.zeros((100, 100), np.int32)
    labels[np.hypot(y - 30, x - 30) < 12] = 1
    labels[((y - 70) / 8) ** 2 + ((x - 60) / 20) ** 2 < 1] = 2
    stains = np.zeros((2, 100, 100), np.float32)
    stains[0, labels == 1], stains[0, labels == 2], stains[1] = 0.5, 0.7, 0.3
    found = measure_nuclei(labels, stains)
    np.testing.assert_allclose(found["x"], [30, 60], atol=0.05)
    np.testing.assert_allclose(found["y"], [30, 70], atol=0.05)
    np.testing.assert_allclose(found["area_um2"], [np.pi * 36, np.pi * 40], rtol=0.02)
    np.testing.assert_allclose(found["major_um"], [12, 20], rtol=0.02)
    np.testing.assert_allclose(found["minor_um"], [12, 8], rtol=0.02)
    np.testing.assert_allclose(found["perimeter_um"], [np.pi * 12, 46.0], rtol=0.06)
    np.testing.assert_allclose(found["angle"][1], 0, atol=0.02)
    np.testing.assert_allclose(found["hematoxylin"], [0.5, 0.7], rtol=1e-6)
    np.testing.assert_allclose(found["hematoxylin_sd"], 0, atol=1e-3)
    np.testing.assert_allclose(found["contrast"], [0.5, 0.7], rtol=1e-6)
    np.testing.assert_allclose(found["eosin"], 0.3, rtol=1e-6)
    assert found["circularity"][0] > 0.95 > found["circularity"][1]


def test_measures_agree_with_scikit_image(tissue):
    from skimage.measure import regionprops_table

    stains = stain_densities(tissue)
    labels = segment_nuclei(tissue)
    names = ("area", "axis_major_length", "axis_minor_length", "mean_intensity", "centroid", "perimeter_crofton")
    expected = regionprops_table(labels, stains[0], properties=names)
    found = measure_nuclei(labels, stains)
    np.testing.assert_allclose(found["area_um2"], expected["area"] * UM_PER_PX**2)
    # The moments of scikit-image are those of the centers of pixels, ours those of squares: 1/12 more.
    for ours, theirs in (("major_um", "axis_major_length"), ("minor_um", "axis_minor_length")):
        squares = 4 * np.sqrt((expected[theirs] / 4) ** 2 + 1 / 12) * UM_PER_PX
        np.testing.assert_allclose(found[ours], squares, rtol=1e-6)
    np.testing.assert_allclose(found["hematoxylin"], expected["mean_intensity"], rtol=1e-4)
    np.testing.assert_allclose(found["x"], expected["centroid-1"] + 0.5)
    np.testing.assert_allclose(found["perimeter_um"], expected["perimeter_crofton"] * UM_PER_PX, rtol=0.05)


def test_distances_to_neighbors():
    found = distances(np.array([[0.0, 0], [3, 0], [3, 4], [0, 90], [900, 900]]))
    np.testing.assert_allclose(found["nearest_um"], [3, 3, 4, 86.05, 100], atol=0.01)
    np.testing.assert_allclose(found["n_near"], [2, 2, 2, 0, 0])
    assert {name: len(values) for name, values in distances(np.zeros((0, 2))).items()}["n_near"] == 0


def nuclei(n: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    from stpredict.encoders._measure_nuclei import DISTANCES, MEASURES

    return {name: rng.uniform(1, 90, n) for name in (*MEASURES, *DISTANCES)}


def test_summaries_follow_their_definition():
    rng = np.random.default_rng(0)
    known, tile = nuclei(60, rng), np.repeat([0, 2], [40, 20])
    found = summarize_nuclei(known, tile, rng.uniform(-50, 50, (60, 2)), 3, 100.0)
    table = dict(zip(NAMES, found.T, strict=True))
    np.testing.assert_allclose(table["density"], [4.0, 0.0, 2.0])
    np.testing.assert_allclose(table["covered"][0], known["area_um2"][:40].sum() / 1e4, rtol=1e-5)
    with_typical = np.append(known["area_um2"][:40], 45.0)
    np.testing.assert_allclose(table["area_um2_mean"][0], with_typical.mean(), rtol=1e-5)
    np.testing.assert_allclose(table["area_um2_sd"][0], with_typical.std(), rtol=1e-5)
    np.testing.assert_allclose(table["area_um2_p90"][0], np.percentile(with_typical, 90), rtol=1e-5)
    assert table["area_um2_mean"][1] == 45.0
    assert table["area_um2_sd"][1] == 0
    assert np.isfinite(found).all()


def test_nuclei_at_the_border_count_half_and_have_no_shape():
    rng = np.random.default_rng(1)
    known, whole = nuclei(10, rng), np.arange(10) < 4
    zero = np.zeros((10, 2))
    cut = dict(zip(NAMES, summarize_nuclei(known, np.zeros(10, int), zero, 1, 100.0, whole=whole)[0], strict=True))
    inner = {name: values[:4] for name, values in known.items()}
    alone = dict(zip(NAMES, summarize_nuclei(inner, np.zeros(4, int), zero[:4], 1, 100.0)[0], strict=True))
    np.testing.assert_allclose(cut["density"], 0.7)
    for name in NAMES:
        if name.endswith(("_mean", "_sd", "_p90")):
            assert cut[name] == alone[name]


def test_types_add_density_and_share():
    rng = np.random.default_rng(2)
    known, immune = nuclei(9, rng), np.arange(9) < 3
    found = summarize_nuclei(known, np.zeros(9, int), np.zeros((9, 2)), 1, 100.0, kinds=[immune])
    assert found.shape == (1, len(NAMES) + 2)
    np.testing.assert_allclose(found[0, -2:], [0.3, 0.3], rtol=1e-6)


def test_the_encoder_is_registered_and_deterministic(tissue):
    encoder = stp.encoders.get_encoder("nuclei", device="cpu")
    assert encoder.dim == len(NAMES) == len(set(NAMES)) == 38
    tiles = torch.from_numpy(
        np.stack([tissue[:224, :224], tissue[200:424, 100:324], np.full_like(tissue[:224, :224], 255)])
    )
    tiles = tiles.permute(0, 3, 1, 2).contiguous()
    found = encoder(tiles)
    assert torch.equal(found, encoder(tiles))
    assert torch.equal(found[1:2], encoder(tiles[1:2]))
    table = dict(zip(NAMES, found.numpy().T, strict=True))
    assert table["density"][0] > 0.3
    assert table["density"][2] == 0
    assert encoder.fingerprint == stp.encoders.get_encoder("nuclei").fingerprint


def test_the_scale_of_the_encoder_is_fixed(tissue):
    encoder = stp.encoders.get_encoder("nuclei")
    assert encoder.for_side(56).tile_px == 112
    assert encoder.tile_px == 224
    plain = stp.encoders.get_encoder("color-texture")
    assert plain.for_side(56) is plain
    small = tile_summary(tissue[None, 100:324, 100:324])
    assert small.shape == (1, 38)


def test_random_filters_are_the_same_everywhere():
    before = torch.random.get_rng_state()
    encoder = stp.encoders.get_encoder("random-filters", device="cpu")
    assert torch.equal(before, torch.random.get_rng_state())
    assert not list(encoder.network.parameters())  # nothing to train
    assert encoder.dim == 288
    first = encoder.network.first.numpy()
    np.testing.assert_allclose(np.linalg.norm(first.reshape(48, -1), axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(first[0, 0, 0, :3], [0.131898, 0.020596, 0.067812], atol=1e-5)
    assert not encoder(torch.full((1, 3, 112, 112), 200, dtype=torch.uint8)).abs().max() > 1e-3
