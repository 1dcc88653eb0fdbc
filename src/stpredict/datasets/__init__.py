"""Synthetic data with a known truth."""

from stpredict.datasets._synthetic_cohort import synthetic_cohort

__all__ = ["synthetic_cohort"]
