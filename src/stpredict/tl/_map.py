"""Maps of slides with networks on bags: every window of tiles is a bag, every tile the mean over its windows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict._keys import Key
from stpredict._slots import feature_matrix
from stpredict._validate import check_finite, check_obs, check_obsm
from stpredict.tl._windows import Windows, lay_windows

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from anndata import AnnData
    from torch import Tensor

    from stpredict.models._bag import BagPredictor
    from stpredict.tl._map_store import MapStore
    from stpredict.training import FittedModel

_CHUNK = 2**22  # values of a chunk of genes: 16 MB
_LEAST = 64  # genes of a chunk, however many tiles
_BLOCK = 256  # windows between checkpoints
_TILES = 4096  # tiles per step where each is treated alone


def predict_map(
    network: BagPredictor | Sequence[BagPredictor],
    features: np.ndarray,
    row: np.ndarray,
    col: np.ndarray,
    *,
    window: int = 10,
    stride: int = 1,
    min_tiles: int | None = None,
    batch_size: int | None = None,
    gene_chunk: int | None = None,
    device: str | None = None,
    progress: bool = False,
) -> tuple[Windows, Iterator[tuple[slice, np.ndarray]]]:
    """Predict a map of one slide, gene chunk by gene chunk.

    Parameters
    ----------
    network
        Network on bags; the mean over several.
    features
        Image features of the tiles (n_tiles, d).
    row, col
        Positions of the tiles on their lattice (n_tiles,).
    window, stride, min_tiles
        Layout of the windows, see :func:`stpredict.tl._windows.lay_windows`.
    batch_size
        Windows per step; it changes memory and speed, not the result.
    gene_chunk
        Genes per chunk.
    device
        Device of the work; `settings.device` when `None`.
    progress
        Show a progress bar.

    Returns
    -------
    The windows, and an iterator over slices of the genes and the map (n_tiles, g) float32 of each.
    """
    networks = list(network) if isinstance(network, Sequence) else [network]
    mapper = Mapper(networks, batch_size=batch_size, device=device, progress=progress)
    windows = lay_windows(row, col, window=window, stride=stride, min_tiles=min_tiles)
    features = _check_features(features, networks[0], len(windows.n_windows))
    chunks = gene_chunks(networks[0].n_genes, len(features), gene_chunk)
    return windows, ((genes, mean) for genes, mean, _ in mapper.run([features], [windows], chunks))


def map_table(
    adata: AnnData,
    fitted: Sequence[FittedModel],
    key: str,
    *,
    window: int = 10,
    stride: int = 1,
    min_tiles: int | None = None,
    batch_size: int | None = None,
    store: str | Path | None = None,
    gene_chunk: int | None = None,
    std: bool = False,
    device: str | None = None,
    progress: bool = False,
    sample_key: str = Key.SAMPLE,
    key_added: str = Key.PREDICTED,
) -> tuple[pd.DataFrame | Path, np.ndarray, np.ndarray]:
    """Predict the maps of all slides of a tile table with the mean over some models.

    Parameters
    ----------
    adata
        Tiles with `obs["array_row"]`, `obs["array_col"]` and their features; each slide of `obs[sample_key]` is mapped
        on its own.
    fitted
        Models with the same panel.
    key
        Slot of the features.
    window, stride, min_tiles
        Layout of the windows, see :func:`stpredict.tl._windows.lay_windows`.
    batch_size
        Windows per step.
    store
        Write the map to an AnnData in Zarr at this path instead of returning it. An interrupted call leaves
        `"{store}.partial"`; the same call goes on from there. A finished map of the same call is left as it is.
    gene_chunk
        Genes per step, and per chunk of the store.
    std
        Also write the standard deviation over the models to `layers["std"]` of the store.
    device
        Device of the work; `settings.device` when `None`.
    progress
        Show a progress bar.
    sample_key
        Column of `obs` that names the slide.
    key_added
        Name of the prediction, for the columns of `obs` in the store.

    Returns
    -------
    The map as a DataFrame (n_tiles, n_genes) or the path of the store, the number of windows behind each tile
    (n_tiles,), and whether only windows with fewer than `min_tiles` tiles cover it (n_tiles,).

    Raises
    ------
    KeyError
        When features, lattice positions or slide names are missing.
    ValueError
        When features do not fit the models, or tiles share a place.
    FileExistsError
        When there is something else at the path of the store.
    """
    import pandas as pd

    from stpredict.tl._map_store import MapStore

    networks: list[Any] = [model.network for model in fitted]
    panel = list(fitted[0].panel)
    if std and (store is None or len(networks) < 2):
        raise ValueError("expected `std=True` with several models and a store; found one model or no store")
    mapper = Mapper(networks, batch_size=batch_size, device=device, progress=progress)
    call = "run stp.pp.tiles(slide) and stp.pp.image_features(slide), which write it"
    for name in (sample_key, Key.ARRAY_ROW, Key.ARRAY_COL):
        check_obs(adata, name, call)
    if adata.n_obs == 0:
        raise ValueError("expected at least one tile; found none")
    values = feature_matrix(adata, key)
    if values is None:
        check_obsm(adata, key, f"run stp.pp.image_features(slide, encoder={key.removeprefix('X_')!r})")
    features = _check_features(values, networks[0], adata.n_obs, key)
    number, names = pd.factorize(adata.obs[sample_key].astype(str))
    rows = [np.flatnonzero(number == i) for i in range(len(names))]
    row, col = adata.obs[Key.ARRAY_ROW].to_numpy(), adata.obs[Key.ARRAY_COL].to_numpy()
    options: dict[str, Any] = {"window": window, "stride": stride, "min_tiles": min_tiles}
    layout = [lay_windows(row[here], col[here], **options) for here in rows]
    n_windows, partial = np.empty(adata.n_obs, dtype=np.int64), np.empty(adata.n_obs, dtype=bool)
    for here, windows in zip(rows, layout, strict=True):
        n_windows[here], partial[here] = windows.n_windows, windows.partial_tiles
    slides = [features if len(here) == len(features) else features[here] for here in rows]
    chunks = gene_chunks(len(panel), max(adata.n_obs, *map(len, layout)), gene_chunk)
    order = np.argsort(np.concatenate(rows), kind="stable") if len(rows) > 1 else slice(None)

    if store is None:
        whole = np.empty((adata.n_obs, len(panel)), dtype=np.float32)
        for genes, mean, _ in mapper.run(slides, layout, chunks):
            whole[:, genes] = mean[order]
        return pd.DataFrame(whole, index=adata.obs_names, columns=panel), n_windows, partial

    counts = {f"{key_added}_n_windows": n_windows, f"{key_added}_partial": partial}
    digest = _digest(networks, slides, layout, panel, [str(name) for name in adata.obs_names], chunks, std)
    target = MapStore.open(store, digest, adata, panel, chunks, counts, std=std)
    if not target.complete:
        for genes, mean, spread in mapper.run(slides, layout, chunks, store=target, std=std):
            target.write(genes, mean[order], None if spread is None else spread[order])
        target.finish()
    return target.path, n_windows, partial


def gene_chunks(n_genes: int, n_rows: int, gene_chunk: int | None = None) -> list[slice]:
    """Slices of the genes, such that a slice of a map takes about 16 MB."""
    width = max(_LEAST, _CHUNK // max(1, n_rows)) if gene_chunk is None else gene_chunk
    if isinstance(width, bool) or not isinstance(width, int | np.integer) or width < 1:
        raise ValueError(f"expected gene_chunk to be a positive whole number; found {gene_chunk!r}")
    return [slice(start, min(start + width, n_genes)) for start in range(0, n_genes, width)]


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
        Show a progress bar.
    """

    def __init__(
        self,
        networks: Sequence[BagPredictor],
        *,
        batch_size: int | None = None,
        device: str | None = None,
        progress: bool = False,
    ) -> None:
        from stpredict._device import resolve_device
        from stpredict.models._bag import BagPredictor

        strangers = [type(network).__name__ for network in networks if not isinstance(network, BagPredictor)]
        if strangers or not networks:
            raise TypeError(f"expected one or more networks on bags; found {', '.join(strangers) or 'none'}")
        sizes = {(network.n_genes, network.n_features) for network in networks}
        if len(sizes) > 1:
            raise ValueError(f"expected networks with the same genes and features; found {sorted(sizes)}")
        self.networks = list(networks)
        self.device = resolve_device(device)
        self.batch_size = batch_size or (32 if self.device.type == "cpu" else 256)
        self.progress = progress

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
            Where to keep what was pooled; its finished chunks are left out.
        std
            Also give the standard deviation over the networks.

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
            if not network.affine_decode:
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
            if network.affine_decode:
                steps = range(0, len(staged), _TILES)
                tiles = (torch.from_numpy(staged[start : start + _TILES]).to(self.device) for start in steps)
                return _joined([network.decode(part, None, genes) for part in tiles])
            tokens = torch.from_numpy(staged).to(self.device)
            tokens = torch.cat([tokens, torch.zeros_like(tokens[:1])])
            batches = self._batches(tokens, windows, 0, len(windows))
            return windows.mean(_joined([network.decode(network.pool(*batch), batch[1], genes) for batch in batches]))


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


