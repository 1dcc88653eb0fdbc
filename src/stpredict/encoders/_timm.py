"""Networks of timm by name, also from the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.encoders._encoder import Encoder

if TYPE_CHECKING:
    import torch


def timm_encoder(
    spec: str,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    *,
    tile_px: int | None = None,
    tile_um: float = 112.0,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    name: str | None = None,
    **kwargs: Any,
) -> Encoder:
    """Build an encoder from `"timm:NAME"`, `"timm:hf-hub:OWNER/NAME"` or `"hf-hub:OWNER/NAME"`."""
    from stpredict.core._optional import import_torchvision, optional_import
    from stpredict.core._read_weights import read_weights
    from stpredict.encoders._weights import load_weights

    timm = import_torchvision("timm")
    errors = optional_import("huggingface_hub.errors", "encoders")
    model = spec.removeprefix("timm:")
    on_hub = model.startswith(("hf-hub:", "hf_hub:"))
    address = f"https://huggingface.co/{model.split(':')[-1]}" if on_hub else f"https://huggingface.co/timm/{model}"
    instead = f"download model.safetensors from {address} elsewhere and pass `weights=PATH`"
    if not on_hub and not timm.is_model(model.split(".")[0]):
        near = timm.list_models(f"*{model.split('.')[0][:6]}*")[:5]
        raise ValueError(f"expected the name of a timm network; found {model!r}; similar names are {near}")
    try:
        network = timm.create_model(model, pretrained=weights is None, num_classes=0, **kwargs)
    except errors.GatedRepoError as error:
        raise RuntimeError(
            f"expected access to the gated weights of {spec!r}; found none; accept the terms at {address}, log in with "
            f"`hf auth login`, or {instead}"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled, errors.HfHubHTTPError, OSError) as error:
        raise FileNotFoundError(
            f"expected {spec!r} on the hub or in its cache; found neither ({str(error).splitlines()[0]}); connect, or {instead}"
            + (" together with the plain timm name of the architecture" if on_hub else "")
        ) from error
    config = network.pretrained_cfg
    if weights is not None:
        head = config.get("classifier") or ()
        heads = (head,) if isinstance(head, str) else tuple(head)
        load_weights(network, read_weights(weights), spec, optional=tuple(f"{item}." for item in heads))
    return Encoder(
        network,
        name or model.split(":")[-1].split("/")[-1],
        tile_px or config["input_size"][-1],
        tile_um=tile_um,
        mean=mean or config["mean"],
        std=std or config["std"],
        device=device,
    )
