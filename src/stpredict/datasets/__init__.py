"""Synthetic data with a known truth, and public data with one call."""

from stpredict.datasets._expected_tiles import expected_tiles
from stpredict.datasets._her2st import her2st
from stpredict.datasets._null_counts import null_counts
from stpredict.datasets._synthetic_cohort import synthetic_cohort
from stpredict.datasets._synthetic_genes import synthetic_genes
from stpredict.datasets._synthetic_nuclei import synthetic_nuclei
from stpredict.datasets._synthetic_slides import synthetic_slides
from stpredict.datasets._visium import visium

__all__ = [
    "expected_tiles",
    "her2st",
    "null_counts",
    "synthetic_cohort",
    "synthetic_genes",
    "synthetic_nuclei",
    "synthetic_slides",
    "visium",
]
