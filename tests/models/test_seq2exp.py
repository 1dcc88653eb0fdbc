"""Seq2Exp: rules of the mask, one code path for its variants, published sizes, and an element that it has to find."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from stpredict.models import Batch, Summary, build
from stpredict.models._seq2exp import Seq2Exp, middle

N, LENGTH = 3, 96
SMALL = {"dim": 8, "depth": 1, "d_state": 2, "expand": 1}
WIDTHS = {"signals": 2, "gene_features": 5}
VARIANTS = {
    "soft": {},
    "hard": {"mask": "hard"},
    "packed": {"mask": "hard", "packed": True},
    "published": {"gated": False, "standardize": False, "beta_min": 1.0},
    "published hard": {
        "mask": "hard", "packed": True, "shared": True, "generator_reads": "all", "positions": 100, "gated": False,
        "standardize": False, "beta_min": 0.0, "prior_mean": 0.45, "marginal_scale": 0.1,
    },
}  # fmt: skip


def network(**changes) -> Seq2Exp:
    return build("seq2exp", 2, WIDTHS, hyperparameters=SMALL | changes, seed=0)  # type: ignore[return-value]


def genes(n: int = N, length: int = LENGTH, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    none = torch.zeros(n, dtype=torch.long)
    inputs = {
        "sequence": torch.randint(0, 5, (n, length), generator=generator).byte(),
        "signals": 3 * torch.rand(n, length, 2, generator=generator),
        "sequence_mask": torch.zeros(n, length, dtype=torch.int8),
        "gene_features": torch.randn(n, 5, generator=generator),
    }
    return Batch(none, none, inputs, target=torch.randn(n, 2, generator=generator))


@pytest.mark.parametrize(("preset", "wanted"), [("paper", 1_114_249), ("hard", 26_174_985)])
def test_parameters_and_names_of_the_published_networks(preset: str, wanted: int) -> None:
    with torch.device("meta"):
        published = build("seq2exp", hyperparameters=preset)
    assert sum(p.numel() for p in published.parameters()) == wanted
    shapes = {name: tuple(tensor.shape) for name, tensor in published.state_dict().items()}
    named = {
        "seq_input_layer.weight": (128, 4), "signal_input_layer.weight": (128, 3), "mask_output.weight": (2, 128),
        "prior_weights": (3,), "signal_betas": (3,), "pToExpr.0.weight": (128, 137), "pToExpr.2.weight": (128, 128),
        "pToExpr.4.weight": (1, 128), "generator.backbone.norm_f.weight": (128,),
        "encoder.backbone.layers.3.mixer.mamba_rev.A_log": (256, 16),
    }  # fmt: skip
    assert named.items() <= shapes.items()
    assert (published.encoder is published.generator) == (preset == "hard")
    assert shapes.get("pos_emb") == ((1, 200_000, 128) if preset == "hard" else None)
    assert sum(p.numel() for p in published.generator.parameters()) == 539_264


def test_published_constants() -> None:
    soft = build("seq2exp", hyperparameters="paper", seed=0)
    torch.testing.assert_close(soft.prior_weights.softmax(dim=0), torch.tensor([0.4, 0.4, 0.2]))
    torch.testing.assert_close(soft.signal_betas.detach(), torch.tensor([1.5, 0.2, 1.0]))
    assert not soft.prior_weights.requires_grad
    config = soft.config
    assert (config.beta_min, config.prior_scale, config.prior_mean, config.marginal_scale, config.kl) == (
        1,
        10,
        0.1,
        10,
        0.01,
    )
    with torch.device("meta"):
        config = build("seq2exp", hyperparameters="hard").config
    assert (config.beta_min, config.prior_scale, config.prior_mean, config.marginal_scale) == (0, 1, 0.45, 0.1)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_promoter_always_counts_and_what_is_left_out_never_does(variant: str, training: bool) -> None:
    batch, model = genes(), network(**VARIANTS[variant]).train(training)
    rules = batch["sequence_mask"]
    rules[:, :20], rules[1, 60:] = -1, -1
    rules[0, 24:30] = 1
    rules[:, LENGTH // 2 - 2 : LENGTH // 2] = -1  # in the promoter, which comes first
    batch["signals"][:, :30] = 100.0
    prediction = model(batch)
    mask, promoter = prediction.extras["mask"], model.promoter(LENGTH)
    assert (promoter.start, promoter.stop) == (36, 60)
    inside = torch.zeros(LENGTH, dtype=torch.bool)
    inside[promoter] = True
    assert (mask[:, inside] == 1).all()
    assert (mask[:, ~inside][rules[:, ~inside] < 0] == 0).all()
    assert (mask[0, 24:30] == 1).all()
    free = mask[:, ~inside][rules[:, ~inside] == 0]
    if model.config.mask == "hard":
        assert set(free.unique().tolist()) <= {0.0, 1.0}
    else:
        assert 0 < free.min() < free.max() < 1
    assert model.loss(prediction, batch)["total"].isfinite()


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_closed_is_not_read(variant: str) -> None:
    model = network(**VARIANTS[variant]).eval()
    sequence, others = (model.embedded(genes(seed=seed))[1] for seed in (0, 1))
    mask = (torch.rand(N, LENGTH) < 0.5).float()
    mask[:, model.promoter(LENGTH)] = 1
    changed = torch.where(mask.bool().unsqueeze(-1), sequence, others)
    assert torch.equal(model.read(changed, mask), model.read(sequence, mask))
    assert not torch.equal(model.read(others, mask), model.read(sequence, mask))


def test_a_long_window_has_the_published_promoter_and_a_short_one_a_quarter() -> None:
    model = network()
    assert model.promoter(200_000) == slice(99_000, 101_000)
    assert model.promoter(2048) == slice(768, 1280)
    assert network(promoter=2000).promoter(2500) == slice(250, 2250)
    assert network(promoter=2000).promoter(96) == slice(0, 96)
    assert middle(9, 1) == slice(4, 5)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("gated", [False, True])
def test_packed_and_masked_encoders_agree_where_everything_is_open(gated: bool, shared: bool) -> None:
    batch = genes()
    batch["sequence_mask"][:] = 1
    found = [
        network(mask=mask, packed=packed, gated=gated, shared=shared).eval()(batch).mean
        for mask, packed in (("soft", False), ("hard", False), ("hard", True))
    ]
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    torch.testing.assert_close(found[2], found[0], rtol=1e-5, atol=1e-6)


def test_packed_and_gated_encoders_agree_on_any_mask_but_for_the_convolution() -> None:
    batch = genes()
    masked, packed = (network(mask="hard", packed=packed, d_conv=1).eval() for packed in (False, True))
    batch["sequence_mask"][:] = torch.where(torch.rand(N, LENGTH) < 0.5, -1, 1).to(torch.int8)
    torch.testing.assert_close(packed(batch).mean, masked(batch).mean, rtol=1e-4, atol=1e-5)


def test_no_open_position_is_lost_in_packing() -> None:
    model, batch = network(**VARIANTS["packed"]).train(), genes(8)
    seen = []
    model.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    torch.manual_seed(1)
    mask = model(batch).extras["mask"]
    assert torch.equal(seen[0].sum(dim=1), mask.sum(dim=1))
    assert 0 < mask.mean() < 1


def test_a_share_counts_in_proportion_only_where_it_gates() -> None:
    """A norm follows the product of sequence and mask, and takes its scale out again."""
    effect = {}
    for gated in (True, False):
        model = network(gated=gated, center=LENGTH // 4).eval()
        sequence, read = model.embedded(genes())[1], []
        for share in (0.0, 0.05, 1.0):
            mask = torch.full((N, LENGTH), share)
            mask[:, model.promoter(LENGTH)] = 1
            read.append(model.read(sequence, mask))
        effect[gated] = ((read[1] - read[0]).norm() / (read[2] - read[0]).norm()).item()
    assert effect[True] < 0.3
    assert effect[False] > 0.5


@pytest.mark.parametrize("variant", VARIANTS)
def test_windows_of_two_thousand_bases_run_without_mamba_ssm(variant: str, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    options = VARIANTS[variant] | ({"positions": 2048} if "positions" in VARIANTS[variant] else {})
    model, batch = network(**options), genes(2, 2048)
    loss = model.loss(model(batch), batch)["total"]
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad and p.grad is not None)
    assert model.eval()(batch).mean.shape == (2, 2)


def test_ablations_read_nothing_else() -> None:
    batch = genes()
    for name, other in (("sequence", "signals"), ("signals", "sequence")):
        model = network(inputs=(name,)).eval()
        assert model.needs == {name, "sequence_mask"}
        alone = Batch(batch.section, batch.patient, {k: v for k, v in batch.inputs.items() if k != other})
        assert model(alone).mean.isfinite().all()


def test_genes_are_encoded_by_their_windows_and_not_by_what_else_is_known() -> None:
    model, batch = network(inputs=("sequence", "signals", "gene_features")).eval(), genes()
    encoded = model.encode(batch)
    assert encoded.shape == (N, SMALL["dim"])
    before = model(batch).mean
    batch.inputs["gene_features"] = batch["gene_features"] + 1
    assert torch.equal(model.encode(batch), encoded)
    assert not torch.equal(model(batch).mean, before)
    hidden = torch.cat([encoded, model.of_genes(batch["gene_features"])], dim=1)
    torch.testing.assert_close(model.pToExpr(hidden), model(batch).mean)


def test_sizes_of_parts_change_nothing() -> None:
    batch = genes()
    whole, parts = (network(chunk=chunk).eval()(batch) for chunk in (10_000, 40))
    torch.testing.assert_close(parts.mean, whole.mean, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(parts.extras["mask"], whole.extras["mask"], rtol=1e-4, atol=1e-5)


def test_levels_and_scales_of_signals_come_from_training_where_none_are_given() -> None:
    mean, std = torch.tensor([2.0, 50.0]), torch.tensor([4.0, 0.0])
    summary = Summary(9, torch.zeros(2), torch.ones(2), {"signals": (mean, std)})
    model = network()
    model.prepare(summary)
    torch.testing.assert_close(model.signal_betas.detach(), torch.tensor([1.5, 0.0]))
    scaled = model.embedded(genes())[2]
    assert torch.equal(scaled[..., 1], torch.zeros(N, LENGTH))  # it was constant, and says nothing
    with pytest.raises(ValueError, match="one of track_weights for each of 2 signals; found 3"):
        network(track_weights=(1.0, 2.0, 3.0)).prepare(summary)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ("gene_features",)}, "'sequence' or 'signals' among inputs"),
        ({"inputs": ("sequence", "dna")}, "each of inputs"),
        ({"packed": True}, "mask='hard' for packed=True"),
        ({"mask": "firm"}, "mask"),
        ({"prior_mean": 1.0}, "prior_mean between 0 and 1"),
        ({"kl": -1.0}, "at least 0"),
        ({"chunk": 0}, "chunk"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        network(**changes)


def test_windows_longer_than_the_positions_are_refused() -> None:
    with pytest.raises(ValueError, match="at most positions=90; found 96"):
        network(positions=90)(genes())


ELEMENT, WINDOW, MOTIF, MOST = 500, 1100, (2, 2, 2, 1, 2, 2), 32


def open_regions(n: int, seed: int) -> tuple[Batch, Tensor]:
    """Genes with two open regions of 500 bases at any place on either side of the middle, alike in their signals.

    Both hold GGGCGG up to 32 times, each as often as it likes. Only in the element, where T is more frequent than A, does
    it count: the expression is their number there. Returns the genes and where their elements are (n, length).
    """
    rng, half = np.random.default_rng(seed), WINDOW // 2
    room = half - 32 - ELEMENT
    starts = np.stack([rng.integers(0, room, n), half + 32 + rng.integers(0, room, n)], axis=1)
    starts = rng.permuted(starts, axis=1)
    place = np.arange(WINDOW)
    regions = (place >= starts[..., None]) & (place < starts[..., None] + ELEMENT)
    element = regions[:, 0]
    draw = rng.random((n, WINDOW))
    sequence = np.where(draw < np.where(element, 0.5, 0.1), 3, np.where(draw < 0.6, 0, np.where(draw < 0.8, 1, 2)))
    number = rng.integers(0, MOST + 1, (n, 2))
    for row in range(n):
        for start, count in zip(starts[row], number[row], strict=True):
            for slot in rng.permutation(ELEMENT // len(MOTIF))[:count]:
                first = start + slot * len(MOTIF)
                sequence[row, first : first + len(MOTIF)] = MOTIF
    signals = 2.0 * regions.any(axis=1)[..., None] + 0.1 * np.abs(rng.normal(size=(n, WINDOW, 2)))
    inputs = {
        "sequence": torch.from_numpy(sequence.astype(np.uint8)),
        "signals": torch.from_numpy(signals.astype(np.float32)),
        "sequence_mask": torch.zeros(n, WINDOW, dtype=torch.int8),
    }
    none = torch.zeros(n, dtype=torch.long)
    return Batch(none, none, inputs, target=torch.from_numpy(number[:, :1]).float()), torch.from_numpy(element)


def rows(batch: Batch, index: Tensor) -> Batch:
    inputs = {name: values[index] for name, values in batch.inputs.items()}
    return Batch(batch.section[index], batch.patient[index], inputs, target=batch.target[index])


def overlap(mask: Tensor, element: Tensor, promoter: slice) -> float:
    """Intersection over union of the elements and as many of the most open bases, by means over 51, outside the promoter."""
    smooth = F.avg_pool1d(mask.unsqueeze(1), 51, 1, 25, count_include_pad=False).squeeze(1)
    smooth[:, promoter] = 0
    found = torch.zeros_like(element).scatter(1, smooth.topk(ELEMENT, dim=1).indices, True)
    return ((found & element).sum(dim=1) / (found | element).sum(dim=1)).mean().item()


def found_element(steps: int, **changes) -> tuple[float, float]:
    """Train on 200 genes; overlap of the masks of 48 others with their elements, and correlation of their expression."""
    (train, _), (test, element) = open_regions(200, 0), open_regions(48, 1)
    options = {"dim": 16, "depth": 1, "d_state": 1, "expand": 1, "promoter": 32} | changes
    model = build("seq2exp", 1, {"signals": 2}, hyperparameters=options, seed=0)
    moments = {"signals": (train["signals"].mean(dim=(0, 1)), train["signals"].std(dim=(0, 1)))}
    model.prepare(Summary(200, train.target.mean(dim=0), train.target.std(dim=0), moments))
    model.eval().remember([rows(train, torch.arange(64))])
    optimizer = torch.optim.AdamW(model.parameters(), 5e-3, weight_decay=0.0)
    torch.manual_seed(0)
    for _ in range(steps):
        batch = rows(train, torch.randperm(200)[:12])
        optimizer.zero_grad()
        model.train().loss(model(batch), batch)["total"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.inference_mode():
        prediction = model.eval()(test)
    r = torch.corrcoef(torch.cat([prediction.mean, test.target], dim=1).T)[0, 1].item()
    return overlap(prediction.extras["mask"], element, model.promoter(WINDOW)), r


def test_a_hidden_element_is_found_by_sequence_and_signals_and_not_by_signals_alone(record_property) -> None:
    both, r = found_element(30)
    alone, _ = found_element(30, inputs=("signals",))
    record_property("printed", f"seq2exp: overlap with the element {both:.2f} (signals alone {alone:.2f}), r {r:.2f}")
    assert both > 0.5
    assert both > alone + 0.2
    assert r > 0.6
