"""Published checkpoints as fitted models."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from stpredict.training._fitted import FittedModel

_FILES = ("model.safetensors", "pytorch_model.bin", "model_best.pt", "*.safetensors", "*.pth", "*.pt", "*.bin")
_HEADERS = frozenset({"gene", "genes", "gene_name", "gene_names", "gene_id", "gene_symbol", "symbol"})
_D_HEAD = 64  # the fused weights of attention do not tell how many heads they hold
_FPKM_UQ = {"method": "log2p1", "unit": "fpkm-uq"}
_PER_10_000 = {"method": "log1p", "size_factors": "all", "target_sum": 1e4, "panel": None}
_LAYER = r"transformer\.layers\.(\d+)\."


def load_published(
    name: str,
    path: str | Path,
    *,
    genes: Iterable[str] | str | Path,
    encoder: str = "uni",
    tile_um: float = 128.0,
    patients: Iterable[str] = (),
    normalization: Mapping[str, Any] | None = None,
) -> FittedModel:
    """Read the published weights of a network as a fitted model.

    Sizes are read from the weights. The model takes raw tokens or features and predicts raw values, log2(FPKM-UQ + 1)
    for the weights of :cite:t:`pizurica2024`; a positional embedding is used where the weights hold one. Networks of
    `"hist"` :cite:p:`li2026` were trained on expression that lay one grid row below the features it belongs to, and on
    features of all 80 × 64 cells, off tissue too: expect maps shifted by a row.

    Parameters
    ----------
    name
        `"sequoia"`, `"slide_transformer"`, `"he2rna"` (on bags) or `"hist"` (on grids).
    path
        File with the weights, or a directory with `model.safetensors`, `pytorch_model.bin`, `model_best.pt` or one
        other weight file. Nothing is unpickled.
    genes
        Genes in the order of the outputs: a list, or a text file with one gene per line (of a table, its first column).
    encoder
        Encoder of the tokens, or of the features of a grid; a model on bags reads the bags of its features.
    tile_um
        Side of the tiles behind the tokens or features in µm.
    patients
        Patients the weights were trained on; predictions of these are marked as leaky.
    normalization
        Record of how the target was normalized, to be compared with that of the data; when `None`, log2(FPKM-UQ + 1),
        or for `"hist"` log1p of counts per 10,000.

    Returns
    -------
    The model, to pass to :func:`stpredict.tl.predict` or to save.

    Raises
    ------
    FileNotFoundError
        When there are no weights, or no file with the genes.
    KeyError
        When the name is none of those above.
    ValueError
        When a file is damaged, a tensor is missing, unknown or of another shape than the others imply, or the number of
        genes differs from the number of outputs.

    Examples
    --------
    >>> import tempfile, torch
    >>> import stpredict as stp
    >>> shapes = {"conv0": (8, 16, 1), "conv1": (8, 8, 1), "conv2": (2, 8, 1)}
    >>> weights = {f"{name}.weight": torch.randn(shape) for name, shape in shapes.items()}
    >>> weights |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in shapes.items()}
    >>> with tempfile.TemporaryDirectory() as directory:
    ...     torch.save(weights, f"{directory}/model_best.pt")
    ...     model = stp.training.load_published("he2rna", directory, genes=["ERBB2", "GATA3"], patients=["P1"])
    >>> model.panel, model.network.n_features
    (['ERBB2', 'GATA3'], 16)
    """
    import pandas as pd

    from stpredict.core._read_weights import read_weights
    from stpredict.core._validate import check_positive, check_unique
    from stpredict.models.base._registry import get_model
    from stpredict.training._fitted import FittedModel

    if name not in _READERS:
        raise KeyError(f"expected a network with published weights ({', '.join(sorted(_READERS))}); found {name!r}")
    tile_um = check_positive(tile_um, "tile_um")
    panel = _read_genes(genes)
    check_unique(panel, "genes")
    anchor, reader = _READERS[name]
    state = _strip_prefix(read_weights(_find(Path(path))), anchor, name)
    tree = reader(state)
    if len(panel) != tree.n_genes:
        raise ValueError(
            f"expected one gene for each of the {tree.n_genes} outputs of the weights; found {len(panel)} genes"
        )
    info = get_model(name)
    network = info.cls(info.configure(tree.hyperparameters), tree.n_genes, tree.n_features)
    network.load_state_dict(tree.convert(state, network.state_dict()), strict=False)
    features = {"encoder": encoder, "tile_um": tile_um, "dim": tree.n_features}
    return FittedModel(
        model=name,
        network=network.eval(),
        panel=panel,
        normalization=dict(normalization or (_PER_10_000 if name == "hist" else _FPKM_UQ)),
        features={"slots": {f"X_{encoder}": features}, "scaling": "global"},
        training={
            "patients": sorted({str(patient) for patient in patients}),
            "samples": [],
            "n_obs": 0,
            "seed": 0,
            "allow_leakage": False,
            "panel_patients": [],
            "patch": None,
            "settings": {},
            "validated_on": "published",
            "n_epochs": 0,
        },
        history=pd.DataFrame(),
    )


@dataclass
class Tree:
    """How the tensors of a checkpoint make up those of a network.

    Attributes
    ----------
    n_features, n_genes, hyperparameters
        Of the network.
    sources
        For each tensor of the network, the tensors of the checkpoint it consists of and how they are joined.
    """

    n_features: int
    n_genes: int
    hyperparameters: dict[str, Any]
    sources: dict[str, tuple[list[str], Callable[[list[Tensor]], Tensor]]] = field(default_factory=dict)

    def same(self, ours: str, theirs: str) -> None:
        """Weight and bias of a layer under another name."""
        for part in ("weight", "bias"):
            self.sources[f"{ours}.{part}"] = ([f"{theirs}.{part}"], _only)

    def same_norm(self, ours: str, theirs: str) -> None:
        """Weight, bias and running statistics of a batch norm under another name."""
        self.same(ours, theirs)
        for part in ("running_mean", "running_var", "num_batches_tracked"):
            self.sources[f"{ours}.{part}"] = ([f"{theirs}.{part}"], _only)

    def convert(self, state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors of the network; an error that names the first one that is missing, left over or misshapen."""
        needed = [key for keys, _ in self.sources.values() for key in keys]
        missing = sorted(set(needed) - set(state))
        unknown = sorted(set(state) - set(needed))
        if missing or unknown:
            what = f"{len(missing)} missing (first: {missing[0]})" if missing else ""
            more = f"{len(unknown)} unknown (first: {unknown[0]})" if unknown else ""
            raise ValueError(
                f"expected the tensors of the published network; found {', '.join(filter(None, [what, more]))}"
            )
        converted = {}
        for ours, (keys, join) in self.sources.items():
            parts = [state[key].to(wanted[ours].dtype) for key in keys]
            odd = next((key for key, part in zip(keys, parts, strict=True) if part.shape != parts[0].shape), None)
            value = parts[0] if odd else join(parts)
            if odd or value.shape != wanted[ours].shape:
                found = tuple(state[odd or keys[0]].shape)
                raise ValueError(
                    f"expected tensors of matching shapes; found {odd or keys[0]} of {found}, for {ours} of "
                    f"{tuple(wanted[ours].shape)}"
                )
            converted[ours] = value
        return converted


