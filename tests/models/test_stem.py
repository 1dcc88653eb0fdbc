"""Stem: the published sizes, the diffusion by closed forms, and distributions that are known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch.distributions import Normal, kl_divergence

import stpredict as stp
from stpredict import metrics as m
from stpredict.models import Batch, Stage, build
from stpredict.models.nn._diffusion import Diffusion, kept_steps
from stpredict.models.nn._gene_transformer import Average
from stpredict.models.nn._keyed_noise import keyed_normal, mixed
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config

TINY = {"hidden": 16, "depth": 2, "heads": 2, "n_steps": 100, "spacing": "10"}
WAYS = np.random.default_rng(5).normal(size=(1, 8)).astype(np.float32)
STD, GAP = np.array([0.8, 0.5]), 1.5


def tiny(n_genes: int = 4, **changes: Any) -> Any:
    """A network with weights drawn everywhere, so that no output is 0."""
    network = build("stem", n_genes, {"features": 3}, hyperparameters=TINY | changes, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    network.average.start(network.net)
    network.average_condition.start(network.condition)
    return network.eval()


def batch_of(features: torch.Tensor, **changes: Any) -> Batch:
    zeros = torch.zeros(len(features), dtype=torch.int64)
    return Batch(zeros, zeros, {"features": features}, **changes)


# Sizes


def test_the_published_network_has_its_parameters() -> None:
    with torch.device("meta"):
        network = build("stem", hyperparameters="paper")
    parts = {
        "blocks": network.net.blocks, "block": network.net.blocks[0], "condition": network.condition, "time": network.net.time,
    }  # fmt: skip
    sizes = {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}
    assert sizes == {"blocks": 31_919_616, "block": 2_659_968, "condition": 2_951_040, "time": 246_528}
    last = sum(p.numel() for part in (network.net.modulation, network.net.head) for p in part.parameters())
    genes = network.net.gene.numel() + sum(p.numel() for p in network.net.value.parameters())
    assert (last, genes) == (296_450, 225_408)
    assert sum(p.numel() for p in network.parameters()) == 35_639_042
    assert len(list(network.parameters())) == 137


def test_the_published_recipe() -> None:
    config = stp.models.get_model("stem").configure("paper")
    assert (config.learns, config.shrink) == ("noise", False)
    assert (config.standardize, config.warm_average) == (False, False)
    assert (config.scale, config.vlb_t0, config.spacing, config.n_samples) == ("none", "image", "1000", 20)
    training = train_config("stem", hyperparameters="paper")
    assert (training.learning_rate, training.weight_decay, training.batch_size, training.max_epochs) == (
        1e-4,
        0,
        256,
        4000,
    )


# The network


def test_a_new_network_finds_no_noise() -> None:
    network = build("stem", 5, {"features": 3}, hyperparameters=TINY, seed=0)
    found = network.net(torch.randn(7, 5), torch.randint(100, (7,)), torch.randn(7, 16))
    assert found.shape == (7, 5, 2)
    assert not found.any()
    untouched = build("stem", 5, {"features": 3}, hyperparameters=TINY | {"learns": "noise"}, seed=0).train()
    torch.manual_seed(0)
    parts = untouched.step(batch_of(torch.randn(500, 3), target=torch.randn(500, 5)), Stage())
    assert abs(parts["noise"].item() - 1) < 0.1


@pytest.mark.parametrize(("time", "total", "bound"), [(0, 2.38, 1.39), (1, 1.63, 0.63), (10, 1.11, 0.11), (100, 1.0, 0), (999, 1.0, 0)])  # fmt: skip
def test_loss_of_a_new_published_network_by_step(time: int, total: float, bound: float) -> None:
    """Of log2 counts a quarter of which are 0: the likelihood of pixels has another value for 0 than for all others."""
    options = {"vlb_t0": "image", "learns": "noise", "hidden": 8, "depth": 1, "heads": 1}
    network = build("stem", 100, {"features": 3}, hyperparameters=options, seed=0).train()
    generator = torch.Generator().manual_seed(0)
    values = torch.log2(1 + torch.poisson(torch.full((400, 100), 1.43), generator=generator))
    drawn = torch.randn(400, 100, generator=generator)
    parts = network.losses(values, torch.randn(400, 3), torch.full((400,), time), drawn)
    assert parts["total"].item() == pytest.approx(total, rel=0.05)
    assert parts["bound"].item() == pytest.approx(bound, rel=0.05, abs=0.02)


def test_permuting_genes_permutes_what_is_found() -> None:
    network = tiny(5).net
    values, told, order = torch.randn(3, 5), torch.randn(3, 16), torch.tensor([3, 0, 4, 1, 2])
    time = torch.tensor([0, 50, 99])
    before = network(values, time, told)
    with torch.no_grad():
        network.gene.copy_(network.gene[order].clone())
    torch.testing.assert_close(network(values[:, order], time, told), before[:, order], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(before[:, order], before, atol=1e-2)


def test_a_new_network_draws_each_gene_from_its_training_mean_and_spread() -> None:
    network = build("stem", 2, {"features": 3}, hyperparameters=TINY | {"depth": 1, "hidden": 4}, seed=0).eval()
    network.target_mean.copy_(torch.tensor([5.0, -1.0]))
    network.target_std.copy_(torch.tensor([2.0, 0.1]))
    with torch.inference_mode():
        drawn = network.sample(torch.randn(4, 3), 1000, spacing="50").flatten(0, 1)
    torch.testing.assert_close(drawn.mean(dim=0), network.target_mean, rtol=0.05, atol=0.01)
    torch.testing.assert_close(drawn.std(dim=0), network.target_std, rtol=0.1, atol=0)


def test_condition_time_and_other_genes_matter() -> None:
    network = tiny().net
    values, time, told = torch.randn(2, 4), torch.tensor([3, 60]), torch.randn(2, 16)
    before = network(values, time, told)
    other = values.clone()
    other[:, 0] += 1
    for found in (
        network(values, time, told.flip(0)),
        network(values, time.flip(0), told),
        network(other, time, told)[:, 1:],
    ):
        assert (found - before[:, -found.shape[1] :]).abs().max() > 1e-3


def test_average_follows_the_weights() -> None:
    layer = torch.nn.Linear(2, 1)
    average, warm = Average(layer, 0.9, warm=False), Average(layer, 0.9, warm=True)
    wanted = [p.detach().clone() for p in layer.parameters()]
    wanted_warm = [p.clone() for p in wanted]
    for n in range(3):
        with torch.no_grad():
            for p in layer.parameters():
                p.add_(1.0)
        average.update(layer)
        warm.update(layer)
        wanted = [0.9 * w + 0.1 * p for w, p in zip(wanted, layer.parameters(), strict=True)]
        kept = (1 + n) / (10 + n)
        wanted_warm = [kept * w + (1 - kept) * p for w, p in zip(wanted_warm, layer.parameters(), strict=True)]
    x = torch.randn(4, 2)
    for each, (weight, bias) in ((average, wanted), (warm, wanted_warm)):
        torch.testing.assert_close(each.call(layer, x), x @ weight.T + bias)
    average.start(layer)
    torch.testing.assert_close(average.call(layer, x), layer(x))


def test_predictions_are_those_of_the_average() -> None:
    network, features = tiny(), torch.randn(3, 3)
    before = network.sample(features, 2)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    torch.testing.assert_close(network.sample(features, 2), before, rtol=0, atol=0)


# The diffusion


def test_steps_that_are_kept() -> None:
    fifty = kept_steps(1000, "50")
    assert [*fifty[:3], fifty[-1], len(fifty)] == [0, 20, 41, 999, 50]
    assert kept_steps(1000, "ddim50").tolist() == list(range(0, 1000, 20))
    assert kept_steps(1000, "1000").tolist() == list(range(1000))
    assert kept_steps(10, "1").tolist() == [9]


@pytest.mark.parametrize("spacing", ["0", "1001", "ddim", "-3", "5.5", "fifty", ""])
def test_spacings_that_are_none_are_refused(spacing: str) -> None:
    with pytest.raises(ValueError, match="expected a number of steps from 1 to 1000"):
        build("stem", 3, {"features": 2}, hyperparameters={"spacing": spacing})


@pytest.mark.parametrize(
    ("name", "value"), [("scale", "log"), ("learns", "values"), ("vlb_t0", "poisson"), ("heads", 5)]
)
def test_settings_that_are_none_are_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"expected .*{name}"):
        build("stem", 3, {"features": 2}, hyperparameters={name: value})


def test_a_step_back_is_the_posterior_of_gaussians() -> None:
    """Of x_0 and of x_t given x_{t-1}, multiplied out."""
    diffusion, t = Diffusion(1000), torch.tensor([400])
    added = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    kept = (1 - added).cumprod(0)
    before, step = kept[399], added[400]
    precision = (1 - step) / step + 1 / (1 - before)
    clean, noisy = torch.tensor([[0.7, -1.0]]).double(), torch.tensor([[0.2, 2.0]]).double()
    mean = (noisy * (1 - step).sqrt() / step + before.sqrt() * clean / (1 - before)) / precision
    torch.testing.assert_close(
        diffusion.mean_back(clean.float(), noisy.float(), t).double(), mean, rtol=1e-4, atol=1e-5
    )
    bounds = diffusion.log_variance(torch.tensor([[-1.0, 1.0]]), t).double()
    torch.testing.assert_close(bounds.exp(), torch.stack([1 / precision, step])[None], rtol=1e-4, atol=0)
    noise = torch.randn(1, 2)
    made = diffusion.noisy(clean.float(), t, noise)
    torch.testing.assert_close(diffusion.clean(made, t, noise), clean.float(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spacing", ["7", "ddim7"])
def test_fewer_steps_lose_no_noise(spacing: str) -> None:
    whole, some = Diffusion(100), Diffusion(100, spacing)
    torch.testing.assert_close(some.signal, whole.signal[some.step])
    torch.testing.assert_close(some.signal.square() + some.noise.square(), torch.ones(7))


@pytest.mark.parametrize("at_0", ["gaussian", "image", "none"])
def test_the_bound_is_a_divergence_and_at_the_last_step_a_likelihood(at_0: Any) -> None:
    diffusion = Diffusion(100)
    time = torch.tensor([0, 1, 40, 99])
    values, drawn = 0.5 * torch.randn(4, 6), torch.randn(4, 6)
    noisy = diffusion.noisy(values, time, drawn)
    found, between = drawn + 0.3 * torch.randn(4, 6), torch.rand(4, 6) * 2 - 1
    bound = diffusion.bound(values, noisy, time, found, between, at_0)
    mean = diffusion.mean_back(diffusion.clean(noisy, time, found), noisy, time)
    model = Normal(mean, torch.exp(0.5 * diffusion.log_variance(between, time)))
    truth = Normal(diffusion.mean_back(values, noisy, time), torch.exp(0.5 * diffusion.low[time])[:, None].expand(4, 6))
    expected = kl_divergence(truth, model).mean(dim=1)
    if at_0 == "none":
        expected[0] = 0
    elif at_0 == "gaussian":
        expected[0] = -model.log_prob(values)[0].mean()
    else:
        bins = model.cdf(values + 1 / 255) - model.cdf(values - 1 / 255)
        expected[0] = -torch.where(values > 0.999, 1 - model.cdf(values - 1 / 255), torch.where(values < -0.999, model.cdf(values + 1 / 255), bins))[0].clamp_min(1e-12).log().mean()  # fmt: skip
    torch.testing.assert_close(bound, expected / np.log(2), rtol=2e-3, atol=1e-3)


def test_the_bound_trains_the_variance_alone() -> None:
    network = tiny().train()
    values, features = torch.randn(20, 4), torch.randn(20, 3)
    parts = network.losses(values, features, torch.randint(1, 100, (20,)), torch.randn(20, 4))
    (rows,) = torch.autograd.grad(parts["bound"], [network.net.head.weight])
    assert not rows[0].any()
    assert rows[1].abs().sum() > 0


# What is drawn


def test_noise_of_keys_is_normal_and_of_each_key_its_own() -> None:
    keys = mixed(torch.arange(2000), 7)
    noise = keyed_normal(keys, 50)
    assert stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    between_genes = np.corrcoef(noise.T) - np.eye(50)
    assert np.abs(between_genes).max() < 5 / np.sqrt(2000)
    assert abs(np.corrcoef(noise[:-1].flatten(), noise[1:].flatten())[0, 1]) < 4 / np.sqrt(1e5)
    torch.testing.assert_close(keyed_normal(keys[[5, 3]], 50), noise[[5, 3]], rtol=0, atol=0)
    torch.testing.assert_close(keyed_normal(keys, 20), noise[:, :20], rtol=0, atol=0)
    assert len(mixed(torch.arange(100_000), 0).unique()) == 100_000
    bits = (mixed(torch.arange(20_000), 3)[:, None] >> torch.arange(64)) & 1
    assert (bits.float().mean(dim=0) - 0.5).abs().max() < 5 * 0.5 / np.sqrt(20_000)


@pytest.mark.parametrize("spacing", ["10", "ddim10"])
def test_samples_belong_to_the_observation_the_seed_and_their_number(spacing: str) -> None:
    network = tiny(spacing=spacing)
    rng = np.random.default_rng(0)
    codes = np.zeros(11, dtype=np.int64)
    data = ArraySet(codes, codes, {"features": rng.normal(size=(11, 3)).astype(np.float32)}, identity=rng.integers(1e9, size=11))  # fmt: skip

    def drawn(part: ArraySet = data, n_samples: int = 4, seed: int = 1, **options: Any) -> np.ndarray:
        return predict_arrays(network, part, n_samples=n_samples, seed=seed, **options).samples

    whole = drawn()
    assert whole.shape == (11, 4, 4)
    np.testing.assert_array_equal(drawn(), whole)
    close = {"rtol": 1e-4, "atol": 1e-4}
    for size in (1, 3, 7):
        np.testing.assert_allclose(drawn(batch_size=size), whole, **close)
    order = np.array([8, 2, 5])
    np.testing.assert_allclose(drawn(data.take(order)), whole[order], **close)
    np.testing.assert_allclose(drawn(n_samples=2), whole[:, :2], **close)
    features, identity = torch.from_numpy(data["features"]), torch.from_numpy(data.identity)
    with torch.inference_mode():
        later = network.sample(features, 2, seed=1, identity=identity, first=2)
    np.testing.assert_allclose(later, whole[:, 2:], **close)
    assert np.abs(drawn(seed=2) - whole).mean() > 0.05
    assert np.abs(whole[:, :1] - whole[:, 1:]).mean() > 0.05
    same = ArraySet(codes, codes, {"features": data["features"][:1].repeat(11, axis=0)}, identity=data.identity)
    assert np.unique(drawn(same)[:, 0, 0]).size == 11


def test_many_samples_are_drawn_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from stpredict.models import _stem

    network, features = tiny(), torch.randn(30, 3)
    whole = network.sample(features, 20)
    rows: list[int] = []
    found = network.found
    monkeypatch.setattr(network, "found", lambda values, *rest: (rows.append(len(values)), found(values, *rest))[1])
    monkeypatch.setattr(_stem, "_HELD_ON_CPU", 4 * 16 * 4 * 70 // torch.get_num_threads())
    torch.testing.assert_close(network.sample(features, 20), whole, rtol=1e-4, atol=1e-4)
    assert max(rows) == 70
    assert len(rows) == 10 * -(-600 // 70)


def test_targets_are_scaled_by_gene_unless_they_are_not() -> None:
    """Training on a target in another unit gives the same network, and predictions in that unit."""
    rng = np.random.default_rng(0)
    codes = np.arange(40) // 10
    inputs = {"features": rng.normal(size=(40, 3)).astype(np.float32)}
    values = rng.normal(size=(40, 2)).astype(np.float32)
    config = train_config("stem", {"max_epochs": 1, "patience": 0})

    def mean(target: np.ndarray, **options: Any) -> np.ndarray:
        data = ArraySet(codes, codes // 2, inputs, target=target)
        return predict_arrays(
            fit_arrays("stem", data, hyperparameters=TINY | options, config=config).network, data
        ).mean

    other = values * np.float32(4) + np.float32(8)
    np.testing.assert_allclose(mean(other), 4 * mean(values) + 8, rtol=1e-3, atol=1e-2)
    assert np.abs(mean(other, scale="none") - 4 * mean(values, scale="none") - 8).mean() > 0.5


def test_only_expression_is_predicted(toy: Any) -> None:
    toy.obs["score"] = np.arange(toy.n_obs) / 10
    with pytest.raises(ValueError, match="expected genes as the target of 'stem'"):
        stp.tl.fit(toy, "stem", target="score")


# Distributions that are known


def center(u: np.ndarray) -> np.ndarray:
    return np.stack([5 + 1.2 * u, 3 + u], axis=1)


def examples(n: int, seed: int) -> tuple[ArraySet, np.ndarray]:
    """A normal gene, and one with two modes, around centers that follow the features."""
    rng = np.random.default_rng(seed)
    u = rng.uniform(-1, 1, n)
    mode = GAP * rng.choice([-1, 1], n)
    target = center(u) + np.stack([0 * mode, mode], axis=1) + STD * rng.normal(size=(n, 2))
    features = (u[:, None] * WAYS).astype(np.float32)
    return ArraySet(
        np.arange(n) * 4 // n, np.arange(n) * 2 // n, {"features": features}, target=target.astype(np.float32)
    ), u


@pytest.fixture(scope="module")
def learned() -> Any:
    """A network that has seen 4,000 examples; 1,000 steps of diffusion."""
    torch.set_num_threads(1)
    options = {"hidden": 32, "depth": 1, "heads": 1, "average": 0.99}
    training = {"max_epochs": 40, "patience": 0, "learning_rate": 6e-3, "schedule": "cosine"}
    data, _ = examples(4096, 0)
    return fit_arrays("stem", data, hyperparameters=options, config=train_config("stem", training)).network


@pytest.fixture(scope="module")
def tested(learned: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth (300, 2), its centers, and 20 samples of each by 50 steps."""
    data, u = examples(300, 1)
    found = predict_arrays(learned, data, n_samples=20, seed=3)
    return data.target, center(u), found.samples


