"""A network on the features of a spot, of its 25 neighboring tiles, and of its whole section."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from torch import nn

import stpredict as stp
from stpredict.models import Batch, Prediction, Predictor, Shape
from stpredict.models.nn import RegressionHead, Standardize

NAME = "branches"
N_NEIGHBORS = 25


@dataclass(frozen=True)
class BranchesConfig:
    hidden: int = 8


class Branches(Predictor):
    needs = frozenset({"features", "neighbors", "neighbor_mask", "section_features", "section_positions"})

    def __init__(self, config: BranchesConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.of_spot = Standardize(shape.width("features"))
        self.of_neighbors = Standardize(shape.width("neighbors"), of="neighbors")
        self.of_section = Standardize(shape.width("section_features"), of="section_features")
        widths = [shape.width(name) for name in ("features", "neighbors", "section_features")]
        self.branches = nn.ModuleList(nn.Linear(width, config.hidden) for width in widths)
        self.head = RegressionHead(3 * config.hidden, shape.n_outputs)

    def forward(self, batch: Batch) -> Prediction:
        mask = batch["neighbor_mask"].unsqueeze(2)
        around = (self.of_neighbors(batch["neighbors"]) * mask).sum(dim=1) / mask.sum(dim=1).clamp_min(1)
        # Every observation of the section, whether it is in the batch or not.
        whole = self.of_section(batch["section_features"])
        assert batch.sections is not None
        assert batch["section_positions"].shape == (len(whole), 2)
        same = (batch.sections.code[None] == batch.section[:, None]).to(whole.dtype)
        section = (same @ whole) / same.sum(dim=1, keepdim=True)
        own = whole[batch.sections.row]
        torch.testing.assert_close(own, self.of_section(batch["features"]))
        values = (self.of_spot(batch["features"]), around, section)
        hidden = [branch(value).tanh() for branch, value in zip(self.branches, values, strict=True)]
        return self.head(torch.cat(hidden, dim=1), self.target_mean, self.target_std)


@pytest.fixture(scope="module", autouse=True)
def _registered(registered: Any) -> Iterator[None]:
    with registered(NAME, Branches, BranchesConfig):
        yield


@pytest.fixture
def toy(toy: ad.AnnData) -> ad.AnnData:
    rng = np.random.default_rng(1)
    toy.obsm["X_toy_neighbors"] = rng.normal(size=(toy.n_obs, N_NEIGHBORS, 3)).astype(np.float32)
    toy.obsm["X_toy_neighbor_mask"] = rng.random((toy.n_obs, N_NEIGHBORS)) < 0.8
    toy.uns["stpredict"]["X_toy_neighbors"] = {"encoder": "toy"}
    return toy


def test_the_whole_way(trip: Callable[..., Any], toy: ad.AnnData) -> None:
    model = trip(NAME, toy, batch_size=7)
    assert model.network.shape.widths == {"features": 4, "neighbors": 3, "section_features": 4}


def test_masked_neighbors_change_nothing(toy: ad.AnnData) -> None:
    model = stp.tl.fit(toy, NAME, training={"max_epochs": 2}, baselines=False)
    stp.tl.predict(toy, model)
    before = toy.obsm["predicted"].copy()
    hidden = ~toy.obsm["X_toy_neighbor_mask"]
    toy.obsm["X_toy_neighbors"][hidden] = 1e6
    stp.tl.predict(toy, model)
    np.testing.assert_array_equal(toy.obsm["predicted"], before)
    toy.obsm["X_toy_neighbors"][~hidden] += 1
    stp.tl.predict(toy, model)
    assert np.abs(toy.obsm["predicted"] - before).max() > 1e-4


def test_a_section_is_whole_whichever_of_its_spots_are_trained_on(toy: ad.AnnData) -> None:
    """The features of a spot that is not trained on reach the others; its expression does not."""

    def weights(change: Callable[[ad.AnnData], None]) -> torch.Tensor:
        adata = toy.copy()
        change(adata)
        train = np.arange(adata.n_obs) % 12 != 5
        fit = stp.tl.fit(adata, NAME, train, training={"max_epochs": 2, "patience": 0}, baselines=False)
        return torch.cat([p.flatten() for p in fit.network.parameters()])

    def expression(adata: ad.AnnData) -> None:
        adata.X[5::12] = 7

    def features(adata: ad.AnnData) -> None:
        adata.obsm["X_toy"][5::12] = 7

    plain = weights(lambda adata: None)
    assert torch.equal(weights(expression), plain)
    assert not torch.equal(weights(features), plain)


def test_missing_neighbors_are_named(toy: ad.AnnData, frozen: Callable[..., Any]) -> None:
    del toy.obsm["X_toy_neighbors"]
    before = frozen(toy)
    with pytest.raises(KeyError, match="expected obsm\\['X_toy_neighbors'\\]"):
        stp.tl.fit(toy, NAME, baselines=False)
    assert frozen(toy) == before
