"""IGI-DL: published counts, what a layer computes, graphs alone and together, and which branch can know what."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.models import Batch, Predictor
from stpredict.models import _igi_dl as network_module
from stpredict.models.nn import _graphs as module
from stpredict.models.nn._graphs import GCNConv, GINConv, Graphs
from stpredict.training import ArraySet, Ragged, fit_arrays, predict_arrays, train_config

PX, GENES, D = 32, 3, 4
TINY = {"n_layers": 2, "n_hidden": 8, "mlp": (16,), "dropout": 0.3, "patch_px": PX}
#: Hand graph: 0 - 1 - 2, and 3 alone.
HAND = torch.tensor([[0, 1], [1, 0], [1, 2], [2, 1]])
ADJACENCY = torch.tensor([[0.0, 1, 0, 0], [1, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]])


def spots(n: int = 12, seed: int = 0, sizes: tuple[int, ...] = (3, 0, 6, 1)) -> ArraySet:
    """Spots with a gray patch each and up to six nuclei, linked where a draw says so."""
    rng = np.random.default_rng(seed)
    n_nuclei = np.resize(sizes, n)
    links = []
    for size in n_nuclei:
        pairs = np.argwhere(np.triu(rng.uniform(size=(size, size)) < 0.5, 1))
        links.append(np.concatenate([pairs, pairs[:, ::-1]]))
    n_links = np.array([len(part) for part in links])
    return ArraySet(
        section=np.arange(n) * 4 // n,
        patient=np.arange(n) * 4 // n,
        inputs={
            "features": rng.normal(size=(n, 5)).astype(np.float32),
            "patches": rng.integers(0, 255, (n, PX, PX, 3), dtype=np.uint8),
            "nuclei_graph": Ragged(rng.normal(size=(n_nuclei.sum(), D)).astype(np.float32), n_nuclei),
            "n_nuclei": n_nuclei,
            "nuclei_links": Ragged(np.concatenate(links), n_links),
            "n_links": n_links,
        },
        target=rng.normal(size=(n, GENES)).astype(np.float32),
    )


def network(seed: int = 0, **options: Any) -> Predictor:
    """A network that is not trained, whose heads and biases are not zero."""
    built = stp.models.build(
        "igi_dl", GENES, {"nuclei_graph": D, "features": 5}, hyperparameters=TINY | options, seed=seed
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, parameter in built.named_parameters():
            if not name.startswith("resnet."):
                parameter.add_(0.1 * torch.randn_like(parameter))
    return built.eval()


def outputs(model: Predictor, batch: Batch) -> torch.Tensor:
    with torch.no_grad():
        return model(batch).mean


def everything(data: ArraySet, model: Predictor) -> Batch:
    return data.batch(np.arange(len(data)), model.needs)


def _shapes(built: Predictor) -> dict[str, tuple[int, ...]]:
    """Tensors as the published network has them."""
    own = {n: tuple(t.shape) for n, t in built.state_dict().items()}
    return {
        name.replace("head.mean.", "head."): shape
        for name, shape in own.items()
        if not name.startswith(("target_mean", "target_std", "of_", "shrinkage", "no_nuclei"))
    }


@pytest.mark.parametrize(("preset", "n_genes", "count"), [
    ("crc", 179, 12_399_987), ("breast", 187, 12_402_043), ("cscc", 487, 12_479_143),
])  # fmt: skip
def test_published_configurations_have_the_published_sizes_and_names(preset: str, n_genes: int, count: int) -> None:
    with torch.device("meta"):
        built = stp.models.build("igi_dl", hyperparameters=preset)
    shapes = _shapes(built)
    assert (built.n_outputs, sum(p.numel() for p in built.parameters()), len(shapes)) == (n_genes, count, 197)
    assert shapes["gin_conv1.nn.0.weight"] == (256, 85)
    assert shapes["gin_conv1.nn.2.weight"] == (256, 256)
    assert (shapes["gin_lin1.weight"], shapes["gin_lin2.weight"]) == ((256, 512), (128, 256))
    fusion = [shapes[f"fusion_mlp.{i}.layers.0.fc.weight"] for i in range(3)]
    assert fusion == [(512, 640), (256, 512), (256, 256)]
    assert shapes["head.weight"] == (n_genes, 256)
    named = (
        r"resnet\.[014567]\.|resnet_BN\.|gin_conv[1-4]\.(eps$|nn\.[02]\.)|gin_bn[1-4]\.module\.|gin_lin[12]\.|gin_BN\.|"
        r"fusion_mlp\.[012]\.layers\.0\.(fc|BN)\.|head\."
    )
    assert [name for name in shapes if not re.match(named, name)] == []
    assert {re.match(r"(resnet\.\d|[^.]*)", name)[0] for name in shapes} == {
        *(f"resnet.{i}" for i in "014567"), "resnet_BN", *(f"gin_conv{i}" for i in "1234"), *(f"gin_bn{i}" for i in "1234"),
        "gin_lin1", "gin_lin2", "gin_BN", "fusion_mlp", "head",
    }  # fmt: skip


def test_the_class_default_of_the_reference_has_its_size() -> None:
    options = stp.models.get_model("igi_dl").options("paper") | {"n_hidden": 512, "mlp": (256, 256)}
    with torch.device("meta"):
        built = stp.models.build("igi_dl", 100, {"nuclei_graph": 85}, hyperparameters=options)
        empty = stp.models.build("igi_dl", 100, {"nuclei_graph": 85}, hyperparameters=options | {"learn_empty": True})
    assert (sum(p.numel() for p in built.parameters()), len(_shapes(built))) == (14_010_276, 190)
    assert sum(p.numel() for p in empty.parameters()) == 14_010_276 + 2 * 512


@pytest.mark.parametrize("kind", ["gin", "gcn"])
def test_a_layer_is_its_formula_on_a_hand_graph(kind: str) -> None:
    torch.manual_seed(0)
    values = torch.randn(4, 3)
    graphs = Graphs(HAND, torch.zeros(4, dtype=torch.int64), torch.tensor([4]))
    if kind == "gin":
        layer = GINConv(3, 5)
        wanted = layer.nn(values + ADJACENCY @ values)
    else:
        layer = GCNConv(3, 5)
        whole = ADJACENCY + torch.eye(4)
        scale = whole.sum(dim=1).rsqrt().diag()
        wanted = scale @ whole @ scale @ layer.lin(values) + layer.bias
    torch.testing.assert_close(layer(values, graphs), wanted)


@pytest.mark.parametrize("kind", ["gin", "gcn"])
def test_layers_are_those_of_torch_geometric(kind: str) -> None:
    geometric = pytest.importorskip("torch_geometric.nn")
    torch.manual_seed(0)
    values, graphs = torch.randn(4, 3), Graphs(HAND, torch.zeros(4, dtype=torch.int64), torch.tensor([4]))
    if kind == "gin":
        own = GINConv(3, 5)
        other = geometric.GINConv(own.nn)
    else:
        own, other = GCNConv(3, 5), geometric.GCNConv(3, 5)
        other.lin.weight.data, other.bias.data = own.lin.weight.data, own.bias.data
    torch.testing.assert_close(own(values, graphs), other(values, HAND.T))


def test_sums_along_links_have_the_gradients_of_the_matrix(monkeypatch) -> None:
    """Also where some links at a time are held, each in its own direction."""
    monkeypatch.setattr(module, "_LINKS", 2)
    links = torch.tensor([[0, 1], [2, 1], [3, 0], [1, 3], [0, 3]])
    matrix = torch.zeros(4, 4, dtype=torch.float64).index_put(
        (links[:, 1], links[:, 0]), torch.ones(5, dtype=torch.float64)
    )
    graphs = Graphs(links, torch.zeros(4, dtype=torch.int64), torch.tensor([4]))
    values = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(graphs.sum_of_neighbors(values), matrix @ values)
    assert torch.autograd.gradcheck(graphs.sum_of_neighbors, (values,))


def test_what_is_computed_again_has_the_same_gradients(monkeypatch) -> None:
    data = spots(12)
    found = []
    for many in (10**6, 1):
        monkeypatch.setattr(network_module, "_MANY", many)
        model = network(branches="graph", dropout=0.0).train()
        model.step(everything(data, model), model.stages[0])["total"].backward()
        buffers = {
            name: each.clone() for name, each in model.named_buffers() if name.endswith(("running_mean", "running_var"))
        }
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None} | buffers)
    assert len(found[0]) > 20
    for name, values in found[0].items():
        torch.testing.assert_close(found[1][name], values)


def test_readouts_are_largest_values_and_means_of_each_graph_and_zero_of_an_empty_one() -> None:
    values = torch.tensor([[-1.0, 2], [-3, 4], [5, -6]])
    graphs = Graphs(torch.zeros(0, 2, dtype=torch.int64), torch.tensor([0, 0, 2]), torch.tensor([2, 0, 1]))
    wanted = torch.tensor([[-1.0, 4, -2, 3], [0, 0, 0, 0], [5, -6, 5, -6]])
    torch.testing.assert_close(graphs.max_and_mean(values), wanted)


def reordered(data: ArraySet, rng: np.random.Generator) -> ArraySet:
    """The same nuclei of each spot in another order, with their links."""
    graph, links = data["nuclei_graph"], data["nuclei_links"]
    nodes, pairs = [], []
    for row in range(len(data)):
        order = rng.permutation(data["n_nuclei"][row])
        nodes.append(graph[[row]][order])
        pairs.append(rng.permutation(np.argsort(order)[links[[row]]]))
    inputs = {
        "nuclei_graph": Ragged(np.concatenate(nodes), graph.size),
        "nuclei_links": Ragged(np.concatenate(pairs), links.size),
    }
    return replace(data, inputs=data.inputs | inputs)


@pytest.mark.parametrize("conv", ["gin", "gcn"])
def test_the_order_of_nuclei_changes_nothing_but_their_links_do(conv: str) -> None:
    data, model = spots(), network(branches="graph", conv=conv)
    other = reordered(data, np.random.default_rng(1))
    assert not np.array_equal(other["nuclei_graph"][:], data["nuclei_graph"][:])
    before = outputs(model, everything(data, model))
    torch.testing.assert_close(outputs(model, everything(other, model)), before, rtol=1e-5, atol=1e-5)
    none = {"nuclei_links": Ragged(np.zeros((0, 2), np.int64), 0 * data["n_links"]), "n_links": 0 * data["n_links"]}
    unlinked = replace(data, inputs=data.inputs | none)
    assert not torch.allclose(outputs(model, everything(unlinked, model)), before, atol=1e-3)


def test_a_nucleus_alone_changes_its_spot_by_its_readouts_only() -> None:
    """The other nuclei have the values that they had, so that the mean moves by its share, and the maximum by its own."""
    torch.manual_seed(0)
    values, alone = torch.randn(4, 3), torch.randn(1, 3)
    layer = GINConv(3, 5).eval()
    small = Graphs(HAND, torch.zeros(4, dtype=torch.int64), torch.tensor([4]))
    large = Graphs(HAND, torch.zeros(5, dtype=torch.int64), torch.tensor([5]))
    before, after = layer(values, small), layer(torch.cat([values, alone]), large)
    torch.testing.assert_close(after[:4], before)
    most, mean = large.max_and_mean(after).split(5, dim=1)
    old_most, old_mean = small.max_and_mean(before).split(5, dim=1)
    torch.testing.assert_close(most, torch.maximum(old_most, layer.nn(alone)))
    torch.testing.assert_close(mean, (4 * old_mean + layer.nn(alone)) / 5)


@pytest.mark.parametrize("conv", ["gin", "gcn"])
def test_a_batch_of_graphs_is_the_graphs_one_by_one_and_empty_ones_have_their_own_vector(conv: str) -> None:
    data, model = spots(), network(branches="graph", conv=conv)
    together = outputs(model, everything(data, model))
    alone = torch.cat([outputs(model, data.batch(np.array([i]), model.needs)) for i in range(len(data))])
    assert torch.isfinite(together).all()
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    empty = data["n_nuclei"] == 0
    assert empty.any()
    with torch.no_grad():
        model.no_nuclei.add_(1.0)
    moved = (outputs(model, everything(data, model)) != together).any(dim=1).numpy()
    np.testing.assert_array_equal(moved, empty)


@pytest.mark.parametrize("sizes", [(0,), (1, 0), (0, 0, 0, 1)])
def test_steps_with_hardly_any_nuclei_train_to_finite_weights(sizes: tuple[int, ...]) -> None:
    data, model = spots(4, sizes=sizes), network(branches="graph").train()
    model.step(everything(data, model), model.stages[0])["total"].backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    assert grads
    assert all(torch.isfinite(grad).all() for grad in grads)
    alone = model.step(data.batch(np.array([0]), model.needs), model.stages[0])["total"]
    assert torch.isfinite(alone)


def test_pictures_are_read_one_by_one_in_evaluation_and_a_single_one_can_be_trained_on() -> None:
    data, model = spots(6), network()
    together = outputs(model, everything(data, model))
    alone = torch.cat([outputs(model, data.batch(np.array([i]), model.needs)) for i in range(6)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)
    model.train()
    model.step(data.batch(np.array([2]), model.needs), model.stages[0])["total"].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(("options", "needs"), [
    ({}, {"patches", "nuclei_graph", "n_nuclei", "nuclei_links", "n_links"}),
    ({"image_encoder": "features"}, {"features", "nuclei_graph", "n_nuclei", "nuclei_links", "n_links"}),
    ({"branches": "image"}, {"patches"}),
    ({"branches": "image", "image_encoder": "features"}, {"features"}),
    ({"branches": "graph"}, {"nuclei_graph", "n_nuclei", "nuclei_links", "n_links"}),
])  # fmt: skip
def test_each_variant_needs_and_uses_what_it_reads(options: dict[str, Any], needs: set[str]) -> None:
    data, model = spots(), network(**options)
    assert model.needs == needs
    before = outputs(model, everything(data, model))
    for name in needs & {"patches", "nuclei_graph", "features"}:
        values = data[name]
        rng = np.random.default_rng(3)
        if isinstance(values, Ragged):
            new: Any = Ragged(rng.permutation(values.values) + 1, values.size)
        else:
            new = (255 - values) if name == "patches" else values + 1
        changed = replace(data, inputs=data.inputs | {name: new})
        assert not torch.allclose(outputs(model, everything(changed, model)), before, atol=1e-3), name


def test_types_stay_zero_and_one_and_those_unseen_in_training_say_nothing() -> None:
    data = spots(40)
    values = data["nuclei_graph"].values
    values[:, 2], values[:, 3] = np.arange(len(values)) % 2, 0  # the second type occurs nowhere
    fit = fit_arrays("igi_dl", data, hyperparameters=TINY | {"branches": "graph", "types": ("a", "b")},
                     config=train_config("igi_dl", {"max_epochs": 1, "patience": 0}))  # fmt: skip
    scaled = fit.network.of_nuclei(torch.from_numpy(values))
    np.testing.assert_array_equal(scaled[:, 2:].numpy(), values[:, 2:])
    np.testing.assert_allclose(scaled[:, :2].std(dim=0), 1, rtol=0.02)
    other = replace(
        data, inputs=data.inputs | {"nuclei_graph": Ragged(values + np.float32([0, 0, 0, 1]), data["n_nuclei"])}
    )
    np.testing.assert_array_equal(predict_arrays(fit.network, other).mean, predict_arrays(fit.network, data).mean)


def truth(n: int = 400, seed: int = 0) -> ArraySet:
    """Spots whose patches show how blue they are, and nuclei of two types; genes are the number of the first and the blue."""
    rng = np.random.default_rng(seed)
    side, radius = 100.0, 20.0
    n_nuclei = rng.poisson(15, n)
    n_nuclei[rng.uniform(size=n) < 0.05] = 0
    first = [rng.uniform(size=k) < rng.uniform() for k in n_nuclei]
    links = []
    for k in n_nuclei:
        xy = rng.uniform(0, side, (k, 2))
        near = np.hypot(*(xy[:, None] - xy[None]).transpose(2, 0, 1)) < radius
        links.append(np.argwhere(near & ~np.eye(k, dtype=bool)))
    n_links = np.array([len(part) for part in links])
    kinds = np.concatenate(first)
    nodes = np.stack([rng.normal(size=len(kinds)), kinds, ~kinds], axis=1).astype(np.float32)
    blue = rng.uniform(60, 220, n)
    patches = rng.normal(140, 10, (n, 16, 16, 3))
    patches[..., 2] += blue[:, None, None] - 140
    patches = patches.clip(0, 255).astype(np.uint8)
    target = np.stack([[part.sum() for part in first], patches[..., 2].mean(axis=(1, 2))], axis=1)
    return ArraySet(
        section=np.arange(n) * 4 // n, patient=np.arange(n) * 4 // n,
        inputs={
            "patches": patches, "nuclei_graph": Ragged(nodes, n_nuclei), "n_nuclei": n_nuclei,
            "nuclei_links": Ragged(np.concatenate(links), n_links), "n_links": n_links,
        },
        target=target.astype(np.float32),
    )  # fmt: skip


def learned(branches: str, epochs: int) -> np.ndarray:
    """Correlations of the number of nuclei of a type and of the blue of new spots with what one branch predicts."""
    config = train_config("igi_dl", {"max_epochs": epochs, "patience": 0, "learning_rate": 3e-3, "batch_size": 64})
    options = TINY | {
        "branches": branches,
        "types": ("a", "b"),
        "dropout": 0.0,
        "n_hidden": 32,
        "symmetries": False,
        "stain_jitter": 0.0,
    }
    fit = fit_arrays("igi_dl", truth(), hyperparameters=options, config=config)
    new = truth(200, seed=1)
    mean = predict_arrays(fit.network, new).mean
    return np.array([np.corrcoef(mean[:, i], new.target[:, i])[0, 1] for i in range(2)])


@pytest.mark.parametrize(("branches", "epochs", "knows"), [("graph", 40, [True, False]), ("image", 4, [False, True])])
def test_the_graph_counts_nuclei_of_a_type_and_the_picture_sees_blue(
    branches: str, epochs: int, knows: list[bool]
) -> None:
    found = learned(branches, epochs)
    print(branches, found)
    assert (found[knows] > 0.9).all()
    assert (np.abs(found[np.logical_not(knows)]) < 0.3).all()
