"""A map of a section: values for every square place of a grid over its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from stpredict.core._disks import place_of
from stpredict.core._validate import check_positive, check_unique

_ALL = (slice(None), slice(None))


@dataclass(frozen=True, eq=False)
class DenseMap:
    """Values for every square place of a grid over the picture of a section: features, or expression.

    Row and column of the array run with y and x: place `[i, j]` holds the pixels with x from `origin[0] + j * side_px` on
    and y from `origin[1] + i * side_px` on.

    Parameters
    ----------
    values
        Array (rows, columns, k) of numpy or Zarr, or another that gives rows by slices.
    microns
        Side of a place in µm.
    microns_per_pixel
        µm per full-resolution pixel; when `None`, that of the section in the object that the map is used with.
    origin
        x and y of the upper left corner of the first place, in full-resolution pixels.
    names
        Names (k,) of the values.
    reach_um
        Side in µm of the square around a place that its values were computed from; `None` where that is not known.
    std
        Standard deviations in the shape of `values`, where there are any.
    record
        What is known of how the map was made.

    Raises
    ------
    ValueError
        When the array has not three axes, sizes are not positive, or there is not a name for every value.

    Examples
    --------
    >>> import numpy as np
    >>> import stpredict as stp
    >>> dense = stp.pp.DenseMap(np.zeros((30, 40, 5)), microns=8, microns_per_pixel=0.5)
    >>> dense.side_px, dense.shape
    (16.0, (30, 40, 5))
    """

    values: Any
    microns: float
    microns_per_pixel: float | None = None
    origin: Sequence[float] = (0.0, 0.0)
    names: Sequence[str] = ()
    reach_um: float | None = None
    std: Any = None
    record: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        shape = tuple(getattr(self.values, "shape", ()))
        if len(shape) != 3 or 0 in shape:
            raise ValueError(f"expected a map as an array (rows, columns, k); found shape {shape}")
        check_positive(self.microns, "microns")
        if self.microns_per_pixel is not None:
            check_positive(self.microns_per_pixel, "microns_per_pixel")
        corner = np.asarray(self.origin, dtype=np.float64)
        if corner.shape != (2,) or not np.isfinite(corner).all():
            raise ValueError(f"expected origin as x and y in pixels; found {self.origin!r}")
        object.__setattr__(self, "origin", tuple(map(float, corner)))
        object.__setattr__(self, "names", tuple(map(str, self.names)))
        check_unique(self.names, "names of a map")
        if len(self.names) not in (0, shape[2]):
            raise ValueError(f"expected {shape[2]} names, one of every value; found {len(self.names)}")
        if self.std is not None and tuple(self.std.shape) != shape:
            raise ValueError(f"expected standard deviations of shape {shape}; found {tuple(self.std.shape)}")

    def __repr__(self) -> str:
        rows, columns, k = self.shape
        return f"DenseMap({rows} x {columns} places of {self.microns:g} µm, {k} values)"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Rows, columns and values."""
        rows, columns, k = self.values.shape
        return int(rows), int(columns), int(k)

    @property
    def side_px(self) -> float:
        """Side of a place in full-resolution pixels."""
        if self.microns_per_pixel is None:
            raise ValueError(
                "expected the µm per pixel of a map; found none; pass `microns_per_pixel=` to stp.pp.DenseMap"
            )
        return self.microns / self.microns_per_pixel

    def places(self, xy: np.ndarray) -> np.ndarray:
        """Row and column (n, 2) of the places that hold positions x and y (n, 2) in full-resolution pixels."""
        return place_of(xy, self.origin, self.side_px)

    def rows(self, top: int, bottom: int, std: bool = False) -> np.ndarray:
        """Rows `top` to `bottom` (exclusive) of the values, or of the standard deviations, float32."""
        return np.asarray((self.std if std else self.values)[top:bottom], dtype=np.float32)

    def layer(self, name: str, std: bool = False, window: tuple[slice, slice] = _ALL) -> np.ndarray:
        """One value by name, or its standard deviation, as a picture (rows, columns), or a window of it."""
        if name not in self.names:
            raise KeyError(f"expected a value of the map; found {name!r}; it has {len(self.names)}, see its `names`")
        source = self.std if std else self.values
        if source is None:
            raise KeyError("expected standard deviations in the map; found none; compute several members")
        return np.asarray(source[*window, list(self.names).index(name)], dtype=np.float32)

    def coarser(self, factor: int) -> DenseMap:
        """The map with `factor` x `factor` places averaged into one, computed as rows are read; remainders are left out."""
        if factor == 1:
            return self
        values = _Pooled(self.values, factor)
        reach = None if self.reach_um is None else self.reach_um + (factor - 1) * self.microns
        return replace(self, values=values, microns=self.microns * factor, reach_um=reach, std=None)


class _Pooled:
    """Means of squares of an array (rows, columns, k)."""

    def __init__(self, array: Any, factor: int) -> None:
        self.array, self.factor = array, factor
        rows, columns, k = array.shape
        self.shape = (rows // factor, columns // factor, k)
        self.dtype = np.dtype(np.float32)

    def __getitem__(self, key: Any) -> np.ndarray:
        rows, rest = (key[0], key[1:]) if isinstance(key, tuple) else (key, ())
        top, bottom, step = rows.indices(self.shape[0])
        if step != 1:
            raise IndexError(f"expected rows without gaps; found a step of {step}")
        f, (_, columns, k) = self.factor, self.shape
        part = np.asarray(self.array[top * f : bottom * f], dtype=np.float32)[:, : columns * f]
        means = part.reshape(max(bottom - top, 0), f, columns, f, k).mean(axis=(1, 3), dtype=np.float64)
        return means.astype(np.float32)[(slice(None), *rest)]
