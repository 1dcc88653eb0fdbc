"""What a section is known by when its name is another one: its spots, by their counts and by their image features."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._file_rows import rows_in_file
from stpredict.core._moments import row_slices
from stpredict.slots._features import feature_matrix
from stpredict.slots._keys import Key
from stpredict.slots._matrix import numeric_matrix

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

#: Whole numbers (n, d) that some rows are known by, and which of them have enough to be told apart by (n,).
Levels = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
N_SPOTS = 128  # remembered of each section
N_SEALED = 32  # rows of each section that the record of features remembers
N_GENES = 128  # that a spot is known by: those with the most counts
N_FEATURES = 64
_N_SUMMED = 4096  # spots that say which genes these are
_MIN_VALUES = 8  # genes seen, or features that differ; spots with fewer are alike by chance
_MIN_FOUND = 3
_MIN_SHARE = 0.2
_MAX_AGAIN = 0.04  # of the spots of a section; where more are alike, those of other sections are so by chance too
_LARGEST_LOG = 30.0  # logarithms of counts are smaller, and no whole numbers
_BYTES = 6  # of a digest
SEAL, N_ROWS = "rows", "n_rows"
MADE_BY = frozenset({"encoder", "fingerprint"})  # of these one stands in the record of features that somebody made


def remember(
    adata: AnnData, index: np.ndarray, sample: np.ndarray, *, panel: Sequence[str] = (), slots: Sequence[str] = ()
) -> dict[str, Any]:
    """Digests of some spots of each section, to recognize them elsewhere; plain values, and no measurement among them.

    A spot is known by the counts of the genes with the most counts, once of the panel and once of all genes, relative to
    the smallest of them, so that normalized values do as well; and by its image features. Neither the names nor the order
    nor the positions of the spots matter, and a part of them is enough, see :func:`recognize`.

    Parameters
    ----------
    adata
        The table.
    index, sample
        (n,) rows, and the section of each.
    panel
        Genes that a model predicts.
    slots
        Slots of its image features.
    """
    views: dict[str, Any] = {}
    matrix = _expression(adata)
    if matrix is not None and adata.var_names.is_unique:
        some = index[np.unique(np.linspace(0, len(index) - 1, _N_SUMMED).astype(int))]
        total = np.nan_to_num(np.asarray(matrix[some].sum(axis=0), dtype=np.float64).ravel())
        own = adata.var_names.get_indexer(list(panel))
        for view, columns in (("panel", own[own >= 0]), ("genes", np.arange(adata.n_vars))):
            most = columns[np.argsort(-total[columns], kind="stable")[:N_GENES]]
            if len(most):
                views[view] = [str(name) for name in adata.var_names[most]]
    views |= {slot: [] for slot in slots}
    sections: dict[str, dict[str, Any]] = {str(name): {} for name in np.unique(sample)}
    for view, genes in views.items():
        for name, part in _spots(adata, index, sample, view, genes).groupby("section"):
            distinct = np.unique(part["digest"].to_numpy())
            n_again = len(part) - len(distinct)
            if n_again <= _MAX_AGAIN * len(part):
                sections[str(name)][view] = {"n": len(distinct), "spots": _to_text(distinct[:N_SPOTS])}
    return {"views": views, "sections": sections}


def recognize(
    adata: AnnData, index: np.ndarray, sample: np.ndarray, known: Iterable[Mapping[str, Any]]
) -> dict[str, set[str]]:
    """Sections of some rows whose spots are among remembered ones, with the names of the sections that these are from.

    A section is recognized by three remembered spots (by all, where it has fewer) that make a fifth of those expected if
    it were a part of the other, or the other of it.
    """
    import pandas as pd

    found: dict[str, set[str]] = {}
    memory: dict[str, pd.DataFrame] = {}
    for content in known:
        for view, genes in content["views"].items():
            if (name := f"{view} {genes}") not in memory:
                memory[name] = _spots(adata, index, sample, view, genes)
            here = memory[name].drop_duplicates()
            parts = {other: entry[view] for other, entry in content["sections"].items() if view in entry}
            if here.empty or not parts:
                continue
            digests = [_from_text(entry["spots"]) for entry in parts.values()]
            there = pd.DataFrame(
                {"other": np.repeat(list(parts), [len(part) for part in digests]), "digest": np.concatenate(digests)}
            )
            n_here = here["section"].value_counts()
            both = here.merge(there, on="digest").groupby(["section", "other"]).size()
            for section, other, n in both.reset_index().itertuples(index=False):
                kept, size = min(parts[other]["n"], N_SPOTS), parts[other]["n"]
                expected = min(n_here[section] * kept / size, kept)
                if n >= min(_MIN_FOUND, n_here[section], kept) and n >= _MIN_SHARE * expected:
                    found.setdefault(str(section), set()).add(str(other))
    return found


def some_sections(content: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """What is remembered of some of the sections."""
    chosen = set(names)
    return {**content, "sections": {name: entry for name, entry in content["sections"].items() if name in chosen}}


def seal_features(features: Any, sample: Any) -> dict[str, Any]:
    """What the record of image features (n_obs, d) says of their values: digests of some rows of each section.

    They stand under a name that follows from them, so that records of several objects can be joined.
    """
    sample = np.asarray(sample).astype(str)
    levels, telling = _levels_of_features(features)
    rows: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for name in np.unique(sample):
        here = sample == name
        text = _to_text(np.unique(_row_digests(levels[here], telling[here], SEAL))[:N_SEALED])
        if text:
            label = hashlib.blake2b(text.encode(), digest_size=6).hexdigest()
            rows[label], numbers[label] = text, int(here.sum())
    return {SEAL: rows, N_ROWS: numbers} if rows else {}


def as_recorded(features: Any, record: Mapping[str, Any]) -> bool:
    """Whether image features (n_obs, d) still have the values that they were recorded with; some rows are enough.

    Where too few rows are left to tell, or nothing was recorded of the values, they count as what they were.
    """
    if not record.get(SEAL):
        return True
    values = _by_rows(features)
    digests = [_row_digests(*_levels_of_features(values, part), SEAL) for part in row_slices(len(values))]
    here = np.unique(np.concatenate(digests)) if digests else np.zeros(0, dtype=np.uint64)
    known = np.unique(np.concatenate([_from_text(text) for text in record[SEAL].values()]))
    n_rows = sum(int(number) for number in record.get(N_ROWS, {}).values())
    expected = min(features.shape[0] / max(n_rows, 1), 1) * len(known)
    return expected < _MIN_FOUND / _MIN_SHARE or bool(np.isin(known, here).sum() >= _MIN_SHARE * expected)


def unsealed(record: Mapping[str, Any], features: Any) -> dict[str, Any]:
    """The record of image features for something that is made of them: without their digests.

    Where they are not those that were recorded, nobody knows the encoder.
    """
    dropped = {SEAL, N_ROWS} if as_recorded(features, record) else {SEAL, N_ROWS, *MADE_BY}
    return {name: value for name, value in record.items() if name not in dropped}


def _spots(adata: AnnData, index: np.ndarray, sample: np.ndarray, view: str, genes: Sequence[str]) -> pd.DataFrame:
    """Section and digest of the spots that have enough to be told apart by."""
    import pandas as pd

    nothing = pd.DataFrame({"section": [], "digest": np.zeros(0, dtype=np.uint64)})
    read = _levels(adata, index, genes) if genes else _feature_levels(adata, view)
    if read is None or not len(index):
        return nothing
    found = []
    for part in row_slices(len(index)):
        levels, telling = read(index[part])
        digests = _row_digests(levels, telling, view, genes)
        found.append(pd.DataFrame({"section": np.asarray(sample)[part][telling], "digest": digests}))
    return pd.concat(found, ignore_index=True)


def _row_digests(levels: np.ndarray, telling: np.ndarray, view: str, names: Sequence[str] = ()) -> np.ndarray:
    """Digests of the telling ones among rows (n, d) of whole numbers, whose columns are known by name or number."""
    columns = names or range(levels.shape[1])
    weights = [hashlib.blake2b(f"{view} {name}".encode(), digest_size=8).digest() for name in columns]
    numbers = levels[telling].astype(np.int64).view(np.uint64)
    return _mixed(numbers @ np.frombuffer(b"".join(weights), dtype="<u8"))


def _expression(adata: AnnData) -> Any:
    """Counts, or what `X` holds; `None` without numbers, which nobody has asked for here."""
    values, what = (adata.layers[Key.COUNTS], "counts") if Key.COUNTS in adata.layers else (adata.X, "X")
    try:
        return None if values is None else _by_rows(numeric_matrix(values, what))
    except (TypeError, ValueError):
        return None


def _by_rows(matrix: Any) -> Any:
    """A matrix; where it is mapped from a file, its rows as they are read, which leaves none of it in memory."""
    source = rows_in_file(matrix)
    return matrix if source is None else source


def _levels(adata: AnnData, index: np.ndarray, genes: Sequence[str]) -> Levels | None:
    """Counts (n, n_genes) in steps of half a percent of the smallest of each spot, and which spots have enough of them.

    Of rows of a block; what the values are follows from all rows.
    """
    columns = adata.var_names.get_indexer(list(genes)) if adata.var_names.is_unique else np.array([-1])
    matrix = _expression(adata)
    if matrix is None or (columns < 0).any():
        return None
    if hasattr(matrix, "tocsr"):  # its rows are found by going through all of it, or its columns are
        matrix, columns = matrix[:, columns].tocsr(), np.arange(len(columns))

    def read(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        values = matrix[rows][:, columns]
        values = np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float64)
        finite = np.isfinite(values).all(axis=1)
        return np.where(finite[:, None], values, 0), finite

    blocks = (read(index[part])[0] for part in row_slices(len(index)))
    least, largest, broken = (
        np.array([(block.min(initial=0), block.max(initial=0), (block != np.rint(block)).any()) for block in blocks])
        .reshape(-1, 3)
        .T
    )
    if (least < 0).any():  # residuals, or standardized by gene
        return lambda rows: _steps(*read(rows))
    logs = bool(largest.max(initial=0) < _LARGEST_LOG and broken.any())
    return lambda rows: _count_steps(*read(rows), logs=logs)


def _count_steps(values: np.ndarray, finite: np.ndarray, *, logs: bool) -> tuple[np.ndarray, np.ndarray]:
    if logs:
        values = np.expm1(values)
    least = np.where(values > 0, values, np.inf).min(axis=1, keepdims=True)
    with np.errstate(divide="ignore"):
        steps = np.rint(200 * np.log(values / least)) + 1
    return np.where(values > 0, steps, 0), finite & ((values > 0).sum(axis=1) >= _MIN_VALUES)


def _feature_levels(adata: AnnData, slot: str) -> Levels | None:
    try:
        matrix = feature_matrix(adata, slot)
    except (TypeError, ValueError):
        return None
    if matrix is None or matrix.ndim != 2:
        return None
    return partial(_levels_of_features, _by_rows(matrix))


def _levels_of_features(matrix: Any, index: Any = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    columns = np.unique(np.linspace(0, matrix.shape[1] - 1, N_FEATURES).astype(int))
    values = np.asarray(matrix[index][:, columns], dtype=np.float64)
    finite = np.asarray(np.isfinite(values).all(axis=1))
    return _steps(np.where(finite[:, None], values, 0), finite)


def _steps(values: np.ndarray, finite: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values (n, d) in hundredths of the size of each row, and which rows have enough that differ."""
    size = np.sqrt(np.square(values).mean(axis=1, keepdims=True))
    steps = np.rint(100 * values / np.where(size > 0, size, 1))
    different = (np.diff(np.sort(steps, axis=1), axis=1) != 0).sum(axis=1) + 1
    return steps, finite & (different >= _MIN_VALUES)


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Numbers of 48 bits, each of which depends on all bits of one of 64."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers >> np.uint64(64 - 8 * _BYTES)


def _to_text(digests: np.ndarray) -> str:
    return base64.b64encode(digests.astype(">u8").view(np.uint8).reshape(-1, 8)[:, -_BYTES:].tobytes()).decode()


def _from_text(text: str) -> np.ndarray:
    short = np.frombuffer(base64.b64decode(text), dtype=np.uint8).reshape(-1, _BYTES)
    return np.pad(short, ((0, 0), (8 - _BYTES, 0))).copy().view(">u8").ravel().astype(np.uint64)
