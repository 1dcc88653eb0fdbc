"""Held-out scores of the ridge with and without normalized stains, on real sections of two patients.

    python benchmarks/stain.py [--data ../shared/data/her2st] [--white section] [--picture out/stain.png]

Sections B4 and C2 of the HER2-positive breast cohort, whose patients were stained and scanned differently. Each is predicted by a ridge that was
fitted to the other, on the 200 genes with the most counts in the training section. The stain reference is fitted to the training
section of each fold. Two patients: the differences are numbers of two, and no test is possible.

`ms/tile` is the time to recolor a tile of 224 pixels beside the time of the encoder for it, on one thread.
With `--white section` the light through the glass of each section is its own, in place of the published 240; Reinhard's method, which moves the glass
anyhow, is left out. With `--picture`, sections before and after are drawn.
"""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from time import perf_counter

import numpy as np
import torch

import stpredict as stp
from stpredict.core._stain import METHODS, WHITES, Recoloring, find_stain


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/her2st"))
    parser.add_argument("--sections", nargs="+", default=["B4", "C2"])
    parser.add_argument("--n-genes", type=int, default=200)
    parser.add_argument("--picture", type=Path)
    parser.add_argument(
        "--white", choices=WHITES, default=WHITES[0], help="light through glass: 240, or the section's own"
    )
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    start = perf_counter()
    adata = stp.io.read_her2st(arguments.data, arguments.sections)
    if arguments.picture:
        draw(adata, arguments.picture)
    stp.pp.normalize(adata)
    target = stp.targets.Expression(panel={"method": "mean", "n_genes": arguments.n_genes})
    methods = METHODS if arguments.white == WHITES[0] else [name for name in METHODS if name != "reinhard"]
    effect = stp.tl.stain_effect(adata, methods, "ridge", target=target, white=arguments.white)
    columns = ["metric", "model", "score", "reference_score", "difference", "genes_better", "n_units", "over"]
    print(effect.comparison[columns].to_string(index=False, float_format=lambda value: f"{value:.4f}"))
    by_patient = effect.scores.groupby(["model", "patient"], observed=True)[["pearson", "deviance_explained"]].mean()
    print(by_patient.to_string(float_format=lambda value: f"{value:.4f}"))
    speed()
    print(f"{perf_counter() - start:.0f} s in all")


def speed() -> None:
    """Print the time to recolor a tile beside that of an encoder."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(60, 200, (64, 224, 224, 3), dtype=np.uint8)
    tiles = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    encoder = stp.encoders.get_encoder("color-texture", device="cpu")
    small = torch.nn.functional.interpolate(tiles, size=(encoder.tile_px, encoder.tile_px))
    take = {"color-texture, 112 px": timed(lambda: encoder(small))}
    for method in METHODS:
        stain = find_stain(pixels[0].reshape(-1, 3), method)
        change = Recoloring(stain, stain)
        take[f"{method}, 224 px"] = timed(lambda change=change: change.tiles(tiles))
        take[f"{method}, 112 px"] = timed(lambda change=change: change.tiles(small))
    first = next(iter(take.values()))
    for name, seconds in take.items():
        print(f"{name:<24} {1000 * seconds / 64:6.2f} ms/tile {seconds / first:6.2f} x the encoder")


def timed(call, n: int = 3) -> float:
    call()
    times = []
    for _ in range(n):
        start = perf_counter()
        call()
        times.append(perf_counter() - start)
    return min(times)


def draw(adata, path: Path) -> None:
    """Sections, and two tiles of each, as they are and in the stains of the last section."""
    import matplotlib.pyplot as plt

    from stpredict.io._image import section_image

    names = list(dict.fromkeys(adata.obs["sample"].astype(str)))
    sample = adata.obs["sample"].astype(str).to_numpy()
    _, axes = plt.subplots(1 + len(METHODS), 3 * len(names), figsize=(7.5 * len(names), 10), layout="constrained")
    for row, method in zip(axes, (None, *METHODS), strict=True):
        if method:
            reference = stp.pp.stain_reference(adata[sample == names[-1]], method)
            stp.pp.normalize_stain(adata, reference=reference)
        for number, name in enumerate(names):
            picture = section_image(adata, adata, name)
            xy = adata.obsm["spatial"][sample == name]
            parts = [picture.thumbnail(700)[0]]
            parts += [next(picture.windows(xy[[at]], 300, 1))[1][0] for at in (len(xy) // 3, 2 * len(xy) // 3)]
            for ax, part in zip(row[3 * number : 3 * number + 3], parts, strict=True):
                ax.imshow(part if picture.stain is None else picture.stain.pixels(part))
                ax.set_title(f"{name}, {method or 'as it is'}")
                ax.axis("off")
            picture.close()
    stp.pp.normalize_stain(adata, "none")
    path.parent.mkdir(parents=True, exist_ok=True)
    plt.savefig(path, dpi=70)
    plt.close()


if __name__ == "__main__":
    main()
