"""Neural stain learning: eleven color weights per gene."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from stpredict.models.base._batch import Batch, Prediction, Summary
from stpredict.models.base._predictor import HEAD, Predictor
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape

_HEMATOXYLIN_EOSIN = ((0.650, 0.704, 0.286), (0.072, 0.990, 0.105))  # Ruifrok and Johnston's absorbance vectors


@dataclass(frozen=True)
class ColorConfig:
    """Hyperparameters of `color`.

    Attributes
    ----------
    variant
        `"rectified"`: two learned stain channels, rectified, averaged over pixels and weighed (8 + 3 weights a gene).
        `"full"`: a learned 3 × 3 matrix of stain vectors, inverted; its first channel is scaled and shifted (9 + 2).
    patch_um
        Side of the patch in µm.
    patch_px
        Side of the patch in pixels after resampling.
    stride
        Every `stride`-th pixel in both directions is read: pixels are drawn, not averaged, because the rectification
        works on the distribution of the colors.
    """

    variant: Literal["rectified", "full"] = "rectified"
    patch_um: float = 112.0
    patch_px: int = 56
    stride: int = 4


@register(
    "color",
    config=ColorConfig,
    description="Neural stain learning: 11 color weights per gene, the baseline that staining alone reaches",
    paper="dawood2021",
)
class Color(Predictor):
    """Per gene, a learned stain deconvolution of the optical density of the pixels, pooled and weighed.

    All genes are computed in one pass. Nothing but color enters: permuting the pixels of a patch changes nothing.
    """

    needs = frozenset({"patches"})
    own_tensors = (*HEAD, "deconvolution", "stain_matrix", "offset", "weight", "bias")  # all of them are of a gene
    training_defaults = {"learning_rate": 1e-2, "weight_decay": 0.0, "max_epochs": 60, "patience": 8, "refit": True}
    small = {"patch_px": 32, "stride": 2}

    def __init__(self, config: ColorConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        stains = torch.tensor(_HEMATOXYLIN_EOSIN)
        unmix = torch.linalg.pinv(stains).T  # (2, 3): concentration of each stain from optical density
        if config.variant == "rectified":
            self.deconvolution = nn.Parameter(unmix.repeat(shape.n_outputs, 1, 1))
            self.offset = nn.Parameter(torch.zeros(shape.n_outputs, 2))
            self.weight = nn.Parameter(torch.tensor([1e-2, 0.0]).repeat(shape.n_outputs, 1))
        else:
            third = torch.linalg.cross(stains[0], stains[1])
            self.stain_matrix = nn.Parameter(torch.stack([*stains, third / third.norm()]).repeat(shape.n_outputs, 1, 1))
            self.weight = nn.Parameter(torch.full((shape.n_outputs, 1), 1e-2))
        self.bias = nn.Parameter(torch.zeros(shape.n_outputs))

    def prepare(self, summary: Summary) -> None:
        """Start from the training mean."""
        super().prepare(summary)
        with torch.no_grad():
            self.bias.copy_(summary.target_mean / summary.target_std)

    def forward(self, batch: Batch) -> Prediction:
        """Predict a batch."""
        stride = self.config.stride
        pixels = batch["patches"][:, :, ::stride, ::stride].flatten(2).float()  # (n, 3, p)
        density = -torch.log10((pixels + 1) / 256)
        if self.config.variant == "rectified":
            stains = _rectified_mean(density, self.deconvolution, self.offset)
        else:
            # Without a rectification the mean over pixels commutes with the linear map: pool first.
            unmix = torch.linalg.inv(self.stain_matrix)[:, :, :1]  # (n_genes, 3, 1)
            stains = torch.einsum("nc,gcs->ngs", density.mean(dim=2), unmix)
        value = (stains * self.weight).sum(dim=2) + self.bias
        return Prediction(value * self.target_std)


def _rectified_mean(density: Tensor, deconvolution: Tensor, offset: Tensor) -> Tensor:
    """Mean over pixels of the rectified stain channels.

    Given which pixels are positive, the mean is linear in the weights: `weights · (mean of the positive pixels)`. The
    means are sums over pixels that need no gradient, in chunks that stay in the cache; what is kept for the gradient
    does not grow with the number of pixels.

    Parameters
    ----------
    density
        (n, 3, p) optical density.
    deconvolution
        (n_genes, 2, 3).
    offset
        (n_genes, 2).

    Returns
    -------
    (n, n_genes, 2)
    """
    n_genes, n_pixels = len(deconvolution), density.shape[2]
    weights = torch.cat([deconvolution, offset[:, :, None]], dim=2).reshape(2 * n_genes, 4)
    pixels = torch.cat([density, torch.ones_like(density[:, :1])], dim=1)  # (n, 4, p): the offset is a fourth color
    with torch.no_grad():
        limit = 1 << (18 if pixels.device.type == "cpu" else 26)  # values that the cache holds, or fill an accelerator
        chunks = pixels.split(max(1, limit // (2 * n_genes * n_pixels)))
        positive = torch.cat([_positive_mean(weights, chunk) for chunk in chunks])
    return (weights * positive).sum(dim=2).reshape(-1, n_genes, 2)


def _positive_mean(weights: Tensor, pixels: Tensor) -> Tensor:
    """Sum over the pixels at which each channel is positive, over the number of all pixels: (n, n_channels, 4)."""
    stains = torch.matmul(weights, pixels)  # (n, n_channels, p)
    torch.gt(stains, 0, out=stains)
    return torch.matmul(stains, pixels.transpose(1, 2)) / pixels.shape[2]
