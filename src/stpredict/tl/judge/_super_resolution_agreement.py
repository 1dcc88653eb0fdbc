"""Super-resolved maps against cells that were measured one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_finite, check_unique, few
from stpredict.slots._checks import check_obs, check_obsm
from stpredict.slots._dense_map import DenseMap
from stpredict.slots._depth import total_counts
from stpredict.slots._expression import in_tissue, measured_matrix, to_dense
from stpredict.slots._keys import Key
from stpredict.slots._matrix import numeric_matrix
from stpredict.slots._positions import positions_of
from stpredict.slots._sections import section_entry

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

MAP, COPIED, INTERPOLATED = "map", "nearest spot", "interpolated"
_NEAREST, _POWER = 6, 2.0
_BLOCK = 2**14  # places that are read at once


def super_resolution_agreement(
    maps: Mapping[str, DenseMap],
    cells: AnnData,
    spots: AnnData | None = None,
    *,
    microns: Sequence[float] = (8, 16, 32),
    genes: Sequence[str] | None = None,
    min_cells: int = 1,
    sample_key: str = Key.SAMPLE,
) -> pd.DataFrame:
    """Correlate maps with the cells of the same sections, place by place, beside what spots alone say.

    The counts of the cells in a place are added up, and turned into what the map is of: Pearson residuals of the places with
    cells, so that a place of many cells is not ahead of one of few; or counts, where counts were learned.

    Two lines stand beside the map, which need no picture: the value of the nearest spot, which is a spot's own inside its disk,
    and the mean of the six nearest spots, weighted by the inverse square of their distance.

    Parameters
    ----------
    maps
        Maps of :func:`stpredict.tl.super_resolve` by section.
    cells
        Cells with counts in `layers["counts"]` or `X`, and positions in `obsm["spatial"]` in the pixels of the map.
    spots
        Spots that the maps were learned from; without them there is nothing beside the map.
    microns
        Sides of the places to compare, multiples of that of the maps.
    genes
        Genes to compare; all that map and cells have when `None`.
    min_cells
        Cells of a place that is compared, at least.
    sample_key
        Column of `obs` that names the section; cells without it are of the only map.

    Returns
    -------
    Table with a row per section, size, part of the section, line and gene: `sample`, `microns`, `where` (`"all"`, and with spots
    `"inside"` and `"between"` their disks), `model` (`"map"`, `"nearest spot"`, `"interpolated"`), `gene`, `pearson` (NaN where
    undefined), `n_places`.

    Raises
    ------
    KeyError
        When positions, sections or genes are missing.
    ValueError
        When no cell lies on a map, counts are none, or sizes are no multiples of that of the map.

    Examples
    --------
    >>> import anndata as ad, numpy as np
    >>> import stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> cells = ad.AnnData(rng.poisson(3, (50, 2)).astype("float32"))
    >>> cells.var_names, cells.obsm["spatial"] = ["A", "B"], rng.uniform(0, 80, (50, 2))
    >>> dense = stp.pp.DenseMap(rng.normal(size=(10, 10, 2)), 8, 1.0, names=["A", "B"])
    >>> stp.tl.super_resolution_agreement({"S1": dense}, cells, microns=[8])["model"].tolist()
    ['map', 'map']
    """
    import pandas as pd

    check_obsm(cells, Key.SPATIAL, "give the positions of the cells, in pixels of the full-resolution image")
    check_unique(cells.var_names, "var_names of the cells")
    tables = []
    for sample, dense in maps.items():
        rows = _rows_of(cells, sample, sample_key, alone=len(maps) == 1)
        shared = _shared(dense, cells, spots, genes)
        if not len(rows):
            continue
        truth = _Cells.of(cells, rows, shared)
        beside = None if spots is None else _Spots.of(spots, sample, dense, shared, sample_key)
        for size in microns:
            factor = float(size) / dense.microns
            if round(factor) < 1 or abs(factor - round(factor)) > 0.01 * factor:
                raise ValueError(
                    f"expected microns as whole multiples of {dense.microns:g}, the places of the map; found {size:g}"
                )
            tables += _compared(sample, dense, round(factor), truth, beside, shared, min_cells)
    if not tables:
        raise ValueError("expected cells on the maps, in the pixels of their sections; found none")
    return pd.concat(tables, ignore_index=True)


def _rows_of(adata: AnnData, sample: str, sample_key: str, *, alone: bool) -> np.ndarray:
    if sample_key not in adata.obs and alone:
        return np.arange(adata.n_obs)
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    return np.flatnonzero(adata.obs[sample_key].astype(str) == sample)


def _shared(dense: DenseMap, cells: AnnData, spots: AnnData | None, genes: Sequence[str] | None) -> list[str]:
    """Genes of the map that are compared."""
    known = set(cells.var_names) if spots is None else set(cells.var_names) & set(spots.var_names)
    found = [name for name in dense.names if name in known]
    if genes is None:
        if not found:
            raise KeyError(f"expected genes of the map among those of the cells; found none of {few(dense.names)}")
        return found
    if missing := [gene for gene in genes if gene not in set(found)]:
        raise KeyError(f"expected genes of map and cells; found {few(missing)} missing in one of them")
    return list(genes)


class _Cells:
    """Counts (n, g) of cells, their depth (n,) and positions (n, 2)."""

    def __init__(self, counts: np.ndarray, depth: np.ndarray, xy: np.ndarray) -> None:
        self.counts, self.depth, self.xy = counts, depth, xy

    @classmethod
    def of(cls, adata: AnnData, rows: np.ndarray, genes: Sequence[str]) -> _Cells:
        """Read the cells of a section."""
        from stpredict.core._validate import check_counts

        matrix: Any = numeric_matrix(adata.layers.get(Key.COUNTS, adata.X), "counts of the cells")[rows]
        check_counts(matrix, "counts of the cells")
        xy = positions_of(adata)[rows]
        check_finite(xy, "positions of the cells", "drop these cells")
        counts = to_dense(matrix[:, adata.var_names.get_indexer(list(genes))]).astype(np.float64)
        return cls(counts, total_counts(matrix), xy)


class _Spots:
    """Values (n, g) of spots in the unit of the map, their positions (n, 2), and their radius in pixels."""

    def __init__(self, values: np.ndarray, xy: np.ndarray, radius: float) -> None:
        self.values, self.xy, self.radius = values, xy, radius

    @classmethod
    def of(cls, adata: AnnData, sample: str, dense: DenseMap, genes: Sequence[str], sample_key: str) -> _Spots:
        """Read the measured spots of a section."""
        check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
        rows = np.flatnonzero((adata.obs[sample_key].astype(str) == sample).to_numpy() & in_tissue(adata))
        counts = bool(dense.record.get("counts"))
        values = to_dense(measured_matrix(adata, genes, rows, Key.COUNTS if counts else None)).astype(np.float64)
        known = np.isfinite(values).all(axis=1)
        if not known.any():
            raise ValueError(
                f"expected measured spots of section {sample!r} beside its map; found none; leave `spots=` out"
            )
        diameter = section_entry(adata, sample).get("scalefactors", {}).get("spot_diameter_fullres")
        radius = 0.0 if diameter is None else float(diameter) / 2
        if counts:
            values = values / float(dense.record["n_places"])
        return cls(values[known], positions_of(adata)[rows[known]], radius)

    def lines(self, xy: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Values (m, g) at positions (m, 2) that need no picture, and which positions are inside a spot (m,)."""
        from scipy.spatial import KDTree

        k = min(_NEAREST, len(self.xy))
        distance, near = (found.reshape(len(xy), k) for found in KDTree(self.xy).query(xy, k=k))
        weight = 1 / np.maximum(distance, 1e-6) ** _POWER
        mean = np.einsum("mk,mkg->mg", weight / weight.sum(axis=1, keepdims=True), self.values[near])
        return {COPIED: self.values[near[:, 0]], INTERPOLATED: mean}, distance[:, 0] <= self.radius


