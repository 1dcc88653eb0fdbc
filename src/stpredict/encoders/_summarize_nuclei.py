"""Nuclei of tiles as numbers: how many, how large, how dark, how far apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

#: Measures that are summarized, and a typical nucleus, which stands in where a tile has few.
TYPICAL = {
    "area_um2": 45.0,
    "elongation": 1.5,
    "circularity": 0.8,
    "hematoxylin": 0.6,
    "hematoxylin_sd": 0.12,
    "contrast": 0.3,
    "gradient": 0.2,
    "eosin": 0.3,
    "nearest_um": 12.0,
}
_STATISTICS = ("mean", "sd", "p90")
_COUNTS = (
    "density",
    "log_density",
    "covered",
    "center_density",
    "small_round_density",
    "large_density",
    "slender_density",
    "dark_density",
    "alignment",
    "crowding",
    "spacing",
)
_SMALL_UM2, _LARGE_UM2, _ROUND, _SLENDER, _DARK = 40.0, 75.0, 0.8, 2.0, 0.8
_MM2 = 1e6


def nuclei_names() -> list[str]:
    """Name every dimension of the `"nuclei"` encoder.

    - `density`: nuclei per µm² times 1000, `log_density` the logarithm of one more of it per 100 µm square; `covered`:
      share of the tile; `center_density`: within a quarter of the side around the center; `small_round_density`,
      `large_density`, `slender_density`, `dark_density`: of nuclei below 40 µm² and round, above 75 µm², twice as long
      as wide, and of a hematoxylin density above 0.8.
    - `alignment`: 0 where slender nuclei have all directions, 1 where they have one; `crowding`: mean number of others
      within 25 µm; `spacing`: mean distance to the nearest one, relative to that of points at random.
    - `{measure}_mean`, `_sd`, `_p90`: over the nuclei of the tile, of area (µm²), elongation, circularity, hematoxylin
      and its standard deviation, contrast, gradient, eosin, and distance to the nearest nucleus (µm). One typical
      nucleus is added to each, so that tiles with few nuclei have no extreme values, and tiles without one have some.

    Returns
    -------
    The names, in the order of the feature vector.

    Examples
    --------
    >>> import stpredict as stp
    >>> stp.encoders.nuclei_names()[:3]
    ['density', 'log_density', 'covered']
    >>> len(stp.encoders.nuclei_names())
    38
    """
    return [*_COUNTS, *(f"{measure}_{statistic}" for measure in TYPICAL for statistic in _STATISTICS)]


def summarize_nuclei(
    nuclei: Mapping[str, np.ndarray],
    tile: np.ndarray,
    offset_um: np.ndarray,
    n_tiles: int,
    side_um: float,
    *,
    whole: np.ndarray | None = None,
    kinds: Sequence[np.ndarray] = (),
) -> np.ndarray:
    """Summarize the nuclei of tiles.

    Parameters
    ----------
    nuclei
        Measures and distances of the nuclei, each (n,).
    tile
        (n,) the tile of each, 0 to `n_tiles`. A nucleus in two tiles is there twice.
    offset_um
        (n, 2) from the center of the tile.
    side_um
        Side of a tile.
    whole
        (n,) which nuclei lie in their tile as a whole. Others count half, as they are in two tiles, and do not enter
        statistics of shape. All when `None`.
    kinds
        (n,) for every type whether, or with which probability, a nucleus is of it.

    Returns
    -------
    float32 (n_tiles, 38 + 2 for every type): what :func:`nuclei_names` names, then the density and the share of every
    type.
    """
    whole = np.ones(len(tile), bool) if whole is None else whole
    weight = np.where(whole, 1.0, 0.5)
    area = side_um**2

    def total(values: np.ndarray) -> np.ndarray:
        return np.bincount(tile, weights=values * weight, minlength=n_tiles)

    number = total(np.ones(len(tile)))
    size, long = nuclei["area_um2"], nuclei["elongation"]
    central = (np.abs(offset_um) <= side_um / 4).all(axis=1)
    slender = long >= _SLENDER
    turned = np.hypot(total(slender * np.cos(2 * nuclei["angle"])), total(slender * np.sin(2 * nuclei["angle"])))
    expected = 0.5 / np.sqrt(np.maximum(number, 1) / area)
    columns = [
        1e3 * number / area,
        np.log1p(number * 1e4 / area),
        total(size) / area,
        1e3 * total(central) / (area / 4),
        1e3 * total((size < _SMALL_UM2) & (nuclei["circularity"] > _ROUND)) / area,
        1e3 * total(size > _LARGE_UM2) / area,
        1e3 * total(slender) / area,
        1e3 * total(nuclei["hematoxylin"] > _DARK) / area,
        turned / (total(slender) + 1),
        total(nuclei["n_near"]) / (number + 1),
        (total(nuclei["nearest_um"] / expected[tile]) + 1) / (number + 1),
    ]
    inner = np.flatnonzero(whole)
    for measure, typical in TYPICAL.items():
        columns += _statistics(nuclei[measure][inner], tile[inner], n_tiles, typical)
    for kind in kinds:
        of_kind = total(np.asarray(kind, float))
        columns += [1e3 * of_kind / area, of_kind / (number + 1)]
    return np.stack(columns, axis=1).astype(np.float32)


def _statistics(values: np.ndarray, tile: np.ndarray, n_tiles: int, typical: float) -> list[np.ndarray]:
    """Mean, standard deviation and 90th percentile of each tile (n_tiles,), one typical value among them."""
    tile, values = np.concatenate([tile, np.arange(n_tiles)]), np.concatenate([values, np.full(n_tiles, typical)])
    number = np.bincount(tile, minlength=n_tiles)
    mean = np.bincount(tile, weights=values, minlength=n_tiles) / number
    square = np.bincount(tile, weights=(values - mean[tile]) ** 2, minlength=n_tiles) / number
    ordered = values[np.lexsort((values, tile))]
    start = np.cumsum(number) - number
    at = start + 0.9 * (number - 1)
    low = at.astype(np.int64)
    high = np.minimum(low + 1, start + number - 1)
    return [mean, np.sqrt(square), ordered[low] + (at - low) * (ordered[high] - ordered[low])]
