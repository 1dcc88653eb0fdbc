"""One way into AnnData and SpatialData for every public function."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, TypeAlias

from stpredict.slots._keys import Key

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    Container: TypeAlias = AnnData | SpatialData


def is_spatialdata(data: Any) -> bool:
    """Whether `data` is a SpatialData, without importing spatialdata for those who do not use it."""
    module = sys.modules.get("spatialdata")
    return module is not None and isinstance(data, module.SpatialData)


def get_table(data: Container, table_key: str = Key.TABLE) -> AnnData:
    """Return the AnnData of a container: the object itself, or the table `table_key` of a SpatialData."""
    from anndata import AnnData

    if isinstance(data, AnnData):
        return _in_memory(data)
    if is_spatialdata(data):
        if table_key not in data.tables:
            raise KeyError(
                f"expected a table {table_key!r} in the SpatialData; found {sorted(data.tables)}; pass `table_key=`"
            )
        return _in_memory(data.tables[table_key])
    raise TypeError(f"expected AnnData or SpatialData; found {type(data).__name__}")


def _in_memory(table: AnnData) -> AnnData:
    """Refuse a table whose matrix stays in a file: it can neither be computed with nor replaced there."""
    if table.isbacked:
        raise ValueError(
            f"expected an AnnData in memory; found one that is backed by {table.filename}; call adata = adata.to_memory() "
            "first"
        )
    return table


def begin(data: Container, copy: bool, table_key: str = Key.TABLE) -> tuple[Container, AnnData]:
    """Return the container to change and its table: a copy of it when `copy`, the object itself otherwise.

    Of a SpatialData only the table is copied; images, labels and shapes are shared with the original.
    """
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