def _only(parts: list[Tensor]) -> Tensor:
    return parts[0]


def _stack(parts: list[Tensor]) -> Tensor:
    import torch

    return torch.stack(parts)


def _concatenate(parts: list[Tensor]) -> Tensor:
    import torch

    return torch.cat(parts)


def _without_kernel(parts: list[Tensor]) -> Tensor:
    """Weights of a convolution over single tokens or cells as those of a linear layer."""
    return parts[0].flatten(1) if parts[0].ndim > 2 and parts[0][0, 0].numel() == 1 else parts[0]


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """One more than the highest number that a pattern finds at the start of a key."""
    return 1 + max((int(found[1]) for key in state if (found := re.match(pattern, key))), default=-1)


def _sizes(state: Mapping[str, Tensor], key: str, n_axes: int) -> tuple[int, ...]:
    """Shape of a tensor that others are measured by."""
    if key not in state:
        raise ValueError(f"expected the tensors of the published network; found 1 missing (first: {key})")
    if state[key].ndim != n_axes:
        raise ValueError(f"expected {key} to have {n_axes} axes; found {tuple(state[key].shape)}")
    return tuple(state[key].shape)


def _residual(state: Mapping[str, Tensor], hyperparameters: dict[str, Any]) -> Tree:
    """What the two transformers share: positions, feed-forward networks, norm and head."""
    n_genes, n_features = _sizes(state, "linear_head.1.weight", 2)
    depth = _count(state, _LAYER)
    positions = "pos_emb1D" in state
    hyperparameters |= {"depth": depth, "positional_embedding": positions, "standardize": False}
    if positions:
        hyperparameters["n_tokens"] = _sizes(state, "pos_emb1D", 2)[0]
    tree = Tree(n_features, n_genes, hyperparameters)
    if positions:
        tree.sources["position"] = (["pos_emb1D"], _only)
    for i in range(depth):
        for j in (0, 1, 3):
            tree.same(f"layers.{i}.feed_forward.{j}", f"transformer.layers.{i}.1.net.{j}")
    tree.same("norm", "linear_head.0")
    tree.same("head.mean", "linear_head.1")
    return tree


