"""Memory and time of a cohort on disk as it grows: 1, 4 and 16 times as many sections, and the same as in memory.

Every call runs in a process of its own, which tells its peak memory (of the process, libraries included). The sections are
synthetic; at a fixed `stpredict.settings.memory` the peak must not follow their number.

    python benchmarks/scale.py            # 6, 24 and 96 sections of 400 spots
    python benchmarks/scale.py --spots 2000 --features 1536 --genes 500
    python benchmarks/scale.py --calls "fit ridge of counts"     # some of the calls
    python benchmarks/scale.py --pictures --features 64     # networks that read pictures, or tiles around a spot
"""

from __future__ import annotations

import argparse
import importlib
import multiprocessing
import resource
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch

import stpredict as stp
from stpredict.core._optional import mend_torchvision

SIZES = (1, 4, 16)
SMALL = {"hyperparameters": "small", "training": {"max_epochs": 2}}
FITS: dict[str, dict[str, Any]] = {"ridge": {}, "mlp": SMALL, "hist": SMALL}
COUNTS = "ridge of counts"
FITS[COUNTS] = {"target": stp.targets.Counts()}
PICTURED: dict[str, dict[str, Any]] = {"histogene": SMALL, "triplex": SMALL}
SCORES = {"metrics": ["pearson", "rmse"], "ceiling": False}
MARGIN = 1.15
UM_PER_PIXEL = 4.0


def section(name: str, patient: str, seed: int, n: int, d: int, genes: int, pictures: bool) -> ad.AnnData:
    """A section whose counts follow its features; with a picture and 25 tiles around each spot where that is asked for."""
    rng, weights = np.random.default_rng(seed), np.random.default_rng(0).normal(size=(8, genes))
    features = rng.normal(size=(n, d)).astype(np.float32)
    counts = rng.poisson(np.exp(0.5 + 0.15 * features[:, :8] @ weights)).astype(np.float32)
    side = int(np.ceil(np.sqrt(n)))
    obs = pd.DataFrame({"sample": name, "patient": patient}, index=[f"{name}_{i}" for i in range(n)])
    obs["array_row"], obs["array_col"] = np.arange(n) // side, np.arange(n) % side
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(genes)]))
    adata.obsm["spatial"] = obs[["array_col", "array_row"]].to_numpy() * 100.0
    adata.obsm["X_toy"] = features
    adata.uns["spatial"] = {name: {"scalefactors": {"microns_per_pixel": 1.0}}}
    adata.uns["stpredict"] = {"X_toy": {"encoder": "toy", "tile_um": 100.0, "microns_per_pixel": {name: 1.0}}}
    if pictures:
        adata.obsm["spatial"] = (adata.obsm["spatial"] + 100.0) / UM_PER_PIXEL
        shape = (int(adata.obsm["spatial"].max() + 100 / UM_PER_PIXEL),) * 2
        adata.uns["spatial"][name] = {
            "images": {"hires": rng.integers(0, 256, (*shape, 3), dtype=np.uint8)},
            "scalefactors": {"microns_per_pixel": UM_PER_PIXEL, "tissue_hires_scalef": 1.0},
        }
        adata.obsm["X_toy_neighbors"] = rng.normal(size=(n, 25, d)).astype(np.float32)
        adata.obsm["X_toy_neighbor_mask"] = np.ones((n, 25), dtype=bool)
        for slot in ("X_toy", "X_toy_neighbors"):
            record = {"encoder": "toy", "tile_um": 100.0, "grid": 5, "microns_per_pixel": {name: UM_PER_PIXEL}}
            adata.uns["stpredict"][slot] = record
    stp.pp.normalize(adata, method="log1p")
    stp.pp.grid(adata)
    return adata


def make(folder: Path, n_sections: int, options: argparse.Namespace) -> Path:
    """Sections in files, each of another patient."""
    folder.mkdir()
    for i in range(n_sections):
        made = section(f"s{i:03}", f"p{i:03}", i, options.spots, options.features, options.genes, options.pictures)
        made.write_h5ad(folder / f"s{i:03}.h5ad")
    return folder


