"""Network from the maps of a slide to an outcome: ConvNeXt V2 on the tissue, beside clinical covariates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stpredict.models.base._batch import Batch, Prediction
from stpredict.models.base._predictor import HEAD
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.base._slide_map import SlideMapPredictor

_EPS = 1e-6


@dataclass(frozen=True)
class ConvNeXtConfig:
    """Hyperparameters of `convnext`.

    Attributes
    ----------
    shape
        Rows and columns of the maps; their product is the number of tokens.
    mask
        Read the tissue as one more channel.
    n_clinical
        Clinical covariates that join the pooled features.
    depths, dims
        Blocks and channels of each of the stages.
    drop_path
        Rate of dropped blocks, linear from 0 to this.
    class_weights
        Weight of each of two classes in the cross-entropy; 1 each when empty.
    augment
        In training, show the maps in mirror images and turns, so that the network learns the arrangement and not the
        place of what it sees.
    lattice
        `"square"` or `"hex"`: which mirror images and turns there are.
    """

    shape: tuple[int, int] = (8, 8)
    mask: bool = False
    n_clinical: int = 0
    depths: tuple[int, ...] = (2, 2, 2, 2)
    dims: tuple[int, ...] = (3, 4, 5, 6)
    drop_path: float = 0.4
    class_weights: tuple[float, ...] = ()
    augment: bool = True
    lattice: Literal["square", "hex"] = "square"


def turned(maps: Tensor, lattice: str) -> Tensor:
    """Mirror each of several maps (b, c, h, w) at random, and on a square lattice exchange rows and columns of all.

    Neighbors stay neighbors. On a hexagonal lattice, whose odd rows lie half a step to the right, the maps get a row
    more, and a mirror image starts in the other one of the first two.
    """
    across, down = torch.rand(2, len(maps), 1, 1, 1, device=maps.device) < 0.5
    if lattice == "square":
        maps = torch.where(across, maps.flip(3), maps)
        maps = torch.where(down, maps.flip(2), maps)
        return maps.transpose(2, 3) if torch.rand(()) < 0.5 else maps
    if maps.shape[2] % 2 == 0:  # with an odd number of rows, upside down leaves every row its parity
        maps = F.pad(maps, (0, 0, 0, 1))
    maps = torch.where(down, maps.flip(2), maps)
    return torch.where(across, F.pad(maps.flip(3), (0, 0, 1, 0)), F.pad(maps, (0, 0, 0, 1)))


class _Norm(nn.LayerNorm):
    """Layer norm over the channels of (b, c, h, w)."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=_EPS)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.movedim(1, -1)).movedim(-1, 1)


