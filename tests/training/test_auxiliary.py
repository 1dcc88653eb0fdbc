"""Auxiliary genes: their ranking, their mask, the derivative of the cut, and what they do to the primary genes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from stpredict.core._optional import mend_torchvision
from stpredict.models import Batch, Prediction, Predictor, Shape, Stage
from stpredict.models.base._registry import MODELS, register
from stpredict.training import ArraySet, TrainConfig, fit_arrays, predict_arrays, train_config, with_primary
from stpredict.training._auxiliary import AuxiliaryTraining, order_genes
from stpredict.training._gene_weights import Weighted, soft_mask
from stpredict.training.targets import ClassTarget, CountsTarget, ExpressionTarget

LAYER = {"method": "layer", "layer": "toy"}


def names(n: int) -> tuple[str, ...]:
    return tuple(f"g{i}" for i in range(n))


def made(
    seed: int = 0, n: int = 240, n_primary: int = 20, n_informative: int = 50, n_noise: int = 500
) -> tuple[ArraySet, np.ndarray]:
    """Six patients; four programmes behind noisy primary and clear informative genes, none behind the others.

    Ranked by their variance, the informative genes come first. Also the primary genes without their noise.
    """
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, 20)).astype(np.float32)
    programmes = np.tanh(features @ rng.normal(size=(20, 4)) / 3)
    clear = programmes @ rng.normal(size=(4, n_primary + n_informative))
    sd = np.repeat([3.0, 0.5], [n_primary, n_informative])
    values = np.concatenate([clear + sd * rng.normal(size=clear.shape), rng.normal(size=(n, n_noise))], axis=1)
    values /= values.std(axis=0)
    values[:, n_primary : n_primary + n_informative] *= 1.5
    section = np.arange(n) * 6 // n
    kind = ExpressionTarget(names(values.shape[1]), LAYER)
    data = ArraySet(section, section, {"features": features}, target=values.astype(np.float32), kind=kind)
    return data, clear[:, :n_primary]


def config(**changes: Any) -> TrainConfig:
    return train_config("mlp", {"max_epochs": 3, "primary": names(20)} | changes)


def state(fit: Any) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for tensor in fit.network.state_dict().values()])


def test_the_mask_is_a_logistic_function_of_the_rank() -> None:
    weight = soft_mask(torch.tensor(0.3), 2, 5, 0.1)
    rank = np.linspace(0, 1, 5)
    np.testing.assert_allclose(weight, [1, 1, *(1 / (1 + np.exp(-(0.3 - rank) / 0.1)))], rtol=1e-5)
    hard = soft_mask(torch.tensor(0.6), 2, 5, 1e-6)
    assert hard.tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert soft_mask(torch.tensor(float("inf")), 2, 5, 0.1).tolist() == [1] * 7
    assert soft_mask(torch.tensor(0.5), 2, 1, 0.1).shape == (3,)


def test_the_most_variable_genes_are_the_primary_ones() -> None:
    rng = np.random.default_rng(0)
    sd = np.array([1.0, 5.0, 2.0, 4.0, 3.0])
    section = np.repeat([0, 1], 200)
    # What tells sections apart is no variability within them.
    values = rng.normal(size=(400, 5)) * sd + np.array([90, 0, 0, 0, 0]) * section[:, None]
    order, n_primary = order_genes(ExpressionTarget(names(5), LAYER), values, section, TrainConfig(n_primary=2))
    assert (order.tolist(), n_primary) == ([1, 3, 4, 2, 0], 2)  # the primary ones in the order of the panel
    given = order_genes(ExpressionTarget(names(5), LAYER), values, section, TrainConfig(primary=["g4", "g0"]))
    assert (given[0].tolist(), given[1]) == ([0, 4, 1, 3, 2], 2)


def test_logarithms_and_counts_are_ranked_by_what_their_level_does_not_explain() -> None:
    rng = np.random.default_rng(0)
    rate = np.tile(np.linspace(5, 30, 200), (300, 1))
    # Not more of it, but more here than there; the last ones vary most.
    rate[:, 100] *= np.exp(rng.normal(size=300) - 0.5)
    counts = rng.poisson(rate).astype(np.float32)
    section = np.zeros(300, dtype=int)
    logs = ExpressionTarget(names(200), {"method": "log1p"})
    assert order_genes(logs, np.log1p(counts), section, TrainConfig(n_primary=1))[0][0] == 100
    depth = np.full_like(counts, counts.sum(axis=1).mean())
    kind = CountsTarget(names(200), tuple(counts.sum(axis=0) / depth.sum(axis=0)))
    both = np.concatenate([counts, depth], axis=1)
    assert order_genes(kind, both, section, TrainConfig(n_primary=1))[0][0] == 100
    part = kind.part(np.array([100, 2]))
    np.testing.assert_array_equal(kind.values_of(both, np.array([100, 2]))[:, :2], counts[:, [100, 2]])
    assert (part.names, part.rates) == (["g100", "g2"], (kind.rates[100], kind.rates[2]))


def test_outputs_are_taken_with_everything_that_belongs_to_them() -> None:
    data, _ = made(n=24, n_noise=3)
    data.inputs["counts"] = 2 * np.asarray(data.target)
    ordered = with_primary(data, config(primary=["g5", "g2"]))
    assert (ordered.n_primary, ordered.kind.names[:2], ordered.n_outputs) == (2, ["g2", "g5"], 73)
    np.testing.assert_array_equal(ordered["counts"], 2 * ordered.target)
    first = ordered.only_primary()
    np.testing.assert_array_equal(first.target, data.target[:, [2, 5]])
    assert (first.n_primary, first.kind.names, first["counts"].shape) == (None, ["g2", "g5"], (24, 2))


@dataclass(frozen=True)
class NarrowConfig:
    loss: str = "target"


class Narrow(Predictor):
    """A linear model whose genes share two numbers."""

    def __init__(self, config: NarrowConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.shared = nn.Linear(shape.width("features"), 2, bias=False)
        self.head = nn.Linear(2, shape.n_outputs, bias=False)

    def forward(self, batch: Batch) -> Prediction:
        return Prediction(self.head(self.shared(batch["features"])))

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, torch.Tensor]:
        if self.config.loss == "target":
            return super().loss(prediction, batch)
        assert batch.target is not None
        return {"total": (prediction.mean - batch.target).square().mean()}


def derivative(informative: bool, how: Any, seed: int, rate: float = 0.05) -> float:
    """Derivative of the loss of the primary genes by a cut amid genes that share their cause with them, or that mislead."""
    mend_torchvision()
    from stpredict.training._cut import CutTuner

    rng, n, p, dtype = np.random.default_rng(seed), 64, 6, torch.zeros(0).numpy().dtype
    x = rng.normal(size=(n, p)).astype(dtype)
    cause, other = np.eye(p)[:2].T, np.eye(p)[2:4].T
    target = np.concatenate(
        [x @ cause @ rng.normal(size=(2, 4)), x @ (cause if informative else other) @ rng.normal(size=(2, 40))], axis=1
    ).astype(dtype)  # fmt: skip
    data = ArraySet(
        np.zeros(n, int), np.arange(n) % 4, {"features": x}, target, ExpressionTarget(names(44), LAYER), n_primary=4
    )
    settings = TrainConfig(
        auxiliary="dkgsb", mask_temperature=0.1, cut_gradient=how, learning_rate=rate, cut_pairs=1, cut_steps=2
    )
    helpers = AuxiliaryTraining(data, settings, torch.device("cpu"))
    torch.manual_seed(seed)
    wanted = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # the same numbers are drawn
    network = Narrow(NarrowConfig(), Shape(44, {"features": p})).to(wanted)
    torch.set_default_dtype(wanted)
    tuner = CutTuner(
        settings, helpers.training(data.take(data.patient < 2)), helpers.judging(data.take(data.patient > 1)),
        helpers.trained, stage=Stage(), seed=0, device=torch.device("cpu"),
    )  # fmt: skip
    found: list[float] = []
    tuner._step = found.append  # type: ignore[method-assign]
    before = [p.clone() for p in network.parameters()]
    tuner.move(network, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    return found[0]


@pytest.mark.parametrize("seed", range(6))
def test_both_derivatives_of_the_cut_have_one_sign(seed: int) -> None:
    for informative in (True, False):
        difference, unrolled = (derivative(informative, how, seed) for how in ("difference", "unrolled"))
        assert np.sign(difference) == np.sign(unrolled) != 0


@pytest.fixture
def _double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("_double")
@pytest.mark.parametrize("rate", [0.05, 1e-5])
@pytest.mark.parametrize("seed", range(3))
def test_the_unrolled_derivative_is_that_of_the_steps(monkeypatch: pytest.MonkeyPatch, seed: int, rate: float) -> None:
    """Steps of Adam jump where a gradient changes its sign; with a difference as small as this there is no such place."""
    unrolled = derivative(True, "unrolled", seed, rate)
    monkeypatch.setattr("stpredict.training._cut._SHIFT", 1e-6)
    np.testing.assert_allclose(derivative(True, "difference", seed, rate), unrolled, rtol=1e-4)


def test_small_steps_do_not_drown_in_rounding() -> None:
    """At a learning rate of 1e-5 the losses of both copies are the same number in single precision."""
    single = [derivative(True, "difference", seed, 1e-5) for seed in range(12)]
    torch.set_default_dtype(torch.float64)
    try:
        double = [derivative(True, "difference", seed, 1e-5) for seed in range(12)]
    finally:
        torch.set_default_dtype(torch.float32)
    assert (np.abs(double) > 1e-5).sum() > 2
    np.testing.assert_allclose(single, double, rtol=1e-2, atol=1e-8)


def fits(seed: int, **changes: Any) -> tuple[Any, float]:
    """A fit on five patients, and the correlation of its primary genes with what is behind them in the sixth."""
    data, clear = made(seed)
    settings = config(max_epochs=40, patience=40, cut_learning_rate=0.01, learning_rate=3e-3, **changes)
    train = with_primary(data.take(data.section < 5), settings)
    train = train if settings.auxiliary else train.only_primary()
    fit = fit_arrays("mlp", train, hyperparameters={"hidden": 32}, config=settings, seed=seed)
    test = data.section == 5
    mean = predict_arrays(fit.network, data.take(test)).mean
    assert mean.shape == (test.sum(), 20)
    return fit, float(np.mean([np.corrcoef(mean[:, g], clear[test, g])[0, 1] for g in range(20)]))


@pytest.mark.parametrize("seed", range(3))
def test_the_cut_keeps_genes_that_help_and_drops_noise(seed: int, record_property: Any) -> None:
    torch.set_num_threads(1)
    cut, r = fits(seed, auxiliary="dkgsb")
    n_kept, r_all = cut.auxiliary["n_kept"], fits(seed, auxiliary="all")[1]
    record_property("printed", f"dkgsb keeps {n_kept} of 550 (50 informative), r {r:.3f}; all of them: {r_all:.3f}")
    assert 25 < n_kept < 100  # 50 of them say something
    assert r > r_all + 0.03
    weight = np.array(cut.auxiliary["weight"])
    assert (weight[:n_kept] >= 0.5).all()
    assert (weight[n_kept + 30 :] < 0.01).all()
    assert (np.diff(weight) <= 0).all()


def test_without_auxiliary_genes_nothing_changes() -> None:
    data, _ = made(n=48, n_noise=5)
    plain = fit_arrays("mlp", data, config=config(primary=None))
    other = {"n_primary": 3, "cut_pairs": 1, "gene_loss": "pearson", "cut_gradient": "unrolled", "cut_start": 0.1}
    same = fit_arrays("mlp", data, config=config(primary=None, **other))
    assert torch.equal(state(plain), state(same))
    assert plain.history.equals(same.history)
    assert (plain.auxiliary, "cut" in plain.history) == ({}, False)


def test_rows_that_tune_the_cut_are_not_those_that_stop() -> None:
    data, _ = made(n=48, n_noise=5)
    settings = config(auxiliary="dkgsb", cut_pairs=1)
    fit = fit_arrays("mlp", with_primary(data, settings), config=settings)
    facts = fit.auxiliary
    assert (fit.validated_on, facts["tuned_on"], facts["tuned_where_stopped"]) == ("patient", "patient", False)
    rows = with_primary(data, settings)
    helpers = AuxiliaryTraining(rows, settings, torch.device("cpu"))
    train, validation = helpers.divide(rows.take(rows.patient > 0), rows.take(rows.patient == 0), seed=0)
    assert helpers.tuning is not None
    assert validation is not None
    people = [set(part.patient) for part in (train, validation, helpers.tuning)]
    assert not people[0] & people[1]
    assert not people[0] & people[2]
    assert not people[1] & people[2]
    few = with_primary(data.take(np.arange(8)), settings)  # too few to set aside twice: the facts say so
    facts = fit_arrays("mlp", few, config=settings).auxiliary
    assert (facts["tuned_on"], facts["tuned_where_stopped"]) == ("stripe", True)
    with pytest.raises(ValueError, match="expected enough training rows to tune the cut"):
        fit_arrays("mlp", few.take(np.arange(6)), config=config(auxiliary="dkgsb", patience=0))


def test_a_resumed_fit_goes_on_with_its_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = made(n=48, n_noise=5)
    settings = config(auxiliary="dkgsb", cut_pairs=2, max_epochs=5, refit=False)
    rows = with_primary(data, settings)
    whole = fit_arrays("mlp", rows, config=settings)
    mend_torchvision()
    from stpredict.training._cut import CutTuner

    begin = CutTuner.on_train_epoch_start

    def stopping(self: Any, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 3:
            raise KeyboardInterrupt
        begin(self, trainer, module)

    monkeypatch.setattr(CutTuner, "on_train_epoch_start", stopping)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit_arrays("mlp", rows, config=settings, checkpoint_dir=tmp_path)
    monkeypatch.setattr(CutTuner, "on_train_epoch_start", begin)
    again = fit_arrays("mlp", rows, config=settings, checkpoint_dir=tmp_path)
    assert torch.equal(state(again), state(whole))
    assert again.auxiliary == whole.auxiliary
    assert again.history["cut"].tolist() == whole.history["cut"].tolist()
    assert whole.history["cut"].nunique() == 5 - 1 + 1


@pytest.mark.parametrize("how", ["difference", "unrolled"])
def test_tuning_draws_nothing_from_the_training(how: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a cut that stays where it is, the network is the same as without pairs."""
    data, _ = made(n=48, n_noise=5)
    settings = config(auxiliary="dkgsb", cut_gradient=how, cut_learning_rate=0.0)
    rows = with_primary(data, settings)
    tuned = fit_arrays("mlp", rows, hyperparameters={"dropout": 0.5}, config=settings)
    mend_torchvision()
    from stpredict.training._cut import CutTuner

    monkeypatch.setattr(CutTuner, "move", lambda *_: None)
    assert torch.equal(state(tuned), state(fit_arrays("mlp", rows, hyperparameters={"dropout": 0.5}, config=settings)))


