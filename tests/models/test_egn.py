"""EGN."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from torch.nn import functional as F

from stpredict.models import Batch, Shape, Summary, get_model
from stpredict.models._egn import EGN, EGNConfig, _Edges
from stpredict.training import (
    ArraySet,
    FittedModel,
    TrainingFacts,
    fit_arrays,
    predict_arrays,
    train_config,
    untrained,
)
from stpredict.training.targets import ClassTarget, ExpressionTarget

GENES, D, N = 4, 6, 12
SMALL = EGNConfig(hidden=16, layers=2)
SHAPE = Shape(GENES, {"features": D})


def batch(section, patient, n=N, target=True, seed=None, **changes):
    """One section on a lattice."""
    rng = np.random.default_rng(section if seed is None else seed)
    row, column = np.divmod(np.arange(n), 4)
    inputs = {
        "features": torch.tensor(rng.normal(size=(n, D))).float(),
        "positions": torch.tensor(np.stack([column, row], axis=1) * 200.0).float(),
    }
    measured = torch.tensor(rng.normal(size=(n, GENES))).float() if target else None
    return Batch(torch.full((n,), section), torch.full((n,), patient), inputs | changes, target=measured)


def cohort(patients=(0, 0, 1, 1)):
    return [batch(section, patient) for section, patient in enumerate(patients)]


def network(batches=None, **changes):
    torch.manual_seed(0)
    net = EGN(replace(SMALL, **changes), SHAPE)
    torch.nn.init.normal_(net.head.mean.weight, std=0.3)
    moments = {"features": (torch.ones(D), torch.full((D,), 3.0))}
    net.prepare(Summary(1, torch.arange(GENES).float(), torch.full((GENES,), 2.0), moments))
    net.remember(cohort() if batches is None else batches)
    return net


def test_defaults_are_the_published_sizes():
    assert (EGNConfig().hidden, EGNConfig().layers, EGNConfig().neighbors, EGNConfig().pcc) == (512, 4, 5, 0.5)
    assert (EGNConfig().exemplars, EGNConfig().exemplar_neighbors, EGNConfig().same_patient) == (3, 3, False)
    with torch.device("meta"):
        net = EGN(EGNConfig(), Shape(250, {"features": 512}))
    sizes = {name: sum(p.numel() for p in child.parameters()) for name, child in net.named_children()}
    square = 512 * 512
    assert sizes["spot"] == square
    assert sizes["exemplar_features"] + sizes["exemplar_expression"] == (512 + 250) * 512
    assert (sizes["common"], sizes["expression"]) == (square, 250 * 512)
    sage, bridge = 2 * square + 512, 3 * square + 512 * 128 + 128 * 256 + 256 + 2 * (square + 512)
    assert sizes["layers"] == 4 * (2 * sage + bridge)
    assert (sizes["pool"], sizes["head"]) == (square + 512 + 1, 512 * 250 + 250)
    config = train_config("egn")
    assert (config.optimizer, config.learning_rate) == ("adamw", 5e-4)
    assert (EGN.draws, EGN.several_sections) == ("sections", False)
    assert get_model("egn").cls is EGN
    assert net.needs == {"features", "positions"}


# What a spot may look up.


def test_no_training_spot_looks_up_a_spot_of_its_patient():
    net = network()
    for part in cohort():
        index, exists = net.exemplars(part)
        assert exists.all()
        assert (net.bank.patient[index] != part.patient[:, None]).all()


@pytest.mark.parametrize("mode", [True, False])
def test_measurements_of_the_own_patient_have_no_influence(mode):
    """Whatever was measured on the query's patient, its own spots included, is never read: not in training, not after."""
    net = network().train(mode)
    part = cohort()[2]
    with torch.no_grad():
        plain = net(part).mean
        net.bank.values[net.bank.patient == 1] = torch.nan
        assert torch.equal(net(part).mean, plain)
        part.target = None
        assert torch.equal(net(part).mean, plain)
        net.bank.values[net.bank.patient == 0] += 1
        assert (net(part).mean - plain).abs().max() > 1e-4


