"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stpredict.cli._batch import Job
    from stpredict.cli._items import Item


def add_tiles(parser: argparse.ArgumentParser) -> None:
    """How tiles are laid over a slide."""
    parser.add_argument(
        "--microns-per-pixel", type=positive,
        help="µm per pixel of slides whose file, and whose row of the table, does not say it",
    )  # fmt: skip
    parser.add_argument("--min-tissue-um2", type=float, default=50_000.0, help="smallest piece of tissue that counts")
    parser.add_argument("--stride-um", type=positive, help="distance between tiles in µm; their own side when left out")
    parser.add_argument("--max-background", type=float, default=0.2, help="largest share of a tile outside the tissue")
    parser.add_argument(
        "--max-tiles", type=int, help="largest number of tiles of a slide, drawn by chance; all when left out"
    )


def tile_options(options: argparse.Namespace) -> dict[str, Any]:
    """Options of :func:`stpredict.cli._slides.lay_tiles`."""
    return {
        "min_tissue_um2": options.min_tissue_um2,
        "stride_um": options.stride_um,
        "max_background": options.max_background,
        "max_tiles": options.max_tiles,
    }


def add_compute(parser: argparse.ArgumentParser) -> None:
    """Where and how features are computed."""
    parser.add_argument(
        "--weights",
        nargs="+",
        default=[],
        metavar="ENCODER=FILE",
        help="weight files of encoders; the published ones otherwise",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; an accelerator where there is one when left out")
    parser.add_argument(
        "--batch-size", type=int, help="tiles that are encoded at once; it changes speed, not the result"
    )


def compute_options(options: argparse.Namespace) -> dict[str, Any]:
    """`weights` by encoder, `device`, `batch_size`."""
    pairs = [text.partition("=") for text in options.weights]
    wrong = [name for name, equals, path in pairs if not (name and equals and path)]
    if wrong:
        raise ValueError(f"expected --weights ENCODER=FILE; found {wrong[0]!r}; such as uni=uni/pytorch_model.bin")
    return {
        "weights": {name: path for name, _, path in pairs},
        "device": options.device,
        "batch_size": options.batch_size,
    }


def add_batch(parser: argparse.ArgumentParser) -> None:
    """How a command goes through its items."""
    parser.add_argument("--overwrite", action="store_true", help="replace results of other models or settings")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument(
        "--client",
        metavar="ADDRESS",
        help="address of a dask scheduler, whose workers share the folders with this machine",
    )


def check_out(slides: Path, out: Path) -> None:
    """Raise where results would lie among the slides, and be taken for some by the next call."""
    if slides.is_dir() and out.expanduser().resolve() == slides.expanduser().resolve():
        raise ValueError(f"expected another folder than that of the slides as --out; found {out}; name a new one")


def run_items(job: Job, items: Sequence[Item], options: argparse.Namespace) -> int:
    """Do a job for all items, here or on the workers of a client; or only say what would be done."""
    from stpredict.cli._batch import dry_run, run_batch
    from stpredict.core._settings import settings

    settings.progress = sys.stderr.isatty() and len(items) == 1  # bars of many slides would bury the lines
    if options.dry_run:
        return dry_run(job, items)
    from stpredict.core._engine import connected

    with connected(options.client) as client:
        return run_batch(job, items, client=client, debug=options.debug)


def positive(text: str) -> float:
    """A number above 0."""
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number; found {text}")
    return value
