"""Preprocessing: tiles, features, normalization, genes."""

from stpredict.pp._image_features import image_features
from stpredict.pp._normalize import normalize
from stpredict.pp._select_genes import select_genes
from stpredict.pp._spatially_variable import spatially_variable

__all__ = ["image_features", "normalize", "select_genes", "spatially_variable"]
