"""A small diffusion over the genes of a spot, given its features."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from torch import Tensor, nn

import stpredict as stp
from stpredict.models import Batch, Prediction, Predictor, Shape, Stage
from stpredict.models.nn import Standardize

NAME = "denoiser"


@dataclass(frozen=True)
class DenoiserConfig:
    n_steps: int = 6
    hidden: int = 16


class Denoiser(Predictor):
    monitors = ("loss",)

    def __init__(self, config: DenoiserConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.standardize = Standardize(shape.width("features"))
        width = shape.n_outputs + shape.width("features") + 1
        self.net = nn.Sequential(nn.Linear(width, config.hidden), nn.GELU(), nn.Linear(config.hidden, shape.n_outputs))
        self.register_buffer("kept", torch.linspace(1, 0.05, config.n_steps + 1)[1:].cumprod(0), persistent=False)

    def noise(self, values: Tensor, features: Tensor, time: Tensor) -> Tensor:
        return self.net(torch.cat([values, features, time[..., None] / self.config.n_steps], dim=-1))

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        expression = (batch.measured() - self.target_mean) / self.target_std
        time = torch.randint(self.config.n_steps, (len(batch),), device=expression.device)
        drawn, kept = torch.randn_like(expression), self.kept[time][:, None]
        noisy = kept.sqrt() * expression + (1 - kept).sqrt() * drawn
        found = self.noise(noisy, self.standardize(batch["features"]), time.float())
        return {"total": (found - drawn).square().mean()}

    def predict(self, batch: Batch, *, n_samples: int = 0, generator: torch.Generator | None = None) -> Prediction:
        shape = (len(batch), n_samples or 4, self.n_outputs)
        features = self.standardize(batch["features"])[:, None].expand(-1, shape[1], -1)

        def draw() -> Tensor:
            return torch.randn(shape, generator=generator, device=features.device)

        values = draw()
        for number in reversed(range(self.config.n_steps)):
            kept = self.kept[number]
            noise = self.noise(values, features, torch.full(shape[:2], float(number), device=features.device))
            clean = (values - (1 - kept).sqrt() * noise) / kept.sqrt()
            before = self.kept[number - 1] if number else kept.new_ones(())
            values = before.sqrt() * clean.clamp(-4, 4) + (1 - before).sqrt() * draw()
        found = Prediction.of_samples(self.target_mean + self.target_std * values)
        return found if n_samples else Prediction(found.mean)


@pytest.fixture(scope="module", autouse=True)
def _registered(registered: Any) -> Iterator[None]:
    with registered(NAME, Denoiser, DenoiserConfig):
        yield


@pytest.fixture
def model(trip: Callable[..., Any]) -> stp.training.FittedModel:
    return trip(NAME)


def test_samples_follow_the_seed_and_give_the_spread(model: Any, toy: ad.AnnData, tmp_path: Path) -> None:
    import zarr

    def drawn(seed: int) -> np.ndarray:
        stp.tl.predict(toy, model, n_samples=5, seed=seed, store=tmp_path / f"{seed}.zarr")
        group = zarr.open_group(tmp_path / f"{seed}.zarr", mode="r")
        assert list(group.attrs["genes"]) == model.panel
        assert list(group.attrs["obs_names"]) == list(toy.obs_names)
        return group["samples"][:]

    first = drawn(1)
    assert first.shape == (toy.n_obs, 5, 6)
    np.testing.assert_allclose(toy.obsm["predicted"], first.mean(axis=1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(toy.obsm["predicted_std"], first.std(axis=1, ddof=1), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(drawn(1), first)
    assert np.abs(drawn(2) - first).mean() > 0.01
    assert toy.uns["stpredict"]["predicted"]["n_samples"] == 5


def test_a_validation_loss_that_draws_is_the_same_whenever_it_is_taken(toy: ad.AnnData) -> None:
    """The weights rest, so that nothing but the draws could change it from epoch to epoch."""
    options = {"max_epochs": 3, "learning_rate": 0.0, "weight_decay": 0.0}
    fit = stp.tl.fit(toy, NAME, training=options, baselines=False)
    assert fit.history["validation_loss"].nunique() == 1
    assert fit.history["train_loss"].nunique() == 3
    assert "validation_correlation" not in fit.history


def test_samples_of_a_network_that_draws_none(toy: ad.AnnData, frozen: Callable[..., Any]) -> None:
    model = stp.tl.fit(toy, "ridge")
    before = frozen(toy)
    with pytest.raises(ValueError, match="draws samples.*Ridge"):
        stp.tl.predict(toy, model, n_samples=3)
    assert frozen(toy) == before
