"""Encode the windows of a slide in chunks, here or on the workers of a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._engine import Parcel, run_calls

if TYPE_CHECKING:
    from stpredict.core._stain import Recoloring
    from stpredict.encoders import Encoder
    from stpredict.io._slide import Windows
    from stpredict.pp._cache import FeatureCache

_CHUNK = 512  # tiles per entry of the cache; an interrupted run loses at most so many
_WINDOW_BYTES = 64 * 2**20  # pixels that are resized at once


def encode_windows(
    reader: Any,
    path: Path,
    windows: Windows,
    encoder: Encoder,
    batch_size: int,
    cache: bool,
    progress: bool | None,
    stain: Recoloring | None,
    left: list[int | None],
    client: Any = None,
) -> np.ndarray:
    """Features (n, dim) of all windows; the numbers of tiles that were not recolored are added to `left`.

    Workers of a client open the slide at the same path, and share the cache of this process.
    """
    from tqdm.auto import tqdm

    from stpredict.core._settings import settings
    from stpredict.io._slide import slide_fingerprint
    from stpredict.pp._cache import FeatureCache

    store = FeatureCache() if cache and encoder.reproducible else None
    slide = slide_fingerprint(path) if store is not None else None
    order = windows.order()
    chunks = [order[start : start + _CHUNK] for start in range(0, len(order), _CHUNK)]
    features = np.empty((len(order), encoder.dim), dtype=np.float32)
    show_progress = settings.progress if progress is None else progress
    with tqdm(total=len(order), unit="tile", desc=encoder.name, disable=not show_progress) as bar:
        how: dict[str, Any] = {"batch_size": batch_size, "slide": slide}
        if client is None:
            own: dict[str, Any] = {"encoder": encoder, "stain": stain, "store": store, "done": bar.update}
            found: Iterator[Any] = (_encode_chunk(reader, windows.take(rows), **own, **how) for rows in chunks)
        else:
            sent = {
                "held": Parcel((encoder, stain)),
                "path": path,
                "directory": None if store is None else store.directory,
            }
            found = run_calls(
                client, ((_encode_there, {"windows": windows.take(rows), **sent, **how}) for rows in chunks)
            )
        for rows, (encoded, not_recolored) in zip(chunks, found, strict=True):
            features[rows] = encoded
            if stain is not None:
                left.append(not_recolored)
            if client is not None:
                bar.update(len(rows))
    return features


def _encode_there(
    path: Path, windows: Windows, held: Parcel, directory: Path | None, batch_size: int, slide: str | None
) -> tuple[np.ndarray, int | None]:
    """A chunk on a worker, which opens the slide for it."""
    from stpredict.io._open_slide import open_reader
    from stpredict.pp._cache import FeatureCache

    encoder, stain = held.open()
    store = None if directory is None else FeatureCache(directory)
    reader = open_reader(path)
    try:
        return _encode_chunk(reader, windows, encoder, stain, store, batch_size, slide, _nothing)
    finally:
        reader.detach_reader()


def _nothing(n: int) -> None:
    """Nobody looks at the progress of a worker."""


def _encode_chunk(
    reader: Any,
    windows: Windows,
    encoder: Encoder,
    stain: Recoloring | None,
    store: FeatureCache | None,
    batch_size: int,
    slide: str | None,
    done: Callable[[int], Any],
) -> tuple[np.ndarray, int | None]:
    """Features (m, dim) of windows, from the cache where it has them, and how many were not recolored where they are."""
    from stpredict.core._validate import check_finite
    from stpredict.pp._cache import cache_key, counting, n_left

    n = len(windows.corner)

    def compute() -> np.ndarray:
        found = _encode(reader, windows, np.arange(n), encoder, batch_size, done, stain)
        check_finite(found, "features of tiles", f"encoder {encoder.name!r} or its weights are broken")
        return found

    if store is None:
        before = 0 if stain is None else stain.n_left
        features = compute()
        return features, None if stain is None else stain.n_left - before
    entry = cache_key(
        {
            "slide": slide,
            "encoder": encoder.fingerprint,
            "corners": windows.corner,
            "side": windows.side,
            "level": windows.level,
            "tile_px": encoder.tile_px,
        }
        | ({} if stain is None else {"stain": stain.digest})
    )
    features, known = store.get_or_compute(entry, (n, encoder.dim), counting(stain, store, entry, compute))
    if known:
        done(n)
    return features, None if stain is None else n_left(store, entry)


def _encode(
    reader: Any,
    windows: Windows,
    rows: np.ndarray,
    encoder: Encoder,
    batch_size: int,
    done: Callable[[int], Any],
    stain: Recoloring | None = None,
) -> np.ndarray:
    """Features (m, dim) of some windows, in their order."""
    import torch

    from stpredict.encoders._resize import resized

    place = np.empty(int(rows.max()) + 1, dtype=np.int64)
    place[rows] = np.arange(len(rows))
    features = np.empty((len(rows), encoder.dim), dtype=np.float32)
    waiting: list[tuple[np.ndarray, torch.Tensor]] = []
    fitting = max(1, min(batch_size, _WINDOW_BYTES // (3 * windows.side**2)))

    def flush() -> None:
        index = np.concatenate([part for part, _ in waiting])
        features[place[index]] = encoder(torch.cat([tiles for _, tiles in waiting])).cpu().numpy()
        waiting.clear()
        done(len(index))

    for index, pixels in _ahead(windows.read(reader, rows)):
        start = 0
        while start < len(index):
            room = min(batch_size - sum(len(part) for part, _ in waiting), fitting)
            part = slice(start, start + room)
            waiting.append((index[part], resized(pixels[part], encoder.tile_px, encoder.device, stain)))
            start += room
            if sum(len(part) for part, _ in waiting) >= batch_size:
                flush()
    if waiting:
        flush()
    return features


def _ahead(blocks: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The same blocks, the next one being read while one is worked on."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, blocks, None)
        while (block := coming.result()) is not None:
            coming = pool.submit(next, blocks, None)
            yield block
