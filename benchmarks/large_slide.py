"""A slide of many tiles: time and memory of what is done with it, each step in a process of its own.

    python benchmarks/large_slide.py
    python benchmarks/large_slide.py --sizes 25000 100000 --steps tiles features

The slide is a square of tissue of 1 µm per pixel with tiles of 16 µm; pixels are read by the steps tissue, tiles and features, the
others have random features, 64 per tile. Memory is the most that the process held, libraries and the object included; seconds
are those of the processor. A step is linear where the time per tile is the same at both sizes.
"""

from __future__ import annotations

import os
from pathlib import Path

from children import options_of, run_steps, seconds_of

for name in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

_PX, _MARGIN, _N_FEATURES = 16, 128, 64
STEPS = ("tissue", "tiles", "features", "predict", "map", "domains", "figures")


def write_slide(path: Path, n: int) -> None:
    """A pyramid with tissue that holds n tiles, of uneven color."""
    import numpy as np

    from stpredict.datasets._pyramid import write_pyramid

    rng, side = np.random.default_rng(0), int(np.ceil(np.sqrt(n))) * _PX
    image = np.full((side + 2 * _MARGIN,) * 2 + (3,), 243, dtype=np.uint8)
    texture = rng.integers(-40, 40, (512, 512, 3)) + np.array([190, 120, 170])
    repeats = -(-side // 512)
    inside = slice(_MARGIN, _MARGIN + side)
    image[inside, inside] = np.tile(texture.clip(0, 255).astype(np.uint8), (repeats, repeats, 1))[:side, :side]
    write_pyramid(path, image, 1.0)


def table(n: int):
    """Tiles on a lattice with random features."""
    import anndata as ad
    import numpy as np
    import pandas as pd

    rng, side = np.random.default_rng(0), int(np.ceil(np.sqrt(n)))
    row, column = np.divmod(np.arange(n), side)
    tiles = ad.AnnData(obs=pd.DataFrame({"sample": "slide", "patient": "P"}, index=[f"t{i}" for i in range(n)]))
    tiles.obs["array_row"], tiles.obs["array_col"] = row, column
    tiles.obsm["X_own"] = rng.normal(size=(n, _N_FEATURES)).astype(np.float32)
    tiles.obsm["spatial"] = np.stack([column, row], axis=1) * float(_PX)
    tiles.uns["spatial"] = {"slide": {"scalefactors": {"microns_per_pixel": 1.0, "spot_diameter_fullres": float(_PX)}}}
    return tiles


def fit_models(folder: Path, n_genes: int) -> None:
    """A ridge for tiles, and a network on bags for a map."""
    import anndata as ad
    import numpy as np
    import pandas as pd

    import stpredict as stp

    rng, genes = np.random.default_rng(1), [f"G{i}" for i in range(n_genes)]
    spots = table(400)
    spots.obs["sample"] = np.repeat(["a", "b", "c", "d"], 100)
    spots.obs["patient"] = spots.obs["sample"].str.upper()
    bulk = pd.DataFrame(rng.uniform(0, 900, (4, n_genes)), index=list("abcd"), columns=genes)
    stp.settings.progress = False
    bags = stp.pp.bag(spots, "own", expression=bulk, n_tokens=4)
    stp.pp.normalize(bags, unit="fpkm-uq")
    quick = {"hyperparameters": "small", "training": {"max_epochs": 1}, "baselines": False}
    stp.tl.fit(bags, "sequoia", path=folder / "bags", **quick)
    measured = ad.AnnData(rng.poisson(2.0, (400, n_genes)).astype(np.float32), obs=spots.obs, obsm=dict(spots.obsm))
    measured.var_names = genes
    measured.uns = spots.uns.copy()
    stp.pp.normalize(measured)
    stp.tl.fit(measured, "ridge", features="X_own", baselines=False, path=folder / "ridge")


def prepare(folder: Path, n: int, n_genes: int) -> None:
    """The slide, the table of its tiles, and the models."""
    write_slide(folder / "slide.tif", n)
    table(n).write_h5ad(folder / "tiles.h5ad")
    fit_models(folder, n_genes)


def run(step: str, folder: Path, n: int) -> tuple[int, float]:
    """Tiles of one step, and its seconds of the processor."""
    import anndata as ad

    import stpredict as stp

    stp.settings.progress = False
    if step in ("tissue", "tiles", "features"):
        slide = stp.io.open_slide(folder / "slide.tif", microns_per_pixel=1.0)
        lay = {"tile_um": float(_PX), "tile_px": _PX, "max_tiles": None}
        if step == "tissue":
            return n, seconds_of(lambda: stp.pp.tissue(slide))
        stp.pp.tissue(slide)
        if step == "tiles":
            seconds = seconds_of(lambda: stp.pp.tiles(slide, **lay))
        else:
            stp.pp.tiles(slide, **lay)
            seconds = seconds_of(lambda: stp.pp.image_features(slide, "color-statistics", cache=False))
        return len(slide.shapes["tiles"]), seconds
    adata = ad.read_h5ad(folder / ("predicted.h5ad" if step in ("domains", "figures") else "tiles.h5ad"))
    calls = {
        "predict": lambda: stp.tl.predict(adata, folder / "ridge"),
        "map": lambda: stp.tl.predict(adata, folder / "bags", store=folder / "map.zarr", stride=5),
        "domains": lambda: stp.tl.domains(adata),
        "figures": lambda: figures(adata, folder),
    }
    seconds = seconds_of(calls[step])
    if step == "predict":
        adata.write_h5ad(folder / "predicted.h5ad")
    return adata.n_obs, seconds


def figures(adata, folder: Path) -> None:
    """Maps of four genes, and domains."""
    import numpy as np

    import stpredict as stp

    np.ravel(stp.pl.maps(adata, ["G0", "G1", "G2", "G3"]))[0].figure.savefig(folder / "maps.pdf")
    rows = adata.obs["array_row"]
    adata.obs["domain"] = [str(8 * row // (rows.max() + 1)) for row in rows]
    np.ravel(stp.pl.domains(adata))[0].figure.savefig(folder / "domains.pdf")


def work(step: str, folder: Path, size: int, n_genes: int) -> tuple[int, float] | None:
    """A step in a process of its own."""
    if step == "prepare":
        prepare(folder, size, n_genes)
        return None
    return run(step, folder, size)


def main() -> None:
    options = options_of(__doc__, [25_000, 100_000], 200, STEPS, STEPS)

    def steps_in(folder: Path) -> list[str]:
        return [*([] if (folder / "ridge").exists() else ["prepare"]), *options.steps]

    run_steps(__file__, options, "tiles", steps_in, work)


if __name__ == "__main__":
    main()
