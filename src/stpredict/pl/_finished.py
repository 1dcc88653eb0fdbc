"""What every plot can do: another size, and a file."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np

from stpredict.core._validate import check_positive

if TYPE_CHECKING:
    pass

P = ParamSpec("P")
T = TypeVar("T")
_DPI = 300
_DOC = """
figsize
    Width and height of the figure in inches; as the plot needs them when `None`. Not together with `ax`.
save
    File to write the figure to; its ending says which format (`.pdf`, `.svg`, `.png`, …).
dpi
    Dots per inch of pictures in that file.
"""


def finished(function: Callable[P, T]) -> Callable[..., T]:
    """Give a plot `figsize=`, `save=` and `dpi=`."""
    known = inspect.signature(function)
    own = "figsize" in known.parameters
    added = [] if own else [_keyword("figsize", None)]
    added += [_keyword("save", None), _keyword("dpi", _DPI)]

    @functools.wraps(function)
    def plot(*args: Any, save: str | Path | None = None, dpi: float = _DPI, **options: Any) -> T:
        figsize = None if own else options.pop("figsize", None)
        if save is not None:
            save = Path(save)
            if not save.parent.is_dir():
                raise FileNotFoundError(
                    f"expected a folder for save={str(save)!r}; found none at {save.parent}; make it first"
                )
            _check_ending(save)
        if figsize is not None:
            width, height = (check_positive(float(side), "figsize") for side in figsize)
            if options.get("ax") is not None:
                raise ValueError("expected `ax` or `figsize`; found both; the size is that of the figure of `ax`")
        result = function(*args, **options)
        if figsize is not None:
            figure_of(result).set_size_inches(width, height)
        if save is not None:
            figure_of(result).savefig(save, dpi=check_positive(dpi, "dpi"), bbox_inches="tight")
        return result

    plot.__signature__ = known.replace(  # type: ignore[attr-defined]
        parameters=[*known.parameters.values(), *added]
    )
    plot.__annotations__ = {**function.__annotations__, **{each.name: each.annotation for each in added}}
    plot.__doc__ = _documented(function.__doc__ or "", own)
    return plot


def figure_of(result: Any) -> Any:
    """The figure of what a plot returns: axes, an array or tuple of them, or the figure itself."""
    if isinstance(result, (np.ndarray, tuple, list)):
        return figure_of(np.asarray(result, dtype=object).flat[0])
    if hasattr(result, "savefig"):
        return result
    return result.figure.figure  # of axes in a part of a figure, the whole


def _keyword(name: str, default: Any) -> inspect.Parameter:
    kinds = {"figsize": "tuple[float, float] | None", "save": "str | Path | None", "dpi": "float"}
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kinds[name])


def _check_ending(path: Path) -> None:
    from matplotlib.backend_bases import FigureCanvasBase

    known = FigureCanvasBase.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise ValueError(f"expected a file ending in one of {', '.join(sorted(known))}; found {path.name!r}")


def _documented(text: str, own: bool) -> str:
    """The docstring with the parameters that were added, at the end of its parameters."""
    lines = _DOC.strip("\n").split("\n")
    lines = lines[2:] if own else lines
    indent = "    "
    block = "".join(f"{indent}{line}\n" for line in lines)
    return re.sub(r"\n\n( *Returns\n *-+\n)", lambda found: f"\n{block}\n{found[1]}", text, count=1)
