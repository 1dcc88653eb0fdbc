"""Color bars: their look, their ticks and their labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colorbar import Colorbar

_TICKS = 4
_UNITS = {"um2": "µm²", "um": "µm", "px": "px", "px2": "px²"}


def color_bar(
    drawn: Any, axes: Axes | Sequence[Axes], label: str, *, shrink: float = 0.8, values: np.ndarray | None = None
) -> Colorbar:
    """Color bar of what was drawn, right of its axes. Ticks are plain numbers, without a common offset.

    With `values`, the bar has a point at each end that some of them lie beyond.
    """
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    panels = list(axes) if isinstance(axes, (Sequence, np.ndarray)) else [axes]
    extend = "neither"
    if values is not None:
        low, high = drawn.get_clim()
        known = np.asarray(values, dtype=float)
        known = known[np.isfinite(known)]
        below, above = bool((known < low).any()), bool((known > high).any())
        extend = {(True, True): "both", (True, False): "min", (False, True): "max"}.get((below, above), "neither")
    bar = panels[0].figure.colorbar(
        drawn, ax=panels, shrink=shrink, aspect=20, pad=0.02, extend=extend, extendfrac=0.03
    )
    bar.set_label(label, fontsize=8)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7, length=2)
    bar.locator, bar.formatter = MaxNLocator(_TICKS), ScalarFormatter(useOffset=False)
    bar.update_ticks()
    return bar


def column_label(name: str) -> str:
    """Name of a column with its unit in parentheses: `"area_um2"` is an area in µm²."""
    stem, _, end = name.rpartition("_")
    return f"{stem.replace('_', ' ')} ({_UNITS[end]})" if stem and end in _UNITS else name
