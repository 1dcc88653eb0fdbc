"""Samples of a prediction in a Zarr group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from stpredict.core._atomic import write_directory

_CHUNK = 2**22  # numbers of a chunk: 16 MB


class SampleStore:
    """A Zarr group with `samples` (n_obs, n_samples, n_genes) float32, `obs_names` and `genes`.

    It is written beside its place and moved there by :meth:`finish`, so that an interrupted call leaves the earlier
    group, or none.

    Parameters
    ----------
    path
        Directory of the group; one that this class wrote is replaced.
    obs_names, genes
        Names of the observations and the genes.
    n_samples
        Samples of each observation.
    """

    def __init__(self, path: str | Path, obs_names: Sequence[str], genes: Sequence[str], n_samples: int) -> None:
        import tempfile

        self.path = Path(path)
        if self.path.exists() and not (self.path / "zarr.json").is_file():
            raise FileExistsError(f"expected no file, or samples to replace, at {self.path}; found something else")
        self._scratch = tempfile.TemporaryDirectory(prefix="stpredict-samples-")
        import zarr

        root: Any = zarr.open_group(self._scratch.name, mode="w")
        rows = max(1, _CHUNK // max(1, n_samples * len(genes)))
        self._samples = root.create_array(
            "samples",
            shape=(len(obs_names), n_samples, len(genes)),
            chunks=(min(rows, max(1, len(obs_names))), n_samples, len(genes)),
            dtype="float32",
        )
        for name, values in (("obs_names", obs_names), ("genes", genes)):
            root.attrs[name] = [str(value) for value in values]

    def take(self, rows: np.ndarray, samples: np.ndarray) -> None:
        """Store the samples (k, n_samples, n_genes) of some rows."""
        self._samples.oindex[rows] = samples

    def finish(self) -> Path:
        """Move the group to its place."""
        import shutil

        def write(directory: Path) -> None:
            shutil.copytree(self._scratch.name, directory, dirs_exist_ok=True)

        try:
            return write_directory(self.path, "zarr.json", write)
        finally:
            self._scratch.cleanup()
