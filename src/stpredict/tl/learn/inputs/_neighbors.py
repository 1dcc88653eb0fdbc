"""Features of the tiles around each observation, and of what is drawn of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stpredict.core._file_rows import FileRows, read_rows, rows_in_file
from stpredict.core._file_squares import FileSquares, SquarePart, middle_scales
from stpredict.core._validate import check_finite, few
from stpredict.slots._booleans import read_bool
from stpredict.slots._checks import check_obsm
from stpredict.slots._keys import Key
from stpredict.slots._made import differing
from stpredict.slots._matrix import numeric_matrix, single_precision
from stpredict.slots._provenance import read_record
from stpredict.tl.learn.inputs._reader import Reader, Source

#: Inputs that are squares of tiles, and their masks.
SQUARES = {"neighbors": "neighbor_mask", "edges": "boundary_mask", "nuclei": "boundary_mask"}


class Neighbors(Reader):
    """`obsm["X_{encoder}_neighbors"]` (n_obs, n_neighbors, d), and beside it which of these tiles exist."""

    names = ("neighbors", "neighbor_mask")

    def read(self, source: Source) -> dict[str, Any]:
        """Features (n, n_neighbors, d) float32 and mask (n, n_neighbors) bool; several encoders side by side."""
        values, mask = _squares(source, Key.neighbors, Key.neighbor_mask, "neighbor_features")
        return {"neighbors": values, "neighbor_mask": mask}


class Boundaries(Reader):
    """`obsm["X_{encoder}_edges"]` and `obsm["X_{encoder}_nuclei"]`, (n_obs, n_neighbors, d) each, with their mask."""

    names = ("edges", "nuclei", "boundary_mask")

    def read(self, source: Source) -> dict[str, Any]:
        """Features (n, n_neighbors, d) float32 and mask (n, n_neighbors) bool; several encoders side by side."""
        edges, mask = _squares(source, Key.edges, Key.boundary_mask, "boundary_features")
        nuclei, _ = _squares(source, Key.nuclei_drawn, Key.boundary_mask, "boundary_features")
        return {"edges": edges, "nuclei": nuclei, "boundary_mask": mask}


def _squares(
    source: Source, of: Callable[[str], str], mask_of: Callable[[str], str], function: str
) -> tuple[Any, np.ndarray]:
    """Features of the squares of tiles of all encoders side by side, 0 outside their common mask, and the mask.

    Features that are in files stay there.
    """
    parts: list[Any] = []
    masks = []
    for key in source.slots:
        call = f"run stp.pp.{function}(adata, {key.removeprefix('X_')!r})"
        slots = of(key), mask_of(key)
        for slot in slots:
            check_obsm(source.adata, slot, call)
        _check_made_alike(source, key, slots[0], call)
        index, whole = source.rows.index, rows_in_file(source.adata.obsm[slots[0]])
        mask = read_rows(source.adata.obsm[slots[1]], index)
        values: Any = source.adata.obsm[slots[0]][index] if whole is None else whole
        if values.ndim != 3 or mask.shape != (len(index), values.shape[1]):
            raise ValueError(
                f"expected neighbors (n_obs, n_neighbors, d) in obsm[{slots[0]!r}] and their mask beside them; found "
                f"{(len(index), *values.shape[1:])} and {mask.shape}"
            )
        mask = read_bool(mask.ravel(), f"obsm[{slots[1]!r}]").reshape(mask.shape)
        masks.append(mask)
        what = f"features in obsm[{slots[0]!r}]"
        if isinstance(whole, FileRows):
            parts.append(SquarePart(whole, mask))
            squares: Any = FileSquares(parts[-1:], index)
            check_finite(squares, what, "compute them again")
            continue
        values = numeric_matrix(values, f"obsm[{slots[0]!r}]")
        values = single_precision(np.where(mask[..., None], values, 0), what)
        check_finite(values.reshape(len(values), -1), what, "compute them again")
        parts.append(values)
    if len({isinstance(part, SquarePart) for part in parts}) > 1:
        raise ValueError(
            f"expected all features on disk, or none; found some of {few(source.slots)} in memory; map all of them"
        )
    in_file = isinstance(parts[0], SquarePart)
    found: Any = FileSquares(parts, source.rows.index) if in_file else parts
    common = np.logical_and.reduce(masks)
    if source.scaling == "section":
        every = np.ones(len(common), dtype=bool)
        if in_file:
            return in_units_of_sections(found, common, source.rows.sample, every), common
        found = [
            in_units_of_sections(each, mask, source.rows.sample, every) for each, mask in zip(parts, masks, strict=True)
        ]
    return found if in_file else np.concatenate(found, axis=2), common


def in_units_of_sections(values: Any, mask: np.ndarray, sample: np.ndarray, by: np.ndarray) -> Any:
    """Squares (n, k, d) in units of the middle tiles of their section, which are its features; 0 outside the mask.

    Those of the rows `by` (n,) count, or all where none of a section is among them, as for features. Squares in files know
    their masks, and are brought to these units when they are read.
    """
    _, section = np.unique(sample, return_inverse=True)
    if isinstance(values, FileSquares):
        return values.standardized(section, by)
    scaled = np.empty_like(values)
    for code in range(int(section.max(initial=-1)) + 1):
        rows = section == code
        middle = values[rows & by if (rows & by).any() else rows, values.shape[1] // 2]
        mean, scale = middle_scales(middle)
        scaled[rows] = (values[rows] - mean) * scale
    scaled[~mask] = 0
    return scaled


def _check_made_alike(source: Source, key: str, slot: str, call: str) -> None:
    """Raise where the tiles around were made otherwise than the features in the middle, by which a model knows both."""
    middle, around = read_record(source.adata, key) or {}, read_record(source.adata, slot) or {}
    different = differing(
        middle, around, [n for n in ("encoder", "fingerprint", "tile_um") if n in middle and n in around]
    )
    if different:
        sides = "; ".join(f"{name}: {middle[name]!r} and {around[name]!r}" for name in different)
        raise ValueError(
            f"expected obsm[{key!r}] and obsm[{slot!r}] made in the same way; found {sides}; {call} with the encoder and "
            "the tile_um of the features"
        )
