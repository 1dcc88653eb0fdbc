"""Blocks of a section that are held out, each with its buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._palette import category_colors
from stpredict.pl._finished import finished
from stpredict.pl._style import GRAY, LIGHT_GRAY, category_legend, draw_spots, find_section, frame_section, style
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._marks import WITHIN

if TYPE_CHECKING:
    from stpredict.cohorts import Fold
    from stpredict.slots._container import Container

_ABREAST = 4
_PANEL = 2.2
_TRAIN, _TEST = category_colors(2)


@finished
def blocks(
    data: Container,
    folds: Sequence[Fold] | None = None,
    *,
    sample: str | None = None,
    spot_size: float | None = None,
    sample_key: str = Key.SAMPLE,
    patient_key: str = Key.PATIENT,
    table_key: str = Key.TABLE,
) -> np.ndarray:
    """Show which observations of a section each fold tests, trains on, and leaves out between the two.

    Parameters
    ----------
    data
        AnnData or SpatialData with positions in `obsm["spatial"]`.
    folds
        Folds of this object; those of :func:`stpredict.cohorts.spatial_blocks` when `None`.
    sample
        Section to show; the first one by default.
    spot_size
        Diameter of a spot in full-resolution pixels; that of the section's scale factors by default.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Axes (n_folds,), one for each fold that tests observations of the section. A title says the number of observations on
    either side, and of those in the buffer.

    Raises
    ------
    KeyError
        When the section or its positions are missing.
    ValueError
        When no fold tests observations of the section, masks are not of this object, or as in
        :func:`stpredict.cohorts.spatial_blocks`.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=1, n_sections=1, n_genes=5, n_spots=100)
    >>> axes = stp.pl.blocks(adata, stp.cohorts.spatial_blocks(adata, 4, buffer_um=250))
    >>> len(axes)
    4
    """
    import matplotlib.pyplot as plt

    from stpredict.cohorts import spatial_blocks

    adata = get_table(data, table_key)
    if folds is None:
        folds = spatial_blocks(adata, sample_key=sample_key, patient_key=patient_key)
    section = find_section(data, sample=sample, spot_size=spot_size, sample_key=sample_key, table_key=table_key)
    if wrong := [fold.name for fold in folds if np.shape(fold.test) != (adata.n_obs,)]:
        raise ValueError(f"expected folds with masks of {adata.n_obs} values; found others in {wrong[0]!r}")
    shown = [fold for fold in folds if fold.test[section.rows].any()]
    if not shown:
        raise ValueError(
            f"expected a fold that tests observations of section {section.name!r}; found none of {len(folds)}; name "
            "another one with `sample=`"
        )
    n_rows = -(-len(shown) // _ABREAST)
    n_columns = -(-len(shown) // n_rows)
    aspect = (section.box[2] - section.box[3]) / (section.box[1] - section.box[0])
    size = (_PANEL * n_columns + 1.0, (_PANEL * float(np.clip(aspect, 0.4, 2.5)) + 0.7) * n_rows)
    with style():
        figure, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")
        for spare in axes.flat[len(shown) :]:
            spare.remove()
        panels = axes.flat[: len(shown)]
        for ax, fold in zip(panels, shown, strict=True):
            test, train = fold.test[section.rows], fold.train[section.rows]
            colors = np.select([test, train], [_TEST, _TRAIN], LIGHT_GRAY)
            draw_spots(ax, section, colors=colors, edge=GRAY)
            frame_section(ax, section, picture=0.5, scale_bar=ax is panels[0])
            counts = f"test {test.sum()}, buffer {(~test & ~train).sum()}, training {train.sum()}"
            ax.set_title(f"{fold.name}\n{counts}", fontsize=8)
        category_legend(
            figure, ("test", "buffer", "training"), (_TEST, LIGHT_GRAY, _TRAIN), place="outside right center"
        )
        figure.suptitle(f"{section.name}, {WITHIN}" if all(fold.within for fold in shown) else section.name, fontsize=9)
    return np.array(panels, dtype=object)
