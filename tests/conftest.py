from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

os.environ["TQDM_DISABLE"] = "1"

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

#: Files that take longest: they begin first, so that no worker is left alone with one at the end.
_LONG = ("test_honesty_slides.py", "test_honesty_grids.py", "test_docs_code.py", "contracts/test_models.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; the order within a file stays."""

    def place(item: pytest.Item) -> int:
        path = item.path.as_posix()
        return next((number for number, name in enumerate(_LONG) if path.endswith(name)), len(_LONG))

    items.sort(key=place)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests recorded to be printed, whichever worker ran them."""
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in report.user_properties:
            if name == "printed" and report.when == "call":
                terminalreporter.write_line(str(value))


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features, patches and models of the tests go to a directory of their own, on the CPU."""
    settings = stp.settings
    before = settings.cache_dir, settings.device, settings.progress
    settings.cache_dir, settings.device, settings.progress = tmp_path_factory.mktemp("cache"), "cpu", False
    yield
    settings.cache_dir, settings.device, settings.progress = before


@pytest.fixture(autouse=True)
def _figures_closed() -> Iterator[None]:
    """No test sees the figures of the one before it, whatever order the workers take."""
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture(scope="session")
def _cohort() -> ad.AnnData:
    adata = stp.datasets.synthetic_cohort(
        3, 2, 16, n_spots=49, microns_per_pixel=4.0, counts_per_spot=3000, stain_shift=0.05
    )
    stp.pp.image_features(adata, context=(1,))
    stp.pp.normalize(adata, method="log1p")
    return adata


@pytest.fixture
def cohort(_cohort: ad.AnnData) -> ad.AnnData:
    """Three patients with two sections of 49 spots each, 16 genes, images, color-texture features of the spot alone, normalized."""
    return _cohort.copy()


@pytest.fixture
def toy() -> ad.AnnData:
    """Three patients with two sections of 12 spots each and 6 genes that follow 4 recorded features; no images."""
    rng = np.random.default_rng(0)
    n = 72
    features = rng.normal(size=(n, 4)).astype(np.float32)
    rates = np.exp(1.5 + features @ (0.4 * rng.normal(size=(4, 6))))
    counts = rng.poisson(rates).astype(np.float32)
    section = np.arange(n) // 12
    obs = pd.DataFrame(
        {
            "sample": [f"s{i}" for i in section],
            "patient": [f"p{i // 2}" for i in section],
            "array_row": np.arange(n) % 12 // 4,
            "array_col": np.arange(n) % 4,
        },
        index=[f"o{i}" for i in range(n)],
    )
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(6)]))
    adata.obsm["spatial"] = obs[["array_col", "array_row"]].to_numpy() * 100.0
    adata.obsm["X_toy"] = features
    adata.uns["spatial"] = {f"s{i}": {"scalefactors": {"microns_per_pixel": 0.5}} for i in range(6)}
    adata.uns["stpredict"] = {
        "X_toy": {"encoder": "toy", "tile_um": 100.0, "microns_per_pixel": {f"s{i}": 0.5 for i in range(6)}}
    }
    stp.pp.normalize(adata, method="log1p")
    return adata


def _frozen(adata: ad.AnnData) -> dict[str, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return value.tobytes() if isinstance(value, np.ndarray) else repr(value)

    x = adata.X.toarray() if hasattr(adata.X, "toarray") else np.asarray(adata.X)
    return {
        "obs": adata.obs.to_csv(),
        "var": adata.var.to_csv(),
        "obsm": {key: np.asarray(value).tobytes() for key, value in adata.obsm.items()},
        "varm": sorted(adata.varm),
        "layers": sorted(adata.layers),
        "uns": plain(dict(adata.uns)),
        "X": x.tobytes(),
    }


@pytest.fixture(scope="session")
def frozen() -> Callable[[ad.AnnData], dict[str, Any]]:
    """Everything an object holds, to compare before and after a refused call."""
    return _frozen


@pytest.fixture
def slides() -> ad.AnnData:
    """Twelve patients with two slides each: bags of up to 6 tokens of 5 features, 7 genes, follow-up; recorded."""
    from stpredict.slots._provenance import write_record

    rng = np.random.default_rng(0)
    n, n_tokens, d, n_genes = 24, 6, 5, 7
    bag = rng.normal(size=(n, n_tokens, d)) + 2 * rng.normal(size=(n // 2, 1, d)).repeat(2, axis=0)
    bag = bag.astype(np.float32)
    size = rng.integers(1, 9, (n, n_tokens)).astype(np.float32)
    size[:4, 3:] = 0
    bag[size == 0] = 0
    mean = (bag * size[:, :, None]).sum(axis=1) / size.sum(axis=1, keepdims=True)
    patient = np.arange(n) // 2
    profile = 5 + pd.DataFrame(mean @ rng.normal(size=(d, n_genes))).groupby(patient).transform("mean").to_numpy()
    risk = pd.Series(mean[:, 0]).groupby(patient).transform("mean").to_numpy()
    time, censored = (rng.exponential(1, 12)[patient] for _ in range(2))
    time = time * np.exp(-risk)
    obs = pd.DataFrame(
        {
            "sample": [f"s{i:02d}" for i in range(n)],
            "patient": [f"p{i:02d}" for i in patient],
            "time": np.minimum(time, 2 * censored) + 0.01,
            "event": time < 2 * censored,
        },
        index=[f"s{i:02d}" for i in range(n)],
    )
    adata = ad.AnnData(profile.astype(np.float32), obs=obs, var=pd.DataFrame(index=[f"g{i}" for i in range(n_genes)]))
    adata.obsm["X_toy"] = mean
    adata.obsm["X_toy_bag"] = bag
    adata.obsm["X_toy_bag_size"] = size
    write_record(adata, "X_toy", {"encoder": "toy", "fingerprint": "f", "dim": d, "tile_um": 128.0})
    write_record(adata, "X_toy_bag", {"n_tokens": n_tokens})
    write_record(adata, "normalize", {"method": "log2p1", "unit": "fpkm-uq"})
    stp.pp.as_slides(adata)
    return adata
