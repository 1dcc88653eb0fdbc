from __future__ import annotations

import numpy as np
import pytest

from stpredict.datasets._expression import draw_counts, draw_genes, shares


def test_shares_are_log_linear():
    rng = np.random.default_rng(0)
    genes = draw_genes(40, 0.8, 1.0, rng)
    composition, surroundings = rng.dirichlet(np.ones(4), (2, 30))
    offset = rng.normal(0, 0.2, 40)
    found = shares(genes, composition, surroundings, offset)
    np.testing.assert_allclose(found.sum(axis=1), 1)
    signal = genes.signal
    # The normalizer is common to the genes of a spot: differences of log rates between genes are exactly linear.
    log_rate = genes.log_abundance + composition @ genes.loadings.T + surroundings @ genes.context.T + offset
    difference = np.log(found[:, signal]) - log_rate[:, signal]
    np.testing.assert_allclose(difference - difference[:, :1], 0, atol=1e-10)
    np.testing.assert_allclose(found[:, ~signal], np.broadcast_to(found[0, ~signal], (30, 8)))


def test_loadings_of_markers():
    genes = draw_genes(80, 0.75, 0, np.random.default_rng(0))
    assert genes.signal.sum() == 60
    assert (genes.loadings[genes.program == "immune"].argmax(axis=1) == 2).mean() > 0.9
    assert (genes.loadings[~genes.signal] == 0).all()
    assert (genes.context == 0).all()


@pytest.mark.parametrize("dispersion", [0.0, 0.3])
def test_negative_binomial_variance(dispersion):
    mean = np.array([2.0, 10.0, 40.0, 10.0])
    signal = np.array([True, True, True, False])
    morphology = np.tile(mean, (60_000, 1))
    counts, rate, efficiency = draw_counts(morphology, signal, dispersion, 0, np.random.default_rng(0))
    assert (efficiency == 1).all()
    np.testing.assert_allclose(counts.mean(axis=0), mean, rtol=0.02)
    expected = mean + np.where(signal, dispersion, 0) * mean**2
    np.testing.assert_allclose(counts.var(axis=0), expected, rtol=0.04)
    np.testing.assert_allclose(rate[:, 3], 10)


def test_efficiency_is_shared_by_the_genes_of_a_spot():
    morphology = np.full((50_000, 2), 20.0)
    counts, rate, efficiency = draw_counts(morphology, np.zeros(2, bool), 0.3, 0.25, np.random.default_rng(0))
    assert efficiency.mean() == pytest.approx(1, rel=0.02)
    assert efficiency.var() == pytest.approx(0.25, rel=0.05)
    np.testing.assert_allclose(rate, morphology * efficiency[:, None])
    assert np.cov(counts.T)[0, 1] == pytest.approx(0.25 * 400, rel=0.05)
