import numpy as np
import pytest
from scipy import stats

from stpredict.metrics import pearson, steiger_z, williams_t

TESTS = [williams_t, steiger_z]


def random_triples(n_triples=500, n=20, seed=0):
    """Correlations that data have, from strongly dependent to nearly free."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n, n_triples))
    shared = rng.normal(size=(n, n_triples))
    first = rng.uniform(-1, 1, n_triples) * truth + shared + 0.3 * rng.normal(size=truth.shape)
    second = (
        rng.uniform(-1, 1, n_triples) * truth + rng.uniform(-1, 1, n_triples) * shared + rng.normal(size=truth.shape)
    )
    return pearson(truth, first), pearson(truth, second), pearson(first, second)


# Published or printed by other software: Silver, Hittner & May (2006, DEPCOR) at (.3, .4, .5, 100), as kept in the
# validation tests of R's cocor; Steiger (1980, case A, p. 249) at (.4, .5, .1, 103), T2 = -.89 in psych::r.test;
# bruceR::cor_diff at (.20, .45, .80, 100).
@pytest.mark.parametrize(
    ("triple", "statistic", "p"),
    [((0.3, 0.4, 0.5, 100), -1.0767, 0.2843), ((0.4, 0.5, 0.1, 103), -0.8913, None), ((0.2, 0.45, 0.8, 100), -4.56, 1e-5)],
)  # fmt: skip
def test_williams_published(triple, statistic, p):
    t, found = williams_t(*triple, alternative="two-sided")
    assert round(float(t), len(str(abs(statistic)).split(".")[1])) == statistic
    assert p is None or float(found) == pytest.approx(p, abs=5e-5 if p > 1e-4 else 5e-6)


# cocor computes -0.8887185 for Steiger's case A from unrounded intermediate values.
@pytest.mark.parametrize(
    ("triple", "statistic", "p"), [((0.3, 0.4, 0.5, 100), -1.0718, 0.2838), ((0.4, 0.5, 0.1, 103), -0.8887185, None)]
)
def test_steiger_published(triple, statistic, p):
    z, found = steiger_z(*triple, alternative="two-sided")
    assert round(float(z), len(str(abs(statistic)).split(".")[1])) == statistic
    assert p is None or float(found) == pytest.approx(p, abs=5e-5)


def test_williams_formula():
    r1, r2, r12 = random_triples()
    n = 20
    det = 1 - r1**2 - r2**2 - r12**2 + 2 * r1 * r2 * r12
    mean = (r1 + r2) / 2
    t = (r1 - r2) * np.sqrt((n - 1) * (1 + r12) / (2 * (n - 1) / (n - 3) * det + mean**2 * (1 - r12) ** 3))
    found, p = williams_t(r1, r2, r12, n)
    np.testing.assert_allclose(found, t, rtol=1e-8)
    np.testing.assert_allclose(p, stats.t.sf(t, n - 3), rtol=1e-7)


def test_steiger_formula():
    r1, r2, r12 = random_triples()
    n, mean = 20, (r1 + r2) / 2
    psi = r12 * (1 - 2 * mean**2) - 0.5 * mean**2 * (1 - 2 * mean**2 - r12**2)
    z = (np.arctanh(r1) - np.arctanh(r2)) * np.sqrt((n - 3) / (2 - 2 * psi / (1 - mean**2) ** 2))
    found, p = steiger_z(r1, r2, r12, n)
    np.testing.assert_allclose(found, z, rtol=1e-8)
    np.testing.assert_allclose(p, stats.norm.sf(z), rtol=1e-7)


@pytest.mark.parametrize("test", TESTS)
def test_sign_and_alternatives(test):
    r1, r2, r12 = random_triples()
    statistic, greater = test(r1, r2, r12, 20)
    swapped, less = test(r2, r1, r12, 20, alternative="less")
    np.testing.assert_allclose(swapped, -statistic)
    np.testing.assert_allclose(less, greater)
    np.testing.assert_allclose(test(r1, r2, r12, 20, alternative="less")[1], 1 - greater, atol=1e-12)
    np.testing.assert_allclose(
        test(r1, r2, r12, 20, alternative="two-sided")[1], 2 * np.minimum(greater, 1 - greater), atol=1e-12
    )
    # A prediction that is worse is never significant, however much worse.
    assert (greater[r1 < r2] > 0.5).all()


@pytest.mark.parametrize("test", TESTS)
def test_level_without_a_difference(test):
    """Two predictions of one quality that share half their noise: 5 % of the tests reject at 5 %."""
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(30, 20_000))
    shared = rng.normal(size=truth.shape)
    first, second = (0.5 * truth + shared + rng.normal(size=truth.shape) for _ in range(2))
    p = test(pearson(truth, first), pearson(truth, second), pearson(first, second), 30)[1]
    assert 0.044 < (p < 0.05).mean() < 0.056


@pytest.mark.parametrize("test", TESTS)
def test_degenerate(test):
    def both(*args):
        statistic, p = test(*args)
        return float(statistic), float(p)

    assert both(0.5, 0.5, 1.0, 10) == (0.0, 0.5)
    assert both(1.0, 1.0, 1.0, 10) == (0.0, 0.5)
    # Equal up to the rounding of correlations: no difference, not an infinite one.
    assert both(0.5, 0.5 - 1e-9, 1.0, 10) == (0.0, 0.5)
    assert both(1.0, -1.0, -1.0, 10) == (np.inf, 0.0)
    assert both(-1.0, 1.0, -1.0, 10) == (-np.inf, 1.0)
    statistic, p = both(1.0, 0.3, 0.3, 10)
    assert statistic > 3
    assert p < 0.01
    # A determinant below 0 by the rounding of single precision, and one that no data have.
    assert np.isfinite(both(0.9, np.float32(0.3), 0.9 * 0.3 + np.sqrt(0.19 * 0.91) + 1e-7, 10)).all()
    for impossible in [(0.9, -0.9, 0.9, 10), (1.2, 0.1, 0.1, 10), (0.1, 0.1, -1.1, 10)]:
        assert np.isnan(both(*impossible)).all()
    for few in (0, 2, 3):
        assert np.isnan(both(0.5, 0.2, 0.1, few)).all()
    assert np.isfinite(both(0.5, 0.2, 0.1, 4)).all()


@pytest.mark.parametrize("test", TESTS)
def test_mirror_image_is_the_limit(test):
    at, near = test(0.5, -0.5, -1.0, 12)[0], test(0.5, -0.5, -1 + 1e-9, 12)[0]
    assert float(at) == pytest.approx(float(near), rel=1e-6)


@pytest.mark.parametrize("test", TESTS)
def test_undefined_genes_do_not_touch_their_neighbors(test):
    r1, r2, r12 = random_triples(5)
    expected = test(r1, r2, r12, 20)
    for position, values in enumerate((r1, r2, r12)):
        values[position] = np.nan
    found = test(r1, r2, r12, 20)
    for f, e in zip(found, expected, strict=True):
        assert np.isnan(f[:3]).all()
        np.testing.assert_array_equal(f[3:], e[3:])


@pytest.mark.parametrize("test", TESTS)
def test_shapes(test):
    statistic, p = test(np.full((2, 3), 0.4), 0.2, 0.1, np.array([10, 20, 30]))
    assert statistic.shape == p.shape == (2, 3)
    assert (np.diff(statistic[0]) > 0).all()
    assert test([], [], [], 10)[0].shape == (0,)
    with pytest.raises(ValueError, match="broadcast"):
        test(np.ones(2), np.ones(3), 0.5, 10)
    with pytest.raises(ValueError, match="alternative"):
        test(0.4, 0.2, 0.1, 10, alternative="more")
