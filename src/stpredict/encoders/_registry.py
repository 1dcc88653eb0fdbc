"""The encoders that exist, by name: who made them, what they need, how to get one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.core._registry import Registry
from stpredict.encoders._encoder import IMAGENET_MEAN, IMAGENET_STD, Encoder

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import Tensor, nn


@dataclass(frozen=True)
class EncoderInfo:
    """Describe an encoder before it is built.

    Attributes
    ----------
    name
        Name for :func:`get_encoder`, and the end of `obsm["X_{name}"]`.
    dim
        Number of features.
    tile_px
        Side of a tile in pixels.
    tile_um
        Default field of view, the side of a tile in µm.
    context
        Fields of view around a spot or cell that are encoded by default, as multiples of `tile_um`.
    mean, std
        Normalization per RGB channel, of values in 0–1.
    um_per_px
        µm per pixel of the tiles, for encoders that measure in µm and are bound to a scale.
    license
        License of the weights.
    gated
        Whether terms must be accepted on the hub before the weights can be downloaded.
    source
        Hugging Face repository of the weights, or where else they come from; empty when there are none.
    filename
        Name of the file to pass as `weights=`; empty when the encoder has no weights.
    citation
        Key in the documentation's bibliography.

    Examples
    --------
    >>> from stpredict.encoders import EncoderInfo
    >>> EncoderInfo("mean-color", dim=3, tile_px=16, license="BSD-3-Clause").tile_um
    112.0
    """

    name: str
    dim: int
    tile_px: int
    tile_um: float = 112.0
    context: tuple[float, ...] = (1.0,)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    um_per_px: float | None = None
    license: str = ""
    gated: bool = False
    source: str = ""
    filename: str = ""
    citation: str = ""

    @property
    def on_hub(self) -> bool:
        """Whether the weights can be downloaded from a Hugging Face repository."""
        return self.source.count("/") == 1 and bool(self.filename)


@dataclass(frozen=True)
class Entry:
    """An encoder and how it is built."""

    info: EncoderInfo
    build: Callable[[], nn.Module]
    remap: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None
    optional: tuple[str, ...]


ENCODERS: Registry[Entry] = Registry("encoder", "stpredict.encoders", "stp.encoders.list_encoders()")


def register(
    name: str,
    *,
    remap: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    optional: tuple[str, ...] = (),
    **info: Any,
) -> Callable[[Callable[[], nn.Module]], Callable[[], nn.Module]]:
    """Register a function that builds an encoder's network, without weights.

    Another package adds encoders by naming the module that registers them in the entry-point group
    `stpredict.encoders`.

    Parameters
    ----------
    name
        Name of the encoder.
    remap
        Function from the tensors of the published weight file, by key, to those of the network.
    optional
        Prefixes of the keys that either the file or the network may lack.
    **info
        Other fields of :class:`EncoderInfo`.

    Returns
    -------
    A decorator that returns the function unchanged.

    Raises
    ------
    ValueError
        When the name is taken.

    Examples
    --------
    >>> import stpredict as stp
    >>> @stp.encoders.register("mean-color", dim=3, tile_px=16, license="BSD-3-Clause")
    ... def mean_color():
    ...     import torch
    ...
    ...     return torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    >>> stp.encoders.get_encoder("mean-color").dim
    3
    """

    def decorate(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        ENCODERS.add(name, Entry(EncoderInfo(name=name, **info), build, remap, optional), build)
        return build

    return decorate


def registered(name: str) -> Entry:
    """Return the registry's entry of an encoder."""
    return ENCODERS.get(name, ", or 'timm:NAME', 'torchvision:NAME' or 'hf-hub:OWNER/NAME'")


def list_encoders(pattern: str = "*") -> pd.DataFrame:
    """List the registered encoders.

    Networks of timm and torchvision are not listed; they are asked for as `"timm:NAME"` and `"torchvision:NAME"`.

    Parameters
    ----------
    pattern
        Names to list, with the wildcards `*` and `?`.

    Returns
    -------
    One row per encoder, indexed by name, with the fields of :class:`EncoderInfo` as columns.

    Examples
    --------
    >>> import stpredict as stp
    >>> int(stp.encoders.list_encoders().loc["uni2-h", "dim"])
    1536
    """
    import pandas as pd

    from stpredict.core._table import compact

    infos = [asdict(ENCODERS.get(name).info) for name in ENCODERS if fnmatchcase(name, pattern)]
    columns = [field.name for field in fields(EncoderInfo)]
    table = pd.DataFrame(infos, columns=columns).set_index("name")
    return compact(table, ["dim", "tile_px", "tile_um", "gated", "license"])


