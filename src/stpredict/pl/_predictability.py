"""Which genes can be seen in the picture, against the most that counting noise allows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from stpredict.core._validate import check_finite
from stpredict.pl._ceiling import frame_ceilings, label_best
from stpredict.pl._finished import finished
from stpredict.pl._style import BLUE, LIGHT_GRAY, one_panel, style
from stpredict.slots._container import get_table
from stpredict.slots._keys import Key
from stpredict.slots._provenance import read_record

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_NEEDED = ("pearson", "ceiling", "q")


@finished
def predictability(
    data: Any, key: str = "predictability", *, fdr: float = 0.05, ax: Axes | None = None, table_key: str = Key.TABLE
) -> Axes:
    """Draw what each gene shares with its neighbors in image space, against its noise ceiling.

    A gene at the upper right can be learned from the picture, and its score will not be limited by few counts. One at the
    lower right varies over the tissue in a way that places that look alike do not share. One at the left was counted
    too rarely to say.

    Parameters
    ----------
    data
        Table of :func:`stpredict.tl.predictability`, or the AnnData or SpatialData that it wrote into.
    key
        Prefix of what it wrote, `key_added`.
    fdr
        False-discovery rate up to which genes are filled.
    ax
        Axes to draw into; those of a new figure by default.
    table_key
        Table of a SpatialData.

    Returns
    -------
    The axes, with the eight genes of the highest correlation among those found named. The title says where neighbors come from.

    Raises
    ------
    KeyError
        When the table, or the object, lacks a column.
    ValueError
        When no gene has a correlation and a ceiling, or `fdr` is out of range.
    TypeError
        When `data` is neither a table nor AnnData nor SpatialData.

    Examples
    --------
    >>> import pandas as pd, stpredict as stp
    >>> table = pd.DataFrame({"gene": list("ABC"), "pearson": [0.4, 0.1, 0.2], "ceiling": [0.9, 0.8, 0.3]})
    >>> table["q"], table["neighbors_from"] = [0.001, 0.4, 0.01], "other patients"
    >>> print(stp.pl.predictability(table).get_title(loc="left"))
    2 of 3 genes at a false-discovery rate of 0.05
    neighbors from other patients
    """
    if not 0 < fdr <= 1:
        raise ValueError(f"expected fdr above 0 and at most 1; found {fdr!r}")
    table, origin = _table(data, key, table_key)
    known = table.dropna(subset=["pearson", "ceiling"])
    if not len(known):
        raise ValueError("expected genes with a correlation and a noise ceiling; found none")
    x, y = known["ceiling"].to_numpy(dtype=float), known["pearson"].to_numpy(dtype=float)
    check_finite(np.column_stack([x, y]), "correlations and ceilings", "run stp.tl.predictability again")
    found = (known["q"] <= fdr).to_numpy()

    with style():
        ax = one_panel(ax, 4.6, 3.6)
        diagonal = frame_ceilings(ax, x, y)
        size = 3 if len(known) > 300 else 4.5
        sides = ((found, BLUE, f"q ≤ {fdr:g}"), (~found, LIGHT_GRAY, f"q > {fdr:g}"))
        drawn = [
            ax.plot(
                x[mask], y[mask], ls="", marker="o", ms=size, mec="white", mew=0.3, color=color, alpha=0.8, label=label,
                zorder=2 + (color == BLUE),
            )[0]
            for mask, color, label in sides
        ]  # fmt: skip
        ax.set_ylabel("r with image neighbors")
        ax.set_title(
            f"{int(found.sum()):,} of {len(table):,} genes at a false-discovery rate of {fdr:g}\nneighbors from {origin}",
            loc="left",
        )
        ax.legend(handles=[*drawn, diagonal], loc="upper left", borderaxespad=0.2)
        if found.any():
            label_best(ax, x[found], y[found], [str(gene) for gene in known["gene"][found]])
    return ax


def _table(data: Any, key: str, table_key: str) -> tuple[pd.DataFrame, str]:
    """Columns `gene`, `pearson`, `ceiling` and `q`, and where neighbors come from."""
    import pandas as pd

    if isinstance(data, pd.DataFrame):
        missing = [name for name in ("gene", *_NEEDED, "neighbors_from") if name not in data]
        if missing:
            raise KeyError(
                f"expected the table of stp.tl.predictability; missing {missing}; found {list(data.columns)}"
            )
        return data[data["q"].notna()], ", ".join(sorted(set(data["neighbors_from"].astype(str))))
    adata = get_table(data, table_key, measured=True)
    columns = {"pearson": key, "ceiling": f"{key}_ceiling", "q": f"{key}_q"}
    record = read_record(adata, key)
    missing = [column for column in columns.values() if column not in adata.var]
    if missing or record is None:
        raise KeyError(
            f"expected {list(columns.values())} in var and their record; found {list(adata.var.columns)}; run "
            "stp.tl.predictability(adata) first"
        )
    table = pd.DataFrame({name: adata.var[column].to_numpy() for name, column in columns.items()})
    table.insert(0, "gene", adata.var_names.astype(str))
    return table[table["q"].notna()], str(record["neighbors_from"])
