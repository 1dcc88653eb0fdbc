"""Stem: a diffusion over the genes of a spot, given its image features; it draws samples and not only a mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Generator, Tensor, nn

from stpredict.core._validate import check_choice
from stpredict.models.base._batch import Batch, Prediction, Summary
from stpredict.models.base._predictor import Stage
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.base._shrinking import ShrinkingPredictor
from stpredict.models.nn._diffusion import Diffusion, VlbT0, kept_steps
from stpredict.models.nn._gene_transformer import Average, GeneTransformer, small_normal, xavier
from stpredict.models.nn._keyed_noise import keyed_normal, mixed
from stpredict.models.nn._standardize import Standardize

# Values of the widest layer that sampling holds at a time: on a processor few enough for its caches, 4 MB a thread.
_HELD, _HELD_ON_CPU = 2**26, 2**20


@dataclass(frozen=True)
class StemConfig:
    """Hyperparameters of `stem`.

    Attributes
    ----------
    hidden, depth, heads
        Width, number of blocks and of heads of the transformer over genes.
    n_steps
        Steps of the diffusion in training.
    spacing
        Steps of sampling: `"50"` for so many, evenly spread over those of training; `"ddim50"` for the same without noise
        after the start (DDIM); `"1000"` for all.
    n_samples
        Samples per observation behind a prediction where nobody asks for a number.
    scale
        `"gene"`: targets in units of each gene's training mean and standard deviation, which the schedule of noise is
        made for. `"none"`: as they are, as published.
    learns
        `"velocity"`: the network learns where values go from signal to noise :cite:p:`salimans2022`, with the same weight at
        every step. A new network then draws each gene from its training mean and spread, and what features say of the mean is
        learned early. `"noise"`, as published, finds no noise at first: samples end hundreds of standard deviations away
        until most of the training is over.
    shrink
        Pull the mean of samples towards the training mean, gene by gene, by as much as held-out observations say: a mean of
        few samples holds their noise. Samples stay as they are drawn, and so does the mean where nothing was held out.
    vlb_t0
        What the variance of the last step is learned from: `"gaussian"`, the likelihood of a normal density; `"none"`,
        nothing; `"image"`, as published, the likelihood of pixels, which means nothing for expression.
    standardize
        Whether features are standardized.
    average
        Decay of the moving average of the weights that predictions are made with.
    warm_average
        Whether the average forgets the first weights sooner, so that short trainings can be averaged.
    """

    hidden: int = 384
    depth: int = 12
    heads: int = 6
    n_steps: int = 1000
    spacing: str = "50"
    n_samples: int = 20
    scale: Literal["gene", "none"] = "gene"
    learns: Literal["velocity", "noise"] = "velocity"
    shrink: bool = True
    vlb_t0: VlbT0 = "gaussian"
    standardize: bool = True
    average: float = 0.9999
    warm_average: bool = True

    def __post_init__(self) -> None:
        check_choice(self.scale, ("gene", "none"), "scale")
        check_choice(self.learns, ("velocity", "noise"), "learns")
        check_choice(self.vlb_t0, ("gaussian", "image", "none"), "vlb_t0")
        kept_steps(self.n_steps, self.spacing)
        if self.hidden % self.heads:
            raise ValueError(f"expected hidden to be a multiple of heads={self.heads}; found {self.hidden}")


@register(
    "stem",
    config=StemConfig,
    description="Diffusion over the genes of a spot, given image features; draws samples",
    paper="zhu2025",
    license_of_reference="MIT",
)
class Stem(ShrinkingPredictor):
    """Noise of the genes of a spot, found by a transformer over genes that image features modulate.

    Training adds noise of a random step to the expression and asks for it; the variance of a step back is learned from the
    variational bound. A prediction is the mean of samples, each of which goes back from noise to expression. What is drawn
    for an observation depends on the seed, on the observation and on the number of the sample, and on nothing else: not on
    the size of batches, and not on how many samples there are.
    """

    only_expression = True
    samples = True
    weighs_genes = False  # the loss of one gene reads the noisy values of all others
    monitors = ("loss",)
    own_tensors = (*ShrinkingPredictor.own_tensors, "net.gene", "average.gene")
    training_defaults = {
        "max_epochs": 400,
        "batch_size": 256,
        "learning_rate": 3e-4,
        "weight_decay": 0.0,
        "patience": 40,
    }
    small = {"hidden": 32, "depth": 2, "heads": 2, "n_steps": 200, "spacing": "20", "average": 0.99}
    paper = Preset(
        {
            "scale": "none",
            "learns": "noise",
            "shrink": False,
            "vlb_t0": "image",
            "standardize": False,
            "warm_average": False,
            "spacing": "1000",
        },
        {"max_epochs": 4000, "learning_rate": 1e-4, "patience": 0, "gradient_clip": 0.0},
        n_outputs=200,
        widths={"features": 1536},
    )

    def __init__(self, config: StemConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        width = shape.width("features")
        self.standardize = Standardize(width)
        self.condition = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, config.hidden))
        xavier(self.condition)
        small_normal(self.condition)
        self.net = GeneTransformer(shape.n_outputs, config.hidden, config.depth, config.heads)
        self.average = Average(self.net, config.average, warm=config.warm_average)
        self.average_condition = Average(self.condition, config.average, warm=config.warm_average)
        self.diffusion = Diffusion(config.n_steps)

    def prepare(self, summary: Summary) -> None:
        """Take the statistics of the training set, and start the average at the weights."""
        super().prepare(summary)
        if not self.config.standardize:
            self.standardize.take(torch.zeros_like(self.standardize.mean), torch.ones_like(self.standardize.std))
        if self.config.scale == "none":
            self.target_mean.zero_()
            self.target_std.fill_(1.0)
        self.average.start(self.net)
        self.average_condition.start(self.condition)

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        """Squared error of the noise, and the variational bound that the variance is learned from."""
        if self.training:
            self.average.update(self.net)
            self.average_condition.update(self.condition)
        values = (_expression(batch) - self.target_mean) / self.target_std
        time = torch.randint(len(self.diffusion), (len(batch),), device=values.device)
        return self.losses(values, batch["features"], time, torch.randn_like(values))

    def losses(self, values: Tensor, features: Tensor, time: Tensor, drawn: Tensor) -> dict[str, Tensor]:
        """Parts of the loss, mean over observations, of scaled values (n, n_genes) at steps (n,) with noise (n, n_genes)."""
        noisy = self.diffusion.noisy(values, time, drawn)
        noise, between = self.found(noisy, time, self.told(features)).unbind(dim=-1)
        apart = noise - drawn
        if self.config.learns == "velocity":
            apart = apart / self.diffusion.signal[time][:, None]
        squares = apart.square().mean()
        bound = self.diffusion.bound(values, noisy, time, noise.detach(), between, self.config.vlb_t0).mean()
        return {"total": squares + bound, self.config.learns: squares, "bound": bound}

    def told(self, features: Tensor) -> Tensor:
        """Condition (n, hidden) of features (n, d)."""
        features = self.standardize(features)
        return self.condition(features) if self.training else self.average_condition.call(self.condition, features)

    def found(self, noisy: Tensor, time: Tensor, told: Tensor) -> Tensor:
        """Noise and place of the variance between its bounds (n, n_genes, 2); by the average weights after training."""
        inputs = (noisy, time, told)
        found = (self.net(*inputs) if self.training else self.average.call(self.net, *inputs)).float()
        if self.config.learns == "noise":
            return found
        velocity, between = found.unbind(dim=-1)
        signal, noise = (part[time][:, None] for part in (self.diffusion.signal, self.diffusion.noise))
        return torch.stack([signal * velocity + noise * noisy, between], dim=-1)

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch by samples of the seed 0."""
        return self.predict(batch)

    def predict(self, batch: Batch, *, n_samples: int = 0, generator: Generator | None = None) -> Prediction:
        """Mean and standard deviation of samples, and the samples where a number of them is asked for."""
        seed = 0 if generator is None else generator.initial_seed()
        drawn = self.sample(batch["features"], n_samples or self.config.n_samples, seed=seed, identity=batch.identity)
        found = self.shrunk(Prediction.of_samples(drawn))
        return found if n_samples else replace(found, samples=None)

    def sample(
        self,
        features: Tensor,
        n_samples: int,
        *,
        seed: int = 0,
        identity: Tensor | None = None,
        spacing: str | None = None,
        first: int = 0,
    ) -> Tensor:
        """Samples (n, n_samples, n_genes) in the unit of the target, in memory that grows with nothing but these.

        Parameters
        ----------
        features
            (n, d).
        n_samples
            Samples per observation.
        seed
            Random seed.
        identity
            (n,) int64, what tells the observation from others; its number in `features` when `None`.
        spacing
            Steps, as in the configuration; those of the configuration when `None`.
        first
            Number of the first sample: `first=20` goes on where 20 samples have stopped.
        """
        identity = torch.arange(len(features), device=features.device) if identity is None else identity
        spacing = self.config.spacing if spacing is None else spacing
        diffusion = Diffusion(self.config.n_steps, spacing).to(features.device)
        whole = torch.full_like(identity, seed & (2**63 - 1))
        keys = mixed(mixed(whole, 0) ^ mixed(identity, 1), 2)[:, None]
        keys = mixed(keys, torch.arange(first, first + n_samples, device=keys.device)).flatten()
        told = self.told(features).repeat_interleave(n_samples, dim=0)
        held = _HELD if keys.device.type != "cpu" else _HELD_ON_CPU * torch.get_num_threads()
        at_once = max(1, held // (4 * self.config.hidden * self.n_outputs))
        parts = [
            self._draw(diffusion, some, key) for some, key in zip(told.split(at_once), keys.split(at_once), strict=True)
        ]
        values = torch.cat(parts).unflatten(0, (len(features), n_samples))
        return self.target_mean + self.target_std * values

    def _draw(self, diffusion: Diffusion, told: Tensor, keys: Tensor) -> Tensor:
        """One sample (n, n_genes) of each condition (n, hidden), with the noise of its key (n,)."""

        def network(values: Tensor, time: Tensor) -> Tensor:
            return self.found(values, time, told)

        def noise(number: int) -> Tensor:
            return keyed_normal(mixed(keys, number), self.n_outputs)

        return diffusion.sample(network, noise)


def _expression(batch: Batch) -> Tensor:
    measured = batch.outputs()
    if measured is None:
        raise ValueError("expected the expression of genes to learn from; found none in the batch")
    return measured