def test_means_and_variances_are_those_of_the_distribution(learned: Any, record_property: Any) -> None:
    u = np.linspace(-0.8, 0.8, 5)
    with torch.inference_mode():
        drawn = learned.sample(torch.from_numpy((u[:, None] * WAYS).astype(np.float32)), 800).numpy()
    mean = drawn.mean(axis=1) / center(u)
    variance = drawn.var(axis=1) / (STD**2 + np.array([0, GAP**2]))
    record_property(
        "printed", f"stem: means off by {np.abs(mean - 1).max():.3f}, variances {variance.mean(axis=0).round(3)}"
    )
    assert np.abs(mean.mean(axis=0) - 1).max() < 0.1
    assert np.abs(variance.mean(axis=0) - 1).max() < 0.1

    away = drawn[:, :, 1] - center(u)[:, None, 1]
    upper = away > 0
    assert abs(upper.mean() - 0.5) < 0.1
    for side, sign in ((upper, 1), (~upper, -1)):
        assert abs(sign * away[side].mean() / GAP - 1) < 0.1
        assert abs(away[side].std() / STD[1] - 1) < 0.3
    assert (np.abs(away) < 0.5).mean() < 0.08  # a normal gene of this mean and variance has 25 % there


def test_intervals_hold_as_much_as_they_say_and_no_mean_is_as_good(tested: Any, record_property: Any) -> None:
    truth, mean, drawn = tested
    low, high = m.sample_quantiles(drawn, [0.05, 0.95]).transpose(1, 0, 2)
    coverage = m.interval_coverage(truth, low, high)
    record_property("printed", f"stem: coverage {coverage.round(3)}")
    assert np.abs(coverage - 0.9).max() < 0.05
    # The best that a model of the mean can do: the mean itself, and with it the best normal distribution.
    spread = np.broadcast_to(np.sqrt(STD**2 + np.array([0, GAP**2])), mean.shape)
    normal, found = m.crps_normal(truth, mean, spread), m.crps(truth, drawn)
    assert (found < 0.8 * m.crps(truth, mean[:, None])).all()
    assert found[1] < normal[1]
    assert abs(found[0] / normal[0] - 1) < 0.05