class _GRN(nn.Module):
    """Global response normalization of (b, h, w, c): channels compete by their norm over the tissue."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.zeros(1, 1, 1, dim))
        self.beta = nn.Parameter(torch.zeros(1, 1, 1, dim))

    def forward(self, x: Tensor, tissue: Tensor) -> Tensor:
        # The norm has no gradient where a channel is zero on all of the tissue, hence the small constant.
        norm = ((x * tissue).square().sum(dim=(1, 2), keepdim=True) + _EPS**2).sqrt()
        response = norm / (norm.mean(dim=-1, keepdim=True) + _EPS)
        return self.gamma * (x * response) + self.beta + x


class _Block(nn.Module):
    """Depthwise convolution, then a perceptron per cell with response normalization; residual."""

    def __init__(self, dim: int, drop_path: float) -> None:
        super().__init__()
        self.dwconv = nn.Conv2d(dim, dim, 7, padding=3, groups=dim)
        self.norm = nn.LayerNorm(dim, eps=_EPS)
        self.pwconv1 = nn.Linear(dim, 4 * dim)
        self.grn = _GRN(4 * dim)
        self.pwconv2 = nn.Linear(4 * dim, dim)
        self.drop_path = drop_path

    def forward(self, x: Tensor, tissue: Tensor) -> Tensor:
        y = self.norm(self.dwconv(x).movedim(1, -1))
        y = self.grn(F.gelu(self.pwconv1(y)), tissue.movedim(1, -1))
        y = self.pwconv2(y).movedim(-1, 1)
        if self.training and self.drop_path > 0:
            kept = 1 - self.drop_path
            y = y * (torch.rand(len(y), 1, 1, 1, device=y.device, dtype=y.dtype) < kept) / kept
        return (x + y) * tissue


class ConvNeXtV2(nn.Module):
    """ConvNeXt V2 on maps, with the cells off the tissue left out of convolutions, norms and pooling :cite:p:`woo2023`.

    Cells off the tissue are zero before every convolution, as in the sparse form of the network, so that neither glass
    nor padding leaves a trace; the shape of the tissue does.

    Parameters
    ----------
    n_channels
        Channels of the maps.
    n_outputs
        Outputs of the head.
    n_clinical
        Covariates that join the pooled features.
    depths, dims
        Blocks and channels of each stage.
    drop_path
        Rate of dropped blocks, linear from 0 to this.
    head_dims
        Widths of linear layers, without activation, before the output. The published survival head has (16, 8), which
        only limits the rank of what one layer does; for counts and weights of the published network.
    """

    def __init__(
        self,
        n_channels: int,
        n_outputs: int = 1,
        *,
        n_clinical: int = 0,
        depths: tuple[int, ...] = (2, 2, 2, 2),
        dims: tuple[int, ...] = (3, 4, 5, 6),
        drop_path: float = 0.4,
        head_dims: tuple[int, ...] = (),
    ) -> None:
        super().__init__()
        if len(depths) != len(dims) or not dims:
            raise ValueError(f"expected as many depths as dims; found {len(depths)} and {len(dims)}")
        stem = nn.Sequential(nn.Conv2d(n_channels, dims[0], 4, stride=4), _Norm(dims[0]))
        between = [nn.Sequential(_Norm(a), nn.Conv2d(a, b, 2, stride=2)) for a, b in zip(dims, dims[1:], strict=False)]
        self.downsample_layers = nn.ModuleList([stem, *between])
        rates = iter(torch.linspace(0, drop_path, sum(depths), device="cpu").tolist())
        self.stages = nn.ModuleList(
            nn.ModuleList(_Block(dim, next(rates)) for _ in range(depth))
            for dim, depth in zip(dims, depths, strict=True)
        )
        self.norm = nn.LayerNorm(dims[-1], eps=_EPS)
        widths = [dims[-1] + n_clinical, *head_dims, n_outputs]
        layers = [nn.Linear(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        self.head = nn.Sequential(*layers) if head_dims else layers[0]
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, maps: Tensor, tissue: Tensor, clinical: Tensor | None = None) -> Tensor:
        """Predict from maps (b, c, h, w), tissue (b, 1, h, w) of 0 and 1 and covariates (b, n_clinical)."""
        return self.head(self.pool(maps, tissue, clinical))

    def pool(self, maps: Tensor, tissue: Tensor, clinical: Tensor | None = None) -> Tensor:
        """What the head reads (b, dims[-1] + n_clinical): mean features of the tissue, and the covariates."""
        share = tissue.to(maps.dtype)
        x = maps * share
        for down, blocks in zip(self.downsample_layers, self.stages, strict=True):
            step = 4 if down is self.downsample_layers[0] else 2
            bottom, right = -x.shape[2] % step, -x.shape[3] % step
            x, share = (F.pad(values, (0, right, 0, bottom)) for values in (x, share))
            share = F.avg_pool2d(share, step)
            inside = (share > 0).to(x.dtype)
            x = down(x) * inside
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, inside)
        pooled = (x * share).sum(dim=(2, 3)) / share.sum(dim=(2, 3)).clamp_min(_EPS)
        pooled = self.norm(pooled)
        return pooled if clinical is None else torch.cat([pooled, clinical.to(pooled.dtype)], dim=1)


_TRAINING = {"schedule": "cosine", "final_learning_rate": 1e-5, "weight_decay": 0.05, "gradient_clip": 0.0}


@register(
    "convnext",
    config=ConvNeXtConfig,
    description="ConvNeXt V2 on maps of slides, for outcomes of patients",
    paper="woo2023",
    license_of_reference="MIT",
)
class ConvNeXt(SlideMapPredictor):
    """The network as the training loop knows it."""

    own_tensors = (*HEAD, "network.head.")
    small = {"shape": (2, 4), "depths": (1, 1), "dims": (8, 16), "drop_path": 0.0, "augment": False}
    #: The networks of :cite:t:`li2026` and their training.
    presets = {
        "survival": Preset(
            {"depths": (2, 2, 2, 2), "dims": (3, 4, 5, 6), "drop_path": 0.4, "augment": False},
            _TRAINING | {"learning_rate": 5e-3, "max_epochs": 300, "patience": 300},
        ),
        "response": Preset(
            {"depths": (2, 2, 8, 2), "dims": (16, 24, 32, 40), "drop_path": 0.4, "augment": False},
            _TRAINING | {"learning_rate": 5e-5, "max_epochs": 200, "patience": 200},
        ),
    }

    def __init__(self, config: ConvNeXtConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.network = ConvNeXtV2(
            shape.width("tokens") + int(config.mask),
            shape.n_outputs,
            n_clinical=config.n_clinical,
            depths=tuple(config.depths),
            dims=tuple(config.dims),
            drop_path=config.drop_path,
        )

    def forward(self, batch: Batch) -> Prediction:
        """Log risk, logit or expression of each slide."""
        cells, on_tissue = self.cells(batch)
        tissue = on_tissue.float().reshape(len(batch), 1, *self.config.shape)
        maps = cells.movedim(2, 1).reshape(len(batch), -1, *self.config.shape) * tissue
        both = torch.cat([maps, tissue], dim=1)
        if self.training and self.config.augment:
            both = turned(both, self.config.lattice)
        maps, tissue = both if self.config.mask else both[:, :-1], both[:, -1:]
        clinical = batch["features"] if self.config.n_clinical else None
        return self.predicted(self.network(maps, tissue, clinical))
