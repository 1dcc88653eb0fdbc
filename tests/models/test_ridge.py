from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge as SklearnRidge
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from stpredict.models import Batch, Shape
from stpredict.models._ridge import Ridge, RidgeConfig, inner_folds
from stpredict.training.targets import CountsTarget


def make_batch(n: int = 90, d: int = 12, n_genes: int = 4, seed: int = 0, noise: float = 1.0) -> Batch:
    """Three patients with two sections each; features of very different scale, one of them constant."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n, d)) * np.geomspace(0.1, 100, d) + 5
    features[:, 3] = 7.0
    weight = rng.normal(size=(d, n_genes)) / np.geomspace(0.1, 100, d)[:, None]
    target = features @ weight + noise * rng.normal(size=(n, n_genes)) + 3
    section = np.arange(n) * 6 // n
    return Batch(
        section=torch.from_numpy(section),
        patient=torch.from_numpy(section // 2),
        inputs={
            "positions": torch.from_numpy(rng.uniform(0, 100, (n, 2))).float(),
            "features": torch.from_numpy(features).float(),
        },
        target=torch.from_numpy(target).float(),
    )


def solved(batch: Batch, **config) -> Ridge:
    network = Ridge(RidgeConfig(**config), Shape(batch.target.shape[1], {"features": batch["features"].shape[1]}))
    network.target_std.copy_(batch.target.std(dim=0))
    network.finish([batch])
    return network.eval()


def mean_of(network: Ridge, batch: Batch) -> np.ndarray:
    with torch.no_grad():
        return network(batch).mean.numpy()


@pytest.mark.parametrize("alpha", [0.001, 0.3, 30.0])
def test_equals_sklearn(alpha: float) -> None:
    batch, new = make_batch(), make_batch(seed=1)
    x, y = batch["features"].numpy().astype(np.float64), batch.target.numpy().astype(np.float64)
    # All components: a rotation that ridge does not notice. The penalty is per training observation.
    reference = make_pipeline(StandardScaler(), PCA(), SklearnRidge(alpha=alpha * len(x))).fit(x, y)
    network = solved(batch, alpha=alpha, n_components=100)
    np.testing.assert_allclose(mean_of(network, new), reference.predict(new["features"].numpy()), rtol=1e-3, atol=1e-3)
    assert float(network.alpha) == pytest.approx(alpha)


@pytest.mark.parametrize("n_components", [1, 4])
def test_few_components_equal_sklearn(n_components: int) -> None:
    batch, new = make_batch(), make_batch(seed=1)
    x, y = batch["features"].numpy().astype(np.float64), batch.target.numpy().astype(np.float64)
    pipeline = make_pipeline(
        StandardScaler(), PCA(n_components, svd_solver="full"), SklearnRidge(alpha=0.1 * len(x))
    ).fit(x, y)
    predicted = mean_of(solved(batch, alpha=0.1, n_components=n_components), new)
    np.testing.assert_allclose(predicted, pipeline.predict(new["features"].numpy()), rtol=1e-3, atol=1e-3)


def test_penalty_is_chosen_by_patient_and_for_all_genes() -> None:
    """The error of each penalty, computed with sklearn, fold by fold."""
    batch = make_batch(noise=4.0)
    alphas = (0.001, 0.1, 1.0, 10.0)
    x, y = batch["features"].numpy().astype(np.float64), batch.target.numpy().astype(np.float64)
    section, patient = batch.section.numpy(), batch.patient.numpy()

    def within(values: np.ndarray, codes: np.ndarray) -> np.ndarray:
        return values - np.stack([values[codes == code].mean(axis=0) for code in codes])

    errors = np.zeros((len(alphas), y.shape[1]))
    for held_out in range(3):
        test = patient == held_out
        for i, alpha in enumerate(alphas):
            fit = make_pipeline(StandardScaler(), SklearnRidge(alpha=alpha * (~test).sum())).fit(x[~test], y[~test])
            residual = within(fit.predict(x[test]), section[test]) - within(y[test], section[test])
            errors[i] += (residual**2).sum(axis=0)
    best = int((errors / y.var(axis=0)).mean(axis=1).argmin())
    network = solved(batch, alphas=alphas)
    assert float(network.alpha) == pytest.approx(alphas[best])
    np.testing.assert_allclose(network.residual_std.numpy(), np.sqrt(errors[best] / len(x)), rtol=1e-3)


def test_noise_asks_for_a_larger_penalty() -> None:
    clean, noisy = solved(make_batch(noise=0.01)), solved(make_batch(noise=30.0))
    assert float(noisy.alpha) > float(clean.alpha)
    assert (noisy.residual_std > clean.residual_std).all()


def held_out(batch: Batch) -> list[int]:
    """Number of the fold that holds out each row."""
    return torch.stack([held for _, held in inner_folds(batch)]).int().argmax(dim=0).tolist()


def test_inner_folds() -> None:
    batch = make_batch()
    assert held_out(batch) == batch.patient.tolist()
    batch.patient = torch.zeros_like(batch.patient)
    assert held_out(batch) == batch.section.tolist()
    assert all(torch.equal(train, ~held) for train, held in inner_folds(batch))
    batch.section = torch.zeros_like(batch.section)
    batch["positions"][:, 1] *= 3  # stripes lie across the longer side
    stripes = torch.tensor(held_out(batch))
    assert torch.bincount(stripes).tolist() == [18] * 5
    assert (stripes[batch["positions"][:, 1].argsort()].diff() >= 0).all()
    del batch.inputs["positions"]
    assert inner_folds(batch) == []


@pytest.mark.parametrize("reach", [5.0, 12.0])
def test_stripes_of_a_section_lie_behind_a_buffer(reach: float) -> None:
    batch = replace(make_batch(), patient=torch.zeros(90).long(), section=torch.zeros(90).long(), reach_um=reach)
    x = batch["positions"].numpy()
    for train, held in inner_folds(batch):
        assert held.sum() == 18
        gap = np.abs(x[train][:, None] - x[held]).max(axis=2).min(axis=1)
        assert gap.min() >= reach
        left = np.abs(x[~train & ~held][:, None] - x[held]).max(axis=2).min(axis=1)
        assert len(left) > 0
        assert left.max() < reach


def test_a_buffer_as_wide_as_the_section_leaves_no_inner_folds() -> None:
    batch = replace(make_batch(), patient=torch.zeros(90).long(), section=torch.zeros(90).long(), reach_um=80.0)
    assert inner_folds(batch) == []
    assert float(solved(batch, alphas=(0.1, 1.0, 10.0)).alpha) == 1.0


@pytest.mark.parametrize("counts", [False, True])
def test_features_shared_with_neighbors_ask_for_a_larger_penalty_behind_a_buffer(counts: bool) -> None:
    """Columns of a lattice share features and noise in pairs: a stripe that begins between two of a pair is no test."""
    rng = np.random.default_rng(3)
    place = np.stack(np.meshgrid(np.arange(40.0), np.arange(5.0)), axis=-1).reshape(-1, 2)
    pair = ((place[:, 0] - 7) // 2).astype(int) + 4  # each border of a stripe of 8 columns is within a pair
    features, noise = (np.take(rng.normal(size=(30, d)), pair, axis=0) for d in (60, 3))
    values = np.exp(0.8 * noise + 0.1 * features[:, :3])
    nothing = torch.zeros(200).long()
    target: Any = torch.from_numpy(np.log(values)).float()
    kind = None
    if counts:
        kind = CountsTarget(("a", "b", "c"), (0.01,) * 3, (), (1000.0,))
        target = torch.from_numpy(np.hstack([rng.poisson(20 * values), np.full((200, 3), 1000)])).float()
    batch = Batch(
        nothing, nothing, {"positions": torch.from_numpy(place).float(), "features": torch.from_numpy(features).float()},
        target=target, kind=kind,
    )  # fmt: skip

    def alpha(reach: float) -> float:
        network = Ridge(RidgeConfig(), Shape(3, {"features": 60}))
        network.finish([replace(batch, reach_um=reach)])
        return float(network.alpha)

    assert alpha(1.5) > alpha(0.0)


def test_group_without_inner_folds_uses_the_middle_penalty() -> None:
    batch = make_batch()
    batch.patient, batch.section = batch.patient * 0, batch.section * 0
    del batch.inputs["positions"]
    assert float(solved(batch, alphas=(0.1, 5.0, 50.0)).alpha) == pytest.approx(5.0)


def test_rank() -> None:
    batch = make_batch(n_genes=6)
    network = solved(batch, alpha=0.1, rank=2)
    assert np.linalg.matrix_rank(network.weight.double().numpy(), tol=1e-5 * float(network.weight.abs().max())) == 2
    full = mean_of(solved(batch, alpha=0.1), batch)
    # The best map of this rank, in the metric of the fitted values: their truncated singular value decomposition.
    centered = full - full.mean(axis=0)
    u, s, v = np.linalg.svd(centered, full_matrices=False)
    shrunk = np.sqrt(((full - mean_of(network, batch)) ** 2).sum())
    optimum = np.sqrt((s[2:] ** 2).sum())
    assert optimum * 0.999 <= shrunk <= 1.1 * optimum
    np.testing.assert_allclose(mean_of(solved(batch, alpha=0.1, rank=6), batch), full, atol=1e-4)


def test_center_section_ignores_shifts_between_sections() -> None:
    batch = make_batch(noise=0.1)
    plain = solved(batch, alpha=0.01, center="section")
    rng = np.random.default_rng(5)
    shifted = make_batch(noise=0.1)
    shifted.inputs["features"] = batch["features"] + torch.from_numpy(rng.normal(0, 50, (6, 12))).float()[batch.section]
    shifted.target = batch.target + torch.from_numpy(rng.normal(0, 50, (6, 4))).float()[batch.section]
    moved = solved(shifted, alpha=0.01, center="section")
    np.testing.assert_allclose(moved.weight.numpy(), plain.weight.numpy(), rtol=2e-2, atol=1e-3)
    assert not np.allclose(solved(shifted, alpha=0.01).weight.numpy(), plain.weight.numpy(), rtol=0.1, atol=1e-2)
    np.testing.assert_allclose(mean_of(moved, shifted).mean(axis=0), shifted.target.numpy().mean(axis=0), atol=1e-2)


def test_center_section_equals_sklearn_on_centered_rows() -> None:
    batch = make_batch()
    x, y = batch["features"].double(), batch.target.double()
    one_hot = torch.nn.functional.one_hot(batch.section).double()
    x, y = ((each - one_hot @ ((one_hot / one_hot.sum(0)).T @ each)).numpy() for each in (x, y))
    scale = x.std(axis=0)
    scale[scale < 1e-6] = 1
    reference = SklearnRidge(alpha=0.2 * len(x), fit_intercept=False).fit(x / scale, y)
    network = solved(batch, alpha=0.2, center="section")
    np.testing.assert_allclose(network.weight.numpy(), (reference.coef_ / scale).T, rtol=1e-3, atol=1e-4)


def test_constant_gene_and_more_features_than_observations() -> None:
    batch = make_batch(n=18, d=40)
    batch.target[:, 1] = 2.0
    network = solved(batch)
    predicted = mean_of(network, batch)
    assert np.isfinite(predicted).all()
    np.testing.assert_allclose(predicted[:, 1], 2.0, atol=1e-4)
    assert (network.residual_std > 0).all()


def test_single_penalty_matches_generalized_cross_validation_in_order() -> None:
    """Ours and sklearn's leave-one-out need not pick the same penalty, but neither may be far off."""
    batch = make_batch(n=300, noise=8.0)
    x = StandardScaler().fit_transform(batch["features"].numpy().astype(np.float64))
    alphas = RidgeConfig().alphas
    reference = RidgeCV(np.array(alphas) * len(x)).fit(x, batch.target.numpy())
    ratio = float(solved(batch).alpha) / (reference.alpha_ / len(x))
    assert 0.09 < ratio < 11


