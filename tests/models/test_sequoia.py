from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from stpredict.models import Batch, Shape, Summary, get_model
from stpredict.models._sequoia import Sequoia, SequoiaConfig, SummaryMixing
from stpredict.models.nn._bag_layers import masked_mean

D, GENES = 12, 5
SHAPE = Shape(GENES, {"tokens": D})


def build(**changes) -> Sequoia:
    torch.manual_seed(0)
    options = {"depth": 2, "heads": 3, "d_head": 4, "n_tokens": 6, "standardize": False} | changes
    return Sequoia(SequoiaConfig(**options), SHAPE).eval()


def bags(n: int = 4, n_tokens: int = 6, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    none = torch.zeros(n, dtype=torch.long)
    inputs = {"tokens": torch.randn(n, n_tokens, D, generator=generator), "token_size": torch.ones(n, n_tokens)}
    return Batch(none, none, inputs)


def test_parameter_count_of_the_paper() -> None:
    for n_genes, wanted in ((50, 32_473_138), (20_820, 53_762_388)):
        with torch.device("meta"):
            network = Sequoia(SequoiaConfig(positional_embedding=True), Shape(n_genes, {"tokens": 1024}))
        assert sum(p.numel() for p in network.parameters()) == wanted


def test_mixing_equals_its_formula_head_by_head() -> None:
    torch.manual_seed(0)
    mixing = SummaryMixing(D, 3, 4)
    for norm in (mixing.local_norm, mixing.summary_norm):
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    tokens = torch.randn(2, 5, D)
    outputs = []
    for h in range(3):
        rows = slice(4 * h, 4 * h + 4)

        def branch(linear, norm, average, rows=rows, h=h):
            value = F.linear(tokens, linear.weight[rows], linear.bias[rows])
            value = value.mean(dim=1, keepdim=True).expand_as(value) if average else value
            return F.gelu(F.layer_norm(value, (4,), norm.weight[h], norm.bias[h]))

        local = branch(mixing.local, mixing.local_norm, False)
        summary = branch(mixing.summary, mixing.summary_norm, True)
        joined = torch.cat([local, summary], dim=-1)
        outputs.append(F.gelu(F.linear(joined, mixing.combine_weight[h], mixing.combine_bias[h])))
    expected = mixing.projection(torch.cat(outputs, dim=-1))
    torch.testing.assert_close(mixing(tokens, torch.ones(2, 5, dtype=torch.bool)), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["sequoia", "slide_transformer", "he2rna"])
@pytest.mark.parametrize("filler", [0.0, 1e6, float("nan")])
def test_padding_has_no_influence(name: str, filler: float) -> None:
    torch.manual_seed(0)
    info = get_model(name)
    options = {"depth": 2, "heads": 3, "d_head": 4, "d_hidden": 8, "hidden": 7, "standardize": False}
    known = info.config.__dataclass_fields__
    network = info.cls(info.configure({k: v for k, v in options.items() if k in known}), SHAPE).eval()
    batch = bags()
    longer = Batch(batch.section, batch.patient)
    longer.inputs["tokens"] = torch.cat([batch["tokens"], torch.full((4, 3, D), filler)], dim=1)
    longer.inputs["token_size"] = torch.cat([batch["token_size"], torch.zeros(4, 3)], dim=1)
    order = torch.tensor([6, 0, 1, 7, 2, 3, 4, 8, 5])  # padding need not come last
    inputs = {name: values[:, order] for name, values in longer.inputs.items()}
    shuffled = Batch(batch.section, batch.patient, inputs)
    with torch.no_grad():
        wanted = network(batch).mean
        torch.testing.assert_close(network(longer).mean, wanted, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(network(shuffled).mean, wanted, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(network(bags(seed=1)).mean, wanted, atol=1e-3)


@pytest.mark.parametrize("name", ["sequoia", "slide_transformer", "he2rna"])
def test_each_slide_has_its_own_number_of_tokens(name: str) -> None:
    info = get_model(name)
    torch.manual_seed(0)
    small = {"depth": 1, "heads": 3, "d_head": 4} if name != "he2rna" else {}
    network = info.cls(info.configure(small | {"standardize": False}), SHAPE).eval()
    batch = bags()
    batch["token_size"][1, 4:] = 0
    batch["token_size"][2, 1:] = 0
    with torch.no_grad():
        together = network(batch).mean
        for i, n in enumerate((6, 4, 1, 6)):
            inputs = {"tokens": batch["tokens"][i : i + 1, :n], "token_size": torch.ones(1, n)}
            alone = Batch(batch.section[:1], batch.patient[:1], inputs)
            torch.testing.assert_close(network(alone).mean, together[i : i + 1], rtol=1e-5, atol=1e-5)


def test_gradients_of_padding_are_zero() -> None:
    network = build(positional_embedding=True)
    batch = bags()
    batch["token_size"][:, 4:] = 0
    batch["tokens"].requires_grad_()
    network(batch).mean.square().sum().backward()
    assert (batch["tokens"].grad[:, 4:] == 0).all()
    assert (batch["tokens"].grad[:, :4] != 0).any(dim=-1).all()
    assert (network.position.grad[4:] == 0).all()


def test_masked_mean_of_whole_bags_is_the_mean() -> None:
    tokens = torch.randn(3, 7, D)
    torch.testing.assert_close(masked_mean(tokens, torch.ones(3, 7, dtype=torch.bool)), tokens.mean(dim=1))


def test_read_out_is_affine_and_slices_genes() -> None:
    network = build(standardize=True)
    network.prepare(summary())
    torch.nn.init.normal_(network.head.mean.weight)
    torch.nn.init.normal_(network.head.mean.bias)
    batch = bags()
    mask = batch["token_size"] > 0
    with torch.no_grad():
        pooled = network.pool(network.tokens(batch["tokens"]), mask)
        whole = network.read_out(pooled, mask)
        torch.testing.assert_close(whole, network(batch).mean)
        torch.testing.assert_close(network.read_out(pooled, genes=slice(1, 3)), whole[:, 1:3])
        torch.testing.assert_close(network.read_out(pooled.mean(dim=0, keepdim=True)), whole.mean(dim=0, keepdim=True))
    assert network.affine_read_out


def summary() -> Summary:
    return Summary(
        9,
        torch.arange(5.0),
        torch.tensor([1.0, 2.0, 3.0, 0.5, 10.0]),
        {"tokens": (torch.linspace(-50, 50, D), torch.full((D,), 7.0))},
    )


def test_starts_at_the_training_mean_and_reads_standardized_tokens() -> None:
    network = build(standardize=True)
    network.prepare(summary())
    batch = bags()
    torch.testing.assert_close(network(batch).mean, torch.arange(5.0).expand(4, 5))
    batch.inputs["tokens"] = batch["tokens"] * 7 + torch.linspace(-50, 50, D)
    torch.testing.assert_close(network.tokens(batch["tokens"]), bags()["tokens"], rtol=1e-4, atol=1e-4)


def test_loss_is_in_units_of_the_training_spread() -> None:
    batch = bags()
    batch.target = torch.arange(5.0) + summary().target_std
    standardized, raw = build(standardize=True), build()
    for network in (standardized, raw):
        network.prepare(summary())
    assert standardized.loss(standardized(batch), batch)["total"].item() == pytest.approx(1.0)
    prediction = raw(batch)
    wanted = F.mse_loss(prediction.mean, batch.target.expand(4, 5)).item()
    assert raw.loss(prediction, batch)["total"].item() == pytest.approx(wanted)
    assert (raw.standardize.mean == 0).all()


def test_order_of_tokens_matters_only_with_positions() -> None:
    batch = bags()
    turned = Batch(batch.section, batch.patient, {name: values.flip(1) for name, values in batch.inputs.items()})
    with torch.no_grad():
        torch.testing.assert_close(build()(batch).mean, build()(turned).mean)
        network = build(positional_embedding=True)
        assert not torch.allclose(network(batch).mean, network(turned).mean, atol=1e-3)
        with pytest.raises(ValueError, match="expected at most 6 tokens.*found 7"):
            network(bags(n_tokens=7))
        assert build()(bags(n_tokens=7)).mean.shape == (4, GENES)
