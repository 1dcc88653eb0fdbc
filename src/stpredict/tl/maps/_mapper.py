"""The work behind maps of slides: pool windows of tiles with networks on bags, average over windows, decode genes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

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
    """

    def __init__(
        self,
        networks: Sequence[BagPredictor],
        *,
        batch_size: int | None = None,
        device: str | None = None,
        progress: bool = False,
        links: Sequence[Callable[[np.ndarray], np.ndarray]] | None = None,
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
            tokens, pooled = None, None
            for start in range(0, len(windows), _BLOCK):
                stop = min(start + _BLOCK, len(windows))
                block = None if blocks is None else blocks.load(start, stop)
                if block is None:
                    tokens = self._tokens(network, features) if tokens is None else tokens
                    parts = [network.pool(*batch) for batch in self._batches(tokens, windows, start, stop)]
                    block = torch.cat(parts).float().cpu().numpy()
                    if blocks is not None:
                        blocks.save(start, stop, block)
                if pooled is None:
                    pooled = np.empty((len(windows), block.shape[1]), dtype=np.float32)
                pooled[start:stop] = block
                bar.update(stop - start)
            assert pooled is not None  # every slide has a tile, and so a window
            return windows.mean(pooled)

    def _tokens(self, network: BagPredictor, features: np.ndarray) -> Tensor:
        """Tokens of the tiles and a last row of zeros for places without one (n_tiles + 1, h)."""
        import torch

        parts = [
            network.tokens(torch.from_numpy(np.ascontiguousarray(features[start : start + _TILES])).to(self.device))
            for start in range(0, len(features), _TILES)
        ]
        return torch.cat([*parts, torch.zeros_like(parts[0][:1])])

    def _batches(self, tokens: Tensor, windows: Windows, start: int, stop: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Tokens (b, n_places, h) and mask (b, n_places) of some windows."""
        import torch

        for first in range(start, stop, self.batch_size):
            index = torch.from_numpy(windows.index(first, min(first + self.batch_size, stop))).to(self.device)
            mask = index >= 0
            yield tokens[torch.where(mask, index, len(tokens) - 1).long()], mask

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
            batches = self._batches(tokens, windows, 0, len(windows))
            return windows.mean(_joined([network.read_out(network.pool(*batch), batch[1], genes) for batch in batches]))


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