def test_relative_variance_distance_is_lower_on_samples_than_on_means(tested: Any, record_property: Any) -> None:
    truth, _, drawn = tested
    on_samples, on_means = (m.relative_variance_distance(truth, x).mean() for x in (drawn, drawn.mean(axis=1)))
    record_property("printed", f"stem: RVD {on_samples:.3f} on samples, {on_means:.3f} on means")
    assert on_samples < 0.1 < on_means


def test_few_steps_predict_what_all_steps_predict(learned: Any, record_property: Any) -> None:
    data, u = examples(36, 2)
    features = torch.from_numpy(data["features"])

    def r(spacing: str, n_samples: int) -> float:
        with torch.inference_mode():
            mean = learned.sample(features, n_samples, spacing=spacing).mean(dim=1).numpy()
        return float(m.pearson(center(u), mean).mean())

    whole = r("1000", 25)
    some = {spacing: r(spacing, 25) for spacing in ("100", "50")}
    implicit, drawn = r("ddim50", 100), r("50", 100)
    record_property(
        "printed", f"stem: r {whole:.3f} by 1000 steps, {some}; of more samples {drawn:.3f}, ddim50 {implicit:.3f}"
    )
    assert whole > 0.85
    for found in some.values():
        assert abs(found - whole) < 0.02
    assert abs(implicit - drawn) < 0.02