def measured(call: Callable[[], Any]) -> tuple[Any, float, float]:
    """What a call gives in a process of its own, its seconds, and the peak memory of the process in MB."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)

    def work() -> None:
        start = time.perf_counter()
        found = call()
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        theirs.send((found, seconds, peak))

    process = context.Process(target=work)
    process.start()
    theirs.close()
    try:
        return ours.recv()  # type: ignore[no-any-return]
    except EOFError:
        sys.exit("a measured process ended early; its message is above")
    finally:
        process.join()


def calls(data: Any, models: Path, *, train: Any = None) -> dict[str, Callable[[], Any]]:
    """What is measured, by name; a model that was fitted is left in a folder."""

    def fit(name: str) -> None:
        stp.tl.fit(data, name.split()[0], train, path=models / name, **FITS[name])

    found: dict[str, Callable[[], Any]] = {f"fit {name}": (lambda name=name: fit(name)) for name in FITS}
    found["cross_validate"] = lambda: stp.tl.cross_validate(
        data, ["ridge"], 2, baselines=["mean"], progress=False, **SCORES
    )
    found["predict"] = lambda: stp.tl.predict(data, models / "ridge", progress=False)
    found["evaluate"] = lambda: stp.tl.evaluate(data, baselines=False)
    return found


def differences(data: stp.Cohort, adata: ad.AnnData, folder: Path) -> dict[str, float]:
    """Largest difference between what a cohort and an object in memory give."""
    found = {}
    both: list[list[pd.DataFrame]] = []
    for which, each in (("disk", data), ("memory", adata)):
        (folder / which).mkdir()
        made = calls(each, folder / which)
        for call in list(made.values())[: len(FITS)]:
            call()
        tables = [made["cross_validate"]()]
        made["predict"]()
        tables.append(made["evaluate"]())
        both.append([table.sort_values(["sample", "model", "gene"]).reset_index(drop=True) for table in tables])
    for name in FITS:
        one, two = (stp.training.FittedModel.load(folder / which / name) for which in ("disk", "memory"))
        pairs = zip(one.network.state_dict().values(), two.network.state_dict().values(), strict=True)
        found[f"weights of {name}"] = max(float((a.double() - b.double()).abs().max()) for a, b in pairs)
    predicted = data.to_adata()[adata.obs_names].obsm["predicted"]
    found["predictions"] = float(np.abs(predicted - adata.obsm["predicted"]).max())
    for name, one_table, two_table in zip(("scores of folds", "scores"), *both, strict=True):
        numbers = one_table.select_dtypes("float").columns
        found[name] = float(np.nanmax(np.abs(one_table[numbers].to_numpy() - two_table[numbers].to_numpy())))
    return found


def main() -> None:
    """Print the table; end with 1 where a peak follows the size, or a result differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", type=int, default=6, help="sections at size 1")
    parser.add_argument("--spots", type=int, default=400, help="spots of a section")
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--genes", type=int, default=64)
    parser.add_argument("--memory", type=int, default=32, help="settings.memory in MiB")
    parser.add_argument("--calls", nargs="+", help="calls to measure, and no comparison with memory; all when left out")
    parser.add_argument(
        "--pictures", action="store_true", help=f"sections with pictures, and fits of {', '.join(PICTURED)} only"
    )
    options = parser.parse_args()
    if options.pictures:
        FITS.clear()
        FITS.update(PICTURED)
        options.calls = options.calls or ["map to disk", *(f"fit {name}" for name in FITS)]
    stp.settings.memory, stp.settings.progress, stp.settings.device = options.memory * 2**20, False, "cpu"
    begun = time.perf_counter()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    mend_torchvision()
    for module in ("scanpy", "stpredict.tl", "stpredict.training._loop", "sklearn.neighbors"):
        importlib.import_module(module)  # before the processes part: what they have more is their own
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        stp.settings.cache_dir = root / "cache"
        empty = measured(lambda: None)[2]
        for size in SIZES:
            n_sections = size * options.sections
            folder = make(root / f"x{size}", n_sections, options)
            (root / f"models{size}").mkdir()
            n, cohort = n_sections * options.spots, stp.Cohort(folder)
            steps = {"map to disk": lambda cohort=cohort: cohort.table().n_obs} | calls(cohort, root / f"models{size}")
            for name, call in steps.items():
                if options.calls and name not in options.calls:
                    continue
                _, seconds, peak = measured(call)
                rows.append({"call": name, "size": size, "rows": n, "seconds": seconds, "peak": peak})
                print(f"{name}, {size}x: {seconds:.1f} s, {peak:.0f} MB", file=sys.stderr, flush=True)
        whole = stp.Cohort(root / f"x{SIZES[-1]}")
        found: dict[str, float] = {}
        in_memory = measured(lambda: stp.tl.fit(whole.to_adata(), "ridge").model)[2]
        if not options.calls:
            small = make(root / "same", options.sections, options)
            found = differences(stp.Cohort(small), stp.Cohort(small).to_adata(), root)
    table = pd.DataFrame(rows).pivot(index="call", columns="size", values=["seconds", "peak"])
    table = table.loc[list(dict.fromkeys(row["call"] for row in rows))]
    n = {row["size"]: row["rows"] for row in rows}
    numbers = options.features + options.genes
    print(f"{numbers * 4 / 1000:.1f} kB of features and targets per spot; settings.memory = {options.memory} MiB;")
    print(f"a process that does nothing has {empty:.0f} MB; fit ridge in memory at {SIZES[-1]}x: {in_memory:.0f} MB\n")
    head = [f"{size}x ({n[size]:,} spots)" for size in SIZES]
    print("| call | " + " | ".join(f"MB at {each}" for each in head) + " | ratio | ms per spot |")
    print("|---|" + "---:|" * (len(SIZES) + 2))
    faults = []
    for call, line in table.iterrows():
        peaks = [line["peak"][size] for size in SIZES]
        ratio = max(peaks) / peaks[0]
        each = ", ".join(f"{1000 * line['seconds'][size] / n[size]:.2f}" for size in SIZES)
        print(f"| {call} | " + " | ".join(f"{peak:.0f}" for peak in peaks) + f" | {ratio:.2f} | {each} |")
        if ratio > MARGIN:
            faults.append(f"{call}: the peak grew by a factor of {ratio:.2f}")
    if found:
        each = ", ".join(f"{name} {value:.1g}" for name, value in found.items())
        print(f"\nlargest difference from the same calls in memory, 1x: {each}")
    faults += [f"{name}: differs by {value:.1g}" for name, value in found.items() if not value <= 1e-6]
    print(f"{time.perf_counter() - begun:.0f} s in all")
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
