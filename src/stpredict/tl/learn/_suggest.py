"""Which models are worth a try on an object, and what the others lack."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._nuclei import nuclei_keys
from stpredict.slots._unit import group_keys, unit_of

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container

_SHOWN = ("model", "ready", "lacks", "when", "against_ridge")
#: Inputs that say what an observation is.
_OF_UNIT = {"tokens": "slide", "sequence": "gene", "sequence_features": "gene", "prompt_ids": "gene"}


def suggest(
    data: Container,
    *,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Say which models are worth a try on this object, what the others lack, and whether they beat the ridge here.

    It looks at what an observation is (a spot or cell, a slide, a gene), at the number of sections and patients, and at what has
    been computed: features, tiles around the spots, nuclei, tables of genes. It fits nothing. Which model is best on *your*
    patients only :func:`stpredict.tl.cross_validate` tells.

    Parameters
    ----------
    data
        AnnData or SpatialData.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    One row per model for such observations, those that can be fitted now first, with

    - `model`, `ready`
    - `lacks`: what is missing, and the call that makes it
    - `needs`, `when`, `against_ridge`: what is said of it in the table of the documentation

    Raises
    ------
    KeyError
        When the sections are missing.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_genes=4, n_spots=30)
    >>> stp.pp.image_features(adata)
    >>> table = stp.models.suggest(adata)
    >>> table["model"][table["ready"]].tolist()
    ['mean', 'color', 'ridge', 'egn', 'bleep', 'mclstexp', 'hescape']
    """
    import pandas as pd

    from stpredict.core._table import compact
    from stpredict.models import get_model, list_models
    from stpredict.models.base._advice import ADVICE

    adata = get_table(data, table_key)
    unit = unit_of(adata)
    samples, patients = (_count(adata, key) for key in group_keys(adata, sample_key, patient_key))
    if samples is None and unit != "gene":
        raise KeyError(
            f"expected the sections in obs[{sample_key!r}]; found {list(adata.obs.columns)}; name their column with `sample_key=`"
        )
    rows, known = [], set(list_models().index)
    for name, advice in ADVICE.items():
        if name not in known:
            continue
        needs = get_model(name).reads()
        if next((_OF_UNIT[each] for each in sorted(needs) if each in _OF_UNIT), "observation") != unit:
            continue
        lacks = []
        if unit == "observation" and (samples or 0) < advice.sections:
            lacks.append(f"{advice.sections} sections, of which there are {samples}")
        if unit != "gene" and (patients or 1) < advice.patients:
            lacks.append(f"{advice.patients} patients, of whom there are {patients or 'none named'}")
        lacks += [call for each, (there, call) in _MADE.items() if each in needs and not there(adata)]
        rows.append((name, not lacks, "; ".join(lacks), advice.needs, advice.when, advice.against_ridge))
    table = pd.DataFrame(rows, columns=["model", "ready", "lacks", "needs", "when", "against_ridge"])
    return compact(table.sort_values("ready", ascending=False, kind="stable", ignore_index=True), _SHOWN)


def _count(adata: AnnData, key: str) -> int | None:
    return adata.obs[key].nunique() if key in adata.obs else None


def _ends(suffix: str = "") -> Callable[[AnnData], bool]:
    """Whether a slot of features has something beside it, by the end of its name."""
    return lambda adata: any(key.startswith("X_") and key.endswith(suffix) for key in adata.obsm)


def _features(adata: AnnData) -> bool:
    flat = [key for key, values in adata.obsm.items() if key.startswith("X_") and np.ndim(values) == 2]
    return any(key not in ("X_pca", "X_umap", "X_tsne") for key in flat) or Key.TILE_ID in adata.obs


def _on_lattice(adata: AnnData) -> bool:
    return {Key.ARRAY_ROW, Key.ARRAY_COL} <= set(adata.obs) or {Key.GRID_ROW, Key.GRID_COL} <= set(adata.obs)


#: By input: whether an object has it, and what makes it.
_MADE: dict[str, tuple[Callable[[AnnData], bool], str]] = {
    "features": (_features, "image features: stp.pp.image_features(adata)"),
    "tokens": (_ends("_bag"), "tokens of the slides: stp.pp.bag(tables, expression=…)"),
    "neighbors": (_ends("_neighbors"), "tiles around the spots: stp.pp.neighbor_features(adata)"),
    "edges": (_ends("_edges"), "drawings of boundaries: stp.pp.boundary_features(adata)"),
    "cell": (_on_lattice, "rows and columns of the lattice: stp.pp.grid(adata)"),
    "nuclei_graph": (lambda adata: bool(nuclei_keys(adata)), "nuclei: stp.pp.nuclei(adata)"),
    "counts": (lambda adata: Key.COUNTS in adata.layers, "raw counts in layers['counts']"),
    "gene_table": (lambda adata: bool(len(adata.varm)), "a table of genes: stp.pp.gene_table(adata, …)"),
    "sequence": (lambda adata: Key.SEQUENCE in adata.obsm, "DNA of the genes: stp.io.read_sequences(…)"),
    "sequence_features": (
        lambda adata: Key.SEQUENCE_FEATURES in adata.obsm,
        "features of windows: stp.pp.dna_features(…)",
    ),
    "prompt_ids": (lambda adata: Key.PROMPT_IDS in adata.obsm, "prompts: stp.pp.gene_prompts(adata, …)"),
}