def _sequoia(state: Mapping[str, Tensor]) -> Tree:
    first = "transformer.layers.0.0.mixers."
    heads = _count(state, re.escape(first) + r"(\d+)\.")
    tree = _residual(state, {"heads": heads, "d_head": _sizes(state, f"{first}0.f.weight", 2)[0]})
    for i in range(tree.hyperparameters["depth"]):
        ours, theirs = f"layers.{i}.mixing", f"transformer.layers.{i}.0"
        for part in ("weight", "bias"):
            for own, their, join in (
                ("local.", "f.", _concatenate),
                ("summary.", "s.", _concatenate),
                ("local_norm.", "local_norm.", _stack),
                ("summary_norm.", "summary_norm.", _stack),
                ("combine_", "c.", _stack),
            ):
                keys = [f"{theirs}.mixers.{j}.{their}{part}" for j in range(heads)]
                tree.sources[f"{ours}.{own}{part}"] = (keys, join)
        tree.same(f"{ours}.projection", f"{theirs}.projection")
    return tree


def _slide_transformer(state: Mapping[str, Tensor]) -> Tree:
    first = "transformer.layers.0"
    inner = _sizes(state, f"{first}.0.to_out.weight", 2)[1]
    if inner % _D_HEAD:
        raise ValueError(f"expected heads of width {_D_HEAD}; found {first}.0.to_out.weight with {inner} columns")
    hidden = _sizes(state, f"{first}.1.net.1.weight", 2)[0]
    tree = _residual(state, {"heads": inner // _D_HEAD, "d_head": _D_HEAD, "d_hidden": hidden})
    for i in range(tree.hyperparameters["depth"]):
        ours, theirs = f"layers.{i}", f"transformer.layers.{i}.0"
        tree.same(f"{ours}.norm", f"{theirs}.norm")
        for part in ("to_qkv", "to_out"):
            tree.sources[f"{ours}.{part}.weight"] = ([f"{theirs}.{part}.weight"], _only)
    return tree


def _he2rna(state: Mapping[str, Tensor]) -> Tree:
    hidden, n_features, _ = _sizes(state, "conv0.weight", 3)
    n_genes = _sizes(state, "conv2.weight", 3)[0]
    tree = Tree(n_features, n_genes, {"hidden": hidden, "standardize": False, "non_negative": True})
    for ours, theirs in (("body.0", "conv0"), ("body.3", "conv1"), ("head.mean", "conv2")):
        tree.sources[f"{ours}.weight"] = ([f"{theirs}.weight"], _without_kernel)
        tree.sources[f"{ours}.bias"] = ([f"{theirs}.bias"], _only)
    return tree


def _hist(state: Mapping[str, Tensor]) -> Tree:
    width, n_features = _sizes(state, "Conv1.conv.0.weight", 4)[:2]
    n_genes = _sizes(state, "Conv_1x1.weight", 4)[0]
    levels = _count(state, r"Conv(\d+)\.conv\.") - 1
    gates = any(key.startswith("msag") for key in state)
    options = {
        "width": width,
        "levels": levels,
        "mixer_depth": _count(state, r"ConvMixer\.block\.(\d+)\."),
        "gates": gates,
    }
    tree = Tree(n_features, n_genes, options | {"standardize": False, "loss_area": "all"})

    def block(ours: str, theirs: str) -> None:
        for i, (layer, norm) in enumerate(((0, 1), (3, 4)), start=1):
            tree.same(f"{ours}.conv{i}", f"{theirs}.conv.{layer}")
            tree.same_norm(f"{ours}.norm{i}", f"{theirs}.conv.{norm}")

    for i in range(levels):
        block(f"encoder.{i}", f"Conv{i + 1}")
    for i in range(options["mixer_depth"]):
        for part, layer, norm in (("depthwise", "0.fn.0", "0.fn.2"), ("point", "1", "3")):
            tree.same(f"bottleneck.{i}.{part}", f"ConvMixer.block.{i}.{layer}")
            tree.same_norm(f"bottleneck.{i}.{part}_norm", f"ConvMixer.block.{i}.{norm}")
    for i in range(levels - 1):
        block(f"decoder.{i}", f"Up_conv{i + 2}")
        tree.same(f"up.{i}.conv", f"Up{i + 2}.up.1")
        tree.same_norm(f"up.{i}.norm", f"Up{i + 2}.up.2")
        for part in _VOTES if gates else ():
            theirs = f"msag{i + 1}.{_VOTES[part]}"
            tree.same(f"gates.{i}.{part}", f"{theirs}.0")
            tree.same_norm(f"gates.{i}.{part}_norm", f"{theirs}.1")
    tree.sources["head.mean.weight"] = (["Conv_1x1.weight"], _without_kernel)
    tree.sources["head.mean.bias"] = (["Conv_1x1.bias"], _only)
    return tree


_VOTES = {"point": "pointwiseConv", "ordinary": "ordinaryConv", "dilated": "dilationConv", "vote": "voteConv"}

_READERS: dict[str, tuple[str, Callable[[Mapping[str, Any]], Tree]]] = {
    "sequoia": ("linear_head.1.weight", _sequoia),
    "slide_transformer": ("linear_head.1.weight", _slide_transformer),
    "he2rna": ("conv0.weight", _he2rna),
    "hist": ("Conv_1x1.weight", _hist),
}


def _strip_prefix(state: Mapping[str, Tensor], anchor: str, name: str) -> dict[str, Tensor]:
    """Keys without what wrappers put before all of them (`module.`, `model.`)."""
    found = [key for key in state if key == anchor or key.endswith(f".{anchor}")]
    if len(found) != 1:
        first = next(iter(sorted(state)), "nothing")
        raise ValueError(f"expected the published weights of {name!r}, with one tensor {anchor}; found {len(found)} of "
                         f"them among {len(state)} tensors (first: {first})")  # fmt: skip
    prefix = found[0].removesuffix(anchor)
    foreign = sorted(key for key in state if not key.startswith(prefix))
    if foreign:
        raise ValueError(f"expected every tensor under {prefix!r}; found {foreign[0]}")
    return {key.removeprefix(prefix): value for key, value in state.items()}


def _find(path: Path) -> Path:
    """The weight file of a directory, or the file itself."""
    if not path.is_dir():
        return path
    for pattern in _FILES:
        found = sorted(path.glob(pattern))
        if len(found) > 1:
            raise ValueError(
                f"expected one weight file in {path}; found {len(found)} ({found[0].name}, {found[1].name}, …); pass one"
            )
        if found:
            return found[0]
    raise FileNotFoundError(f"expected a weight file in {path} ({', '.join(_FILES)}); found none")


def _read_genes(genes: Iterable[str] | str | Path) -> list[str]:
    """Gene names as given, or from the lines of a file."""
    if not isinstance(genes, str | Path):
        return [str(gene) for gene in genes]
    path = Path(genes)
    if not path.is_file():
        raise FileNotFoundError(f"expected a file with one gene per line at {path}; found none")
    lines = [re.split(r"[,\t]", line)[0].strip().strip("\"'") for line in path.read_text().splitlines()]
    lines = [line for line in lines if line]
    return lines[1:] if lines and lines[0].lower() in _HEADERS else lines
