"""A network with everything needed to feed it tiles and to recognize it again."""

from __future__ import annotations

import copy
import hashlib
import inspect
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_LIBRARIES = ("torch", "torchvision", "timm")


def network_digest(network: Callable[..., Any]) -> str:
    """SHA-256 of a network: its layers, its own source code, and the content of every parameter and buffer."""
    import torch

    digest = hashlib.sha256()
    modules = list(network.modules()) if isinstance(network, torch.nn.Module) else []
    for kind in sorted({type(module) for module in modules}, key=lambda kind: f"{kind.__module__}.{kind.__qualname__}"):
        digest.update(f"{kind.__module__}.{kind.__qualname__}".encode())
        if kind.__module__.split(".")[0] not in _LIBRARIES:
            try:
                digest.update(inspect.getsource(kind).encode())
            except (OSError, TypeError):  # defined interactively: the name and the layers remain
                continue
    if not isinstance(network, torch.nn.Module):
        return hashlib.sha256(f"{getattr(network, '__module__', '')}.{network!r}".encode()).hexdigest()
    digest.update(repr(network).encode())
    for name, value in sorted(network.state_dict().items()):
        flat = value.detach().to("cpu").contiguous().flatten()
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(memoryview(flat.view(torch.uint8).numpy()))
    return digest.hexdigest()