def test_where_exemplars_are_few_the_gap_is_not_filled_with_own_spots():
    net = network([batch(0, 0), batch(1, 1, n=2)], exemplars=5)
    index, exists = net.exemplars(batch(0, 0))
    assert exists.sum(dim=1).tolist() == [2] * N
    with torch.no_grad():
        net.bank.values[net.bank.patient == 0] = torch.nan
        assert torch.isfinite(net(batch(0, 0)).mean).all()


def test_of_a_single_patient_other_sections_are_looked_up_in_training_and_validation():
    net = network(cohort((0, 0, 0)))
    for part in cohort((0, 0, 0)):
        index, _ = net.exemplars(part)
        assert (net.bank.section[index] != part.section[:, None]).all()
    held_out = batch(7, 0)
    assert net.exemplars(held_out)[1].all()
    with torch.no_grad():
        part = cohort((0, 0, 0))[1]
        plain = net(part).mean
        net.bank.values[net.bank.section == 1] = torch.nan
        assert torch.equal(net(part).mean, plain)


def test_a_prediction_for_the_only_training_patient_is_refused():
    net = network(cohort((0, 0, 0)))
    with pytest.raises(ValueError, match="another patient to look up.*same_patient=True"):
        net.exemplars(batch(0, 0, target=False))
    assert net.exemplars(batch(0, -1, target=False))[1].all()


def test_a_stranger_looks_up_everybody():
    net = network()
    query = batch(3, -1, target=False)  # numbers of sections mean nothing at prediction
    index, _ = net.exemplars(query)
    distance = torch.cdist((query["features"] - 1) / 3, net.bank.keys)
    assert torch.equal(index, distance.topk(3, largest=False).indices)
    assert torch.equal(index[:, 0], torch.arange(N) + 3 * N)  # the same features are in the bank


def test_the_own_patient_is_looked_up_where_this_is_asked_for():
    net = network(same_patient=True)
    for part in cohort():
        index, _ = net.exemplars(part)
        assert (net.bank.section[index] != part.section[:, None]).all()
    assert (net.bank.patient[index] == part.patient[:, None]).any()
    query = batch(0, 1, target=False)
    assert torch.equal(net.exemplars(query)[0][:, 0], torch.arange(N))


@pytest.mark.parametrize("changes", [{}, {"same_patient": True}])
def test_a_single_section_is_refused_before_training(changes):
    with pytest.raises(ValueError, match=r"several patients, or of several sections .*found one section"):
        network([batch(0, 0)], **changes)


def test_an_empty_bank_is_named():
    net = EGN(SMALL, SHAPE)
    with pytest.raises(ValueError, match="empty retrieval bank"):
        net(batch(0, -1))


def test_classes_are_refused():
    classes = replace(batch(0, 0), target=torch.zeros(N, dtype=torch.long), kind=ClassTarget("kind", ("a", "b")))
    for part in (classes, batch(0, 0, target=False)):
        with pytest.raises(ValueError, match="expected measured expression to look up; found classes"):
            network([part, part])


def make(patients=(0, 0, 1, 1, 2, 2), n=9, seed=0):
    """Expression follows the features; a strong part of it belongs to the spot alone and can only be looked up."""
    rng = np.random.default_rng(seed)
    section = np.repeat(np.arange(len(patients)), n)
    features = rng.normal(size=(len(section), D)).astype(np.float32)
    row, column = np.divmod(np.arange(len(section)) % n, 3)
    target = np.tanh(features @ np.random.default_rng(9).normal(size=(D, GENES)))
    inputs = {"positions": (np.stack([column, row], axis=1) * 200).astype(np.float32), "features": features}
    return ArraySet(section, np.asarray(patients)[section], inputs, target=(2 + target).astype(np.float32))


OPTIONS = {"hidden": 16, "layers": 2}


def test_a_fitted_network_reads_no_target_of_the_query_or_its_patient():
    data = make()
    fit = fit_arrays("egn", data, hyperparameters=OPTIONS, config=train_config("egn", {"max_epochs": 2, "patience": 0}))
    net, part = fit.network, data.take(data.section == 0)
    plain = predict_arrays(net, part).mean
    part.target = part.target + 100
    np.testing.assert_array_equal(predict_arrays(net, part).mean, plain)
    net.bank.values[net.bank.patient == 0] += 100
    np.testing.assert_array_equal(predict_arrays(net, part).mean, plain)
    net.bank.values[net.bank.patient == 1] += 100
    assert np.abs(predict_arrays(net, part).mean - plain).max() > 1e-3


