"""Files and seconds of her2st with its out-of-fold predictions in Zarr.

Five sections with pictures, all genes, `cross_validate` on a panel of the 2,270 genes with the most counts and random
features (only sizes matter here). Written as AnnData by anndata and by `io.write_zarr`, as SpatialData by `io.write_zarr`,
then parts of it alone, and for comparison one prediction as a DataFrame in `obsm`, which Zarr keeps as one array per gene. Times are wall time,
with that of the processor beside it.

python benchmarks/stores.py ../shared/data/her2st
"""

from __future__ import annotations

import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import anndata as ad
import numpy as np

import stpredict as stp

SECTIONS = ["B4", "C2", "C3", "C4", "C5"]
N_GENES = 2270


def predicted(folder: str) -> ad.AnnData:
    """The sections with predictions of a ridge and its comparators."""
    adata = stp.io.read_her2st(folder, SECTIONS)
    adata.obsm["X_toy"] = np.random.default_rng(0).normal(size=(adata.n_obs, 16)).astype(np.float32)
    adata.uns["stpredict"]["X_toy"] = {"encoder": "toy", "tile_um": 112.0}
    stp.pp.normalize(adata)
    totals = np.asarray(adata.layers["counts"].sum(axis=0)).ravel()
    genes = adata.var_names[np.argsort(-totals)[:N_GENES]].tolist()
    options: dict[str, Any] = {"metrics": ["pearson"], "ceiling": False, "progress": False}
    stp.tl.cross_validate(adata, ["ridge"], 2, features="X_toy", target=genes, **options)
    return adata


def line(what: str, path: Path, write: Callable[[], Any]) -> None:
    start, of_cpu = perf_counter(), process_time()
    write()
    seconds, of_cpu = perf_counter() - start, process_time() - of_cpu
    files = [each for each in path.rglob("*") if each.is_file()]
    size = sum(each.stat().st_size for each in files) / 1e6
    print(f"{what:44}{len(files):7} files{size:7.0f} MB{seconds:7.1f} s ({of_cpu:.1f} s of the processor)", flush=True)


def main(folder: str) -> None:
    warnings.simplefilter("ignore")
    adata = predicted(folder)
    frame = stp.get.predicted(adata, "predicted_ridge").to_df()
    print(f"{adata.n_obs} spots, {adata.n_vars} genes, {frame.shape[1]} predicted")
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        line("AnnData, write_zarr of anndata", out / "a", lambda: adata.write_zarr(out / "a"))
        line("AnnData, io.write_zarr", out / "b", lambda: stp.io.write_zarr(adata, out / "b"))
        sdata = stp.io.to_spatialdata(adata)
        line(
            f"SpatialData, {len(sdata.tables)} tables, io.write_zarr",
            out / "c",
            lambda: stp.io.write_zarr(sdata, out / "c"),
        )
        parts = {
            "X": ad.AnnData(adata.X),
            "counts": ad.AnnData(layers={"counts": adata.layers["counts"]}),
            "predictions": ad.AnnData(obs=adata.obs[[]], obsm=dict(adata.obsm)),
            "uns, a file or two for each value": ad.AnnData(uns=dict(adata.uns)),
        }
        for number, (what, part) in enumerate(parts.items()):
            path = out / f"part{number}"
            line(f"of it, {what}", path, lambda part=part, path=path: stp.io.write_zarr(part, path))
        one = ad.AnnData(obs=adata.obs[[]], obsm={"predicted": frame})
        line("one prediction alone, as a DataFrame", out / "d", lambda: one.write_zarr(out / "d"))
        one.obsm["predicted"] = adata.obsm["predicted_ridge"]
        line("one prediction alone, as an array", out / "e", lambda: one.write_zarr(out / "e"))


if __name__ == "__main__":
    main(sys.argv[1])
