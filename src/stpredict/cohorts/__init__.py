"""Patients, sections and the splits between them."""

from stpredict.cohorts._blocks import spatial_blocks
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
    "grouped_k_fold",
    "leave_one_patient_out",
    "leave_one_section_out",
    "spatial_blocks",
]
