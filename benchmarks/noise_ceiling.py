"""Noise ceiling: estimate beside the truth on simulated counts whose rates are known.

Columns: the mean over genes with signal of the true correlation and the error of the mean estimate; the root of the
mean square of the truth and the error of its estimate; the mean estimate for genes of constant proportion (truth 0);
the root mean square error of one gene.
Genes seen in fewer than a tenth of the spots are left out, as they are from panels.
"""

from __future__ import annotations

import numpy as np

from stpredict.metrics._log_normalize import log_normalize
from stpredict.metrics._noise_ceiling import noise_ceiling

_REPLICATES = {200: 12, 1000: 3, 5000: 1}


def simulate(
    rng: np.random.Generator, n: int, n_genes: int, depth: float, spread: float, coupling: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts, true proportions and the mask of genes without signal."""
    base = rng.lognormal(0, 1.5, n_genes)
    base /= base.sum()
    programs = rng.normal(size=(n, 4))
    programs[:, 0] = rng.random(n) < 0.3
    loadings = 0.5 * rng.normal(size=(4, n_genes)) * (rng.random((4, n_genes)) < 0.5)
    loadings[:, rng.random(n_genes) < 0.3] = 0
    constant = (loadings == 0).all(axis=0)
    proportions = base * np.exp(programs @ loadings)
    varying = proportions[:, ~constant]
    proportions[:, ~constant] = varying * ((1 - base[constant].sum()) / varying.sum(axis=1))[:, None]
    depths = depth * rng.lognormal(0, spread, n) * np.exp(coupling * programs[:, 1])
    return rng.poisson(proportions * depths[:, None]), proportions, constant


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


def main() -> None:
    rng = np.random.default_rng(0)
    settings = (("equal", 0.0, 0.0), ("lognormal", 0.6, 0.0), ("by tissue", 0.6, 0.4))
    print("depths     spots genes counts |  mean  error |   rms  error | constant | one gene")
    for name, spread, coupling in settings:
        for n in (150, 300, 1000):
            for n_genes, replicates in _REPLICATES.items():
                for depth in (500, 3000, 10_000):
                    truths, estimates, constants = [], [], []
                    for _ in range(replicates):
                        counts, proportions, constant = simulate(rng, n, n_genes, depth, spread, coupling)
                        seen = (counts > 0).mean(axis=0) >= 0.1
                        measured = log_normalize(counts, counts.sum(axis=1), 1e4)
                        varying = seen & ~constant
                        truths.append(correlation(np.log1p(1e4 * proportions[:, varying]), measured[:, varying]))
                        estimates.append(noise_ceiling(counts, genes=varying, seed=rng))
                        constants.append(noise_ceiling(counts, genes=seen & constant, seed=rng))
                    truth, estimate, constant = map(np.concatenate, (truths, estimates, constants))
                    square = np.sqrt(np.mean(truth * np.abs(truth)))
                    square_error = np.sqrt(max(0.0, np.mean(estimate * np.abs(estimate)))) - square
                    print(
                        f"{name:10} {n:5d} {n_genes:5d} {depth:6d} | {truth.mean():.3f} {(estimate - truth).mean():+.3f} | "
                        f"{square:.3f} {square_error:+.3f} |   {constant.mean():+.3f} | {np.sqrt(np.mean((estimate - truth) ** 2)):.3f}",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
