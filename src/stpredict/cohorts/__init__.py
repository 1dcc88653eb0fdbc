"""Patients, sections and the splits between them."""

from stpredict.cohorts._blocks import spatial_blocks
from stpredict.cohorts._chromosomes import assert_genes_apart, leave_chromosomes_out
from stpredict.cohorts._cohort import Cohort
from stpredict.cohorts._recorded_folds import recorded_folds
from stpredict.cohorts._splits import (
    Fold,
    assert_disjoint,
    grouped_k_fold,
    leave_one_patient_out,
    leave_one_section_out,
)

__all__ = [
    "Fold",
    "assert_disjoint",
    "assert_genes_apart",
    "grouped_k_fold",
    "leave_chromosomes_out",
    "leave_one_patient_out",
    "leave_one_section_out",
    "recorded_folds",
    "spatial_blocks",
]
