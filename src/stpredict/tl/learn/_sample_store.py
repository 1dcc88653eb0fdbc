"""Samples of a prediction in a Zarr group."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from stpredict.core._atomic import new_directory

_MARKER = "zarr.json"
_CHUNK = 2**22  # numbers of a chunk: 16 MB


class SampleStore:
    """A Zarr group with `samples` (n_obs, n_samples, n_genes) float32, `obs_names` and `genes`.

    It is written beside its place and moved there by :meth:`finish`, so that an interrupted call leaves the earlier
    group, or none. Where it cannot be written, this is said once, and the prediction goes on without.

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
        self.path = Path(path)
        if self.path.exists() and not (self.path / _MARKER).is_file():
            raise FileExistsError(f"expected no file, or samples to replace, at {self.path}; found something else")
        self._place = ExitStack()
        try:
            self._samples = self._begin(obs_names, genes, n_samples)
        except OSError as error:
            if error.errno is None:  # what else lies there
                raise
            self._give_up(error)

    def _begin(self, obs_names: Sequence[str], genes: Sequence[str], n_samples: int) -> Any:
        import zarr

        with ExitStack() as place:
            root: Any = zarr.open_group(place.enter_context(new_directory(self.path, _MARKER)), mode="w")
            rows = max(1, _CHUNK // max(1, n_samples * len(genes)))
            samples = root.create_array(
                "samples",
                shape=(len(obs_names), n_samples, len(genes)),
                chunks=(min(rows, max(1, len(obs_names))), n_samples, len(genes)),
                dtype="float32",
            )
            for name, values in (("obs_names", obs_names), ("genes", genes)):
                root.attrs[name] = [str(value) for value in values]
            self._place = place.pop_all()
        return samples

    def __enter__(self) -> SampleStore:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if error is not None:  # nothing is moved
            self._place.__exit__(kind, error, trace)

    def take(self, rows: np.ndarray, samples: np.ndarray) -> None:
        """Store the samples (k, n_samples, n_genes) of some rows."""
        if self._samples is None:
            return
        try:
            self._samples.oindex[rows] = samples
        except OSError as error:
            self._give_up(error)

    def finish(self) -> Path | None:
        """Move the group to its place; `None` where it could not be written."""
        if self._samples is None:
            return None
        try:
            self._place.close()
        except OSError as error:
            self._give_up(error)
            return None
        return self.path

    def _give_up(self, error: OSError) -> None:
        warnings.warn(
            f"the samples could not be written to {self.path} ({error}); the prediction is returned all the same: free some "
            "room, or name another store=, and predict again for the samples",
            stacklevel=2,
        )
        self._samples = None
        with suppress(OSError):
            self._place.__exit__(type(error), error, error.__traceback__)
