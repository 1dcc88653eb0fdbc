"""HiST: a U-Net with multi-scale attention gates over the grid of image features of a section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.core._validate import check_choice
from stpredict.models.base._grid import GridPredictor
from stpredict.models.base._preset import Preset
from stpredict.models.base._published import Published, Tree, count_layers, only, sizes_of, without_kernel
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.nn._unet_blocks import ConvBlock, Gate, MixerLayer, Upsample


@dataclass(frozen=True)
class HistConfig:
    """Hyperparameters of `hist`.

    Attributes
    ----------
    width
        Channels of the first level; each further level has twice as many.
    levels
        Resolutions: each is half as fine as the one before. Grids must have `2 ** (levels - 1)` cells along a side.
    mixer_depth
        Layers of the ConvMixer at the coarsest level.
    gates
        Multi-scale attention gates on the connections between encoder and decoder; `False` is the plain U-Net.
    lattice
        `"square"` or `"hex"`: which symmetries `augment` may use.
    augment
        Mirror the grids in training as the lattice allows.
    shuffle
        Exchange the cells of each section among its observations, in training and prediction, always in the same way:
        each keeps its features but loses its neighbors. The ablation that shows what the neighborhood is worth.
    loss_area
        `"tissue"`: the loss of the cells with an observation. `"all"`: of every cell of the padded grids, with a target
        of 0 off tissue, as published.
    standardize
        Standardize the features, and predict in units of each gene's training standard deviation from its mean;
        `False` reads and predicts raw values, as published.
    """

    width: int = 64
    levels: int = 5
    mixer_depth: int = 7
    gates: bool = True
    lattice: Literal["square", "hex"] = "square"
    augment: bool = True
    shuffle: bool = False
    loss_area: Literal["tissue", "all"] = "tissue"
    standardize: bool = True


_PER_10_000 = {"method": "log1p", "size_factors": "all", "target_sum": 1e4, "panel": None}


def _hist(state: Mapping[str, Tensor]) -> Tree:
    width, n_features = sizes_of(state, "Conv1.conv.0.weight", 4)[:2]
    n_genes = sizes_of(state, "Conv_1x1.weight", 4)[0]
    levels = count_layers(state, r"Conv(\d+)\.conv\.") - 1
    gates = any(key.startswith("msag") for key in state)
    options = {
        "width": width,
        "levels": levels,
        "mixer_depth": count_layers(state, r"ConvMixer\.block\.(\d+)\."),
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
    tree.sources["head.mean.weight"] = (["Conv_1x1.weight"], without_kernel)
    tree.sources["head.mean.bias"] = (["Conv_1x1.bias"], only)
    return tree


_VOTES = {"point": "pointwiseConv", "ordinary": "ordinaryConv", "dilated": "dilationConv", "vote": "voteConv"}


@register(
    "hist",
    config=HistConfig,
    description="U-Net with multi-scale attention gates over the grid of image features of a section",
    paper="li2026",
    license_of_reference="MIT",
)
class Hist(GridPredictor):
    """Encoder, ConvMixer at the coarsest level, gated connections, decoder, and a linear map to the genes."""

    published = Published("Conv_1x1.weight", _hist, _PER_10_000)

    training_defaults = {
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "weight_decay": 1e-4,
        "schedule": "cosine",
        "final_learning_rate": 1e-5,
        "batch_size": 5,
        "max_epochs": 200,
        "patience": 30,
    }
    paper = Preset({"loss_area": "all", "standardize": False, "augment": False}, {"patience": 0, "gradient_clip": 0.0})
    small = {"width": 16, "levels": 2, "mixer_depth": 1, "augment": False}

    config: HistConfig

    def __init__(self, config: HistConfig, shape: Shape) -> None:
        check_choice(config.lattice, ("square", "hex"), "lattice")
        check_choice(config.loss_area, ("tissue", "all"), "loss_area")
        if min(config.width, config.levels) < 1 or config.mixer_depth < 0:
            raise ValueError(
                f"expected width and levels of at least 1 and a mixer_depth of at least 0; found width={config.width}, "
                f"levels={config.levels}, mixer_depth={config.mixer_depth}"
            )
        super().__init__(config, shape, config.width)
        widths = [config.width * 2**i for i in range(config.levels)]
        inputs = [shape.width("features"), *widths[:-1]]
        self.encoder = nn.ModuleList(ConvBlock(i, o) for i, o in zip(inputs, widths, strict=True))
        self.bottleneck = nn.ModuleList(MixerLayer(widths[-1]) for _ in range(config.mixer_depth))
        self.gates = nn.ModuleList(Gate(width) for width in widths[:-1]) if config.gates else None
        self.up = nn.ModuleList(Upsample(2 * width, width) for width in widths[:-1])
        self.decoder = nn.ModuleList(ConvBlock(2 * width, width) for width in widths[:-1])

    def hidden(self, features: Tensor, tissue: Tensor, extent: Tensor | None = None) -> Tensor:
        """Map the features (b, d, h, w) to (b, width, h, w)."""
        extents: list[Tensor | None] = []
        skips: list[Tensor] = []
        values = features
        for i, block in enumerate(self.encoder):
            if i:
                values = F.max_pool2d(values, 2)
                extent = None if extent is None else extent[:, ::2, ::2]
            values = block(values, extent)
            skips.append(values)
            extents.append(extent)
        for layer in self.bottleneck:
            values = layer(values, extent)
        for i in reversed(range(len(self.decoder))):
            skip = skips[i] if self.gates is None else self.gates[i](skips[i], extents[i])
            values = self.up[i](values, extents[i])
            values = self.decoder[i](torch.cat([skip, values], dim=1), extents[i])
        return values
