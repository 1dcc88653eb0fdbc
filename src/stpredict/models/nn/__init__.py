"""Layers and blocks that networks are built of."""

from stpredict.models.nn._heads import RegressionHead
from stpredict.models.nn._standardize import Standardize

__all__ = ["RegressionHead", "Standardize"]
