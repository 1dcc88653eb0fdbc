"""Earth mover's distance between measured and predicted maps of sections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_finite
from stpredict.metrics._emd import Method, Scaling, emd_uniform, resolve_method
from stpredict.metrics._emd import emd as distance
from stpredict.slots._checks import check_obs, check_obsm
from stpredict.slots._container import get_table
from stpredict.slots._expression import in_tissue
from stpredict.slots._keys import Key
from stpredict.slots._positions import positions_of
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._truth import measured_of

if TYPE_CHECKING:
    import pandas as pd

    from stpredict.slots._container import Container


def emd(
    data: Container,
    key: str = Key.PREDICTED,
    *,
    genes: Sequence[str] | None = None,
    layer: str | None = None,
    sample_key: str = Key.SAMPLE,
    spatial_key: str = Key.SPATIAL,
    method: Method = "auto",
    scaling: Scaling = "percentile",
    max_exact: int = 1500,
    n_projections: int | None = None,
    n_jobs: int = 1,
    seed: int = 0,
    table_key: str = Key.TABLE,
) -> pd.DataFrame:
    """Compute the earth mover's distance between measured and predicted maps, per gene and section.

    Distances are fractions of the diagonal of the section's bounding box; see :func:`stpredict.metrics.emd`. A smooth
    prediction scores well by construction: judge `emd` against `emd_uniform`, the distance from the measured map to a
    map without any pattern. Only observations on tissue (`obs["in_tissue"]`, where it exists) carry mass.

    Parameters
    ----------
    data
        AnnData or SpatialData with measured and predicted expression.
    key
        Slot of the prediction in `obsm`.
    genes
        Genes to compare; all genes of the prediction by default.
    layer
        Layer with the measured values; `X` by default.
    sample_key
        Column of `obs` that names the section.
    spatial_key
        Slot of the positions in `obsm`, (n_obs, 2).
    method
        Kind of distance: `"auto"` is exact in sections up to `max_exact` observations and sliced above; `"exact"`
        :cite:p:`flamary2021` solves one transport problem per gene; `"sliced"` :cite:p:`bonneel2015` treats all genes
        at once. The column `method` says which was used: compare only equal ones.
    scaling
        Scaling of the maps: `"percentile"` (ranks within the section) or `"mass"` (non-negative values as they are).
    max_exact
        Number of observations up to which `"auto"` is exact.
    n_projections
        Number of directions of the sliced distance; 200, and 40 for sections of more than 10,000 observations, when `None`.
    n_jobs
        Number of joblib threads for exact distances.
    seed
        Random seed for the sliced distance.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Table with columns `gene`, `sample`, `emd`, `emd_uniform` and `method`, one row per gene and section in the order
    of `genes` within each section. Nothing is written to `data`.

    Raises
    ------
    KeyError
        When the prediction, a gene, the positions or the section names are missing.
    ValueError
        When the prediction or the positions are not finite, or values are negative with `scaling="mass"`; or when the
        genes of the prediction are not known.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> rng = np.random.default_rng(0)
    >>> adata = ad.AnnData(rng.random((30, 2)), var=pd.DataFrame(index=["A", "B"]))
    >>> adata.obs["sample"], adata.obsm["spatial"] = "s1", rng.random((30, 2))
    >>> adata.obsm["predicted"] = pd.DataFrame(adata.X, adata.obs_names, ["A", "B"])
    >>> stp.tl.emd(adata)["emd"].tolist()
    [0.0, 0.0]
    """
    import pandas as pd

    adata = get_table(data, table_key, key)
    frame = prediction_frame(adata, key, genes)
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    check_obsm(adata, spatial_key, "write the positions there, or pass `spatial_key=`")
    truth = measured_of(adata, key, list(frame.columns), layer)
    tissue = in_tissue(adata)
    values, xy = frame.to_numpy(), positions_of(adata, spatial_key)
    check_finite(values[tissue], f"predictions in obsm[{key!r}]", "leave out observations without a prediction")
    options: dict[str, Any] = {
        "scaling": scaling,
        "max_exact": max_exact,
        "n_projections": n_projections,
        "n_jobs": n_jobs,
        "seed": seed,
    }
    samples = adata.obs[sample_key].astype(str).to_numpy()
    parts = []
    for sample in pd.unique(samples[tissue]):
        rows = np.flatnonzero(tissue & (samples == sample))
        used = resolve_method(method, len(rows), max_exact)
        section: dict[str, Any] = {"gene": frame.columns.astype(str), "sample": sample}
        section["emd"] = distance(truth[rows], values[rows], xy[rows], method=used, **options)
        section["emd_uniform"] = emd_uniform(truth[rows], xy[rows], method=used, **options)
        parts.append(pd.DataFrame(section | {"method": used}))
    if not parts:
        raise ValueError("expected at least one observation on tissue; found none")
    return pd.concat(parts, ignore_index=True)