def test_the_loss_of_a_training_spot_has_no_path_to_its_own_row():
    """The gradient with respect to the expression in the bank is 0 for every row of the own patient."""
    for patients in ((0, 0, 1, 1), (0, 0, 0, 0)):
        net, part = network(cohort(patients)).train(), cohort(patients)[1]
        values = net.bank.values.clone().requires_grad_()
        net.bank.values = values
        net.loss(net(part), part)["total"].backward()
        own = net.bank.patient == 0 if patients[3] else net.bank.section == 1
        assert (values.grad[own] == 0).all()
        assert values.grad[~own].abs().sum() > 0


def test_gradient_steps_never_touch_the_own_row(monkeypatch):
    """In every step of both phases of a fit."""
    seen = []
    exemplars = EGN.exemplars

    def watched(self, part):
        index, exists = exemplars(self, part)
        own = self.bank.patient[index] == part.patient[:, None]
        seen.append((self.training, len(self.bank), bool((own & exists).any()), int(part.patient[0])))
        return index, exists

    monkeypatch.setattr(EGN, "exemplars", watched)
    data = make()
    config = train_config("egn", {"max_epochs": 2, "patience": 2})
    fit = fit_arrays("egn", data, hyperparameters=OPTIONS, config=config)
    assert config.refit
    assert fit.validated_on == "patient"
    assert not any(own for _, _, own, _ in seen)
    assert {size for training, size, _, _ in seen if training} == {36, 54}  # without the inner validation, then all
    validation = [(size, who) for training, size, _, who in seen if not training]
    assert {size for size, _ in validation} == {36}
    assert len(fit.network.bank) == 54


def test_the_bank_has_the_whole_training_set_and_outlives_saving(tmp_path):
    data = make()
    fit = fit_arrays("egn", data, hyperparameters=OPTIONS, config=train_config("egn", {"max_epochs": 1, "patience": 0}))
    net = fit.network
    np.testing.assert_array_equal(net.bank.values, data.target)
    np.testing.assert_array_equal(net.bank.patient, data.patient)
    model = FittedModel(
        model="egn", network=net, target=ExpressionTarget(tuple("abcd")), history=pd.DataFrame(),
        features={"slots": {}, "scaling": "global"}, training=TrainingFacts(["x"]),
    )  # fmt: skip
    loaded = FittedModel.load(model.save(tmp_path / "model")).network
    np.testing.assert_array_equal(predict_arrays(loaded, data).mean, predict_arrays(net, data).mean)
    weak = untrained("egn", data, hyperparameters=OPTIONS, seed=0)
    assert np.isfinite(predict_arrays(weak.network, data).mean).all()


def test_a_warm_start_leaves_bank_and_genes_behind():
    net, other = network(), EGN(SMALL, Shape(GENES + 1, {"features": D}))
    other.start_from(net)
    assert len(other.bank) == 0
    assert torch.equal(other.spot.weight, net.spot.weight)


# What is computed from it.


