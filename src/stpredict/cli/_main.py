"""The command line: which commands there are, and what becomes of their errors."""

from __future__ import annotations

import argparse
import importlib
import sys
import warnings
from collections.abc import Sequence
from typing import Any, Protocol

#: Every command is the module `_{name}` beside this one.
COMMANDS = ("features", "fit", "predict", "evaluate", "align", "models", "encoders", "report", "demo")
#: What a call with wrong input raises, here and in the libraries behind; all else is a fault of ours, and shown whole.
_EXPECTED = (OSError, KeyError, ValueError, TypeError, ImportError, RuntimeError)


#: What errors advise to those who write Python, and what it is called here.
_IN_THE_SHELL = {
    "pass `microns_per_pixel=`": "pass --microns-per-pixel, or a table of slides with the column microns_per_pixel",
    "lower `min_area_um2`": "lower --min-tissue-um2",
}


class Command(Protocol):
    """What the module of a command holds.

    Nothing is imported at its top that takes long: it is imported for every call of the shell.
    """

    HELP: str
    EXAMPLE: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Declare its arguments."""

    def run(self, options: argparse.Namespace) -> int:
        """Do it, and return the exit status."""


def command(name: str) -> Command:
    """The module of a command."""
    found: Any = importlib.import_module(f"stpredict.cli._{name}")
    return found


def make_parser() -> argparse.ArgumentParser:
    """Parser of all commands, with an example for each."""
    from stpredict import __version__

    found = {name: command(name) for name in COMMANDS}
    parser = argparse.ArgumentParser(
        prog="stpredict",
        description="Predict gene expression from H&E histology, and know how good the prediction is.",
        epilog=_examples([line for each in found.values() for line in each.EXAMPLE.splitlines()[:1]]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"stpredict {__version__}")
    parser.add_argument("--debug", action="store_true", help="show where an error was raised")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, each in found.items():
        part = commands.add_parser(
            name, help=each.HELP, description=f"{each.HELP[0].upper()}{each.HELP[1:]}.",
            epilog=_examples(each.EXAMPLE.splitlines()), formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        each.add_arguments(part)
    return parser


def _examples(lines: Sequence[str]) -> str:
    return "\n".join([f"example{'s' * (len(lines) > 1)}:", *(f"  {line}" for line in lines)])


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 1 where something failed, 2 for wrong arguments."""
    options = make_parser().parse_args(arguments)
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        try:
            return command(options.command).run(options)
        except _EXPECTED as error:
            if options.debug:
                raise
            print(f"stpredict: {said(error)}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            print("stpredict: interrupted; the same call goes on with what is written", file=sys.stderr)
            return 130


def said(error: BaseException) -> str:
    """What an error says, in one line and in the words of the shell; a `KeyError` prints itself in quotes otherwise."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    for call, option in _IN_THE_SHELL.items():
        text = text.replace(call, option)
    return " ".join(text.split()) or type(error).__name__


def _show_warning(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """A warning of this package as a line; those of libraries about their own future are for developers."""
    if not issubclass(category, FutureWarning | DeprecationWarning):
        print(f"warning: {' '.join(str(message).split())}", file=sys.stderr)
