"""TRIPLEX: the tile of a spot, the tiles around it and its whole section, fused by attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn

from stpredict.core._validate import check_choice
from stpredict.models.base._batch import Batch, Prediction, Summary
from stpredict.models.base._preset import Preset
from stpredict.models.base._published import Published, Tree, count_layers, only, sizes_of
from stpredict.models.base._registry import register
from stpredict.models.base._retrieval import in_chunks
from stpredict.models.base._shape import Shape
from stpredict.models.base._shrinking import ShrinkingPredictor
from stpredict.models.nn._augment import augmented, standardized
from stpredict.models.nn._branches import (
    FusionEncoder,
    GlobalEncoder,
    NeighborEncoder,
    check_neighbors,
    masked_tokens,
    mean_token,
    of_sections,
    projection,
)
from stpredict.models.nn._heads import RegressionHead
from stpredict.models.nn._resnet import ResNet18Trunk
from stpredict.models.nn._standardize import Standardize
from stpredict.models.nn._weighted import weighted_mean

_CHUNK = 64  # patches that go through the convolutions at once, where no gradient is taken
Three = tuple[int, int, int]


@dataclass(frozen=True)
class TriplexConfig:
    """Hyperparameters of `triplex`.

    Attributes
    ----------
    target
        What a spot's own tile is seen as: `"features"`, frozen features of the encoder as one token, or `"patches"`,
        pixels through a ResNet-18 that is trained along.
    dim
        Width of all tokens; features of another width are projected to it.
    depth, heads, mlp, dropout
        Layers, heads, width of the feed-forward (times `dim`) and dropout of the fusion, of the section and of the
        neighbors, in this order.
    alpha
        Share of the distillation in the loss of a branch: how far it is from the fused prediction.
    detach_teacher
        Whether distillation leaves the fused prediction as it is, instead of drawing it to the branches as well.
    shrink
        Pull predictions of expression towards the training mean, gene by gene, by as much as held-out observations say.
    residual
        Whether the convolution over the grid of the section adds to the tokens, instead of replacing them.
    standardize
        Whether inputs and target are in units of the training set.
    clamp
        Whether predictions are clamped at 0, in the unit of the target: for logarithms and counts only.
    weights
        File with torchvision's ImageNet weights of ResNet-18, for patches; `None` starts from random weights.
    patch_um
        Side of the patch in µm.
    patch_px
        Side of the patch in pixels after resampling.
    symmetries
        Draw one of the eight right-angle rotations and reflections for each patch in training.
    stain_jitter
        Largest relative change, and largest shift, of the optical density of each stain of a patch in training.
    """

    target: Literal["features", "patches"] = "features"
    dim: int = 256
    depth: Three = (1, 2, 2)
    heads: Three = (8, 8, 8)
    mlp: Three = (2, 2, 2)
    dropout: tuple[float, float, float] = (0.1, 0.1, 0.1)
    alpha: float = 0.3
    detach_teacher: bool = True
    shrink: bool = True
    residual: bool = True
    standardize: bool = True
    clamp: bool = False
    weights: str | None = None
    patch_um: float = 112.0
    patch_px: int = 224
    symmetries: bool = True
    stain_jitter: float = 0.05

    def __post_init__(self) -> None:
        """Check what fits together."""
        check_choice(self.target, ("features", "patches"), "target")
        for name in ("depth", "heads", "mlp", "dropout"):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != 3:
                raise ValueError(f"expected {name} of the fusion, the section and the neighbors; found {values!r}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"expected alpha in 0–1; found {self.alpha!r}")


#: What the published networks do otherwise than this one does by default.
_AS_PUBLISHED: dict[str, Any] = {
    "target": "patches", "detach_teacher": False, "shrink": False, "residual": False, "standardize": False, "clamp": True,
    "stain_jitter": 0.0,
}  # fmt: skip
_TRAINED: dict[str, Any] = {"learning_rate": 1e-4, "weight_decay": 1e-2, "patience": 20, "gradient_clip": 0.0}
_SIZES = ("dim", "depth", "heads", "mlp", "dropout")


def _sized(*sizes: Any) -> Preset:
    options = _AS_PUBLISHED | dict(zip(_SIZES, sizes, strict=True))
    return Preset(options, _TRAINED, 250, dict.fromkeys(("neighbors", "section_features"), options["dim"]))


PUBLISHED_SIZES: Mapping[str, Preset] = {
    "her2st": _sized(512, (1, 3, 3), (4, 16, 16), (4, 4, 1), (0.2, 0.1, 0.3)),
    "cscc": _sized(512, (2, 2, 4), (8, 16, 16), (4, 1, 1), (0.1, 0.1, 0.3)),
    "stnet": _sized(512, (3, 3, 4), (16, 8, 8), (4, 2, 4), (0.4, 0.1, 0.3)),
    "liver": _sized(1024, (1, 2, 2), (8, 16, 16), (2, 2, 2), (0.15, 0.1, 0.1)),
    "default": _sized(512, (2, 2, 2), (8, 8, 8), (2, 2, 2), (0.1, 0.1, 0.1)),
}
#: The published targets, but for their mean over 3 x 3 spots.
_PER_10_000_OF_THE_PANEL = {"method": "log1p", "size_factors": "panel", "target_sum": 1e4, "panel": None}
BRANCHES = ("target", "neighbor", "global")


def _read(state: Mapping[str, Tensor]) -> Tree:
    """Sizes and tensors of the published network; its heads are known from the configuration of the same sizes."""
    n_genes, dim = sizes_of(state, "fc.weight", 2)
    first = ("fusion_encoder.fusion_layer", "global_encoder.layer1", "neighbor_encoder.layer")
    fusion, after, neighbor = (
        count_layers(state, rf"{stack}\.layers\.(\d+)\.") for stack in (first[0], "global_encoder.layer2", first[2])
    )
    mlp = tuple(sizes_of(state, f"{stack}.layers.0.1.fn.net.0.weight", 2)[0] // dim for stack in first)
    found = {"dim": dim, "depth": (fusion, 1 + after, neighbor), "mlp": mlp}
    known = [p.hyperparameters for p in PUBLISHED_SIZES.values() if found.items() <= p.hyperparameters.items()]
    if not known:
        sizes = ", ".join(f"{name}={value}" for name, value in found.items())
        raise ValueError(
            f"expected the sizes of one of the published configurations ({', '.join(PUBLISHED_SIZES)}); found {sizes}; "
            "the number of heads cannot be read from weights"
        )
    tree = Tree(dim, n_genes, dict(known[0]))
    with torch.device("meta"):
        widths = {"neighbors": dim, "section_features": dim}
        names = Triplex(TriplexConfig(**tree.hyperparameters), Shape(n_genes, widths)).state_dict()
    of_triplex = ("target_encoder.", "target_linear.", "neighbor_encoder.", "global_encoder.", "fusion_encoder.")
    heads = tree.hyperparameters["heads"][1]
    for name in names:
        if name.startswith(of_triplex):
            packed = name.startswith("global_encoder.") and name.endswith("to_qkv.weight")
            tree.sources[name] = ([name], partial(_unpacked, heads=heads) if packed else only)
    tree.same("head.mean", "fc")
    for name in BRANCHES:
        tree.same(f"fc_{name}.mean", f"fc_{name}")
    return tree


def _unpacked(parts: list[Tensor], heads: int) -> Tensor:
    """Queries, keys and values one after the other, from rows that hold the three of each unit side by side."""
    (weight,) = parts
    return weight.unflatten(0, (heads, -1, 3)).permute(2, 0, 1, 3).flatten(0, 2)


@register(
    "triplex",
    config=TriplexConfig,
    description="Tile, the 25 tiles around it and the whole section, fused by attention, with a head for each",
    paper="chung2024",
    license_of_reference="none",
)
class Triplex(ShrinkingPredictor):
    """Tokens of the spot's tile, of its 5 x 5 neighbors and of its section; a spot's token asks the other two.

    Every branch predicts the genes as well, from the mean of its tokens; these predictions are part of the loss only,
    and stand in `extras["branches"]`. A batch holds spots of one section, which is encoded once for all of them.
    """

    published: ClassVar[Published | None] = Published("fc.weight", _read, _PER_10_000_OF_THE_PANEL)

    draws = "section_rows"
    needs = frozenset({"features", "neighbors", "neighbor_mask", "section_features", "section_cell"})
    training_defaults = {"learning_rate": 3e-4, "max_epochs": 100}
    presets = PUBLISHED_SIZES
    small = {
        "dim": 32, "depth": (1, 1, 1), "heads": (2, 2, 2), "mlp": (1, 1, 1), "dropout": (0.0, 0.0, 0.0),
        "patch_px": 32,
    }  # fmt: skip
    own_tensors: ClassVar[tuple[str, ...]] = (*ShrinkingPredictor.own_tensors, "fc_")

    config: TriplexConfig

    def __init__(self, config: TriplexConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        dim = config.dim
        self.target_encoder = None
        width = ResNet18Trunk.n_outputs
        if config.target == "patches":
            self.target_encoder = ResNet18Trunk()
        else:
            width = shape.width("features")
            self.of_target = Standardize(width)
        self.target_linear: nn.Module = nn.Linear(width, dim)
        self.of_neighbors = Standardize(shape.width("neighbors"), of="neighbors")
        self.of_section = Standardize(shape.width("section_features"), of="section_features")
        self.neighbor_linear = projection(shape.width("neighbors"), dim)
        self.section_linear = projection(shape.width("section_features"), dim)
        sizes = list(zip(config.depth, config.heads, config.mlp, config.dropout, strict=True))
        self.fusion_encoder = FusionEncoder(dim, *sizes[0])
        self.global_encoder = GlobalEncoder(dim, *sizes[1], residual=config.residual)
        self.neighbor_encoder = NeighborEncoder(dim, *sizes[2])
        self.head, self.fc_target, self.fc_neighbor, self.fc_global = (
            RegressionHead(dim, shape.n_outputs, zero_init=config.standardize) for _ in range(4)
        )

    @classmethod
    def reads(cls, config: TriplexConfig) -> frozenset[str]:
        """Patches of the spots, or their features; and features of their neighbors and of the whole section."""
        return cls.needs if config.target == "features" else cls.needs - {"features"} | {"patches"}

    def load_initial_weights(self) -> None:
        """Start the convolutions from `config.weights`."""
        if self.target_encoder is not None and self.config.weights is not None:
            self.target_encoder.load_imagenet(self.config.weights)

    def prepare(self, summary: Summary) -> None:
        """Take the statistics of the training set before training."""
        if self.config.standardize:
            super().prepare(summary)

    def target_tokens(self, batch: Batch) -> Tensor:
        """Tokens (n, k, dim) of the spots' own tiles: one, or one for each place of the last map of the ResNet."""
        if self.target_encoder is None:
            return self.target_linear(self.of_target(batch["features"])).unsqueeze(1)
        patches = batch["patches"]
        if not self.training:
            maps = in_chunks(self.target_encoder, standardized(patches), _CHUNK, recompute=False)
            return self.target_linear(maps.flatten(2).transpose(1, 2))
        n = len(patches)
        if n == 1:  # batch norm needs more than one value
            patches = torch.cat([patches, patches])
        images = augmented(patches, symmetries=self.config.symmetries, stain_jitter=self.config.stain_jitter)
        return self.target_linear(self.target_encoder(images)[:n].flatten(2).transpose(1, 2))

    def neighbor_tokens(self, batch: Batch) -> Tensor:
        """Tokens (n, 25, dim) of the tiles around the spots, before they see each other; 0 outside the mask."""
        check_neighbors(batch["neighbors"])
        tokens = self.neighbor_linear(self.of_neighbors(batch["neighbors"]))
        return masked_tokens(tokens, batch["neighbor_mask"])

    def section_tokens(self, batch: Batch) -> Tensor:
        """Tokens (n, dim) of the spots, after each section was encoded as a whole."""
        assert batch.sections is not None  # inputs of whole sections come with them
        tokens = self.section_linear(self.of_section(batch["section_features"]))
        return of_sections(self.global_encoder, tokens, batch["section_cell"], batch.sections)

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch, by the fusion and by each branch."""
        mask = batch["neighbor_mask"]
        target = self.target_tokens(batch)
        neighbors = self.neighbor_encoder(self.neighbor_tokens(batch), mask)
        return self.read_out(target, neighbors, mask, self.section_tokens(batch))

    def predict(self, batch: Batch, *, n_samples: int = 0, generator: Generator | None = None) -> Prediction:
        """Predict a batch, as sure as held-out observations allow."""
        return self.shrunk(self(batch))

    def read_out(self, target: Tensor, neighbors: Tensor, mask: Tensor, spot: Tensor) -> Prediction:
        """Fuse the tokens of the branches, and predict from each."""
        fused = self.fusion_encoder(spot, target, neighbors, mask)
        hidden = (target.mean(dim=1), mean_token(neighbors, mask), spot)
        heads = (self.fc_target, self.fc_neighbor, self.fc_global)
        branches = {name: self._predict(head, each) for name, head, each in zip(BRANCHES, heads, hidden, strict=True)}
        return Prediction(self._predict(self.head, fused), extras={"branches": branches, "fused": fused})

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Loss of the fused prediction and of every branch, whose share `alpha` is the distance to the fused one."""
        alpha = self.config.alpha
        parts = {"fusion": super().loss(prediction, batch)["total"]}
        total = parts["fusion"]
        teacher = prediction.mean.detach() if self.config.detach_teacher else prediction.mean
        for name, mean in prediction.extras["branches"].items():
            parts[name] = super().loss(Prediction(mean), batch)["total"]
            distance = weighted_mean(((mean - teacher) / self.target_std).square(), batch.weight)
            total = total + (1 - alpha) * parts[name] + alpha * distance
        return {"total": total, **parts}

    def _predict(self, head: RegressionHead, hidden: Tensor) -> Tensor:
        mean = head(hidden, self.target_mean, self.target_std).mean
        return mean.clamp_min(0) if self.config.clamp else mean
