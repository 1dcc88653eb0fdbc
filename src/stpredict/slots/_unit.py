"""What an observation of a table is, as whoever made it has said: part of a section, a slide, or a gene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from stpredict.core._validate import few
from stpredict.slots._keys import Key
from stpredict.slots._provenance import read_record, write_record

if TYPE_CHECKING:
    from anndata import AnnData

Unit = Literal["observation", "slide", "gene"]


def unit_of(adata: AnnData) -> Unit:
    """What an observation of a table is, as whoever made it has said; an observation of a section when nobody has."""
    found = (read_record(adata, Key.UNIT) or {}).get("is")
    return found if found in ("slide", "gene") else "observation"


def say_slides(adata: AnnData) -> None:
    """Record that every observation of a table is a slide."""
    write_record(adata, Key.UNIT, {"is": "slide"})


def say_genes(adata: AnnData) -> None:
    """Record that every observation of a table is a gene."""
    write_record(adata, Key.UNIT, {"is": "gene"})


def group_keys(adata: AnnData, sample_key: str, patient_key: str) -> tuple[str, str]:
    """Columns of `obs` with the section and the patient, as they are asked for.

    Genes have neither: what stands on one side of a split is then their chromosome, or a coarser grouping, such as families of
    genes, that is named as `patient_key`.
    """
    if unit_of(adata) != "gene":
        return sample_key, patient_key
    group = Key.CHROM if patient_key == Key.PATIENT else patient_key
    return group, group


def check_chromosomes(adata: AnnData, key: str) -> None:
    """Raise unless every gene has a chromosome, by names of one style: `1` and `chr1` would pass as two of them."""
    if key not in adata.obs:
        raise KeyError(
            f"expected the chromosomes of the genes in obs[{key!r}]; found {list(adata.obs.columns)}; read the genes with "
            "stp.io.read_sequences, or write the column and call stp.pp.as_genes(adata)"
        )
    column = adata.obs[key]
    if column.isna().any():
        raise ValueError(f"expected obs[{key!r}] without gaps; found {int(column.isna().sum())} missing values")
    names = np.unique(column.astype(str).to_numpy())
    plain = {bare_chromosome(name): name for name in names.tolist()}
    if len(plain) < len(names):
        twice = sorted(name for name in names.tolist() if plain[bare_chromosome(name)] != name)
        both = [f"{name} and {plain[bare_chromosome(name)]}" for name in twice]
        raise ValueError(
            f"expected one name for each chromosome in obs[{key!r}]; found {few(both)}; rename them: a chromosome under two "
            "names would be on both sides of a split"
        )


def bare_chromosome(name: str) -> str:
    """What a chromosome is compared by: without `chr`, in capitals, and the mitochondrion as `MT`."""
    bare = str(name).strip()
    bare = (bare[3:] if bare[:3].casefold() == "chr" else bare).upper()
    return "MT" if bare == "M" else bare
