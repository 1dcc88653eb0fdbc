"""Compare predicted maps with spatial transcriptomics of the same sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_counts, check_finite, check_positive, check_unique
from stpredict.metrics._emd import Method, resolve_method
from stpredict.metrics._log_normalize import log_normalize
from stpredict.slots._checks import check_genes, check_layer, check_obs, check_obsm
from stpredict.slots._container import begin, find_table, get_table
from stpredict.slots._expression import in_tissue, measured_matrix, to_dense
from stpredict.slots._keys import Key, check_key
from stpredict.slots._positions import positions_of
from stpredict.slots._prediction import prediction_frame, write_prediction
from stpredict.slots._truth import check_of_genes
from stpredict.tl.maps._windows import neighborhoods

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container

_PITCHES = 1.5  # a tile farther than this from every spot was not measured
_SAME = 1e-9  # of a standard deviation: sums in another order differ by less
_BLOCK = 2**20  # values of a block of genes, each with the places of a filter around it
MEASURED_ST = "measured_st"


def compare_to_st(
    data: Container,
    spots: Container,
    *,
    key: str = Key.PREDICTED,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    spots_to_tiles: float | np.ndarray | None = None,
    n_neighbors: int = 4,
    median_filter: int | None = 3,
    max_distance_um: float | None = None,
    min_unique: int = 10,
    method: Method = "exact",
    n_jobs: int = 1,
    sample_key: str = Key.SAMPLE,
    key_added: str | None = MEASURED_ST,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Compare predicted maps of tiles with spots that were measured on the same sections.

    The measured values are normalized (median total, log1p) and standardized per gene within the section, averaged over
    the spots nearest to the center of each tile, and smoothed by a median filter on the lattice of the tiles, as in
    :cite:p:`pizurica2024`. Measured and predicted maps then become percentiles over the tiles of the section, so that
    neither unit nor scale matters: `pearson` is the correlation of percentiles, and `emd` the earth mover's distance
    between the maps of percentiles as a fraction of the bounding box's diagonal. Smooth predictions score well in `emd`
    by construction; judge it against `emd_uniform`, the distance to a map without any pattern.

    The median filter smooths the truth. It is the published comparison; for scores on unsmoothed spots predict them
    and use :func:`stpredict.tl.evaluate`.

    Parameters
    ----------
    data
        Tiles with a predicted map, as :func:`stpredict.tl.predict` leaves them: AnnData or slide (SpatialData).
    spots
        Measured spots of the same sections, with positions in `obsm["spatial"]`. Sections are matched by name; one
        section is matched with one slide whatever their names.
    key
        Slot of the prediction in `obsm` of `tiles`.
    genes
        Genes to compare; all that were both predicted and measured when `None`. The exact distance solves two transport
        problems per gene: name the genes when there are more than a few hundred.
    layer
        Layer of `spots` with normalized values, which are then only standardized; `"X"` for `X`. When `None`, the raw
        counts in `layers["counts"]` are normalized.
    spots_to_tiles
        Transformation from positions of spots to pixels of the slide at full resolution: a factor, or an affine matrix
        (2, 3) that is applied to (x, y, 1); none when `None`.
    n_neighbors
        Number of spots averaged for each tile.
    median_filter
        Side of the median filter in tiles, odd; no filter when `None`. The median is over the tiles that exist, where
        they are more than half of the places; other tiles keep their value.
    max_distance_um
        Distance in µm from a tile to its nearest spot beyond which the tile is left out; 1.5 times the distance between
        spots when `None`.
    min_unique
        Smallest number of different measured values of a gene on the tiles of a section; the scores of other genes are
        NaN.
    method
        Kind of distance: `"exact"`, `"sliced"` or `"auto"`, see :func:`stpredict.metrics.emd`. Exact distances of 4,000
        tiles take seconds to minutes per gene.
    n_jobs
        Number of joblib threads for exact distances.
    sample_key
        Column of `obs` that names the section, in both.
    key_added
        Slot of `tiles` for the measured map; `None` for none.
    table_key
        Table of a SpatialData; of a slide, the table with the prediction is found.

    Returns
    -------
    Table with one row per gene and section and the columns `gene`, `sample`, `pearson`, `emd`, `emd_uniform`, `n_tiles`
    (compared), `n_left_out` (tiles too far from every spot), `n_unique` (different measured values) and `method`.
    Writes to `tiles`

    - `obsm[key_added]`: float32 (n_tiles, n_genes), the measured map that was compared, in standard deviations over
      the spots of the section; NaN for tiles that were left out;
    - `uns["stpredict"][key_added]`: `layer`, `n_neighbors` and `median_filter`.

    Raises
    ------
    KeyError
        When the prediction, genes, positions or counts are missing, or no section is in both.
    ValueError
        When no tile is near a spot, or an option is out of range; or when the genes of the prediction are not known.
    TypeError
        When an object is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> row, col = np.mgrid[:8, :8].reshape(2, -1)
    >>> tiles = ad.AnnData(obs=pd.DataFrame({"sample": "s", "array_row": row, "array_col": col}).rename(index=str))
    >>> tiles.obsm["spatial"] = np.column_stack([col, row]) * 256.0
    >>> tiles.obsm["predicted"] = pd.DataFrame({"A": row * 1.0, "B": col * 1.0}, index=tiles.obs_names)
    >>> counts = np.random.default_rng(0).poisson(np.column_stack([row, 9 - row, 9 + 0 * row]) * 10.0)
    >>> spots = ad.AnnData(counts, var=pd.DataFrame(index=["A", "B", "C"]), obsm={"spatial": tiles.obsm["spatial"]})
    >>> spots.layers["counts"] = spots.X.copy()
    >>> scores = stp.tl.compare_to_st(tiles, spots)
    >>> (scores["pearson"] > 0.9).tolist()
    [True, False]
    """
    import pandas as pd

    check_key(key_added)
    table_key = find_table(data, table_key, key)
    table, measured = get_table(data, table_key), get_table(spots)
    affine = _affine(spots_to_tiles)
    side = _check_options(n_neighbors, median_filter, min_unique)
    check_of_genes(table, key)
    frame = prediction_frame(table, key, _shared_genes(table, measured, key, genes))
    names = list(frame.columns)
    for name in (sample_key, Key.ARRAY_ROW, Key.ARRAY_COL):
        check_obs(table, name, "predict the tiles of a slide, which have a name and a place on a lattice")
    for part, what in ((table, "tiles"), (measured, "spots")):
        check_obsm(part, Key.SPATIAL, f"write the positions of the {what} there")
    check_genes(measured, names)
    if layer is None:
        check_layer(measured, Key.COUNTS, "put raw counts there, or name normalized values with `layer=` ('X' for X)")
    elif layer != "X":
        check_layer(measured, layer, "name the layer of normalized values")

    filled = np.full((table.n_obs, len(names)), np.nan, dtype=np.float32) if key_added is not None else None
    parts = []
    for name, at_tiles, at_spots in _pairs(table, measured, sample_key):
        xy_tiles = positions_of(table)[at_tiles]
        xy_spots = positions_of(measured)[at_spots] @ affine[:, :2].T + affine[:, 2]
        limit = None if max_distance_um is None else _pixels(table, name, max_distance_um)
        weights, near = nearest_spots(xy_tiles, xy_spots, n_neighbors, limit, name)
        rows = at_tiles[near]
        predicted = frame.iloc[rows].to_numpy()
        check_finite(predicted, f"predictions in obsm[{key!r}]", "leave out tiles without a prediction")
        around = None
        if side > 1:
            row, col = (table.obs[axis].to_numpy()[rows] for axis in (Key.ARRAY_ROW, Key.ARRAY_COL))
            around = neighborhoods(row, col, side)
        truth = _truth(measured, names, at_spots, layer, weights, around)
        used = resolve_method(method, len(rows), 1500)
        scores = score_maps(truth, predicted, xy_tiles[near], min_unique=min_unique, method=used, n_jobs=n_jobs)
        left_out = len(at_tiles) - len(rows)
        counts = {"n_tiles": len(rows), "n_left_out": left_out, "n_unique": scores.pop("n_unique"), "method": used}
        parts.append(pd.DataFrame({"gene": names, "sample": name} | scores | counts))
        if filled is not None:
            filled[rows] = truth
    if filled is not None and key_added is not None:
        _, table = begin(data, False, table_key)
        options = {"layer": layer or Key.COUNTS, "n_neighbors": n_neighbors, "median_filter": side}
        write_prediction(table, key_added, pd.DataFrame(filled, index=table.obs_names, columns=names), options)
    return pd.concat(parts, ignore_index=True)


