"""Counts that follow from tissue: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from stpredict.datasets._tissue import CLASSES

FLAT = "flat"
_PREFIXES = {"tumor": "TUM", "stroma": "STR", "immune": "IMM", "fat": "FAT", FLAT: "FLAT"}
_HOUSEKEEPING = ("RPL3", "RPLP0", "MT-CO1", "MT-ND1")


@dataclass(frozen=True)
class Genes:
    """Genes of a cohort.

    Attributes
    ----------
    names
        (n_genes,) unique names.
    program
        (n_genes,) class that each gene marks, or `"flat"`.
    log_abundance
        (n_genes,) log of the relative abundance where no class prevails.
    loadings
        (n_genes, 4) change of the log rate per unit of each class; 0 for flat genes.
    context
        (n_genes, 4) the same for the surroundings.
    """

    names: np.ndarray
    program: np.ndarray
    log_abundance: np.ndarray
    loadings: np.ndarray
    context: np.ndarray

    @property
    def signal(self) -> np.ndarray:
        """Whether each gene depends on the tissue (n_genes,)."""
        return self.program != FLAT


def blocks_of_genes(
    n_genes: int, signal_fraction: float, programs: Sequence[str], prefixes: Mapping[str, str]
) -> tuple[np.ndarray, list[str]]:
    """Program and name of each gene: equal blocks of those with signal, and the last program for all others."""
    n_signal = round(n_genes * signal_fraction)
    blocks = np.array_split(np.arange(n_signal), len(programs) - 1)
    sizes = [len(block) for block in blocks] + [n_genes - n_signal]
    names = [f"{prefixes[name]}{i + 1:03d}" for name, size in zip(programs, sizes, strict=True) for i in range(size)]
    return np.repeat(np.array(programs), sizes), names


def draw_genes(n_genes: int, signal_fraction: float, neighborhood: float, rng: np.random.Generator) -> Genes:
    """Draw the genes: equal blocks of markers for each class, then genes without signal."""
    program, names = blocks_of_genes(n_genes, signal_fraction, (*CLASSES, FLAT), _PREFIXES)
    if (program == FLAT).sum() >= 2 * len(_HOUSEKEEPING):
        names[-len(_HOUSEKEEPING) :] = _HOUSEKEEPING
    abundance = rng.normal(0, 0.8, n_genes)
    loadings = rng.normal(0, 0.3, (n_genes, len(CLASSES)))
    own = np.clip(rng.normal(1.8, 0.4, n_genes), 0.8, None)
    context = rng.normal(0, 1, (n_genes, len(CLASSES))) * neighborhood
    for_class = program[:, None] == np.array(CLASSES)
    loadings = np.where(for_class, own[:, None], loadings)
    flat = program == FLAT
    loadings[flat], context[flat] = 0, 0
    return Genes(np.array(names), program, abundance, loadings, context)


def shares(genes: Genes, composition: np.ndarray, surroundings: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Expected share of each gene in the counts of a spot.

    The rate of a gene with signal is log-linear in composition and surroundings. The genes with signal share a fixed
    part of all counts, so that a flat gene keeps its share wherever the spot lies, also after normalization by total.

    Parameters
    ----------
    composition, surroundings
        (n, 4) shares of the classes in the spot and around it.
    offset
        (n_genes,) shift of the log rate in this patient; flat genes have none.

    Returns
    -------
    (n, n_genes), rows sum to 1.
    """
    base = np.exp(genes.log_abundance)
    base = base / base.sum()
    signal = genes.signal
    result = np.tile(base, (len(composition), 1))
    if signal.any():
        log_rate = composition @ genes.loadings[signal].T + surroundings @ genes.context[signal].T + offset[signal]
        rate = base[signal] * np.exp(log_rate - log_rate.max(axis=1, keepdims=True))
        result[:, signal] = rate / rate.sum(axis=1, keepdims=True) * base[signal].sum()
    return result


def _gamma(dispersion: float, size: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    """Gamma factors of mean 1 and variance `dispersion`."""
    return rng.gamma(1 / dispersion, dispersion, size) if dispersion > 0 else np.ones(size)


def draw_counts(
    morphology: np.ndarray, signal: np.ndarray, dispersion: float, depth_dispersion: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw counts around an expectation.

    Parameters
    ----------
    morphology
        (n, n_genes) expected counts at mean depth.
    signal
        (n_genes,) genes with variation of their own.
    dispersion, depth_dispersion
        Squared coefficients of variation of a gene's own variation, and of a spot's capture efficiency.

    Returns
    -------
    Counts (n, n_genes), their Poisson rate (n, n_genes), and the capture efficiency (n,) with mean 1.
    """
    efficiency = _gamma(depth_dispersion, (len(morphology),), rng)
    biology = np.ones(morphology.shape)
    biology[:, signal] = _gamma(dispersion, (len(morphology), int(signal.sum())), rng)
    rate = morphology * efficiency[:, None] * biology
    return rng.poisson(rate), rate, efficiency
