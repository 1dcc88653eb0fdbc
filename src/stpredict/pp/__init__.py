"""Preprocessing: tiles, features, normalization, genes."""

from stpredict.pp._as_genes import as_genes
from stpredict.pp._as_slides import as_slides
from stpredict.pp._bag import bag
from stpredict.pp._boundary_features import boundary_features
from stpredict.pp._dense_features import dense_features
from stpredict.pp._dna_features import dna_features
from stpredict.pp._filter_genes import filter_genes
from stpredict.pp._gene_prompts import gene_prompts
from stpredict.pp._gene_table import gene_table
from stpredict.pp._grid import grid
from stpredict.pp._image_features import image_features
from stpredict.pp._log_vmr import log_vmr
from stpredict.pp._neighbor_features import neighbor_features
from stpredict.pp._normalize import normalize
from stpredict.pp._normalize_stain import normalize_stain
from stpredict.pp._nuclei import nuclei
from stpredict.pp._nuclei_features import nuclei_features
from stpredict.pp._patches import patches
from stpredict.pp._published_target import published_target
from stpredict.pp._select_genes import select_genes
from stpredict.pp._spatially_variable import spatially_variable
from stpredict.pp._stain_reference import stain_reference
from stpredict.pp._tiles import tiles
from stpredict.pp._tissue import tissue
from stpredict.slots._dense_map import DenseMap
from stpredict.slots._stain import StainReference

__all__ = [
    "DenseMap",
    "StainReference",
    "as_genes",
    "as_slides",
    "bag",
    "boundary_features",
    "dense_features",
    "dna_features",
    "filter_genes",
    "gene_prompts",
    "gene_table",
    "grid",
    "image_features",
    "log_vmr",
    "neighbor_features",
    "normalize",
    "normalize_stain",
    "nuclei",
    "nuclei_features",
    "patches",
    "published_target",
    "select_genes",
    "spatially_variable",
    "stain_reference",
    "tiles",
    "tissue",
]
