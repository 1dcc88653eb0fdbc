"""Kinds of models: saved ones, those of outcomes, published weights, checkpoints."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData

import stpredict as stp

from ._kind import Answer, Kind

WARM = ("safetensors.torch", "lightning.pytorch", "stpredict.training._loop")

QUICK = {"max_epochs": 1}


def cohort() -> AnnData:
    """Three patients with two sections of 12 spots each, 5 genes that follow 4 features; normalized."""
    rng = np.random.default_rng(0)
    n = 72
    features = rng.normal(size=(n, 4)).astype(np.float32)
    counts = rng.poisson(np.exp(1.5 + features @ (0.4 * rng.normal(size=(4, 5))))).astype(np.float32)
    section = np.arange(n) // 12
    obs = pd.DataFrame(
        {
            "sample": [f"s{i}" for i in section],
            "patient": [f"p{i // 2}" for i in section],
            "array_row": np.arange(n) % 12 // 4,
            "array_col": np.arange(n) % 4,
        },
        index=[f"o{i}" for i in range(n)],
    )
    adata = AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(5)]))
    adata.obsm["spatial"] = obs[["array_col", "array_row"]].to_numpy() * 100.0 + 50
    adata.obsm["X_toy"] = features
    adata.uns["spatial"] = {f"s{i}": {"scalefactors": {"microns_per_pixel": 0.5}} for i in range(6)}
    adata.uns["stpredict"] = {
        "X_toy": {"encoder": "toy", "tile_um": 100.0, "microns_per_pixel": {f"s{i}": 0.5 for i in range(6)}}
    }
    stp.pp.normalize(adata)
    return adata


def _of_model(model: Any) -> Answer:
    """Everything of a model that its user may use, and what it predicts for one input."""
    import torch

    from stpredict.models import Batch

    none = torch.zeros(3, dtype=torch.long)
    x = torch.linspace(-1, 1, 3 * 4).reshape(3, 4)
    with torch.no_grad():
        mean = model.network.eval()(Batch(none, none, {"features": x})).mean.numpy()
    return {
        "model": model.model,
        "panel": list(model.panel),
        "target": model.target.to_dict(),
        "features": model.features,
        "training": asdict(model.training),
        "history": model.history.to_csv(),
        "mean": mean,
        "baselines": {name: _of_model(baseline) for name, baseline in model.baselines.items()},
    }


def _write_model(folder: Path) -> None:
    stp.tl.fit(cohort(), "mlp", features="toy", training=QUICK, baselines=["ridge", "mean"], path=folder / "model")


def _read_model(folder: Path) -> Answer:
    model = stp.training.FittedModel.load(folder / "model")
    adata = cohort()
    stp.tl.predict(adata, model)
    return {"model": _of_model(model), "predicted": np.asarray(stp.get.predicted(adata).X)}


def _slides() -> tuple[AnnData, dict[str, AnnData]]:
    """Patients with one slide each, and its map."""
    rng = np.random.default_rng(0)
    n = 24
    hidden = rng.normal(size=n)
    response = pd.Categorical(np.where(hidden > 0, "yes", "no"), ["yes", "no"])
    obs = pd.DataFrame({"patient": [f"P{i}" for i in range(n)], "response": response}, [f"S{i}" for i in range(n)])
    obs["age"], obs["stage"] = rng.normal(60, 10, n), rng.choice(["I", "II"], n)
    maps = {}
    for name, shift in zip(obs.index, hidden, strict=True):
        row, col = np.mgrid[:6, :5].reshape(2, -1)
        cells = pd.DataFrame({"sample": name, "grid_row": row, "grid_col": col}, [f"{i}" for i in range(30)])
        values = rng.normal(5, 2, size=(30, 2)) + [2 * shift, 0]
        maps[name] = AnnData(obs=cells, obsm={"predicted": pd.DataFrame(values, cells.index, ["g0", "g1"])})
        maps[name].uns["stpredict"] = {
            "grid": {"lattice": {name: "square"}},
            "predicted": {"model": "hist", "seed": 0},
        }
    return AnnData(obs=obs), maps


def _write_outcome(folder: Path) -> None:
    slides, maps = _slides()
    stp.tl.fit_outcome(
        slides, "response", maps=maps, clinical=["age", "stage"], n_folds=(2, 2), training=QUICK,
        hyperparameters={"depths": (1,), "dims": (4,)}, baselines=["clinical", "mean map"],
    ).save(folder / "outcome")  # fmt: skip


def _read_outcome(folder: Path) -> Answer:
    result = stp.tl.OutcomeResult.load(folder / "outcome")
    slides, maps = _slides()
    stp.tl.predict_outcome(slides, result, maps=maps, device="cpu")
    tables = {name: getattr(result, name).to_csv() for name in ("scores", "predictions", "history")}
    facts = asdict(result.model.training)
    return tables | {"training": facts, "obs": slides.obs.to_csv(), "target": result.model.target.to_dict()}


def _write_published(folder: Path) -> None:
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, rows, columns in (("conv0", 8, 16), ("conv1", 8, 8), ("conv2", 3, 8)):
        state[f"{name}.weight"] = torch.randn(rows, columns, 1, generator=generator)
        state[f"{name}.bias"] = torch.randn(rows, generator=generator)
    save_file(state, folder / "model.safetensors")
    torch.save(state, folder / "weights.pt")
    torch.save({"state_dict": state}, folder / "old.bin", _use_new_zipfile_serialization=False)
    (folder / "genes.txt").write_text("gene\nERBB2\nGATA3\nESR1\n")


def _read_published(folder: Path) -> Answer:
    import torch

    from stpredict.models import Batch

    found = {}
    none, tokens = torch.zeros(2, dtype=torch.long), torch.linspace(-1, 1, 2 * 4 * 16).reshape(2, 4, 16)
    for name in ("model.safetensors", "weights.pt", "old.bin"):
        model = stp.training.load_published("he2rna", folder / name, genes=folder / "genes.txt")
        with torch.no_grad():
            mean = model.network(Batch(none, none, {"tokens": tokens, "token_size": torch.ones(2, 4)})).mean.numpy()
        found[name] = {"panel": model.panel, "mean": mean}
    return found


class _Stop(Exception):
    """An interruption."""


def _fit(folder: Path, *, stop: bool = False) -> Any:
    from stpredict.training import _checkpoints

    def save(self: Any, trainer: Any, pl_module: Any) -> None:
        whole(self, trainer, pl_module)
        raise _Stop

    whole = _checkpoints.LastCheckpoint.on_train_epoch_end
    try:
        if stop:
            _checkpoints.LastCheckpoint.on_train_epoch_end = save  # type: ignore[method-assign]
        return stp.tl.fit(
            cohort(), "mlp", features="toy", training={"max_epochs": 2, "refit": False}, baselines=False,
            checkpoint_dir=folder / "checkpoints",
        )  # fmt: skip
    finally:
        _checkpoints.LastCheckpoint.on_train_epoch_end = whole  # type: ignore[method-assign]


def _write_checkpoint(folder: Path) -> None:
    with suppress(_Stop):
        _fit(folder, stop=True)


KINDS = (
    Kind("saved model", _write_model, _read_model, ("model/**/*",), 130, sealed=True),
    Kind("outcome model", _write_outcome, _read_outcome, ("outcome/**/*",), 50, sealed=True),
    Kind("published weights", _write_published, _read_published, ("*",), 120),
    Kind(
        "checkpoint",
        _write_checkpoint,
        lambda f: _of_model(_fit(f)),
        ("checkpoints/**/*",),
        20,
        sealed=True,
        rewrites=True,
    ),
)
