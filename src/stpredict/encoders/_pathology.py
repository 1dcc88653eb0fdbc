"""Pathology foundation models that are timm vision transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stpredict.encoders._registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

_BIOPTIMUS: dict[str, Any] = {"mean": (0.707223, 0.578729, 0.703617), "std": (0.211883, 0.230117, 0.177517)}


def _transformer(name: str, **kwargs: Any) -> nn.Module:
    from stpredict.core._optional import import_torchvision

    return import_torchvision("timm").create_model(name, pretrained=False, num_classes=0, img_size=224, **kwargs)


def _gated_mlp() -> dict[str, Any]:
    """Feed-forward layers gated by SiLU, with both halves in one matrix."""
    from torch import nn

    from stpredict.core._optional import import_torchvision

    return {"mlp_layer": import_torchvision("timm.layers").SwiGLUPacked, "act_layer": nn.SiLU}


def _under_trunk(state: dict[str, Tensor]) -> dict[str, Tensor]:
    from stpredict.encoders._tokens import under_trunk

    return under_trunk(state)


@register(
    "uni",
    dim=1024,
    tile_px=224,
    license="CC-BY-NC-ND-4.0",
    gated=True,
    source="MahmoodLab/UNI",
    filename="pytorch_model.bin",
    citation="chen2024",
)
def uni() -> nn.Module:
    """Build UNI: ViT-L/16."""
    return _transformer("vit_large_patch16_224", init_values=1e-5, dynamic_img_size=True)


@register(
    "uni2-h",
    dim=1536,
    tile_px=224,
    license="CC-BY-NC-ND-4.0",
    gated=True,
    source="MahmoodLab/UNI2-h",
    filename="pytorch_model.bin",
    citation="chen2024",
)
def uni2_h() -> nn.Module:
    """Build UNI2-h: ViT-H/14 with 8 register tokens."""
    return _transformer(
        "vit_giant_patch14_224",
        depth=24,
        num_heads=24,
        embed_dim=1536,
        mlp_ratio=2.66667 * 2,
        init_values=1e-5,
        no_embed_class=True,
        reg_tokens=8,
        dynamic_img_size=True,
        **_gated_mlp(),
    )


@register(
    "virchow2",
    dim=2560,
    tile_px=224,
    license="CC-BY-NC-ND-4.0",
    gated=True,
    source="paige-ai/Virchow2",
    filename="pytorch_model.bin",
    citation="zimmermann2024",
    remap=_under_trunk,
)
def virchow2() -> nn.Module:
    """Build Virchow2: ViT-H/14 with 4 register tokens; class token followed by the mean patch token."""
    from stpredict.encoders._tokens import ClassAndMean

    trunk = _transformer(
        "vit_huge_patch14_224",
        init_values=1e-5,
        mlp_ratio=5.3375,
        reg_tokens=4,
        global_pool="",
        dynamic_img_size=True,
        **_gated_mlp(),
    )
    return ClassAndMean(trunk, with_mean=True)


def _h_optimus() -> nn.Module:
    return _transformer("vit_giant_patch14_reg4_dinov2", init_values=1e-5, global_pool="token", dynamic_img_size=False)


@register(
    "h-optimus-0",
    dim=1536,
    tile_px=224,
    license="Apache-2.0",
    gated=True,
    source="bioptimus/H-optimus-0",
    filename="pytorch_model.bin",
    citation="saillard2024",
    **_BIOPTIMUS,
)
def h_optimus_0() -> nn.Module:
    """Build H-optimus-0: ViT-g/14 with 4 register tokens."""
    return _h_optimus()


@register(
    "h-optimus-1",
    dim=1536,
    tile_px=224,
    license="CC-BY-NC-ND-4.0",
    gated=True,
    source="bioptimus/H-optimus-1",
    filename="pytorch_model.bin",
    citation="bioptimus2025",
    **_BIOPTIMUS,
)
def h_optimus_1() -> nn.Module:
    """Build H-optimus-1: ViT-g/14 with 4 register tokens."""
    return _h_optimus()


@register(
    "h0-mini",
    dim=768,
    tile_px=224,
    license="CC-BY-NC-ND-4.0",
    gated=True,
    source="bioptimus/H0-mini",
    filename="pytorch_model.bin",
    citation="filiot2025",
    remap=_under_trunk,
    **_BIOPTIMUS,
)
def h0_mini() -> nn.Module:
    """Build H0-mini: ViT-B/14 with 4 register tokens; class token."""
    from stpredict.encoders._tokens import ClassAndMean

    trunk = _transformer(
        "vit_base_patch14_reg4_dinov2",
        init_values=1e-5,
        mlp_ratio=2.66667 * 2,
        global_pool="",
        dynamic_img_size=True,
        **_gated_mlp(),
    )
    return ClassAndMean(trunk, with_mean=False)


@register(
    "gigapath",
    dim=1536,
    tile_px=224,
    license="Apache-2.0",
    gated=True,
    source="prov-gigapath/prov-gigapath",
    filename="pytorch_model.bin",
    citation="xu2024",
)
def gigapath() -> nn.Module:
    """Build the tile encoder of Prov-GigaPath: ViT-g/16.

    Its published transform resizes 256 px to 256 px and takes the central 224: at 0.5 µm/px that is the 112 µm used
    here.
    """
    return _transformer(
        "vit_giant_patch14_dinov2",
        patch_size=16,
        embed_dim=1536,
        depth=40,
        num_heads=24,
        mlp_ratio=5.33334,
        init_values=1e-5,
        dynamic_img_size=True,
    )
