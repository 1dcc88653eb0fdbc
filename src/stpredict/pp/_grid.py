"""The cell of every observation in a dense grid of its section."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.cohorts._on_sections import is_cohort, write_sections
from stpredict.core._cells import LATTICE_WORDS, LATTICES
from stpredict.core._validate import check_choice, few
from stpredict.io._lattice import ANISOTROPY, fit_lattice
from stpredict.slots._checks import check_obs
from stpredict.slots._container import begin
from stpredict.slots._features import is_tile_table
from stpredict.slots._keys import Key
from stpredict.slots._positions import positions_of
from stpredict.slots._provenance import write_record

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container

_NAMES: dict[str, Literal["hexagonal", "square"]] = {"hex": "hexagonal", "square": "square"}
_STEP = {"hex": np.array([0.5, np.sqrt(3) / 2]), "square": np.array([1.0, 1.0])}  # along x and y, of the pitch
_FOLD = {"hex": 6, "square": 4}  # directions of neighbors
_NEAR = 1.25  # pitches; the diagonal of a square is 1.41 away, the second ring of a hexagonal lattice 1.73
_ORDER = 0.5  # of 1; positions without a lattice have about 0, measured lattices above 0.9
_TILT = 10.0  # degrees
_OFF = 0.2  # pitches between positions and their cells; at random it is 0.4
_UNROUND = 0.2  # mean distance to whole numbers; at random it is 0.25
_EXPLAINED = 0.9  # of the variance of pixels, by array positions; a section that was warped a little has more
_INEXACT = 0.04  # of the distance between neighbors
_SAMPLED = 20_000  # positions that are enough to find the step


def grid(
    data: Container,
    *,
    lattice: Literal["auto", "hex", "hexagonal", "square"] = "auto",
    sample_key: str = Key.SAMPLE,
    copy: bool = False,
    table_key: str = Key.TABLE,
) -> Container | None:
    """Give every observation a cell in a dense grid of its section.

    Networks on maps see a section as an image with one pixel per spot or tile. The cells come from the array positions,
    or, in sections without, from the positions in pixels. On a hexagonal lattice, whose neighbors within a row are two
    columns apart (Visium), the grid column is half the array column and the odd grid rows lie half a spot to the right
    of the even ones, so that a full Visium section has 78 × 64 cells :cite:p:`li2026`; the six neighbors of a spot are
    among the eight cells around its own. A square lattice that comes as a checkerboard (row plus column all even or all
    odd, as on Spatial Transcriptomics arrays of 2,000 spots) is turned by 45°, which brings its neighbors, on the
    diagonals, side by side. Other gaps of the lattice stay gaps.

    Features, targets and predictions are rows of the same table, so that all of them land on the same cell.

    Parameters
    ----------
    data
        AnnData, or SpatialData whose table is used.
    lattice
        Lattice of the sections: `"hex"` (or `"hexagonal"`), `"square"` (legacy Spatial Transcriptomics, bins, tiles of a slide), or
        `"auto"` to recognize it in every section: on a hexagonal lattice row and column are both even or both odd (or
        never so), and the distances in pixels fit.
    sample_key
        Column of `obs` that names the section.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes

    - `obs["grid_row"]`, `obs["grid_col"]`: the cell within the section. The first row and column are 0; on a hexagonal
      lattice the first row is 1 where the section then needs a column less.
    - `uns["stpredict"]["grid"]`: by section the `lattice`, the `shape` (rows and columns) and the `source` (`"array"`
      or `"spatial"`).

    Raises
    ------
    KeyError
        When `obs[sample_key]` is missing, or there are neither `obs["array_row"]` and `obs["array_col"]` nor
        `obsm["spatial"]`.
    ValueError
        When two observations share a cell, the lattice is not recognized or is not the one asked for, positions are
        missing, or array positions and pixels do not belong together.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import stpredict as stp
    >>> obs = pd.DataFrame({"sample": "A", "array_row": [0, 0, 1, 1], "array_col": [0, 2, 1, 3]}, index=list("abcd"))
    >>> adata = ad.AnnData(np.ones((4, 1)), obs=obs)
    >>> stp.pp.grid(adata)
    >>> adata.obs[["grid_row", "grid_col"]].to_numpy().tolist()
    [[0, 0], [0, 1], [1, 0], [1, 1]]
    >>> adata.uns["stpredict"]["grid"]["lattice"]
    {'A': 'hex'}
    """
    if is_cohort(data):
        return write_sections(grid, locals())
    container, adata = begin(data, copy, table_key)
    lattice = LATTICE_WORDS.get(lattice, lattice)  # type: ignore[assignment]
    check_choice(lattice, ("auto", *LATTICES), "lattice")
    check_obs(adata, sample_key, "name the sections there, or pass `sample_key=`")
    if adata.obs[sample_key].isna().any():
        raise ValueError(
            f"expected obs[{sample_key!r}] without gaps; found {int(adata.obs[sample_key].isna().sum())} missing values"
        )
    index, xy = _positions(adata)
    if lattice == "auto" and is_tile_table(adata):
        lattice = "square"
    samples = adata.obs[sample_key].astype(str).to_numpy()
    cell = np.zeros((adata.n_obs, 2), dtype=np.int64)
    record: dict[str, dict[str, Any]] = {"lattice": {}, "shape": {}, "source": {}}
    lonely: list[str] = []
    for sample in dict.fromkeys(samples.tolist()):
        section_rows = np.flatnonzero(samples == sample)
        section = _Section(sample, adata.obs_names[section_rows], None if xy is None else xy[section_rows])
        steps = None if index is None else section.array(index[section_rows])
        record["source"][sample] = "spatial" if steps is None else "array"
        recognized: str = lattice
        if len(section_rows) == 1:
            lonely.append(sample)
        elif steps is None:
            steps, recognized = section.derive(lattice)
        elif lattice != "square":
            recognized = section.recognize(steps, lattice)
            if recognized == "square":
                steps = _without_gaps(steps)
        if len(section_rows) > 1:
            assert steps is not None
            section.check_together(steps, recognized)
            cell[section_rows] = section.cells(steps, recognized)
            record["lattice"][sample] = recognized
        record["shape"][sample] = (cell[section_rows].max(axis=0) + 1).tolist()
    for sample in lonely:  # one observation has no neighbors to tell from
        other_lattices = [recognized for name, recognized in record["lattice"].items() if name not in lonely]
        record["lattice"][sample] = lattice if lattice != "auto" else (other_lattices or ["square"])[0]
    adata.obs[Key.GRID_ROW], adata.obs[Key.GRID_COL] = cell[:, 0], cell[:, 1]
    write_record(adata, Key.GRID, record)
    return container if copy else None


def _positions(adata: AnnData) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Array row and column (n, 2), NaN where missing, and x and y in pixels (n, 2), as far as there are any."""
    index = xy = None
    names = [Key.ARRAY_ROW, Key.ARRAY_COL]
    if all(name in adata.obs for name in names):
        kinds = {name: adata.obs[name].dtype for name in names}
        if any(kind.kind not in "iuf" for kind in kinds.values()):
            raise ValueError(f"expected numbers in obs['array_row'] and obs['array_col']; found {kinds}")
        index = np.column_stack([adata.obs[name].to_numpy(dtype=float, na_value=np.nan) for name in names])
    if Key.SPATIAL in adata.obsm:
        xy = positions_of(adata)
    if index is None and xy is None:
        raise KeyError(
            "expected positions in obs['array_row'] and obs['array_col'], or in obsm['spatial']; found none of them; read "
            "the data with stp.io, or put them there"
        )
    return index, xy


