"""Operations that are killed at random moments, and made again: is the result that of an uninterrupted run?

What an operation needs is made once. Each operation runs in a process of its own, which is killed (SIGKILL) one to three times, or as often as is said, at a
random moment between its beginning and the time that an uninterrupted run takes. Then it runs to its end. Its result has to equal that of the
uninterrupted run bit for bit, and its folders (cache, checkpoints, map, model, temporary files) have to hold the same files.

    python benchmarks/kills.py [--kills 100] [--only features patches fit cross_validate map save shell] [--seed 0]
    python benchmarks/kills.py --kills 5 --in-a-row 5 --only shell

Prints one row per operation, and ends with an error where a result differs or something is left behind.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import multiprocessing
import os
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before anything is imported that reads them
#: Works in a folder, and returns a digest of its result.
Operation = Callable[[Path], str]
MOST_KILLS = 3  # before an operation may run to its end
MOST_TRIES = 20  # of sequences of a given length


def make_ready(cache: Path) -> None:
    """Import what takes long, with one thread, as every process is a fork of this one; set a cache for what they need."""
    import torch

    import stpredict as stp
    from stpredict.core._optional import mend_torchvision

    torch.set_num_threads(1)
    stp.settings.progress, stp.settings.device, stp.settings.cache_dir = False, "cpu", cache
    warnings.simplefilter("ignore", UserWarning)  # what a small cohort lacks
    mend_torchvision()
    for name in ("scanpy", "skimage.feature", "stpredict.tl.maps._map", "stpredict.training._loop", "wsidata", "zarr"):
        importlib.import_module(name)


def digest(*parts: Any) -> str:
    """Digest of arrays, tables and texts."""
    found = hashlib.sha256()
    for part in parts:
        if hasattr(part, "to_csv"):
            part = part.to_csv(float_format="%.17g")
        found.update(part.encode() if isinstance(part, str) else part.tobytes())
    return found.hexdigest()


def cohort(features: bool = True) -> Any:
    """Four small sections of two patients."""
    import stpredict as stp

    adata = stp.datasets.synthetic_cohort(2, 2, 8, n_spots=49, microns_per_pixel=2.0)
    stp.pp.normalize(adata)
    if features:
        stp.pp.image_features(adata, cache=False)
    return adata


def weights(model: Any) -> list[Any]:
    """Weights of a model and of its baselines."""
    parts = [model, *(model.baselines[name] for name in sorted(model.baselines))]
    return [tensor.numpy() for part in parts for _, tensor in sorted(part.network.state_dict().items())]


def features() -> Operation:
    """Image features with the cache."""
    import stpredict as stp

    adata = cohort(features=False)

    def run(folder: Path) -> str:
        stp.pp.image_features(adata)
        return digest(adata.obsm["X_color-texture"])

    return run


def patches() -> Operation:
    """Patches with the cache."""
    import numpy as np

    import stpredict as stp

    adata = cohort(features=False)

    def run(folder: Path) -> str:
        table = stp.pp.patches(adata, 224, 128)
        return digest(*(np.load(path) for path in table["path"]), table.drop(columns="path"))

    return run


def fit() -> Operation:
    """A fit with checkpoints, refit on everything, two baselines, saved."""
    import stpredict as stp

    adata = cohort()
    options: dict[str, Any] = {"hyperparameters": {"hidden": 64}, "training": {"max_epochs": 25, "patience": 20}}

    def run(folder: Path) -> str:
        model = stp.tl.fit(adata, "mlp", path=folder / "model", checkpoint_dir=folder / "checkpoints", **options)
        return digest(*weights(model), *weights(stp.training.FittedModel.load(folder / "model")), model.history)

    return run


def cross_validate() -> Operation:
    """Cross-validation of a network on pixels, whose patches are cached."""
    import stpredict as stp

    adata = cohort()
    models = {"color": {"model": "color", "hyperparameters": {"patch_px": 32}, "training": {"max_epochs": 5}}}

    def run(folder: Path) -> str:
        return digest(stp.tl.cross_validate(adata, models, baselines=["mean"]))

    return run


def map_of_tiles() -> Operation:
    """A map in Zarr, some blocks of windows and chunks of genes."""
    import anndata as ad
    import numpy as np
    import pandas as pd

    import stpredict as stp

    rng = np.random.default_rng(0)
    side, genes = 26, [f"G{number}" for number in range(640)]
    obs = pd.DataFrame({"sample": np.repeat(list("abcd"), side**2), "patient": np.repeat(list("PQRS"), side**2)})
    tiles = ad.AnnData(obs=obs.rename(index=str))
    tiles.obs["array_row"], tiles.obs["array_col"] = np.tile(np.mgrid[:side, :side].reshape(2, -1), 4)
    tiles.obsm["X_own"] = rng.normal(size=(len(obs), 16)).astype("float32")
    bulk = pd.DataFrame(rng.uniform(0, 900, (4, len(genes))), index=list("abcd"), columns=genes)
    bags = stp.pp.bag(tiles, "own", expression=bulk, n_tokens=4)
    stp.pp.normalize(bags, unit="fpkm-uq")
    model = stp.tl.fit(bags, "sequoia", hyperparameters="small", training={"max_epochs": 1}, baselines=False)

    def run(folder: Path) -> str:
        stp.tl.predict(tiles, model, window=3, store=folder / "map.zarr")
        return digest(stp.io.read_map(folder / "map.zarr").obsm["predicted"])

    return run


def save() -> Operation:
    """Two models that are saved over each other, again and again; after a kill one of them is there, whole."""
    import stpredict as stp

    adata = cohort()
    models = [stp.tl.fit(adata, "ridge", target=list(adata.var_names[:n])) for n in (3, 8)]
    whole = [digest(*weights(model)) for model in models]

    def run(folder: Path) -> str:
        path, saved = folder / "model", folder / "saved"
        if saved.exists():
            assert digest(*weights(stp.training.FittedModel.load(path))) in whole
        for number in range(40):
            models[number % 2].save(path)
            saved.touch()
        return digest(*weights(stp.training.FittedModel.load(path)))

    return run


def shell() -> Operation:
    """`stpredict predict` on eight slides, one of which is damaged: seven maps, and one failure that is named."""
    import contextlib
    import io

    import stpredict as stp
    from stpredict.cli._main import main

    home = Path(tempfile.mkdtemp(dir=stp.settings.cache_dir.parent))
    stp.datasets.synthetic_slides(
        4, 2, n_genes=6, image_dir=home / "slides", slide_um=500, margin_um=100, microns_per_pixel=3, censoring=0
    )
    damaged = home / "slides" / "P3_S1.tif"
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    adata = cohort(features=False)
    stp.pp.image_features(adata, "color-statistics", cache=False)
    stp.tl.fit(adata, "ridge", path=home / "model")
    call = ["predict", str(home / "slides"), "--model", str(home / "model"), "--out"]

    def run(folder: Path) -> str:
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            status = main([*call, str(folder / "maps")])
        failures = [line for line in said.getvalue().splitlines() if line.startswith("failed: ")]
        assert status == 1, said.getvalue()
        assert [line.split()[1] for line in failures] == ["P3_S1"], said.getvalue()
        maps = sorted((folder / "maps").iterdir())
        assert len(maps) == 7
        return digest(*(part for path in maps for part in (path.name, stp.io.read_map(path).obsm["predicted"])))

    return run


OPERATIONS: dict[str, Callable[[], Operation]] = {
    "features": features, "patches": patches, "fit": fit, "cross_validate": cross_validate, "map": map_of_tiles,
    "save": save, "shell": shell,
}  # fmt: skip


def work(run: Operation, folder: Path, pipe: Connection) -> None:
    """Make an operation in a folder; what a process does."""
    import stpredict as stp

    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder / "tmp")
    stp.settings.cache_dir = folder / "cache"
    pipe.send("begins")
    pipe.send(run(folder))


def start(run: Operation, folder: Path) -> tuple[Any, Connection]:
    """Start a process and wait until its operation begins."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(run, folder, theirs))
    process.start()
    theirs.close()
    assert ours.recv() == "begins"
    return process, ours


