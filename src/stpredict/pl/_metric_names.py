"""What scores are called in figures."""

from __future__ import annotations

_NAMES = {
    "pearson": "Pearson's r",
    "pearson_given_depth": "Pearson's r given depth",
    "pearson_residual": "Pearson's r of residuals",
    "deviance_explained": "deviance explained",
    "spearman": "Spearman's ρ",
    "rmse": "RMSE",
    "rmse_iqr": "RMSE / interquartile range",
    "variance_ratio": "predicted / measured variance",
    "ssim": "SSIM",
    "emd": "earth mover's distance",
    "crps": "CRPS",
    "coverage_90": "coverage of the 90 % interval",
}


def metric_name(metric: str) -> str:
    """Name of a score as it stands at an axis."""
    return _NAMES.get(metric, metric.replace("_", " "))