@pytest.mark.parametrize("changes", [{}, {"refit": False}, {"patience": 0}, {"auxiliary": "dkgsb", "cut_pairs": 1}])
def test_correlation_as_the_loss_of_each_gene_gives_predictions_in_its_unit(changes: dict[str, Any]) -> None:
    """As good as a straight line through them can make them, on patients that had no part in it."""
    data, clear = made(0, n=480, n_noise=5)
    data.target[:] = 7 + 3 * data.target
    settings = config(**{"auxiliary": "all", "gene_loss": "pearson", "max_epochs": 15, "learning_rate": 3e-3} | changes)
    train, test = data.section < 4, data.section >= 4
    fit = fit_arrays("mlp", with_primary(data.take(train), settings), config=settings)
    truth, mean = data.target[test, :20], predict_arrays(fit.network, data.take(test)).mean
    r = np.array([np.corrcoef(mean[:, g], clear[test, g])[0, 1] for g in range(20)])
    assert r.mean() > 0.4
    explained = 1 - ((truth - mean) ** 2).mean() / ((truth - truth.mean(axis=0)) ** 2).mean()
    best = np.mean([np.corrcoef(mean[:, g], truth[:, g])[0, 1] ** 2 for g in range(20)])
    assert explained > best - (0.15 if changes == {"patience": 0} else 0.04)  # slopes of training rows are too bold
    np.testing.assert_allclose(mean.mean(axis=0), data.target[train, :20].mean(axis=0), atol=0.8)
    assert fit.auxiliary["unit"]["fitted_on"] == ("training" if changes == {"patience": 0} else "held-out")


