"""Between the scales of expression: the rate of a gene per count, log1p values, and Pearson residuals."""

from __future__ import annotations

import numpy as np

from stpredict.metrics._noise_ceiling import expected_log1p

#: A rate may be so many times lower or higher than the proportion of its gene in the section.
LARGEST_RATIO = 10.0
_N_RATES, _N_DEPTHS = 160, 16


def log1p_curve(depth: np.ndarray, target_sum: float) -> tuple[np.ndarray, np.ndarray]:
    r"""Mean log1p value of a gene over observations, as a function of its rate.

    For Poisson counts of rate :math:`\lambda` per count, :math:`F(\lambda) = \frac{1}{n} \sum_i E[\log(1 + T x_i / n_i)]`
    with :math:`x_i \sim \mathrm{Poisson}(n_i \lambda)`. It increases strictly and is the same for every gene, so that it
    can be inverted: a mean log1p value belongs to one rate, however few the counts.

    Parameters
    ----------
    depth
        Depths `(n,)` of the observations of a section; those of 0 are left out.
    target_sum
        Total that counts are scaled to before log1p.

    Returns
    -------
    Rates, ascending from 0 to 1, and their mean log1p values.
    """
    depths = np.asarray(depth, dtype=np.float64)
    depths = depths[depths > 0]
    if not len(depths):
        raise ValueError("expected observations with counts; found none")
    # Quantiles in the middle of equal shares stand for all observations.
    shown = np.quantile(depths, (np.arange(_N_DEPTHS) + 0.5) / _N_DEPTHS) if len(depths) > _N_DEPTHS else depths
    rates = np.geomspace(1e-3 / depths.sum(), 1.0, _N_RATES)
    values = np.mean([expected_log1p(rates * d, target_sum / d) for d in shown], axis=0)
    return np.concatenate([[0.0], rates]), np.concatenate([[0.0], np.maximum.accumulate(values)])


def rates_of_log1p(values: np.ndarray, depth: np.ndarray, target_sum: float) -> np.ndarray:
    """Rates (n, G) of mean log1p values at the depths of a section; values below 0 have rate 0."""
    rates, curve = log1p_curve(depth, target_sum)
    # Between two points of the curve both grow by about a constant factor; below the first one both are in proportion.
    found = np.exp(np.interp(np.log(np.maximum(values, 1e-300)), np.log(curve[1:]), np.log(rates[1:])))
    low = values < curve[1]
    return np.where(low, rates[1] * np.maximum(values, 0) / curve[1], found)


def log1p_of_rates(values: np.ndarray, depth: np.ndarray, target_sum: float) -> np.ndarray:
    """Mean log1p values (n, G) that rates have at the depths of a section."""
    rates, curve = log1p_curve(depth, target_sum)
    found = np.exp(np.interp(np.log(np.maximum(values, 1e-300)), np.log(rates[1:]), np.log(curve[1:])))
    return np.where(values < rates[1], curve[1] * np.maximum(values, 0) / rates[1], found)


def residual_gain(proportions: np.ndarray, depth: np.ndarray, theta: float) -> np.ndarray:
    r"""Mean residual (G,) per relative change of the rate: :math:`\frac1n \sum_i \sqrt{n_i p / (1 + n_i p / \theta)}`."""
    depths = np.asarray(depth, dtype=np.float64)
    depths = depths[depths > 0]
    if len(depths) > _N_DEPTHS:
        depths = np.quantile(depths, (np.arange(_N_DEPTHS) + 0.5) / _N_DEPTHS)
    expected = depths[:, None] * np.asarray(proportions, dtype=np.float64)
    return np.sqrt(expected / (1 + expected / theta)).mean(axis=0)


def rates_of_residuals(
    values: np.ndarray, proportions: np.ndarray, depth: np.ndarray, theta: float = 100.0
) -> np.ndarray:
    """Rates (n, G) of mean residuals at the depths of a section, in proportion: below 0 for residuals that no rate has."""
    gain = residual_gain(proportions, depth, theta)
    found = values / np.where(gain > 0, gain, np.inf)
    found += 1
    found *= proportions
    return np.asarray(found)


def residuals_of_rates(
    values: np.ndarray, proportions: np.ndarray, depth: np.ndarray, theta: float = 100.0
) -> np.ndarray:
    """Mean residuals (n, G) that rates have at the depths of a section; 0 for genes of proportion 0."""
    gain = residual_gain(proportions, depth, theta)
    return gain * (values / np.where(proportions > 0, proportions, np.inf) - (proportions > 0))


def leveled(rates: np.ndarray, proportions: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Rates (n, G) brought to the proportions of a section, whose map alone is then theirs.

    The mean over all counts becomes the proportion of the gene; no rate is then more than 10 times lower or higher.
    """
    weight = np.asarray(depth, dtype=np.float64) / max(float(np.sum(depth)), 1e-300)

    def relative(values: np.ndarray) -> np.ndarray:
        mean = weight @ values
        return values / np.where(mean > 0, mean, 1.0) + (mean <= 0)

    bounded = np.clip(relative(np.maximum(rates, 0)), 1 / LARGEST_RATIO, LARGEST_RATIO)
    return proportions * relative(bounded)
