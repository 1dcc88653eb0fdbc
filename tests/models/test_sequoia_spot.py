from __future__ import annotations

import numpy as np
import torch

from stpredict.models import Batch, build
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config

GENES, D = 5, 12
SMALL = {"depth": 2, "heads": 3, "d_head": 4}


def spots(n: int = 9) -> Batch:
    none = torch.zeros(n, dtype=torch.long)
    return Batch(none, none, {"features": torch.randn(n, D, generator=torch.Generator().manual_seed(1))})


def test_parameters_are_those_of_sequoia_without_its_positions() -> None:
    with torch.device("meta"):
        network = build("sequoia_spot", 50, {"features": 1024})
    assert sum(p.numel() for p in network.parameters()) == 32_473_138 - 100 * 1024


def test_it_is_sequoia_on_a_slide_of_one_tile() -> None:
    spot = build("sequoia_spot", GENES, {"features": D}, hyperparameters=SMALL, seed=0)
    slide = build("sequoia", GENES, {"tokens": D}, hyperparameters=SMALL, seed=1)
    torch.nn.init.normal_(spot.head.mean.weight)
    slide.load_state_dict({k: v for k, v in spot.state_dict().items() if not k.startswith("shrinkage.")})
    batch = spots()
    alone = Batch(batch.section, batch.patient)
    alone.inputs = {"tokens": batch["features"].unsqueeze(1), "token_size": torch.ones(len(batch), 1)}
    with torch.no_grad():
        torch.testing.assert_close(spot(batch).mean, slide(alone).mean)


def test_spots_do_not_see_each_other() -> None:
    network, batch = build("sequoia_spot", GENES, {"features": D}, hyperparameters=SMALL, seed=0).eval(), spots()
    torch.nn.init.normal_(network.head.mean.weight)
    with torch.no_grad():
        before = network(batch).mean
        batch["features"][1:] = 100.0
        torch.testing.assert_close(network(batch).mean[0], before[0])
        assert not torch.allclose(network(batch).mean[1], before[1])


def test_genes_that_follow_nothing_are_shrunk() -> None:
    """Three genes follow the features, thirty do not: those are predicted by nearly nothing, and boldly without shrinking."""
    rng = np.random.default_rng(2)
    n = 480
    features = rng.normal(size=(n, D)).astype(np.float32)
    target = rng.normal(size=(n, 33)).astype(np.float32)
    target[:, :3] += 2 * features @ rng.normal(size=(D, 3)).astype(np.float32)
    section = np.arange(n) * 8 // n
    data = ArraySet(section, section, {"features": features}, target=target)
    train, test = data.take(section < 4), data.take(section >= 4)
    explained, spread = {}, {}
    for shrink in (True, False):
        config = train_config("sequoia_spot").updated({"max_epochs": 40, "learning_rate": 4e-3, "patience": 40})
        fit = fit_arrays("sequoia_spot", train, hyperparameters=SMALL | {"shrink": shrink}, config=config)
        mean = predict_arrays(fit.network, test).mean
        of_mean = (train.target.mean(axis=0) - test.target) ** 2
        explained[shrink] = 1 - ((mean - test.target) ** 2).mean(axis=0) / of_mean.mean(axis=0)
        spread[shrink] = mean[:, 3:].var(axis=0).mean()
    assert explained[True][:3].min() > 0.5
    assert abs(explained[True][3:].mean()) < 0.02
    assert explained[False][3:].mean() < explained[True][3:].mean() - 0.01
    assert spread[True] < 0.4 * spread[False]