def _compared(
    sample: str, dense: DenseMap, factor: int, cells: _Cells, spots: _Spots | None, genes: Sequence[str], min_cells: int
) -> list[pd.DataFrame]:
    """Tables of one size of places."""
    import pandas as pd

    from stpredict.metrics import pearson

    coarse = dense.coarser(factor)
    place, truth = _binned(coarse, cells, min_cells, counts=bool(dense.record.get("counts")))
    if not len(place):
        return []
    lines = {MAP: _values_at(coarse, place, [list(dense.names).index(gene) for gene in genes])}
    parts = {"all": np.ones(len(place), dtype=bool)}
    if spots is not None:
        center = (place[:, ::-1] + 0.5) * coarse.side_px + np.asarray(coarse.origin)
        told, inside = spots.lines(center)
        lines |= told
        parts |= {"inside": inside, "between": ~inside}
    tables = []
    for where, rows in parts.items():
        if not rows.any():
            continue
        for model, values in lines.items():
            head = {"sample": sample, "microns": coarse.microns, "where": where, "model": model, "gene": list(genes)}
            scores = {"pearson": pearson(truth[rows], values[rows]), "n_places": int(rows.sum())}
            tables.append(pd.DataFrame(head | scores))
    return tables


def _binned(dense: DenseMap, cells: _Cells, min_cells: int, *, counts: bool) -> tuple[np.ndarray, np.ndarray]:
    """Places (m, 2) with cells, and what was measured there (m, g)."""
    from scipy.sparse import csr_array

    from stpredict.metrics import pearson_residuals

    place = dense.places(cells.xy)
    on = ((place >= 0) & (place < dense.shape[:2])).all(axis=1)
    found, code, size = np.unique(place[on], axis=0, return_inverse=True, return_counts=True)
    add = csr_array(
        (np.ones(int(on.sum())), (code.ravel(), np.arange(int(on.sum())))), shape=(len(found), int(on.sum()))
    )
    sums, depth = add @ cells.counts[on], add @ cells.depth[on]
    kept = (size >= min_cells) & (depth > 0)
    if not kept.any():
        return found[kept], sums[kept]
    return found[kept], sums[kept] if counts else np.asarray(pearson_residuals(sums[kept], depth[kept]))


def _values_at(dense: DenseMap, place: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """Values (m, g) of some places, read block by block."""
    values = np.empty((len(place), len(columns)))
    step = max(1, _BLOCK // dense.shape[1])
    for top in range(0, dense.shape[0], step):
        here = np.flatnonzero((place[:, 0] >= top) & (place[:, 0] < top + step))
        if len(here):
            block = dense.rows(top, min(top + step, dense.shape[0]))
            values[here] = block[place[here, 0] - top, place[here, 1]][:, columns]
    return values
