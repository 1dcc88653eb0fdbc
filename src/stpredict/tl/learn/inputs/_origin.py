"""Where image features come from: whether somebody wrote it down, and whether they are the expression itself."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._file_rows import rows_in_file
from stpredict.core._validate import few
from stpredict.slots._content import MADE_BY, as_recorded
from stpredict.slots._expression import matrix_of
from stpredict.slots._features import feature_matrix
from stpredict.slots._keys import Key
from stpredict.slots._marks import UNKNOWN
from stpredict.slots._matrix import dense_matrix
from stpredict.slots._provenance import read_record
from stpredict.slots._values import OBS, read_values
from stpredict.targets import Expression, Values

if TYPE_CHECKING:
    from anndata import AnnData

_N_ROWS = 64  # enough: no feature of a picture agrees with a gene to one in a thousand
_MIN_ROWS = 16
_MIN_DISTINCT = 8
_SAME = 0.999
_COMPONENTS = "X_pca"


def unrecorded(adata: AnnData, slots: Iterable[str]) -> list[str]:
    """Slots of image features of which nobody wrote down how they were made, or that were changed after that."""
    return [slot for slot in slots if not _recorded(adata, slot)]


def features_seen(adata: AnnData, slots: Sequence[str]) -> set[str]:
    """Patients who had a part in features, as where these were aligned with their expression, or in their stains.

    `"unknown"` is among them where nobody wrote down how features were made.
    """
    seen = {name for slot in slots for name in record_seen(read_record(adata, slot) or {})}
    return seen | ({UNKNOWN} if unrecorded(adata, slots) else set())


def record_seen(record: Mapping[str, Any]) -> list[str]:
    """Patients who had a part in features, by what is recorded of these."""
    return [str(name) for name in record.get("patients_seen", [])]


def _recorded(adata: AnnData, slot: str) -> bool:
    record = read_record(adata, slot) or {}
    features = feature_matrix(adata, slot)
    if not MADE_BY & set(record):
        return False
    return features is None or features.ndim != 2 or as_recorded(features, record)


def check_features_origin(adata: AnnData, slots: Sequence[str], request: Any, index: np.ndarray) -> None:
    """Raise where the features of some rows are the expression to be predicted; warn where nobody knows what they are."""
    if isinstance(request, Expression):
        check_no_expression(adata, slots, index, request.layer)
    elif isinstance(request, Values):
        _check_no_values(adata, slots, request, index)
    if names := unrecorded(adata, slots):
        warnings.warn(
            f"nobody wrote down how {few([f'obsm[{name!r}]' for name in names])} was made as it is now, which may hold "
            "something of the expression to be predicted: predictions and scores are marked as 'unknown' where they would "
            "be False; compute features with stp.pp.image_features, or, if they come from pictures alone, record it: "
            f"adata.uns.setdefault('stpredict', {{}})[{names[0]!r}] = {{'encoder': …}}",
            stacklevel=4,
        )


def check_no_expression(adata: AnnData, slots: Sequence[str], index: np.ndarray, layer: str | None) -> None:
    """Raise where a feature is a measured gene, or a component of the measured expression.

    Values are compared over some of the rows `index`, up to scale and offset.
    """
    if len(index) < _MIN_ROWS or not slots:
        return
    rows = index[np.unique(np.linspace(0, len(index) - 1, _N_ROWS).astype(int))]
    _compare(adata, slots, rows, _answers(adata, rows, layer))


def _check_no_values(adata: AnnData, slots: Sequence[str], request: Values, index: np.ndarray) -> None:
    """Raise where a feature is one of the values to be predicted, or all of them are."""
    if request.obsm in slots:
        raise ValueError(
            f"expected features of pictures; found obsm[{request.obsm!r}] as features and as target; name the features with "
            "`features=`"
        )
    if len(index) < _MIN_ROWS or not slots:
        return
    rows = index[np.unique(np.linspace(0, len(index) - 1, _N_ROWS).astype(int))]
    values = read_values(adata, request.obsm or OBS, request.columns if request.obsm else request.obs)
    names = tuple(map(str, values.columns))
    _compare(adata, slots, rows, {("the target", names): _standardized(values.to_numpy()[rows])})


def _compare(
    adata: AnnData, slots: Sequence[str], rows: np.ndarray, answers: dict[tuple[str, tuple[str, ...]], np.ndarray]
) -> None:
    """Raise where a feature agrees with something that no feature may be, over some rows."""
    for slot in slots:
        features = feature_matrix(adata, slot)
        if features is None or features.ndim not in (2, 3):
            continue
        some = np.asarray(_some(features, rows), dtype=np.float64)
        # Of a square of tiles, the one in the middle.
        values = _standardized(some[:, some.shape[1] // 2] if some.ndim == 3 else some)
        for (what, names), answer in answers.items():
            agreement = np.abs(values.T @ answer) / len(rows)
            if (agreement > _SAME).any():
                feature, gene = np.unravel_index(agreement.argmax(), agreement.shape)
                raise ValueError(
                    f"expected features of pictures; found {what} {names[gene]} as feature {feature} of obsm[{slot!r}] "
                    f"(r = {agreement.max():.4f}): a model that reads what was measured predicts nothing; take the "
                    "features of stp.pp.image_features"
                )


def _answers(adata: AnnData, rows: np.ndarray, layer: str | None) -> dict[tuple[str, tuple[str, ...]], np.ndarray]:
    """Standardized values (n_rows, n) that no feature may have, with what they are and their names."""
    matrices: dict[str, tuple[Any, Sequence[Any]]] = {
        "the measured gene": (_some(matrix_of(adata, layer), rows), adata.var_names)
    }
    if layer is not None and adata.X is not None:
        matrices["in X the gene"] = _some(matrix_of(adata, None), rows), adata.var_names
    if Key.COUNTS in adata.layers:
        matrices["the counts of"] = _some(adata.layers[Key.COUNTS], rows), adata.var_names
    components = adata.obsm.get(_COMPONENTS)
    made_here = "PCs" in adata.varm or "pca" in adata.uns
    if components is not None and made_here and read_record(adata, _COMPONENTS) is None:
        values = dense_matrix(components, f"obsm[{_COMPONENTS!r}]")[rows]
        matrices["of the measured expression the component"] = values, range(values.shape[1])
    found = {}
    for what, (values, names) in matrices.items():
        values = np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float64)
        found[what, tuple(map(str, names))] = _standardized(values)
    return found


def _some(matrix: Any, rows: np.ndarray) -> Any:
    """Some rows of a matrix; of one that is mapped from a file nothing stays in memory."""
    source = rows_in_file(matrix)
    return matrix[rows] if source is None else source[rows]


def _standardized(values: np.ndarray) -> np.ndarray:
    """Columns with mean 0 and size 1; 0 where they have too few values for an agreement to mean something."""
    values = np.where(np.isfinite(values).all(axis=0), values, 0)
    ordered = np.sort(values, axis=0)
    distinct = (np.diff(ordered, axis=0) != 0).sum(axis=0) + 1
    spread = values.std(axis=0)
    usable = (distinct >= _MIN_DISTINCT) & (spread > 0)
    return np.where(usable, (values - values.mean(axis=0)) / np.where(usable, spread, 1), 0)
