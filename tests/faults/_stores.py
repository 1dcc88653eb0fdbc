"""Kinds of stores: caches of features and patches, maps, AnnData and SpatialData on disk."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData

import stpredict as stp

from . import _kind
from ._kind import Answer, Kind, Unread
from ._models import cohort
from ._tables import content, picture

WARM = ("spatialdata", "tifffile", "h5py", "lightning.pytorch", "stpredict.training._loop")


def _section() -> AnnData:
    """A section of twelve spots with its picture."""
    y, x = np.mgrid[:3, :4].reshape(2, -1)
    obs = pd.DataFrame({"sample": "s", "patient": "p", "array_row": y, "array_col": x}, [f"o{i}" for i in range(12)])
    adata = AnnData(np.ones((12, 2), np.float32), obs=obs, var=pd.DataFrame(index=["G0", "G1"]))
    adata.obsm["spatial"] = np.column_stack([x, y]) * 25.0 + 25
    adata.uns["spatial"] = {
        "s": {
            "images": {"hires": picture()},
            "scalefactors": {"tissue_hires_scalef": 1.0, "microns_per_pixel": 2.0, "spot_diameter_fullres": 20.0},
        }
    }
    return adata


def _features(folder: Path) -> Answer:
    stp.settings.cache_dir = folder
    adata = _section()
    stp.pp.image_features(adata, tile_um=40)
    return {"features": adata.obsm["X_color-texture"]}


def _patches(folder: Path) -> Answer:
    from stpredict.pp._patches import patch_stack

    stp.settings.cache_dir = folder
    adata = _section()
    stack = patch_stack(adata, adata, np.ones(12, dtype=bool), patch_um=16, patch_px=8)
    return {"patches": np.array(stack[np.arange(12)])}


def _tiles() -> AnnData:
    obs = pd.DataFrame({"sample": np.repeat(list("abcd"), 9), "patient": np.repeat(list("PQRS"), 9)})
    tiles = AnnData(obs=obs.rename(index=str))
    tiles.obs["array_row"], tiles.obs["array_col"] = np.tile(np.mgrid[:3, :3].reshape(2, -1), 4)
    tiles.obsm["X_own"] = np.random.default_rng(0).normal(size=(36, 5)).astype("float32")
    return tiles


def _network(folder: Path) -> Any:
    path = folder / "network"
    if not path.is_dir():
        bulk = pd.DataFrame(
            np.random.default_rng(1).uniform(0, 900, (4, 3)), index=list("abcd"), columns=["ESR1", "ERBB2", "GATA3"]
        )
        bags = stp.pp.bag(_tiles(), "own", expression=bulk, n_tokens=4)
        stp.pp.normalize(bags, unit="fpkm-uq")
        stp.tl.fit(bags, "he2rna", training={"max_epochs": 1}, baselines=False, path=path)
    return stp.training.FittedModel.load(path)


def _map(folder: Path) -> None:
    stp.tl.predict(_tiles(), _network(folder), window=2, store=folder / "map.zarr")


def _finished(folder: Path) -> Answer:
    return content(stp.io.read_map(folder / "map.zarr"))


class _Stop(Exception):
    """An interruption."""


def _begin(folder: Path) -> None:
    """A map of which one chunk of genes is written."""
    from stpredict.tl.maps import _map as module
    from stpredict.tl.maps._map_store import MapStore

    whole, chunks = MapStore.write, module.gene_chunks

    def write(self: MapStore, *values: Any) -> None:
        whole(self, *values)
        raise _Stop

    MapStore.write, module.gene_chunks = write, lambda n, rows, width=None: chunks(n, rows, 1)  # type: ignore
    try:
        with suppress(_Stop):
            _map(folder)
    finally:
        MapStore.write, module.gene_chunks = whole, chunks  # type: ignore[method-assign]


def _resumed(folder: Path) -> Answer:
    from stpredict.tl.maps import _map as module

    chunks = module.gene_chunks
    module.gene_chunks = lambda n, rows, width=None: chunks(n, rows, 1)
    try:
        _map(folder)
    finally:
        module.gene_chunks = chunks
    return _finished(folder)


def _foreign(read: Any, path: Path) -> Any:
    """What another program reads of a file; when it refuses it, or ends by it, that is not the package's."""
    _kind.note("foreign")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return read(path)
    except Exception as error:
        # Whatever it raises.
        raise Unread(f"{type(error).__name__}: {str(error)[:200]}") from error
    finally:
        _kind.note("ours")


def _write_h5ad(folder: Path) -> None:
    adata = cohort()
    adata.X = adata.layers["counts"].copy()
    adata.uns["stpredict"].pop("normalize")
    adata.write_h5ad(folder / "cohort.h5ad")


def _read_h5ad(folder: Path) -> Answer:
    """What a user does with a file that anndata reads."""
    adata = _foreign(anndata.read_h5ad, folder / "cohort.h5ad")
    stp.pp.normalize(adata)
    test = (adata.obs["patient"] == "p0").to_numpy()
    model = stp.tl.fit(adata[~test].copy(), "ridge", features="toy", baselines=False)
    part = adata[test].copy()
    stp.tl.predict(part, model)
    scores = stp.tl.evaluate(part, metrics=["pearson"], ceiling=False)
    return {"predicted": np.asarray(stp.get.predicted(part).X), "scores": scores["pearson"].astype(object).to_numpy()}


def _tile_table() -> AnnData:
    tiles = _tiles()
    tiles = tiles[tiles.obs["sample"] == "a"].copy()
    tiles.uns["stpredict"] = {"X_own": {"encoder": "own", "tile_um": 100.0, "dim": 5, "microns_per_pixel": {"a": 0.5}}}
    return tiles


def _write_table(folder: Path) -> None:
    _tile_table().write_h5ad(folder / "tiles.h5ad")


def _write_zarr_table(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _tile_table().write_zarr(folder / "tiles.zarr")


def _bag(path: Path) -> Answer:
    bags = stp.pp.bag({"a": path}, "own", n_tokens=3)
    return content(bags)


def _write_sdata(folder: Path) -> None:
    adata = _section()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        stp.io.to_spatialdata(adata, images={"s": picture()}).write(folder / "section.zarr")


def _read_sdata(folder: Path) -> Answer:
    import spatialdata

    sdata = _foreign(spatialdata.read_zarr, folder / "section.zarr")
    adata = stp.io.from_spatialdata(sdata)
    stp.pp.image_features(sdata, tile_um=40, cache=False)
    return content(adata) | {"features": sdata.tables["table"].obsm["X_color-texture"]}


KINDS = (
    Kind("feature cache", _features, _features, ("features/*/*",), 25, sealed=True, rewrites=True),
    Kind("patch cache", _patches, _patches, ("patches/*",), 40, sealed=True, rewrites=True),
    Kind("finished map", _map, _finished, ("map.zarr/**/*",), 80, sealed=True),
    Kind(
        "unfinished map", _begin, _resumed, ("map.zarr.partial/**/*",), 20, sealed=True, rewrites=True,
        errors=(FileExistsError,),
    ),
    Kind("h5ad", _write_h5ad, _read_h5ad, ("*",), 12),
    Kind("tiles in h5ad", _write_table, lambda f: _bag(f / "tiles.h5ad"), ("*",), 12),
    Kind("tiles in Zarr", _write_zarr_table, lambda f: _bag(f / "tiles.zarr"), ("**/*",), 25),
    Kind("SpatialData", _write_sdata, _read_sdata, ("**/*",), 18),
)  # fmt: skip
