"""Digests of the files of a saved model, so that what was damaged or exchanged is not taken for what was saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def file_digests(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of some files of a directory, by name."""
    return {name: _digest(directory / name) for name in names}


def add_digests(directory: Path, names: Iterable[str]) -> None:
    """Enter files that were written beside a model, or over one of its own, into its `config.json`."""
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config["files"] |= file_digests(directory, names)
    path.write_text(json.dumps(config, indent=2))


def check_files(directory: Path, names: Iterable[str], digests: Any = None) -> None:
    """Raise `ValueError` unless files of a directory have the digests that they were saved with; name the first.

    Without `digests`, those of `config.json` count.

    Raises
    ------
    FileNotFoundError
        When a file is not there.
    ValueError
        When a file has another content, or no digest.
    """
    call = "copy the model again, or save it anew with FittedModel.save"
    if digests is None:
        digests = json.loads((directory / "config.json").read_text()).get("files")
    for name in names:
        path = directory / name
        if not path.is_file():
            raise FileNotFoundError(f"expected a saved model in {directory}; found no {name}; {call}")
        if not isinstance(digests, Mapping) or name not in digests:
            raise ValueError(f"expected the digest of {name} in {directory / 'config.json'}; found none; {call}")
        if _digest(path) != digests[name]:
            raise ValueError(
                f"expected {path} as it was saved; found another content than its digest in config.json says: the file is "
                f"damaged or was changed; {call}"
            )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