@dataclass
class _Section:
    """Positions of one section, and what they say about its lattice.

    Steps are (n, 2) whole numbers, row and column; on a hexagonal lattice a column is half the distance between
    neighbors, as in Visium.
    """

    name: str
    obs_names: pd.Index
    xy: np.ndarray | None

    def array(self, index: np.ndarray) -> np.ndarray | None:
        """Steps from array positions; `None` where the section has none."""
        missing = ~np.isfinite(index).all(axis=1)
        if missing.all():
            return None
        if missing.any():
            raise ValueError(
                f"expected array positions of all observations of section {self.name!r}; found none for "
                f"{few(self.obs_names[missing])}; fill them, or drop these observations"
            )
        steps = np.round(index)
        off = float(np.abs(index - steps).mean())
        if off > _UNROUND:
            raise ValueError(
                f"expected array positions near whole numbers in section {self.name!r}; found {off:.2f} between them on "
                "average; drop obs['array_row'] and obs['array_col'], so that the cells come from obsm['spatial']"
            )
        return steps.astype(np.int64)

    def recognize(self, steps: np.ndarray, lattice: str) -> str:
        """Lattice of array positions, the pixels being the judge where there are any."""
        odd = steps.sum(axis=1) % 2
        if np.ptp(odd):
            if lattice == "hex":
                raise ValueError(
                    f"expected array_row and array_col both even or both odd throughout section {self.name!r} on a "
                    f"hexagonal lattice, as in Visium; found {odd.mean():.0%} that are not; pass lattice='square', or drop "
                    "obs['array_row'] and obs['array_col'], so that the cells come from obsm['spatial']"
                )
            orders = None if self.xy is None or not np.isfinite(self.xy).all() else self._orders()[0]
            if orders is not None and abs(orders["hex"]) > _ORDER > abs(orders["square"]):
                raise ValueError(
                    f"expected array columns that advance by two within a row of section {self.name!r}, whose pixels form "
                    "a hexagonal lattice; found columns that advance by one; double them (2 * array_col + array_row % 2), "
                    "or drop obs['array_row'] and obs['array_col'], so that the cells come from obsm['spatial']"
                )
            return "square"
        if lattice == "hex" or (hexagonal := self._anisotropy(steps, "hexagonal")) is None:
            return "hex"
        if hexagonal <= ANISOTROPY:
            return "hex"
        turned = self._anisotropy(steps[:, ::-1], "hexagonal")
        square = self._anisotropy(steps, "square")
        assert turned is not None
        assert square is not None
        if square <= ANISOTROPY:
            return "square"
        hint = (
            "they look exchanged, exchange obs['array_row'] and obs['array_col']"
            if turned <= ANISOTROPY
            else "pass lattice='hex' or lattice='square'"
        )
        raise ValueError(
            f"expected a square or hexagonal lattice in section {self.name!r}; found array_row and array_col that are both "
            f"even or both odd, as on a hexagonal one, and steps in pixels that differ by a factor of {hexagonal:.2f} from "
            f"it and of {square:.2f} from a square one; {hint}"
        )

    def check_together(self, steps: np.ndarray, lattice: str) -> None:
        """Raise where pixels do not follow the array positions: features would lie on the cells of other spots."""
        if self.xy is None or not np.isfinite(self.xy).all():
            return
        fitted = fit_lattice(steps[:, 0], steps[:, 1], self.xy, _NAMES[lattice])
        if fitted is None:
            return
        explained = 1 - fitted[1] ** 2 / self.xy.var(axis=0).sum()
        if explained < _EXPLAINED:
            raise ValueError(
                f"expected obsm['spatial'] to follow array_row and array_col in section {self.name!r}; found that they "
                f"explain {explained:.0%} of it; check that both belong to the same observations"
            )

    def cells(self, steps: np.ndarray, lattice: str) -> np.ndarray:
        """Rows and columns of the grid (n, 2), from 0, no two of them the same."""
        cell = steps - steps.min(axis=0)
        if lattice == "hex":
            # The odd rows of the grid lie to the right; where that needs a column more, the section begins with row 1.
            cell = min((_offset(cell + (first, 0)) for first in (0, 1)), key=lambda option: option[:, 1].max())
        order = np.lexsort(cell.T)
        same = np.flatnonzero((cell[order][1:] == cell[order][:-1]).all(axis=1))
        if len(same):
            first, second = self.obs_names[np.sort(order[same[0] : same[0] + 2])]
            raise ValueError(
                f"expected one observation in each cell of section {self.name!r}; found {first!r} and {second!r} in one, "
                f"and {len(same)} such pair{'s' if len(same) > 1 else ''} in all; drop one of each, or name sections "
                "apart with `sample_key=`"
            )
        return cell

    def derive(self, lattice: str) -> tuple[np.ndarray, str]:
        """Steps and lattice from the pixels: rows along x, tilted a little at most."""
        xy = self.xy
        if xy is None or not np.isfinite(xy).all():
            bad = self.obs_names if xy is None else self.obs_names[~np.isfinite(xy).all(axis=1)]
            raise ValueError(
                f"expected positions of all observations of section {self.name!r}; found neither array positions nor "
                f"pixels for {few(bad)}; fill them, or drop these observations"
            )
        orders, pitch = self._orders()
        kind = lattice if lattice != "auto" else max(("square", "hex"), key=lambda name: round(abs(orders[name]), 6))
        looks = f"directions of neighbors that repeat every 90° to {abs(orders['square']):.2f} of 1, every 60° to " + (
            f"{abs(orders['hex']):.2f} of 1"
        )
        hint = "pass array positions in obs['array_row'] and obs['array_col']"
        expected_lattice = "a square or hexagonal" if lattice == "auto" else f"a {_NAMES[lattice]}"
        if abs(orders[kind]) < _ORDER:
            raise ValueError(
                f"expected {expected_lattice} lattice of pixel positions in section {self.name!r}; found {looks}; {hint}"
            )
        tilt = np.angle(orders[kind]) / _FOLD[kind]
        if abs(tilt) > np.radians(_TILT):
            raise ValueError(
                f"expected rows of the lattice along x, tilted by at most {_TILT:g}°, in section {self.name!r}; found "
                f"{np.degrees(tilt):.0f}°; {hint}"
            )
        level = xy @ np.array([[np.cos(tilt), -np.sin(tilt)], [np.sin(tilt), np.cos(tilt)]])
        along, down = (_phase(level[:, axis], pitch * _STEP[kind][axis]) for axis in (0, 1))
        row, col = np.round(down), np.round(along)
        if kind == "hex":
            options = [2 * np.round((along - (row + odd) % 2) / 2) + (row + odd) % 2 for odd in (0, 1)]
            col = min(options, key=lambda option: float(((along - option) ** 2).sum()))
        off = np.sqrt((((np.column_stack([along - col, down - row]) * _STEP[kind]) ** 2).sum(axis=1)).mean())
        if off > _OFF:
            raise ValueError(
                f"expected {expected_lattice} lattice of pixel positions in section {self.name!r}; found observations {off:.2f} "
                f"pitches from the nearest {_NAMES[kind]} one on average; {hint}"
            )
        return np.column_stack([row, col]).astype(np.int64), kind

    def _anisotropy(self, steps: np.ndarray, lattice: Literal["hexagonal", "square"]) -> float | None:
        """Ratio of the pixels per step in two directions; `None` where pixels cannot tell."""
        if self.xy is None or not np.isfinite(self.xy).all():
            return None
        fitted = fit_lattice(steps[:, 0], steps[:, 1], self.xy, lattice)
        return None if fitted is None else float(fitted[0][0] / max(fitted[0][1], 1e-12))

    def _orders(self) -> tuple[dict[str, complex], float]:
        """Degree, 0–1, to which directions of neighbors repeat every 90° and every 60°, tilt as phase; the pitch."""
        from scipy.spatial import cKDTree

        assert self.xy is not None
        distance, neighbor = cKDTree(self.xy).query(self.xy, k=min(len(self.xy), 7))
        if len(self.xy) > 1 and not distance[:, 1].min() > 0:
            first = int(np.argmin(distance[:, 1]))
            twins = np.flatnonzero((self.xy == self.xy[first]).all(axis=1))[:2]
            raise ValueError(
                f"expected one observation in each place of section {self.name!r}; found {self.obs_names[twins[0]]!r} and "
                f"{self.obs_names[twins[1]]!r} in one; drop one of them, or name sections apart with `sample_key=`"
            )
        i, k = np.nonzero((distance > 0) & (distance < _NEAR * np.median(distance[:, 1])))
        step = self.xy[neighbor[i, k]] - self.xy[i]
        angle = np.arctan2(step[:, 1], step[:, 0])
        orders = {name: complex(np.exp(1j * fold * angle).mean()) for name, fold in _FOLD.items()}
        return orders, float(distance[i, k].mean())


