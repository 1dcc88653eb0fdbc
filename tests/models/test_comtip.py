"""CoMTIP: keys and shapes, hidden tokens, binding, pairs, genes that it never saw, chunks, unmeasured pictures."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch
from torch.nn import functional as F

import stpredict as stp
from stpredict.core._derangement import derangement
from stpredict.models import Batch, Panel, Predictor
from stpredict.models._comtip import HEAD_STAGE, PRETRAIN
from stpredict.models.nn._contrast import info_nce
from stpredict.models.nn._gene_sentences import GeneSentences, reversed_gradient, swapped
from stpredict.models.nn._masked_tokens import MaskedTokens, hide, masked_feature_loss
from stpredict.training import ArraySet, fit_arrays, predict_arrays, train_config

GENES, D = 6, 4
SMALL = dict(stp.models.get_model("comtip").cls.small)


def panel(table: np.ndarray, first: int = 0) -> Panel:
    return Panel(tuple(f"g{first + i}" for i in range(len(table))), {"gene_table": table.astype(np.float32)})


def rows_set(n: int = 40, n_genes: int = GENES, seed: int = 0) -> ArraySet:
    """Spots amid 25 tiles, some of which are missing; genes follow the features of the spot."""
    rng = np.random.default_rng(seed)
    around = rng.normal(size=(n, 25, D)).astype(np.float32)
    mask = rng.uniform(size=(n, 25)) < 0.8
    mask[:, 12] = True
    values = around[:, 12] @ rng.normal(size=(D, n_genes)) + 0.3 * rng.normal(size=(n, n_genes))
    inputs = {"neighbors": around, "neighbor_mask": mask, "features": around[:, 12].copy()}
    section = np.arange(n) * 4 // n
    table = rng.normal(size=(n_genes, 5))
    return ArraySet(section, section, inputs, target=values.astype(np.float32), genes=panel(table))


def network(data: ArraySet, seed: int = 0, **options: Any) -> Predictor:
    built = stp.models.build(
        "comtip", data.n_outputs, data.widths, genes=data.genes, hyperparameters=SMALL | options, seed=seed
    )
    built.prepare(stp.training._data.summarize(data, built.needs))
    built.remember([batch_of(data, built)])
    return built


def batch_of(data: ArraySet, built: Predictor) -> Batch:
    return data.batch(np.arange(len(data)), built.needs)


def correlations(predicted: np.ndarray, target: np.ndarray) -> np.ndarray:
    return np.array([np.corrcoef(p, y)[0, 1] for p, y in zip(predicted.T, target.T, strict=True)])


def test_keys_and_shapes_of_the_design() -> None:
    with torch.device("meta"):
        built = stp.models.build("comtip", 100, {"gene_table": 768}, hyperparameters="tiles")
    shapes = {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}
    assert {
        "image.proj.weight": (512, 3072), "image.mask_query": (1, 512), "gene.text_proj.weight": (512, 768),
        "gene.value_mlp.0.weight": (256, 1), "gene.value_mlp.2.weight": (512, 256), "gene.value_bins.weight": (32, 512),
        "gene.bind.weight": (512, 512), "gene.latents": (1, 512), "image_head.weight": (256, 512),
        "gene_head.weight": (256, 512), "logit_scale": (), "image.blocks.3.1.fn.net.0.weight": (2048, 512),
    }.items() <= shapes.items()  # fmt: skip
    assert built.image.positions.shape == (49, 512)
    assert len(built.image.blocks) == 4
    assert len(built.image.mfm.layers) == 1
    assert built.config.temperature == 0.07
    with torch.device("meta"):
        wide = stp.models.build("comtip", 20_000, {"gene_table": 768}, hyperparameters="tiles")
    assert wide.gene.latents.shape == (16, 512)
    assert len(wide.gene.pool.layers) == 2


@pytest.mark.parametrize("bind", ["product", "concat"])
def test_genes_may_come_in_any_order_and_values_belong_to_theirs(bind: str) -> None:
    torch.manual_seed(0)
    encoder = GeneSentences(5, 16, 8, bind=bind, heads=2)
    encoder.take(torch.randn(1000))
    texts, values = torch.randn(9, 5), torch.randn(7, 9)
    order = torch.randperm(9)
    before = encoder(texts, values)
    torch.testing.assert_close(encoder(texts[order], values[:, order]), before, rtol=1e-4, atol=1e-5)
    exchanged = encoder(texts, swapped(values, 0.3))
    assert (exchanged - before).norm(dim=1).min() > 1e-3
    control = GeneSentences(5, 16, 8, bind="none")
    control.take(torch.randn(1000))
    torch.testing.assert_close(control(texts, values), control(texts, swapped(values, 0.3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("n_latents", "depth", "bind"), [(1, 1, "product"), (4, 2, "concat"), (1, 1, "none")])
def test_chunks_give_the_same_sentences_and_gradients(n_latents: int, depth: int, bind: str) -> None:
    torch.manual_seed(0)
    encoder = GeneSentences(5, 16, 8, bind=bind, heads=2, n_latents=n_latents, depth=depth)
    texts, values = torch.randn(50, 5), torch.randn(7, 50)
    found = []
    for chunk in (10**6, 60, 3):  # the last is smaller than the number of sentences
        encoder.chunk = chunk
        encoder.zero_grad()
        sentences = encoder(texts, values)
        sentences.square().sum().backward()
        found.append(
            (sentences.detach(), encoder.text_proj.weight.grad.clone(), encoder.value_bins.weight.grad.clone())
        )
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-5)


def test_a_sentence_of_one_gene_is_the_same_alone_and_among_others() -> None:
    torch.manual_seed(0)
    encoder = GeneSentences(5, 16, 8, heads=2)
    texts, values = torch.randn(3, 5), torch.randn(4, 3)
    together = encoder.single(texts, values)
    for gene in range(3):
        torch.testing.assert_close(encoder(texts[gene : gene + 1], values[:, gene : gene + 1]), together[:, gene])


def test_exchanged_values_are_the_same_values_elsewhere() -> None:
    values = torch.arange(40.0).reshape(4, 10)
    other = swapped(values, 0.3)
    assert (other != values).sum(dim=1).tolist() == [3] * 4
    assert torch.equal(other.sort(dim=1).values, values)
    assert (swapped(values[:, :2], 0.3) != values[:, :2]).all()


def test_what_is_hidden_is_told_from_what_is_shown_alone() -> None:
    torch.manual_seed(0)
    tower = MaskedTokens(D, 16, 5, 1, 2, 2.0)
    tokens, mask = torch.randn(3, 25, D), torch.ones(3, 25, dtype=torch.bool)
    mask[0, :9] = False
    hidden = hide(mask, 0.5)
    assert hidden.sum(dim=1).tolist() == [8, 12, 12]
    assert not (hidden & ~mask).any()
    other = torch.where((mask & ~hidden).unsqueeze(2), tokens, torch.randn_like(tokens))
    with torch.no_grad():
        torch.testing.assert_close(tower.told(tokens, mask & ~hidden), tower.told(other, mask & ~hidden))
    features = tower(tokens, mask)
    features.retain_grad()
    loss = masked_feature_loss(tower.told(tokens, mask & ~hidden), features, hidden)
    loss.backward()
    assert features.grad is None  # nothing flows into what is to be told
    assert tower.mask_query.grad.abs().sum() > 0


@pytest.mark.parametrize("options", [{"masked": 0.0}, {"image": "features"}])
def test_with_nothing_hidden_there_is_no_such_loss(options: dict[str, Any]) -> None:
    data = rows_set()
    built = network(data, **options).train()
    assert masked_feature_loss(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4), torch.zeros(2, 3, dtype=torch.bool)) is None
    parts = built.step(batch_of(data, built), PRETRAIN)
    assert "masked" not in parts
    assert torch.isfinite(parts["total"])
    assert "masked" in network(data).train().step(batch_of(data, network(data)), PRETRAIN)


def told_pairs(bind: str) -> float:
    """How often a new picture fits its own sentence better than one with exchanged values, after the pair loss alone."""
    torch.manual_seed(0)
    n_genes = 4
    data = rows_set(200, n_genes=n_genes)
    data.target = np.random.default_rng(0).normal(size=data.target.shape).astype(np.float32)
    data.inputs["features"] = data.target  # the picture shows every gene
    built = network(data, image="features", bind=bind, swapped=1.0).train()
    optimizer = torch.optim.Adam(built.parameters(), 5e-3)
    texts = built._texts()
    for _ in range(120 if bind != "none" else 3):
        values = torch.randn(64, n_genes)
        optimizer.zero_grad()
        image = built.embed_images(Batch(torch.zeros(64), torch.zeros(64), {"features": values}))
        built.pair_loss(image, texts, values, built._fit(image, texts, values)).backward()
        optimizer.step()
    with torch.no_grad():
        built.eval()
        image = built.embed_images(batch_of(data, built))
        return float(
            torch.stack([built.tells_swaps(image, torch.from_numpy(data.target)).mean() for _ in range(5)]).mean()
        )


@pytest.mark.parametrize("bind", ["product", "concat"])
def test_the_pair_loss_alone_tells_exchanged_values(bind: str, record_property: Any) -> None:
    found = told_pairs(bind)
    record_property("printed", f"comtip, bind={bind}: exchanged pairs told with AUC {found:.3f}")
    assert found > 0.95


def test_without_binding_exchanged_values_cannot_be_told(record_property: Any) -> None:
    found = told_pairs("none")
    record_property("printed", f"comtip, bind=none: exchanged pairs told with AUC {found:.3f}")
    assert found == 0.5


def test_the_contrast_goes_both_ways_and_over_several_views() -> None:
    torch.manual_seed(0)
    image, other = (F.normalize(torch.randn(*shape), dim=-1) for shape in ((6, 4), (3, 6, 4)))
    expected = []
    for view in other:
        logits = 5 * view @ image.T
        own = torch.arange(6)
        expected.append((F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2)
    torch.testing.assert_close(info_nce(image, other, torch.tensor(5.0)), torch.stack(expected).mean())
    torch.testing.assert_close(info_nce(image, other[0], torch.tensor(5.0)), expected[0])


def test_the_step_against_the_contrast_makes_it_worse_and_is_small() -> None:
    data = rows_set()
    worse = []
    for seed in range(5):
        built = network(data, seed=seed, n_single=1).train()
        batch = batch_of(data, built)
        values = (batch.target - built.target_mean) / built.target_std
        with torch.no_grad():
            image = built.embed_images(batch)
        torch.manual_seed(seed)
        parts = built.aligned(image, values)
        torch.manual_seed(seed)  # the same genes are drawn again
        torch.randperm(GENES)
        chosen = built._drawn(GENES)
        texts = built._texts()[chosen]
        plain = info_nce(image, built._sentence(built.gene(texts, values[:, chosen])), built.logit_scale.exp())
        worse.append(float((parts["adversarial"] / plain).detach()))
    assert min(worse) > 1
    assert max(worse) < 1.1


def test_the_discriminator_learns_and_the_encoder_unlearns() -> None:
    x = torch.randn(3, requires_grad=True)
    values = reversed_gradient(x, 0.1)
    torch.testing.assert_close(values, x)
    values.sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3,), -0.1))
    data = rows_set()
    built = network(data, paat="discriminator").train()
    parts = built.step(batch_of(data, built), PRETRAIN)
    assert {"contrast", "discriminator"} < set(parts)
    assert not {"pair", "adversarial"} & set(parts)
    parts["discriminator"].backward()
    assert all(p.grad.abs().sum() > 0 for p in (*built.discriminator.parameters(), built.gene.bind.weight))


@pytest.fixture(scope="module")
def twins() -> tuple[Predictor, ArraySet, np.ndarray, np.ndarray]:
    """Four genes that have nothing to do with each other: a network of them, test rows, their texts, and twins of them there."""
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(480, 4)).astype(np.float32)
    maps = features @ np.linalg.qr(rng.normal(size=(4, 4)))[0]
    values, others = (maps + 0.3 * rng.normal(size=maps.shape) for _ in range(2))
    section, texts = np.arange(480) * 4 // 480, rng.normal(size=(4, 8))
    data = ArraySet(section, section, {"features": features}, target=values.astype(np.float32), genes=panel(texts))
    config = {"max_epochs": 30, "patience": 0, "learning_rate": 3e-3, "batch_size": 64}
    fit = fit_arrays(
        "comtip", data.take(section < 3), hyperparameters=SMALL | {"image": "features", "head": "grid"},
        config=train_config("comtip").updated(config),
    )  # fmt: skip
    return fit.network, replace(data.take(section == 3), genes=panel(texts)), texts, others[section == 3]


def test_a_gene_that_it_never_saw_is_its_twin(twins: Any, record_property: Any) -> None:
    """Its text is that of a gene of the training; with the texts of other genes nothing is known of it."""
    built, test, texts, truth = twins
    own = correlations(predict_arrays(built, test, genes=panel(texts, first=50)).mean, truth)
    others = [
        correlations(predict_arrays(built, test, genes=panel(texts[derangement(4, seed)], first=50)).mean, truth).mean()
        for seed in range(6)
    ]
    record_property("printed", f"comtip, twins: r {own.round(3).tolist()}, by other texts {np.mean(others):.3f}")
    assert own.min() > 0.8
    assert abs(np.mean(others)) < 0.1


def test_a_gene_is_predicted_alike_whichever_others_are_asked_for(twins: Any) -> None:
    built, test, texts, _ = twins
    together = predict_arrays(built, test, genes=panel(texts, first=50)).mean
    alone = predict_arrays(built, test, genes=panel(texts[2:3], first=52)).mean
    np.testing.assert_allclose(alone[:, 0], together[:, 2], rtol=1e-4, atol=1e-4)
    built.config = replace(built.config, chunk=1)
    np.testing.assert_allclose(
        predict_arrays(built, test, genes=panel(texts, first=50)).mean, together, rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("head", ["mlp", "query"])
def test_genes_of_the_panel_are_predicted_by_the_head(head: str) -> None:
    data = rows_set()
    built = network(data, head=head)
    with torch.no_grad():
        for parameter in built.head.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        batch = batch_of(data, built)
        built.eval()
        mean, hidden = built.predict(batch).mean, built.encode(batch)
        torch.testing.assert_close(built.decode(hidden, data.genes).mean, mean)
        own = data.genes.tables["gene_table"]
        names = ("strange", *data.genes.names[1:])
        mixed = built.decode(hidden, Panel(names, {"gene_table": own})).mean
        torch.testing.assert_close(mixed[:, 1:], mean[:, 1:])
        assert not torch.allclose(mixed[:, 0], mean[:, 0], atol=1e-3)


def test_values_do_not_tell_how_abundant_a_gene_is() -> None:
    data = rows_set()
    other = replace(data, target=data.target * 3 + 10)
    sentences = []
    for each in (data, other):
        built = network(each)
        with torch.no_grad():
            sentences.append(built.embed_spots(batch_of(each, built), torch.from_numpy(each.target)))
    torch.testing.assert_close(*sentences, rtol=1e-3, atol=1e-4)


def test_bins_and_the_grid_are_quantiles_of_the_training_values() -> None:
    data = rows_set(400)
    built = network(data)
    values = ((data.target - data.target.mean(axis=0)) / data.target.std(axis=0)).ravel()
    np.testing.assert_allclose(built.grid, np.quantile(values, (np.arange(8) + 0.5) / 8), atol=0.02)
    np.testing.assert_allclose(built.gene.edges, np.quantile(values, np.arange(1, 8) / 8), atol=0.02)


def test_the_first_stage_learns_from_pictures_that_were_not_measured() -> None:
    data = rows_set()
    measured = np.arange(40) % 2 == 0
    target = np.where(measured[:, None], data.target, np.nan)
    half = replace(data, target=target, labeled=measured)
    built = network(data).train()
    parts = built.step(batch_of(half, built), PRETRAIN)
    assert {"masked", "contrast", "pair", "adversarial"} < set(parts)
    none = replace(half, labeled=np.zeros(40, dtype=bool))
    only = built.step(batch_of(none, built), PRETRAIN)
    assert set(only) == {"masked", "total"}
    only["total"].backward()
    assert built.image.proj.weight.grad.abs().sum() > 0
    fit = fit_arrays(
        "comtip", half, hyperparameters="small",
        config=train_config("comtip", {"max_epochs": 1, "patience": 0}),
    )  # fmt: skip
    assert set(fit.history["stage"]) == {PRETRAIN.name, HEAD_STAGE.name}


def test_slopes_of_the_head_and_of_sentences() -> None:
    """Genes that nothing tells about: what is said of them is noise, and is told to be small, also of others like them."""
    data = rows_set(80)
    data.target = np.random.default_rng(1).normal(size=data.target.shape).astype(np.float32)
    built = network(data).eval()
    parts = [data.take(data.section < 2), data.take(data.section >= 2)]
    with torch.no_grad():
        strange = panel(np.random.default_rng(2).normal(size=(3, 5)), first=50)
        hidden = built.encode(batch_of(parts[1], built))
        before = built.decode(hidden, strange).mean
        built.calibrate(*([batch_of(part, built)] for part in parts))
        after = built.decode(hidden, strange).mean
        assert built.zero_shot.slope.max() < 0.5
        torch.testing.assert_close(after.std(dim=0), built.zero_shot.slope.mean() * before.std(dim=0))
    assert {"shrinkage", "zero_shot_shrinkage"} == set(built.facts())


PEAK = """
import sys, torch
from stpredict.models.nn._gene_sentences import GeneSentences
def megabytes(name):
    return float(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1]) / 1024