def finish(run: Operation, folder: Path) -> tuple[str, float, set[str]]:
    """Digest of the result of an operation that nobody interrupts, its time in seconds, and the files that are there then."""
    process, pipe = start(run, folder)
    begun = time.perf_counter()
    found = pipe.recv()
    seconds = time.perf_counter() - begun
    process.join()
    return found, seconds, {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


def kill(run: Operation, folder: Path, after: float) -> bool:
    """Kill an operation some seconds after its beginning; whether it was still at work."""
    process, pipe = start(run, folder)
    if not pipe.poll(after):
        process.kill()
    process.join()
    return process.exitcode == -9


def trial(name: str, n_kills: int, root: Path, chance: random.Random, in_a_row: int | None) -> dict[str, Any]:
    """Kill an operation so many times, in sequences that each end with a whole run.

    `in_a_row` kills make a sequence, each at a moment that leaves as much to do for the next ones; 1 to 3 at any moment when
    `None`. A sequence that came to its end before its last kill is none.
    """
    run = OPERATIONS[name]()
    wanted, seconds, files = finish(run, root / f"{name} whole")
    kills = sequences = equal = tries = 0
    left: list[str] = []
    while kills < n_kills:
        folder, tries = root / f"{name} {tries}", tries + 1
        planned = min(in_a_row or chance.randint(1, MOST_KILLS), n_kills - kills)
        latest = seconds if in_a_row is None else 2 * seconds / (planned + 1)
        done = sum(kill(run, folder, chance.uniform(0, latest)) for _ in range(planned))
        if in_a_row is not None and done < planned:
            assert tries < MOST_TRIES, f"{name} is over before it was killed {planned} times"
            continue
        found, _, kept = finish(run, folder)
        kills, sequences, equal = kills + done, sequences + 1, equal + (found == wanted)
        left += [f"{name}: {path}" for path in sorted(kept ^ files)]
    return {"operation": name, "seconds": seconds, "kills": kills, "sequences": sequences, "equal": equal, "left": left}


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 1 where a result differs or something is left behind."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="kills in all")
    parser.add_argument("--only", nargs="+", choices=OPERATIONS, default=list(OPERATIONS))
    parser.add_argument("--in-a-row", type=int, help="kills of one sequence; 1 to 3 when it is not given")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    chance, n = random.Random(options.seed), len(options.only)
    print(f"{'operation':<16}{'seconds':>8}{'kills':>7}{'sequences':>11}{'equal':>7}{'left behind':>13}", flush=True)
    rows = []
    with tempfile.TemporaryDirectory(prefix="kills-") as root:
        make_ready(Path(root) / "made ready")
        for number, name in enumerate(options.only):
            share = options.kills // n + (number < options.kills % n)
            row = trial(name, share, Path(root), chance, options.in_a_row)
            rows.append(row)
            print(
                f"{name:<16}{row['seconds']:>8.2f}{row['kills']:>7}{row['sequences']:>11}{row['equal']:>7}"
                f"{len(row['left']):>13}",
                flush=True,
            )
    total = {key: sum(row[key] for row in rows) for key in ("kills", "sequences", "equal")}
    left = [path for row in rows for path in row["left"]]
    print(f"{'total':<24}{total['kills']:>7}{total['sequences']:>11}{total['equal']:>7}{len(left):>13}")
    for path in left[:20]:
        print("left behind, or missing:", path)
    return int(total["equal"] != total["sequences"] or bool(left))


if __name__ == "__main__":
    sys.exit(main())
