"""Split every section into contiguous blocks, each held out by itself behind a buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from stpredict.cohorts._splits import Fold
from stpredict.core._apart import gaps_um
from stpredict.core._validate import few
from stpredict.slots._checks import check_patients
from stpredict.slots._expression import in_tissue
from stpredict.slots._keys import Key
from stpredict.slots._reach import MARGIN, field_of_view, recorded_features, section_um

if TYPE_CHECKING:
    from anndata import AnnData

N_BLOCKS = 4
_SMALLEST = 3


def spatial_blocks(
    adata: AnnData,
    n_blocks: int = N_BLOCKS,
    buffer_um: float | None = None,
    *,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
) -> list[Fold]:
    """Hold out one contiguous block of a section at a time, and train on the rest of that section.

    For one section, or one patient: what it measures is whether expression follows from histology *within a section*, not
    whether a model works for other people, and every table says so. Blocks come from cuts across the longer side of what is
    left, so that they have equal numbers of observations on tissue, give or take one. Observations around a block that are nearer than the buffer
    take no part in its fold. Other sections take no part either, because a neighboring section of the same tissue is
    nearly a copy.

    Parameters
    ----------
    adata
        Object with positions in `obsm["spatial"]` (n_obs, 2) and the µm per pixel of every section.
    n_blocks
        Number of blocks of each section, at least 2.
    buffer_um
        Width of the buffer in µm: the least distance between test and training observations, along the axis on which it
        is larger. It must be wider than the square that a row of features was computed from, context and smoothing
        included. When `None`, 1.1 times the widest field of view (tile size times context) of the image features that the
        object records.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.

    Returns
    -------
    One :class:`Fold` per block, named `"{section} block {number}"`, with boolean masks (n_obs,) and `within=True`; nothing is written to `adata`.

    Raises
    ------
    KeyError
        When `obs[sample_key]`, `obs[patient_key]` or `obsm["spatial"]` is missing.
    ValueError
        When the µm per pixel of a section, or without `buffer_um` the field of view of its features, is not known; a section
        has too few observations for so many blocks, or nothing to train on is left outside a buffer.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=1, n_sections=1, n_genes=5, n_spots=100)
    >>> folds = stp.cohorts.spatial_blocks(adata, n_blocks=4, buffer_um=120)
    >>> [int(fold.test.sum()) for fold in folds]
    [25, 25, 25, 25]
    """
    check_patients(adata, sample_key, patient_key)
    if int(n_blocks) != n_blocks or n_blocks < 2:
        raise ValueError(f"expected n_blocks to be a whole number of at least 2; found {n_blocks!r}")
    buffer = _default_buffer(adata) if buffer_um is None else float(buffer_um)
    if not 0 <= buffer < np.inf:
        raise ValueError(f"expected buffer_um to be a number of at least 0; found {buffer_um!r}")
    sample = adata.obs[sample_key].astype(str).to_numpy()
    tissue = in_tissue(adata)
    folds = []
    for name in np.unique(sample):
        rows = np.flatnonzero(sample == name)
        positions = section_um(adata, rows, str(name))
        block = _blocks(positions, tissue[rows], int(n_blocks), str(name))
        folds += [
            _fold(name, number, block == number, rows, positions, buffer, len(sample)) for number in range(n_blocks)
        ]
    return folds


def _default_buffer(adata: AnnData) -> float:
    slots = recorded_features(adata)
    field = field_of_view(adata, slots)
    if not field:
        found = "no image features that have a record"
        if slots:
            unknown = [slot for slot in slots if field_of_view(adata, [slot]) is None]
            found = f"no size of the tiles behind {few(unknown)}"
        raise ValueError(
            f"expected to find the field of view of the features, which the buffer must exceed; found {found}; pass "
            "stp.cohorts.spatial_blocks(adata, n_blocks, buffer_um=…), in µm"
        )
    return MARGIN * field


def _blocks(positions: np.ndarray, tissue: np.ndarray, n_blocks: int, name: str) -> np.ndarray:
    """Number of the block (n,) of every position (n, 2); what is not on tissue goes with what is nearest to it."""
    from scipy.spatial import cKDTree

    inside = np.flatnonzero(tissue)
    if len(inside) < _SMALLEST * n_blocks:
        raise ValueError(
            f"expected at least {_SMALLEST * n_blocks} observations on tissue in section {name!r} for {n_blocks} blocks; "
            f"found {len(inside)}; take fewer blocks"
        )
    own = positions[inside]
    number = np.zeros(len(inside), dtype=np.int64)
    _cut(own, np.arange(len(inside)), 0, n_blocks, number)
    return number[cKDTree(own).query(positions)[1]]


def _cut(positions: np.ndarray, rows: np.ndarray, first: int, n_blocks: int, number: np.ndarray) -> None:
    """Give some rows the numbers from `first` on, cutting across the longer side of what they span."""
    if n_blocks == 1:
        number[rows] = first
        return
    long = int(np.argmax(np.ptp(positions[rows], axis=0)))
    order = rows[np.lexsort((positions[rows, 1 - long], positions[rows, long]))]
    left = n_blocks // 2
    at = round(len(order) * left / n_blocks)
    _cut(positions, order[:at], first, left, number)
    _cut(positions, order[at:], first + left, n_blocks - left, number)


def _fold(
    name: str, number: int, mine: np.ndarray, rows: np.ndarray, positions: np.ndarray, buffer: float, n_obs: int
) -> Fold:
    test, train = np.zeros(n_obs, dtype=bool), np.zeros(n_obs, dtype=bool)
    test[rows[mine]] = True
    train[rows[~mine & (gaps_um(positions, positions[mine]) >= buffer)]] = True
    if train.sum() < _SMALLEST:
        raise ValueError(
            f"expected observations of section {name!r} further than {buffer:g} µm from block {number + 1}, to train on; "
            f"found {int(train.sum())} of {len(rows)}; take more blocks, or features with a smaller field of view"
        )
    return Fold(f"{name} block {number + 1}", train, test, within=True, buffer_um=buffer)