def test_the_mean_is_shrunk_by_what_held_out_rows_say_and_samples_are_not() -> None:
    """Genes that features say nothing of: a mean of samples is their noise."""
    rng = np.random.default_rng(0)
    data = ArraySet(
        section=np.repeat(np.arange(4), 40),
        patient=np.repeat(np.arange(4), 40),
        inputs={"features": rng.normal(size=(160, 3)).astype(np.float32)},
        target=rng.normal(size=(160, 6)).astype(np.float32),
    )
    means = {}
    for shrink in (True, False):
        config = train_config("stem").updated({"max_epochs": 2, "patience": 2, "batch_size": 40})
        fit = fit_arrays("stem", data, hyperparameters=TINY | {"shrink": shrink}, config=config)
        found = predict_arrays(fit.network, data, n_samples=20)
        means[shrink] = found.mean
        facts = fit.network.facts()
        np.testing.assert_allclose(found.samples.mean(axis=1).std(axis=0), 20**-0.5, rtol=0.35)
    assert facts == {}
    assert 1 - np.mean((data.target - means[False]) ** 2) / np.mean(data.target**2) < -0.03
    assert abs(1 - np.mean((data.target - means[True]) ** 2) / np.mean(data.target**2)) < 0.01
    for gene in range(6):  # the order of the rows stays
        assert np.corrcoef(means[True][:, gene], means[False][:, gene])[0, 1] > 0.99
