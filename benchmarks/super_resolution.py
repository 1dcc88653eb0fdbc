"""Super-resolution against cells that were measured one by one, and what a large section takes.

    python benchmarks/super_resolution.py [--parts synthetic xenium large] [--data ../shared/data/xenium_lung]

`synthetic`: sections of simulated tissue whose nuclei are known. Every nucleus is a cell whose expression follows from its
kind, with counts of its own. Cells are added up to spots of 55 µm, 100 µm apart, and these are what is learned from. Maps are
compared with the cells in places of 8, 16 and 32 µm, as Pearson residuals, by `tl.super_resolution_agreement`: r of each
gene over places with cells, averaged over genes with signal and sections, inside the spots and between them. Beside the maps
stand the value of the nearest spot (a spot's own, inside its disk) and the mean of the six nearest, weighted by the inverse
square of their distance. `expected` is the map of 8 µm that knows the kind of every cell: what is missing to 1 is counting noise.
`null` is the same of genes that no kind of cell has more of.

The counts of every cell are parted into two halves by drawing. One makes the spots, the other is the truth. Otherwise a spot
and the places inside it hold the same molecules, and their common noise makes copying a spot look good even for null genes.

`xenium`: the cells of a piece of lung (200 cells on 0.3 x 0.3 mm), added up to made-up spots. No µm per pixel comes with it:
0.2125, that of the instrument, is assumed. Spots of 55 µm would be nine; smaller ones are laid.

`large`: a section of 10,000 x 10,000 pixels at 0.5 µm, 500 genes, 8 µm, to Zarr: features, and the map with two chunks. Every
run is a process of its own; its peak of memory is what the system says, less what it took before the call.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

import stpredict as stp

KINDS = ("tumor", "lymphocyte", "fibroblast", "adipocyte")
N_GENES, N_NULL = 24, 8
HEADS = {
    "ridge on color": ("color", "ridge", None),
    "ridge on random filters and color": ("random", "ridge", None),
    "mlp on color": ("color", "mlp", "small"),
}
MPP = 0.5


def cells_of(nuclei: pd.DataFrame, rng: np.random.Generator, sample: str) -> ad.AnnData:
    """Cells with counts: genes of each kind, and genes that all kinds have alike."""
    per_kind = N_GENES // len(KINDS)
    rates = np.full((len(KINDS), N_GENES + N_NULL), 0.5)
    for number in range(len(KINDS)):
        rates[number, number * per_kind : (number + 1) * per_kind] = 4.0
    kind = pd.Categorical(nuclei["kind"], categories=list(KINDS)).codes
    size = rng.gamma(4, 0.25, len(nuclei))
    counts = rng.poisson(rates[kind] * size[:, None]).astype(np.float32)
    names = [f"{KINDS[i // per_kind].upper()}{i % per_kind}" for i in range(N_GENES)] + [
        f"NULL{i}" for i in range(N_NULL)
    ]
    obs = pd.DataFrame({"sample": sample}, index=[f"cell{i}" for i in range(len(nuclei))])
    xy, var = nuclei[["x", "y"]].to_numpy(), pd.DataFrame(index=names)
    return ad.AnnData(counts, obs, var, obsm={"spatial": xy}, layers={"rates": rates[kind]})


def spots_of(
    cells: ad.AnnData, image: np.ndarray, mpp: float, diameter_um: float, pitch_um: float, min_cells: int = 1
) -> ad.AnnData:
    """Cells added up to spots on a hexagonal lattice; spots without cells are left out."""
    from scipy.sparse import csr_array
    from scipy.spatial import KDTree

    height, width = (side * mpp for side in image.shape[:2])
    half = diameter_um / 2
    down = np.arange(half, height - half + 1e-6, pitch_um * np.sqrt(3) / 2)
    xy = np.array(
        [
            (x, y)
            for i, y in enumerate(down)
            for x in np.arange(half + i % 2 * pitch_um / 2, width - half + 1e-6, pitch_um)
        ]
    )
    tree = KDTree(cells.obsm["spatial"] * mpp)
    members = tree.query_ball_point(xy, half)
    size = np.array([len(each) for each in members])
    add = csr_array(
        (np.ones(size.sum()), (np.repeat(np.arange(len(xy)), size), np.concatenate(members).astype(int))),
        shape=(len(xy), cells.n_obs),
    )
    counts = np.asarray(add @ cells.X)
    kept = (size >= min_cells) & (counts.sum(axis=1) > 0)
    sample = cells.obs["sample"].iloc[0]
    positions = pd.DataFrame(xy[kept] / mpp, columns=["x", "y"], index=[f"spot{i}" for i in np.flatnonzero(kept)])
    return stp.io.from_tables(
        pd.DataFrame(counts[kept], index=positions.index, columns=cells.var_names), positions,
        sample=sample, patient="P1", image=image, microns_per_pixel=mpp, spot_diameter_um=diameter_um, check=False,
    )  # fmt: skip


def halves(cells: ad.AnnData, rng: np.random.Generator) -> tuple[ad.AnnData, ad.AnnData]:
    """Two halves of the counts of every cell, whose noise is independent."""
    first, second = cells.copy(), cells.copy()
    first.X = rng.binomial(np.asarray(cells.X).astype(int), 0.5).astype(np.float32)
    second.X = np.asarray(cells.X) - first.X
    return first, second


def expected(cells: ad.AnnData, dense: stp.pp.DenseMap) -> stp.pp.DenseMap:
    """Residuals of the rates of the cells in every place."""
    place = dense.places(cells.obsm["spatial"])
    on = ((place >= 0) & (place < dense.shape[:2])).all(axis=1)
    rates = np.zeros((*dense.shape[:2], cells.n_vars))
    np.add.at(rates, tuple(place[on].T), cells.layers["rates"][on])
    flat = rates.reshape(-1, cells.n_vars)
    filled = flat.sum(axis=1) > 0
    flat[filled] = stp.metrics.pearson_residuals(flat[filled], flat[filled].sum(axis=1))
    return stp.pp.DenseMap(flat.reshape(rates.shape), dense.microns, dense.microns_per_pixel, names=cells.var_names)


def scored(cells: ad.AnnData, spots: ad.AnnData, features: dict, sizes: tuple[float, ...], heads: dict) -> pd.DataFrame:
    """Scores of all lines of one section."""
    stp.pp.normalize(spots)
    tables = []
    for label, (kind, head, options) in heads.items():
        maps = stp.tl.super_resolve(spots, features[kind], head=head, hyperparameters=options, n_blocks=0)
        table = stp.tl.super_resolution_agreement(maps, cells, spots, microns=sizes)
        tables.append(table[table["model"] == "map"].assign(model=label))
    return pd.concat([table[table["model"] != "map"], *tables])


def report(table: pd.DataFrame, genes: np.ndarray, title: str) -> None:
    """Means over genes, then over sections."""
    part = table[table["gene"].isin(genes)]
    means = part.groupby(["microns", "model", "where", "sample"])["pearson"].mean().groupby(level=[0, 1, 2]).mean()
    shown = means.unstack("where")[["inside", "between", "all"]]
    print(f"\n{title}\n{shown.round(3).to_string()}")
    undefined = part["pearson"].isna().groupby(part["model"]).sum()
    print("undefined:", undefined[undefined > 0].to_dict() or 0)
    interpolated = part[part["model"] == "interpolated"].set_index(["sample", "microns", "where", "gene"])["pearson"]
    for label in dict.fromkeys(part["model"]):
        if label in ("interpolated", "nearest spot", "expected"):
            continue
        own = part[part["model"] == label].set_index(["sample", "microns", "where", "gene"])["pearson"]
        ahead = (
            (own.dropna() > interpolated.reindex(own.dropna().index))
            .groupby(level=["microns", "where"])
            .mean()
            .unstack()
        )
        print(f"share of genes ahead of interpolation, {label}:\n{ahead.round(2).to_string()}")


def synthetic(n_sections: int, side_um: float) -> None:
    tables = []
    for seed in range(n_sections):
        image, nuclei = stp.datasets.synthetic_nuclei(side_um, microns_per_pixel=MPP, seed=100 + seed)
        cells = cells_of(nuclei, np.random.default_rng(seed), f"S{seed}")
        half, truth = halves(cells, np.random.default_rng(1000 + seed))
        spots = spots_of(half, image, MPP, 55.0, 100.0)
        start = time.perf_counter()
        features = {
            "color": stp.pp.dense_features(spots, image=image, check=False),
            "random": stp.pp.dense_features(spots, RandomMaps(), image=image, tile_px=112, tile_um=56, check=False),
        }
        print(
            f"section {seed}: {cells.n_obs} cells, {spots.n_obs} spots, {time.perf_counter() - start:.0f} s of features",
            flush=True,
        )
        tables.append(scored(truth, spots, features, (8, 16, 32), HEADS))
        known = {f"S{seed}": expected(cells, features["color"][f"S{seed}"])}
        known = stp.tl.super_resolution_agreement(known, truth, spots, microns=(8, 16, 32))
        tables.append(known[known["model"] == "map"].assign(model="expected"))
    table = pd.concat(tables)
    null = table["gene"].str.startswith("NULL")
    report(table[~null], table.loc[~null, "gene"].unique(), "synthetic sections, genes of kinds of cells")
    report(table[null], table.loc[null, "gene"].unique(), "synthetic sections, null genes")


def xenium(folder: Path) -> None:
    from PIL import Image

    cells = ad.read_h5ad(folder / "NCBI858.h5ad")
    image = np.asarray(Image.open(folder / "NCBI858.jpg").convert("RGB"))
    mpp = 0.2125
    cells.obsm["spatial"] = cells.obs[["y_pixel", "x_pixel"]].to_numpy()  # rows are called x there
    cells.obs["sample"] = "lung"
    for diameter, pitch in ((30.0, 35.0), (20.0, 25.0)):
        half, truth = halves(cells, np.random.default_rng(0))
        spots = spots_of(half, image, mpp, diameter, pitch)
        total = np.asarray(spots.layers["counts"].sum(axis=0)).ravel()
        genes = spots.var_names[np.argsort(-total)[:50]]
        stp.pp.normalize(spots)
        features = {"color": stp.pp.dense_features(spots, image=image, check=False)}
        features["random"] = stp.pp.dense_features(
            spots, RandomMaps(), image=image, tile_px=112, tile_um=56, check=False
        )
        heads = {name: HEADS[name] for name in ("ridge on color", "ridge on random filters and color")}
        table = scored(truth, spots, features, (8, 16, 32), heads)
        report(
            table,
            genes,
            f"Xenium lung, {spots.n_obs} spots of {diameter:g} µm every {pitch:g} µm, 50 genes of highest count",
        )


class RandomMaps:
    """The random filters of the package as maps, before they are averaged over a tile."""

    def __new__(cls):  # noqa: D102
        import torch

        from stpredict.encoders._random_filters import RandomFilters

        class Maps(RandomFilters):
            def tokens(self, tiles: torch.Tensor) -> torch.Tensor:
                density = -torch.log10((tiles * 255 + 1) / 256)
                stains = torch.einsum("cs,bchw->bshw", self.unmixing, density)
                first = torch.nn.functional.conv2d(stains, self.first, stride=2, padding=3).relu()
                second = torch.nn.functional.conv2d(first, self.second, stride=2, padding=2).relu()
                pooled = [torch.nn.functional.adaptive_avg_pool2d(each, 14) for each in (first, second)]
                return torch.cat(pooled, dim=1)

        return stp.encoders.Encoder(Maps(), "random-maps", 112, tile_um=56, mean=(0, 0, 0), std=(1, 1, 1))


def large(side_px: int, n_genes: int) -> None:
    """Features, and the map with two chunks, each in a process of its own, and what each took."""
    area = (side_px * MPP / 1e4) ** 2
    with tempfile.TemporaryDirectory() as folder:
        make_large(Path(folder), side_px, n_genes)
        for chunk in (0, 2**12, 2**15):
            command = [sys.executable, __file__, "--one", folder, "--chunk", str(chunk)]
            told = json.loads(
                subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
            )
            print(
                f"{f'map, chunk {chunk}' if chunk else 'features':18} peak {told['peak_mib']:5.0f} MiB above "
                f"{told['before_mib']:.0f}, {told['seconds']:4.0f} s, {told['seconds'] / area:5.0f} s per cm2, written "
                f"{told['mib']:.0f} MiB ({told['shape']})",
                flush=True,
            )


def make_large(folder: Path, side_px: int, n_genes: int) -> None:
    """A picture in Zarr, mosaic of simulated tissue, and spots with counts that follow from its color."""
    import zarr

    image, _ = stp.datasets.synthetic_nuclei(900, microns_per_pixel=MPP, seed=7)
    piece = image[200:1712, 200:1712]
    times = -(-side_px // len(piece))
    picture = zarr.create_array(
        folder / "picture.zarr", shape=(side_px, side_px, 3), chunks=(512, 2048, 3), dtype="uint8"
    )
    for top in range(0, side_px, len(piece)):
        rows = np.tile(piece, (1, times, 1))[: min(len(piece), side_px - top), :side_px]
        picture[top : top + len(rows)] = rows
    rng = np.random.default_rng(0)
    down = np.arange(100, side_px - 100, 100 / MPP * np.sqrt(3) / 2)
    xy = np.array([(x, y) for i, y in enumerate(down) for x in np.arange(100 + i % 2 * 100, side_px - 100, 100 / MPP)])
    tone = np.array([piece[int(y) % len(piece), int(x) % len(piece)].mean() for x, y in xy]) / 255
    counts = rng.poisson(np.exp(rng.normal(0, 1, n_genes) + np.outer(tone, rng.normal(0, 1, n_genes))))
    names = [f"spot{i}" for i in range(len(xy))]
    spots = stp.io.from_tables(
        pd.DataFrame(counts, index=names, columns=[f"G{i}" for i in range(n_genes)]),
        pd.DataFrame(xy, columns=["x", "y"], index=names),
        sample="large", patient="P1", microns_per_pixel=MPP, spot_diameter_um=55,
    )  # fmt: skip
    stp.pp.normalize(spots)
    spots.write_h5ad(folder / "spots.h5ad")


def peak_mib() -> float:
    """Highest memory of this process so far; what `resource` says may be that of the process that started it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 1024


