"""Scores on arrays: truth and prediction in, one value per gene out."""

from stpredict.metrics._batch_mixing import batch_mixing, batch_variance
from stpredict.metrics._benjamini_hochberg import benjamini_hochberg
from stpredict.metrics._bootstrap import bootstrap_mean
from stpredict.metrics._concordance import concordance
from stpredict.metrics._correlation_distance import correlation_distance
from stpredict.metrics._crps import crps, crps_normal
from stpredict.metrics._deviance_explained import deviance_ceiling, deviance_explained
from stpredict.metrics._emd import emd, emd_uniform
from stpredict.metrics._energy_score import energy_score
from stpredict.metrics._interval_coverage import interval_coverage, sample_quantiles
from stpredict.metrics._morans_i import morans_i
from stpredict.metrics._noise_ceiling import noise_ceiling
from stpredict.metrics._partial_pearson import partial_pearson
from stpredict.metrics._pearson import pearson, pearson_p
from stpredict.metrics._pearson_residuals import pearson_residuals
from stpredict.metrics._pearson_with_background import pearson_with_background
from stpredict.metrics._r2 import r2
from stpredict.metrics._rasterize import rasterize
from stpredict.metrics._recall_at_k import recall_at_k
from stpredict.metrics._relative_variance_distance import relative_variance_distance
from stpredict.metrics._residual_ceiling import residual_ceiling
from stpredict.metrics._rmse import mae, mse, rmse, rmse_iqr
from stpredict.metrics._robustness_index import robustness_index
from stpredict.metrics._segmentation import segmentation
from stpredict.metrics._spearman import spearman
from stpredict.metrics._ssim import ssim
from stpredict.metrics._steiger_z import steiger_z
from stpredict.metrics._variance_ratio import variance_ratio
from stpredict.metrics._williams_t import williams_t

__all__ = [
    "batch_mixing",
    "batch_variance",
    "benjamini_hochberg",
    "bootstrap_mean",
    "concordance",
    "correlation_distance",
    "crps",
    "crps_normal",
    "deviance_ceiling",
    "deviance_explained",
    "emd",
    "emd_uniform",
    "energy_score",
    "interval_coverage",
    "mae",
    "morans_i",
    "mse",
    "noise_ceiling",
    "partial_pearson",
    "pearson",
    "pearson_p",
    "pearson_residuals",
    "pearson_with_background",
    "r2",
    "rasterize",
    "recall_at_k",
    "relative_variance_distance",
    "residual_ceiling",
    "rmse",
    "rmse_iqr",
    "robustness_index",
    "sample_quantiles",
    "segmentation",
    "spearman",
    "ssim",
    "steiger_z",
    "variance_ratio",
    "williams_t",
]
