"""Maps of the best predicted genes, picked on other patients than the one that is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpredict.get import top_genes as best_genes
from stpredict.pl._finished import finished
from stpredict.pl._genes import genes as draw_genes
from stpredict.pl._sections import find_sections
from stpredict.slots._checks import check_obs
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key, storable

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from stpredict.slots._container import Container


@finished
def top_genes(
    data: Container,
    scores: pd.DataFrame,
    n_genes: int = 3,
    *,
    key: str | None = None,
    sample: str | Sequence[str] | None = None,
    metric: str | None = None,
    model: str | None = None,
    columns: Sequence[str] | None = None,
    layer: str | None = None,
    ax: Axes | Sequence[Axes] | None = None,
    spot_size: float | None = None,
    vmin: float | None = None,
    vmax: float | None = None,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> np.ndarray:
    """Map the genes that are predicted best on other patients, measured beside predicted, on a section.

    The best genes of a section are partly the luckiest ones there. Here they are ranked on the patients that are not drawn
    (:func:`stpredict.get.top_genes`), so that the maps are a test of them.

    Parameters
    ----------
    data
        AnnData or SpatialData with a prediction.
    scores
        Table of :func:`stpredict.tl.evaluate` or :func:`stpredict.tl.cross_validate`, with scores of other patients too.
    n_genes
        Number of genes.
    key
        Slot of the prediction in `obsm`; that of the model, as :func:`stpredict.tl.cross_validate` names it, when `None`.
    sample
        Section to show, or several; the first one by default, with a note where there are others.
    metric
        Score to rank by; when `None`, `"pearson_given_depth"`, or `"pearson"` where the table has no other.
    model
        Model whose scores count; when `None`, the one with the best mean that is not a baseline.
    columns, layer, ax, spot_size, vmin, vmax
        As in :func:`stpredict.pl.genes`.
    sample_key, patient_key
        Columns of `obs` that name the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Axes, as those of :func:`stpredict.pl.genes`.

    Raises
    ------
    KeyError
        When the prediction, a column, the section or its patient are missing.
    ValueError
        When nobody is left to rank on, also where a cross-validation has two patients.
    TypeError
        When `scores` is no table, or `data` neither AnnData nor SpatialData.

    Warns
    -----
    UserWarning
        When the object has several sections and `sample` names none.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(3, 1, 8, n_spots=40)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> scores = stp.tl.cross_validate(adata, ["ridge"], baselines=False)
    >>> stp.pl.top_genes(adata, scores, 2, sample="P3_S1").shape
    (2, 4)
    """
    adata = get_table(data, table_key, measured=True)
    check_obs(adata, patient_key, "name the patients with `patient_key=`")
    sections = find_sections(data, sample, spot_size=None, sample_key=sample_key, table_key=table_key)
    rows = np.concatenate([section.rows for section in sections])
    chosen = best_genes(
        scores, n_genes, shown=sorted(set(adata.obs[patient_key].iloc[rows].astype(str))), metric=metric, model=model
    )
    if key is None:
        own = f"{Key.PREDICTED}_{storable(chosen.model)}"  # type: ignore[attr-defined]
        key = own if own in adata.obsm else Key.PREDICTED
    names = sections[0].name if len(sections) == 1 else [section.name for section in sections]
    return draw_genes(
        data, chosen, key=key, sample=names, columns=columns, layer=layer, ax=ax, spot_size=spot_size, vmin=vmin, vmax=vmax,
        sample_key=sample_key, table_key=table_key,
    )  # fmt: skip
