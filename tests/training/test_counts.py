"""Counts as a target: every network learns their rates."""

from __future__ import annotations

import numpy as np
import pytest

import stpredict as stp
from stpredict.models import Panel, get_model, list_models
from stpredict.training import ArraySet, TrainingFacts, fit_arrays, predict_arrays, train_config
from stpredict.training._data import WholeSections
from stpredict.training._ragged import Ragged
from stpredict.training.targets import CountsTarget, target_from_dict

MODELS = list(list_models().index)
SHARE = (0.05, 0.01, 0.002, 0.1)
GENES = tuple(f"G{i}" for i in range(4))


def counted(n: int = 24) -> ArraySet:
    """Two patients with two sections each; the rate of the first gene follows the color of the patch and the features."""
    rng = np.random.default_rng(0)
    tone = rng.uniform(60, 220, size=(n, 3))
    depth = rng.uniform(100, 900, n)
    rates = np.array(SHARE) * np.exp((tone[:, :1] - 140) / 60 * [1, 0, 0, 0])
    counts = rng.poisson(depth[:, None] * rates)
    tokens = np.concatenate([tone[:, None] / 255 + rng.normal(0, 0.1, (n, 8, 3)), rng.normal(size=(n, 8, 3))], axis=2)
    kind = CountsTarget(GENES, SHARE, depths=(200.0, 800.0))
    patches = np.clip(tone[:, None, None, :] + rng.normal(0, 8, (n, 32, 32, 3)), 0, 255).astype(np.uint8)
    features = tokens.mean(axis=1).astype(np.float32)
    cell = np.stack(np.divmod(np.arange(n) % (n // 4), 3), axis=1)
    section = np.arange(n) * 4 // n
    squares = dict.fromkeys(("neighbors", "edges", "nuclei"), np.repeat(features[:, None], 25, axis=1))
    masks = dict.fromkeys(("neighbor_mask", "boundary_mask"), np.ones((n, 25), dtype=bool))
    return ArraySet(
        section=section,
        patient=np.arange(n) * 2 // n,
        inputs={
            "positions": rng.uniform(0, 1000, (n, 2)).astype(np.float32),
            "features": features,
            "patches": patches,
            "cell": cell,
            **squares,
            **masks,
            "nuclei_graph": Ragged(np.repeat(features, 2, axis=0), np.full(n, 2)),
            "n_nuclei": np.full(n, 2),
            "nuclei_links": Ragged(np.tile([[0, 1], [1, 0]], (n, 1)), np.full(n, 2)),
            "n_links": np.full(n, 2),
            "counts": counts.astype(np.float32),
            "size_factor": (depth / np.median(depth)).astype(np.float32),
            "tokens": tokens.astype(np.float32),
            "token_size": np.ones((n, 8), dtype=np.float32),
            "sequence": (tone[:, :1] / 60 + rng.normal(0, 0.3, (n, 64))).clip(0, 3).astype(np.uint8),
            "sequence_mask": np.zeros((n, 64), dtype=np.int8),
            "sequence_features": tokens.astype(np.float32),
            "signals": np.repeat(tokens, 8, axis=1)[..., :3].clip(0).astype(np.float32),
            "gene_features": features,
            "prompt_ids": np.zeros((n, 2), dtype=np.int64),
        },
        genes=Panel(GENES, {"gene_table": rng.normal(size=(4, 3)).astype(np.float32)}),
        target=np.column_stack([counts, np.repeat(depth[:, None], 4, axis=1)]).astype(np.float32),
        kind=kind,
        whole=WholeSections(section, np.arange(n), {"section_features": features, "section_cell": cell}),
    )


@pytest.mark.parametrize("model", MODELS)
def test_every_network_predicts_rates(model: str) -> None:
    data = counted()
    known = get_model(model).config.__dataclass_fields__
    options = get_model(model).options("small") | ({"same_patient": True} if "same_patient" in known else {})
    config = train_config(model).updated({"max_epochs": 6, "patience": 0, "learning_rate": 3e-3})
    fit = fit_arrays(model, data, hyperparameters=options, config=config)
    out = predict_arrays(fit.network, data).mean
    rates = data.kind.link(out, TrainingFacts())
    assert rates.shape == (24, 4)
    assert ((rates > 0) & (rates <= 1)).all()
    assert rates.dtype == np.float32
    # Of the size of what was measured, whatever has been learned of the pattern.
    assert (np.abs(np.log(rates.mean(axis=0) / SHARE)) < 1.2).all()
    if len(fit.history):
        history = fit.history
        if "stage" in history:  # each has a loss of its own
            history = history[history["stage"] == history["stage"].iloc[-1]]
        assert history["train_loss"].iloc[-1] < history["train_loss"].iloc[0]


@pytest.mark.parametrize("model", ["ridge", "mlp"])
def test_the_pattern_is_learned_and_depth_is_not(model: str) -> None:
    data = counted(240)
    data.inputs["features"] = np.column_stack([data["features"], data.target[:, -1]]).astype(np.float32)
    fit = fit_arrays(model, data)
    log_rates = predict_arrays(fit.network, data).mean
    tone = data["features"][:, 0]
    assert np.corrcoef(log_rates[:, 0], tone)[0, 1] > 0.8
    spread = log_rates.std(axis=0)
    assert (spread[1:] < 0.4 * spread[0]).all()


def test_it_is_written_and_read() -> None:
    target = CountsTarget(GENES, SHARE, (5.0, 1.0, 2.0, 1e4), (512.0,), "panel")
    assert target_from_dict(target.to_dict(), list(GENES)) == target
    assert target.normalization == {"method": "rate", "family": "negative_binomial", "size_factors": "panel"}
    for change in ({"rates": [0.1]}, {"theta": [1.0, 2.0]}):
        with pytest.raises(ValueError, match="complete record of a target of kind 'counts'"):
            target_from_dict(target.to_dict() | change, list(GENES))


def test_background_has_no_rate() -> None:
    with pytest.raises(ValueError, match="loss_area='tissue' for counts"):
        fit_arrays("hist", counted(), hyperparameters=get_model("hist").options("small") | {"loss_area": "all"})
    with pytest.raises(ValueError, match="rank=None for counts"):
        fit_arrays("ridge", counted(), hyperparameters={"rank": 2})


def test_dispersion_is_found() -> None:
    from stpredict.training.targets._counts import dispersions

    rng = np.random.default_rng(0)
    depth = rng.uniform(200, 800, (4000, 1))
    true = np.array([0.5, 5.0, 1e9])
    rate = np.full(3, 0.02)
    counts = rng.poisson(depth * rate * np.where(true < 1e8, rng.gamma(true, 1 / true, (4000, 3)), 1.0))
    found = dispersions(counts, depth, rate)
    np.testing.assert_allclose(found[:2], true[:2], rtol=0.15)
    assert found[2] > 100
    assert stp.targets.Counts().family == "poisson"
