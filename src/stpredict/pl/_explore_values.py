"""What the explorer holds: values as whole numbers of 16 bits, columns, sections and their pictures."""

from __future__ import annotations

import base64
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._moments import column_moments
from stpredict.core._palette import category_colors
from stpredict.core._validate import check_unique, few
from stpredict.pl._style import Section, value_label
from stpredict.pl._tile_shapes import tile_shape
from stpredict.slots._checks import check_obs
from stpredict.slots._expression import measured_matrix, to_dense
from stpredict.slots._keys import Key
from stpredict.slots._marks import joint_mark, leak_marks, mark_words
from stpredict.slots._predicted import predicted_table
from stpredict.slots._prediction import main_predictions

if TYPE_CHECKING:
    from anndata import AnnData

#: Code of what has no value; the others count from the lowest to the highest value of a gene.
MISSING = 2**16 - 1
KINDS = ("measured", "predicted", "uncertainty")
_MOST_BYTES = 48 * 2**20  # of codes, before they are compressed
_MOST_CATEGORIES = 50
_SQUARES_FROM = 2000  # spots; as circles they would leave gaps
_PICTURES = 8 * 2**20  # pixels of all pictures together
_QUALITY = 85  # of JPEG


@dataclass
class Held:
    """Everything that the page holds, rows in the order of the sections.

    Attributes
    ----------
    about
        Names, scales, units, sections and palettes, to be written as JSON.
    codes
        Codes (n_genes · n_obs,) uint16 of each kind of values, gene after gene.
    columns
        Positions, names of the observations, and columns (n_obs,).
    """

    about: dict[str, Any]
    codes: dict[str, np.ndarray]
    columns: dict[str, Any] = field(default_factory=dict)


