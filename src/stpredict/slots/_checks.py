"""Checks of slots with uniform messages: what was expected, what was found, what to call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_unique, few
from stpredict.slots._booleans import read_bool
from stpredict.slots._keys import Key
from stpredict.slots._people import one_name, person
from stpredict.slots._unit import check_chromosomes, unit_of

if TYPE_CHECKING:
    from anndata import AnnData


#: Names of columns that hold people, and what stands there for nobody.
_PEOPLE = frozenset(
    {"patient", "patient_id", "donor", "donor_id", "subject", "subject_id", "individual", "individual_id", "person"}
)
_NOBODY = frozenset({"", "unknown", "na", "n/a", "nan", "none", "pooled", "<na>"})


def check_obsm(adata: AnnData, key: str, call: str) -> None:
    """Raise `KeyError` unless `obsm[key]` exists; `call` says what writes it."""
    if key not in adata.obsm:
        raise KeyError(f"expected obsm[{key!r}]; found {sorted(adata.obsm)}; {call}")


def check_obs(adata: AnnData, key: str, call: str = "") -> None:
    """Raise `KeyError` unless `obs[key]` exists."""
    if key not in adata.obs:
        raise KeyError(f"expected obs[{key!r}]; found {list(adata.obs.columns)}" + (f"; {call}" if call else ""))


def check_layer(adata: AnnData, key: str, call: str) -> None:
    """Raise `KeyError` unless `layers[key]` exists; `call` says what writes it."""
    if key not in adata.layers:
        raise KeyError(f"expected layers[{key!r}]; found {sorted(adata.layers)}; {call}")


def check_genes(adata: AnnData, genes: Sequence[str]) -> None:
    """Raise when a gene of a panel is missing from `var_names`, or occurs twice in the panel."""
    if len(genes) == 0:
        raise ValueError("expected a panel with at least one gene; found an empty one; see stp.pp.select_genes")
    check_unique(genes, "genes in the panel")
    known = adata.var_names
    if not known.is_unique:
        repeated = set(known[known.duplicated()]) & set(genes)
        check_unique(
            [name for name in known if name in repeated], "var_names (adata.var_names_make_unique() does that)"
        )
    missing = [gene for gene in genes if gene not in known]
    if missing:
        raise KeyError(
            f"expected every gene of the panel in var_names; missing {few(missing)}; "
            "take a panel of genes that were measured, or select one with stp.pp.select_genes"
        )


def check_patients(adata: AnnData, sample_key: str = Key.SAMPLE, patient_key: str = Key.PATIENT) -> None:
    """Raise unless every observation has a sample and a patient, and each sample belongs to one patient.

    Also when the patients are the sections themselves, while another column names one person for several of them. Genes have
    neither: they must have a chromosome.
    """
    if unit_of(adata) == "gene":
        check_chromosomes(adata, patient_key)
        return
    if sample_key == patient_key:
        raise ValueError(
            f"expected the patients in another column than the sections; found both as obs[{sample_key!r}]; where every section "
            f"is of another patient, say so: adata.obs['patient'] = adata.obs[{sample_key!r}]"
        )
    for key in (sample_key, patient_key):
        check_obs(adata, key, f"name the sections with obs[{sample_key!r}] and the people with obs[{patient_key!r}]")
        if adata.obs[key].isna().any():
            raise ValueError(
                f"expected obs[{key!r}] without gaps; found {int(adata.obs[key].isna().sum())} missing values"
            )
    pairs = adata.obs[[sample_key, patient_key]].astype(str)
    pairs[patient_key] = one_name(pairs[patient_key])
    pairs = pairs.drop_duplicates()
    twice = pairs[sample_key][pairs[sample_key].duplicated()].unique()
    if len(twice):
        raise ValueError(f"expected each section to belong to one patient; found several patients in {few(twice)}")
    if len(pairs) > 1 and pairs[patient_key].is_unique:
        _check_other_people(adata, sample_key, patient_key)


def _check_other_people(adata: AnnData, sample_key: str, patient_key: str) -> None:
    """Raise where every section has a patient of its own, and another column of people puts several of them together."""
    for other in adata.obs.columns:
        if other in {sample_key, patient_key} or str(other).casefold() not in _PEOPLE:
            continue
        pairs = adata.obs[[sample_key, other]].dropna().astype(str).drop_duplicates()
        pairs = pairs[[person(name) not in _NOBODY for name in pairs[other]]]
        names, code, counts = np.unique(one_name(pairs[other]).astype(str), return_inverse=True, return_counts=True)
        if pairs[sample_key].is_unique and len(names) < len(pairs):
            together = pairs[sample_key].to_numpy()[code == counts.argmax()]
            raise ValueError(
                f"expected people in obs[{patient_key!r}]; found another one for each section, while obs[{other!r}] names one "
                f"person for {few(sorted(together))}: leaving sections out would pass as leaving patients out; pass "
                f"patient_key={other!r}, or, where these are different people, rename that column"
            )


def as_mask(adata: AnnData, train: Any, name: str = "train") -> np.ndarray:
    """Turn `None` (all), a boolean array or the name of a boolean obs column into a mask (n_obs,).

    A column may hold numbers or text that stand for booleans; an array of numbers may be meant as indices, and is refused.
    """
    if adata.n_obs == 0:
        raise ValueError("expected at least one observation; found an object without any; check how it was subset")
    if train is None:
        return np.ones(adata.n_obs, dtype=bool)
    if isinstance(train, str):
        check_obs(adata, train)
        values = read_bool(adata.obs[train], f"obs[{train!r}]")
    else:
        index = getattr(train, "index", None)
        if index is not None and not callable(index) and not adata.obs_names.equals(index):
            raise ValueError(
                f"expected the index of {name} to be the obs_names of the object, in their order; found another; "
                f"align it first: {name}.reindex(adata.obs_names), or pass an array"
            )
        values = np.asarray(train)
        if values.shape == (adata.n_obs,) and values.dtype.kind in "OUS":
            values = read_bool(train if hasattr(train, "dtype") else values, name)
        if values.dtype != bool or values.shape != (adata.n_obs,):
            raise ValueError(
                f"expected {name} to be a boolean array of {adata.n_obs} values or an obs key; "
                f"found {values.dtype} of shape {values.shape}"
            )
    if not values.any():
        raise ValueError(f"expected at least one observation in {name}; found none")
    return values