def test_genes_that_say_nothing_are_predicted_by_their_mean_also_under_a_correlation() -> None:
    data, _ = made(0, n=240, n_noise=5)
    data.target[:] = np.random.default_rng(1).normal(size=data.target.shape)
    settings = config(auxiliary="all", gene_loss="pearson", max_epochs=10)
    fit = fit_arrays("mlp", with_primary(data.take(data.section < 5), settings), config=settings)
    test = data.section == 5
    mean = predict_arrays(fit.network, data.take(test)).mean
    assert abs(1 - (data.target[test, :20] - mean).var() / data.target[test, :20].var()) < 0.02


def test_only_the_primary_genes_stop_the_training() -> None:
    data, _ = made(n=48, n_noise=5)
    kind = Weighted(data.kind, torch.cat([torch.ones(20), torch.zeros(55)]), 20, "own")  # type: ignore[arg-type]
    mean = np.random.default_rng(0).normal(size=data.target.shape).astype(np.float32)
    wrong = np.concatenate([mean[:, :20], 99 * mean[:, 20:]], axis=1)
    assert kind.validate(mean, data.target, data.section) == kind.validate(wrong, data.target, data.section)
    losses = [
        kind.loss(Prediction(torch.from_numpy(each)), torch.from_numpy(data.target), torch.ones(75))
        for each in (mean, wrong)
    ]
    assert torch.equal(*losses)


