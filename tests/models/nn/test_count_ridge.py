from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from sklearn.linear_model import PoissonRegressor

from stpredict.metrics._deviance_explained import _deviance
from stpredict.models.nn._count_loss import count_deviance
from stpredict.models.nn._count_ridge import CountBlock, fit_counts
from stpredict.models.nn._normal_equations import cells_of


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


def fitted(
    data: dict, theta: float, alphas: tuple[float, ...], n_groups: int = 1, genes: slice = slice(None), rows=400
):
    counts = data["counts"][:, genes]
    groups = torch.arange(len(counts)) % n_groups
    folds = [(groups != group, groups == group) for group in groups.unique()] if n_groups > 1 else []
    cell, sides = cells_of(folds, len(counts))

    def blocks(which: slice) -> Iterator[CountBlock]:
        for start in range(0, len(counts), rows):
            at = slice(start, min(start + rows, len(counts)))
            part = counts[at, which]
            yield CountBlock(at, data["features"][at], part, data["depth"][at, None].expand_as(part))

    fit = fit_counts(
        blocks, torch.full((counts.shape[1],), theta, dtype=torch.float64), cell, sides, torch.zeros(400, dtype=torch.int64),
        alphas=alphas, n_components=99,
    )  # fmt: skip
    return fit, counts.sum(dim=0) / data["depth"].sum()


@pytest.mark.parametrize("theta", [np.inf, 3.0])
def test_blocks_and_slices_of_genes_change_nothing(data: dict, theta: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where components are not kept, and few genes are worked on at a time."""
    options = {"theta": theta, "alphas": (0.01, 0.1, 1.0), "n_groups": 4}
    monkeypatch.setattr("stpredict.models.nn._count_ridge._KEPT", 99)
    whole, _ = fitted(data, **options)
    few, _ = fitted(data, **options, rows=37)
    for name, value in {"_BYTES": (1, 1), "_KEPT": 0}.items():
        monkeypatch.setattr(f"stpredict.models.nn._count_ridge.{name}", value)
    alone, _ = fitted(data, **options, rows=37)
    for other in (few, alone):
        assert other.alpha == whole.alpha
        for one, two in zip(whole[:4], other[:4], strict=True):
            np.testing.assert_allclose(one.numpy(), two.numpy(), rtol=1e-9, atol=1e-12)


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
        counts, mean = data["counts"].numpy(), (data["depth"][:, None] * rate).numpy()
        expected = [_deviance(counts[row : row + 1], mean[row : row + 1], theta) for row in range(len(counts))]
        np.testing.assert_allclose(found.numpy(), np.stack(expected), rtol=1e-6, atol=1e-9)
    mixed = torch.tensor([np.inf, 3.0, np.inf], dtype=torch.float64)
    assert count_deviance(data["counts"], rate.log(), data["depth"][:, None], mixed).isfinite().all()
