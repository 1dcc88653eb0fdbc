"""Digests of the files of a saved model, so that what was damaged or exchanged is not taken for what was saved."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stpredict.models import Predictor

CONFIG = "config.json"
FORMAT = 3
#: What a configuration holds, and of which kind it is.
ENTRIES: dict[str, type] = {
    "format": int, "model": str, "hyperparameters": dict, "widths": dict, "target": dict, "features": dict,
    "training": dict, "baselines": list, "files": dict,
}  # fmt: skip
_CALL = "copy the model again, or save it anew with FittedModel.save"


def file_digests(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of some files of a directory, by name."""
    return {name: _digest(directory / name) for name in names}


def network_digest(network: Predictor) -> str:
    """SHA-256 of the configuration and the weights of a network."""
    digest = hashlib.sha256(json.dumps([type(network).__name__, asdict(network.config)], sort_keys=True).encode())
    for name, tensor in sorted(network.state_dict().items()):
        digest.update(name.encode() + tensor.contiguous().cpu().numpy().tobytes())
    return digest.hexdigest()


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    """Write the configuration of a model with a digest of its own."""
    plain = json.loads(json.dumps(config))
    (directory / CONFIG).write_text(json.dumps(plain | {"digest": config_digest(plain)}, indent=2))


def config_digest(config: Mapping[str, Any]) -> str:
    """SHA-256 of a configuration of plain values, its own digest left out."""
    content = {name: value for name, value in config.items() if name != "digest"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_config(directory: Path) -> dict[str, Any]:
    """Read the configuration of a model.

    Raises
    ------
    FileNotFoundError
        When there is none.
    ValueError
        When it is damaged or of another format, does not match its digest, or lacks something.
    """
    path = inside(directory, CONFIG)
    try:
        config = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(
            f"expected a saved model in {directory}; found no {CONFIG}; save one with FittedModel.save or stp.tl.fit"
        ) from None
    except (ValueError, RecursionError, OSError) as error:
        raise ValueError(
            f"expected a complete {CONFIG} in {directory}; found a damaged one ({error}); {_CALL}"
        ) from error
    if not isinstance(config, dict):
        raise ValueError(
            f"expected a complete {CONFIG} in {directory}; found one without {', '.join(ENTRIES)}; {_CALL}"
        )
    if config.get("format", FORMAT) != FORMAT:
        raise ValueError(
            f"expected a model of format {FORMAT} in {directory}; found {config['format']!r}; fit it anew, or use the "
            "version of the package that saved it"
        )
    if config.get("digest") != config_digest(config):
        raise ValueError(
            f"expected {path} as it was saved; found another content than its digest says: the file is damaged or was "
            f"changed; {_CALL}"
        )
    missing = [name for name in ENTRIES if name not in config]
    if missing:
        raise ValueError(
            f"expected a complete {CONFIG} in {directory}; found one without {', '.join(missing)}; {_CALL}"
        )
    wrong = [name for name, kind in ENTRIES.items() if not isinstance(config[name], kind)]
    if wrong:
        raise ValueError(
            f"expected {wrong[0]} as {ENTRIES[wrong[0]].__name__} in {path}; found {config[wrong[0]]!r}; {_CALL}"
        )
    return config


def add_digests(directory: Path, names: Iterable[str]) -> None:
    """Enter files that were written beside a model, or over one of its own, into its configuration."""
    config = read_config(directory)
    write_config(directory, config | {"files": config["files"] | file_digests(directory, names)})


def check_files(directory: Path, names: Iterable[str], digests: Mapping[str, Any]) -> None:
    """Raise `ValueError` unless files of a directory have the digests that they were saved with; name the first.

    Raises
    ------
    FileNotFoundError
        When a file is not there.
    ValueError
        When a file has another content, or no digest, or lies outside of the directory.
    """
    for name in names:
        path = inside(directory, name)
        if not path.is_file():
            raise FileNotFoundError(f"expected a saved model in {directory}; found no {name}; {_CALL}")
        if name not in digests:
            raise ValueError(f"expected the digest of {name} in {directory / CONFIG}; found none; {_CALL}")
        if _digest(path) != digests[name]:
            raise ValueError(
                f"expected {path} as it was saved; found another content than its digest in {CONFIG} says: the file is "
                f"damaged or was changed; {_CALL}"
            )


def inside(directory: Path, name: str) -> Path:
    """Path of a file of a directory; `ValueError` where a link or the name itself leads elsewhere."""
    path = directory / name
    if path.resolve() != directory.resolve() / name:
        raise ValueError(
            f"expected the files of a model in its own directory {directory}; found that {name} leads to {path.resolve()}; "
            "copy the files themselves, without links"
        )
    return path


def plain_names(names: Iterable[Any], where: Path) -> list[str]:
    """Names of directories; `ValueError` where one is a path, or no text."""
    found = list(names)
    for name in found:
        if not isinstance(name, str) or not name or Path(name).name != name or name == ".." or "\0" in name:
            raise ValueError(f"expected plain names of baselines in {where}; found {name!r}; name them by one word")
    return found


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