@pytest.fixture
def _registered() -> Iterator[None]:
    register("narrow", config=NarrowConfig, description="for these tests")(Narrow)
    yield
    MODELS.remove("narrow")


@pytest.mark.usefixtures("_registered")
def test_what_cannot_have_auxiliary_genes_is_named() -> None:
    data, _ = made(n=48, n_noise=5)
    settings = config(auxiliary="all")
    rows = with_primary(data, settings)
    for model in ("ridge", "bleep"):
        with pytest.raises(
            ValueError,
            match=f"found '{model}'; those without such a loss are bleep, hescape, mclstexp, mean, ridge, seq2exp, stem",
        ):
            fit_arrays(model, rows, config=train_config(model).updated({"auxiliary": "all"}))
    fit_arrays("narrow", rows, config=settings)
    with pytest.raises(ValueError, match="asks its target for the loss.*found a Narrow.*weighs_genes = False"):
        fit_arrays("narrow", rows, hyperparameters={"loss": "own"}, config=settings)
    with pytest.raises(ValueError, match="expected rows with n_primary"):
        fit_arrays("mlp", data, config=settings)
    with pytest.raises(KeyError, match="found G9, which are not in it"):
        with_primary(data, config(primary=["g1", "G9"]))
    with pytest.raises(ValueError, match="beside the 75 primary ones; found 75 genes"):
        with_primary(data, config(primary=None, n_primary=75))
    classes = replace(data, target=np.zeros(48, dtype=np.int64), kind=ClassTarget("kind", ("a", "b")))
    with pytest.raises(TypeError, match="expected a target of genes; found 'classes'"):
        with_primary(classes, settings)
