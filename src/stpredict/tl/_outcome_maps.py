"""Maps of slides as dense arrays of one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from stpredict import _cells
from stpredict._container import get_table, is_spatialdata
from stpredict._keys import Key
from stpredict._slots import feature_matrix, in_tissue
from stpredict._validate import _few, check_finite, check_obs

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict._container import Container

Maps: TypeAlias = "Container | Mapping[str, Container | np.ndarray]"
MASK = "mask"


@dataclass
class DenseMaps:
    """Maps of several slides, cell by cell.

    Attributes
    ----------
    values
        (n_slides, n_rows * n_cols, n_channels) float32, 0 off the tissue.
    tissue
        (n_slides, n_rows * n_cols) float32, 1 on the tissue.
    shape
        Rows and columns, the largest among the slides; smaller ones end with empty rows and columns.
    mask
        Whether the tissue is a channel of its own.
    features
        Mean image features over the tissue of each slide (n_slides, d), where asked for.
    leaky
        (n_slides,) whether a map was predicted by a model that had been trained on the patient.
    """

    values: np.ndarray
    tissue: np.ndarray
    shape: tuple[int, int]
    mask: bool
    features: np.ndarray | None
    leaky: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean of each channel over the tissue (n_slides, n_channels)."""
        return np.einsum("ncd,nc->nd", self.values, self.tissue) / self.tissue.sum(axis=1, keepdims=True)


@dataclass
class _Slide:
    values: np.ndarray  # (n, k) of the cells on tissue
    cell: np.ndarray  # (n, 2)
    names: list[str] | None
    features: np.ndarray | None
    leaky: bool


def dense_maps(
    maps: Maps,
    names: Sequence[str],
    channels: str | Sequence[str],
    features: str | None,
    *,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> DenseMaps:
    """Bring the maps of slides (`names`) into one array.

    Raises `KeyError` for a slide without a map and a missing slot, and `ValueError` for a slide without tissue, two
    observations in one cell, values that are not finite, and channels that differ between slides.
    """
    wanted = [channels] if isinstance(channels, str) else list(channels)
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"expected at least one channel, each named once; found {wanted}")
    mask, keys = MASK in wanted, [key for key in wanted if key != MASK]
    slides = [_read(name, maps, keys, features, sample_key, table_key) for name in names]
    _check_channels(slides, names)
    n_rows, n_cols = (int(max(slide.cell[:, axis].max() for slide in slides)) + 1 for axis in (0, 1))
    shape = (n_rows, n_cols)
    n_channels = slides[0].values.shape[1]
    values = np.zeros((len(slides), shape[0] * shape[1], n_channels), np.float32)
    tissue = np.zeros(values.shape[:2], np.float32)
    for number, slide in enumerate(slides):
        values[number] = _cells.scatter(slide.values, slide.cell, shape, fill=0.0).reshape(
            len(tissue[number]), n_channels
        )
        tissue[number, np.ravel_multi_index(tuple(slide.cell.T), shape)] = 1
    image = None
    if features is not None:
        image = np.stack([slide.features for slide in slides if slide.features is not None]).astype(np.float64)
    return DenseMaps(values, tissue, shape, mask, image, np.array([slide.leaky for slide in slides]))