torch.set_num_threads(1)
encoder = GeneSentences(16, 16, 32, n_latents=4, depth=2, heads=2, mlp=1.0, chunk=int(sys.argv[1]))
texts, values = torch.randn(20_000, 16), torch.randn(64, 20_000)
with torch.no_grad():
    encoder(texts[:64], values[:, :64])
    open("/proc/self/clear_refs", "w").write("5")  # the peak starts anew
    before = megabytes("VmRSS")
    encoder(texts, values)
print(megabytes("VmHWM") - before)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="this system does not tell peaks of memory")
def test_memory_is_bounded_by_the_chunk(record_property: Any) -> None:
    """64 sentences of 20,000 genes: each layer on all of their tokens would take 82 MB at this width."""
    where = {"PYTHONPATH": str(Path(stp.__file__).parents[1])}
    command = [sys.executable, "-c", PEAK, str(2**14)]
    found = float(subprocess.run(command, capture_output=True, text=True, check=True, env=where).stdout)
    record_property("printed", f"comtip, 20,000 genes x 64 spots, chunk 16,384: {found:.0f} MB above the start")
    assert found < 40


def test_the_whole_way(toy: ad.AnnData) -> None:
    """From slots to genes never seen, the common space, and the permuted table beside it."""
    stp.pp.gene_table(toy, "random", n_components=4)
    train = (toy.obs["patient"] != "p2").to_numpy()
    options: dict[str, Any] = {"hyperparameters": SMALL | {"image": "features"}, "training": {"max_epochs": 2}}
    model = stp.tl.fit(toy, "comtip", train, target=["G0", "G1", "G2", "G3"], baselines=False, **options)
    assert model.training.validated_on == "patient"
    stp.tl.predict(toy, model, genes=["G5", "G1"])
    assert np.isfinite(toy.obsm["predicted"]).all()
    stp.tl.embed(toy, model)
    recall = stp.tl.recall_at_k(toy, k=1, rows=~train)
    assert np.isfinite(recall["recall@1"]).all()
    data = rows_set()
    built = network(data)
    batch = replace(batch_of(data, built), target=None)
    with pytest.raises(ValueError, match="expected expression"):
        built.step(batch, PRETRAIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "slide"}, "image"), ({"head": "linear"}, "head"), ({"bind": "sum"}, "bind"), ({"paat": "none"}, "paat"),
        ({"masked": 1.5}, "masked in 0–1"), ({"pair_weight": -1}, "pair_weight of at least 0"), ({"chunk": 0}, "chunk"),
        ({"image": "patches", "patch_px": 100}, "multiple of 32"), ({"n_bins": 1}, "n_bins of at least 2"),
    ],
)  # fmt: skip
def test_configurations_that_make_no_sense_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(rows_set(), **options)


def test_patches_are_cut_into_tokens() -> None:
    data = rows_set(3)
    data.inputs["patches"] = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3), dtype=np.uint8)
    built = network(data, image="patches")
    assert built.needs == {"patches", "gene_table"}
    built.eval()
    tokens, mask = built.tokens(batch_of(data, built))
    assert tokens.shape == (3, 4, 3072)
    assert mask.all()
    image = tokens[0, 1].reshape(3, 32, 32)  # to the right of the first
    expected = data.inputs["patches"][0, :32, 32:, :].transpose(2, 0, 1) / 255
    np.testing.assert_allclose(np.corrcoef(image[0].ravel(), expected[0].ravel())[0, 1], 1, atol=1e-5)
    built.train().step(batch_of(data, built), PRETRAIN)["total"].backward()
    assert built.image.proj.weight.grad.abs().sum() > 0
