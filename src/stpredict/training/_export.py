"""A fitted model as a program of torch, which runs where this package is not installed."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from stpredict.core._atomic import write_directory
from stpredict.core._constant import constant
from stpredict.models import Batch, Sections
from stpredict.training._card import model_card
from stpredict.training._described import Described

if TYPE_CHECKING:
    import pandas as pd


PROGRAM, _CARD = "model.pt2", "README.md"
_NAMES = "names.json"  # beside the program, in its archive
_OF_SECTIONS = {"section_features": "features", "section_positions": "positions"}
_ROWS, _OTHER_ROWS = 5, 3
_TOLERANCE = 1e-6
#: What torch raises for networks that it cannot trace.
_UNTRACED = (AssertionError, AttributeError, LookupError, NotImplementedError, RuntimeError, TypeError, ValueError)


class Program(nn.Module):
    """Inputs of the observations of one section or slide in, values in the unit of the target out."""

    def __init__(self, model: Described) -> None:
        super().__init__()
        self.network = deepcopy(model.network).requires_grad_(False)
        self.target, self.facts = model.target, model.training
        self.inputs = program_inputs(model)
        self.within_section = bool(model.features["slots"]) and model.features["scaling"] == "section"

    def forward(self, *tensors: Tensor) -> Tensor:
        """Predict (n, n_outputs) from one tensor (n, …) for each of `inputs`, in their order."""
        given = dict(zip(self.inputs, tensors, strict=True))
        if self.within_section:
            given["features"] = _standardized(given["features"])
        one = torch.zeros_like(tensors[0].flatten(1)[:, 0], dtype=torch.int64)
        needs = self.network.needs
        inputs = {name: given[name] for name in needs & given.keys()}
        inputs |= {name: given[of] for name, of in _OF_SECTIONS.items() if name in needs}
        batch = Batch(one, one - 1, inputs, sections=Sections(one, torch.cumsum(one + 1, 0) - 1))
        mean = self.network.predict(batch).mean[:, : self.network.n_wanted]
        return self.target.linked(mean.float(), self.facts)


def _standardized(features: Tensor) -> Tensor:
    """What :func:`stpredict.core._standardized.within_sections` makes of the features (n, d) of one section."""
    values = features.double()
    mean = values.mean(dim=0)
    std = (values - mean).square().mean(dim=0).sqrt()
    return ((values - mean) / std.masked_fill(constant(std, mean), torch.inf)).float()


def program_inputs(model: Described) -> list[str]:
    """Names of the tensors that the program of a model reads, in their order."""
    needs = {_OF_SECTIONS.get(name, name) for name in model.network.needs}
    other = sorted(needs - {"features", "positions", "patches"})
    if other or not needs or model.network.samples:
        what = "draws samples" if model.network.samples else f"reads {', '.join(other) or 'nothing'}"
        raise TypeError(
            f"expected a network that reads features, positions or patches, and draws nothing, to export; found {model.model!r}, "
            f"which {what}; keep it with model.save(path), and predict with stp.tl.predict"
        )
    return [name for name in ("features", "positions", "patches") if name in needs]


def export_model(model: Described, path: str | Path, scores: pd.DataFrame | None, license: str | None) -> Path:
    """Write program and model card, see :meth:`stpredict.training.FittedModel.export`."""
    program = Program(model).eval()
    exported = _traced(model, program)
    rows = _rows(exported)
    card = model_card(model, use=_use(program.inputs, rows), scores=scores, license=license)
    about = {"outputs": model.panel, "inputs": program.inputs, "features": model.features, "rows": rows}

    def write(directory: Path) -> None:
        torch.export.save(exported, directory / PROGRAM, extra_files={_NAMES: json.dumps(about)})
        (directory / _CARD).write_text(card, encoding="utf-8")

    return write_directory(Path(path), PROGRAM, write)


def _traced(model: Described, program: Program) -> torch.export.ExportedProgram:
    rows = torch.export.Dim.AUTO  # as many as the network allows
    tensors = _example(model, program.inputs, _ROWS)
    try:
        with torch.no_grad():
            exported = torch.export.export(program, tensors, dynamic_shapes=(tuple({0: rows} for _ in tensors),))
            _check_same(model, program, exported)
    except _UNTRACED as error:
        raise RuntimeError(
            f"expected a network that torch.export can trace for any number of rows; found {model.model!r}: "
            f"{str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__}; keep it with "
            "model.save(path), and predict with stp.tl.predict"
        ) from error
    return exported


def _rows(exported: torch.export.ExportedProgram) -> list[int | None]:
    """Least and largest number of rows that a program takes; `None` where any."""
    ranges = list(exported.range_constraints.values())
    most = min((int(each.upper) for each in ranges if each.upper.is_Integer), default=None)
    return [2, most]


def _check_same(model: Described, program: Program, exported: torch.export.ExportedProgram) -> None:
    """Compare with the network on another number of rows than it was traced with."""
    tensors = _example(model, program.inputs, _OTHER_ROWS)
    wanted, found = program(*tensors), exported.module()(*tensors)
    if not torch.allclose(wanted, found, rtol=_TOLERANCE, atol=_TOLERANCE):
        raise RuntimeError(
            f"expected the exported program to predict what {model.model!r} does; found differences of up to "
            f"{float((wanted - found).abs().max()):.3g}; keep it with model.save(path)"
        )


def _example(model: Described, names: list[str], n: int) -> tuple[Tensor, ...]:
    """Inputs of the right shape."""
    generator = torch.Generator().manual_seed(n)
    widths, patch = model.network.shape.widths, model.training.patch
    width = widths.get("features", widths.get("section_features", 0))
    side = int(patch[1]) if patch else 0
    shapes: dict[str, Any] = {
        "features": lambda: torch.randn(n, width, generator=generator),
        "positions": lambda: 1000 * torch.rand(n, 2, generator=generator),
        "patches": lambda: torch.randint(0, 256, (n, 3, side, side), generator=generator, dtype=torch.uint8),
    }
    return tuple(shapes[name]() for name in names)


def _use(inputs: list[str], rows: list[int | None]) -> str:
    shapes = {
        "features": "(n, d) float32",
        "positions": "(n, 2) float32, x and y in µm",
        "patches": "(n, 3, height, width) uint8",
    }
    said = "\n".join(f"# {name}: {shapes[name]}, of all observations of one section or slide" for name in inputs)
    if rows[1] is not None:
        said += f"\n# at most {rows[1]} observations at a time"
    return f"""
import json

import torch

about = {{"{_NAMES}": ""}}
program = torch.export.load("{PROGRAM}", extra_files=about)
names = json.loads(about["{_NAMES}"])["outputs"]
{said}
values = program.module()({", ".join(inputs)})  # (n, {{len(names)}})
"""