def test_kinds_of_features_weigh_the_same_whatever_their_width() -> None:
    batch, new = make_batch(), make_batch(seed=1)
    x, y = batch["features"].numpy().astype(np.float64), batch.target.numpy().astype(np.float64)
    kinds, alpha = (2, 10), 0.3
    weight = np.repeat([1 / np.sqrt(2 * 2 / 12), 1 / np.sqrt(10 * 2 / 12)], kinds)
    scaler = StandardScaler().fit(x)
    reference = SklearnRidge(alpha=alpha * len(x)).fit(scaler.transform(x) * weight, y)
    expected = reference.predict(scaler.transform(new["features"].numpy()) * weight)
    network = solved(batch, alpha=alpha, n_components=100, kinds=kinds)
    np.testing.assert_allclose(mean_of(network, new), expected, rtol=1e-3, atol=1e-3)
    alike = solved(batch, alpha=alpha, n_components=100)
    for same in ((6, 6), (12,), "slots"):
        np.testing.assert_array_equal(
            mean_of(solved(batch, alpha=alpha, n_components=100, kinds=same), new), mean_of(alike, new)
        )


@pytest.mark.parametrize("kinds", [(5, 6), (12, 0), (13, -1)])
def test_kinds_that_do_not_fit_are_refused(kinds: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="expected widths in `kinds` that sum to 12 features"):
        solved(make_batch(), kinds=kinds)


