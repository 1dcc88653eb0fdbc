"""Registries: entries by name, found among the modules of the package and the plug-ins of other packages."""

from __future__ import annotations

import importlib
import pkgutil
import warnings
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries by name; the modules that make them are imported when the first one is asked for.

    Parameters
    ----------
    what
        What the entries are, for messages: `"model"`.
    package
        Package whose modules `_*.py` make the entries; its subpackages are left out.
    table
        The call that lists the entries, for messages.

    Notes
    -----
    Another package names the module that makes its entries in the entry-point group named like `package`. One that
    cannot be imported is warned about, and takes no other with it.
    """

    def __init__(self, what: str, package: str, table: str) -> None:
        self.what, self.package, self.table = what, package, table
        self._entries: dict[str, tuple[str, T]] = {}
        self._discovered = False

    def add(self, name: str, entry: T, maker: object) -> None:
        """Enter something under a name; `ValueError` where another maker (class, function) has taken it."""
        if not maker.__module__.startswith(f"{self.package}."):
            self.discover()  # or a name of the package would seem to be free
        origin = f"{maker.__module__}.{getattr(maker, '__qualname__', '')}"
        if name in self._entries and self._entries[name][0] != origin:
            raise ValueError(
                f"expected a new {self.what} name; found {name!r}, registered by {self._entries[name][0]}; take another"
            )
        self._entries[name] = origin, entry

    def get(self, name: str, more: str = "") -> T:
        """Look up an entry; `KeyError` that lists the known ones, and `more`, where there is none."""
        if name not in self._entries:
            self.discover()
        if name not in self._entries:
            raise KeyError(
                f"expected a registered {self.what} ({', '.join(sorted(self._entries))}{more}); found {name!r}; "
                f"see {self.table}"
            )
        return self._entries[name][1]

    def remove(self, name: str) -> None:
        """Forget an entry; `KeyError` where there is none."""
        del self._entries[name]

    def __iter__(self) -> Iterator[str]:
        self.discover()
        return iter(sorted(self._entries))

    def discover(self) -> None:
        """Import what makes entries, once."""
        if self._discovered:
            return
        from importlib.metadata import entry_points

        self._discovered = True
        try:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                if not module.ispkg:
                    importlib.import_module(f"{self.package}.{module.name}")
        except BaseException:
            self._discovered = False
            raise
        for point in entry_points(group=self.package):
            try:
                point.load()
            except Exception as error:  # noqa: BLE001 - a broken plug-in must not take the others with it
                warnings.warn(f"{self.what}s of {point.value!r} could not be loaded: {error}", stacklevel=3)
