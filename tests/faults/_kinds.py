"""All kinds, in the groups that are run together, each in a module of its own."""

from __future__ import annotations

from importlib import import_module

from . import _models, _pictures, _platforms, _stores, _tables
from ._kind import Kind

GROUPS = {"tables": _tables, "pictures": _pictures, "platforms": _platforms, "models": _models, "stores": _stores}


def kinds_of(wanted: list[str]) -> list[Kind]:
    """Kinds of some groups, or by their own names."""
    return [kind for group in GROUPS.items() for kind in group[1].KINDS if group[0] in wanted or kind.name in wanted]


def warm(kinds: list[Kind]) -> None:
    """Import what the readings of some kinds need, so that workers which are forked need not do it again and again."""
    from stpredict.core._optional import mend_torchvision

    modules = [module for module in GROUPS.values() if set(module.KINDS) & set(kinds)]
    for name in dict.fromkeys(name for module in modules for name in module.WARM):
        if name == "lightning.pytorch":
            mend_torchvision()
        import_module(name)
