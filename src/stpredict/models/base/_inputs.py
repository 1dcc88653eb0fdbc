"""What networks may read, by name: declared once, looped over everywhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal


@dataclass(frozen=True)
class Input:
    """One thing that networks read.

    Attributes
    ----------
    name
        What networks put in `needs`, and find in a :class:`~stpredict.models.Batch`.
    axis
        What the first axis counts: the observations of a batch (`"row"`), all observations of the sections that a batch
        touches (`"section"`), or the genes of the panel (`"gene"`: in :class:`~stpredict.models.Panel`, not in a batch).
    shape
        Shape and type, as the table of networks prints them.
    width
        Whether a network has to be told the length of the last axis, and gets its mean and standard deviation.
    mask
        Input that says which places along the second axis are not padding.
    sizes
        Input that says how many values each observation has, where these lie one after the other instead of in rows.
    measured
        Whether it comes from the measurement: shuffled together with the target, and absent at prediction.
    """

    name: str
    axis: Literal["row", "section", "gene"]
    shape: str
    width: bool = False
    mask: str | None = None
    sizes: str | None = None
    measured: bool = False


INPUTS: Mapping[str, Input] = MappingProxyType(
    {
        each.name: each
        for each in (
            Input("features", "row", "(n, d) float32", width=True),
            Input("patches", "row", "(n, 3, h, w) uint8"),
            Input("positions", "row", "(n, 2) float32, x and y in µm"),
            Input("cell", "row", "(n, 2) int64, row and column in the grid of the section"),
            Input("tokens", "row", "(n, n_tokens, d) float32", width=True, mask="token_size"),
            Input("token_size", "row", "(n, n_tokens) float32, tiles behind each token, 0 for padding"),
            Input("neighbors", "row", "(n, n_neighbors, d) float32", width=True, mask="neighbor_mask"),
            Input("neighbor_mask", "row", "(n, n_neighbors) bool"),
            Input("edges", "row", "(n, n_neighbors, d) float32", width=True, mask="boundary_mask"),
            Input("nuclei", "row", "(n, n_neighbors, d) float32", width=True, mask="boundary_mask"),
            Input("boundary_mask", "row", "(n, n_neighbors) bool"),
            Input("nuclei_graph", "row", "(m, d) float32, nuclei of all rows in order", width=True, sizes="n_nuclei"),
            Input("n_nuclei", "row", "(n,) int64"),
            Input("nuclei_links", "row", "(e, 2) int64, from and to which nucleus of its row", sizes="n_links"),
            Input("n_links", "row", "(n,) int64"),
            Input("counts", "row", "(n, n_genes) float32", measured=True),
            Input("size_factor", "row", "(n,) float32, total counts over their median", measured=True),
            Input("sequence", "row", "(n, length) uint8, A 0, C 1, G 2, T 3, others 4; the TSS is at length // 2"),
            Input("sequence_mask", "row", "(n, length) int8, -1 left out, 0 free, 1 always kept"),
            Input("signals", "row", "(n, length, k) float32, tracks along the sequence", width=True),
            Input("sequence_features", "row", "(n, n_windows, d) float32", width=True),
            Input("gene_features", "row", "(n, d) float32", width=True),
            Input("prompt_ids", "row", "(n, n_tokens) int64 tokens of a text about the gene, -1 for padding"),
            Input("section_features", "section", "(m, d) float32", width=True),
            Input("section_positions", "section", "(m, 2) float32, x and y in µm"),
            Input("section_cell", "section", "(m, 2) int64, row and column in the grid of the section"),
            Input("gene_table", "gene", "(n_genes, d) float32", width=True),
        )
    }
)


def check_needs(needs: Iterable[str], what: str) -> frozenset[str]:
    """Return the names as a set; raise `ValueError` where one of them is no input."""
    names = frozenset(needs)
    unknown = sorted(names - INPUTS.keys())
    if unknown:
        raise ValueError(
            f"expected `needs` of {what} among {', '.join(sorted(INPUTS))}; found {', '.join(map(repr, unknown))}"
        )
    return names