def _read(name: str, maps: Maps, keys: list[str], features: str | None, sample_key: str, table_key: str) -> _Slide:
    found: Any = maps
    if isinstance(maps, Mapping):
        if name not in maps:
            raise KeyError(f"expected a map of every slide; found none of {name!r} among {_few(sorted(maps))}")
        found = maps[name]
    if isinstance(found, np.ndarray):
        return _read_array(name, found, keys, features)
    if not (is_spatialdata(found) or hasattr(found, "obsm")):
        raise TypeError(
            f"expected AnnData, or an array (channels, rows, columns), as the map of {name!r}; found {type(found).__name__}"
        )
    adata = get_table(found, table_key)
    for key in (Key.GRID_ROW, Key.GRID_COL):
        check_obs(adata, key, "run stp.pp.grid(adata), which says in which cell each observation lies")
    rows = in_tissue(adata)
    if not isinstance(maps, Mapping):
        check_obs(adata, sample_key, "name the slide of every observation there, or pass `maps` as a mapping")
        rows &= adata.obs[sample_key].astype(str).to_numpy() == name
        if not (adata.obs[sample_key].astype(str) == name).any():
            raise KeyError(f"expected a map of every slide; found no {name!r} in obs[{sample_key!r}] of the maps")
    if not rows.any():
        raise ValueError(f"expected tissue on the map of {name!r}; found none; leave this slide out")
    numbers = adata.obs[[Key.GRID_ROW, Key.GRID_COL]].to_numpy()[rows].astype(np.float64)
    check_finite(numbers, f"grid cells on the map of {name!r}", "run stp.pp.grid again")
    cell = numbers.astype(np.int64)
    if (cell < 0).any() or len(np.unique(cell, axis=0)) < len(cell):
        raise ValueError(
            f"expected one observation per cell, counted from 0, on the map of {name!r}; found several in one or "
            "negative ones; run stp.pp.grid on each slide"
        )
    parts = [_slot(adata, key, rows, name) for key in keys]
    columns = [column for _, labels in parts for column in labels]
    values = np.concatenate([part for part, _ in parts], axis=1) if parts else np.zeros((len(cell), 0), np.float32)
    image = None if features is None else _slot(adata, features, rows, name)[0].mean(axis=0, dtype=np.float64)
    flags = [Key.leaky(key) for key in keys if Key.leaky(key) in adata.obs]
    return _Slide(values, cell, columns, image, bool(adata.obs.loc[rows, flags].to_numpy().astype(bool).any()))


def _slot(adata: AnnData, key: str, rows: np.ndarray, name: str) -> tuple[np.ndarray, list[str]]:
    matrix = feature_matrix(adata, key)
    if matrix is None:
        raise KeyError(
            f"expected obsm[{key!r}] with what the maps show; found {sorted(adata.obsm)}; run stp.tl.predict or "
            "stp.pp.image_features, or name the slots with `channels=`"
        )
    values = np.asarray(matrix[rows], dtype=np.float32)
    check_finite(values, f"values of {key!r} on the map of {name!r}", "predict every observation on tissue")
    labels = getattr(adata.obsm.get(key), "columns", range(values.shape[1]))
    return values, [f"{key}:{label}" for label in labels]


def _read_array(name: str, array: np.ndarray, keys: list[str], features: str | None) -> _Slide:
    if array.ndim != 3 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"expected (channels, rows, columns) as the map of {name!r}; found {array.dtype} of shape {array.shape}"
        )
    if features is not None:
        raise ValueError(f"expected AnnData to take {features!r} from; found an array as the map of {name!r}")
    cells = np.moveaxis(array, 0, -1).astype(np.float32)
    tissue = ~np.isnan(cells).all(axis=2) & (cells != 0).any(axis=2)
    if not tissue.any():
        raise ValueError(f"expected tissue on the map of {name!r}; found none; leave this slide out")
    check_finite(cells[tissue], f"values on the map of {name!r}", "NaN in all channels marks a cell without tissue")
    values = cells[tissue] if keys else np.zeros((int(tissue.sum()), 0), np.float32)
    return _Slide(values, np.argwhere(tissue), None, None, False)


def _check_channels(slides: Sequence[_Slide], names: Sequence[str]) -> None:
    """Raise unless all slides have the channels of the first; put those with names into its order."""
    first = slides[0]
    for slide, name in zip(slides, names, strict=True):
        same = slide.values.shape[1] == first.values.shape[1] and (slide.names is None) == (first.names is None)
        if same and slide.names is not None and first.names is not None and slide.names != first.names:
            same = set(slide.names) == set(first.names)
            if same:
                slide.values = slide.values[:, [slide.names.index(column) for column in first.names]]
        if not same:
            raise ValueError(
                f"expected the same channels on every map; found {slide.values.shape[1]} others on that of {name!r} than the "
                f"{first.values.shape[1]} on that of {names[0]!r}; predict all slides with the same panel"
            )