def _without_gaps(steps: np.ndarray) -> np.ndarray:
    """Steps of a square lattice; those of a checkerboard, whose neighbors lie on the diagonals, turned by 45°."""
    row, col = steps.T
    if np.ptp((row + col) % 2):
        return steps
    return np.column_stack([row + col, col - row]) // 2


def _offset(steps: np.ndarray) -> np.ndarray:
    """Cells (n, 2) of a hexagonal lattice, whose columns advance by one within a row, from column 0."""
    row, col = steps.T
    col = (col - (row + col) % 2 - row % 2) // 2
    return np.column_stack([row, col - col.min()])


def _phase(position: np.ndarray, step: float) -> np.ndarray:
    """Positions (n,) in steps of a lattice whose step is known to a few percent; whole numbers on the lattice."""
    position = position - position.min()
    sampled = position[:: max(1, len(position) // _SAMPLED)]
    n_steps = position.max() / step
    finer = step * np.linspace(1 - _INEXACT, 1 + _INEXACT, 2 * int(np.ceil(8 * _INEXACT * n_steps)) + 3)
    waves = np.array([np.exp(2j * np.pi / candidate * sampled).mean() for candidate in finer])
    best = int(np.argmax(np.abs(waves)))
    return position / finer[best] - np.angle(waves[best]) / (2 * np.pi)
