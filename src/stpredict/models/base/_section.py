"""What networks share that read all spots of a section: pixels of each spot, then the spots with each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from stpredict.models.base._batch import Batch, Prediction
from stpredict.models.base._predictor import Predictor
from stpredict.models.base._shape import Shape
from stpredict.models.nn._augment import augmented, check_patches, standardized
from stpredict.models.nn._heads import RegressionHead
from stpredict.models.nn._weighted import weighted_mean
from stpredict.models.nn._zinb import ZINBHead, zinb_loss

_SHORTEST, _OCTAVES = 100.0, 8  # µm: from the pitch of an array to twice the longest side of one
_N_FREQUENCIES = 16


class PositionEmbedding(nn.Module):
    """Learned embedding of positions in µm, relative to the center of their section: any array, any number of spots.

    Parameters
    ----------
    n_outputs
        Width of the embedding.
    """

    frequency: Tensor

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        wavelength = _SHORTEST * torch.logspace(0, _OCTAVES, _N_FREQUENCIES, base=2.0)
        self.register_buffer("frequency", 2 * torch.pi / wavelength, persistent=False)
        self.net = nn.Sequential(nn.Linear(4 * _N_FREQUENCIES, n_outputs), nn.GELU(), nn.Linear(n_outputs, n_outputs))

    def forward(self, positions: Tensor) -> Tensor:
        """Embed the positions (n, 2) of one section."""
        center = (positions.amin(dim=0) + positions.amax(dim=0)) / 2
        phase = ((positions - center).unsqueeze(2) * self.frequency).flatten(1)
        return self.net(torch.cat([phase.sin(), phase.cos()], dim=1))


class TransformerBlock(nn.Module):
    """Pre-norm self-attention and pre-norm feed-forward, each with a residual.

    Attention is exact and its memory grows linearly with the number of tokens: the matrix of weights is never held.

    Parameters
    ----------
    dim
        Width.
    heads, dim_head
        Number of heads and their width.
    mlp_dim
        Width of the feed-forward layer.
    dropout
        After either branch, and inside the feed-forward.
    """

    def __init__(self, dim: int, heads: int, dim_head: int, mlp_dim: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * dim_head
        self.attention_norm = nn.LayerNorm(dim)
        self.to_qkv = nn.Linear(dim, 3 * inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, dim), nn.Dropout(dropout))
        self.feed_forward = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, mlp_dim), nn.GELU(), nn.Dropout(dropout),
            nn.Linear(mlp_dim, dim), nn.Dropout(dropout),
        )  # fmt: skip

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform (n, dim) or (b, n, dim)."""
        batched = tokens if tokens.dim() == 3 else tokens.unsqueeze(0)
        qkv = self.to_qkv(self.attention_norm(batched))
        query, key, value = qkv.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        batched = batched + self.to_out(mixed)
        batched = batched + self.feed_forward(batched)
        return batched if tokens.dim() == 3 else batched.squeeze(0)


