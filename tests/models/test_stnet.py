from __future__ import annotations

import numpy as np
import pytest
import torch

from stpredict.models import Batch, Prediction, Shape
from stpredict.models._stnet import STNet, STNetConfig
from stpredict.models.nn._augment import standardized, symmetry
from stpredict.models.nn._heads import RegressionHead


class _Corner(torch.nn.Module):
    """A body that sees one corner only, so that views differ."""

    n_outputs = 1

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :1, 0, 1]


def corner_network(heteroscedastic: bool = False, symmetries: bool = True) -> STNet:
    network = STNet(STNetConfig(symmetries=symmetries, heteroscedastic=heteroscedastic, patch_px=4), Shape(2))
    network.body = _Corner()
    network.head = RegressionHead(1, 2, heteroscedastic=heteroscedastic, zero_init=False)
    with torch.no_grad():
        network.head.mean.weight.copy_(torch.tensor([[1.0], [2.0]]))
        if heteroscedastic:
            network.head.spread.weight.copy_(torch.tensor([[1.0], [0.5]]))
    return network.eval()


@pytest.fixture
def batch() -> Batch:
    patches = np.random.default_rng(0).integers(0, 256, (3, 3, 4, 4), dtype=np.uint8)
    codes = torch.zeros(3, dtype=torch.long)
    return Batch(codes, codes, {"patches": torch.from_numpy(patches)})


def test_prediction_is_the_mean_over_views(batch: Batch) -> None:
    network = corner_network()
    pixels = standardized(batch["patches"])
    mean_view = torch.stack([symmetry(pixels, i)[:, 0, 0, 1] for i in range(8)]).mean(dim=0)
    with torch.no_grad():
        torch.testing.assert_close(network(batch).mean[:, 0], mean_view)
        turned = Batch(batch.section, batch.patient, {"patches": symmetry(batch["patches"], 5)})
        torch.testing.assert_close(network(turned).mean, network(batch).mean)
        single = corner_network(symmetries=False)
        torch.testing.assert_close(single(batch).mean[:, 0], pixels[:, 0, 0, 1])


def test_spread_is_the_root_mean_variance_of_the_views(batch: Batch) -> None:
    network = corner_network(heteroscedastic=True)
    pixels = standardized(batch["patches"])
    with torch.no_grad():
        std = network(batch).std
        views = [symmetry(pixels, i)[:, :1, 0, 1] for i in range(8)]
        each = [network.head(v, network.target_mean, network.target_std).std ** 2 for v in views]
        torch.testing.assert_close(std, torch.stack(each).mean(dim=0).sqrt())


def test_training_draws_one_view(batch: Batch) -> None:
    network = corner_network().train()
    pixels = standardized(batch["patches"])
    possible = {tuple(symmetry(pixels, i)[:, 0, 0, 1].tolist()) for i in range(8)}
    torch.manual_seed(0)
    drawn = {tuple(network(batch).mean[:, 0].tolist()) for _ in range(30)}
    assert len(drawn) > 3
    rounded = {tuple(np.round(values, 5)) for values in possible}
    assert {tuple(np.round(values, 5)) for values in drawn} <= rounded


def test_untrained_network_predicts_the_training_mean() -> None:
    network = STNet(STNetConfig(patch_px=32, symmetries=False), Shape(2)).eval()
    network.target_mean.copy_(torch.tensor([3.0, -1.0]))
    codes = torch.zeros(1, dtype=torch.long)
    with torch.no_grad():
        prediction: Prediction = network(Batch(codes, codes, {"patches": torch.zeros(1, 3, 32, 32, dtype=torch.uint8)}))
    torch.testing.assert_close(prediction.mean, torch.tensor([[3.0, -1.0]]))
