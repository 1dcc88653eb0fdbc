"""Features of every place of a section: color, and what an encoder sees there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.pp._windows import Section, sections_of, windows_around
from stpredict.slots._dense_map import DenseMap
from stpredict.slots._keys import Key
from stpredict.slots._stain import recorded_reference, stain_facts

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from scipy.sparse import csr_array

    from stpredict.core._stain import Recoloring
    from stpredict.encoders import Encoder
    from stpredict.io._image import SectionImage
    from stpredict.slots._container import Container

_BAND_BYTES = 16 * 2**20  # pixels in float that are averaged at once
_BLOCK_BYTES = 32 * 2**20  # features that are held before they are written
_CHANNELS = ("red", "green", "blue", "gray_std")
_WINDOW_PLACES = 4  # side of what an encoder without tokens is shown of a place


def dense_features(
    data: Container,
    encoder: str | Encoder | Callable[[torch.Tensor], torch.Tensor] | None = None,
    microns: float = 8.0,
    *,
    tile_um: float | None = None,
    color: Sequence[int] = (1, 4),
    image: Any = None,
    tile_px: int | None = None,
    microns_per_pixel: float | Mapping[str, float] | None = None,
    weights: str | Path | None = None,
    store: str | Path | None = None,
    batch_size: int = 64,
    device: str | torch.device | None = None,
    progress: bool | None = None,
    check: bool = True,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> dict[str, DenseMap]:
    """Compute features for every square place of the sections, wherever their spots are.

    What :func:`stpredict.tl.super_resolve` learns from. The picture is read in bands and features are written in blocks of
    rows, so that with a `store` the memory depends on the width of a section and not on its height.

    An encoder that has tokens (a vision transformer), or maps (a convolutional network), is run over tiles that overlap by
    half, and every place gets the token at its center, interpolated, from the tile in whose middle it lies: no place is at
    the border of its tile. Other encoders are shown a window around every place, which takes much longer.

    Parameters
    ----------
    data
        AnnData or SpatialData with sections and their images.
    encoder
        As in :func:`stpredict.pp.image_features`, or `None` for color alone. A network of your own needs `tile_px`; it may
        have a method `tokens` that takes normalized tiles (b, 3, tile_px, tile_px) and returns (b, d, rows, columns).
    microns
        Side of a place in µm.
    tile_um
        Side of a tile in µm; when `None`, that of the encoder where it has tokens, else four places.
    color
        Widths of the squares around a place, in places, whose color is taken: the mean of red, green and blue in 0–1 and the
        standard deviation of gray. Empty for none.
    image
        Image of the section (a path or an array, which may be lazy), or a mapping from section to either.
    tile_px
        Side of a tile in pixels, for a network of your own.
    microns_per_pixel
        µm per full-resolution pixel, or a mapping by section; by default read from `uns["spatial"]`.
    weights
        Weight file of the encoder.
    store
        Path of a Zarr store for the maps, which stay there; an earlier one is replaced. When `None` they are in memory.
    batch_size
        Number of tiles encoded at once.
    device
        Device to run the encoder on; `settings.device` when `None`.
    progress
        Whether to show a progress bar; `settings.progress` when `None`.
    check
        Whether to refuse positions that lie clearly better on the tissue with x and y exchanged.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    A :class:`stpredict.pp.DenseMap` per section, values (rows, columns, k) float32. The places cover the picture; those at
    its right and lower border may reach beyond it. Nothing is written to `data`.

    Raises
    ------
    KeyError
        When positions, sections or an image are missing.
    ValueError
        When µm per pixel is not known, positions do not fit the image, there is nothing to compute, or features are not
        finite.
    FileNotFoundError
        When an image or weights are missing.
    OSError
        When the store cannot be written.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 5, n_spots=12)
    >>> stp.pp.dense_features(adata, microns=16)["P1_S1"].names
    ('red', 'green', 'blue', 'gray_std', 'red_4', 'green_4', 'blue_4', 'gray_std_4')
    """
    from contextlib import nullcontext

    from tqdm.auto import tqdm

    from stpredict.core._settings import settings
    from stpredict.core._validate import check_positive
    from stpredict.io._dense_files import describe_dense, group_names, new_dense_array, new_dense_store, read_dense
    from stpredict.slots._container import get_table

    microns = check_positive(microns, "microns")
    widths = _widths(color)
    reader = None if encoder is None else _Reader(encoder, weights, device, tile_px, tile_um, microns, int(batch_size))
    if reader is None and not widths:
        raise ValueError("expected an encoder or widths of color; found neither; leave `color=` at its default")
    field = microns if reader is None else reader.tile_um
    table = get_table(data, table_key)
    sections = sections_of(data, table, image, microns_per_pixel, sample_key, field, (1.0,), check)
    for section in sections:
        if section.microns_per_pixel > microns:
            raise ValueError(
                f"expected places of at least a pixel; found {microns:g} µm in section {section.name!r}, whose pixels have "
                f"{section.microns_per_pixel:g} µm; pass a larger `microns=`"
            )
    reach = max([microns * max(widths, default=1)] + ([reader.reach_um] if reader else []))
    record = (
        {"color": list(widths)} | ({} if reader is None else reader.record) | stain_facts(recorded_reference(table))
    )
    names = tuple(name if width == 1 else f"{name}_{width}" for width in widths for name in _CHANNELS)
    found: dict[str, DenseMap] = {}
    groups = group_names([section.name for section in sections])
    show = settings.progress if progress is None else progress
    with nullcontext() if store is None else new_dense_store(store) as group:
        for section in sections:
            picture = section.find()
            side = microns / section.microns_per_pixel
            shape = tuple(max(1, int(np.ceil(size / side - 1e-6))) for size in (picture.height, picture.width))
            try:
                colors = color_map(picture, side, shape, widths)
                dim = 0 if reader is None else reader.dim(picture, section)
                block = _block_rows(shape, dim + colors.shape[2], 1 if reader is None else reader.core)
                values = new_dense_array(group, groups[section.name], (*shape, dim + colors.shape[2]), block)
                parts = _bare(shape[0], block) if reader is None else reader.blocks(picture, section, shape, block)
                with tqdm(total=shape[0], unit="row", desc=section.name, disable=not show) as bar:
                    for top, encoded in parts:
                        bottom = min(top + block, shape[0])
                        whole = [colors[top:bottom]] if encoded is None else [colors[top:bottom], encoded]
                        values[top:bottom] = _finite(np.concatenate(whole, axis=2), section.name)
                        bar.update(bottom - top)
                dense = DenseMap(
                    values,
                    microns,
                    section.microns_per_pixel,
                    tuple(map(float, picture.origin)),
                    (*names, *(f"{reader.name}_{number}" for number in range(dim))) if reader else names,
                    reach,
                    record=record,
                )
                if group is not None:
                    describe_dense(group, groups[section.name], section.name, dense)
                found[section.name] = dense
            finally:
                picture.close()
    return found if store is None else read_dense(store)


class _Reader:
    """An encoder on tiles around squares of places: many places a tile where it has tokens, else one."""

    def __init__(
        self,
        encoder: Any,
        weights: Any,
        device: Any,
        tile_px: int | None,
        tile_um: float | None,
        microns: float,
        batch: int,
    ) -> None:
        from stpredict.core._validate import check_positive
        from stpredict.pp._image_features import encoder_for

        own = encoder if isinstance(encoder, str) else getattr(encoder, "name", "own")
        network = encoder_for(encoder, weights, device, tile_px, f"X_{own}")
        self.tokens, self.microns, self.batch = network.has_tokens, microns, batch
        wide = network.tile_um if self.tokens else _WINDOW_PLACES * microns
        self.tile_um = wide if tile_um is None else check_positive(tile_um, "tile_um")
        self.encoder, self.name = network.for_side(self.tile_um), network.name
        #: Side of the square of places that a tile is for.
        self.core = max(1, int(self.tile_um / 2 / microns)) if self.tokens else 1
        self.reach_um = self.tile_um + (self.core - 1) * microns
        self.record = {
            "encoder": network.name,
            "fingerprint": network.fingerprint,
            "tile_um": self.tile_um,
            "tile_px": self.encoder.tile_px,
            "tokens": self.tokens,
        }

    def dim(self, picture: SectionImage, section: Section) -> int:
        """Number of features, by a trial where the network does not say."""
        import torch

        if not self.tokens:
            return self.encoder.dim
        side = self.encoder.tile_px
        return int(self.encoder.tokens(torch.zeros(1, 3, side, side, dtype=torch.uint8)).shape[1])

    def blocks(
        self, picture: SectionImage, section: Section, shape: Sequence[int], block: int
    ) -> Iterator[tuple[int, np.ndarray]]:
        """First row and features (m, columns, d) of blocks of rows, which are a multiple of the squares of places."""
        from stpredict.encoders._resize import warn_if_coarse

        side = section.sides[0]
        warn_if_coarse(f"the image of section {section.name!r}", side, self.encoder.tile_px, stacklevel=3)
        step = self.core * self.microns / section.microns_per_pixel
        n_across = -(-shape[1] // self.core)
        spread = (np.arange(self.core) + 0.5 - self.core / 2) * self.microns / (side * section.microns_per_pixel / 2)
        for top in range(0, shape[0], block):
            n_down = -(-min(block, shape[0] - top) // self.core)
            row, column = (index.ravel() for index in np.indices((n_down, n_across)))
            places = np.column_stack([column + 0.5, row + top / self.core + 0.5]) * step + picture.origin
            squares: np.ndarray | None = None
            for index, windows in windows_around(picture, places, side, self.batch):
                encoded = self._encoded(windows, spread, picture.stain)
                if squares is None:
                    squares = np.empty((len(places), *encoded.shape[1:]), dtype=np.float32)
                squares[index] = encoded
            assert squares is not None  # there is a place
            grid = squares.reshape(n_down, n_across, self.core, self.core, -1).swapaxes(1, 2)
            rows = grid.reshape(n_down * self.core, n_across * self.core, -1)
            yield top, rows[: min(block, shape[0] - top), : shape[1]]

    def _encoded(self, windows: np.ndarray, spread: np.ndarray, stain: Recoloring | None) -> np.ndarray:
        """Features (b, core, core, d) of the places in the middle of windows."""
        import torch

        from stpredict.encoders._resize import resized

        tiles = resized(windows, self.encoder.tile_px, self.encoder.device, stain)
        if not self.tokens:
            return self.encoder(tiles)[:, None, None].cpu().numpy()
        tokens = self.encoder.tokens(tiles)
        at = torch.as_tensor(spread, dtype=tokens.dtype, device=tokens.device)
        where = torch.stack(torch.meshgrid(at, at, indexing="xy"), dim=-1).expand(len(tokens), -1, -1, -1)
        sampled = torch.nn.functional.grid_sample(tokens, where, padding_mode="border", align_corners=False)
        return sampled.permute(0, 2, 3, 1).cpu().numpy()


def color_map(picture: SectionImage, side: float, shape: Sequence[int], widths: Sequence[int]) -> np.ndarray:
    """Mean color and standard deviation of gray in squares around every place, float32 (rows, columns, 4 a width).

    A place takes the share of each pixel that it covers.

    Parameters
    ----------
    picture
        The image.
    side
        Side of a place in pixels.
    shape
        Rows and columns.
    widths
        Sides of the squares in places. Even ones reach one place further to the right and below.
    """
    if not widths:
        return np.empty((*shape, 0), dtype=np.float32)
    across = _cover(shape[1], picture.width, side)
    moments = np.empty((*shape, 5), dtype=np.float32)  # red, green, blue, gray, its square
    step = max(1, int(_BAND_BYTES / (20 * picture.width * side)))
    down = _cover(shape[0], picture.height, side)
    for top in range(0, shape[0], step):
        part = down[top : top + step]
        first, last = int(part.indices.min()), int(part.indices.max()) + 1
        pixels = picture.band(first, last)
        band = (pixels if picture.stain is None else picture.stain.pixels(pixels)).astype(np.float32) / 255
        gray = band.mean(axis=2, keepdims=True)
        band = np.concatenate([band, gray, gray**2], axis=2)
        rows = part[:, first:last] @ band.reshape(len(band), -1)
        columns = rows.reshape(len(rows), picture.width, 5).swapaxes(0, 1).reshape(picture.width, -1)
        means = across @ columns
        moments[top : top + step] = means.reshape(shape[1], len(rows), 5).swapaxes(0, 1)
    found = np.empty((*shape, 4 * len(widths)), dtype=np.float32)
    for number, width in enumerate(widths):
        mean = _box(moments, width)
        found[..., 4 * number : 4 * number + 3] = mean[..., :3]
        found[..., 4 * number + 3] = np.sqrt(np.maximum(mean[..., 4] - mean[..., 3] ** 2, 0))
    return found


def _cover(n: int, n_px: int, side: float) -> csr_array:
    """Weights (n, n_px) of the means over places along one axis; each pixel counts by the share of it that is covered."""
    from scipy.sparse import csr_array

    edges = np.minimum(np.arange(n + 1) * side, n_px)
    first, last = np.floor(edges[:-1]).astype(int), np.ceil(edges[1:] - 1e-9).astype(int)
    size = np.maximum(last - first, 1)
    row = np.repeat(np.arange(n), size)
    pixel = np.minimum(np.repeat(first, size) + np.arange(size.sum()) - np.repeat(size.cumsum() - size, size), n_px - 1)
    share = np.minimum(pixel + 1, edges[1:][row]) - np.maximum(pixel, edges[:-1][row])
    share = np.maximum(share, 1e-9)
    total = np.bincount(row, weights=share, minlength=n)
    return csr_array(((share / total[row]).astype(np.float32), (row, pixel)), shape=(n, n_px))


def _box(values: np.ndarray, width: int) -> np.ndarray:
    """Means over squares of places; at the border, over what there is of them."""
    from scipy.ndimage import uniform_filter1d

    if width == 1:
        return values
    origin = -1 if width % 2 == 0 else 0
    for axis in (0, 1):
        values = uniform_filter1d(values, width, axis=axis, mode="nearest", origin=origin)
    return values


def _widths(color: Sequence[int]) -> tuple[int, ...]:
    widths = tuple(int(width) for width in color)
    if any(width < 1 for width in widths) or len(set(widths)) != len(widths) or widths != tuple(color):
        raise ValueError(f"expected different whole numbers of places from 1 on in color; found {tuple(color)}")
    return widths


def _block_rows(shape: Sequence[int], width: int, core: int) -> int:
    """Rows that are held before they are written: a multiple of the squares of places."""
    fitting = max(1, _BLOCK_BYTES // (4 * shape[1] * width))
    return max(core, min(fitting, -(-shape[0] // core) * core) // core * core)


def _bare(n_rows: int, block: int) -> Iterator[tuple[int, None]]:
    for top in range(0, n_rows, block):
        yield top, None


def _finite(values: np.ndarray, sample: str) -> np.ndarray:
    from stpredict.core._validate import check_finite

    check_finite(values, f"dense features of section {sample!r}", "the encoder or its weights are broken")
    return values
