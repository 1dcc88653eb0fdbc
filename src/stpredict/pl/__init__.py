"""Plots of what the tools wrote."""

from stpredict.pl._attribution import attribution
from stpredict.pl._blocks import blocks
from stpredict.pl._ceiling import ceiling
from stpredict.pl._compare_models import compare_models
from stpredict.pl._domain_markers import domain_markers
from stpredict.pl._domain_stability import domain_stability
from stpredict.pl._domains import domains
from stpredict.pl._enrichment import enrichment
from stpredict.pl._explore import explore
from stpredict.pl._features import features
from stpredict.pl._forest import forest
from stpredict.pl._gene_pathways import gene_pathways
from stpredict.pl._genes import genes
from stpredict.pl._history import history
from stpredict.pl._learning_curve import learning_curve
from stpredict.pl._maps import maps
from stpredict.pl._module_correlation import module_correlation
from stpredict.pl._nuclei import nuclei
from stpredict.pl._pathway_agreement import pathway_agreement
from stpredict.pl._pathways import pathways
from stpredict.pl._predictability import predictability
from stpredict.pl._rank_genes import rank_genes
from stpredict.pl._replication import replication
from stpredict.pl._scores import scores
from stpredict.pl._slide import slide
from stpredict.pl._spatially_variable import spatially_variable
from stpredict.pl._super_resolved import super_resolved
from stpredict.pl._survival import survival
from stpredict.pl._top_genes import top_genes
from stpredict.pl._uncertainty import uncertainty
from stpredict.pl._well_predicted import well_predicted

__all__ = [
    "attribution",
    "blocks",
    "ceiling",
    "compare_models",
    "domain_markers",
    "domain_stability",
    "domains",
    "enrichment",
    "explore",
    "features",
    "forest",
    "gene_pathways",
    "genes",
    "history",
    "learning_curve",
    "maps",
    "module_correlation",
    "nuclei",
    "pathway_agreement",
    "pathways",
    "predictability",
    "rank_genes",
    "replication",
    "scores",
    "slide",
    "spatially_variable",
    "super_resolved",
    "survival",
    "top_genes",
    "uncertainty",
    "well_predicted",
]