def nearest_spots(
    tiles: np.ndarray, spots: np.ndarray, n_neighbors: int, limit: float | None, name: str
) -> tuple[Any, np.ndarray]:
    """Weights of the spots nearest to each tile, and the tiles that have one near.

    Parameters
    ----------
    tiles, spots
        Positions (n_tiles, 2) and (n_spots, 2) in the same pixels.
    n_neighbors
        Number of spots.
    limit
        Largest distance to the nearest one; 1.5 times the median distance between neighboring spots when `None`.
    name
        Name of the section, for errors.

    Returns
    -------
    Sparse matrix (n_kept, n_spots) whose rows sum to 1, and the numbers of the tiles kept (n_kept,).
    """
    from scipy import sparse
    from scipy.spatial import KDTree

    check_finite(tiles, f"positions of the tiles of {name!r}", f"correct obsm[{Key.SPATIAL!r}]")
    check_finite(spots, f"positions of the spots of {name!r}", f"correct obsm[{Key.SPATIAL!r}]")
    if len(spots) < max(n_neighbors, 2):
        raise ValueError(f"expected at least {max(n_neighbors, 2)} spots in section {name!r}; found {len(spots)}")
    tree = KDTree(spots)
    if limit is None:
        limit = _PITCHES * float(np.median(tree.query(spots, k=2)[0][:, 1]))
    distance, index = tree.query(tiles, k=list(range(1, n_neighbors + 1)))
    near = np.flatnonzero(distance[:, 0] <= limit)
    if len(near) < 2:
        boxes = [" to ".join(str(end(part, axis=0).round().astype(int).tolist()) for end in (np.min, np.max)) for part in (tiles, spots)]  # fmt: skip
        raise ValueError(
            f"expected tiles of {name!r} within {limit:.0f} px of a spot; found {len(near)}: tiles at x, y from "
            f"{boxes[0]}, spots from {boxes[1]}; bring the spots into the pixels of the slide with `spots_to_tiles=`"
        )
    kept = index[near]
    place = np.repeat(np.arange(len(near)), n_neighbors), kept.ravel()
    return sparse.csr_matrix((np.full(kept.size, 1 / n_neighbors), place), shape=(len(near), len(spots))), near


