"""Small files in the layouts of HEST-1k and HEST-Bench."""

from __future__ import annotations

import json
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import tifffile
import torch
from scipy import sparse
from torch import nn

SIDE = 16  # pixels of a patch, where HEST has 224
MPP = 0.25
GENES = [f"G{i}" for i in range(6)]


class Mean(nn.Module):
    """Mean of each channel."""

    def forward(self, tiles: torch.Tensor) -> torch.Tensor:
        return tiles.mean(dim=(2, 3))


def write_sample(
    table: Path, patches: Path, seed: int, *, n: int = 30, genes: list[str] | None = None, lost: int = 3
) -> None:
    """Spots with counts that follow the color of their patch, and the patches of most, in another order."""
    rng = np.random.default_rng(seed)
    genes = GENES if genes is None else genes
    names = [f"{seed}SPOT{i:03d}-1" for i in range(n)]
    columns = int(np.ceil(np.sqrt(n)))
    xy = np.column_stack([np.arange(n) % columns, np.arange(n) // columns]) * 60.0 + 60
    pixels = rng.integers(0, 200, (n, 1, 1, 3)) + rng.integers(0, 56, (n, SIDE, SIDE, 3))
    shade = pixels.mean(axis=(1, 2))[:, rng.integers(0, 3, len(genes))] / 128
    counts = sparse.csr_matrix(rng.poisson(3 * shade), dtype=np.float32)
    adata = ad.AnnData(counts, obs=pd.DataFrame({"in_tissue": 1}, index=names), var=pd.DataFrame(index=genes))
    adata.obs["array_row"], adata.obs["array_col"] = np.arange(n) // columns, np.arange(n) % columns
    adata.obsm["spatial"] = xy
    small = np.full((60, 60, 3), (230, 190, 215), dtype=np.uint8)
    adata.uns["spatial"] = {
        "ST": {
            "images": {"downscaled_fullres": small},
            "scalefactors": {"tissue_downscaled_fullres_scalef": 60 / 1200, "spot_diameter_fullres": 220.0},
        }
    }
    for path in (table, patches):
        path.parent.mkdir(parents=True, exist_ok=True)
    adata.write_h5ad(table)
    kept = rng.permutation(n)[lost:]
    with h5py.File(patches, "w") as file:
        file["img"] = pixels[kept].astype(np.uint8)
        file["barcode"] = np.array([[names[i].encode()] for i in kept])
        file["coords"] = (xy[kept] - SIDE * 0.5 / MPP // 2).astype(int)


def write_hest(root: Path, *, slides: bool = True) -> Path:
    """Two samples of HEST-1k, of two data sets whose first patients have one name."""
    facts = {
        "T1": {
            "patient": "Patient 1",
            "dataset_title": "Breast, first series",
            "organ": "Breast",
            "spot_diameter": 55.0,
        },
        "T2": {"patient": "Patient 1", "dataset_title": "Kidney", "organ": float("nan"), "spot_diameter": 100.0},
    }
    for seed, name in enumerate(facts):
        genes = [*GENES, "ONLY_T1"] if name == "T1" else GENES
        write_sample(root / "st" / f"{name}.h5ad", root / "patches" / f"{name}.h5", seed, genes=genes)
        (root / "metadata").mkdir(exist_ok=True)
        known = {"id": name, "pixel_size_um_embedded": float("nan"), "pixel_size_um_estimated": MPP} | facts[name]
        (root / "metadata" / f"{name}.json").write_text(json.dumps(known))
    if slides:
        (root / "wsis").mkdir()
        picture = np.random.default_rng(0).integers(0, 255, (1200, 1200, 3), dtype=np.uint8)
        tifffile.imwrite(root / "wsis" / "T1.tif", picture, tile=(256, 256), photometric="rgb")
    return root


def write_bench(task: Path, *, n: int = 30) -> Path:
    """A task of HEST-Bench: three samples, two splits, a list of genes in an order of its own."""
    for seed, name in enumerate("ABC"):
        write_sample(task / "adata" / f"{name}.h5ad", task / "patches" / f"{name}.h5", seed + 10, n=n)
    (task / "splits").mkdir()
    for number, (train, test) in enumerate((("CA", "B"), ("B", "A"))):
        for side, names in (("train", train), ("test", test)):
            rows = "".join(f"{name},patches/{name}.h5,adata/{name}.h5ad\n" for name in names)
            (task / "splits" / f"{side}_{number}.csv").write_text("sample_id,patches_path,expr_path\n" + rows)
    (task / "var_50genes.json").write_text(json.dumps({"genes": ["G4", "G0", "G2", "G5"]}))
    return task
