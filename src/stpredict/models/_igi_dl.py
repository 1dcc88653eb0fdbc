"""IGI-DL: the patch of a spot and the graph of its nuclei, fused by a perceptron."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from stpredict.core._validate import check_choice, check_positive
from stpredict.models.base._batch import Batch, Prediction, Summary
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._retrieval import in_chunks
from stpredict.models.base._shape import Shape
from stpredict.models.base._shrinking import ShrinkingPredictor
from stpredict.models.nn._augment import augmented, standardized
from stpredict.models.nn._batch_norm import BatchNorm1d
from stpredict.models.nn._graphs import GCNConv, GINConv, Graphs
from stpredict.models.nn._heads import RegressionHead
from stpredict.models.nn._resnet import ResNet18Trunk
from stpredict.models.nn._standardize import Standardize

_MANY = (
    2**15
)  # nuclei, beyond which what a layer computes between its input and its output is computed again on the way back
_CHUNK = 64  # patches that go through the convolutions at once, where no gradient is taken
_CONVS = {"gin": GINConv, "gcn": GCNConv}
#: Of what :func:`stpredict.pp.nuclei` measures: neither the direction of the long axis, which means nothing on a slide, nor
#: distances to other nuclei, which the graph knows.
MEASURES = (
    "area_um2", "perimeter_um", "major_um", "minor_um", "elongation", "circularity", "hematoxylin", "hematoxylin_sd", "contrast",
    "gradient", "eosin",
)  # fmt: skip
_GRAPH = frozenset({"nuclei_graph", "n_nuclei", "nuclei_links", "n_links"})


@dataclass(frozen=True)
class IGIDLConfig:
    """Hyperparameters of `igi_dl`.

    Attributes
    ----------
    branches
        What is read: `"both"`, only the `"image"`, or only the `"graph"` of nuclei.
    image_encoder
        What the picture is seen as: `"resnet18"`, pixels through a ResNet-18 that is trained along, or `"features"`, frozen
        features of an encoder.
    conv
        Layers on the graph: `"gin"`, sums over neighbors, or `"gcn"`, means by the roots of the numbers of neighbors.
    n_layers, n_hidden
        Layers on the graph, and their width.
    mlp
        Widths of the perceptron on both.
    dropout
        Share of the units that is dropped in training, in the perceptron and after the graph.
    learn_empty
        Whether a spot without nuclei gets a vector of its own, which is learned, in place of zeros.
    shrink
        Pull predictions of expression towards the training mean, gene by gene, by as much as held-out observations say.
    standardize
        Whether features, nuclei and target are in units of the training set.
    measures
        Columns of the table of nuclei that are read of each.
    types
        Types of nuclei, a column each; of others all are 0. `None`: those that the object has when the network is fitted.
    nuclei_method
        How the nuclei were found, as :func:`stpredict.pp.nuclei` records it; taken from the object at fit when `None`.
    nuclei_key
        Name of the nuclei.
    radius_um
        Nuclei that lie at most so far apart are linked, in µm.
    weights
        File with torchvision's ImageNet weights of ResNet-18; `None` starts from random weights.
    patch_um
        Side in µm of the patch, and of the square whose nuclei make the graph.
    patch_px
        Side of the patch in pixels after resampling.
    symmetries
        Draw one of the eight right-angle rotations and reflections for each patch in training.
    stain_jitter
        Largest relative change, and largest shift, of the optical density of each stain of a patch in training.
    """

    branches: Literal["both", "image", "graph"] = "both"
    image_encoder: Literal["resnet18", "features"] = "resnet18"
    conv: Literal["gin", "gcn"] = "gin"
    n_layers: int = 4
    n_hidden: int = 256
    mlp: tuple[int, ...] = (512, 256, 256)
    dropout: float = 0.5
    learn_empty: bool = True
    shrink: bool = True
    standardize: bool = True
    measures: tuple[str, ...] = MEASURES
    types: tuple[str, ...] | None = None
    nuclei_method: str | None = None
    nuclei_key: str = "nuclei"
    radius_um: float = 20.0
    weights: str | None = None
    patch_um: float = 100.0
    patch_px: int = 200
    symmetries: bool = True
    stain_jitter: float = 0.05

    def __post_init__(self) -> None:
        """Check what fits together."""
        check_choice(self.branches, ("both", "image", "graph"), "branches")
        check_choice(self.image_encoder, ("resnet18", "features"), "image_encoder")
        check_choice(self.conv, tuple(_CONVS), "conv")
        check_positive(self.radius_um, "radius_um")
        if self.n_layers < 1 or not self.mlp:
            raise ValueError(
                f"expected at least one layer of the graph and of mlp; found {self.n_layers} and {self.mlp}"
            )


#: Published numbers of genes: colorectal, breast and skin cancer.
PUBLISHED_GENES = {"crc": 179, "breast": 187, "cscc": 487}
_AS_PUBLISHED: dict[str, Any] = {
    "learn_empty": False, "shrink": False, "standardize": False, "symmetries": False, "stain_jitter": 0.0,
}  # fmt: skip
_TRAINED: dict[str, Any] = {
    "optimizer": "adam", "learning_rate": 2e-4, "batch_size": 512, "max_epochs": 300, "patience": 30, "gradient_clip": 0.0,
}  # fmt: skip


def _sized(n_genes: int) -> Preset:
    return Preset(_AS_PUBLISHED, _TRAINED, n_genes, {"nuclei_graph": 85})


class _Unit(nn.Module):
    """Linear layer, batch norm, ReLU and dropout."""

    def __init__(self, n_inputs: int, n_outputs: int, dropout: float) -> None:
        super().__init__()
        self.fc, self.BN = nn.Linear(n_inputs, n_outputs), BatchNorm1d(n_outputs)
        self.dropout = nn.Dropout(dropout)

    def forward(self, values: Tensor) -> Tensor:
        return self.dropout(F.relu(self.BN(self.fc(values))))


@register(
    "igi_dl",
    config=IGIDLConfig,
    description="Patch through a ResNet-18 and the graph of its nuclei, or either alone",
    paper="gao2024",
    license_of_reference="Apache-2.0",
)
class IGIDL(ShrinkingPredictor):
    """A ResNet on the patch of a spot beside a graph network on its nuclei; a perceptron reads both.

    What each layer on the graph says of a spot is the largest value and the mean over its nuclei; the layers are added up. A
    spot may have no nuclei. Parameters have the names of the published ones.
    """

    needs = _GRAPH | {"patches"}
    training_defaults = {"learning_rate": 3e-4, "batch_size": 128, "max_epochs": 100}
    paper = _sized(PUBLISHED_GENES["crc"])
    presets: ClassVar = {name: _sized(n) for name, n in PUBLISHED_GENES.items()}
    small = {"image_encoder": "features", "n_layers": 2, "n_hidden": 16, "mlp": (32,), "dropout": 0.0}

    config: IGIDLConfig

    def __init__(self, config: IGIDLConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        width = 0
        self.resnet = self.of_image = None
        if config.branches != "graph":
            if config.image_encoder == "resnet18":
                self.resnet = ResNet18Trunk()
                n_image = ResNet18Trunk.n_outputs
            else:
                n_image = shape.width("features")
                self.of_image = Standardize(n_image)
            self.resnet_BN = BatchNorm1d(n_image)
            width += n_image
        if config.branches != "image":
            n_nodes, hidden = shape.width("nuclei_graph"), config.n_hidden
            self.of_nuclei = Standardize(n_nodes, of="nuclei_graph")
            for layer in range(1, config.n_layers + 1):
                self.add_module(f"gin_conv{layer}", _CONVS[config.conv](n_nodes if layer == 1 else hidden, hidden))
                self.add_module(f"gin_bn{layer}", nn.ModuleDict({"module": BatchNorm1d(hidden)}))
            self.no_nuclei = nn.Parameter(torch.zeros(2 * hidden)) if config.learn_empty else None
            self.gin_lin1, self.gin_lin2 = nn.Linear(2 * hidden, hidden), nn.Linear(hidden, hidden // 2)
            self.gin_BN = BatchNorm1d(hidden // 2)
            width += hidden // 2
        units = []
        for n_inputs, n_outputs in zip((width, *config.mlp), config.mlp, strict=False):
            units.append(nn.ModuleDict({"layers": nn.ModuleList([_Unit(n_inputs, n_outputs, config.dropout)])}))
        self.fusion_mlp = nn.ModuleList(units)
        self.head = RegressionHead(config.mlp[-1], shape.n_outputs, zero_init=config.standardize)

    @classmethod
    def reads(cls, config: IGIDLConfig) -> frozenset[str]:
        """The picture or features of it, and the nuclei."""
        picture = frozenset({"patches" if config.image_encoder == "resnet18" else "features"})
        return {"image": picture, "graph": _GRAPH}.get(config.branches, picture | _GRAPH)

    def load_initial_weights(self) -> None:
        """Start the convolutions from `config.weights`."""
        if self.resnet is not None and self.config.weights is not None:
            self.resnet.load_imagenet(self.config.weights)

    def prepare(self, summary: Summary) -> None:
        """Take the statistics of the training set; types of nuclei stay 0 and 1, those that it has none of stay 0."""
        if not self.config.standardize:
            return
        super().prepare(summary)
        n_types = len(self.config.types or ())
        if n_types and self.config.branches != "image":
            mean, std = self.of_nuclei.mean[-n_types:], self.of_nuclei.std[-n_types:]
            mean.zero_()
            std.copy_((std > 0).to(std.dtype))

    def image(self, batch: Batch) -> Tensor:
        """What is seen in the pictures (n, 512), or their features (n, d)."""
        if self.resnet is None:
            assert self.of_image is not None  # one of the two
            return self.of_image(batch["features"])
        patches = batch["patches"]
        if not self.training:
            return in_chunks(self._pooled, standardized(patches), _CHUNK, recompute=False)
        n = len(patches)
        if n == 1:  # batch norm needs more than one value
            patches = torch.cat([patches, patches])
        images = augmented(patches, symmetries=self.config.symmetries, stain_jitter=self.config.stain_jitter)
        return self._pooled(images)[:n]

    def _pooled(self, images: Tensor) -> Tensor:
        assert self.resnet is not None
        return self.resnet(images).mean(dim=(2, 3))

    def read_graphs(self, batch: Batch) -> Tensor:
        """Sum over layers of what each says of the nuclei of every spot (n, 2 n_hidden)."""
        values = self.of_nuclei(batch["nuclei_graph"])
        graphs = Graphs.of_rows(batch["n_nuclei"], batch["nuclei_links"], batch["n_links"])
        found = values.new_zeros(len(batch), 2 * self.config.n_hidden)
        for layer in range(1, self.config.n_layers + 1):
            conv, norm = getattr(self, f"gin_conv{layer}"), getattr(self, f"gin_bn{layer}")["module"]
            if self.training and len(values) > _MANY:
                values = checkpoint(conv, values, graphs, use_reentrant=False)
            else:
                values = conv(values, graphs)
            values = F.relu(norm(values), inplace=True)
            found = found + graphs.max_and_mean(values)
        if self.no_nuclei is not None:
            found = torch.where((graphs.size == 0).unsqueeze(1), self.no_nuclei, found)
        return found

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch."""
        parts = []
        if self.config.branches != "graph":
            parts.append(self.resnet_BN(self.image(batch)))
        if self.config.branches != "image":
            hidden = F.dropout(F.relu(self.gin_lin1(self.read_graphs(batch))), self.config.dropout, self.training)
            parts.append(self.gin_BN(self.gin_lin2(hidden)))
        hidden = torch.cat(parts, dim=1)
        for unit in self.fusion_mlp:
            hidden = unit["layers"][0](hidden)  # type: ignore[index]
        return self.head(hidden, self.target_mean, self.target_std)

    def predict(self, batch: Batch, *, n_samples: int = 0, generator: Generator | None = None) -> Prediction:
        """Predict a batch, as sure as held-out observations allow."""
        return self.shrunk(self(batch))
