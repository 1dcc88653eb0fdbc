"""Encode the tiles around the observations of sections: here, or on the workers of a client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._engine import connected, on_workers
from stpredict.encoders._resize import resized
from stpredict.pp._windows import Section, windows_around
from stpredict.slots._keys import Key, escaped
from stpredict.slots._provenance import read_record
from stpredict.slots._stain import STAIN

if TYPE_CHECKING:
    import torch

    from stpredict.encoders import Encoder
    from stpredict.io._image import SectionImage
    from stpredict.pp._cache import FeatureCache
    from stpredict.slots._container import Container


def encode_sections(
    sections: list[Section],
    encoder: Encoder,
    tile_um: float,
    scales: tuple[float, ...],
    batch_size: int,
    cache: bool,
    progress: bool | None,
    client: Any,
) -> tuple[np.ndarray, dict[str, int | None]]:
    """Features of all sections, and how many tiles of each were not recolored where tiles are."""
    from tqdm.auto import tqdm

    from stpredict.core._settings import settings

    total = sum(len(section.rows) for section in sections)
    features = np.empty((total, encoder.dim * len(scales)), dtype=np.float32)
    left: dict[str, int | None] = {}
    show_progress = settings.progress if progress is None else progress
    with tqdm(total=total * len(scales), unit="tile", desc=encoder.name, disable=not show_progress) as bar:
        how: dict[str, Any] = {
            "encoder": encoder, "tile_um": tile_um, "scales": scales, "batch_size": batch_size, "cache": cache,
        }  # fmt: skip
        if client is None or len(sections) == 1:
            store = _cache(encoder, cache)  # one for all: what it has to say of a full disk it says once
            for section in sections:
                found = _section_features(section, **how, store=store, done=bar.update)
                features[section.rows], left[section.name] = found
            return features, left
        calls = ((_section_features, {"section": section, **how}) for section in sections)
        with connected(client) as there:
            for section, found in zip(sections, on_workers(there, calls), strict=True):
                features[section.rows], left[section.name] = found
                bar.update(len(section.rows) * len(scales))
    return features, left


def found_there(data: Container, name: str, image: Any) -> Callable[[], SectionImage]:
    """Finds the picture of a section without the object, which is not sent to the workers."""
    from anndata import AnnData

    from stpredict.io._image import section_image

    if not isinstance(data, AnnData):
        raise ValueError(
            f"expected sections in an AnnData for the workers of a client; found a {type(data).__name__}; leave `client=` out, or "
            "pass its table and the files of the images as `image=`"
        )
    spatial = data.uns.get(Key.SPATIAL, {})
    bare = AnnData(uns={Key.SPATIAL: {label: spatial[label] for label in (name, escaped(name)) if label in spatial}})
    if (stain := read_record(data, STAIN)) is not None:
        bare.uns[Key.UNS] = {STAIN: stain}
    return partial(section_image, bare, bare, name, {name: image[name]} if isinstance(image, Mapping) else image)


def _section_features(
    section: Section,
    encoder: Encoder,
    tile_um: float,
    scales: tuple[float, ...],
    batch_size: int,
    cache: bool,
    store: FeatureCache | None = None,
    done: Callable[[int], Any] | None = None,
) -> tuple[np.ndarray, int | None]:
    """Features (n, dim * contexts) of one section, whose picture is opened and closed, and the tiles not recolored."""
    store = store or _cache(encoder, cache)
    picture = section.find()
    try:
        return _features_of(picture, section, encoder, tile_um, scales, batch_size, store, done or _nothing)
    finally:
        picture.close()


def _cache(encoder: Encoder, cache: bool) -> FeatureCache | None:
    from stpredict.pp._cache import FeatureCache

    return FeatureCache() if cache and encoder.reproducible else None


def _nothing(n: int) -> None:
    """Nobody looks at the progress."""


def _features_of(
    picture: SectionImage,
    section: Section,
    encoder: Encoder,
    tile_um: float,
    scales: tuple[float, ...],
    batch_size: int,
    store: FeatureCache | None,
    done: Callable[[int], Any],
) -> tuple[np.ndarray, int | None]:
    """Features (n, dim * contexts) of one section, from the cache where it has them, and the tiles not recolored."""
    from stpredict.core._validate import check_finite
    from stpredict.pp._cache import cache_key, counting, n_left

    stain = picture.stain

    def compute() -> np.ndarray:
        parts = [encoder.for_side(tile_um * scale) for scale in scales]
        features = _encode(picture, section, parts, batch_size, done)
        call = f"encoder {encoder.name!r} or its weights are broken"
        check_finite(features, f"features of section {section.name!r}", call)
        return features

    if store is None:
        features = compute()
        return features, None if stain is None else stain.n_left
    key = cache_key(
        {
            "image": picture.fingerprint(),
            "encoder": encoder.fingerprint,
            "positions": section.positions,
            "tile_um": tile_um,
            "tile_px": encoder.tile_px,
            "microns_per_pixel": section.microns_per_pixel,
            "context": scales,
        }
    )
    shape = (len(section.rows), encoder.dim * len(scales))
    features, found = store.get_or_compute(key, shape, counting(stain, store, key, compute))
    if found:
        done(len(features) * len(scales))
    return features, None if stain is None else n_left(store, key)


def _encode(
    picture: SectionImage, section: Section, encoders: list[Encoder], batch_size: int, done: Callable[[int], Any]
) -> np.ndarray:
    """Features (n, dim * contexts) of one section, with the encoder for each context."""
    features = np.empty((len(section.rows), encoders[0].dim * len(section.sides)), dtype=np.float32)
    for part, (side, encoder) in enumerate(zip(section.sides, encoders, strict=True)):
        columns = slice(part * encoder.dim, (part + 1) * encoder.dim)
        for rows, encoded in encoded_around(picture, section.positions, side, encoder, batch_size):
            features[rows, columns] = encoded
            done(len(rows))
    return features


def encoded_around(
    picture: SectionImage,
    positions: np.ndarray,
    side: int,
    encoder: Encoder,
    batch_size: int,
    drawn: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Rows of the positions (b,) and the features (b, dim) of the tiles around them, or of what is drawn of the tiles."""
    for rows, windows in windows_around(picture, positions, side, batch_size):
        tiles = resized(windows, encoder.tile_px, encoder.device, picture.stain)
        yield rows, encoder(tiles if drawn is None else drawn(tiles)).cpu().numpy()
