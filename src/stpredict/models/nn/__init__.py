"""Layers and blocks that networks are built of."""

from stpredict.models.nn._above_lowest import AboveLowest
from stpredict.models.nn._heads import RegressionHead
from stpredict.models.nn._standardize import Standardize

__all__ = ["AboveLowest", "RegressionHead", "Standardize"]
