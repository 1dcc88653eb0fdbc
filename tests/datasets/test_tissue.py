from __future__ import annotations

import numpy as np
import pytest

from stpredict.datasets._histology import EOSIN, HEMATOXYLIN, Stain, _independent, _scatter, draw_stain, render
from stpredict.datasets._tissue import CLASSES, Plan, composition_at, plan_section, plan_tissue, resize, smooth_noise


def test_resize_matches_scipy():
    from scipy.ndimage import map_coordinates

    values = np.random.default_rng(0).random((12, 9))
    steps, shape = 0.37, (30, 22)
    at = np.meshgrid(*((np.arange(n) + 0.5) * steps - 0.5 for n in shape), indexing="ij")
    expected = map_coordinates(values, at, order=1, mode="nearest")
    np.testing.assert_allclose(resize(values, shape, steps), expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [1.0, 4.0, 20.0])
def test_smooth_noise(sigma):
    field = smooth_noise((900, 1100), sigma, np.random.default_rng(0))
    assert field.shape == (900, 1100)
    assert field.dtype == np.float32
    assert field.std() == pytest.approx(1, abs=0.15)
    shift = int(2 * sigma)  # correlation of white noise after a Gaussian kernel: exp(-d² / 4σ²)
    assert np.corrcoef(field[shift:].ravel(), field[:-shift].ravel())[0, 1] == pytest.approx(np.exp(-1), abs=0.12)


def test_composition_at_matches_a_loop():
    rng = np.random.default_rng(0)
    classes = rng.integers(-1, 4, (40, 50))
    xy = rng.uniform(0, 40, (7, 2))
    found = composition_at(classes, xy, 6.5)
    y, x = np.indices(classes.shape)
    for share, center in zip(found, np.floor(xy), strict=True):
        inside = classes[np.hypot(x - center[0], y - center[1]) <= 6.5]
        np.testing.assert_allclose(share, [(inside == k).sum() / (inside >= 0).sum() for k in range(4)])
    assert (composition_at(np.full((20, 20), -1), np.array([[10.0, 10.0]]), 3) == 0).all()


@pytest.mark.parametrize("lattice", ["square", "hex"])
def test_spots_lie_inside_the_tissue(lattice):
    rng = np.random.default_rng(3)
    layout = plan_section(50, lattice, 100.0, 55.0, rng)
    plan = plan_tissue(layout, 2.0, np.zeros(4), rng)
    column, row = (layout.xy_um / 2).astype(int).T
    assert (plan.classes[row, column] >= 0).all()
    assert (plan.classes[[0, -1]] == -1).all()
    assert (plan.classes[:, [0, -1]] == -1).all()
    assert len(np.unique(np.column_stack([layout.row, layout.column]), axis=0)) == 50
    assert layout.row.min() in (0, 1)
    assert plan.eosin.min() >= 0
    assert (plan.density["lymphocyte"][plan.classes == CLASSES.index("immune")] > 0).all()
    assert (plan.density["tumor"][plan.classes != CLASSES.index("tumor")] == 0).all()


def test_independent_is_maximal_and_free_of_conflicts():
    rng = np.random.default_rng(0)
    pairs = np.unique(np.sort(rng.integers(0, 200, (400, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    kept = _independent(200, pairs, rounds=50)
    assert not kept[pairs].all(axis=1).any()
    greedy = np.zeros(200, bool)
    for i in range(200):
        greedy[i] = not greedy[pairs[pairs[:, 1] == i, 0]].any()
    np.testing.assert_array_equal(kept, greedy)


def blank(density: float) -> Plan:
    zero = np.zeros((150, 150), np.float32)
    kinds = ("tumor", "lymphocyte", "fibroblast", "adipocyte")
    chances = {kind: zero + (density if kind == "lymphocyte" else 0) for kind in kinds}
    return Plan(2.0, np.full(zero.shape, 2), zero.copy(), zero.copy(), chances, dict.fromkeys(kinds, zero))


def test_nuclei_keep_their_distance():
    from scipy.spatial import cKDTree

    xy, _, kind, names = _scatter(blank(0.02), np.random.default_rng(0))
    assert {names[k] for k in kind} == {"lymphocyte"}
    assert len(xy) > 500
    assert cKDTree(xy).query(xy, k=2)[0][:, 1].min() > 6


def test_render_follows_lambert_and_beer():
    plan = blank(0)
    plan.eosin[:] = 0.8
    plan.hematoxylin[:] = 0.3
    stain = Stain(np.stack([HEMATOXYLIN, EOSIN]), np.array([1.0, 0.5]), np.array([240.0, 230.0, 220.0]))
    image = render(plan, (280.0, 260.0), 1.0, stain, np.random.default_rng(0))
    assert image.shape == (260, 280, 3)
    assert image.dtype == np.uint8
    expected = stain.glass * np.exp(-(0.3 * HEMATOXYLIN + 0.8 * 0.5 * EOSIN))
    np.testing.assert_allclose(image.mean(axis=(0, 1)), expected, atol=0.2)
    assert 1.5 < image[..., 0].std() < 4


def test_nuclei_are_dark_and_of_their_size():
    stain = Stain(np.stack([HEMATOXYLIN, EOSIN]), np.ones(2), np.full(3, 240.0))
    plan = blank(0.001)
    image = render(plan, (280.0, 280.0), 0.5, stain, np.random.default_rng(0))
    n = len(_scatter(plan, np.random.default_rng(0))[0])
    area = (image[..., 0] < 150).sum() * 0.25
    assert area / n == pytest.approx(np.pi * 3.7 * 3.4, rel=0.25)


def test_draw_stain():
    still = draw_stain(0, np.random.default_rng(0))
    np.testing.assert_allclose(still.vectors, np.stack([HEMATOXYLIN, EOSIN]), atol=1e-2)
    moved = draw_stain(0.2, np.random.default_rng(0), still)
    np.testing.assert_allclose(np.linalg.norm(moved.vectors, axis=1), 1)
    assert (moved.strength != 1).all()
