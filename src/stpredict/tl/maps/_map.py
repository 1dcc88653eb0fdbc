"""Maps of slides with networks on bags: every window of tiles is a bag, every tile the mean over its windows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial as partial_of
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_finite
from stpredict.slots._checks import check_obs, check_obsm
from stpredict.slots._features import feature_matrix
from stpredict.slots._keys import Key
from stpredict.slots._matrix import single_precision
from stpredict.tl.maps._mapper import Mapper
from stpredict.tl.maps._windows import Windows, lay_windows

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.models.base._bag import BagPredictor
    from stpredict.training import FittedModel
    from stpredict.training.targets import Target

_CHUNK = 2**22  # values of a chunk of genes: 16 MB
_LEAST = 64  # genes of a chunk, however many tiles


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
        Layout of the windows, see :func:`stpredict.tl.maps._windows.lay_windows`.
    batch_size
        Windows per step; it changes memory and speed, not the result.
    gene_chunk
        Genes per chunk.
    device
        Device of the work; `settings.device` when `None`.
    progress
        Whether to show a progress bar.

    Returns
    -------
    The windows, and an iterator over slices of the genes and the map (n_tiles, g) float32 of each.
    """
    networks = list(network) if isinstance(network, Sequence) else [network]
    mapper = Mapper(networks, batch_size=batch_size, device=device, progress=progress)
    windows = lay_windows(row, col, window=window, stride=stride, min_tiles=min_tiles)
    features = _check_features(features, networks[0], len(windows.n_windows))
    chunks = gene_chunks(networks[0].n_outputs, len(features), gene_chunk)
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
    record: Mapping[str, Any] | None = None,
    marks: Any = None,
    client: Any = None,
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
        Layout of the windows, see :func:`stpredict.tl.maps._windows.lay_windows`.
    batch_size
        Windows per step.
    store
        Write the map to an AnnData in Zarr at this path instead of returning it. An interrupted call leaves
        `"{store}.partial"`; the same call goes on from there. A finished map of the same call is left as it is.
    gene_chunk
        Genes per step, and per chunk of the store.
    std
        Whether to write the standard deviation over the models to `layers["std"]` of the store.
    device
        Device of the work; `settings.device` when `None`.
    progress
        Whether to show a progress bar.
    sample_key
        Column of `obs` that names the slide.
    key_added
        Name of the prediction, for the columns of `obs` in the store.
    record
        What the store says of the target (kind, unit, link), and of whom the models have seen.
    marks
        Column of `obs` for the store that marks whom they have seen.
    client
        A `dask.distributed.Client`, whose workers take blocks of windows.

    Returns
    -------
    The map, in the unit of users, as a DataFrame (n_tiles, n_genes) or the path of the store, the number of windows behind each tile
    (n_tiles,), and whether only windows with fewer than `min_tiles` tiles cover it (n_tiles,).

    Raises
    ------
    KeyError
        When features, lattice positions or slide names are missing.
    ValueError
        When features do not fit the models, or tiles share a place.
    FileExistsError
        When there is something else at the path of the store.
    OSError
        When the store cannot be written; the same call goes on with what is written.
    """
    import pandas as pd

    from stpredict.tl.maps._map_store import MapStore

    networks: list[Any] = [model.network for model in fitted]
    panel = list(fitted[0].panel)
    if std and (store is None or len(networks) < 2):
        raise ValueError("expected `std=True` with several models and a store; found one model or no store")
    targets = [model.target for model in fitted]
    links = [partial_of(part.target.link, facts=part.training) for part in fitted] if targets[0].quantities else None
    mapper = Mapper(networks, batch_size=batch_size, device=device, progress=progress, links=links, client=client)
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
    layout = [lay_windows(row[slide_rows], col[slide_rows], **options) for slide_rows in rows]
    n_windows, partial = np.empty(adata.n_obs, dtype=np.int64), np.empty(adata.n_obs, dtype=bool)
    for slide_rows, windows in zip(rows, layout, strict=True):
        n_windows[slide_rows], partial[slide_rows] = windows.n_windows, windows.partial_tiles
    slides = [features if len(slide_rows) == len(features) else features[slide_rows] for slide_rows in rows]
    chunks = gene_chunks(len(panel), max(adata.n_obs, *map(len, layout)), gene_chunk)
    if targets[0].quantities and not targets[0].separate:
        chunks = [slice(0, len(panel))]
    order = np.argsort(np.concatenate(rows), kind="stable") if len(rows) > 1 else slice(None)

    if store is None:
        whole = np.empty((adata.n_obs, len(panel)), dtype=np.float32)
        for genes, mean, _ in mapper.run(slides, layout, chunks):
            whole[:, genes] = mean[order]
        return pd.DataFrame(whole, index=adata.obs_names, columns=panel), n_windows, partial

    columns = {Key.n_windows(key_added): n_windows, Key.partial(key_added): partial}
    if marks is not None:
        columns[Key.leaky(key_added)] = marks
    digest = _digest(networks, slides, layout, panel, [str(name) for name in adata.obs_names], chunks, std, targets)
    with MapStore.open(store, digest, adata, panel, chunks, columns, std=std, record=record) as target:
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


def _check_features(values: Any, network: BagPredictor, n_tiles: int, key: str | None = None) -> np.ndarray:
    """Features (n_tiles, d) float32 that fit a network."""
    name = "features" if key is None else f"features {key!r}"
    features = np.ascontiguousarray(single_precision(values, name))
    if features.shape != (n_tiles, network.shape.width("tokens")):
        raise ValueError(
            f"expected {name} of shape ({n_tiles}, {network.shape.width('tokens')}), one row per tile in the width that the model "
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
    targets: Sequence[Target],
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
    for target in targets:
        if target.kind != "expression":  # the map of which is what the network gives
            add(json.dumps(target.to_dict(), sort_keys=True, default=str))
    return digest.hexdigest()
