"""Phikon-v2: published in the layout of transformers' Dinov2, built as a timm vision transformer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict.encoders._registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

_TOP = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_BLOCK = {
    "norm1": "norm1",
    "norm2": "norm2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
    "attention.output.dense": "attn.proj",
}


def to_timm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Turn the keys of transformers' Dinov2 into timm's; queries, keys and values become one matrix."""
    import torch

    state = {key.removeprefix("dinov2."): value for key, value in state.items()}
    if "embeddings.cls_token" not in state:
        return state
    result: dict[str, Tensor] = {}
    for key, value in state.items():
        if key == "embeddings.mask_token":
            continue  # used in pretraining only
        if key in _TOP:
            result[_TOP[key]] = value
            continue
        if not key.startswith("encoder.layer."):
            result[key] = value
            continue
        number, _, rest = key.removeprefix("encoder.layer.").partition(".")
        if rest in {"layer_scale1.lambda1", "layer_scale2.lambda1"}:
            result[f"blocks.{number}.ls{rest[11]}.gamma"] = value
            continue
        layer, _, kind = rest.rpartition(".")
        if layer in _BLOCK:
            result[f"blocks.{number}.{_BLOCK[layer]}.{kind}"] = value
        elif layer == "attention.attention.query":
            parts = [
                state.get(f"encoder.layer.{number}.attention.attention.{part}.{kind}") for part in ("key", "value")
            ]
            found = [part for part in (value, *parts) if part is not None]
            result[f"blocks.{number}.attn.qkv.{kind}"] = torch.cat(found)
        elif layer not in {"attention.attention.key", "attention.attention.value"}:
            result[key] = value
    return result


@register(
    "phikon-v2",
    dim=1024,
    tile_px=224,
    license="Owkin non-commercial",
    source="owkin/phikon-v2",
    filename="model.safetensors",
    citation="filiot2024",
    remap=to_timm,
)
def phikon_v2() -> nn.Module:
    """Build Phikon-v2: ViT-L/16, class token after the last normalization."""
    from stpredict.core._optional import import_torchvision

    return import_torchvision("timm").create_model(
        "vit_large_patch16_224", pretrained=False, num_classes=0, init_values=1.0, dynamic_img_size=True
    )
