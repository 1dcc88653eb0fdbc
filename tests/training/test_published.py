from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

import stpredict as stp
from stpredict.models import Batch, get_model
from stpredict.training import FittedModel
from stpredict.training._published import _strip_prefix

D, K, GENES, DEPTH, HEADS, D_HEAD = 16, 5, 7, 6, 16, 4
PANEL = [f"g{i}" for i in range(GENES)]


def linear(state: dict[str, Tensor], key: str, rows: int, columns: int, bias: bool = True) -> None:
    state[f"{key}.weight"] = torch.randn(rows, columns) / columns**0.5
    if bias:
        state[f"{key}.bias"] = torch.randn(rows)


def norm(state: dict[str, Tensor], key: str, width: int) -> None:
    state[f"{key}.weight"], state[f"{key}.bias"] = torch.randn(width), torch.randn(width)


def sequoia_tree(positions: bool = True) -> dict[str, Tensor]:
    """Random tensors under the published keys."""
    torch.manual_seed(0)
    state: dict[str, Tensor] = {"pos_emb1D": torch.randn(K, D)} if positions else {}
    for i in range(DEPTH):
        for j in range(HEADS):
            key = f"transformer.layers.{i}.0.mixers.{j}"
            norm(state, f"{key}.local_norm", D_HEAD)
            norm(state, f"{key}.summary_norm", D_HEAD)
            linear(state, f"{key}.s", D_HEAD, D)
            linear(state, f"{key}.f", D_HEAD, D)
            linear(state, f"{key}.c", D_HEAD, 2 * D_HEAD)
        linear(state, f"transformer.layers.{i}.0.projection", D, HEADS * D_HEAD)
        norm(state, f"transformer.layers.{i}.1.net.0", D)
        linear(state, f"transformer.layers.{i}.1.net.1", D, D)
        linear(state, f"transformer.layers.{i}.1.net.3", D, D)
    norm(state, "linear_head.0", D)
    linear(state, "linear_head.1", GENES, D)
    return state


def transformer_tree() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = {"pos_emb1D": torch.randn(K, D)}
    for i in range(2):
        key = f"transformer.layers.{i}"
        norm(state, f"{key}.0.norm", D)
        linear(state, f"{key}.0.to_qkv", 3 * 128, D, bias=False)
        linear(state, f"{key}.0.to_out", D, 128, bias=False)
        norm(state, f"{key}.1.net.0", D)
        linear(state, f"{key}.1.net.1", 20, D)
        linear(state, f"{key}.1.net.3", D, 20)
    norm(state, "linear_head.0", D)
    linear(state, "linear_head.1", GENES, D)
    return state


def he2rna_tree() -> dict[str, Tensor]:
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}
    for name, rows, columns in (("conv0", 8, D), ("conv1", 8, 8), ("conv2", GENES, 8)):
        linear(state, name, rows, columns)
        state[f"{name}.weight"] = state[f"{name}.weight"].unsqueeze(-1)
    return state


def hist_tree(width: int = 4) -> dict[str, Tensor]:
    torch.manual_seed(0)
    state: dict[str, Tensor] = {}

    def conv(key: str, rows: int, columns: int, side: int) -> None:
        state[f"{key}.weight"] = torch.randn(rows, columns, side, side) / (columns * side**2) ** 0.5
        state[f"{key}.bias"] = torch.randn(rows)

    def batch_norm(key: str, size: int) -> None:
        state[f"{key}.weight"], state[f"{key}.bias"] = torch.rand(size) + 0.5, torch.randn(size)
        state[f"{key}.running_mean"], state[f"{key}.running_var"] = torch.randn(size), torch.rand(size) + 0.5
        state[f"{key}.num_batches_tracked"] = torch.tensor(40)

    def block(key: str, rows: int, columns: int) -> None:
        for i, before in ((0, columns), (3, rows)):
            conv(f"{key}.conv.{i}", rows, before, 3)
            batch_norm(f"{key}.conv.{i + 1}", rows)

    for i in range(5):
        block(f"Conv{i + 1}", width * 2**i, width * 2 ** (i - 1) if i else D)
    for i in range(7):
        key = f"ConvMixer.block.{i}"
        conv(f"{key}.0.fn.0", 16 * width, 1, 7)
        conv(f"{key}.1", 16 * width, 16 * width, 1)
        for part in ("0.fn.2", "3"):
            batch_norm(f"{key}.{part}", 16 * width)
    for i in range(2, 6):
        rows = width * 2 ** (i - 2)
        conv(f"Up{i}.up.1", rows, 2 * rows, 3)
        batch_norm(f"Up{i}.up.2", rows)
        block(f"Up_conv{i}", rows, 2 * rows)
        for name, columns, side in (
            ("pointwise", rows, 1), ("ordinary", rows, 3), ("dilation", rows, 3), ("vote", 3 * rows, 1)
        ):  # fmt: skip
            conv(f"msag{i - 1}.{name}Conv.0", rows, columns, side)
            batch_norm(f"msag{i - 1}.{name}Conv.1", rows)
    conv("Conv_1x1", GENES, width, 1)
    return state


