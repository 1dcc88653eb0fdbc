import numpy as np
import pytest
from scipy import sparse
from skimage.metrics import structural_similarity

from stpredict.metrics import rasterize, ssim
from stpredict.metrics._rasterize import lattice
from stpredict.metrics._ssim import _filter, ssim_map


def naive(truth, predicted, tissue, window=7, sigma=1.5, min_tissue=0.5):
    """Direct evaluation of the definition for one gene, window by window."""
    half = window // 2
    low = min(truth[tissue].min(), predicted[tissue].min())
    extent = max(truth[tissue].max(), predicted[tissue].max()) - low
    x, y = (truth - low) / extent, (predicted - low) / extent
    scores = []
    for i in range(tissue.shape[0]):
        for j in range(tissue.shape[1]):
            cells = [
                (a, b)
                for a in range(i - half, i + half + 1)
                for b in range(j - half, j + half + 1)
                if 0 <= a < tissue.shape[0] and 0 <= b < tissue.shape[1] and tissue[a, b]
            ]
            if len(cells) < min_tissue * window**2:
                continue
            w = np.array([np.exp(-((a - i) ** 2 + (b - j) ** 2) / (2 * sigma**2)) for a, b in cells])
            w /= w.sum()
            p, q = (np.array([image[cell] for cell in cells]) for image in (x, y))
            mp, mq = w @ p, w @ q
            vp, vq, c = w @ (p - mp) ** 2, w @ (q - mq) ** 2, w @ ((p - mp) * (q - mq))
            scores.append((2 * mp * mq + 1e-4) * (2 * c + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    return np.mean(scores)


@pytest.fixture
def section():
    rng = np.random.default_rng(0)
    row, col = np.divmod(np.arange(13 * 11), 11)
    kept = rng.random(len(row)) < 0.8
    row, col = row[kept], col[kept]
    truth = np.stack([np.sin(row / 3), rng.random(len(row)), row * 1.0, rng.random(len(row)) - 9], axis=1)
    predicted = truth * 0.7 + rng.normal(0, 0.2, truth.shape)
    return truth, predicted, row, col


def test_matches_the_definition(section):
    truth, predicted, row, col = section
    maps, tissue = rasterize(truth, row, col)
    guesses, _ = rasterize(predicted, row, col)
    expected = [naive(maps[..., g], guesses[..., g], tissue) for g in range(4)]
    np.testing.assert_allclose(ssim(truth, predicted, row, col), expected, rtol=1e-9)


def test_matches_skimage_inside_a_full_grid():
    rng = np.random.default_rng(1)
    x, y = rng.random((2, 24, 20))
    offset = np.arange(11) - 5
    kernel = np.exp(-0.5 * (offset / 1.5) ** 2)
    kernel /= kernel.sum()
    found = ssim_map(x[None], y[None], _filter(np.ones(x.shape), kernel), kernel)[0]
    _, expected = structural_similarity(
        x, y, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    inner = (slice(5, -5), slice(5, -5))
    np.testing.assert_allclose(found[inner], expected[inner], rtol=1e-9)


def test_background_has_no_influence(section):
    truth, predicted, row, col = section
    far = ssim(
        np.vstack([truth, truth[:1]]), np.vstack([predicted, predicted[:1]]), np.append(row, 60), np.append(col, 60)
    )
    np.testing.assert_allclose(far, ssim(truth, predicted, row, col), rtol=1e-9)


def test_hexagonal_lattice_equals_its_packed_grid(section):
    truth, predicted, row, col = section
    np.testing.assert_array_equal(ssim(truth, predicted, row, 2 * col + row % 2), ssim(truth, predicted, row, col))


def test_order_of_observations_and_offset_do_not_matter(section):
    truth, predicted, row, col = section
    order = np.random.default_rng(2).permutation(len(row))
    found = ssim(truth[order], predicted[order], row[order] + 17, col[order] - 40)
    np.testing.assert_allclose(found, ssim(truth, predicted, row, col), rtol=1e-9)


def test_identity_constants_and_nan(section):
    truth, predicted, row, col = section
    np.testing.assert_allclose(ssim(truth, truth, row, col), 1.0)
    flat = np.full_like(truth, 3.0)
    assert np.isnan(ssim(flat, flat, row, col)).all()
    assert (ssim(truth, np.tile(truth.mean(axis=0), (len(row), 1)), row, col) < 0.6).all()
    predicted[0, 1] = np.nan
    np.testing.assert_array_equal(np.isnan(ssim(truth, predicted, row, col)), [False, True, False, False])


def test_sparse_equals_dense(section):
    truth, predicted, row, col = section
    truth[truth < 0.5] = 0
    np.testing.assert_array_equal(ssim(sparse.csr_matrix(truth), predicted, row, col), ssim(truth, predicted, row, col))


def test_a_thin_strip_has_no_window():
    strip = np.random.default_rng(0).random((10, 2))
    assert np.isnan(ssim(strip, strip, np.zeros(10, int), np.arange(10))).all()


def test_errors(section):
    truth, predicted, row, col = section
    with pytest.raises(ValueError, match="odd positive window"):
        ssim(truth, predicted, row, col, window=6)
    with pytest.raises(ValueError, match="sigma"):
        ssim(truth, predicted, row, col, sigma=0)
    with pytest.raises(ValueError, match="min_tissue"):
        ssim(truth, predicted, row, col, min_tissue=0)
    with pytest.raises(ValueError, match="one observation per lattice position"):
        ssim(truth, predicted, np.zeros_like(row), col)
    with pytest.raises(ValueError, match="whole numbers"):
        ssim(truth, predicted, row + 0.5, col)
    with pytest.raises(ValueError, match="array_row of shape"):
        ssim(truth, predicted, row[:3], col)


def test_rasterize_places_values():
    image, tissue = rasterize(sparse.csr_matrix([[1, 5], [2, 6], [3, 7]]), np.array([4, 4, 6]), np.array([1, 2, 2]))
    np.testing.assert_array_equal(image[..., 0], [[1, 2], [0, 0], [0, 3]])
    np.testing.assert_array_equal(image[..., 1], [[5, 6], [0, 0], [0, 7]])
    np.testing.assert_array_equal(tissue, image[..., 0] > 0)


def test_strips_of_a_map_give_what_the_whole_map_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows reach into the rows beside a strip: holes and the edges of the map among them."""
    rng = np.random.default_rng(4)
    row, col = np.divmod(np.flatnonzero(rng.random(60 * 23) < 0.8), 23)
    truth = np.sin(row / 5)[:, None] + rng.normal(size=(len(row), 3))
    predicted = truth + rng.normal(size=truth.shape)
    whole = ssim(truth, predicted, row, col)
    monkeypatch.setattr("stpredict.metrics._ssim._HELD", 23 * 8)
    np.testing.assert_allclose(ssim(truth, predicted, row, col), whole, rtol=1e-13)


def test_positions_far_apart_need_no_grid_to_be_told_apart() -> None:
    lattice(np.array([0, 10**6]), np.array([0, 10**6 + 1]), 2)
    with pytest.raises(ValueError, match="found 1 that share one"):
        lattice(np.array([0, 10**6, 0]), np.array([0, 10**6 + 1, 0]), 3)
