"""Which observations a call is about: read once from the table, and passed on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._checks import as_mask, check_obs
from stpredict.slots._expression import in_tissue, marked_measured, measured_rows
from stpredict.slots._keys import Key
from stpredict.slots._people import one_name
from stpredict.slots._unit import Unit, unit_of

if TYPE_CHECKING:
    from typing import Any

    from anndata import AnnData


@dataclass(frozen=True)
class Rows:
    """Some observations of a table.

    Attributes
    ----------
    index
        (n,) int64 rows of the table.
    sample, patient
        (n,) names of the section and the patient, as text; one spelling per person.
    section, person
        (n,) int64 codes of both. Slides are compared with each other, and so are genes: together they are one section.
    measured
        (n,) bool, whether the expression was measured.
    in_tissue
        (n,) bool.
    unit
        What an observation is: `"observation"` of a section (spot, tile, bin, cell), `"slide"` or `"gene"`. For genes,
        chromosomes stand for sections and patients.
    """

    index: np.ndarray
    sample: np.ndarray
    patient: np.ndarray
    section: np.ndarray
    person: np.ndarray
    measured: np.ndarray
    in_tissue: np.ndarray
    unit: Unit

    def __len__(self) -> int:
        return len(self.index)

    @property
    def sections(self) -> list[str]:
        """Names of the sections, sorted."""
        return [str(name) for name in np.unique(self.sample)]

    @property
    def patients(self) -> list[str]:
        """Names of the patients, sorted."""
        return [str(name) for name in np.unique(self.patient)]

    def take(self, keep: np.ndarray) -> Rows:
        """Some of the rows, by mask or integer index, with the codes they have."""
        arrays = {
            name: getattr(self, name)[keep]
            for name in ("index", "sample", "patient", "section", "person", "measured", "in_tissue")
        }
        return replace(self, **arrays)


def rows_of(
    adata: AnnData,
    mask: Any = None,
    *,
    sample_key: str = Key.SAMPLE,
    patient_key: str | None = Key.PATIENT,
    matrix: Any = None,
) -> Rows:
    """Read some observations of a table.

    Parameters
    ----------
    adata
        The table.
    mask
        Boolean array (n_obs,) or the name of a boolean column of `obs`; all observations when `None`.
    sample_key, patient_key
        Columns of `obs` with the section and the patient; without `patient_key` all are of one patient.
    matrix
        Expression (n_obs, n_genes), in which rows of NaN were not measured.
    """
    index = np.flatnonzero(as_mask(adata, mask))
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    sample = adata.obs[sample_key].astype(str).to_numpy()[index]
    patient = np.zeros(len(index), dtype="<U1") if patient_key is None else _text(adata, patient_key)[index]
    unit = unit_of(adata)
    section = np.zeros(len(index), dtype=np.int64)
    if unit == "observation":
        section = np.unique(sample, return_inverse=True)[1].astype(np.int64)
    measured = marked_measured(adata) if matrix is None else measured_rows(adata, matrix)
    return Rows(
        index=index,
        sample=sample,
        patient=patient,
        section=section,
        person=np.unique(patient, return_inverse=True)[1].astype(np.int64),
        measured=measured[index],
        in_tissue=in_tissue(adata)[index],
        unit=unit,
    )


def _text(adata: AnnData, key: str) -> np.ndarray:
    check_obs(adata, key, f"name the people with obs[{key!r}]")
    return one_name(adata.obs[key])
