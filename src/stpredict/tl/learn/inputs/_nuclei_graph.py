"""The nuclei around each observation and which of them lie near each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.cohorts._section_nuclei import SectionNuclei
from stpredict.core._file_rows import in_files
from stpredict.core._kept_rows import KeptRows
from stpredict.core._standardized import standardized_by
from stpredict.core._validate import check_finite, check_positive
from stpredict.slots._features import is_tile_table
from stpredict.slots._keys import Key
from stpredict.slots._nuclei import read_nuclei_of
from stpredict.slots._positions import positions_of
from stpredict.slots._provenance import read_record
from stpredict.slots._sections import microns_per_pixel
from stpredict.tl.learn.inputs._reader import Reader, Source

if TYPE_CHECKING:
    from anndata import AnnData

    from stpredict.models import ModelInfo
    from stpredict.training import Ragged

NAME = "nuclei_graph"
#: How far a nucleus whose center lies in a square, and the ring that it is compared with, reach beyond it.
OUTER_UM = 12.0
_CALL = "run stp.pp.nuclei(adata)"


class NucleiGraph(Reader):
    """Nuclei of `config.nuclei_key` in a square of `config.patch_um` µm, linked where `config.radius_um` µm or less apart."""

    names = (NAME, "n_nuclei", "nuclei_links", "n_links")

    def read(self, source: Source) -> dict[str, Any]:
        """Measures of the nuclei of each observation, with the number of each and their links; none is allowed.

        Of a cohort on disk they go through a file, section by section.
        """
        from stpredict.training import Ragged

        config, rows = source.config, source.rows
        in_file = isinstance(source.adata.uns.get(config.nuclei_key), SectionNuclei)
        kept_nodes, kept_links = KeptRows(in_file), KeptRows(in_file)
        sizes: list[tuple[np.ndarray, np.ndarray]] = []
        order = []
        for name in rows.sections:
            index = np.flatnonzero(rows.sample == name)
            mpp = microns_per_pixel(source.adata, name)
            frame = _frame_of(source, name)
            values = node_values(frame, config.measures, config.types, name)
            xy = frame[["x", "y"]].to_numpy(dtype=np.float64) * mpp
            centers = positions_of(source.adata)[rows.index[index]] * mpp
            nodes, n_nodes, links, n_links = graphs_around(xy, centers, config.patch_um, config.radius_um)
            values = values[nodes]
            if source.scaling == "section":
                values = _standardized(values, np.ones(len(values), dtype=bool), len(config.measures))
            kept_nodes.append(values)
            kept_links.append(links)
            sizes.append((n_nodes, n_links))
            order.append(index)
        n_nodes, n_links = (np.concatenate(part) for part in zip(*sizes, strict=True))
        # Sections one after the other, back in the order of the rows.
        place = np.argsort(np.concatenate(order), kind="stable")
        return {
            NAME: Ragged(kept_nodes.rows(), n_nodes).take(place),
            "n_nuclei": n_nodes[place],
            "nuclei_links": Ragged(kept_links.rows(), n_links).take(place),
            "n_links": n_links[place],
        }


def _frame_of(source: Source, name: str) -> Any:
    """Nuclei of a section, found in the way of those that the network was trained on."""
    data, adata, key = source.data, source.adata, source.config.nuclei_key
    slide = is_tile_table(adata)
    record = (data.attrs.get(Key.UNS, {}).get(key) if slide else read_record(adata, key)) or {}
    wanted, found = source.config.nuclei_method, record.get("method")
    if wanted is not None and found is not None and wanted != found:
        raise ValueError(
            f"expected nuclei of {key!r} found as those of the training were, by {wanted!r}; found {found!r}; run stp.pp.nuclei "
            "in the same way for all sections"
        )
    return read_nuclei_of(data, None if slide else adata, key, name, outlines=False)


def node_values(frame: Any, measures: Sequence[str], types: Sequence[str] | None, name: str) -> np.ndarray:
    """Measures (n, d) float32 of nuclei, and a column of 0 and 1 for each type, whichever types these nuclei are of."""
    missing = [each for each in measures if each not in frame]
    if missing:
        raise KeyError(
            f"expected {', '.join(missing)} of the nuclei of section {name!r}; found {', '.join(map(str, frame.columns))}; {_CALL}"
        )
    values = frame[list(measures)].to_numpy(dtype=np.float64)
    check_finite(values, f"measures of the nuclei of section {name!r}", _CALL)
    kinds = np.asarray(frame["type"].astype(str)) if "type" in frame else np.full(len(frame), "")
    columns = [(kinds == kind)[:, None] for kind in types or ()]
    return np.concatenate([values, *columns], axis=1).astype(np.float32)


def graphs_around(
    xy: np.ndarray, centers: np.ndarray, side_um: float, radius_um: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Nuclei in squares around positions, and links between those of a square that lie near each other.

    Parameters
    ----------
    xy
        (m, 2) centers of nuclei in µm.
    centers
        (n, 2) centers of the squares in µm.
    side_um
        Side of the squares.
    radius_um
        Largest distance between nuclei that are linked.

    Returns
    -------
    Numbers of the nuclei (k,) of one square after the other and how many each has (n,); links (e, 2) of one square after
    the other, each in both directions, between nuclei as they are counted within their square, and how many each has (n,).
    """
    from scipy.spatial import KDTree

    half, radius = check_positive(side_um, "patch_um") / 2, check_positive(radius_um, "radius_um")
    n = len(centers)
    if not len(xy):
        nothing = np.zeros(0, dtype=np.int64)
        return nothing, np.zeros(n, np.int64), np.zeros((0, 2), np.int64), np.zeros(n, np.int64)
    tree = KDTree(xy)
    inside = tree.query_ball_point(centers, half, p=np.inf, return_sorted=True)
    n_nodes = np.array([len(part) for part in inside], dtype=np.int64)
    nodes = np.concatenate([np.asarray(part, dtype=np.int64) for part in inside])
    square = np.repeat(np.arange(n), n_nodes)

    pairs = tree.query_pairs(radius, output_type="ndarray").astype(np.int64).reshape(-1, 2)
    pairs = np.concatenate([pairs, pairs[:, ::-1]])
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    degree = np.bincount(pairs[:, 0], minlength=len(xy))
    first = np.cumsum(degree) - degree
    # Every nucleus of every square with all of its neighbors; those of other squares go.
    number = degree[nodes]
    source = np.repeat(np.arange(len(nodes)), number)
    at = np.arange(number.sum()) + np.repeat(first[nodes] - (np.cumsum(number) - number), number)
    key = square * len(xy) + nodes  # ascending, as squares and the nuclei of each are
    wanted = square[source] * len(xy) + pairs[at, 1]
    target = np.minimum(np.searchsorted(key, wanted), len(key) - 1) if len(key) else at
    kept = key[target] == wanted
    source, target = source[kept], target[kept]
    start = np.cumsum(n_nodes) - n_nodes
    links = np.stack([source - start[square[source]], target - start[square[target]]], axis=1)
    return nodes, n_nodes, links, np.bincount(square[source], minlength=n)


