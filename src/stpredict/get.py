"""Results of the package as objects of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from stpredict.core._cells import gather, scatter
from stpredict.core._validate import few
from stpredict.slots._checks import check_obs
from stpredict.slots._container import get_table
from stpredict.slots._expression import in_tissue
from stpredict.slots._grids import cells_of, rows_of
from stpredict.slots._keys import Key
from stpredict.slots._predicted import predicted_table
from stpredict.slots._samples import samples_of
from stpredict.slots._score_tables import ranked_genes

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from stpredict.slots._container import Container

__all__ = ["from_grid", "nuclei", "predicted", "samples", "to_grid", "top_genes"]


def __dir__() -> list[str]:
    return sorted(__all__)


def predicted(
    data: Container,
    key: str = Key.PREDICTED,
    *,
    layer: str | None = None,
    scale: Literal["rate", "log1p", "residuals", "linear", "normalized"] | None = None,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> AnnData:
    """Return a prediction as an AnnData whose variables are the genes of the panel.

    Parameters
    ----------
    data
        AnnData or SpatialData with a prediction.
    key
        Slot of the prediction in `obsm`; also of one that lies beside it, such as `"predicted_baseline_ridge"`.
    layer
        Layer with the measured values; by default `X`, or what `layers["counts"]` says in the unit of the prediction where
        that is not the unit of `X`, as of a model of counts.
    scale
        Unit to put prediction and measurement in, for models of counts, log1p values and residuals: `"rate"` per count,
        `"log1p"` of counts per 10,000, `"residuals"`, or `"normalized"`, the unit of `X`. A mean log1p value or residual
        belongs to one rate at given depths; those, and the proportions of residuals, are those of each section where it
        has counts, and those of the training where not. `"linear"` undoes the logarithm of 1 + value, of bulk expression as
        well (`"log2p1"`), and takes what was predicted below 0 for 0. As it was predicted when `None`.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    A new AnnData (n_obs, n_genes), of which `.to_df()` is the DataFrame, with

    - `X`: the prediction, in the unit of the training target (rates per count for a model of counts), or in that of `scale`,
    - `layers["measured"]`: the measured values (see `layer`), NaN for genes that were not measured; left
      out when none was,
    - `layers["std"]`, `layers["lower"]`, `layers["upper"]`: from `obsm["{key}_std"]` and so on, where these exist and no
      `scale` is asked for,
    - `var["measured"]`: whether the gene is among the variables of `data`,
    - `obs`, `obsm["spatial"]` and the provenance in `uns["stpredict"]`, as in `data`; in `uns["spatial"]` the sections
      that are there.

    Raises
    ------
    KeyError
        When there is no such prediction, layer or table.
    TypeError
        When `data` is neither AnnData nor SpatialData.
    ValueError
        When a `scale` is asked for and the prediction cannot be put on it: its unit is not known, or a section has no counts
        and the training's are not recorded. When the genes of the slot are not known, or not those of all rows, as after
        joining objects in other ways than :func:`stpredict.concat`; or when a gene name occurs twice.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd, stpredict as stp
    >>> adata = ad.AnnData(np.ones((2, 2), np.float32), var=pd.DataFrame(index=["A", "B"]))
    >>> adata.obsm["predicted"] = pd.DataFrame({"B": [0.5, 1.5]}, index=adata.obs_names)
    >>> stp.get.predicted(adata).layers["measured"].tolist()
    [[1.0], [1.0]]
    """
    return predicted_table(get_table(data, table_key, key), key, layer=layer, sample_key=sample_key, scale=scale)


def samples(
    data: Container,
    key: str = Key.PREDICTED,
    genes: Sequence[str] | None = None,
    *,
    table_key: str = Key.TABLE,
) -> np.ndarray:
    """Return the samples of a prediction, from the object or from the store that its record names.

    Parameters
    ----------
    data
        AnnData or SpatialData with a prediction that was made with `n_samples`.
    key
        Slot of the prediction in `obsm`.
    genes
        Genes of the prediction; all of them when `None`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Samples (n_obs, n_samples, n_genes) float32 in the unit of the prediction.

    Raises
    ------
    KeyError
        When there is no such prediction, no gene of that name, or there are no samples.
    ValueError
        When the samples that are there belong to other genes or observations.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(2, 1, 4, n_spots=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> train = adata.obs["patient"] == "P1"
    >>> model = stp.tl.fit(adata, "stem", train, hyperparameters="small", training={"max_epochs": 1})
    >>> stp.tl.predict(adata, model, n_samples=3)
    >>> stp.get.samples(adata).shape
    (40, 3, 4)
    """
    adata = get_table(data, table_key, key)
    found = samples_of(adata, key)
    if found is None:
        raise KeyError(
            f"expected samples of obsm[{key!r}]; found none; call stp.tl.predict with n_samples=, with a model that draws samples"
        )
    missing = [] if genes is None else [name for name in genes if name not in found.genes]
    if missing:
        raise KeyError(f"expected genes of the prediction; found {few(missing)}; take genes among {few(found.genes)}")
    return found.read(np.arange(adata.n_obs), genes)


def to_grid(
    data: Container,
    values: str | Sequence[str] | np.ndarray,
    sample: str | None = None,
    *,
    layer: str | None = None,
    fill: float = np.nan,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> tuple[np.ndarray, np.ndarray]:
    """Return values of a section as a dense map, one pixel per spot or tile.

    All maps of a section use the same cells, so that features, measurements and predictions of an observation lie on
    the same pixel. :func:`stpredict.get.from_grid` is the inverse.

    Parameters
    ----------
    data
        AnnData or SpatialData with the cells of :func:`stpredict.pp.grid`.
    values
        Key of `obsm`, column of `obs` (numbers or booleans) or gene, looked for in this order; several columns or
        genes; or an array or DataFrame (n_obs, k) with a row for every observation of all sections.
    sample
        Name of the section; not needed when there is only one.
    layer
        Layer to read genes from; `X` by default.
    fill
        Value outside the tissue.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The map (n_rows, n_cols, k) float32, and the tissue mask (n_rows, n_cols): the cells that hold an observation,
    except those off tissue according to `obs["in_tissue"]`, which hold `fill`.

    Raises
    ------
    KeyError
        When there are no cells, or the section or the values are not known.
    ValueError
        When the section has to be named, or the values have another number of rows.
    TypeError
        When the values are not numbers, or `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import stpredict as stp
    >>> obs = pd.DataFrame({"sample": "A", "array_row": [0, 1, 1], "array_col": [0, 0, 1]}, index=list("abc"))
    >>> adata = ad.AnnData(np.array([[1.0], [2.0], [3.0]]), obs=obs, var=pd.DataFrame(index=["ERBB2"]))
    >>> stp.pp.grid(adata)
    >>> values, tissue = stp.get.to_grid(adata, "ERBB2")
    >>> values[..., 0]
    array([[ 1., nan],
           [ 2.,  3.]], dtype=float32)
    """
    table = get_table(data, table_key)
    rows, cell, shape = cells_of(table, sample, sample_key)
    on_tissue = in_tissue(table)[rows]
    rows, cell = rows[on_tissue], cell[on_tissue]
    grid = scatter(rows_of(table, values, rows, layer), cell, shape, fill)
    mask = np.zeros(shape, dtype=bool)
    mask[cell[:, 0], cell[:, 1]] = True
    return grid, mask


def from_grid(
    grid: np.ndarray,
    data: Container,
    sample: str | None = None,
    *,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> np.ndarray:
    """Return the rows of a section's observations from a dense map, the inverse of :func:`stpredict.get.to_grid`.

    Parameters
    ----------
    grid
        Map (n_rows, n_cols, k), or (n_rows, n_cols), of the shape of the section; cut padding off before.
    data
        AnnData or SpatialData with the cells of :func:`stpredict.pp.grid`.
    sample
        Name of the section; not needed when there is only one.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Values (n_obs of the section, k), or (n_obs of the section,), in the order of the observations.

    Raises
    ------
    KeyError
        When there are no cells, or the section is not known.
    ValueError
        When the section has to be named, or the map has another shape.
    TypeError
        When `data` is neither AnnData nor SpatialData.

    Examples
    --------
    >>> import anndata as ad, numpy as np, pandas as pd
    >>> import stpredict as stp
    >>> obs = pd.DataFrame({"sample": "A", "array_row": [1, 0], "array_col": [1, 0]}, index=list("ab"))
    >>> adata = ad.AnnData(np.ones((2, 1)), obs=obs)
    >>> stp.pp.grid(adata, lattice="square")
    >>> stp.get.from_grid(np.array([[10, 11], [20, 21]]), adata).tolist()
    [21, 10]
    """
    _, cell, shape = cells_of(get_table(data, table_key), sample, sample_key)
    grid = np.asarray(grid)
    if grid.ndim not in (2, 3) or grid.shape[:2] != shape:
        raise ValueError(
            f"expected a map of {shape[0]} × {shape[1]} cells, or with a third axis of values; found shape {grid.shape}; "
            "cut padding off where it was put on"
        )
    return gather(grid, cell)


def top_genes(
    scores: pd.DataFrame,
    n: int = 10,
    *,
    shown: str | Sequence[str] | None = None,
    metric: str | None = None,
    model: str | None = None,
) -> list[str]:
    r"""Name the best predicted genes, ranked on other patients than those they are shown on.

    The best of many genes on a section are partly the luckiest ones there: shown on that section, they look better than
    they are. Ranked on other patients, what is shown is a test.

    In a cross-validation the models that are scored on the others were trained on those shown, too, and the two scores have that
    pair of patients in common: the fewer patients, the more of the luck returns (with P patients the noise of the two is
    correlated by about :math:`1 / \sqrt{2P - 3}`), and with two it is all of it, which is refused. Where it matters,
    leave those shown out of the cross-validation that ranks.

    Parameters
    ----------
    scores
        Table of :func:`stpredict.tl.evaluate` or :func:`stpredict.tl.cross_validate`, with scores of several patients.
    n
        Number of genes.
    shown
        Patients on whom the genes will be shown, and who have no say in the ranking. When `None`, all patients of the table
        rank, and figures of any of them are marked.
    metric
        Score to rank by; when `None`, `"pearson_given_depth"`, or `"pearson"` where the table has no other.
    model
        Model whose scores count; when `None`, the one with the best mean, over the patients that rank, that is not a baseline.

    Returns
    -------
    Names of genes, best first: a list with the attributes `ranked_on` (patients), `metric`, `model` and `saw_shown` (whether
    the models scored were trained on those shown), by which figures know whether they were picked on what they draw. Genes without a score are left out, and so are those
    that the patients shown have no row of, as when their fold selected other genes. The score of a gene is its mean over sections, then over patients.

    Raises
    ------
    KeyError
        When the table lacks a column, the model, or a patient of `shown`.
    TypeError
        When `scores` is no table.
    ValueError
        When nobody is left to rank on, also where a cross-validation has two patients, or `n` is not positive.

    Examples
    --------
    >>> import pandas as pd, stpredict as stp
    >>> scores = pd.DataFrame({"model": "ridge", "sample": list("aabb"), "patient": list("ppqq"), "gene": list("GHGH")})
    >>> scores["pearson"] = [0.1, 0.3, 0.7, 0.5]
    >>> stp.get.top_genes(scores, 1, shown="q")
    ['H']
    """
    return ranked_genes(scores, n, shown, metric, model)


def nuclei(
    data: Container,
    sample: str | None = None,
    key: str = "nuclei",
    *,
    sample_key: str = Key.SAMPLE,
    table_key: str = Key.TABLE,
) -> Any:
    """Return the nuclei of a section or slide, as :func:`stpredict.pp.nuclei` found them.

    Parameters
    ----------
    data
        AnnData or SpatialData with nuclei.
    sample
        Section; the only one when `None`. A slide has one.
    key
        Name of the nuclei.
    sample_key
        Column of `obs` that names the section.
    table_key
        Table of a SpatialData.

    Returns
    -------
    GeoDataFrame with a polygon per nucleus, in full-resolution pixels, and its measures as columns.

    Raises
    ------
    KeyError
        When there are no nuclei of that name, or no such section.
    ValueError
        When there are several sections and none is named.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(1, 1, 4, n_spots=4)
    >>> stp.pp.nuclei(adata)
    >>> stp.get.nuclei(adata, "P1_S1").geometry.iloc[0].geom_type
    'Polygon'
    """
    from stpredict.io._slide import is_slide, slide_name
    from stpredict.slots._nuclei import read_nuclei_of

    if is_slide(data) and table_key not in data.tables:
        return read_nuclei_of(data, None, key, slide_name(data))
    adata = get_table(data, table_key)
    check_obs(adata, sample_key, "name the sections, or pass `sample_key=`")
    names = list(dict.fromkeys(adata.obs[sample_key].astype(str)))
    if sample is None and len(names) != 1:
        raise ValueError(
            f"expected the name of one of {len(names)} sections; found none; pass {names[0]!r}, for example"
        )
    return read_nuclei_of(data, adata, key, names[0] if sample is None else str(sample))