def one_large(folder: Path, chunk: int) -> None:
    """Features of the large section, or its map with a chunk; prints what it took as JSON."""
    import zarr

    spots = ad.read_h5ad(folder / "spots.h5ad")
    picture = zarr.open_array(folder / "picture.zarr", mode="r")

    before = peak_mib()
    start = time.perf_counter()
    if chunk:
        given = {"n_members": 3, "n_blocks": 0, "store": folder / "map.zarr", "chunk": chunk}
        maps = stp.tl.super_resolve(spots, folder / "features.zarr", **given)
    else:
        maps = stp.pp.dense_features(spots, image=picture, store=folder / "features.zarr", check=False)
    seconds = time.perf_counter() - start
    shape = maps["large"].shape
    told = {
        "before_mib": before,
        "peak_mib": peak_mib() - before,
        "seconds": seconds,
        "mib": np.prod(shape) * 4 * (2 if chunk else 1) / 2**20,
        "shape": " x ".join(map(str, shape)) + (", and deviations" if chunk else ""),
    }
    print(json.dumps(told))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", default=["synthetic", "xenium", "large"])
    parser.add_argument("--data", type=Path, default=Path("../shared/data/xenium_lung"))
    parser.add_argument("--sections", type=int, default=2)
    parser.add_argument("--side-um", type=float, default=1000)
    parser.add_argument("--side-px", type=int, default=10_000)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--chunk", type=int, default=2**14, help=argparse.SUPPRESS)
    options = parser.parse_args()
    stp.settings.progress = False
    if options.one is not None:
        one_large(options.one, options.chunk)
        return
    if "synthetic" in options.parts:
        synthetic(options.sections, options.side_um)
    if "xenium" in options.parts:
        xenium(options.data)
    if "large" in options.parts:
        large(options.side_px, options.genes)


if __name__ == "__main__":
    main()
