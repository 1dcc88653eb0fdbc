"""Bulk expression and survival that follow from the tissue of slides. Arrays in, arrays out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from stpredict.datasets._expression import FLAT, blocks_of_genes
from stpredict.datasets._mixture import contact_of_slide, core_of_tiles
from stpredict.datasets._tissue import CLASSES

PROGRAMS = (*CLASSES, "response", "hypoxia")
_PREFIXES = {
    "tumor": "TUM",
    "stroma": "STR",
    "immune": "IMM",
    "fat": "FAT",
    "response": "RESP",
    "hypoxia": "HYP",
    FLAT: "FLAT",
}
_GENE_TYPES = {"protein_coding": 0.8, "lncRNA": 0.1, "miRNA": 0.04, "processed_pseudogene": 0.04, "misc_RNA": 0.02}
_HIGHEST = 12.0  # log2
# Mean and SD of the covariates between patients, and their correlations, for sections of the default size. Constants,
# so that the survival of a patient does not depend on who else is in the cohort.
COVARIATES = ("tumor", "immune", "contact")
_MEAN = np.array([0.37, 0.20, 0.24])
_SD = np.array([0.216, 0.185, 0.191])
_CORRELATION = np.array([[1.0, -0.39, 0.06], [-0.39, 1.0, 0.55], [0.06, 0.55, 1.0]])
_SHAPE, _MONTHS = 1.4, 60.0


@dataclass(frozen=True)
class BulkGenes:
    """Genes of a bulk cohort.

    Attributes
    ----------
    names, gene_type, program
        (n_genes,) unique names, biotype, and what the gene responds to (`"flat"`: nothing).
    profile
        (n_genes, 4) expression of each class, linear.
    context
        (n_genes, 2) how much contact of tumor and immune cells, and the core of tumor nests, multiply it.
    """

    names: np.ndarray
    gene_type: np.ndarray
    program: np.ndarray
    profile: np.ndarray
    context: np.ndarray

    @property
    def signal(self) -> np.ndarray:
        """Whether each gene depends on the tissue (n_genes,)."""
        return self.program != FLAT


def draw_bulk_genes(n_genes: int, signal_fraction: float, interaction: float, rng: np.random.Generator) -> BulkGenes:
    """Draw the genes: equal blocks for each program, then genes without signal."""
    program, names = blocks_of_genes(n_genes, signal_fraction, (*PROGRAMS, FLAT), _PREFIXES)
    ends = np.round(np.cumsum(list(_GENE_TYPES.values())) * n_genes).astype(int)
    gene_type = np.repeat(np.array(list(_GENE_TYPES)), np.diff(ends, prepend=0))[rng.permutation(n_genes)]

    base = np.clip(rng.normal(4.6, 1.8, n_genes) - 1.2 * (gene_type != "protein_coding"), 0.3, 8)
    own = np.clip(rng.normal(2.8, 0.6, n_genes), 1.4, None)
    profile = rng.normal(0, 0.3, (n_genes, len(CLASSES)))
    home = {**{name: (name, 1.0) for name in CLASSES}, "response": ("immune", 0.4), "hypoxia": ("tumor", 0.25)}
    for name, (place, factor) in home.items():
        profile[program == name, CLASSES.index(place)] = factor * own[program == name]
    profile[program == FLAT] = 0
    profile = 2 ** np.minimum(profile + base[:, None], _HIGHEST)
    strength = interaction * 10 * np.exp(rng.normal(0, 0.25, n_genes))
    context = np.column_stack([strength * (program == "response"), strength * (program == "hypoxia")])
    return BulkGenes(np.array(names), gene_type, program, profile, context)


def tile_expression(composition: np.ndarray, profile: np.ndarray, context: np.ndarray) -> np.ndarray:
    """Expected expression of the tissue of each tile, linear.

    Parameters
    ----------
    composition
        (rows, columns, 4) shares of the area of all tiles of one slide.
    profile, context
        (n_genes, 4) and (n_genes, 2), see `BulkGenes`.

    Returns
    -------
    (rows, columns, n_genes); NaN where a tile holds no tissue.
    """
    area = composition.astype(float)
    tissue = area.sum(axis=-1, keepdims=True)
    factor = 1 + contact_of_slide(composition) * context[:, 0] + core_of_tiles(composition)[..., None] * context[:, 1]
    expected = (area @ profile.T) * factor
    return np.divide(expected, tissue, out=np.full(expected.shape, np.nan), where=tissue > 0)


def bulk_expression(composition: np.ndarray, genes: BulkGenes) -> np.ndarray:
    """Expected expression of a slide (n_genes,), linear: the mean over its tissue of `tile_expression`."""
    area = composition.astype(float)
    sums = area.sum(axis=(0, 1))
    core = (area * core_of_tiles(composition)[..., None]).sum(axis=(0, 1))
    mixed = (genes.profile @ sums) * (1 + contact_of_slide(composition) * genes.context[:, 0])
    return (mixed + genes.context[:, 1] * (genes.profile @ core)) / max(sums.sum(), 1e-9)


def draw_bulk(
    expected: np.ndarray, noise: float, batch: float, loading: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Draw the measured profile of a patient around the expected one (n_genes,): errors in log2(x + 1).

    `noise` is the SD of the error of each gene by itself, `batch` that of an error which genes share with the given
    loadings (n_genes,).
    """
    error = rng.normal(0, 1, len(expected)) * noise + rng.normal() * batch * loading
    return np.clip(2 ** (np.log2(expected + 1) + error) - 1, 0, None)


def log_hazard(covariates: np.ndarray, effects: np.ndarray) -> float:
    """Log hazard of a patient from (3,) `COVARIATES`, with `effects` (3,) per standard deviation."""
    return float((covariates - _MEAN) / _SD @ effects)


def draw_survival(hazard: float, effects: np.ndarray, censoring: float, rng: np.random.Generator) -> tuple[float, bool]:
    """Draw the time in months and whether the event was seen: Weibull with proportional hazards.

    Time to censoring has the same shape and no relation to the tissue; its rate makes the expected share censored
    equal to `censoring` when log hazards are normal.
    """
    event, censored = rng.exponential(1, 2)
    event /= np.exp(hazard)
    censored = censored / _censoring_rate(effects, censoring) if censoring > 0 else np.inf
    time = _MONTHS * min(event, censored) ** (1 / _SHAPE)
    return max(float(time), 1e-3), bool(event <= censored)


def _censoring_rate(effects: np.ndarray, censoring: float) -> float:
    from scipy.optimize import brentq

    node, weight = np.polynomial.hermite_e.hermegauss(41)
    risk = np.exp(node * np.sqrt(effects @ _CORRELATION @ effects))

    def excess(log_rate: float) -> float:
        rate = np.exp(log_rate)
        return float(weight @ (rate / (rate + risk)) / weight.sum() - censoring)

    return float(np.exp(brentq(excess, -60, 60)))
