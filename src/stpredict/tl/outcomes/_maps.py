"""Maps of slides as dense arrays of one shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from stpredict.core._cells import scatter
from stpredict.core._validate import check_finite, few
from stpredict.slots._checks import check_obs
from stpredict.slots._container import get_table, is_spatialdata
from stpredict.slots._expression import in_tissue
from stpredict.slots._features import feature_matrix
from stpredict.slots._keys import Key
from stpredict.slots._made import COMPARED, differing
from stpredict.slots._marks import group_marks, leak_marks
from stpredict.slots._matrix import single_precision
from stpredict.slots._prediction import prediction_names
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.slots._container import Container

Maps: TypeAlias = "Container | Mapping[str, Container | np.ndarray]"
MASK = "mask"
#: What has to be the same of image features, and of predictions, for two maps to show the same.
_COMPARED = ("model", *(name for name in COMPARED if name != "dim"))


@dataclass(frozen=True)
class MapKind:
    """What maps show, to recognize others of the kind.

    Attributes
    ----------
    channels, features
        Slots that were read, and that of the mean image features.
    n_channels
        Number of channels, without that of the tissue.
    names
        Names of the channels; `None` for arrays, which have none.
    made
        By slot, and for the `"grid"`, every way in which it was made, as far as it is known.
    """

    channels: list[str]
    features: str | None
    n_channels: int
    names: list[str] | None
    made: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for a configuration file."""
        return asdict(self)

    def check(self, other: MapKind) -> None:
        """Raise unless `other` shows the same in the same order; name both sides."""
        if (
            (self.names is None) != (other.names is None)
            or self.n_channels != other.n_channels
            or (self.names is not None and self.names != other.names)
        ):
            raise ValueError(
                f"expected maps with the channels that the outcome model was fitted on, {self._shown(other)}; found "
                f"{other._shown(self)}; predict the maps with the same panel"
            )
        for slot, entries in other.made.items():
            known = self.made.get(slot, [])
            for entry in entries if known else ():
                if not any(_same_way(entry, value) for value in known):
                    raise ValueError(
                        f"expected the {slot!r} of the maps made the way the outcome model's training maps were; found "
                        f"{_values(entry)} where the model has {' or '.join(_values(value) for value in known)}"
                    )

    def _shown(self, other: MapKind) -> str:
        if self.names is None:
            return f"{self.n_channels} in arrays, without names"
        alone = [name for name in self.names if name not in (other.names or ())]
        return f"{self.n_channels} with names" + (
            f", {few(alone)} on this side only" if other.names is not None else ""
        )


