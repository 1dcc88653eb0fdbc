"""hist2RNA: a perceptron on the mean tile of a slide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.base._preset import Preset
from stpredict.models.base._published import Published, Tree, center_tap, only, sizes_of, without_kernel
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.nn._bag_layers import StandardizedBag, mean_of_tiles
from stpredict.models.nn._heads import RegressionHead

_KERNEL = 5


@dataclass(frozen=True)
class Hist2RNAConfig:
    """Hyperparameters of `hist2rna`.

    Attributes
    ----------
    hidden
        Widths of the hidden layers.
    kernel_parity
        Whether the first layer is the published convolution over a sequence of length 1. Four fifths of its weights meet
        nothing but padding: the network is the same, with more parameters.
    standardize
        Standardize the tokens, and predict in units of each gene's training standard deviation from its mean;
        `False` reads and predicts raw values, as published.
    """

    hidden: tuple[int, ...] = (256, 512, 512)
    kernel_parity: bool = False
    standardize: bool = True


def _hist2rna(state: Mapping[str, Tensor]) -> Tree:
    first, n_features, _ = sizes_of(state, "c1.0.weight", 3)
    hidden = (first, *(sizes_of(state, f"c{i}.0.weight", 3)[0] for i in (2, 3)))
    tree = Tree(
        n_features, sizes_of(state, "output.0.weight", 2)[0], {"hidden": hidden, "standardize": False},
        ignored=("base_model.",),
    )  # fmt: skip
    for ours, theirs, join in (
        ("body.0", "c1.0", center_tap), ("body.2", "c2.0", without_kernel), ("body.4", "c3.0", without_kernel),
        ("head.mean", "output.0", only),
    ):  # fmt: skip
        tree.sources[f"{ours}.weight"] = ([f"{theirs}.weight"], join)
        tree.sources[f"{ours}.bias"] = ([f"{theirs}.bias"], only)
    return tree


@register(
    "hist2rna",
    config=Hist2RNAConfig,
    description="Multilayer perceptron on the mean tile of a slide",
    paper="mondol2023",
    license_of_reference="MIT",
)
class Hist2RNA(StandardizedBag):
    """The mean over the tiles of a slide through hidden layers (ReLU) to the genes.

    Every tile counts alike, whichever token it is behind. A tile, or a window of some, is not what the network was
    trained on: maps are extrapolated.
    """

    published = Published("c1.0.weight", _hist2rna, {"method": "log2p1"})
    weighs_tiles = True
    maps_extrapolate = True
    paper = Preset(
        {"standardize": False, "kernel_parity": True},
        {
            "learning_rate": 1e-4, "weight_decay": 0.01, "batch_size": 12, "max_epochs": 500, "monitor": "loss",
            "gradient_clip": 0.0,
        },
    )  # fmt: skip
    small = {"hidden": (32, 32)}

    config: Hist2RNAConfig

    def __init__(self, config: Hist2RNAConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        if not config.hidden:
            raise ValueError(f"expected at least one hidden layer; found hidden={config.hidden!r}")
        widths = (shape.width("tokens"), *config.hidden)
        layers: list[nn.Module] = []
        for wide, narrow in zip(widths[:-1], widths[1:], strict=True):
            convolved = config.kernel_parity and not layers
            layers += [SingletonConvolution(wide, narrow) if convolved else nn.Linear(wide, narrow), nn.ReLU()]
        self.body = nn.Sequential(*layers)
        self.head = RegressionHead(widths[-1], shape.n_outputs, zero_init=config.standardize)

    def pool(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Hidden layers (n, hidden) of the mean over the tiles that `mask` (n, n_tokens) counts."""
        return self.body(mean_of_tiles(tokens, mask))

    def read_out(self, pooled: Tensor, mask: Tensor | None = None, genes: slice = slice(None)) -> Tensor:
        """Predict some genes (n, g), in the unit of the target, from the hidden layers (n, hidden)."""
        return self.in_target_units(F.linear(pooled, self.head.mean.weight[genes], self.head.mean.bias[genes]), genes)


class SingletonConvolution(nn.Conv1d):
    """A convolution over sequences of length 1, of which only the middle of the kernel sees anything."""

    def __init__(self, n_inputs: int, n_outputs: int) -> None:
        super().__init__(n_inputs, n_outputs, _KERNEL, padding=_KERNEL // 2)

    def forward(self, values: Tensor) -> Tensor:
        """Map (n, n_inputs) to (n, n_outputs)."""
        return super().forward(values.unsqueeze(-1)).squeeze(-1)
