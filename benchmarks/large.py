"""One large section: time and memory of what is done with it, each step in a process of its own.

    python benchmarks/large.py
    python benchmarks/large.py --sizes 25000 200000 --genes 500 --steps predict evaluate
    python benchmarks/large.py --sizes 4000 --genes 20000 --steps ridge mlp counts predict evaluate   # all genes of a section

A lattice of bins of 8 µm with smooth patterns, sparse counts and 64 image features. Memory is the most that the process held,
the object included; seconds are those of the processor. A step is linear where the time per bin is the same at both sizes.
"""

from __future__ import annotations

import os
from pathlib import Path

from children import options_of, run_steps, seconds_of

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("NUMBA_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

_N_FEATURES, _N_TRAINING, _N_EMD, _N_MAPS, _UM = 64, 4000, 30, 4, 8.0
STEPS = ("predict", "evaluate", "emd", "moran", "domains", "figures")
FITS = ("ridge", "mlp", "counts")  # on the section itself: log1p or residuals, those by a network of 3 epochs, counts


def made(n: int, n_genes: int, name: str, seed: int):
    """A section of n bins with smooth patterns that its features show."""
    import anndata as ad
    import numpy as np
    import pandas as pd
    from scipy import sparse

    import stpredict as stp

    rng = np.random.default_rng(0)  # the same genes and directions in every section
    direction = rng.normal(size=(_N_FEATURES, 12)).astype(np.float32)
    weight, rate = rng.normal(scale=0.25, size=(12, n_genes)), rng.lognormal(-1.5, 1.0, n_genes)
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(n)))
    row, column = np.divmod(np.arange(n), side)
    angles, phases = rng.uniform(0, 2 * np.pi, 12), rng.uniform(0, 2 * np.pi, 12)
    waves = np.linspace(2, 9, 12) * 2 * np.pi / side
    along = row[:, None] * np.cos(angles) + column[:, None] * np.sin(angles)
    pattern = np.sin(along * waves + phases)
    features = (pattern.astype(np.float32) @ direction.T) + rng.normal(0, 2, (n, _N_FEATURES)).astype(np.float32)
    depth = rng.lognormal(0, 0.3, n)
    blocks = [
        sparse.csr_matrix(rng.poisson(depth[part, None] * rate * np.exp(pattern[part] @ weight)).astype(np.float32))
        for part in np.array_split(np.arange(n), max(1, n // 5000))
    ]
    obs = pd.DataFrame({"sample": name, "patient": name, "array_row": row, "array_col": column}, dtype=object)
    obs = obs.astype({"sample": "category", "patient": "category", "array_row": int, "array_col": int})
    obs.index = [f"{name}_{number}" for number in range(n)]
    counts = sparse.vstack(blocks, format="csr")
    adata = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{number}" for number in range(n_genes)]))
    adata.obsm["X_made"] = features
    adata.obsm["spatial"] = np.stack([column, row], axis=1) * _UM
    adata.uns["spatial"] = {name: {"scalefactors": {"microns_per_pixel": 1.0, "spot_diameter_fullres": _UM}}}
    adata.obs["in_tissue"] = True
    stp.pp.normalize(adata)
    return adata


def prepare(folder: Path, n: int, n_genes: int) -> None:
    """Write the section, and a model that was fitted on another patient."""
    import stpredict as stp

    stp.tl.fit(
        made(_N_TRAINING, n_genes, "training", 1), "ridge", features="X_made", baselines=False, path=folder / "model"
    )
    made(n, n_genes, "large", 2).write_h5ad(folder / "section.h5ad")


def run(step: str, folder: Path) -> float:
    """Seconds of the processor of one step on the section of a folder."""
    import anndata as ad

    import stpredict as stp

    stp.settings.progress = False
    adata = ad.read_h5ad(folder / ("section.h5ad" if step in ("predict", *FITS) else "predicted.h5ad"))
    seconds = seconds_of(lambda: call(step, adata, folder))
    if step == "predict":
        adata.write_h5ad(folder / "predicted.h5ad")
    return seconds


def call(step: str, adata, folder: Path) -> None:
    """What a step times."""
    import stpredict as stp

    if step in FITS:
        options = {"target": stp.targets.Counts()} if step == "counts" else {}
        training = {"max_epochs": 3} if step == "mlp" else None
        name = "mlp" if step == "mlp" else "ridge"
        stp.tl.fit(adata, name, features="X_made", baselines=False, path=folder / step, training=training, **options)
    elif step == "predict":
        stp.tl.predict(adata, folder / "model")
    elif step == "evaluate":
        stp.tl.evaluate(adata)
    elif step == "emd":
        stp.tl.emd(adata, genes=list(adata.var_names[:_N_EMD]))
    elif step == "moran":
        stp.pp.spatially_variable(adata)
    elif step == "domains":
        stp.tl.domains(adata)
    else:
        figure(stp.pl.maps(adata, list(adata.var_names[:_N_MAPS]))).savefig(folder / "maps.pdf")
        adata.obs["domain"] = [str(8 * row // (adata.obs["array_row"].max() + 1)) for row in adata.obs["array_row"]]
        figure(stp.pl.domains(adata)).savefig(folder / "domains.pdf")


def figure(axes):
    """The figure of what a function of stp.pl returned."""
    import numpy as np

    return np.ravel(axes)[0].figure


def work(step: str, folder: Path, size: int, n_genes: int) -> tuple[int, float] | None:
    """A step in a process of its own."""
    if step == "prepare":
        prepare(folder, size, n_genes)
        return None
    return size, run(step, folder)


def main() -> None:
    options = options_of(__doc__, [25_000, 200_000], 500, STEPS, FITS + STEPS)

    def steps_in(folder: Path) -> list[str]:
        steps = [*([] if (folder / "section.h5ad").exists() else ["prepare"]), *options.steps]
        if "predict" not in steps and set(steps) & set(STEPS) and not (folder / "predicted.h5ad").exists():
            steps.insert(next(i for i, step in enumerate(steps) if step in STEPS), "predict")
        return steps

    run_steps(__file__, options, "bins", steps_in, work)


if __name__ == "__main__":
    main()