@pytest.mark.parametrize("seed", [0, 1])
def test_wide_features_of_one_section_say_nothing_of_genes_without_a_pattern(seed: int) -> None:
    """A few strong components carry hundreds of features: a penalty of 100 leaves most of their slopes."""
    rng = np.random.default_rng(seed)
    n, d = 280, 800
    features = rng.normal(size=(n, 5)) @ rng.normal(size=(5, d)) + 0.5 * rng.normal(size=(n, d))
    one = torch.zeros(n, dtype=torch.long)
    places = torch.from_numpy(100.0 * np.stack(np.divmod(np.arange(n), 20), axis=1)).float()
    inputs = {"features": torch.from_numpy(features).float(), "positions": places}
    batch = Batch(one, one, inputs, torch.from_numpy(rng.normal(size=(n, 60))).float())
    network = solved(batch)
    assert float(network.alpha) > 100
    assert mean_of(network, batch).var(axis=0).mean() < 0.001 * batch.target.numpy().var(axis=0).mean()


@pytest.mark.parametrize("center", ["global", "section"])
@pytest.mark.parametrize("n_patients", [1, 3])
def test_blocks_of_rows_and_groups_of_genes_change_nothing(
    center: str, n_patients: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch(noise=4.0)
    batch.patient = batch.patient % n_patients
    whole = solved(batch, center=center)
    rows = [slice(0, 7), slice(7, 60), slice(60, 90)]
    parts = [
        replace(
            batch, section=batch.section[part], patient=batch.patient[part], target=batch.target[part],
            inputs={name: values[part] for name, values in batch.inputs.items()},
        )
        for part in rows
    ]  # fmt: skip
    monkeypatch.setattr("stpredict.models._ridge._BYTES", 1)
    network = Ridge(RidgeConfig(center=center), Shape(4, {"features": 12}))  # type: ignore[arg-type]
    network.finish(parts)
    assert float(network.alpha) == float(whole.alpha)
    for name in ("weight", "target_mean", "residual_std"):
        torch.testing.assert_close(getattr(network, name), getattr(whole, name), rtol=1e-6, atol=1e-7)
