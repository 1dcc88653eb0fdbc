"""From what users pass as `target=` to a request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from stpredict.core._validate import few
from stpredict.slots._provenance import read_record
from stpredict.slots._unit import unit_of
from stpredict.slots._values import MATRIX, content_of
from stpredict.targets import Classes, Counts, Expression, FollowUp, Values

if TYPE_CHECKING:
    from anndata import AnnData

Request = Expression | Counts | Classes | FollowUp | Values


def parse_target(adata: AnnData, target: Any) -> Request:
    """Return the request behind a target.

    Objects of :mod:`stpredict.targets` are taken as they are; `None` is expression, a mapping the fields of
    :class:`stpredict.targets.Expression`. A list is a panel of genes, or columns of `obs` with numbers. A string is a column
    of `obs` with classes or numbers, a slot of `obsm` with values, or a column of `var` with a panel. Where the rows are genes,
    the columns of `X` are conditions, and are values of the genes as they stand.

    Raises
    ------
    KeyError
        When a string names none of them.
    TypeError
        For anything else.
    ValueError
        When a string or a list names several of them, or a column may hold classes as well as numbers.
    """
    genes = unit_of(adata) == "gene" and read_record(adata, "normalize") is None
    if target is None:
        return Values(obsm=MATRIX) if genes else Expression()
    if isinstance(target, Request):
        return target
    if isinstance(target, Mapping):
        known = [field.name for field in fields(Expression)]
        unknown = sorted(set(target) - set(known))
        if unknown:
            raise TypeError(f"expected a target with {', '.join(known)}; found {', '.join(map(repr, unknown))}")
        return Expression(**target)
    if isinstance(target, str):
        return _name(adata, target)
    if hasattr(target, "__iter__"):
        found = _list(adata, [str(name) for name in target])
        # The columns of a table of genes are conditions: their values are taken as they are.
        return Values(obsm=MATRIX, columns=list(map(str, target))) if genes and isinstance(found, Expression) else found
    raise TypeError(
        "expected a target as a column, a slot, a list of genes or of columns, or an object of stp.targets; found "
        f"{type(target).__name__}"
    )


def _name(adata: AnnData, name: str) -> Request:
    """What one name means; a gene of that name makes it ambiguous, and is none by itself."""
    found: dict[str, tuple[str, Request]] = {}
    if name in adata.obs:
        found[f"obs[{name!r}]"] = _of_column(adata, name)
    if name in adata.obsm:
        found[f"obsm[{name!r}]"] = f"stp.targets.Values(obsm={name!r})", Values(obsm=name)
    if name in adata.var:
        found[f"var[{name!r}]"] = f"stp.targets.Expression(panel={name!r})", Expression(panel=name)
    if found and name in adata.var_names:
        found[f"the gene {name!r}"] = f"stp.targets.Expression(panel=[{name!r}])", Expression(panel=[name])
    if len(found) > 1:
        raise ValueError(
            f"expected the name of one column, slot or panel as target; found {' and '.join(found)}; pass "
            f"{' or '.join(call for call, _ in found.values())}"
        )
    if not found:
        raise KeyError(
            f"expected a column of obs with classes or numbers, a slot of obsm with values, or a column of var with a panel; "
            f"found no {name!r} among {list(adata.obs.columns)}, {sorted(adata.obsm)} and {list(adata.var.columns)}; genes are "
            f"passed as a list, a selection as stp.targets.Expression(panel={name!r})"
        )
    return next(iter(found.values()))[1]


def _of_column(adata: AnnData, name: str) -> tuple[str, Request]:
    """What a column of `obs` holds, with the call that says so."""
    classes, numbers = f"stp.targets.Classes({name!r})", f"stp.targets.Values(obs={name!r})"
    content = content_of(adata.obs[name], f"obs[{name!r}]")
    if content == "either":
        n = adata.obs[name].nunique()
        raise ValueError(
            f"expected classes or numbers in obs[{name!r}]; found whole numbers of {n} kinds, which may be either; pass "
            f"{classes} or {numbers}"
        )
    return (classes, Classes(name)) if content == "classes" else (numbers, Values(obs=name))


def _list(adata: AnnData, names: list[str]) -> Request:
    """Genes, or columns of `obs`; some of each are an error, and names of both as well."""
    columns, genes = ([name for name in names if name in there] for there in (adata.obs.columns, adata.var_names))
    if not columns:
        return Expression(panel=names)
    if len(columns) == len(names) and not genes:
        return Values(obs=names)
    if len(genes) == len(names) and len(columns) < len(names):
        return Expression(panel=names)
    if len(genes) == len(columns) == len(names):
        raise ValueError(
            f"expected genes or columns of obs as target; found {few(names)} as both; pass stp.targets.Expression(panel=[…]) or "
            "stp.targets.Values(obs=[…])"
        )
    raise ValueError(
        f"expected genes or columns of obs as target; found {few(columns)} in obs, {few(genes) or 'none'} among the genes, of "
        f"{len(names)} names; correct them"
    )
