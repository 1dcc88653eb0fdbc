"""Correlations between genes, predicted beside measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._palette import category_colors
from stpredict.pl._finished import finished
from stpredict.pl._style import ERROR_CMAP, leave_room, style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from stpredict.tl.judge._module_correlation import ModuleCorrelation

_NAMED = 40  # genes that have room for their names


@finished
def module_correlation(found: ModuleCorrelation, *, figsize: tuple[float, float] | None = None) -> Figure:
    """Draw the correlations of predicted maps, ordered by modules, and those of the measured ones in the same order.

    Parameters
    ----------
    found
        What :func:`stpredict.tl.module_correlation` returned.
    figsize
        Width and height in inches.

    Returns
    -------
    The figure. The bar at the left has a color for each module. Above each panel stands the mean absolute correlation, beside
    what maps of the same smoothness reach that have nothing to do with each other; below, Mantel's r of both matrices.

    Raises
    ------
    TypeError
        When `found` is something else.

    Examples
    --------
    >>> import stpredict as stp
    >>> adata = stp.datasets.synthetic_cohort(n_patients=2, n_sections=1, n_spots=80, n_genes=20)
    >>> stp.pp.image_features(adata)
    >>> stp.pp.normalize(adata)
    >>> scores = stp.tl.cross_validate(adata, ["ridge"], baselines=False)
    >>> figure = stp.pl.module_correlation(stp.tl.module_correlation(adata, "predicted_ridge", n_permutations=9))
    >>> [ax.get_title().split(",")[0] for ax in figure.axes[:2]]
    ['predicted', 'measured']
    """
    import matplotlib.pyplot as plt
    from matplotlib.colors import ListedColormap
    from scipy.cluster.hierarchy import leaves_list

    if not hasattr(found, "modules"):
        raise TypeError(f"expected the result of stp.tl.module_correlation; found {type(found).__name__}")
    summary = found.summary
    # Modules keep together: leaves of the tree in their order, within the module.
    leaves = leaves_list(found.linkage)
    order = leaves[np.argsort(found.modules.to_numpy()[leaves], kind="stable")]
    panels = {"predicted": found.predicted} | ({} if found.measured is None else {"measured": found.measured})
    with style():
        figure, panes = plt.subplots(
            1, len(panels), figsize=figsize or (1.2 + 3.6 * len(panels), 4.3), layout="constrained", squeeze=False
        )
        leave_room(figure)
        axes = panes[0]
        label = found.modules.to_numpy()[order]
        bar = axes[0].inset_axes((-0.07, 0, 0.04, 1))  # as high as the matrix beside it
        colors = ListedColormap(category_colors(int(label.max())))
        bar.imshow(label[:, None], cmap=colors, vmin=1, vmax=label.max(), aspect="auto", interpolation="nearest")
        bar.set_xticks([])
        bar.set_ylabel("module")
        bar.set_yticks([np.flatnonzero(label == module).mean() for module in np.unique(label)], np.unique(label))
        bar.tick_params(length=0)
        bar.spines[:].set_visible(False)
        image: Any = None
        for ax, (name, matrix) in zip(axes, panels.items(), strict=True):
            image = ax.imshow(
                matrix.to_numpy()[np.ix_(order, order)], cmap=ERROR_CMAP, vmin=-1, vmax=1, interpolation="nearest"
            )
            ax.set_title(f"{name}, mean |r| {summary[f'mean_{name}']:.2f}")
            few = len(order) <= _NAMED
            ax.set_xticks(
                range(len(order)) if few else [],
                found.predicted.columns[order] if few else [],
                rotation=90,
                fontsize=6,
                style="italic",
            )
            ax.set_yticks([])
            ax.spines[:].set_visible(False)
        figure.colorbar(image, ax=list(axes), label="Pearson's r of two genes", shrink=0.7)
        said = f"turned maps: mean |r| {summary['mean_turned']:.2f}" if np.isfinite(summary["mean_turned"]) else ""
        if np.isfinite(summary["mantel"]):
            beside = (
                f", {summary['mantel_turned']:.2f} of turned maps (p {summary['p_turned']:.3f})"
                if said
                else f" (p {summary['p_mantel']:.3f})"
            )
            said = "; ".join([*([said] if said else []), f"Mantel's r {summary['mantel']:.2f}{beside}"])
        figure.supxlabel(said, fontsize=8)
    return figure
