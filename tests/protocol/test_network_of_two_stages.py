"""A network that first aligns images and expression on all spots, measured or not, and then trains a head."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import stpredict as stp
from stpredict.models import Batch, Prediction, Predictor, Shape, Stage
from stpredict.models.nn import RegressionHead, Standardize

NAME = "aligner"
SEEN: list[tuple[str, int, int]] = []


@dataclass(frozen=True)
class AlignerConfig:
    hidden: int = 8


class Aligner(Predictor):
    stages = (
        Stage("align", trains=("image.", "spot."), labeled=False, training={"max_epochs": 3}),
        Stage("head", trains=("head.",), training={"learning_rate": 1e-2}),
    )

    def __init__(self, config: AlignerConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.standardize = Standardize(shape.width("features"))
        self.image = nn.Linear(shape.width("features"), config.hidden)
        self.spot = nn.Linear(shape.n_outputs, config.hidden)
        self.head = RegressionHead(config.hidden, shape.n_outputs)

    def embed(self, batch: Batch) -> Tensor:
        return self.image(self.standardize(batch["features"])).tanh()

    def step(self, batch: Batch, stage: Stage) -> dict[str, Tensor]:
        labeled = torch.ones(len(batch), dtype=torch.bool) if batch.labeled is None else batch.labeled
        if self.training:
            SEEN.append((stage.name, len(batch), int(labeled.sum())))
        if stage.name == "head":
            return self.loss(self(batch), batch)
        image = self.embed(batch)
        # Every image is drawn to itself under noise, and measured ones to their expression.
        noisy = self.image(self.standardize(batch["features"]) + 0.1).tanh()
        parts = {"views": F.mse_loss(noisy, image)}
        expression = batch.measured()
        if labeled.any() and expression is not None:
            spot = self.spot((expression[labeled] - self.target_mean) / self.target_std)
            parts["pairs"] = F.cross_entropy(image[labeled] @ spot.T, torch.arange(len(spot)))
        return parts | {"total": torch.stack(list(parts.values())).sum()}

    def forward(self, batch: Batch) -> Prediction:
        return self.head(self.embed(batch), self.target_mean, self.target_std)


@pytest.fixture(scope="module", autouse=True)
def _registered(registered: Any) -> Iterator[None]:
    with registered(NAME, Aligner, AlignerConfig):
        yield


@pytest.fixture
def toy(toy: ad.AnnData) -> ad.AnnData:
    """The second section of each patient was not measured."""
    toy.obs["measured"] = ~toy.obs["sample"].isin(["s1", "s3", "s5"]).to_numpy()
    toy.X[~toy.obs["measured"].to_numpy()] = np.nan
    return toy


def test_the_whole_way(trip: Callable[..., Any], toy: ad.AnnData) -> None:
    SEEN.clear()
    model = trip(NAME, toy)
    assert {name for name, *_ in SEEN} == {"align", "head"}
    assert set(model.history["stage"]) == {"align", "head"}
    assert model.history.groupby("stage")["epoch"].max().to_dict() == {"align": 2, "head": 3}


def test_only_the_first_stage_sees_unmeasured_spots(toy: ad.AnnData) -> None:
    SEEN.clear()
    stp.tl.fit(toy, NAME, training={"max_epochs": 2, "patience": 0}, baselines=False)
    assert {(n, k) for name, n, k in SEEN if name == "align"} == {(72, 36)}
    assert {(n, k) for name, n, k in SEEN if name == "head"} == {(36, 36)}


def test_each_stage_trains_its_own_part(toy: ad.AnnData) -> None:
    def weights(max_epochs: int) -> dict[str, Tensor]:
        options = {"max_epochs": max_epochs, "patience": 0}
        return stp.tl.fit(toy, NAME, training=options, baselines=False).network.state_dict()

    short, long = weights(1), weights(4)  # of the head; the first stage has an end of its own
    assert torch.equal(short["image.weight"], long["image.weight"])
    assert not torch.equal(short["head.mean.weight"], long["head.mean.weight"])


def test_the_images_of_unmeasured_spots_matter_and_those_of_held_out_patients_do_not(toy: ad.AnnData) -> None:
    """In the phase that chooses the epoch no row of a patient held out is trained on, measured or not."""
    from stpredict.training._validation import inner_split

    def weights(rows: np.ndarray) -> Tensor:
        adata = toy.copy()
        # No shift: whole sections are moved, and each is standardized by itself.
        adata.obsm["X_toy"][rows] = np.random.default_rng(1).normal(size=(rows.sum(), adata.obsm["X_toy"].shape[1]))
        # Several steps: the first one of Adam has the same length whatever the gradient.
        options = {"max_epochs": 2, "refit": False, "batch_size": 8, "learning_rate": 0.05}
        fit = stp.tl.fit(adata, NAME, training=options, baselines=False)
        return fit.network.state_dict()["image.weight"]

    measured = toy.obs["measured"].to_numpy()
    patient = toy.obs["patient"].astype(str).to_numpy()
    codes = np.unique(patient, return_inverse=True)[1]
    data = stp.training.ArraySet(codes * 2, codes, labeled=measured)
    held_out, unit = inner_split(data, 0.2, 0)
    assert unit == "patient"
    assert held_out.sum() == 24
    plain = weights(np.zeros(72, dtype=bool))
    assert torch.equal(weights(held_out & ~measured), plain)
    assert (weights(~held_out & ~measured) - plain).abs().max() > 1e-3


def test_networks_without_such_a_stage_refuse_unmeasured_spots(toy: ad.AnnData) -> None:
    with pytest.raises(ValueError, match="36 without a measurement"):
        stp.tl.fit(toy, "mlp")
