"""The network of CONCH's image tower."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from stpredict.core._optional import import_torchvision


class QueryPooling(nn.Module):
    """Attention of learned queries over tokens.

    Parameters
    ----------
    dim
        Dimension of queries and output.
    token_dim
        Dimension of the tokens.
    heads
        Attention heads.
    """

    def __init__(self, dim: int, token_dim: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(1, dim))
        self.attn = nn.MultiheadAttention(dim, heads, kdim=token_dim, vdim=token_dim, batch_first=True)
        self.ln_q = nn.LayerNorm(dim)
        self.ln_k = nn.LayerNorm(token_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        """Pooled tokens (b, dim) of tokens (b, n, token_dim)."""
        tokens = self.ln_k(tokens)
        query = self.ln_q(self.query).expand(len(tokens), -1, -1)
        return self.attn(query, tokens, tokens, need_weights=False)[0][:, 0]


class ConchTower(nn.Module):
    """ViT-B/16 at 448 px, pooled by one query to 512 features, normalized; names as in the published file."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = import_torchvision("timm").create_model(
            "vit_base_patch16_224", pretrained=False, num_classes=0, img_size=448, global_pool="", dynamic_img_size=True
        )
        self.attn_pool_contrast = QueryPooling(512, 768, heads=8)
        self.ln_contrast = nn.LayerNorm(512)

    def forward(self, tiles: Tensor) -> Tensor:
        """Features (b, 512)."""
        return self.ln_contrast(self.attn_pool_contrast(self.trunk.forward_features(tiles)))
