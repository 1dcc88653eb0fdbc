"""Tiles per second of the embedded encoders beside an eager ResNet-50, and the memory of featurizing a large image.

Run with: python benchmarks/features.py
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np


def synthetic_image(side: int) -> np.ndarray:
    """Image with tissue-like colors and structure, uint8 (side, side, 3), made by repeating a smooth random patch."""
    rng = np.random.default_rng(0)
    patch = np.kron(rng.integers(90, 250, (50, 50, 3), dtype=np.uint8), np.ones((10, 10, 1), dtype=np.uint8))
    repeats = -(-side // patch.shape[0])
    return np.ascontiguousarray(np.tile(patch, (repeats, repeats, 1))[:side, :side])


def table_of_spots(side: int, n: int):
    import anndata
    import pandas as pd

    positions = np.random.default_rng(1).uniform(200, side - 200, (n, 2))
    obs = pd.DataFrame({"sample": "s"}, index=[f"spot{i}" for i in range(n)])
    return anndata.AnnData(np.zeros((n, 1), dtype=np.float32), obs=obs, obsm={"spatial": positions})


def peak_mb() -> float:
    # On Linux getrusage also counts the parent's memory at the moment this process was started from it.
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def resident_mb() -> float:
    import psutil

    return psutil.Process(os.getpid()).memory_info().rss / 2**20


def measure_memory(path: str, side: int) -> None:
    """Print the peak above the memory before the call, in MB; runs in a process of its own."""
    from stpredict.pp._image_features import image_features

    small = synthetic_image(600)
    warm = table_of_spots(600, 32)
    image_features(warm, image=small, microns_per_pixel=0.5, cache=False, progress=False, device="cpu")
    adata = table_of_spots(side, 300)
    before = resident_mb()
    image_features(adata, image=path, microns_per_pixel=0.5, context=(1,), cache=False, progress=False, device="cpu")
    print(peak_mb() - before)


def tiles_per_second(call, tiles: int, seconds: float) -> float:
    """Best of repeated runs: other work on the machine only ever slows a run down."""
    call()
    rates, start = [], time.perf_counter()
    while time.perf_counter() - start < seconds or len(rates) < 3:
        begin = time.perf_counter()
        call()
        rates.append(tiles / (time.perf_counter() - begin))
    return max(rates)


def processor() -> str:
    """Name of the processor, and the vector instructions that torch uses."""
    import platform

    import torch

    names = Path("/proc/cpuinfo")
    lines = names.read_text().splitlines() if names.exists() else []
    name = next(
        (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
    return f"{name or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--threads", type=int, default=0, help="torch threads; 0 leaves torch's default")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure_memory(arguments.measure, arguments.side)
        return

    import torch

    import stpredict as stp
    from stpredict.core._optional import import_torchvision
    from stpredict.core._stain import PUBLISHED, Recoloring, Stain
    from stpredict.encoders import get_encoder
    from stpredict.pp._image_features import image_features

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    resnet = import_torchvision("torchvision.models").resnet50(weights=None).eval()
    batch = torch.rand(16, 3, 224, 224)
    encoder = get_encoder("color-texture", device="cpu")
    tiles = torch.randint(0, 256, (64, 3, 112, 112), dtype=torch.uint8)
    image = synthetic_image(3000)
    adata = table_of_spots(3000, 256)
    with torch.inference_mode():
        reference = tiles_per_second(lambda: resnet(batch), 16, arguments.seconds)
    alone = tiles_per_second(lambda: encoder(tiles), 64, arguments.seconds)
    published = Stain("macenko", PUBLISHED["macenko"])
    change = Recoloring(published, published)
    recolored = tiles_per_second(lambda: change.tiles(tiles), 64, arguments.seconds)
    whole = tiles_per_second(
        lambda: image_features(
            adata, encoder, image=image, microns_per_pixel=0.7, context=(1,), cache=False, progress=False
        ),
        256,
        arguments.seconds,
    )
    around = tiles_per_second(
        lambda: image_features(adata, encoder, image=image, microns_per_pixel=0.7, cache=False, progress=False),
        256,
        arguments.seconds,
    )
    tissue, _ = stp.datasets.synthetic_nuclei(700, seed=0)
    in_tissue = table_of_spots(min(tissue.shape[:2]), 256)
    rates = {
        name: tiles_per_second(
            lambda name=name: image_features(
                in_tissue, name, image=tissue, tile_um=112, microns_per_pixel=0.5, cache=False, progress=False
            ),
            256,
            arguments.seconds,
        )
        for name in ("nuclei", "random-filters")
    }
    print(f"{processor()}, torch {torch.__version__}")
    print(f"threads                                     {torch.get_num_threads():8d}")
    print(f"ResNet-50, eager, 224 px, batch 16          {reference:8.1f} tiles/s")
    print(f"color-texture, encoder only                 {alone:8.1f} tiles/s   {alone / reference:6.1f} x")
    print(
        f"recoloring tiles (stain), 112 px             {recolored:8.1f} tiles/s   {alone / recolored:6.2f} of the encoder's time"
    )
    print(f"color-texture, pp.image_features in all     {whole:8.1f} tiles/s   {whole / reference:6.1f} x")
    print(f"the same with its surroundings, the default {around:8.1f} spots/s")

    for name, rate in rates.items():
        what = f"{name}, pp.image_features in all"
        print(f"{what:<43} {rate:8.1f} tiles/s   {rate / reference:6.1f} x")

    with tempfile.TemporaryDirectory() as folder:
        from PIL import Image

        path = Path(folder) / "section.jpg"
        Image.fromarray(synthetic_image(arguments.side)).save(path, quality=90)
        result = subprocess.run(
            [sys.executable, __file__, "--measure", str(path), "--side", str(arguments.side)],
            check=True,
            capture_output=True,
            text=True,
        )
    above, decoded = float(result.stdout.split()[-1]), arguments.side**2 * 3 / 2**20
    print(f"peak memory above that before the call      {above:8.1f} MB")
    print(f"decoded image                               {decoded:8.1f} MB   rest {above - decoded:6.1f} MB (limit 500)")


if __name__ == "__main__":
    main()
