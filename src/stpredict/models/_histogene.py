"""HisToGene: flattened patches and positions through a transformer over the spots of a section."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._section import PositionEmbedding, SectionPredictor, TransformerBlock
from stpredict.models.base._shape import Shape


@dataclass(frozen=True)
class HisToGeneConfig:
    """Hyperparameters of `histogene`.

    Attributes
    ----------
    dim
        Width of a spot: of the linear map of its pixels, of the embedding of its position, and of the transformer.
    depth
        Blocks of the transformer.
    heads, dim_head
        Heads of the attention and their width.
    mlp_dim
        Width of the feed-forward layers; `None` is twice `dim`.
    dropout
        Dropout of the spots before the transformer and of both branches of its blocks.
    patch_um
        Side of the patch in µm.
    patch_px
        Side of the patch in pixels after resampling. The first layer has `3 * patch_px ** 2 * dim` weights.
    symmetries
        Draw one of the eight right-angle rotations and reflections for each patch in training.
    stain_jitter
        Largest relative change, and largest shift, of the optical density of each stain of a patch in training.
    chunk
        Patches that are embedded at once.
    zinb
        Weight of the likelihood of the raw counts as zero-inflated negative binomial; 0 for none.
    views
        Augmented views that training averages and draws the prediction to; 0 for none.
    distill
        Weight of the distance to that average.
    """

    dim: int = 1024
    depth: int = 8
    heads: int = 16
    dim_head: int = 64
    mlp_dim: int | None = None
    dropout: float = 0.1
    patch_um: float = 76.8
    patch_px: int = 112
    symmetries: bool = True
    stain_jitter: float = 0.05
    chunk: int = 512
    zinb: float = 0.0
    views: int = 0
    distill: float = 0.5


@register(
    "histogene",
    config=HisToGeneConfig,
    description="Flattened patches and positions through a transformer over the spots of a section",
    paper="pang2021",
    license_of_reference="MIT",
)
class HisToGene(SectionPredictor):
    """A linear map of all pixels of a patch, the embedding of its position, and a transformer over the section."""

    training_defaults = {
        "optimizer": "adam",
        "learning_rate": 1e-5,
        "weight_decay": 0.0,
        "max_epochs": 100,
        "patience": 20,
    }
    paper = Preset(training={"patience": 0, "gradient_clip": 0.0})
    small = {
        "dim": 64,
        "depth": 1,
        "heads": 2,
        "dim_head": 16,
        "mlp_dim": 64,
        "patch_px": 32,
        "symmetries": False,
        "stain_jitter": 0.0,
        "dropout": 0.0,
        "views": 0,
    }

    config: HisToGeneConfig

    def __init__(self, config: HisToGeneConfig, shape: Shape) -> None:
        super().__init__(config, shape, n_hidden=config.dim)
        mlp_dim = 2 * config.dim if config.mlp_dim is None else config.mlp_dim
        self.patch_embedding = nn.Linear(3 * config.patch_px**2, config.dim)
        self.position_embedding = PositionEmbedding(config.dim)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(
            TransformerBlock(config.dim, config.heads, config.dim_head, mlp_dim, config.dropout)
            for _ in range(config.depth)
        )

    def embed(self, images: Tensor) -> Tensor:
        """Map images (n, 3, h, w) to (n, dim)."""
        check_side(images, self.config.patch_px)
        return self.patch_embedding(images.flatten(1))

    def relate(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """Map the embedded patches (n, dim) of a section to (n, dim)."""
        values = self.dropout(embedded + self.position_embedding(positions))
        for block in self.blocks:
            values = block(values)
        return values


def check_side(images: Tensor, side: int) -> None:
    """Raise where images (n, c, h, w) are not squares of the given side."""
    if tuple(images.shape[2:]) != (side, side):
        found = " x ".join(map(str, images.shape[2:]))
        raise ValueError(f"expected patches of {side} x {side} pixels; found {found}; read them with patch_px={side}")
