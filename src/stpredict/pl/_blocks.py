"""Blocks of a section that are held out, each with its buffer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from stpredict.core._palette import category_colors
from stpredict.pl._finished import finished
from stpredict.pl._sections import find_sections, section_panels
from stpredict.pl._style import GRAY, LIGHT_GRAY, category_legend, draw_spots, frame_section, given_axes, style
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._marks import WITHIN

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from stpredict.cohorts import Fold
    from stpredict.slots._container import Container

_PANEL = 2.2
_TRAIN, _TEST = category_colors(2)


@finished
def blocks(
    data: Container,
    folds: Sequence[Fold] | None = None,
    *,
    sample: str | Sequence[str] | None = None,
    ax: Axes | Sequence[Axes] | None = None,
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
        Section to show, several, or `"all"`; the first one by default, with a note where there are others.
    ax
        Axes to draw into, one for each panel; those of a new figure by default.
    spot_size
        Diameter of a spot in full-resolution pixels. By default that of the section's scale factors, but at least 0.8 of
        the distance between spots; sections of 2000 spots and more are drawn without gaps.
    sample_key, patient_key
        Columns of `obs` with the section and the patient.
    table_key
        Table of a SpatialData.

    Returns
    -------
    Axes (n_folds,), one for each fold that tests observations of the section; of several sections one after the other. A title says the number of observations on
    either side, and of those in the buffer.

    Warns
    -----
    UserWarning
        When the object has several sections and `sample` names none.

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
    from stpredict.cohorts import spatial_blocks

    adata = get_table(data, table_key)
    if folds is None:
        folds = spatial_blocks(adata, sample_key=sample_key, patient_key=patient_key)
    sections = find_sections(data, sample, spot_size=spot_size, sample_key=sample_key, table_key=table_key)
    if wrong := [fold.name for fold in folds if np.shape(fold.test) != (adata.n_obs,)]:
        raise ValueError(f"expected folds with masks of {adata.n_obs} values; found others in {wrong[0]!r}")
    shown = [(section, fold) for section in sections for fold in folds if fold.test[section.rows].any()]
    if missing := [each.name for each in sections if not any(section is each for section, _ in shown)]:
        raise ValueError(
            f"expected a fold that tests observations of section {missing[0]!r}; found none of {len(folds)}; name "
            "another one with `sample=`"
        )
    given = given_axes(ax, len(shown))
    with style():
        if given is None:
            given = section_panels([section for section, _ in shown], picture=False, width=_PANEL, room=1.0, above=0.9)
        panels = np.array(given, dtype=object)
        drawn: set[str] = set()
        for pane, (section, fold) in zip(panels, shown, strict=True):
            test, train = fold.test[section.rows], fold.train[section.rows]
            colors = np.select([test, train], [_TEST, _TRAIN], LIGHT_GRAY)
            draw_spots(pane, section, colors=colors, edge=GRAY)
            frame_section(pane, section, under=True, scale_bar=section.name not in drawn)
            drawn.add(section.name)
            counts = f"test {test.sum():,}, buffer {(~test & ~train).sum():,}, training {train.sum():,}"
            # The figure names a single section; what the panel then says is the block.
            name = fold.name.removeprefix(f"{section.name} ") if len(sections) == 1 else fold.name
            pane.set_title(f"{name}\n{counts}", fontsize=8)
        names, shades = ("test", "buffer", "training"), (_TEST, LIGHT_GRAY, _TRAIN)
        if ax is not None:
            category_legend(panels[-1], names, shades, title="observations")
            return panels
        category_legend(panels[0].figure, names, shades, title="observations", place="outside right center")
        told = ", ".join(section.name for section in sections)
        panels[0].figure.suptitle(f"{told}, {WITHIN}" if all(fold.within for _, fold in shown) else told, fontsize=9)
    return panels
