"""CONCH: the image tower of a vision-language model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict.encoders._registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

_PARTS = ("visual.trunk.", "visual.attn_pool_contrast.", "visual.ln_contrast.")


def image_tower(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Keep the image tower up to its pooled embedding, before the projection into the space shared with text."""
    return {key.removeprefix("visual."): value for key, value in state.items() if key.startswith(_PARTS)}


@register(
    "conch",
    dim=512,
    tile_px=448,
    tile_um=224.0,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
    license="CC-BY-NC-ND-4.0",
    gated=True,
    source="MahmoodLab/CONCH",
    filename="pytorch_model.bin",
    citation="lu2024",
    remap=image_tower,
)
def conch() -> nn.Module:
    """Build the image tower of CONCH: ViT-B/16 whose tokens are pooled by one learned query."""
    from stpredict.encoders._conch_tower import ConchTower

    return ConchTower()
