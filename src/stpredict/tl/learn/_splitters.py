"""Folds of a splitter, and whether they hold what they promise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from stpredict.cohorts import (
    Fold,
    assert_disjoint,
    grouped_k_fold,
    leave_chromosomes_out,
    leave_one_patient_out,
    leave_one_section_out,
)
from stpredict.cohorts._chromosomes import check_genes_apart
from stpredict.slots._unit import unit_of
from stpredict.tl.learn._blocks import block_folds
from stpredict.tl.learn._task import Task
from stpredict.tl.learn.targets._base import Keys

if TYPE_CHECKING:
    from anndata import AnnData

Splitter: TypeAlias = "str | int | Sequence[Fold] | Any"


def make_folds(adata: AnnData, splitter: Splitter, seed: int, keys: Keys, tasks: Mapping[str, Task]) -> list[Fold]:
    """Folds of a splitter: `"patient"`, `"section"`, `"blocks"`, a number of groups of patients, folds, or a function.

    Of genes `"chromosomes"`, which `"patient"` is as well, or a number of groups of chromosomes.
    """
    columns = {"sample_key": keys.sample, "patient_key": keys.patient}
    of_genes, named = unit_of(adata) == "gene", splitter if isinstance(splitter, str) else None
    if of_genes and (named in ("chromosomes", "patient") or isinstance(splitter, int)):
        n_folds = splitter if isinstance(splitter, int) else None
        return leave_chromosomes_out(adata, n_folds, chrom_key=keys.patient)
    if named == "chromosomes" or (of_genes and named is not None):
        unit = "genes" if of_genes else "observations of sections"
        raise ValueError(
            f"expected splitter='chromosomes' with a table whose rows are genes, and no other name with one; found {named!r} with "
            f"{unit}; call stp.pp.as_genes(adata) where the rows are genes"
        )
    if splitter == "patient":
        return leave_one_patient_out(adata, **columns)
    if splitter == "section":
        return leave_one_section_out(adata, **columns)
    if isinstance(splitter, str) and splitter == "blocks":
        return block_folds(adata, tasks, keys)
    if isinstance(splitter, int):
        return grouped_k_fold(adata, splitter, seed=seed, **columns)
    folds: list[Any] = list(splitter(adata)) if callable(splitter) else list(splitter)
    if not folds or not all(isinstance(fold, Fold) for fold in folds):
        raise TypeError(
            "expected `splitter` to be 'patient', 'section', 'blocks', 'chromosomes', a number, or stp.cohorts.Fold objects; "
            f"found {splitter!r:.60}; masks become a fold by stp.cohorts.Fold('name', train, test)"
        )
    return folds


def check_folds(adata: AnnData, folds: Sequence[Fold], patient_key: str, *, allow_leakage: bool) -> None:
    """Raise unless the folds are masks of this object, disjoint by patient (or by observation, where leaks are allowed)."""
    for fold in folds:
        for side, mask in (("train", fold.train), ("test", fold.test)):
            if np.shape(mask) != (adata.n_obs,) or np.asarray(mask).dtype != bool:
                raise ValueError(
                    f"expected {side} of fold {fold.name!r} to be a boolean array of {adata.n_obs} values; "
                    f"found {np.asarray(mask).dtype} of shape {np.shape(mask)}"
                )
        if not fold.test.any():
            raise ValueError(f"expected test observations in fold {fold.name!r}; found none")
        if not allow_leakage and not fold.within:
            assert_disjoint(adata, fold.train, fold.test, patient_key=patient_key)
        both = int((fold.train & fold.test).sum())
        if both:
            raise ValueError(
                f"expected each observation of fold {fold.name!r} on one side; found {both} in training and test"
            )
    if (np.sum([fold.test for fold in folds], axis=0) > 1).any():
        raise ValueError("expected each observation in the test side of one fold at most; found some in several")
    if unit_of(adata) == "gene" and not allow_leakage:
        check_genes_apart(adata, [(fold.train, fold.test) for fold in folds], patient_key)
