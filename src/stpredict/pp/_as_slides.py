"""Say that the observations of a table are slides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stpredict.slots._checks import check_obs, check_unique
from stpredict.slots._container import begin
from stpredict.slots._keys import Key
from stpredict.slots._unit import say_slides

if TYPE_CHECKING:
    from stpredict.slots._container import Container


def as_slides(
    data: Container, *, sample_key: str = Key.SAMPLE, copy: bool = False, table_key: str = Key.TABLE
) -> Container | None:
    """Say that every observation of a table is a slide, not a spot of one.

    Slides are compared with each other: networks train on them as on one section, and scores are taken across patients.
    :func:`stpredict.pp.bag` says so of the tables it makes; a table from elsewhere needs this call. The number of
    slides says nothing: a table of one slide is a table of slides.

    Parameters
    ----------
    data
        Table (n_slides, n_genes) with one row per slide.
    sample_key
        Column of `obs` with the slide.
    copy
        Whether to return a changed copy instead of changing `data`.
    table_key
        Table of a SpatialData.

    Returns
    -------
    `None`, or the changed copy. Writes `uns["stpredict"]["unit"]`.

    Raises
    ------
    KeyError
        When there is no column `sample_key`.
    ValueError
        When two observations are of one slide.

    Examples
    --------
    >>> import anndata as ad, pandas as pd, stpredict as stp
    >>> slides = ad.AnnData(obs=pd.DataFrame({"sample": ["a", "b"], "patient": ["1", "2"]}, index=["a", "b"]))
    >>> stp.pp.as_slides(slides)
    >>> slides.uns["stpredict"]["unit"]["is"]
    'slide'
    """
    container, adata = begin(data, copy, table_key)
    check_obs(adata, sample_key, "name the slides, or pass `sample_key=`")
    check_unique(adata.obs[sample_key].astype(str), f"slides in obs[{sample_key!r}]")
    say_slides(adata)
    return container if copy else None
