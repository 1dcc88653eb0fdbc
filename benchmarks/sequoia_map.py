"""The parts of `benchmarks/sequoia.py` that are about maps.

`map`: a slide read, encoded and mapped at stride 1 by `pp.image_features` and `tl._map`, against the naive way: every
window reads and encodes its tiles one by one and calls the network for itself. The naive way is timed on some windows
and scaled to all of them. What there is to gain grows with the slide: a tile of n x n lies in 100 (n - 9)² / n² windows
on average, 13 of a slide of 14 x 14 tiles, 52 of 32 x 32, 66 of 48 x 48.
`box`: the mean over the windows of each tile as a sparse product, against cumulative sums.
`memory`: peak memory of a map written to Zarr for few and for many genes, each in a process of its own.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from stpredict.models import Batch, build

Part = Callable[[argparse.Namespace, torch.device], list[tuple[str, float, str]]]
_MPP, _TILE_PX = 0.5, 256


def make_slide(folder: str, side: int):
    """Slide of `side` x `side` tiles, all of them tissue, as a pyramid on disk, opened and with its tiles."""
    import geopandas
    from shapely.geometry import box
    from spatialdata.models import ShapesModel

    import stpredict as stp
    from stpredict.datasets._pyramid import write_pyramid

    rng = np.random.default_rng(0)
    patch = np.kron(rng.integers(90, 250, (64, 64, 3), dtype=np.uint8), np.ones((8, 8, 1), dtype=np.uint8))
    repeats = -(-side * _TILE_PX // patch.shape[0])
    path = Path(folder) / "slide.tiff"
    write_pyramid(path, np.tile(patch, (repeats, repeats, 1))[: side * _TILE_PX, : side * _TILE_PX], _MPP)
    slide = stp.io.open_slide(path)
    whole = geopandas.GeoDataFrame({"tissue_id": [0]}, geometry=[box(0, 0, side * _TILE_PX, side * _TILE_PX)])
    slide.shapes["tissues"] = ShapesModel.parse(whole)
    stp.pp.tiles(slide, tile_um=_MPP * _TILE_PX, max_tiles=None, min_contrast=0)
    return slide


def map_ratio(options: argparse.Namespace, device: torch.device) -> list[tuple[str, float, str]]:
    """Map at stride 1 against the naive way, on one slide."""
    import stpredict as stp
    from stpredict.core._optional import import_torchvision
    from stpredict.encoders import get_encoder
    from stpredict.io._slide import slide_reader
    from stpredict.tl.maps._map import map_table

    # Processor time: others on the machine slow both ways down, but not equally.
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    torch.manual_seed(0)
    timm = import_torchvision("timm")
    vit = timm.create_model("vit_small_patch16_224", pretrained=False, num_classes=0, img_size=options.tile_px)
    vit = vit.eval().to(device)
    encoder = get_encoder(vit, device=str(device), tile_px=options.tile_px, name="vit")
    network = build("sequoia", options.genes, {"tokens": vit.num_features}).eval()
    torch.nn.init.normal_(network.head.mean.weight, std=0.02)
    fitted = SimpleNamespace(network=network, panel=[f"G{i}" for i in range(options.genes)])

    with tempfile.TemporaryDirectory() as folder:
        slide = make_slide(folder, options.side)
        start = clock()
        stp.pp.image_features(
            slide,
            encoder,
            tile_um=_MPP * _TILE_PX,
            key_added="X_vit",
            batch_size=16,
            cache=False,
            device=str(device),
            progress=False,
        )
        encoded = clock() - start
        table = slide.tables["vit_tiles"]
        frame, *_ = map_table(table, [fitted], "X_vit", device=str(device))
        fast = clock() - start

        from stpredict.tl.maps._windows import lay_windows

        windows = lay_windows(table.obs["array_row"], table.obs["array_col"])
        chosen = np.random.default_rng(0).choice(len(windows), min(options.windows, len(windows)), replace=False)
        network.to(device)
        zero = torch.zeros(1, dtype=torch.long, device=device)
        centers = np.asarray(table.obsm["spatial"])
        with slide_reader(slide) as reader, torch.inference_mode():
            start = clock()
            for window in chosen:
                bag = torch.zeros(1, 100, vit.num_features, device=device)
                index = windows.index(window, window + 1)[0]
                for place, tile in enumerate(index):
                    if tile >= 0:
                        x, y = np.round(centers[tile] - _TILE_PX / 2).astype(int)
                        pixels = reader.get_region(int(x), int(y), _TILE_PX, _TILE_PX, level=0)[..., :3]
                        bag[0, place] = encoder(_resized(pixels, options.tile_px, device))[0]
                size = torch.from_numpy((index >= 0).astype(np.float32))[None].to(device)
                network(Batch(zero, zero, {"tokens": bag, "token_size": size})).mean.cpu()
            naive = (clock() - start) * len(windows) / len(chosen)
    print(
        f"map: {table.n_obs} tiles, {len(windows)} windows, {options.genes} genes, ViT-S/16 at {options.tile_px} px: "
        f"{fast:.1f} s ({encoded:.1f} s of them encoding), naive {naive:.0f} s (from {len(chosen)} windows)"
    )
    assert np.isfinite(frame.to_numpy()).all()
    return [("naive / ours, map at stride 1", naive / fast, "at least 50.00")]


def _resized(pixels: np.ndarray, side: int, device: torch.device) -> torch.Tensor:
    from stpredict.pp._image_features import resized

    return resized(np.ascontiguousarray(pixels)[None], side, device)


def box(options: argparse.Namespace, device: torch.device) -> list[tuple[str, float, str]]:
    """Mean over the windows of each of 4,000 tiles, 1,024 values each."""
    from stpredict.tl.maps._windows import lay_windows

    rows = []
    for stride in (1, 3):
        windows = lay_windows(*_round_tissue(), stride=stride)
        values = np.random.default_rng(0).normal(size=(len(windows), 1024)).astype(np.float32)
        windows.mean(values[:, :1])  # lays the weights
        seconds = {"sparse": [], "sums": []}
        for _ in range(options.repeats):
            for name, call in (("sparse", windows.mean), ("sums", partial(_by_sums, windows))):
                start = time.perf_counter()
                result = call(values)
                seconds[name].append(time.perf_counter() - start)
        difference = np.abs(result - windows.mean(values)).max()
        sparse, sums = (float(np.median(part)) for part in seconds.values())
        print(
            f"box: stride {stride}, {len(windows)} windows: sparse product {sparse * 1e3:.0f} ms, cumulative sums "
            f"{sums * 1e3:.0f} ms, largest difference {difference:.1e}"
        )
        rows.append((f"cumulative sums / sparse product, stride {stride}", sums / sparse, ""))
    return rows


def _round_tissue() -> tuple[np.ndarray, np.ndarray]:
    """About 4,000 tiles with holes."""
    y, x = np.mgrid[:80, :80]
    return np.nonzero(((y - 40) ** 2 + (x - 40) ** 2 < 36**2) & (np.random.default_rng(0).random((80, 80)) > 0.02))


def _by_sums(windows, values: np.ndarray, width: int = 32) -> np.ndarray:
    """The same means from cumulative sums on the grid of origins, for layouts without partial windows."""
    size, (height, breadth) = windows.size, windows.grid.shape
    place = np.argwhere(windows.grid >= 0)
    order = np.argsort(windows.grid[windows.grid >= 0])
    row, col = (place[order] + size).T
    start_row, start_col = (windows.origins + size).T
    result = np.empty((len(row), values.shape[1]), dtype=np.float32)
    for first in range(0, values.shape[1], width):
        part = values[:, first : first + width]
        sums = np.zeros((height + size, breadth + size, part.shape[1]))
        sums[start_row, start_col] = part
        np.cumsum(sums, axis=0, out=sums)
        np.cumsum(sums, axis=1, out=sums)
        found = sums[row, col] - sums[row - size, col] - sums[row, col - size] + sums[row - size, col - size]
        result[:, first : first + width] = found / windows.n_windows[:, None]
    return result


def memory(options: argparse.Namespace, device: torch.device) -> list[tuple[str, float, str]]:
    """Peak memory of a map of 4,000 tiles in Zarr, above that before the call, for few and for many genes."""
    peaks = []
    for genes in (1000, 20_000):
        command = [sys.executable, __file__, str(genes), str(options.memory_stride)]
        result = subprocess.run(command, check=True, capture_output=True, text=True)
        above, before, seconds, size = (float(value) for value in result.stdout.split()[-4:])
        peaks.append(above)
        print(
            f"memory: {genes} genes: {above:.0f} MB above the {before:.0f} MB before the call, {size:.0f} MB of map, "
            f"{seconds:.0f} s"
        )
    return [("peak of 20,000 genes / 1,000 genes", peaks[1] / peaks[0], "at most 1.20")]


def measure_memory(n_genes: int, stride: int) -> None:
    """Print the peak above the memory before the call, that memory, the seconds, and the size of the map, in MB."""
    import anndata as ad
    import pandas as pd
    import psutil

    from stpredict.tl.maps._map import map_table

    row, col = _round_tissue()
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"sample": "s", "array_row": row, "array_col": col}, index=[f"t{i}" for i in range(len(row))])
    adata = ad.AnnData(obs=obs, obsm={"spatial": np.column_stack([col, row]) * 256.0})
    adata.obsm["X_uni"] = rng.normal(size=(len(row), 1024)).astype(np.float32)
    network = build("sequoia", n_genes, {"tokens": 1024}).eval()
    torch.nn.init.normal_(network.head.mean.weight, std=0.02)
    fitted = SimpleNamespace(network=network, panel=[f"G{i}" for i in range(n_genes)])
    few = SimpleNamespace(network=build("sequoia", 4, {"tokens": 1024}).eval(), panel=list("abcd"))
    with tempfile.TemporaryDirectory() as folder:
        # A small call first, so that what libraries hold from their first use on does not count.
        map_table(adata[:200].copy(), [few], "X_uni", store=Path(folder) / "few.zarr", stride=10, device="cpu")
        del few
        try:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
        except OSError:
            print("the peak includes what came before the call", file=sys.stderr)
        before, start = psutil.Process(os.getpid()).memory_info().rss / 2**20, time.perf_counter()
        map_table(adata, [fitted], "X_uni", store=Path(folder) / "m.zarr", stride=stride, device="cpu")
        seconds = time.perf_counter() - start
        lines = Path("/proc/self/status").read_text().splitlines()
        peak = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024
    print(peak - before, before, seconds, len(row) * n_genes * 4 / 2**20)


PARTS: dict[str, Part] = {"map": map_ratio, "box": box, "memory": memory}

if __name__ == "__main__":
    torch.set_num_threads(1)
    measure_memory(int(sys.argv[1]), int(sys.argv[2]))
