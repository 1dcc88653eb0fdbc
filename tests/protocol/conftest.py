"""Every network of these tests lives in one file, and goes through all that a network goes through."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.models.base._registry import MODELS, register


@pytest.fixture(scope="session")
def registered() -> Callable[..., Any]:
    """Register a network for as long as the tests of its file run."""

    @contextmanager
    def registering(name: str, cls: type, config: type) -> Iterator[None]:
        register(name, config=config, description="for these tests")(cls)
        yield
        MODELS.remove(name)

    return registering


@pytest.fixture
def trip(toy: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., stp.training.FittedModel]:
    """Fit, predict, save, load, resume and cross-validate a network on three patients; return the fitted model."""

    def go(name: str, adata: ad.AnnData = toy, **training: Any) -> stp.training.FittedModel:
        train = (adata.obs["patient"] != "p2").to_numpy()
        options: dict[str, Any] = {"training": {"max_epochs": 4} | training, "baselines": False}
        model = stp.tl.fit(adata, name, train, path=tmp_path / name, **options)
        stp.tl.predict(adata, model)
        first = adata.obsm["predicted"].copy()
        assert np.isfinite(first).all(axis=None)

        stp.tl.predict(adata, stp.training.FittedModel.load(tmp_path / name))
        np.testing.assert_array_equal(adata.obsm["predicted"], first)

        # Stopped in the middle of training, the same call goes on to the same weights.
        steps: list[int] = []
        step = MODELS.get(name).cls.step

        def stopping(self: Any, batch: Any, stage: Any) -> Any:
            steps.append(1)
            if len(steps) == 3 * len(MODELS.get(name).cls.stages):
                raise KeyboardInterrupt
            return step(self, batch, stage)

        monkeypatch.setattr(MODELS.get(name).cls, "step", stopping)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            stp.tl.fit(adata, name, train, checkpoint_dir=tmp_path / "checkpoints", **options)
        monkeypatch.setattr(MODELS.get(name).cls, "step", step)
        resumed = stp.tl.fit(adata, name, train, checkpoint_dir=tmp_path / "checkpoints", **options)
        for ours, theirs in zip(resumed.network.parameters(), model.network.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)

        scores = stp.tl.cross_validate(
            adata, {name: {"model": name, "training": options["training"]}}, metrics=("pearson",), ceiling=False
        )
        assert set(scores["model"]) >= {name, "mean", "ridge"}
        assert not scores["leaky"].any()
        assert np.isfinite(adata.obsm[f"predicted_{name}"]).all(axis=None)
        return model

    return go
