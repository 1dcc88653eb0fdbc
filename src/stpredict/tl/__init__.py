"""Tools: fit, predict, evaluate, and what follows from a prediction."""

from stpredict.tl._attribution import attribution
from stpredict.tl._cluster_agreement import cluster_agreement
from stpredict.tl._cnv import cnv
from stpredict.tl._compare_to_st import compare_to_st
from stpredict.tl._conformal import conformal
from stpredict.tl._cross_validate import cross_validate
from stpredict.tl._de_overlap import de_overlap
from stpredict.tl._domain_agreement import domain_agreement
from stpredict.tl._domains import domains
from stpredict.tl._emd import emd
from stpredict.tl._evaluate import evaluate
from stpredict.tl._fit import fit
from stpredict.tl._fit_folds import fit_folds
from stpredict.tl._fit_outcome import fit_outcome
from stpredict.tl._noise_ceiling import noise_ceiling
from stpredict.tl._outcome_result import OutcomeResult
from stpredict.tl._predict import predict
from stpredict.tl._predict_outcome import predict_outcome
from stpredict.tl._pseudobulk import pseudobulk
from stpredict.tl._pseudobulk_agreement import pseudobulk_agreement
from stpredict.tl._retrieval_bank import retrieval_bank
from stpredict.tl._segmentation import segmentation
from stpredict.tl._summarize import summarize
from stpredict.tl._survival import survival
from stpredict.tl._well_predicted import well_predicted

__all__ = [
    "OutcomeResult",
    "attribution",
    "cluster_agreement",
    "cnv",
    "compare_to_st",
    "conformal",
    "cross_validate",
    "de_overlap",
    "domain_agreement",
    "domains",
    "emd",
    "evaluate",
    "fit",
    "fit_folds",
    "fit_outcome",
    "noise_ceiling",
    "predict",
    "predict_outcome",
    "pseudobulk",
    "pseudobulk_agreement",
    "retrieval_bank",
    "segmentation",
    "summarize",
    "survival",
    "well_predicted",
]
