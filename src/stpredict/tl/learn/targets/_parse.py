"""From what users pass as `target=` to a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from stpredict.targets import Classes, Counts, Expression, FollowUp

if TYPE_CHECKING:
    from anndata import AnnData

Request = Expression | Counts | Classes | FollowUp


def parse_target(adata: AnnData, target: Any) -> Request:
    """Return the request behind a target.

    Objects of :mod:`stpredict.targets` are taken as they are; `None` is expression, a list is a panel of genes, a mapping
    the fields of :class:`stpredict.targets.Expression`, and a string a column: of `obs` with classes, or of `var` with a
    panel.

    Raises
    ------
    KeyError
        When a string names no column.
    TypeError
        For anything else.
    ValueError
        When a string names columns of both.
    """
    if target is None:
        return Expression()
    if isinstance(target, Expression | Counts | Classes | FollowUp):
        return target
    if isinstance(target, Mapping):
        known = [field.name for field in fields(Expression)]
        unknown = sorted(set(target) - set(known))
        if unknown:
            raise TypeError(f"expected a target with {', '.join(known)}; found {', '.join(map(repr, unknown))}")
        return Expression(**target)
    if isinstance(target, str):
        return _column(adata, target)
    if hasattr(target, "__iter__"):
        return Expression(panel=[str(gene) for gene in target])
    raise TypeError(
        f"expected a target as a column, a list of genes, or an object of stp.targets; found {type(target).__name__}"
    )


def _column(adata: AnnData, name: str) -> Request:
    found: dict[str, Request] = {}
    if name in adata.obs:
        found[f"obs[{name!r}]"] = Classes(name)
    if name in adata.var:
        found[f"var[{name!r}]"] = Expression(panel=name)
    if len(found) > 1:
        raise ValueError(
            f"expected the name of one column as target; found {' and '.join(found)}; pass stp.targets.Classes({name!r}) "
            f"or stp.targets.Expression(panel={name!r})"
        )
    if not found:
        raise KeyError(
            f"expected a column of obs with classes, or of var with a panel; found no {name!r} among "
            f"{list(adata.obs.columns)} and {list(adata.var.columns)}; genes are passed as a list, a selection as "
            f"stp.targets.Expression(panel={name!r})"
        )
    return next(iter(found.values()))