def _check_features(values: Any, network: BagPredictor, n_tiles: int, key: str | None = None) -> np.ndarray:
    """Features (n_tiles, d) float32 that fit a network."""
    name = "features" if key is None else f"features {key!r}"
    features = values.toarray() if hasattr(values, "toarray") else values
    features = np.ascontiguousarray(features, dtype=np.float32)
    if features.shape != (n_tiles, network.n_features):
        raise ValueError(
            f"expected {name} of shape ({n_tiles}, {network.n_features}), one row per tile in the width that the model "
            f"was trained on; found {features.shape}; take the encoder of the training"
        )
    check_finite(features, name, "run stp.pp.image_features again")
    return features


def _digest(
    networks: Sequence[BagPredictor],
    features: Sequence[np.ndarray],
    windows: Sequence[Windows],
    panel: Sequence[str],
    names: Sequence[str],
    chunks: Sequence[slice],
    std: bool,
) -> str:
    """Digest of everything that a map depends on, and of the chunks it is stored in."""
    digest = hashlib.sha256(b"stpredict-map-1")

    def add(what: str, array: np.ndarray | None = None) -> None:
        digest.update(f"{len(what)}:{what}".encode())
        if array is not None:
            array = np.ascontiguousarray(array)
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(array.reshape(-1).view(np.uint8).data)

    for network in networks:
        config = asdict(network.config) if hasattr(network.config, "__dataclass_fields__") else repr(network.config)
        add(json.dumps([type(network).__name__, config], default=str))
        for name, tensor in network.state_dict().items():
            add(name, tensor.detach().cpu().numpy())
    for values, laid in zip(features, windows, strict=True):
        add("features", values)
        add("grid", laid.grid)
        add("origins", laid.origins)
        add("partial", laid.partial)
    add(json.dumps([list(panel), list(names), [[genes.start, genes.stop] for genes in chunks], std]))
    return digest.hexdigest()
