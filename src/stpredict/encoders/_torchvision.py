"""Networks of torchvision by name."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.encoders._encoder import Encoder

if TYPE_CHECKING:
    import torch
    from torch import nn


def headless(name: str, **kwargs: Any) -> tuple[nn.Module, str, int]:
    """Return a torchvision classification network without its last linear layer, the layer's name, and the dimension."""
    from torch import nn

    from stpredict.core._optional import import_torchvision

    models = import_torchvision("torchvision.models")
    try:
        network = models.get_model(name, weights=None, **kwargs)
    except ValueError as error:
        raise ValueError(
            f"expected the name of a torchvision network; found {name!r}; see torchvision.models.list_models()"
        ) from error
    linear = [(path, module) for path, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"expected a classification network; found {name!r}, which ends in no linear layer")
    path, last = linear[-1]
    parent, _, child = path.rpartition(".")
    setattr(network.get_submodule(parent), child, nn.Identity())
    return network, path, last.in_features


def torchvision_encoder(
    spec: str,
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    *,
    tile_px: int = 224,
    tile_um: float = 112.0,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    name: str | None = None,
    **kwargs: Any,
) -> Encoder:
    """Build an encoder from `"torchvision:NAME"`."""
    from stpredict.core._optional import import_torchvision
    from stpredict.core._read_weights import read_weights
    from stpredict.encoders._encoder import IMAGENET_MEAN, IMAGENET_STD
    from stpredict.encoders._weights import load_weights

    model = spec.removeprefix("torchvision:")
    network, head, dim = headless(model, **kwargs)
    if weights is None:
        from urllib.error import URLError

        models = import_torchvision("torchvision.models")
        published = models.get_model_weights(model).DEFAULT
        try:
            state = published.get_state_dict(progress=False, check_hash=True)
        except (URLError, OSError, RuntimeError) as error:
            raise FileNotFoundError(
                f"expected the weights of {spec!r}; found no way to download {published.url}; download it elsewhere and "
                "pass `weights=PATH`"
            ) from error
    else:
        state = read_weights(weights)
    load_weights(network, state, spec, optional=(f"{head}.",))
    return Encoder(
        network,
        name or model,
        tile_px,
        tile_um=tile_um,
        dim=dim,
        mean=mean or IMAGENET_MEAN,
        std=std or IMAGENET_STD,
        device=device,
    )
