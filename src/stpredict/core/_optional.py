"""Import of optional packages with the extra's name in the error."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

_schemas: list[Any] = []  # torch drops a library's operators with its last reference


def optional_import(name: str, extra: str) -> ModuleType:
    """Import an optional package, or say which extra brings it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.split(".")[0]
        if error.name is None or error.name.split(".")[0] != package:
            raise
        raise ImportError(
            f"this needs {package}; install it with: pip install 'stpredict-histology[{extra}]'"
        ) from error


def import_torchvision(name: str = "torchvision", extra: str = "encoders") -> ModuleType:
    """Import torchvision, or a package that imports it (timm), also beside a torch without torchvision's operators.

    The default torchvision wheel does not load its operators into a CPU-only torch and fails at import. The two
    operators it asks for are declared (not implemented) and the import is tried once more: models and transforms
    work then, `torchvision.ops` and `torchvision.io` do not.
    """
    try:
        return optional_import(name, extra)
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    import sys

    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _schemas.append(library)
    for module in [key for key in sys.modules if key.split(".")[0] in {"torchvision", "timm"}]:
        del sys.modules[module]
    return optional_import(name, extra)


def mend_torchvision() -> None:
    """Make torchvision importable where it is installed, for packages (lightning) that import it by themselves."""
    from importlib.util import find_spec

    if find_spec("torchvision") is not None:
        import_torchvision()