def nodes_within_sections(graph: Ragged, sample: np.ndarray, by: np.ndarray, n_measures: int) -> Ragged:
    """Measures of nuclei standardized within each section by those of some observations, mask (n,); types as they are."""
    from stpredict.training import Ragged

    kept, order = KeptRows(in_files(graph.values)), []
    for name in np.unique(sample):
        rows = np.flatnonzero(sample == name)
        kept.append(_standardized(graph[rows], np.repeat(by[rows], graph.size[rows]), n_measures))
        order.append(rows)
    whole = np.concatenate(order)
    return Ragged(kept.rows(), graph.size[whole]).take(np.argsort(whole, kind="stable"))


def _standardized(values: np.ndarray, by: np.ndarray, n_measures: int) -> np.ndarray:
    """Measures of the nuclei of a section standardized by some of them; types as they are."""
    scaled = standardized_by(values[:, :n_measures], np.zeros(len(values)), by)
    return np.concatenate([scaled, values[:, n_measures:]], axis=1)


def with_nuclei(adata: AnnData, info: ModelInfo, options: dict[str, Any]) -> dict[str, Any]:
    """Hyperparameters of a network on nuclei, with the types and the method of :func:`stpredict.pp.nuclei` in this object.

    What a network reads of a nucleus is decided here: it does not depend on which types another section has.
    """
    if NAME not in info.reads(options):
        return options
    config = info.configure(options)
    record = read_record(adata, config.nuclei_key)
    if record is None:
        raise KeyError(
            f"expected a record of {config.nuclei_key!r}; found none; {_CALL}, or name the nuclei by nuclei_key"
        )
    found = {"types": tuple(record.get("types", ())), "nuclei_method": record.get("method")}
    return options | {name: value for name, value in found.items() if getattr(config, name) is None}