TREES = {"sequoia": sequoia_tree, "slide_transformer": transformer_tree, "he2rna": he2rna_tree, "hist": hist_tree}


def bags() -> Batch:
    none = torch.zeros(3, dtype=torch.long)
    return Batch(none, none, {"tokens": torch.randn(3, K, D), "token_size": torch.ones(3, K)})


def sections() -> Batch:
    """Two sections of 30 x 32 cells, as of 32 x 32 after padding."""
    cell = torch.cartesian_prod(torch.arange(30), torch.arange(32)).repeat(2, 1)
    section = torch.arange(2).repeat_interleave(960)
    return Batch(section, section, {"features": torch.randn(1920, D), "cell": cell})


def predict(model: FittedModel, batch: Batch) -> Tensor:
    with torch.no_grad():
        return model.network(batch).mean


def load(tmp_path: Path, name: str, state: dict[str, Tensor], **options) -> FittedModel:
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "model.safetensors")
    return stp.training.load_published(name, tmp_path, **({"genes": PANEL} | options))


def naive_sequoia(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The published formulas, one head and one layer after the other."""

    def lin(key: str, value: Tensor) -> Tensor:
        return value @ state[f"{key}.weight"].T + state[f"{key}.bias"]

    def ln(key: str, value: Tensor) -> Tensor:
        centered = value - value.mean(-1, keepdim=True)
        scaled = centered / (value.var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return scaled * state[f"{key}.weight"] + state[f"{key}.bias"]

    x = x + state.get("pos_emb1D", torch.zeros(()))
    for i in range(DEPTH):
        heads = []
        for j in range(HEADS):
            key = f"transformer.layers.{i}.0.mixers.{j}"
            local = F.gelu(ln(f"{key}.local_norm", lin(f"{key}.f", x)))
            summary = F.gelu(ln(f"{key}.summary_norm", lin(f"{key}.s", x).mean(dim=1)))
            joined = torch.cat([local, summary[:, None].expand_as(local)], dim=-1)
            heads.append(F.gelu(lin(f"{key}.c", joined)))
        x = x + lin(f"transformer.layers.{i}.0.projection", torch.cat(heads, dim=-1))
        key = f"transformer.layers.{i}.1.net"
        x = x + lin(f"{key}.3", F.gelu(lin(f"{key}.1", ln(f"{key}.0", x))))
    return lin("linear_head.1", ln("linear_head.0", x.mean(dim=1)))


@pytest.mark.parametrize("positions", [True, False])
def test_sequoia_equals_its_formulas(tmp_path: Path, positions: bool) -> None:
    state = sequoia_tree(positions)
    model = load(tmp_path, "sequoia", state)
    batch = bags()
    double = {key: value.double() for key, value in state.items()}
    expected = naive_sequoia(double, batch["tokens"].double()).float()
    torch.testing.assert_close(predict(model, batch), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())
    assert model.network.config.positional_embedding is positions


def test_every_tensor_of_sequoia_lands(tmp_path: Path) -> None:
    state = sequoia_tree()
    assert len(state) == 1013
    network = load(tmp_path, "sequoia", state).network
    assert sum(p.numel() for p in network.parameters()) == sum(value.numel() for value in state.values())
    again = {"pos_emb1D": network.position}
    for i, layer in enumerate(network.layers):
        mixing, key = layer.mixing, f"transformer.layers.{i}"
        for j in range(HEADS):
            rows = slice(j * D_HEAD, (j + 1) * D_HEAD)
            for part in ("weight", "bias"):
                head = f"{key}.0.mixers.{j}"
                again[f"{head}.f.{part}"] = getattr(mixing.local, part)[rows]
                again[f"{head}.s.{part}"] = getattr(mixing.summary, part)[rows]
                again[f"{head}.local_norm.{part}"] = getattr(mixing.local_norm, part)[j]
                again[f"{head}.summary_norm.{part}"] = getattr(mixing.summary_norm, part)[j]
                again[f"{head}.c.{part}"] = getattr(mixing, f"combine_{part}")[j]
        again |= {f"{key}.0.projection.{k}": v for k, v in mixing.projection.state_dict().items()}
        again |= {f"{key}.1.net.{k}": v for k, v in layer.feed_forward.state_dict().items()}
    again |= {f"linear_head.0.{k}": v for k, v in network.norm.state_dict().items()}
    again |= {f"linear_head.1.{k}": v for k, v in network.head.mean.state_dict().items()}
    assert again.keys() == state.keys()
    assert all(torch.equal(again[key], value) for key, value in state.items())


def test_slide_transformer_equals_its_formulas(tmp_path: Path) -> None:
    state = transformer_tree()
    model = load(tmp_path, "slide_transformer", state)
    config = model.network.config
    assert (config.depth, config.heads, config.d_head, config.d_hidden, config.n_tokens) == (2, 2, 64, 20, K)
    assert sum(p.numel() for p in model.network.parameters()) == sum(value.numel() for value in state.values())
    batch = bags()
    x = batch["tokens"] + state["pos_emb1D"]
    for i in range(2):
        key = f"transformer.layers.{i}"
        normed = F.layer_norm(x, (D,), state[f"{key}.0.norm.weight"], state[f"{key}.0.norm.bias"])
        qkv = (normed @ state[f"{key}.0.to_qkv.weight"].T).reshape(3, K, 3, 2, 64)
        weights = torch.softmax(torch.einsum("nqhd,nkhd->nhqk", qkv[:, :, 0], qkv[:, :, 1]) / 8, dim=-1)
        attended = torch.einsum("nhqk,nkhd->nqhd", weights, qkv[:, :, 2]).reshape(3, K, 128)
        x = x + attended @ state[f"{key}.0.to_out.weight"].T
        net = f"{key}.1.net"
        hidden = F.layer_norm(x, (D,), state[f"{net}.0.weight"], state[f"{net}.0.bias"])
        hidden = F.gelu(F.linear(hidden, state[f"{net}.1.weight"], state[f"{net}.1.bias"]))
        x = x + F.linear(hidden, state[f"{net}.3.weight"], state[f"{net}.3.bias"])
    pooled = F.layer_norm(x.mean(dim=1), (D,), state["linear_head.0.weight"], state["linear_head.0.bias"])
    expected = F.linear(pooled, state["linear_head.1.weight"], state["linear_head.1.bias"])
    torch.testing.assert_close(predict(model, batch), expected, rtol=1e-4, atol=1e-4)


def test_he2rna_equals_its_convolutions(tmp_path: Path) -> None:
    state = he2rna_tree()
    model = load(tmp_path, "he2rna", state)
    assert sum(p.numel() for p in model.network.parameters()) == sum(value.numel() for value in state.values())
    batch = bags()
    x = batch["tokens"].transpose(1, 2)
    for i in (0, 1):
        x = F.relu(F.conv1d(x, state[f"conv{i}.weight"], state[f"conv{i}.bias"]))
    ordered = F.conv1d(x, state["conv2.weight"], state["conv2.bias"]).sort(dim=-1, descending=True).values
    means = [ordered[..., : min(k, K)].mean(dim=-1) for k in (1, 2, 5, 10, 20, 50, 100)]
    torch.testing.assert_close(predict(model, batch), torch.stack(means).mean(dim=0).clamp_min(0), rtol=1e-5, atol=1e-5)


def test_hist_equals_its_formulas(tmp_path: Path) -> None:
    state = hist_tree()
    assert len(state) == 366
    model = load(tmp_path, "hist", state)
    config = model.network.config
    assert (config.width, config.levels, config.mixer_depth, config.gates) == (4, 5, 7, True)
    assert model.network.shape.widths == {"features": D}
    learned = [value for key, value in state.items() if not key.endswith(("mean", "var", "tracked"))]
    assert sum(p.numel() for p in model.network.parameters()) == sum(value.numel() for value in learned)

    def conv(key: str, x: Tensor, **options) -> Tensor:
        return F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], **options)

    def norm(key: str, x: Tensor) -> Tensor:
        mean, var, weight, bias = (state[f"{key}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, mean, var, weight, bias)

    def block(key: str, x: Tensor) -> Tensor:
        for i in (0, 3):
            x = F.relu(norm(f"{key}.conv.{i + 1}", conv(f"{key}.conv.{i}", x, padding=1)))
        return x

    def gate(key: str, x: Tensor) -> Tensor:
        branches = (("pointwise", {}), ("ordinary", {"padding": 1}), ("dilation", {"padding": 2, "dilation": 2}))
        votes = [norm(f"{key}.{name}Conv.1", conv(f"{key}.{name}Conv.0", x, **options)) for name, options in branches]
        vote = norm(f"{key}.voteConv.1", conv(f"{key}.voteConv.0", F.relu(torch.cat(votes, dim=1))))
        return x + x * torch.sigmoid(vote)

    batch = sections()
    x = F.pad(batch["features"].view(2, 30, 32, D).permute(0, 3, 1, 2), (0, 0, 1, 1))
    levels = [block("Conv1", x)]
    for i in range(2, 6):
        levels.append(block(f"Conv{i}", F.max_pool2d(levels[-1], 2)))
    x = levels.pop()
    for i in range(7):
        key = f"ConvMixer.block.{i}"
        x = x + norm(f"{key}.0.fn.2", F.gelu(conv(f"{key}.0.fn.0", x, padding=3, groups=64)))
        x = norm(f"{key}.3", F.gelu(conv(f"{key}.1", x)))
    for i in range(5, 1, -1):
        up = conv(f"Up{i}.up.1", F.interpolate(x, scale_factor=2.0), padding=1)
        x = block(
            f"Up_conv{i}", torch.cat([gate(f"msag{i - 1}", levels.pop()), F.relu(norm(f"Up{i}.up.2", up))], dim=1)
        )
    expected = conv("Conv_1x1", x)[:, :, 1:-1].permute(0, 2, 3, 1).reshape(-1, GENES)
    torch.testing.assert_close(predict(model, batch), expected, rtol=1e-4, atol=1e-4)
    assert model.normalization["method"] == "log1p"


def test_hist_without_gates(tmp_path: Path) -> None:
    state = {key: value for key, value in hist_tree().items() if not key.startswith("msag")}
    assert load(tmp_path, "hist", state).network.gates is None


@pytest.mark.parametrize("name", sorted(TREES))
def test_saved_and_loaded_again(tmp_path: Path, name: str) -> None:
    model = load(tmp_path, name, TREES[name](), patients=["b", "a"], encoder="uni", tile_um=128)
    model.save(tmp_path / "saved")
    again = FittedModel.load(tmp_path / "saved")
    batch = sections() if name == "hist" else bags()
    assert torch.equal(predict(model, batch), predict(again, batch))
    assert again.panel == PANEL
    assert again.training.patients == ["a", "b"]
    assert again.features["slots"] == {"X_uni": {"encoder": "uni", "tile_um": 128.0, "dim": D}}
    assert again.network.config.standardize is False
    assert (again.network.target_mean == 0).all()
    assert (again.network.target_std == 1).all()


@pytest.mark.parametrize("file", ["pytorch_model.bin", "model_best.pt", "fold_0.pth"])
@pytest.mark.parametrize("prefix", ["", "module.", "model.module."])
def test_files_and_prefixes(tmp_path: Path, file: str, prefix: str) -> None:
    state = he2rna_tree()
    torch.save({prefix + key: value for key, value in state.items()}, tmp_path / file)
    for path in (tmp_path, tmp_path / file):
        model = stp.training.load_published("he2rna", path, genes=PANEL)
        assert torch.equal(model.network.head.mean.bias, state["conv2.bias"])


@pytest.mark.parametrize("name", sorted(TREES))
def test_every_tensor_is_needed_and_no_other(tmp_path: Path, name: str) -> None:
    state = TREES[name]()
    needed = [key for key in state if key != "pos_emb1D"]
    wanted = load(tmp_path, name, state).network.state_dict()
    published = get_model(name).cls.published

    def convert(state: dict[str, Tensor]) -> None:
        """What `load` does with the tensors of the file; the network is not built and the file not written each time."""
        state = _strip_prefix(state, published.anchor, name)
        published.read(state).convert(state, wanted)

    convert(state)
    for key in needed[:: max(1, len(needed) // 80)]:
        with pytest.raises(ValueError, match=rf"(first: |with one tensor ){key}"):
            convert({k: v for k, v in state.items() if k != key})
    for key in (needed[0], needed[len(needed) // 2], needed[-1], published.anchor):
        with pytest.raises(ValueError, match=rf"(first: |with one tensor ){key}"):
            load(tmp_path, name, {k: v for k, v in state.items() if k != key})
    with pytest.raises(ValueError, match=r"1 unknown \(first: extra.weight\)"):
        load(tmp_path, name, state | {"extra.weight": torch.zeros(2)})
    key = {"he2rna": "conv1.weight", "hist": "Up_conv3.conv.0.weight"}.get(name, "transformer.layers.1.1.net.1.weight")
    with pytest.raises(ValueError, match=f"matching shapes; found {key} of"):
        load(tmp_path, name, state | {key: torch.zeros(3, 3)})


def test_one_head_of_another_shape(tmp_path: Path) -> None:
    key = "transformer.layers.2.0.mixers.3.c.weight"
    with pytest.raises(ValueError, match=f"found {key} of"):
        load(tmp_path, "sequoia", sequoia_tree() | {key: torch.zeros(D_HEAD, D_HEAD)})


@pytest.mark.parametrize(
    ("content", "name"), [("\n".join(PANEL), "genes.txt"), ("gene,type\n" + ",x\n".join(PANEL) + ",x\n", "genes.csv")]
)
def test_genes_from_a_file(tmp_path: Path, content: str, name: str) -> None:
    (tmp_path / name).write_text(content)
    assert load(tmp_path, "he2rna", he2rna_tree(), genes=tmp_path / name).panel == PANEL


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="each of the 7 outputs of the weights; found 6 genes"):
        load(tmp_path, "he2rna", he2rna_tree(), genes=PANEL[:-1])
    with pytest.raises(ValueError, match="found.*g0"):
        load(tmp_path, "he2rna", he2rna_tree(), genes=["g0", *PANEL[:-1]])
    with pytest.raises(KeyError, match="he2rna, hist, hist2rna, sequoia, slide_transformer, triplex.*found 'mlp'"):
        load(tmp_path, "mlp", he2rna_tree())
    with pytest.raises(ValueError, match="published weights of 'sequoia'"):
        load(tmp_path, "sequoia", he2rna_tree())
    with pytest.raises(ValueError, match="mixers.0.f.weight"):
        load(tmp_path, "sequoia", transformer_tree())
    with pytest.raises(FileNotFoundError, match="one gene per line"):
        load(tmp_path, "he2rna", he2rna_tree(), genes=tmp_path / "none.csv")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match="expected a weight file in"):
        stp.training.load_published("he2rna", empty, genes=PANEL)
    for name in ("a.pth", "b.pth"):
        torch.save(he2rna_tree(), empty / name)
    with pytest.raises(ValueError, match="expected one weight file.*found 2"):
        stp.training.load_published("he2rna", empty, genes=PANEL)
    (empty / "model.safetensors").write_bytes(b"short")
    with pytest.raises(ValueError, match="complete weight file"):
        stp.training.load_published("he2rna", empty, genes=PANEL)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -3e38])
@pytest.mark.parametrize(("name", "key"), [("he2rna", "conv1.weight"), ("sequoia", "linear_head.1.bias")])
def test_weights_that_would_spoil_all_outputs(tmp_path: Path, name: str, key: str, value: float) -> None:
    state = TREES[name]()
    state[key].view(-1)[3] = value
    with pytest.raises(ValueError, match=rf"finite weights .*model\.safetensors; found others in 1 .*{key}"):
        load(tmp_path, name, state)


@pytest.mark.parametrize("content", [b"gene\ng0\ng1\x00\n", b"\x1f\x8bgene", b"gene\n\x81g0\n"])
def test_damaged_genes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "genes.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"expected one gene per line in .*genes\.txt; found"):
        load(tmp_path, "he2rna", he2rna_tree(), genes=tmp_path / "genes.txt")
