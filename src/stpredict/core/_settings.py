"""Package-wide settings: where caches go, which device is used, whether progress is shown."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


def _default_cache() -> Path:
    if given := os.environ.get("STPREDICT_CACHE"):
        return Path(given)
    from platformdirs import user_cache_path

    return user_cache_path("stpredict", appauthor=False)


@dataclass
class Settings:
    """Settings of the package, as one object: `stpredict.settings`.

    Attributes
    ----------
    cache_dir
        Directory of cached features, patches and models. The environment variable `STPREDICT_CACHE` sets it.
    device
        `"auto"` (an accelerator when there is one), `"cpu"`, `"cuda"`, `"cuda:1"` or `"mps"`.
    progress
        Whether long work shows a progress bar.
    memory
        Bytes that work on a cohort on disk (:class:`stpredict.Cohort`) may take for the rows that it reads at a time: what is
        read in blocks is read in blocks of this size, with the copies that are made of them. Whole sections are read where a
        function looks at one as a whole, and what is learned (weights, moments, products of features) comes on top.
    """

    cache_dir: Path = field(default_factory=_default_cache)
    device: str = "auto"
    progress: bool = True
    memory: int = 2**28

    def __setattr__(self, name: str, value: object) -> None:
        if name == "cache_dir":
            value = Path(str(value))
        if name == "memory":
            if isinstance(value, bool) or not isinstance(value, int | float) or not 2**20 <= value < float("inf"):
                raise ValueError(f"expected memory of at least {2**20} bytes (1 MiB); found {value!r}")
            value = int(value)
        object.__setattr__(self, name, value)


settings = Settings()