@torch.no_grad()
def test_equals_a_loop_over_spots_and_exemplars():
    net = network().eval()
    part = batch(5, 0, n=8, target=False)
    index, _ = net.exemplars(part)
    members = sorted(set(index.flatten().tolist()))
    features, values = net.bank.keys[members], (net.bank.values[members] - net.target_mean) / 2
    spots = net.common(net.spot((part["features"] - 1) / 3))
    exemplars = net.common(net.exemplar_features(features) + net.exemplar_expression(values))
    expression = net.expression(values)
    joined = torch.cat([features, values], dim=1)
    refers = [[members.index(j) for j in row] for row in index.tolist()]
    from stpredict.models.nn._graph import spatial_neighbors

    near, valid = spatial_neighbors(part["positions"], 5, reach=2**0.5)
    between = torch.cdist(part["positions"], part["positions"])
    assert between.gather(1, near)[valid].max() < 283
    for layer in net.layers:
        bridge = layer.bridge
        e, s = (F.leaky_relu(values, 0.2) for values in (bridge.exemplar(exemplars), bridge.spot(spots)))
        y = bridge.expression(expression)
        told_spots = torch.zeros_like(spots)
        told = {m: [] for m in range(len(members))}
        for i, row in enumerate(refers):
            messages = []
            for j in row:
                gate = torch.sigmoid(bridge.gate(bridge.compare(e[j]) - bridge.compare(s[i])))
                to_spot, to_exemplar = gate[:4].repeat_interleave(12), gate[4:].repeat_interleave(12)
                messages.append((torch.cat([e[j], y[j], s[i]]) * to_spot).reshape(3, 16).mean(dim=0))
                told[j].append((torch.cat([s[i], e[j], y[j]]) * to_exemplar).reshape(3, 16).mean(dim=0))
            told_spots[i] = torch.stack(messages).mean(dim=0)
        told_exemplars = torch.stack([torch.stack(told[m]).mean(dim=0) for m in range(len(members))])
        of_spots = torch.stack([
            layer.of_spots.of_neighbors(spots[near[i][valid[i]]].mean(dim=0)) + layer.of_spots.of_itself(spots[i])
            for i in range(8)
        ])  # fmt: skip
        distance = torch.cdist(joined, joined).fill_diagonal_(torch.inf)
        close = distance.topk(3, largest=False).indices
        of_exemplars = torch.stack([
            layer.of_exemplars.of_neighbors(exemplars[close[m]].mean(dim=0)) + layer.of_exemplars.of_itself(exemplars[m])
            for m in range(len(members))
        ])  # fmt: skip
        spots = F.leaky_relu((of_spots + bridge.to_spot(told_spots)) / 2, 0.2)
        exemplars = F.leaky_relu((of_exemplars + bridge.to_exemplar(told_exemplars)) / 2, 0.2)
    pooled = []
    dist = net.pool.lin(spots)
    for i, row in enumerate(refers):
        weight = ((exemplars[row] - dist[i]) * 0.1).softmax(dim=0)  # as published, with what cancels
        pooled.append(dist[i] + 0.1 * (weight * exemplars[row]).sum(dim=0))
    expected = net.target_mean + 2 * net.head.mean(torch.stack(pooled))
    torch.testing.assert_close(net(part).mean, expected, atol=1e-5, rtol=1e-4)


def subset(part, index):
    inputs = {name: values[index] for name, values in part.inputs.items()}
    return Batch(part.section[index], part.patient[index], inputs, target=part.target[index])


