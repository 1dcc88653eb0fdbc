"""One way into AnnData and SpatialData for every public function."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from stpredict.slots._features import is_tile_table
from stpredict.slots._keys import Key

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    Container: TypeAlias = AnnData | SpatialData


def is_spatialdata(data: Any) -> bool:
    """Whether `data` is a SpatialData, without importing spatialdata for those who do not use it."""
    module = sys.modules.get("spatialdata")
    return module is not None and isinstance(data, module.SpatialData)


def get_table(data: Container, table_key: str = Key.TABLE, *slots: str, measured: bool = False) -> AnnData:
    """Return the AnnData of a container: the object itself, or the table of a SpatialData as :func:`find_table` finds it."""
    from anndata import AnnData

    if isinstance(data, AnnData):
        return _in_memory(data)
    if is_spatialdata(data):
        return _in_memory(data.tables[find_table(data, table_key, *slots, measured=measured)])
    if type(data).__name__ == "Cohort" and hasattr(data, "to_adata"):
        raise TypeError(
            "expected AnnData or SpatialData; found a Cohort, which this function does not take; call it on every section, "
            "cohort.map(function, …), or on all of them in memory, cohort.to_adata()"
        )
    raise TypeError(f"expected AnnData or SpatialData; found {type(data).__name__}")


def find_table(data: Container, table_key: str = Key.TABLE, *slots: str, measured: bool = False) -> str:
    """Name of the table that a call is about: the one rule, for every function.

    The table asked for; where nothing was asked for and there is no `"table"`, the only one that there is, or the only
    one with these slots: the tiles of a slide, for example, are in `"{encoder}_tiles"`. Tables that
    :func:`stpredict.io.to_spatialdata` made of predictions are those of another one.

    Parameters
    ----------
    data
        AnnData, for which the name does not matter, or SpatialData.
    table_key
        Name that the user gave, or the default.
    slots
        Keys of `obsm`, columns of `obs` or records of `uns["stpredict"]` that the table holds.
    measured
        Whether the call reads measured genes, so that tables with features of tiles in `X` are none.

    Returns
    -------
    The name.

    Raises
    ------
    KeyError
        When no table fits, or several do; the message lists them.
    """
    if not is_spatialdata(data) or table_key in data.tables:
        return table_key
    found = sorted(data.tables)
    if table_key != Key.TABLE:
        raise KeyError(f"expected a table {table_key!r} in the SpatialData; found {found}; correct `table_key=`")
    names = [name for name in found if Key.PREDICTION not in data.tables[name].uns.get(Key.UNS, {})] or found
    names = [name for name in names if not (measured and is_tile_table(data.tables[name]))]
    if len(names) > 1 and slots:
        names = [name for name in names if all(_holds(data.tables[name], slot) for slot in slots)]
    if len(names) == 1:
        return names[0]
    wanted = f"one with {' and '.join(map(repr, slots))}" if slots else "one other"
    if measured:
        wanted = "one with measured genes"
    raise KeyError(
        f"expected a table {table_key!r} in the SpatialData, or {wanted}; found {len(names)} that fit among {found}; "
        "name one with `table_key=`"
    )


def _holds(table: AnnData, slot: str) -> bool:
    return slot in table.obsm or slot in table.obs or slot in table.uns.get(Key.UNS, {})


def _in_memory(table: AnnData) -> AnnData:
    """Refuse a table whose matrix stays in a file: it can neither be computed with nor replaced there."""
    if table.isbacked:
        raise ValueError(
            f"expected an AnnData in memory; found one that is backed by {table.filename}; call adata = adata.to_memory() "
            "first"
        )
    return table


def beside(adata: AnnData, **obsm: Any) -> AnnData:
    """An object of its own that shares the arrays of another, and may hold further slots: what is written to it stays there."""
    from anndata import AnnData

    return AnnData(
        adata.X, obs=adata.obs.copy(), var=adata.var, obsm={**adata.obsm, **obsm}, varm=dict(adata.varm),
        layers=dict(adata.layers), uns=dict(adata.uns),
    )  # fmt: skip


def begin(
    data: Container, copy: bool, table_key: str = Key.TABLE, *slots: str, measured: bool = False
) -> tuple[Container, AnnData]:
    """Return the container to change and its table: a copy of it when `copy`, the object itself otherwise.

    Of a SpatialData only the table is copied; images, labels and shapes are shared with the original.
    """
    table_key = find_table(data, table_key, *slots, measured=measured)
    table = get_table(data, table_key)
    if not copy:
        return data, table
    table = table.copy()
    if not is_spatialdata(data):
        return table, table
    from spatialdata import SpatialData

    tables = dict(data.tables) | {table_key: table}
    changed = SpatialData(
        images=dict(data.images),
        labels=dict(data.labels),
        points=dict(data.points),
        shapes=dict(data.shapes),
        tables=tables,
        attrs=dict(data.attrs),
    )
    return changed, table
