"""DKAN: counts of the published configurations, what a gene asks, the contrast, and genes that it never saw."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.core._derangement import derangement
from stpredict.models import Batch, Panel, Predictor
from stpredict.models import _dkan as module
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config
from stpredict.training._data import WholeSections

COUNTS = {"her2st": 265_916_345, "cscc": 228_150_377, "stnet": 278_513_993}
D, SEEN, UNSEEN, SIDE = 8, 48, 384, 8
TINY = {
    "dim": 8, "heads": (2, 2, 2), "gene_heads": (2, 2, 2), "depth": (1, 1, 1), "dropout": (0.3, 0.3, 0.3), "n_pairs": 16,
}  # fmt: skip
Fitted = Callable[[np.ndarray], tuple[Predictor, np.ndarray]]


def sections_set(n_sections: int = 2, n_genes: int = 6, seed: int = 0, table: np.ndarray | None = None) -> ArraySet:
    """Square sections; the expression of a gene is the product of the features of the spot and of its row of the table."""
    rng = np.random.default_rng(seed)
    n = n_sections * SIDE**2
    own = rng.normal(size=(n, D)).astype(np.float32)
    table = rng.normal(size=(n_genes, D)).astype(np.float32) if table is None else table
    values = own @ table.T / np.sqrt(D) + 0.3 * rng.normal(size=(n, len(table)))
    section = np.arange(n) // SIDE**2
    cell = np.stack(np.divmod(np.arange(n) % SIDE**2, SIDE), axis=1)
    return ArraySet(
        section=section,
        patient=section,
        inputs={
            "features": own,
            "neighbors": rng.normal(size=(n, 25, D)).astype(np.float32),
            "neighbor_mask": np.ones((n, 25), dtype=bool),
        },
        target=values.astype(np.float32),
        whole=WholeSections(section, np.arange(n), {"section_features": own, "section_cell": cell}),
        genes=panel(table),
    )


def panel(table: np.ndarray, first: int = 0) -> Panel:
    return Panel(tuple(f"g{first + i}" for i in range(len(table))), {"gene_table": table.astype(np.float32)})


def network(data: ArraySet, seed: int = 0, **options: Any) -> Predictor:
    """A network that is not trained, whose heads and biases are not zero."""
    built = stp.models.build(
        "dkan", data.n_outputs, data.widths, genes=data.genes, hyperparameters=TINY | options, seed=seed
    )
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return built.eval()


def rows(data: ArraySet, built: Predictor, index: Any = slice(0, 20)) -> Batch:
    return data.batch(np.arange(len(data))[index], built.needs)


def correlations(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(p, y)[0, 1] for p, y in zip(predicted.T, target.T, strict=True)])


@pytest.mark.parametrize("preset", COUNTS)
def test_published_configurations_have_the_published_sizes(preset: str) -> None:
    with torch.device("meta"):
        built = stp.models.build("dkan", hyperparameters=preset)
    assert sum(p.numel() for p in built.parameters()) == COUNTS[preset]
    assert built.config.keys == "single"


def test_parts_of_a_published_configuration() -> None:
    with torch.device("meta"):
        built = stp.models.build("dkan", hyperparameters="her2st")
    parts = {
        "target_encoder": 11_176_512, "target_linear": 525_312, "neighbor_encoder": 50_375_056,
        "global_encoder": 62_978_048, "fusion_encoder": 12_595_200, "head": 256_250, "fc_target": 256_250,
        "fc_neighbor": 256_250, "fc_global": 256_250, "text_encoder": 37_779_456, "exp_encoder": 1_308_672,
        "img_fusion_encoder": 50_372_608, "exp_fusion_encoder": 37_779_456, "fc_final_img": 1_025,
    }  # fmt: skip
    found = {name: sum(p.numel() for p in part.parameters()) for name, part in built.named_children()}
    assert {name: n for name, n in found.items() if n} == parts


@pytest.mark.parametrize("keys", ["single", "tokens"])
def test_one_key_answers_all_genes_alike(keys: str) -> None:
    data = sections_set()
    built = network(data, keys=keys)
    attention = built.img_fusion_encoder.layers[0][0].fn
    found: list[torch.Tensor] = []
    attention.register_forward_hook(lambda *args: found.append(args[2]))
    with torch.no_grad():
        built(rows(data, built))
    spread = found[0].std(dim=1).max()
    assert spread < 1e-6 if keys == "single" else spread > 1e-3


@pytest.mark.parametrize("keys", ["single", "tokens"])
def test_expression_is_not_read_at_prediction(keys: str) -> None:
    data = sections_set()
    built = network(data, keys=keys)
    batch = data.unmeasured().batch(np.arange(20), built.needs)
    with torch.no_grad():
        before = built(batch).mean
        built.exp_encoder = built.exp_fusion_encoder = None
        assert torch.equal(built(batch).mean, before)
        assert torch.equal(built.decode(built.encode(batch), data.genes).mean, before)


@pytest.mark.parametrize("keys", ["single", "tokens"])
def test_predictions_follow_the_rows_of_the_table(keys: str) -> None:
    data = sections_set()
    built = network(data, keys=keys)
    batch = rows(data, built)
    with torch.no_grad():
        before = built(batch).mean
        order = derangement(6, 0)
        built.table.copy_(built.table[order])
        permuted = built(batch).mean
    assert not torch.allclose(before, permuted, atol=1e-3)
    torch.testing.assert_close(permuted, before[:, order], rtol=1e-4, atol=1e-5)


def test_a_gene_is_predicted_alike_whichever_others_are_asked_for() -> None:
    data = sections_set()
    built = network(data)
    built.prepare(stp.training._data.summarize(data, built.needs))
    batch = rows(data, built)
    strange = np.random.default_rng(3).normal(size=(2, D))
    with torch.no_grad():
        hidden = built.encode(batch)
        known = panel(data.genes.tables["gene_table"][2:4], first=2)
        torch.testing.assert_close(built.decode(hidden, known).mean, built(batch).mean[:, 2:4])
        both = built.decode(hidden, panel(strange, first=50)).mean
        torch.testing.assert_close(built.decode(hidden, panel(strange[1:], first=51)).mean, both[:, 1:])


def test_level_and_spread_of_other_genes_follow_from_their_rows() -> None:
    table = np.random.default_rng(0).normal(size=(60, D)).astype(np.float32)
    data = sections_set(1, table=table)
    data.target = data.target * np.exp(table[:, :1].T) + 5 * table[:, 1]
    built = network(data)
    built.prepare(stp.training._data.summarize(data, built.needs))
    other = np.zeros((3, D), dtype=np.float32)
    other[1, 1], other[2, 0] = 2, 1
    with torch.no_grad():
        built.fc_final_img.weight.zero_()
        built.fc_final_img.bias.fill_(1.0)
        raised = built.decode(built.encode(rows(data, built)), panel(other, first=100)).mean
        built.fc_final_img.bias.zero_()
        level = built.decode(built.encode(rows(data, built)), panel(other, first=100)).mean
    assert level[0].tolist() == pytest.approx([0, 10, 0], abs=1)
    spread = (raised - level)[0]
    assert (spread[2] / spread[0]).item() == pytest.approx(math.e, rel=0.2)


def test_spots_and_genes_in_parts_are_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    data = sections_set()
    built = network(data, dropout=(0.0, 0.0, 0.0), gene_dropout=(0.0, 0.0, 0.0), expression_dropout=0.0).train()
    found = []
    for pairs in (2**14, 30):
        monkeypatch.setattr(module, "_PAIRS", pairs)
        built.zero_grad()
        torch.manual_seed(0)
        parts = built.step(rows(data, built), built.stages[0])
        parts["total"].backward()
        found.append((parts["total"].detach(), built.img_fusion_encoder.layers[0][0].fn.to_kv.weight.grad.clone()))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-6)


def test_weights_of_the_losses() -> None:
    value = torch.tensor(0.7, requires_grad=True)
    weights = module.adaptive_weights(value, value * 1.0, 3.0)
    assert weights.tolist() == pytest.approx([0.25, 0.75])
    assert not weights.requires_grad
    for a, b in ((0.1, 2.0), (3.0, 1e-12), (0.0, 0.0), (5.0, 0.0)):
        weights = module.adaptive_weights(torch.tensor(a), torch.tensor(b), 3.0)
        assert weights.sum().item() == pytest.approx(1)
        assert torch.isfinite(weights).all()
    assert module.adaptive_weights(torch.tensor(2.0), torch.tensor(1.0), 1.0).tolist() == pytest.approx([1 / 3, 2 / 3])


def test_a_contrast_of_zero_leaves_numbers() -> None:
    one = torch.eye(4, requires_grad=True)
    loss = module.contrast_loss(one, torch.eye(4), 0.001)
    assert loss.item() == 0
    weights = module.adaptive_weights(torch.tensor(1.0), loss, 3.0)
    (weights[1] * loss).backward()
    assert torch.isfinite(one.grad).all()


def test_the_contrast_finds_its_own() -> None:
    rng = torch.Generator().manual_seed(0)
    own = torch.randn(200, 16, generator=rng)
    near = own + 0.1 * torch.randn(200, 16, generator=rng)
    other = torch.randn(200, 16, generator=rng)
    assert module.contrast_loss(own, near, 0.1) < 1 < math.log(200) - 0.5 < module.contrast_loss(own, other, 0.1)


def test_supervised_loss_is_the_formula_of_triplex_with_four_branches() -> None:
    data = sections_set()
    built = network(data).train()
    batch = rows(data, built)
    prediction = built(batch)
    assert set(prediction.extras["branches"]) == {"image", "target", "neighbor", "global"}
    y = batch.target
    students = dict.fromkeys(prediction.extras["branches"], y + 1)
    parts = built.loss(replace(prediction, mean=y + 1, extras={"branches": students}), batch)
    assert parts["total"].item() == pytest.approx(1 + 4 * 0.7, abs=1e-5)
    parts = built.step(batch, built.stages[0])
    weights = module.adaptive_weights(parts["supervised"], parts["contrast"], built.config.contrast)
    expected = weights[0] * parts["supervised"] + weights[1] * parts["contrast"]
    torch.testing.assert_close(parts["total"], expected)
    built.eval()
    torch.testing.assert_close(built.step(batch, built.stages[0])["total"], (built(batch).mean - y).square().mean())


def test_evaluation_twice_is_identical_and_training_is_not() -> None:
    data = sections_set()
    built = network(data)
    batch = rows(data, built)
    with torch.no_grad():
        assert torch.equal(built(batch).mean, built(batch).mean)
        built.train()
        assert not torch.equal(built(batch).mean, built(batch).mean)


def test_permuted_spots_and_masked_neighbors() -> None:
    data = sections_set(1)
    built = network(data)
    order = np.random.default_rng(1).permutation(len(data))
    before = predict_arrays(built, data).mean
    whole = {name: values[order] for name, values in data.whole.inputs.items()}
    permuted = replace(data.take(order), whole=WholeSections(data.whole.code, np.arange(len(data)), whole))
    np.testing.assert_allclose(predict_arrays(built, permuted).mean, before[order], rtol=1e-4, atol=1e-5)
    mask = np.random.default_rng(0).uniform(size=(len(data), 25)) < 0.6
    data.inputs["neighbor_mask"] = mask
    before = predict_arrays(built, data).mean
    data.inputs["neighbors"] = np.where(mask[..., None], data["neighbors"], np.float32(1e6))
    np.testing.assert_array_equal(predict_arrays(built, data).mean, before)


def test_any_widths_and_patches() -> None:
    data = sections_set(1)
    data.inputs["patches"] = np.random.default_rng(0).integers(0, 255, (len(data), 64, 64, 3), dtype=np.uint8)
    wide = replace(data, genes=panel(np.random.default_rng(0).normal(size=(6, 5))))
    built = network(wide, target="patches", patch_px=64).train()
    assert built.needs == (module.DKAN.needs - {"features"}) | {"patches"}
    batch = rows(wide, built, slice(0, 3))
    keys, mask, _ = built.tokens(batch)
    assert keys.shape == (3, 4 + 25 + 1, 8)
    assert mask.shape == keys.shape[:2]
    built.step(batch, built.stages[0])["total"].backward()
    assert built.target_encoder[0].weight.grad.abs().sum() > 0


@pytest.fixture(scope="module")
def trained() -> dict[tuple[int, str], tuple[Predictor, ArraySet, np.ndarray, np.ndarray]]:
    """For three seeds, networks that know genes by the true table and by a permuted one: network, test, genes asked for."""
    found = {}
    for seed in range(3):
        rng = np.random.default_rng(50 + seed)
        seen = rng.normal(size=(SEEN, D))
        seen -= seen.mean(axis=0)  # or the mean of all genes, which needs no table, would say something of each
        unseen = seen[np.arange(UNSEEN) % SEEN] + 0.3 * rng.normal(size=(UNSEEN, D))
        true = np.concatenate([seen, unseen]).astype(np.float32)
        data = sections_set(4, table=true, seed=seed)
        for name, table in (("true", true), ("permuted", true[derangement(len(true), seed)])):
            train = data.take(data.section < 3)
            train = replace(train, target=train.target[:, :SEEN], genes=panel(table[:SEEN]))
            config = {"max_epochs": 12, "patience": 0, "learning_rate": 3e-3, "batch_size": 32}
            fit = fit_arrays(
                "dkan", train, hyperparameters="small", config=train_config("dkan").updated(config), seed=seed
            )
            test = replace(data.take(data.section == 3), genes=train.genes)
            found[seed, name] = fit.network, test, table
    return found


def test_genes_that_it_never_saw(trained: Any, record_property: Any) -> None:
    """Their rows resemble those of genes that it saw; with the rows of other genes it knows nothing of them."""
    scores: dict[str, list[float]] = {"true": [], "permuted": []}
    for (_, name), (built, test, table) in trained.items():
        genes = panel(table[SEEN:], first=SEEN)
        found = correlations(predict_arrays(built, test, genes=genes).mean, test.target[:, SEEN:])
        scores[name].append(float(found.mean()))
    record_property("printed", f"dkan on genes never seen: {scores}")
    assert min(scores["true"]) > 0.6
    assert abs(np.mean(scores["permuted"])) < 0.05


def test_the_contrast_learns_which_gene_of_which_spot(trained: Any, record_property: Any) -> None:
    built, test, _ = trained[0, "true"]
    test = replace(test, target=test.target[:, :SEEN])
    built.train()  # where the answers are kept; there is no dropout in this setting
    built.config = replace(built.config, n_pairs=10**6)
    with torch.no_grad():
        batch = test.batch(np.arange(16), built.needs)
        extras = built(batch).extras
        image, expression, _ = built.aligned(extras["answers"], extras["rows"], batch)
    n = 16 * SEEN
    assert len(image) == n
    assert module.contrast_loss(image, expression, built.config.temperature) < math.log(n) - 1
    cosine = torch.nn.functional.normalize(image, dim=1) @ torch.nn.functional.normalize(expression, dim=1).T
    found = (cosine.argmax(dim=1) == torch.arange(n)).float().mean().item()
    record_property("printed", f"dkan finds {found:.3f} of {n} pairs; by chance {1 / n:.4f}")
    assert found > 10 / n


def test_the_whole_way(toy: ad.AnnData) -> None:
    """From slots to a report, stopped by other patients than those that it is tested on."""
    stp.pp.grid(toy)
    stp.pp.gene_table(toy, "random", n_components=4)
    rng = np.random.default_rng(0)
    toy.obsm["X_toy_neighbors"] = rng.normal(size=(72, 25, 4)).astype(np.float32)
    toy.obsm["X_toy_neighbor_mask"] = np.ones((72, 25), dtype=bool)
    toy.uns["stpredict"]["X_toy_neighbors"] = {"encoder": "toy"}
    train = (toy.obs["patient"] != "p2").to_numpy()
    options: dict[str, Any] = {"hyperparameters": "small", "training": {"max_epochs": 2}}
    model = stp.tl.fit(toy, "dkan", train, target=["G0", "G1", "G2", "G3"], baselines=False, **options)
    assert model.training.validated_on == "patient"
    stp.tl.predict(toy, model, genes=["G5", "G1"])
    assert np.isfinite(toy.obsm["predicted"]).all()
    scores = stp.tl.cross_validate(
        toy, {"dkan": {"model": "dkan", **options}}, metrics=["pearson"], ceiling=False, target=list(toy.var_names)
    )
    assert {"dkan", "dkan (permuted table)"} <= set(scores["model"])
    assert not scores["leaky"].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keys": "text"}, "keys"), ({"temperature": 0}, "temperature"), ({"n_pairs": 0}, "n_pairs"),
        ({"contrast": -1}, "contrast of at least 0"), ({"depth": (1, 2)}, "depth of the fusion"),
        ({"gene_heads": (3, 2, 2)}, "multiple of the number of heads"),
    ],
)  # fmt: skip
def test_configurations_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(sections_set(1), **options)


def test_a_network_without_a_number_of_genes_names_the_presets_that_have_one() -> None:
    with pytest.raises(ValueError, match="expected n_outputs.*found none; of the presets of 'dkan' .*her2st"):
        stp.models.build("dkan", hyperparameters="small")


def test_predictions_are_shrunk_by_held_out_rows_and_so_are_genes_never_seen() -> None:
    """Genes that nothing tells about: what is predicted of them is noise, and is told to be small."""
    data = sections_set(3)
    noise = np.random.default_rng(1).normal(size=data.target.shape).astype(np.float32)
    data.target = noise
    built = network(data)
    parts = [data.take(data.section < 2), data.take(data.section == 2)]
    batches = [[part.batch(np.arange(len(part)), built.needs)] for part in parts]
    with torch.no_grad():
        before = built(batches[1][0]).mean
        built.calibrate(*batches)
        batch = batches[1][0]
        after, hidden = built.predict(batch).mean, built.encode(batch)
        center, slope = built.shrinkage.center, built.shrinkage.slope.clone()
        assert slope.max() < 0.3  # the maps say nothing of what was held out
        torch.testing.assert_close(center, torch.from_numpy(noise[data.section < 2].mean(axis=0)))
        torch.testing.assert_close(after, center + slope * (before - center))
        torch.testing.assert_close(built.decode(hidden, data.genes).mean, after)
        strange = panel(np.random.default_rng(2).normal(size=(2, D)), first=50)
        spread = built.decode(hidden, strange).mean.std(dim=0)
        built.shrinkage.slope.zero_()  # as if nothing were known
        torch.testing.assert_close(spread, slope.mean() * built.decode(hidden, strange).mean.std(dim=0))