@torch.no_grad()
def test_order_of_spots_only_orders_the_predictions():
    net, part = network().eval(), cohort()[1]
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(net(subset(part, order)).mean, net(part).mean[order], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_prediction_draws_nothing_and_neighbors_count():
    net, part = network().eval(), cohort()[1]
    plain = net(part).mean
    assert torch.equal(net(part).mean, plain)
    other = subset(part, torch.arange(N))
    other["features"][0] += 5
    changed = (net(other).mean - plain).abs().amax(dim=1)
    assert changed[1] > 1e-5  # next to it
    moved = subset(part, torch.arange(N))
    moved.inputs["positions"] += 7000
    torch.testing.assert_close(net(moved).mean, plain)


@pytest.mark.parametrize(
    "case", ["one spot", "isolated spot", "far apart", "one place", "one exemplar", "same exemplar"]
)
def test_odd_sections_give_finite_predictions_and_gradients(case):
    part = batch(0, 0, n=1) if case == "one spot" else batch(0, 0)
    others = [batch(1, 1, n=1)] if "exemplar" in case else cohort()[1:]
    if case == "isolated spot":
        part["positions"][0] = 1e6
    elif case == "far apart":
        part["positions"][:6] += 1e5
    elif case == "one place":
        part["positions"][:] = 5.0
    elif case == "same exemplar":
        part["features"][:] = others[0]["features"]
    net = network([part, *others]).train()
    net.loss(net(part), part)["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in net.parameters() if p.grad is not None)
    with torch.no_grad():
        assert torch.isfinite(net.eval()(part).mean).all()


def test_every_parameter_learns_also_from_the_training_mean():
    net = network().train()
    net.loss(net(cohort()[0]), cohort()[0])["total"].backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    torch.nn.init.zeros_(net.head.mean.weight)  # as it starts: the prediction does not vary at all
    net.zero_grad()
    net.loss(net(cohort()[0]), cohort()[0])["total"].backward()
    assert torch.isfinite(net.head.mean.weight.grad).all()
    assert net.head.mean.weight.grad.abs().sum() > 0


def test_loss_is_the_squared_error_and_the_correlation_of_each_gene():
    net, part = network(), cohort()[0]
    net.head.mean.weight.data *= 500  # the correlation of what hardly varies is drawn to 0
    prediction = net(part)
    parts = net.loss(prediction, part)
    mean, target = prediction.mean.detach().numpy(), part.target.numpy()
    r = np.mean([np.corrcoef(mean[:, g], target[:, g])[0, 1] for g in range(GENES)])
    assert set(parts) == {"total", "regression", "pcc"}
    np.testing.assert_allclose(float(parts["regression"].detach()), ((mean - target) ** 2).mean() / 4, rtol=1e-5)
    np.testing.assert_allclose(float(parts["pcc"].detach()), 1 - r, atol=0.01)
    torch.testing.assert_close(parts["total"], parts["regression"] + 0.5 * parts["pcc"])
    assert set(network(pcc=0).loss(prediction, part)) == {"total", "regression"}


def test_mixed_precision_changes_little():
    net, part = network(), cohort()[1]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = net(part)
        net.loss(mixed, part)["total"].backward()
    torch.testing.assert_close(mixed.mean, net(part).mean, atol=0.05, rtol=0.05)
    assert all(torch.isfinite(p.grad).all() for p in net.parameters())


@pytest.mark.parametrize(("changes", "found"), [({"hidden": 18}, "hidden=18"), ({"exemplars": 0}, "exemplars=0")])
def test_sizes_that_do_not_fit_are_named(changes, found):
    with pytest.raises(ValueError, match=f"expected .*found {found}"):
        replace(SMALL, **changes)


def test_edges_of_missing_exemplars_weigh_nothing():
    net = network()
    layer = net.layers[0]
    torch.manual_seed(1)
    spots, exemplars, expression = torch.randn(2, 16), torch.randn(3, 16), torch.randn(3, 16)
    none = torch.zeros(2, 1, dtype=torch.long), torch.zeros(2, 1, dtype=torch.bool)
    alone = torch.zeros(3, 1, dtype=torch.long), torch.zeros(3, 1, dtype=torch.bool)
    refer = torch.tensor([[1, 0], [1, 2]])
    exists = torch.tensor([[True, False], [True, True]])
    short = _Edges(none[0][1:], none[1][1:], *alone, refer[1:], exists[1:])
    whole = layer(spots, exemplars, expression, _Edges(*none, *alone, refer, exists))
    part = layer(spots[1:], exemplars, expression, short)
    torch.testing.assert_close(whole[0][1:], part[0])
    torch.testing.assert_close(whole[1][[0, 2]], part[1][[0, 2]])
    moved = exemplars.clone()
    moved[0] += 9
    edges = _Edges(*none, *alone, refer, exists)
    torch.testing.assert_close(layer(spots, moved, expression, edges)[0][0], whole[0][0])
    torch.testing.assert_close(net.pool(spots, moved, edges)[0], net.pool(spots, exemplars, edges)[0])


def test_learns_what_holds_in_other_patients():
    torch.set_num_threads(1)
    data = make((0, 0, 1, 1, 2, 2, 3), n=25)
    train = data.patient < 3
    config = train_config("egn", {"max_epochs": 30, "patience": 0, "learning_rate": 2e-3})
    fit = fit_arrays("egn", data.take(train), hyperparameters={"hidden": 32, "layers": 2}, config=config)
    mean = predict_arrays(fit.network, data.take(~train)).mean
    target = data.target[~train]
    error = ((mean - target) ** 2).mean()
    baseline = ((data.target[train].mean(axis=0) - target) ** 2).mean()
    assert error < 0.6 * baseline
