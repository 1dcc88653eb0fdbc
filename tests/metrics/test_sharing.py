"""The variance of what groups share under random signs of spatial modes, beside signs that are drawn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.stats import pearsonr

from stpredict.metrics._modes import spatial_modes
from stpredict.metrics._sharing import Sharing
from stpredict.pp._spatial_graph import spatial_weights

SIDE = 9
XY = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE)), axis=-1).reshape(-1, 2).astype(float)
N = len(XY)


def links(rng, group, k=4):
    """Random neighbors of other groups, rows that sum to 1."""
    rows, columns = [], []
    for row, own in enumerate(group):
        rows += [row] * k
        columns += rng.choice(np.flatnonzero(group != own), k, replace=False).tolist()
    return sparse.csr_array((np.full(len(rows), 1 / k), (rows, columns)), shape=(len(group), len(group)))


def standardize(values, section):
    values = values.astype(np.float32)
    for code in np.unique(section):
        part = values[section == code]
        values[section == code] = (part - part.mean(axis=0)) / part.std(axis=0)
    return values


@pytest.fixture(scope="module")
def modes():
    return spatial_modes(spatial_weights(XY, 4), N - 1)[0]


def apart(modes, n):
    """For every section these modes, each a wave by itself."""
    return [(modes, np.arange(modes.shape[1]))] * n


def test_modes_are_orthonormal_of_mean_zero_and_ascend_from_coarse_to_fine(modes):
    assert modes.shape == (N, N - 1)
    np.testing.assert_allclose(modes.T @ modes, np.eye(N - 1), atol=1e-4)
    np.testing.assert_allclose(modes.sum(axis=0), 0, atol=1e-4)
    weights = spatial_weights(XY, 4)
    both = ((weights + weights.T) > 0).astype(float)
    rough = [(both.multiply((mode[:, None] - mode[None]) ** 2)).sum() for mode in modes[:, [0, 10, 40, 79]].T]
    assert (np.diff(rough) > 0).all()


def test_pieces_that_no_link_connects_keep_their_levels_as_modes():
    chain = sparse.diags([1.0, 1.0], [-1, 1], shape=(6, 6))
    found, wave = spatial_modes(sparse.block_diag([chain, chain], format="csr"), 3)
    assert wave.tolist() == [0, 1, 1]
    np.testing.assert_allclose(found.T @ found, np.eye(found.shape[1]), atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=0), 0, atol=1e-5)
    level = np.repeat([1.0, -1.0], 6) / np.sqrt(12)
    assert np.linalg.norm(found.T @ level) == pytest.approx(1, abs=1e-4)


def test_large_sections_have_the_modes_of_a_full_decomposition(monkeypatch):
    weights = spatial_weights(XY * [1.0, 1.3], 4)
    full, _ = spatial_modes(weights, 6)
    monkeypatch.setattr("stpredict.metrics._modes._DENSE_UP_TO", 10)
    np.testing.assert_allclose(np.linalg.norm(full.T @ spatial_modes(weights, 6)[0], axis=0), 1, atol=1e-3)


@pytest.mark.parametrize("n_modes", [N - 1, 50])
def test_variance_is_that_of_signs_that_are_drawn(modes, n_modes):
    """Two groups, and three of which two have one section each; energies beyond the modes count as their mean."""
    rng = np.random.default_rng(0)
    section = np.repeat([0, 1, 2], N)
    smooth = modes[:, :20] @ rng.normal(size=(20, 3 * 2)) * 2
    values = standardize(np.concatenate(np.split(smooth, 3, axis=1)) + rng.normal(size=(3 * N, 2)) * 0.1, section)
    neighbors = links(rng, section)
    sharing = Sharing(neighbors, section, section, apart(modes[:, :n_modes], 3))
    found = sharing.test(values)
    weight = 1 / N
    both = weight * (neighbors + neighbors.T).toarray() / 2
    statistic = np.einsum("ig,ij,jg->g", values, both, values)
    drawn = []
    for _ in range(3000):
        signs = rng.choice([-1.0, 1.0], (3, N - 1, 1))
        moved = np.concatenate([modes @ (s * (modes.T @ values[section == c])) for c, s in enumerate(signs)])
        drawn.append((moved * (both @ moved)).sum(axis=0))
    np.testing.assert_allclose(found.z, statistic / np.std(drawn, axis=0), rtol=0.06)


def test_which_direction_of_a_wave_is_called_first_makes_no_difference(modes):
    rng = np.random.default_rng(5)
    section = np.repeat([0, 1], N)
    values, neighbors = standardize(rng.normal(size=(2 * N, 5)), section), links(rng, section)
    turned = modes.copy()
    turned[:, :2] = modes[:, :2] @ [[0.6, 0.8], [-0.8, 0.6]]
    wave = np.r_[0, np.arange(N - 2)]
    one, other = (Sharing(neighbors, section, section, [(m, wave)] * 2).test(values).z for m in (modes, turned))
    np.testing.assert_allclose(one, other, rtol=1e-4)


def test_pearson_is_the_mean_over_sections_then_groups(modes):
    rng = np.random.default_rng(1)
    section, group = np.repeat([0, 1, 2], N), np.repeat([0, 0, 1], N)
    values = standardize(rng.normal(size=(3 * N, 4)), section)
    neighbors = links(rng, group)
    found = Sharing(neighbors, section, group, apart(modes, 3)).test(values).pearson
    around = neighbors @ values
    r = [[pearsonr(values[section == s][:, g], around[section == s][:, g])[0] for g in range(4)] for s in range(3)]
    np.testing.assert_allclose(found, ((np.array(r[0]) + r[1]) / 2 + r[2]) / 2, atol=1e-6)


def test_smooth_copies_count_once_and_noise_each_time(modes):
    """One map in four sections of a group says what one says; four independent noises say more."""
    rng = np.random.default_rng(2)
    section, group = np.repeat(np.arange(5), N), np.repeat([0, 0, 0, 0, 1], N)
    one, other = (modes[:, :30] @ rng.normal(size=(30, 500)) for _ in range(2))
    copies = standardize(np.concatenate([one] * 4 + [other]), section)
    image = [modes[:, :10] @ rng.normal(size=(10, 3)) for _ in range(2)]
    nearest = [cKDTree(image[1 - side]).query(image[side], k=8)[1] for side in range(2)]
    rows, section_of = np.arange(5 * N).repeat(8), rng.integers(4, size=(N, 8))
    columns = np.concatenate([*[4 * N + nearest[0].ravel()] * 4, (section_of * N + nearest[1]).ravel()])
    alike = sparse.csr_array((np.full(len(rows), 1 / 8), (rows, columns)), shape=(5 * N, 5 * N))
    parts = apart(modes[:, :40], 5)
    assert 0.85 < Sharing(alike, section, group, parts).test(copies).z.std() < 1.15
    noisy = links(rng, group)
    assert 0.85 < Sharing(noisy, section, group, parts).test(copies).z.std() < 1.15


def test_skewness_of_rare_values_is_accounted_for(modes):
    """Few counts: by chance several fall on neighbors, and a normal distribution calls that significant too often."""
    rng = np.random.default_rng(3)
    section = np.repeat([0, 1], N)
    values = rng.poisson(0.12, size=(2 * N, 20_000)).astype(np.float32)
    values = values[:, ((values[:N] > 0).sum(axis=0) > 5) & ((values[N:] > 0).sum(axis=0) > 5)]
    found = Sharing(links(rng, section), section, section, apart(modes[:, :40], 2)).test(standardize(values, section))
    told = ~np.isnan(found.p)
    assert told.mean() > 0.95
    expected = 0.005 * told.sum()
    assert abs((found.p < 0.005).sum() - expected) < 4 * np.sqrt(expected)
    assert (found.z[told] > 2.5758).sum() > expected + 4 * np.sqrt(expected)  # what a normal distribution would say


def test_genes_of_one_group_and_constant_genes_are_undefined(modes):
    rng = np.random.default_rng(4)
    section = np.repeat([0, 1], N)
    values = standardize(rng.normal(size=(2 * N, 3)), section)
    values[:N, 1] = 0
    values[:, 2] = 0
    found = Sharing(links(rng, section), section, section, apart(modes, 2)).test(values)
    for result in (found.pearson, found.z, found.p):
        assert np.isnan(result).tolist() == [False, True, True]