class Encoder:
    """Turn image tiles into feature vectors.

    Parameters
    ----------
    network
        Network or function from normalized float tiles (b, 3, tile_px, tile_px) to features (b, dim).
    name
        Name used in slots and provenance.
    tile_px
        Side of a tile in pixels, as the network expects it.
    tile_um
        Default field of view: side of a tile in µm.
    context
        Default fields of view around a spot or cell, as multiples of `tile_um`.
    dim
        Number of features; found by a trial run when `None`.
    mean, std
        Mean and standard deviation per RGB channel (values in 0–1) for the normalization of the tiles.
    um_per_px
        Scale that the network is bound to, because it measures in µm. Tiles of another field of view have more or fewer
        pixels then. When `None`, tiles of any field of view are resized to `tile_px`.
    device
        Device to run on; `settings.device` when `None`.

    Attributes
    ----------
    fingerprint
        Digest of the name, the transform, and the content of the network. Part of the cache key and of provenance.
    reproducible
        Whether the fingerprint covers all that features depend on. False for a callable that is no `nn.Module`, whose
        features are therefore not cached.

    Raises
    ------
    ValueError
        When `tile_px` or `tile_um` is not positive, `mean` or `std` does not have three values, or, with `dim=None`,
        the network does not return one feature vector per tile.

    Examples
    --------
    >>> import torch
    >>> import stpredict as stp
    >>> encoder = stp.encoders.get_encoder("color-texture", device="cpu")
    >>> encoder(torch.zeros(2, 3, 112, 112, dtype=torch.uint8)).shape
    torch.Size([2, 153])
    """

    def __init__(
        self,
        network: Callable[[Tensor], Tensor],
        name: str,
        tile_px: int,
        *,
        tile_um: float = 112.0,
        context: Sequence[float] = (1.0,),
        dim: int | None = None,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        um_per_px: float | None = None,
        device: str | torch.device | None = None,
    ) -> None:
        import torch

        from stpredict.core._device import resolve_device
        from stpredict.core._validate import check_positive

        if isinstance(tile_px, bool) or int(tile_px) != tile_px or tile_px <= 0:
            raise ValueError(f"expected tile_px to be a positive whole number; found {tile_px!r}")
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ValueError(f"expected three means and three positive standard deviations; found {mean} and {std}")
        self.name = name
        self.tile_px = int(tile_px)
        self.tile_um = check_positive(tile_um, "tile_um")
        self.context = tuple(float(scale) for scale in context)
        self.um_per_px = um_per_px
        self.mean = tuple(float(value) for value in mean)
        self.std = tuple(float(value) for value in std)
        self.device = resolve_device(device)
        self.reproducible = isinstance(network, torch.nn.Module)
        transform = f"{name} {self.tile_px} {self.mean} {self.std}"
        self.fingerprint = hashlib.sha256(f"{transform} {network_digest(network)}".encode()).hexdigest()
        if isinstance(network, torch.nn.Module):
            network = network.to(self.device).eval()
        self.network = network
        self._mean = torch.tensor(self.mean, device=self.device)[:, None, None]
        self._std = torch.tensor(self.std, device=self.device)[:, None, None]
        self.dim = 0
        if dim is None:
            trial = torch.zeros(2, 3, self.tile_px, self.tile_px, dtype=torch.uint8)
            self.dim = int(self._run(trial).shape[1])
        else:
            self.dim = dim

    def for_side(self, side_um: float) -> Encoder:
        """Return the encoder for tiles of a field of view: itself, or one with other `tile_px` where its scale is fixed.

        Parameters
        ----------
        side_um
            Side of a tile in µm.

        Examples
        --------
        >>> import stpredict as stp
        >>> stp.encoders.get_encoder("nuclei").for_side(56)
        Encoder('nuclei', dim=38, tile_px=112, tile_um=112)
        """
        if self.um_per_px is None:
            return self
        changed = copy.copy(self)
        changed.tile_px = max(1, round(side_um / self.um_per_px))
        return changed

    def __repr__(self) -> str:
        return f"Encoder({self.name!r}, dim={self.dim}, tile_px={self.tile_px}, tile_um={self.tile_um:g})"

    def __call__(self, tiles: Tensor) -> Tensor:
        """Encode tiles.

        Parameters
        ----------
        tiles
            uint8 (b, 3, tile_px, tile_px), RGB.

        Returns
        -------
        float32 (b, dim), on the device of the encoder.

        Raises
        ------
        TypeError
            When the tiles are not uint8.
        ValueError
            When tiles or features have another shape than agreed.
        """
        import torch

        if tiles.dtype != torch.uint8:
            raise TypeError(f"expected uint8 tiles; found {tiles.dtype}; the encoder scales and normalizes itself")
        expected = (3, self.tile_px, self.tile_px)
        if tiles.ndim != 4 or tuple(tiles.shape[1:]) != expected:
            raise ValueError(
                f"expected tiles of shape (b, {', '.join(map(str, expected))}); found {tuple(tiles.shape)}"
            )
        if len(tiles) == 0:
            return torch.zeros(0, self.dim, device=self.device)
        features = self._run(tiles)
        if features.shape[1] != self.dim:
            raise ValueError(f"expected {self.dim} features from encoder {self.name!r}; found {features.shape[1]}")
        return features

    @property
    def has_tokens(self) -> bool:
        """Whether the network has tokens or maps of its own inside a tile, see :meth:`tokens`."""
        from stpredict.encoders._token_map import token_function

        return token_function(self.network) is not None

    def tokens(self, tiles: Tensor) -> Tensor:
        """Encode the parts of tiles: the tokens of a transformer, or the last maps of a convolutional network.

        Parameters
        ----------
        tiles
            uint8 (b, 3, tile_px, tile_px), RGB.

        Returns
        -------
        float32 (b, d, rows, columns), on the device of the encoder; `d` need not be `dim`.

        Raises
        ------
        TypeError
            When the network has none: it is neither a transformer nor a convolutional network of timm or torchvision, and
            has no method `tokens`.
        ValueError
            When it returns another shape.
        """
        import torch

        from stpredict.encoders._token_map import token_function

        function = token_function(self.network)
        if function is None:
            raise TypeError(
                f"expected an encoder with tokens; found {self.name!r}, which gives one vector a tile; encode a tile around "
                "every place"
            )
        with torch.inference_mode():
            found = function(self._normalized(tiles))
        if not isinstance(found, torch.Tensor) or found.ndim != 4 or len(found) != len(tiles):
            shape = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
            raise ValueError(
                f"expected tokens ({len(tiles)}, d, rows, columns) of encoder {self.name!r}; found {shape}"
            )
        return found.float()

    @cached_property
    def _called(self) -> Callable[[Tensor], Tensor]:
        """The network, made quicker where that is possible; made when it is first needed."""
        from torch import nn

        from stpredict.encoders._quick import Quick

        return Quick(self.network, self.tile_px) if isinstance(self.network, nn.Module) else self.network

    def _normalized(self, tiles: Tensor) -> Tensor:
        """Tiles of 0–255 as the network wants them."""
        return tiles.to(self.device, non_blocking=True).float().div_(255).sub_(self._mean).div_(self._std)

    def _run(self, tiles: Tensor) -> Tensor:
        import torch

        with torch.inference_mode():
            features = self._called(self._normalized(tiles))
        if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != len(tiles):
            found = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
            raise ValueError(
                f"expected encoder {self.name!r} to return one feature vector per tile, ({len(tiles)}, dim); found "
                f"{found}; pool what it returns first"
            )
        return features.float()
