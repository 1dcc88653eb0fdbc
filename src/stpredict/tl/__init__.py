"""Tools: fit, predict, evaluate, and what follows from a prediction."""

from stpredict.tl.biology._cnv import cnv
from stpredict.tl.biology._domain_markers import domain_markers
from stpredict.tl.biology._domain_stability import domain_stability
from stpredict.tl.biology._domains import domains
from stpredict.tl.biology._enrich import enrich
from stpredict.tl.biology._pathway_scores import pathway_scores
from stpredict.tl.biology._subtypes import subtypes
from stpredict.tl.explain._attribution import attribution
from stpredict.tl.explain._predictability import predictability
from stpredict.tl.explain._regulatory_mask import regulatory_mask
from stpredict.tl.judge._batch_mixing import batch_mixing
from stpredict.tl.judge._cluster_agreement import cluster_agreement
from stpredict.tl.judge._compare_models import compare_models
from stpredict.tl.judge._compare_to_st import compare_to_st
from stpredict.tl.judge._conformal import conformal
from stpredict.tl.judge._de_overlap import de_overlap
from stpredict.tl.judge._domain_agreement import domain_agreement
from stpredict.tl.judge._emd import emd
from stpredict.tl.judge._evaluate import evaluate
from stpredict.tl.judge._hazard_ratios import hazard_ratios
from stpredict.tl.judge._module_correlation import ModuleCorrelation, module_correlation
from stpredict.tl.judge._noise_ceiling import noise_ceiling
from stpredict.tl.judge._pathway_agreement import pathway_agreement
from stpredict.tl.judge._pseudobulk import pseudobulk
from stpredict.tl.judge._pseudobulk_agreement import pseudobulk_agreement
from stpredict.tl.judge._recall_at_k import recall_at_k
from stpredict.tl.judge._replication import Replication, replication
from stpredict.tl.judge._robustness import robustness
from stpredict.tl.judge._segmentation import segmentation
from stpredict.tl.judge._summarize import summarize
from stpredict.tl.judge._super_resolution_agreement import super_resolution_agreement
from stpredict.tl.judge._survival import survival
from stpredict.tl.judge._well_predicted import well_predicted
from stpredict.tl.learn._align import align
from stpredict.tl.learn._cross_validate import cross_validate
from stpredict.tl.learn._embed import embed
from stpredict.tl.learn._fit import fit
from stpredict.tl.learn._fit_folds import fit_folds
from stpredict.tl.learn._gene_descriptors import gene_descriptors
from stpredict.tl.learn._learning_curve import learning_curve
from stpredict.tl.learn._linear_probe import linear_probe
from stpredict.tl.learn._predict import predict
from stpredict.tl.learn._retrieval_bank import retrieval_bank
from stpredict.tl.learn._stain_effect import StainEffect, stain_effect
from stpredict.tl.learn._suggest import suggest
from stpredict.tl.learn._super_resolve import super_resolve
from stpredict.tl.outcomes._donor_probe import donor_probe
from stpredict.tl.outcomes._fit_outcome import fit_outcome
from stpredict.tl.outcomes._nearest_centroid import nearest_centroid
from stpredict.tl.outcomes._predict_outcome import predict_outcome
from stpredict.tl.outcomes._result import OutcomeResult
from stpredict.tl.outcomes._risk_score import risk_score
from stpredict.tl.outcomes._signature import signature
from stpredict.tl.outcomes._signature_coverage import signature_coverage
from stpredict.tl.outcomes._signature_table import Signature

__all__ = [
    "ModuleCorrelation",
    "OutcomeResult",
    "Replication",
    "Signature",
    "StainEffect",
    "align",
    "attribution",
    "batch_mixing",
    "cluster_agreement",
    "cnv",
    "compare_models",
    "compare_to_st",
    "conformal",
    "cross_validate",
    "de_overlap",
    "domain_agreement",
    "domain_markers",
    "domain_stability",
    "domains",
    "donor_probe",
    "embed",
    "emd",
    "enrich",
    "evaluate",
    "fit",
    "fit_folds",
    "fit_outcome",
    "gene_descriptors",
    "hazard_ratios",
    "learning_curve",
    "linear_probe",
    "module_correlation",
    "nearest_centroid",
    "noise_ceiling",
    "pathway_agreement",
    "pathway_scores",
    "predict",
    "predict_outcome",
    "predictability",
    "pseudobulk",
    "pseudobulk_agreement",
    "recall_at_k",
    "regulatory_mask",
    "replication",
    "retrieval_bank",
    "risk_score",
    "robustness",
    "segmentation",
    "signature",
    "signature_coverage",
    "stain_effect",
    "subtypes",
    "summarize",
    "suggest",
    "super_resolution_agreement",
    "super_resolve",
    "survival",
    "well_predicted",
]
