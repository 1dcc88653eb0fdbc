"""The work behind maps of slides: pool windows of tiles with networks on bags, average over windows, decode genes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._engine import Parcel, run_calls

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stpredict.models.base._bag import BagPredictor
    from stpredict.tl.maps._map_store import MapStore
    from stpredict.tl.maps._windows import Windows

_BLOCK = 256  # windows between checkpoints
_TILES = 4096  # tiles per step where each is treated alone


class Mapper:
    """Maps with the mean over some networks.

    Tokens are computed once per tile and gathered by window. Where a network decodes by an affine map, the mean over
    windows is taken of what it pooled, and genes are decoded once per tile; it is the same by linearity. Otherwise each
    window is decoded, chunk of genes by chunk, and averaged after it.

    Parameters
    ----------
    networks
        Networks on bags that predict the same genes from the same features.
    batch_size
        Windows per step; by default 32 on a CPU and 256 on an accelerator.
    device
        Device of the work.
    progress
        Whether to show a progress bar.
    links
        What turns the outputs (n_tiles, g) of each network into values, after the mean over windows and before that over
        networks; outputs are values when `None`.
    client
        A `dask.distributed.Client`, whose workers take blocks of windows.
    """

    def __init__(
        self,
        networks: Sequence[BagPredictor],
        *,
        batch_size: int | None = None,
        device: str | None = None,
        progress: bool = False,
        links: Sequence[Callable[[np.ndarray], np.ndarray]] | None = None,
        client: Any = None,
    ) -> None:
        from stpredict.core._device import resolve_device
        from stpredict.models.base._bag import BagPredictor

        strangers = [type(network).__name__ for network in networks if not isinstance(network, BagPredictor)]
        if strangers or not networks:
            raise TypeError(f"expected one or more networks on bags; found {', '.join(strangers) or 'none'}")
        sizes = {(network.n_outputs, network.shape.width("tokens")) for network in networks}
        if len(sizes) > 1:
            raise ValueError(f"expected networks with the same genes and features; found {sorted(sizes)}")
        self.networks = list(networks)
        self.device = resolve_device(device)
        self.batch_size = batch_size or (32 if self.device.type == "cpu" else 256)
        self.progress = progress
        self.links = None if links is None else list(links)
        self.client = client

    def run(
        self,
        features: Sequence[np.ndarray],
        windows: Sequence[Windows],
        chunks: Sequence[slice],
        *,
        store: MapStore | None = None,
        std: bool = False,
    ) -> Iterator[tuple[slice, np.ndarray, np.ndarray | None]]:
        """Map some slides.

        Parameters
        ----------
        features, windows
            Features (n_tiles, d) and windows of each slide.
        chunks
            Slices of the genes.
        store
            Store for the pooled values; its finished chunks are left out.
        std
            Whether to return the standard deviation over the networks too.

        Yields
        ------
        Slice of the genes, mean over the networks (n_tiles, g) of all slides one after the other, and the standard
        deviation of the same shape or `None`.
        """
        from tqdm.auto import tqdm

        left = [genes for genes in chunks if store is None or not store.has(genes)]
        n_windows = sum(map(len, windows)) * len(self.networks)
        with _placed(self.networks, self.device):
            staged: list[list[np.ndarray]] = []
            with tqdm(total=n_windows, unit="window", desc="map", disable=not self.progress or not left) as bar:
                for member, network in enumerate(self.networks if left else []):
                    parts = []
                    for number, (values, laid) in enumerate(zip(features, windows, strict=True)):
                        blocks = None if store is None else store.blocks(f"{member}_{number}", len(laid), _BLOCK)
                        parts.append(self._stage(network, values, laid, blocks, bar))
                    staged.append(parts)
            for genes in tqdm(left, unit="chunk", desc="genes", disable=not self.progress):
                yield genes, *self._genes(staged, windows, genes, std)

    def _stage(
        self, network: BagPredictor, features: np.ndarray, windows: Windows, blocks: Any, bar: Any
    ) -> np.ndarray:
        """What a network decodes for each tile: the mean over windows of what it pooled, or the tokens."""
        import torch

        with torch.inference_mode():
            if not network.affine_read_out:
                bar.update(len(windows))
                return self._tokens(network, features)[:-1].cpu().numpy()
            pooled = None
            for start, block in self._pooled(network, features, windows, blocks):
                if pooled is None:
                    pooled = np.empty((len(windows), block.shape[1]), dtype=np.float32)
                pooled[start : start + len(block)] = block
                bar.update(len(block))
            assert pooled is not None  # every slide has a tile, and so a window
            return windows.mean(pooled)

    def _pooled(
        self, network: BagPredictor, features: np.ndarray, windows: Windows, blocks: Any
    ) -> Iterator[tuple[int, np.ndarray]]:
        """Where each block of windows begins, and what a network pools of its windows: those that are there already first."""
        left = []
        for start in range(0, len(windows), _BLOCK):
            block = None if blocks is None else blocks.load(start, min(start + _BLOCK, len(windows)))
            if block is None:
                left.append(start)
            else:
                yield start, block
        if left:
            tokens = self._tokens(network, features)
            for start, block in zip(left, self._of_blocks(network, tokens, windows, left), strict=True):
                if blocks is not None:
                    blocks.save(start, start + len(block), block)
                yield start, block

    def _of_blocks(
        self, network: BagPredictor, tokens: Tensor, windows: Windows, starts: Sequence[int], genes: slice | None = None
    ) -> Iterator[np.ndarray]:
        """What a network says of the windows of each block, here or on the workers, see :func:`_of_block`."""
        own: Any = network if self.client is None else Parcel(network)
        values: Any = tokens if self.client is None else tokens.cpu().numpy()
        how = {"batch_size": self.batch_size, "genes": genes, "device": str(self.device)}
        calls = (
            (_of_block, {"network": own, "tokens": values, "index": windows.index(start, start + _BLOCK), **how})
            for start in starts
        )
        return run_calls(self.client, calls)

    def _tokens(self, network: BagPredictor, features: np.ndarray) -> Tensor:
        """Tokens of the tiles and a last row of zeros for places without one (n_tiles + 1, h)."""
        import torch

        parts = [
            network.tokens(torch.from_numpy(np.ascontiguousarray(features[start : start + _TILES])).to(self.device))
            for start in range(0, len(features), _TILES)
        ]
        return torch.cat([*parts, torch.zeros_like(parts[0][:1])])

    def _genes(
        self, staged: list[list[np.ndarray]], windows: Sequence[Windows], genes: slice, std: bool
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """Mean over the networks for some genes (n_tiles, g), and their standard deviation."""
        mean: Any = 0.0
        squares: Any = 0.0
        for number, (network, parts) in enumerate(zip(self.networks, staged, strict=True)):
            slides = [self._decode(network, part, laid, genes) for part, laid in zip(parts, windows, strict=True)]
            values = slides[0] if len(slides) == 1 else np.concatenate(slides)
            if self.links is not None:
                values = self.links[number](values)
            if len(self.networks) == 1:
                return values, None
            change = values - mean
            mean = mean + change / np.float32(number + 1)
            if std:
                squares = squares + change * (values - mean)
        return mean, np.sqrt(squares / (len(self.networks) - 1)) if std else None

    def _decode(self, network: BagPredictor, staged: np.ndarray, windows: Windows, genes: slice) -> np.ndarray:
        """Map of one slide for some genes (n_tiles, g) float32."""
        import torch

        with torch.inference_mode():
            if network.affine_read_out:
                steps = range(0, len(staged), _TILES)
                tiles = (torch.from_numpy(staged[start : start + _TILES]).to(self.device) for start in steps)
                return _joined([network.read_out(part, None, genes) for part in tiles])
            tokens = torch.from_numpy(staged).to(self.device)
            tokens = torch.cat([tokens, torch.zeros_like(tokens[:1])])
            starts = range(0, len(windows), _BLOCK)
            return windows.mean(np.concatenate(list(self._of_blocks(network, tokens, windows, starts, genes))))


def _of_block(
    network: Any,
    tokens: Any,
    index: np.ndarray,
    batch_size: int,
    genes: slice | None,
    device: str,
) -> np.ndarray:
    """What a network pools of windows, or what it says of some genes, `batch_size` windows at a time.

    Parameters
    ----------
    network
        The network, on its device; or what a worker gets of it.
    tokens
        Those of the tiles (n_tiles + 1, h), zeros last.
    index
        Tiles of each window (b, n_places), -1 where there is none.
    """
    import torch

    if isinstance(network, Parcel):
        network, tokens = network.open().to(device).eval(), torch.from_numpy(tokens).to(device)
    parts = []
    with torch.inference_mode():
        for start in range(0, len(index), batch_size):
            places = torch.from_numpy(index[start : start + batch_size]).to(device)
            mask = places >= 0
            pooled = network.pool(tokens[torch.where(mask, places, len(tokens) - 1).long()], mask)
            parts.append(pooled if genes is None else network.read_out(pooled, mask, genes))
    return _joined(parts)


def _joined(parts: list[Tensor]) -> np.ndarray:
    import torch

    return (parts[0] if len(parts) == 1 else torch.cat(parts)).float().cpu().numpy()


@contextmanager
def _placed(networks: Sequence[BagPredictor], device: torch.device) -> Iterator[None]:
    """Hold networks on a device and in evaluation mode, and put them back after it."""
    before = [(network.target_mean.device, network.training) for network in networks]
    try:
        for network in networks:
            network.to(device).eval()
        yield
    finally:
        for network, (origin, training) in zip(networks, before, strict=True):
            network.to(origin).train(training)
