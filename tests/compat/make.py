"""Small files as this release writes them: models, a map, a cohort, a cache entry. Later releases have to read them.

    python tests/compat/make.py [--out tests/compat/0.1]

Run it once for a release, commit the folder, and leave those of earlier releases as they are. Everything follows from seeds and
from arithmetic, nothing from data of anybody: two runs on one machine write the same bytes. `test_compat.py` reads all folders.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

import stpredict as stp

QUICK = {"max_epochs": 2}
KEY = "0" * 64  # name of the entry of the cache


def sections() -> ad.AnnData:
    """Three patients with two sections of 12 spots each, 5 genes that follow 4 features; normalized."""
    n = np.arange(72)
    features = np.sin(np.outer(n + 1, [0.7, 1.3, 2.1, 3.7])).astype(np.float32)
    rates = np.exp(1.5 + features @ (0.4 * np.cos(np.arange(20.0)).reshape(4, 5)))
    counts = np.floor(rates + (n[:, None] * 7 + np.arange(5) * 3) % 5).astype(np.float32)
    section = n // 12
    obs = pd.DataFrame(
        {
            "sample": [f"s{i}" for i in section], "patient": [f"p{i // 2}" for i in section], "array_row": n % 12 // 4,
            "array_col": n % 4,
        },
        index=[f"o{i}" for i in n],
    )  # fmt: skip
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(5)]))
    adata.obsm["spatial"] = obs[["array_col", "array_row"]].to_numpy() * 100.0 + 50
    adata.obsm["X_toy"] = features
    adata.uns["spatial"] = {f"s{i}": {"scalefactors": {"microns_per_pixel": 0.5}} for i in range(6)}
    adata.uns["stpredict"] = {
        "X_toy": {"encoder": "toy", "tile_um": 100.0, "microns_per_pixel": {f"s{i}": 0.5 for i in range(6)}}
    }
    stp.pp.normalize(adata)
    return adata


def slides_and_maps() -> tuple[ad.AnnData, dict[str, ad.AnnData]]:
    """Twelve patients with one slide each, a response, an age, and the map of two genes."""
    number = np.arange(12)
    response = pd.Categorical(np.where(number % 2, "yes", "no"), ["yes", "no"])
    obs = pd.DataFrame({"patient": [f"P{i}" for i in number], "response": response}, [f"S{i}" for i in number])
    obs["age"] = 50.0 + number * 5 % 17
    row, col = np.mgrid[:6, :5].reshape(2, -1)
    maps = {}
    for i, name in enumerate(obs.index):
        cells = pd.DataFrame({"sample": name, "grid_row": row, "grid_col": col}, [f"{k}" for k in range(30)])
        values = np.sin(np.outer(np.arange(30) + i, [1.0, 2.0])) + [2.0 * (i % 2), 0]
        maps[name] = ad.AnnData(obs=cells, obsm={"predicted": pd.DataFrame(values, cells.index, ["g0", "g1"])})
        maps[name].uns["stpredict"] = {
            "grid": {"lattice": {name: "square"}}, "predicted": {"model": "hist", "seed": 0},
        }  # fmt: skip
    return ad.AnnData(obs=obs), maps


def tiles() -> ad.AnnData:
    """Tiles of four slides with features."""
    obs = pd.DataFrame({"sample": np.repeat(list("abcd"), 9), "patient": np.repeat(list("PQRS"), 9)})
    adata = ad.AnnData(obs=obs.rename(index=str))
    adata.obs["array_row"], adata.obs["array_col"] = np.tile(np.mgrid[:3, :3].reshape(2, -1), 4)
    adata.obsm["spatial"] = adata.obs[["array_col", "array_row"]].to_numpy() * 256.0 + 128
    adata.obsm["X_own"] = np.cos(np.outer(np.arange(36) + 1, [0.3, 0.9, 1.7, 2.3, 4.1])).astype(np.float32)
    return adata


def cached() -> np.ndarray:
    """What the entry of the cache holds."""
    return np.sin(np.arange(24, dtype=np.float32)).reshape(6, 4)


def predictions(folder: Path) -> dict[str, Any]:
    """What the files of a release give today, in plain numbers."""
    from stpredict.pp._cache import FeatureCache

    found: dict[str, Any] = {}
    for name in ("ridge", "mlp"):
        adata = sections()
        stp.tl.predict(adata, folder / name, device="cpu")
        predicted = stp.get.predicted(adata)
        found[name] = {"genes": list(predicted.var_names), "values": np.asarray(predicted.X)[::6].tolist()}
    slides, maps = slides_and_maps()
    stp.tl.predict_outcome(slides, folder / "outcome", maps=maps, device="cpu")
    found["outcome"] = {name: slides.obs[name].tolist() for name in slides.obs if str(name).startswith("response_")}
    table = stp.io.read_map(folder / "map.zarr")
    found["map"] = {
        "genes": list(stp.get.predicted(table).var_names), "values": table.obsm["predicted"].tolist(),
        "obs": {name: table.obs[name].tolist() for name in ("sample", "array_row", "array_col", "predicted_n_windows")},
        "one": stp.io.read_map(folder / "map.zarr", ["ERBB2"]).obsm["predicted"].tolist(),
    }  # fmt: skip
    if (folder / "cohort").is_dir():
        cohort = stp.Cohort(folder / "cohort")
        found["cohort"] = {
            "names": cohort.names, "patients": [str(cohort.patients[name]) for name in cohort.names],
            "genes": list(cohort[cohort.names[0]].var_names),
            "counts": [cohort[name].layers["counts"].sum(axis=1).tolist() for name in cohort.names],
        }  # fmt: skip
    entry = FeatureCache(folder / "cache").get(KEY)
    found["cache"] = None if entry is None else entry.tolist()
    return found


def make_ridge(folder: Path) -> None:
    """Write the model that takes no time to fit."""
    stp.tl.fit(sections(), "ridge", features="toy", path=folder / "ridge")


def make(folder: Path) -> None:
    """Write everything into a new folder."""
    from stpredict.pp._cache import FeatureCache

    make_ridge(folder)
    small = {"hyperparameters": {"hidden": 8}, "training": QUICK}
    stp.tl.fit(sections(), "mlp", features="toy", path=folder / "mlp", baselines=["mean"], **small)
    slides, maps = slides_and_maps()
    tiny = {"hyperparameters": {"depths": (1,), "dims": (4,)}, "training": {"max_epochs": 1}}
    stp.tl.fit_outcome(
        slides, "response", maps=maps, clinical=["age"], n_folds=(2, 2), baselines=["clinical", "mean map"], **tiny
    ).save(folder / "outcome")
    bulk = pd.DataFrame(np.arange(12.0).reshape(4, 3) * 40 + 1, index=list("abcd"), columns=["ESR1", "ERBB2", "GATA3"])
    bags = stp.pp.bag(tiles(), "own", expression=bulk, n_tokens=4)
    stp.pp.normalize(bags, unit="fpkm-uq")
    model = stp.tl.fit(bags, "he2rna", training={"max_epochs": 1}, baselines=False)
    stp.tl.predict(tiles(), model, window=2, store=folder / "map.zarr")
    FeatureCache(folder / "cache").put(KEY, cached())
    adata = sections()
    stp.Cohort.divide(adata[adata.obs["sample"].isin(["s0", "s2"])].copy(), folder / "cohort")
    (folder / "expected.json").write_text(json.dumps(predictions(folder), indent=0) + "\n")


def main() -> None:
    """Make the folder of this release anew."""
    release = ".".join(stp.__version__.split(".")[:2])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / release)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    stp.settings.progress, stp.settings.device = False, "cpu"
    with tempfile.TemporaryDirectory() as cache:
        stp.settings.cache_dir = Path(cache)
        shutil.rmtree(options.out, ignore_errors=True)
        make(options.out)
    files = [path for path in options.out.rglob("*") if path.is_file()]
    print(f"{options.out}: {len(files)} files, {sum(path.stat().st_size for path in files):,} bytes")


if __name__ == "__main__":
    main()