def _same_way(entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return not differing(entry, other, sorted({*entry, *other}))


def _values(entry: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in entry.items())


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
    kind
        What the maps show.
    features
        Mean image features over the tissue of each slide (n_slides, d), where asked for.
    leaky
        (n_slides,) marks: 1 where a map was predicted by a model that had been trained on the patient, 0 where it was
        not, -1 where that is unknown.
    """

    values: np.ndarray
    tissue: np.ndarray
    shape: tuple[int, int]
    kind: MapKind
    features: np.ndarray | None
    leaky: np.ndarray

    @property
    def mask(self) -> bool:
        """Whether the tissue is a channel of its own."""
        return MASK in self.kind.channels

    @property
    def lattice(self) -> Literal["square", "hex"]:
        """Lattice of the maps; square where nobody wrote it down."""
        known = [entry["lattice"] for entry in self.kind.made.get(Key.GRID, [])]
        return "hex" if known and set(known) == {"hex"} else "square"

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
    leaky: int
    made: dict[str, dict[str, Any]]


def dense_maps(
    maps: Maps,
    names: Sequence[str],
    channels: str | Sequence[str],
    features: str | None,
    *,
    like: MapKind | None = None,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> DenseMaps:
    """Bring the maps of slides (`names`) into one array.

    Raises `KeyError` for a slide without a map and a missing slot, and `ValueError` for a slide without tissue, two
    observations in one cell, values that are not finite, and channels that differ between slides, or from those of
    `like`, whose order they otherwise take.
    """
    wanted = [channels] if isinstance(channels, str) else list(channels)
    if not wanted or len(set(wanted)) < len(wanted):
        raise ValueError(f"expected at least one channel, each named once; found {wanted}")
    keys = [key for key in wanted if key != MASK]
    slides = [_read(name, maps, keys, features, sample_key, table_key) for name in names]
    _check_channels(slides, names, like)
    kind = MapKind(wanted, features, slides[0].values.shape[1], slides[0].names, _made(slides))
    if like is not None:
        like.check(kind)
    n_rows, n_cols = (int(max(slide.cell[:, axis].max() for slide in slides)) + 1 for axis in (0, 1))
    shape = (n_rows, n_cols)
    n_channels = slides[0].values.shape[1]
    values = np.zeros((len(slides), shape[0] * shape[1], n_channels), np.float32)
    tissue = np.zeros(values.shape[:2], np.float32)
    for number, slide in enumerate(slides):
        values[number] = scatter(slide.values, slide.cell, shape, fill=0.0).reshape(len(tissue[number]), n_channels)
        tissue[number, np.ravel_multi_index(tuple(slide.cell.T), shape)] = 1
    image = None
    if features is not None:
        image = np.stack([slide.features for slide in slides if slide.features is not None]).astype(np.float64)
    return DenseMaps(values, tissue, shape, kind, image, np.array([slide.leaky for slide in slides]))


def _read(name: str, maps: Maps, keys: list[str], features: str | None, sample_key: str, table_key: str) -> _Slide:
    found: Any = maps
    if isinstance(maps, Mapping):
        if name not in maps:
            raise KeyError(f"expected a map of every slide; found none of {name!r} among {few(sorted(maps))}")
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
    # A slot of image features has no mark; a prediction that lost its own is of unknown origin.
    marks = [leak_marks(adata, key)[rows] for key in keys if _predicted(adata, key)]
    leaky = int(group_marks(np.concatenate(marks), np.zeros(sum(map(len, marks)), dtype=int), 1)[0]) if marks else 0
    return _Slide(values, cell, columns, image, leaky, _origin(adata, name, [*keys, *([features] if features else [])]))


def _predicted(adata: AnnData, key: str) -> bool:
    """Whether a slot holds predictions, rather than image features or something of the user's own."""
    known = key == Key.PREDICTED or Key.leaky(key) in adata.obs or read_record(adata, key) is not None
    return known and not key.startswith("X_")


def _origin(adata: AnnData, name: str, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """How the slots of a slide, and its grid, were made, where somebody wrote it down."""
    found: dict[str, dict[str, Any]] = {}
    lattice = (read_record(adata, Key.GRID) or {}).get("lattice", {})
    if name in lattice or len(set(lattice.values())) == 1:
        found[Key.GRID] = {"lattice": lattice.get(name, next(iter(lattice.values())))}
    for key in keys:
        record = read_record(adata, key) or {}
        entry = {what: record[what] for what in _COMPARED if what in record}
        if entry:
            found[key] = entry
    return found


def _made(slides: Sequence[_Slide]) -> dict[str, list[dict[str, Any]]]:
    """By slot, the different ways in which the slides have it."""
    made: dict[str, list[dict[str, Any]]] = {}
    for slide in slides:
        for slot, entry in slide.made.items():
            entries = made.setdefault(slot, [])
            if not any(_same_way(entry, value) for value in entries):
                entries.append(entry)
    return made


def _slot(adata: AnnData, key: str, rows: np.ndarray, name: str) -> tuple[np.ndarray, list[str]]:
    matrix = feature_matrix(adata, key)
    if matrix is None:
        raise KeyError(
            f"expected obsm[{key!r}] with what the maps show; found {sorted(adata.obsm)}; run stp.tl.predict or "
            "stp.pp.image_features, or name the slots with `channels=`"
        )
    values = single_precision(matrix[rows], f"values of {key!r} on the map of {name!r}")
    check_finite(values, f"values of {key!r} on the map of {name!r}", "predict every observation on tissue")
    names = prediction_names(adata, key) if key in adata.obsm else None
    return values, [f"{key}:{name}" for name in (range(values.shape[1]) if names is None else names)]


def _read_array(name: str, array: np.ndarray, keys: list[str], features: str | None) -> _Slide:
    if array.ndim != 3 or array.dtype.kind not in "fiub":
        raise ValueError(
            f"expected (channels, rows, columns) as the map of {name!r}; found {array.dtype} of shape {array.shape}"
        )
    if features is not None:
        raise ValueError(f"expected AnnData to take {features!r} from; found an array as the map of {name!r}")
    cells = single_precision(np.moveaxis(array, 0, -1), f"values on the map of {name!r}")
    tissue = ~np.isnan(cells).all(axis=2) & (cells != 0).any(axis=2)
    if not tissue.any():
        raise ValueError(f"expected tissue on the map of {name!r}; found none; leave this slide out")
    check_finite(cells[tissue], f"values on the map of {name!r}", "NaN in all channels marks a cell without tissue")
    values = cells[tissue] if keys else np.zeros((int(tissue.sum()), 0), np.float32)
    return _Slide(values, np.argwhere(tissue), None, None, 0, {})


def _check_channels(slides: Sequence[_Slide], names: Sequence[str], like: MapKind | None) -> None:
    """Raise unless all slides have the channels of the first; put those with names into its order, or that of `like`."""
    first = slides[0]
    order = first.names if like is None else like.names
    if order is not None and first.names is not None and sorted(order) == sorted(first.names):
        first.values = first.values[:, [first.names.index(column) for column in order]]
        first.names = order
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
