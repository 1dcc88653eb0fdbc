"""The layers of the package: no import points upward, none closes a cycle, no private name leaves its module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import stpredict

ROOT = Path(stpredict.__file__).parent
#: From the ground up; each knows only those before it. Rooms of one floor do not know each other.
FLOORS = (
    {"core", "targets"},
    {"metrics", "encoders"},
    {"models"},
    {"training"},
    {"slots"},
    {"io", "cohorts"},
    {"datasets"},
    {"pp"},
    {"get"},
    {"tl"},
    {"pl"},
    {"report"},
    {"demo"},
    {"cli"},
    {"__main__", "__init__"},
)
HEIGHT = {name: floor for floor, names in enumerate(FLOORS) for name in names}


def modules() -> dict[str, Path]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 2 else parts)] = path
    return found


def imports(path: Path) -> Iterator[tuple[str, str | None]]:
    """Modules of the package that a file imports, with the name that it takes, wherever the import stands."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "stpredict":
            for alias in node.names:
                yield str(node.module), alias.name
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "stpredict":
                    yield alias.name, None


def target_of(module: str, name: str | None, known: dict[str, Path]) -> str:
    """The module that an import means: `from stpredict.core import _atomic` is one of the module."""
    return f"{module}.{name}" if name is not None and f"{module}.{name}" in known else module


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in modules()} == set(HEIGHT)


def test_no_import_points_upward() -> None:
    known = modules()
    upward = []
    for module, path in known.items():
        for origin, name in imports(path):
            below, above = room(target_of(origin, name, known)), room(module)
            if origin == "stpredict":  # the version, or the package as its users have it
                continue
            if below != above and HEIGHT[below] >= HEIGHT[above]:
                upward.append(f"{module} -> {origin}.{name}")
    assert not upward, "\n".join(upward)


def test_no_import_closes_a_cycle() -> None:
    """Neither among modules nor among the rooms of `tl`; what only the type checker reads counts as well."""
    known = modules()
    graph = {
        module: {target_of(origin, name, known) for origin, name in imports(path)} & set(known) - {module}
        for module, path in known.items()
    }
    assert not cycle_of(graph)
    rooms: dict[str, set[str]] = {}
    for module, targets in graph.items():
        for target in targets:
            a, b = module.split("."), target.split(".")
            if a[1] == b[1] == "tl" and len(a) > 2 and len(b) > 2 and a[2] != b[2]:
                rooms.setdefault(a[2], set()).add(b[2])
    assert not cycle_of(rooms)


def cycle_of(graph: dict[str, set[str]]) -> list[str]:
    """Nodes of one cycle; nothing where there is none."""
    done: set[str] = set()

    def visit(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return []
        for other in sorted(graph.get(node, ())):
            if found := visit(other, [*path, node]):
                return found
        done.add(node)
        return []

    for node in sorted(graph):
        if found := visit(node, []):
            return found
    return []


def test_no_private_name_crosses_modules() -> None:
    known = modules()
    private = [
        f"{module} takes {name} from {origin}"
        for module, path in known.items()
        for origin, name in imports(path)
        if name is not None and name.startswith("_") and not name.startswith("__")
    ]
    assert not private, "\n".join(private)


def test_tools_are_in_rooms() -> None:
    assert [path.name for path in (ROOT / "tl").glob("*.py")] == ["__init__.py"]


def test_a_file_of_models_is_a_network() -> None:
    """Layers are in `nn`, what networks share in `base`: what is beside them registers a network."""
    for path in (ROOT / "models").glob("_[a-z]*.py"):
        assert "@register(" in path.read_text(), path.name