class SectionPredictor(Predictor):
    """Base of networks that predict all spots of a section together.

    A subclass defines `embed` (patches, each on its own) and `relate` (the spots with each other) and passes the width
    of what `relate` returns, from which a normalized linear head predicts. Its configuration has `patch_um`,
    `patch_px`, `symmetries`, `stain_jitter`, `chunk`, `zinb`, `views` and `distill`.

    - Patches go through `embed` by `chunk`; where a section has more, training computes the activations of a chunk
      again on the way back instead of keeping them, so that memory grows with the chunk and not with the section.
    - With `zinb` above 0, a second head learns the raw counts as zero-inflated negative binomial with the size factor
      of the spot; the prediction does not use it.
    - With `views` above 0, training also predicts that many augmented views, averages them with learned weights, and
      draws the prediction to that average.

    Parameters
    ----------
    config
        The network's frozen dataclass of hyperparameters.
    shape
        Number of outputs, widths of the inputs, and genes.
    n_hidden
        Width of what `relate` returns.
    """

    draws = "sections"
    several_sections = False
    needs = frozenset({"patches", "positions", "counts", "size_factor"})

    def __init__(self, config: Any, shape: Shape, *, n_hidden: int) -> None:
        super().__init__(config, shape)
        self.norm = nn.LayerNorm(n_hidden)
        self.head = RegressionHead(n_hidden, shape.n_outputs)
        self.count_head = ZINBHead(n_hidden, shape.n_outputs) if config.zinb > 0 else None
        self.view_weight = None
        if config.views > 0:
            self.view_weight = nn.Sequential(nn.Linear(n_hidden, n_hidden), nn.ReLU(), nn.Linear(n_hidden, 1))

    @classmethod
    def reads(cls, config: Any) -> frozenset[str]:
        """Patches, positions, and raw counts where these are part of the loss."""
        return cls.needs if config.zinb > 0 else cls.needs - {"counts", "size_factor"}

    def embed(self, images: Tensor) -> Tensor:
        """Map standardized images (n, 3, h, w), each on its own, to (n, k)."""
        raise TypeError(f"{type(self).__name__} defines no embed")

    def relate(self, embedded: Tensor, positions: Tensor) -> Tensor:
        """Map what `embed` returned for all spots of a section, and their positions (n, 2) in µm, to (n, n_hidden)."""
        raise TypeError(f"{type(self).__name__} defines no relate")

    def forward(self, batch: Batch) -> Prediction:
        """Predict the spots of one section."""
        check_patches(batch["patches"])
        hidden = self._hidden(batch["patches"], batch["positions"])
        prediction = self._predict(hidden)
        if "counts" in batch and self.count_head is not None:
            prediction.extras["zinb"] = self.count_head(hidden)
        if self.training and self.view_weight is not None:
            views = [self._hidden(batch["patches"], batch["positions"]) for _ in range(self.config.views)]
            weight = torch.stack([self.view_weight(view) for view in views]).softmax(dim=0)
            prediction.extras["distilled"] = (weight * torch.stack([self._predict(v).mean for v in views])).sum(dim=0)
        return prediction

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Loss of the head, and the weighted likelihood of the counts and distance to the average view."""
        parts = super().loss(prediction, batch)
        parts = {"total": parts["total"], "regression": parts["total"]}
        zinb = prediction.extras.get("zinb")
        if zinb is not None:
            mean = zinb.mean * batch["size_factor"].clamp_min(1e-6).unsqueeze(1)
            parts["zinb"] = zinb_loss(batch["counts"], mean, zinb.dispersion, zinb.zero_logit, batch.weight)
            parts["total"] = parts["total"] + self.config.zinb * parts["zinb"]
        distilled = prediction.extras.get("distilled")
        if distilled is not None:
            apart = ((distilled - prediction.mean) / self.target_std).square()
            parts["distillation"] = weighted_mean(apart, batch.weight)
            parts["total"] = parts["total"] + self.config.distill * parts["distillation"]
        return parts

    def _hidden(self, patches: Tensor, positions: Tensor) -> Tensor:
        return self.norm(self.relate(self._encode_all(patches), positions))

    def _predict(self, hidden: Tensor) -> Prediction:
        return self.head(hidden, self.target_mean, self.target_std)

    def _encode_all(self, patches: Tensor) -> Tensor:
        parts = patches.tensor_split(
            -(-len(patches) // self.config.chunk)
        )  # alike in size, for the sake of batch norms
        if len(parts) == 1 or not (self.training and torch.is_grad_enabled()):
            return torch.cat([self._encode(part) for part in parts])
        contexts = lambda: (nullcontext(), self._norms_at_rest())
        return torch.cat([checkpoint(self._encode, part, use_reentrant=False, context_fn=contexts) for part in parts])

    @contextmanager
    def _norms_at_rest(self) -> Iterator[None]:
        """Leave running statistics as they are: activations that are computed again are no further step."""
        norms = [module for module in self.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.momentum = 0.0
        try:
            yield
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum

    def _encode(self, patches: Tensor) -> Tensor:
        if self.training:
            images = augmented(patches, symmetries=self.config.symmetries, stain_jitter=self.config.stain_jitter)
        else:
            images = standardized(patches)
        return self.embed(images)