def to_codes(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes (n, k) uint16 of values (n, k), with the lowest value and the step (k,) of each column; no value is `MISSING`."""
    values = np.where(np.isfinite(values), values, np.nan).astype(np.float64)
    known = np.isfinite(values)
    low = np.where(known.any(axis=0), np.min(values, axis=0, where=known, initial=np.inf), 0.0)
    high = np.where(known.any(axis=0), np.max(values, axis=0, where=known, initial=-np.inf), 0.0)
    step = (high - low) / (MISSING - 1)
    share = (values - low) / np.where(step > 0, step, 1.0)
    return np.where(known, np.round(share), MISSING).astype(np.uint16), low, step


def prediction_slot(adata: AnnData) -> str:
    """Slot of the prediction that is shown where none is named."""
    found = [] if Key.PREDICTED in adata.obsm else main_predictions(adata)
    if len(found) > 1:
        warnings.warn(f"shown is the prediction {found[0]!r}; others, for `key=`: {few(found[1:])}", stacklevel=3)
    return found[0] if found else Key.PREDICTED


def gene_values(
    adata: AnnData, key: str, genes: Sequence[str] | None, layer: str | None, sample_key: str
) -> tuple[list[str], dict[str, np.ndarray], dict[str, str]]:
    """Names of genes, their values (n_obs, n_genes) by kind, and units of single ones."""
    table = predicted_table(adata, key, layer=layer, sample_key=sample_key) if key in adata.obsm else None
    predicted = [] if table is None else list(table.var_names)
    names = [str(gene) for gene in (genes if genes is not None else predicted or adata.var_names)]
    check_unique(names, "genes")
    measured = set(adata.var_names)
    unknown = [name for name in names if name not in measured and name not in set(predicted)]
    if unknown or not names:
        others = [name for name in main_predictions(adata) if name != key]
        there = few(predicted or list(adata.var_names)) if predicted or adata.n_vars else "none"
        raise KeyError(
            f"expected genes that were measured or predicted; found {few(unknown) if unknown else 'none'}; choose among {there}"
            + (f", or name another prediction with `key=`: {few(others)}" if others else "")
        )
    n_kinds = 1 if table is None else 2 + ("std" in table.layers)
    room = _MOST_BYTES // (2 * max(adata.n_obs, 1) * n_kinds)
    if genes is None and len(names) > room > 0:
        deviation = _deviations(measured_matrix(adata, names, layer=layer) if table is None else table.X)
        kept = np.sort(np.argsort(-np.nan_to_num(deviation), kind="stable")[:room])
        warnings.warn(
            f"a page holds {room:,} of these {len(names):,} genes: shown are those that vary most; name others with `genes=`",
            stacklevel=3,
        )
        names = [names[i] for i in kept]
    if (size := 2 * adata.n_obs * len(names) * n_kinds) > _MOST_BYTES:
        raise ValueError(
            f"expected values that a page can hold, up to {_MOST_BYTES // 2**20} MB before compression; found "
            f"{size / 2**20:.0f} MB ({adata.n_obs} observations, {len(names)} genes); name fewer with `genes=`, or take one "
            "section"
        )
    values: dict[str, np.ndarray] = {}
    if table is not None:
        at = table.var_names.get_indexer(names)
        sources = {
            "measured": table.layers.get("measured"),
            "predicted": table.X,
            "uncertainty": table.layers.get("std"),
        }
        for kind in KINDS:
            if (source := sources[kind]) is not None:
                values[kind] = np.where(at >= 0, np.asarray(source)[:, at], np.nan)
    others = [name for name in names if name in measured and name not in set(predicted)]
    if others:
        whole = values.setdefault("measured", np.full((adata.n_obs, len(names)), np.nan))
        columns = [names.index(name) for name in others]
        whole[:, columns] = to_dense(measured_matrix(adata, others, layer=layer))
    units = (
        {}
        if table is None
        else {name: value_label(adata, layer, key, name) for name in names if name in set(predicted)}
    )
    return names, {kind: values[kind] for kind in KINDS if kind in values}, units


def first_gene(values: dict[str, np.ndarray], rows: np.ndarray) -> int:
    """Place of the gene that the page begins with: of those with values of most kinds, the one that varies most.

    What varies is what was measured, and without it what was predicted: nothing is picked by how well it is predicted.
    """
    own = [np.isfinite(part[rows]) for part in values.values()]
    there = np.sum([known.any(axis=0) for known in own], axis=0)
    shown, known = next(iter(values.values()))[rows], own[0]
    n = np.maximum(known.sum(axis=0), 1)
    centered = np.where(known, shown - np.where(known, shown, 0).sum(axis=0) / n, 0)
    return int(np.argmax(np.where(there == there.max(), (centered**2).sum(axis=0) / n, -1.0)))


def _deviations(matrix: Any) -> np.ndarray:
    """Standard deviation (n_genes,) of a matrix; sparse ones stay so."""
    if not hasattr(matrix, "tocsr"):
        return column_moments(matrix)[1]
    from sklearn.utils.sparsefuncs import mean_variance_axis

    return np.sqrt(mean_variance_axis(matrix.tocsr(), axis=0)[1])


def shown_columns(adata: AnnData, wanted: Sequence[str] | None, sample_key: str) -> list[str]:
    """Columns of `obs` that can be shown: numbers, and categories of which there are not too many."""
    if wanted is not None:
        for name in wanted:
            check_obs(adata, name, "name columns of `obs` with `columns=`")
        return [str(name) for name in wanted]
    return [str(name) for name in adata.obs if name != sample_key and _is_shown(adata.obs[name])]


def _is_shown(column: Any) -> bool:
    return _is_number(column) or 1 < column.nunique() <= _MOST_CATEGORIES


def _is_number(column: Any) -> bool:
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    return bool(is_numeric_dtype(column) and not is_bool_dtype(column))


def column_entry(adata: AnnData, name: str) -> tuple[dict[str, Any], np.ndarray]:
    """What is to be known of a column, and its values (n_obs,): float32, or codes of categories."""
    import pandas as pd

    column = adata.obs[name]
    if _is_number(column):
        return {"name": name, "categories": None}, column.to_numpy(np.float32, na_value=np.nan)
    column = column.astype("category")
    categories = [str(each) for each in column.cat.categories]
    colors = list(adata.uns.get(f"{name}_colors", []))
    if len(colors) != len(categories) or not all(isinstance(each, str) and _is_hex(each) for each in colors):
        colors = category_colors(len(categories))
    codes = pd.Series(column.cat.codes).to_numpy(np.int64)
    return {"name": name, "categories": categories, "colors": colors}, np.where(codes < 0, MISSING, codes).astype(
        np.uint16
    )


def _is_hex(color: str) -> bool:
    return len(color) == 7 and color[0] == "#" and all(each in "0123456789abcdefABCDEF" for each in color[1:])


def section_entry(
    adata: AnnData, section: Section, start: int, factor: float, key: str, n_pictures: int
) -> dict[str, Any]:
    """What is to be known of a section, lengths times `factor`."""
    outline = tile_shape(section).outline if len(section.rows) >= _SQUARES_FROM else None
    square = outline is not None and len(outline) == 4
    side = angle = 0.0
    if square and outline is not None:
        edge = outline[1] - outline[0]
        side, angle = float(np.hypot(*edge)), float(np.arctan2(edge[1], edge[0]))
    mark = mark_words(joint_mark(leak_marks(adata, key)[section.rows])) if key in adata.obsm else ""
    return {
        "name": section.name, "start": start, "stop": start + len(section.rows),
        "box": [factor * value for value in section.box], "diameter": factor * section.diameter,
        "square": square, "side": factor * side, "angle": angle, "mark": f" ({mark})" if mark else "",
        "picture": None if section.image is None else _jpeg(section.image, _PICTURES / n_pictures),
    }  # fmt: skip


def _jpeg(image: np.ndarray, most_pixels: float) -> str:
    """A picture of at most so many pixels as an address that holds it."""
    from PIL import Image

    picture = Image.fromarray(image)
    shrink = min(1.0, (most_pixels / (picture.width * picture.height)) ** 0.5)
    if shrink < 1:
        size = max(1, round(picture.width * shrink)), max(1, round(picture.height * shrink))
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(data.getvalue()).decode()