def get_encoder(
    encoder: str | Encoder | Callable[[Tensor], Tensor],
    weights: str | Path | None = None,
    device: str | torch.device | None = None,
    **kwargs: Any,
) -> Encoder:
    """Build an encoder from its name, a network, or a function.

    Parameters
    ----------
    encoder
        Name of an encoder of :func:`list_encoders`; `"timm:NAME"`, `"hf-hub:OWNER/NAME"` or `"torchvision:NAME"` for
        any network of these; an `nn.Module` or callable that turns normalized float tiles (b, 3, tile_px, tile_px) into
        features (b, dim); or an :class:`Encoder`, which is returned as it is.
    weights
        Weight file (safetensors, or a torch file of tensors); the published weights, which are downloaded, when `None`.
    device
        Device to run on; `settings.device` when `None`.
    **kwargs
        Arguments `tile_px`, `tile_um`, `mean`, `std` and `name` of the :class:`Encoder`. A module or callable needs
        `tile_px` and gets ImageNet normalization unless `mean` and `std` are given. A registered encoder takes only
        `tile_um` and `name`. Other arguments go to the constructor of a timm or torchvision network.

    Returns
    -------
    Encoder from uint8 tiles (b, 3, tile_px, tile_px) to float32 features (b, dim).

    Raises
    ------
    KeyError
        When the name is not known.
    ValueError
        When the weights are damaged or belong to another network.
    FileNotFoundError
        When weights are needed and neither given nor reachable; the message names repository and file.
    RuntimeError
        When the weights are gated.
    TypeError
        When `encoder` is neither a name, a module nor a function, or a registered encoder gets other arguments.
    ImportError
        When a package that the encoder needs is not installed (extra `encoders`).

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.encoders.get_encoder("color-texture", device="cpu")
    Encoder('color-texture', dim=153, tile_px=112, tile_um=112)
    """
    if isinstance(encoder, Encoder):
        return encoder
    if not isinstance(encoder, str):
        return _from_callable(encoder, weights, device, kwargs)
    if encoder.startswith(("timm:", "hf-hub:", "hf_hub:")):
        from stpredict.encoders._timm import timm_encoder

        return timm_encoder(encoder, weights, device, **kwargs)
    if encoder.startswith("torchvision:"):
        from stpredict.encoders._torchvision import torchvision_encoder

        return torchvision_encoder(encoder, weights, device, **kwargs)
    return _from_registry(encoder, weights, device, kwargs)


def _from_callable(
    network: Callable[[Tensor], Tensor], weights: str | Path | None, device: Any, kwargs: dict[str, Any]
) -> Encoder:
    if not callable(network):
        raise TypeError(f"expected an encoder name, a module or a function; found {type(network).__name__}")
    if weights is not None:
        raise ValueError("expected no `weights=` with a network of your own; load them into it before")
    if kwargs.get("tile_px") is None:
        raise ValueError("expected `tile_px=` (side of a tile in pixels) with a network of your own; found none")
    name = kwargs.pop("name", None) or getattr(network, "__name__", type(network).__name__)
    return Encoder(network, name, device=device, **kwargs)


def _from_registry(name: str, weights: str | Path | None, device: Any, kwargs: dict[str, Any]) -> Encoder:
    from stpredict.core._read_weights import read_weights
    from stpredict.encoders._weights import download_weights, load_weights

    entry = registered(name)
    info = entry.info
    allowed = {"tile_um", "name"}
    if set(kwargs) - allowed:
        raise TypeError(f"expected only {sorted(allowed)} for encoder {name!r}; found {sorted(set(kwargs) - allowed)}")
    state = None
    if info.filename:
        if weights is None and not info.on_hub:
            raise FileNotFoundError(
                f"expected the weights of encoder {name!r}; found none, and they are on no hub; download {info.filename} "
                f"from {info.source} and pass `weights=PATH`"
            )
        state = read_weights(weights if weights is not None else download_weights(info.source, info.filename, name))
    elif weights is not None:
        raise ValueError(f"expected no weights for encoder {name!r}, which has none; found {str(weights)!r}")
    network = entry.build()
    if state is not None:
        load_weights(network, state, name, remap=entry.remap, optional=entry.optional)
    return Encoder(
        network,
        kwargs.get("name") or info.name,
        info.tile_px,
        tile_um=kwargs.get("tile_um") or info.tile_um,
        context=info.context,
        dim=info.dim,
        mean=info.mean,
        std=info.std,
        um_per_px=info.um_per_px,
        device=device,
    )
