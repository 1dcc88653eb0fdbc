from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import PoissonRegressor

from stpredict.metrics._deviance_explained import _deviance
from stpredict.models.nn._count_loss import count_deviance
from stpredict.models.nn._count_ridge import fit_counts


@pytest.fixture
def data() -> dict[str, torch.Tensor]:
    """Counts of genes of few to many counts that follow two of five features, at depths of a factor of ten."""
    rng = np.random.default_rng(0)
    n, share = 400, np.array([0.002, 0.01, 0.05])
    features = rng.normal(size=(n, 5)) * [1, 3, 0.1, 1, 1]
    depth = np.exp(rng.uniform(4, 6.3, n))
    rates = share * np.exp(features[:, :2] @ np.array([[0.6, 0.2, -0.4], [0.1, -0.2, 0.05]]))
    arrays = {"features": features, "counts": rng.poisson(depth[:, None] * rates), "depth": depth}
    return {name: torch.from_numpy(np.asarray(values, dtype=np.float64)) for name, values in arrays.items()}


def fitted(data: dict, theta: float, alphas: tuple[float, ...], n_groups: int = 1, genes: slice = slice(None)):
    counts = data["counts"][:, genes]
    offset = counts.sum(dim=0) / data["depth"].sum()
    groups = torch.arange(len(counts)) % n_groups
    level = lambda values, weight, rows: values - (weight * values).sum(0) / weight.sum(0)
    return fit_counts(
        data["features"], counts, data["depth"][:, None].expand_as(counts), torch.full_like(offset, theta), offset,
        [(groups != group, groups == group) for group in groups.unique()] if len(groups.unique()) > 1 else [],
        level, alphas=alphas, n_components=99,
    ), offset  # fmt: skip


@pytest.mark.parametrize("alpha", [0.01, 1.0])
@pytest.mark.parametrize("gene", [0, 1, 2])
def test_poisson_equals_sklearn(data: dict, alpha: float, gene: int) -> None:
    (fit, offset) = fitted(data, np.inf, (alpha,), genes=slice(gene, gene + 1))
    x, n = data["features"].numpy(), data["depth"].numpy()
    weight = n / n.sum()
    mean = weight @ x
    scale = np.sqrt(weight @ (x - mean) ** 2)
    # Its penalty is per unit of weight, ours per information, which for one gene is proportion times depth.
    reference = PoissonRegressor(alpha=alpha * float(offset), tol=1e-10, max_iter=1000)
    reference.fit((x - mean) / scale, data["counts"][:, gene].numpy() / n, sample_weight=n)
    found = np.log(float(offset)) + float(fit.log_rate) + (x - mean) @ fit.weight.numpy()[:, 0]
    expected = np.log(reference.predict((x - mean) / scale))
    np.testing.assert_allclose(found, expected, atol=0.02)


@pytest.mark.parametrize("theta", [np.inf, 2.0])
def test_it_has_come_to_rest(data: dict, theta: float) -> None:
    """At the solution the gradient of the penalized likelihood is small beside its terms."""
    alpha = 0.05
    fit, offset = fitted(data, theta, (alpha,))
    eta = offset.log() + fit.log_rate + (data["features"] - fit.feature_mean) @ fit.weight
    mean = data["depth"][:, None] * eta.exp()
    response = (data["counts"] - mean) / (1 + mean / theta)
    assert (response.sum(dim=0).abs() < 0.02 * response.abs().sum(dim=0)).all()
    deviance = lambda e: count_deviance(
        data["counts"], e, data["depth"][:, None], torch.full((3,), theta).double()
    ).sum(0)
    assert (deviance(eta) < deviance(offset.log().expand_as(eta))).all()


def test_genes_of_few_counts_are_shrunk_further_and_noise_to_nothing(data: dict) -> None:
    fit, _ = fitted(data, np.inf, (3.0,))
    unshrunk, _ = fitted(data, np.inf, (1e-6,))
    kept = (fit.weight.square().sum(0) / unshrunk.weight.square().sum(0)).numpy()
    assert (np.diff(kept) > 0).all()
    data["counts"] = data["counts"][
        torch.randperm(400, generator=torch.Generator().manual_seed(0))
    ] * 0 + torch.poisson(
        data["depth"][:, None] * torch.tensor([0.002, 0.01, 0.05]), generator=torch.Generator().manual_seed(0)
    )
    grid = (0.01, 0.1, 1.0, 10.0, 100.0)
    noise, _ = fitted(data, np.inf, grid, n_groups=5)
    assert noise.alpha == grid[-1]
    assert float(((data["features"] - noise.feature_mean) @ noise.weight).std()) < 0.02


def test_the_deviance_is_that_of_the_scores(data: dict) -> None:
    rate = data["counts"].mean(0) / data["depth"].mean() * (1 + 0.3 * torch.rand(400, 3, dtype=torch.float64))
    for theta in (np.inf, 3.0):
        found = count_deviance(
            data["counts"], rate.log(), data["depth"][:, None], torch.full((3,), theta, dtype=torch.float64)
        )
        expected = _deviance(data["counts"].numpy(), (data["depth"][:, None] * rate).numpy(), theta)
        np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6, atol=1e-9)
    mixed = torch.tensor([np.inf, 3.0, np.inf], dtype=torch.float64)
    assert count_deviance(data["counts"], rate.log(), data["depth"][:, None], mixed).isfinite().all()