def median_of_neighbors(values: np.ndarray, around: np.ndarray) -> np.ndarray:
    """Median over the tiles around each one, where more than half of the places hold one; its own value elsewhere.

    Parameters
    ----------
    values
        (n_tiles, g).
    around
        Numbers of the tiles at the places around each (n_tiles, n_places), -1 for none.
    """
    exists = around >= 0
    n_there = exists.sum(axis=1)
    full = np.flatnonzero(2 * n_there > around.shape[1])
    result = values.copy()
    width = max(1, _BLOCK // max(1, len(full) * around.shape[1]))
    middle = np.stack([(n_there[full] - 1) // 2, n_there[full] // 2], axis=1)[:, :, None]
    for start in range(0, values.shape[1], width):
        block = values[:, start : start + width]
        sorted_values = np.where(exists[full, :, None], block[around[full]], np.inf)
        sorted_values.sort(axis=1)
        result[full, start : start + width] = np.take_along_axis(sorted_values, middle, axis=1).mean(axis=1)
    return result


def score_maps(
    truth: np.ndarray, predicted: np.ndarray, xy: np.ndarray, *, min_unique: int, method: Method, n_jobs: int
) -> dict[str, np.ndarray]:
    """Score predicted against measured maps (n_tiles, n_genes) as percentiles.

    Returns
    -------
    `pearson`, `emd`, `emd_uniform` and `n_unique`, (n_genes,) each.
    """
    from stpredict.metrics import emd, emd_uniform, pearson

    ordered = np.sort(truth, axis=0)
    n_unique = 1 + (np.diff(ordered, axis=0) > _SAME).sum(axis=0)
    scores = {name: np.full(truth.shape[1], np.nan) for name in ("pearson", "emd", "emd_uniform")}
    varied = np.flatnonzero(n_unique >= min_unique)
    if len(varied):
        truth, predicted = percentiles(truth[:, varied]), percentiles(predicted[:, varied])
        options: dict[str, Any] = {"method": method, "n_jobs": n_jobs}
        scores["pearson"][varied] = pearson(truth, predicted)
        scores["emd"][varied] = emd(truth, predicted, xy, **options)
        scores["emd_uniform"][varied] = emd_uniform(truth, xy, **options)
    return scores | {"n_unique": n_unique}


def percentiles(values: np.ndarray) -> np.ndarray:
    """Percentile of each value among its column (n, g): average rank, from above 0 to 100."""
    from scipy.stats import rankdata

    return 100 * rankdata(values, axis=0) / len(values)


def _truth(
    spots: AnnData, genes: list[str], rows: np.ndarray, layer: str | None, weights: Any, around: np.ndarray | None
) -> np.ndarray:
    """Measured map (n_kept, n_genes): standardized spots, averaged at the tiles and filtered."""
    if layer is None:
        counts = spots.layers[Key.COUNTS][rows]
        check_counts(counts, "counts of the spots")
        totals = np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()
        target = float(np.median(totals[totals > 0])) if (totals > 0).any() else 1.0
        columns = spots.var_names.get_indexer(genes)
        values = to_dense(log_normalize(counts[:, columns], totals, target)).astype(np.float64)
    else:
        values = to_dense(measured_matrix(spots, genes, rows, None if layer == "X" else layer)).astype(np.float64)
        check_finite(values, "values of the spots", "leave unmeasured spots out with obs['in_tissue']")
    largest = np.abs(values).max(axis=0)
    values -= values.mean(axis=0)
    std = values.std(axis=0, ddof=1)
    values /= np.where(std > _SAME * largest, std, np.inf)
    values = weights @ values
    return values if around is None else median_of_neighbors(values, around)


def _shared_genes(tiles: AnnData, spots: AnnData, key: str, genes: Sequence[str] | None) -> Sequence[str]:
    if genes is not None:
        return list(genes)
    check_unique(spots.var_names, "var_names of the spots")
    columns = prediction_frame(tiles, key).columns
    shared = list(columns[columns.isin(spots.var_names)])
    if not shared:
        raise KeyError(
            f"expected genes that were predicted and measured; found none in common: predicted {list(columns[:3])}, "
            f"measured {list(spots.var_names[:3])}; bring both to the same names"
        )
    return shared


def _pairs(tiles: AnnData, spots: AnnData, sample_key: str) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """Name, rows of tiles and rows of spots of each section that is in both."""
    import pandas as pd

    of_tiles = tiles.obs[sample_key].astype(str).to_numpy()
    one = np.full(spots.n_obs, of_tiles[0] if len(of_tiles) else "")
    of_spots = spots.obs[sample_key].astype(str).to_numpy() if sample_key in spots.obs else one
    on_tiles, on_spots = in_tissue(tiles), in_tissue(spots)
    slides, sections = pd.unique(of_tiles[on_tiles]), pd.unique(of_spots[on_spots])
    matched = [(str(name), str(name)) for name in slides if name in set(sections)]
    if len(slides) == len(sections) == 1:
        matched = [(str(slides[0]), str(sections[0]))]
    if not matched:
        raise KeyError(
            f"expected sections that are in both; found slides {list(slides[:5])} and sections {list(sections[:5])} in "
            f"obs[{sample_key!r}]; name them alike"
        )
    return [
        (slide, np.flatnonzero(on_tiles & (of_tiles == slide)), np.flatnonzero(on_spots & (of_spots == section)))
        for slide, section in matched
    ]


def _affine(value: Any) -> np.ndarray:
    """Matrix (2, 3) from spots to tiles."""
    if value is None or np.ndim(value) == 0:
        factor = 1.0 if value is None else check_positive(value, "spots_to_tiles")
        return np.array([[factor, 0, 0], [0, factor, 0]])
    matrix = np.asarray(value, dtype=float)
    if matrix.shape != (2, 3) or not np.isfinite(matrix).all():
        raise ValueError(f"expected spots_to_tiles to be a factor or a finite matrix (2, 3); found {matrix.shape}")
    return matrix


def _check_options(n_neighbors: int, median_filter: int | None, min_unique: int) -> int:
    """Side of the median filter."""
    if n_neighbors < 1 or min_unique < 2:
        raise ValueError(f"expected n_neighbors >= 1 and min_unique >= 2; found {n_neighbors} and {min_unique}")
    if median_filter is None:
        return 1
    if median_filter < 1 or median_filter % 2 == 0:
        raise ValueError(f"expected median_filter to be an odd number of tiles, or None; found {median_filter!r}")
    return int(median_filter)


def _pixels(tiles: AnnData, sample: str, length_um: float) -> float:
    from stpredict.io._image import microns_per_pixel

    return check_positive(length_um, "max_distance_um") / microns_per_pixel(tiles, sample)
