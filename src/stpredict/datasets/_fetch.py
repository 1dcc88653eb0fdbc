"""Files of public data: fetched once, checked by their hashes, with a message that helps where there is no network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stpredict.core._settings import settings

if TYPE_CHECKING:
    from anndata import AnnData


@dataclass(frozen=True)
class Remote:
    """A public file.

    Attributes
    ----------
    url
        Where it is.
    sha256
        Hash of its content.
    """

    url: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """Where data come from, and what they ask of those who use them."""

    name: str
    license: str
    citation: str


def fetch(
    files: Mapping[str, Remote], folder: Path, source: Source, *, progress: bool | None = None
) -> dict[str, Path]:
    """Have files in a folder, and return their paths by name.

    Parameters
    ----------
    files
        Files by their path below the folder. What lies there with the right content is not fetched again.
    folder
        Where they are kept; made when it is missing.
    source
        Printed.
    progress
        Whether to show a bar per file; as in the settings when `None`.

    Raises
    ------
    FileNotFoundError
        When a file is not there and cannot be fetched; it names the file, its address and its place.
    ValueError
        When what was fetched has another content.
    """
    import pooch

    pooch.get_logger().setLevel("WARNING")
    print(f"{source.name}: {source.license}. Cite: {source.citation}")
    bar = settings.progress if progress is None else progress
    found = {}
    for name, remote in files.items():
        place = folder / name
        try:
            path = pooch.retrieve(remote.url, f"sha256:{remote.sha256}", place.name, place.parent, progressbar=bar)
        except (OSError, ValueError) as error:
            if isinstance(error, ValueError) and "hash" in str(error):
                raise ValueError(
                    f"expected the content of {name} that was recorded for {source.name} (sha256 {remote.sha256[:12]}…); found "
                    f"another at {remote.url}; report it, or put the file that you trust into a folder and read that"
                ) from error
            missing = [each for each in files if not (folder / each).is_file()]
            raise FileNotFoundError(
                f"expected {source.name} in {folder}, or a network to fetch it; found neither ({type(error).__name__}); where there "
                f"is a network, download\n"
                + "\n".join(f"  {files[each].url}\n    to {folder / each}" for each in missing)
                + "\nor go on with stp.datasets.synthetic_cohort(n_patients=3, n_sections=2), which needs none"
            ) from error
        found[name] = Path(path)
    return found


def credit(adata: AnnData, source: Source) -> None:
    """Keep in the object where its data come from."""
    record: dict[str, Any] = adata.uns.setdefault("stpredict", {})
    record["dataset"] = {"name": source.name, "license": source.license, "citation": source.citation}
