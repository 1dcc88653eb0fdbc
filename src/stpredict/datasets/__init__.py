"""Synthetic data with a known truth."""

from stpredict.datasets._expected_tiles import expected_tiles
from stpredict.datasets._null_counts import null_counts
from stpredict.datasets._synthetic_cohort import synthetic_cohort
from stpredict.datasets._synthetic_slides import synthetic_slides

__all__ = ["expected_tiles", "null_counts", "synthetic_cohort", "synthetic_slides"]
