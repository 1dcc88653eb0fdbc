"""Networks on whole sections through `fit`, `predict` and `cross_validate`: counts, positions, patients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import stpredict as stp
from stpredict.models import Batch, register
from stpredict.models.base._registry import MODELS
from stpredict.models.base._section import SectionPredictor

PANEL = ["G0002", "G0005", "G0001"]
SEEN: list[Batch] = []


@dataclass(frozen=True)
class Config:
    patch_um: float = 50.0
    patch_px: int = 8
    symmetries: bool = False
    stain_jitter: float = 0.0
    chunk: int = 64
    zinb: float = 0.25
    views: int = 0
    distill: float = 0.0


class Spy(SectionPredictor):
    """Mean color of each patch; keeps the batches it is given."""

    training_defaults = {"max_epochs": 1, "patience": 0}

    def __init__(self, config, shape):
        super().__init__(config, shape, n_hidden=3)
        self.layer = torch.nn.Linear(3, 3)

    def embed(self, images):
        return self.layer(images.mean(dim=(2, 3)))

    def relate(self, embedded, positions):
        return embedded

    def forward(self, batch):
        SEEN.append(batch)
        return super().forward(batch)


@pytest.fixture(autouse=True)
def registered() -> Iterator[None]:
    register("spy", config=Config, description="for these tests")(Spy)
    SEEN.clear()
    yield
    MODELS.remove("spy")


@pytest.fixture(scope="module")
def cohort():
    data = stp.datasets.synthetic_cohort(n_patients=3, n_sections=2, n_spots=40, n_genes=12)
    data.var_names = [f"G{i:04d}" for i in range(12)]
    stp.pp.normalize(data, method="log1p")
    return data


@pytest.fixture
def adata(cohort):
    return cohort.copy()


def fit(adata, train=None, **options):
    return stp.tl.fit(adata, "spy", train, target=PANEL, baselines=(), **options)


def rows_of(adata, batch):
    """The observations of a batch, recognized by their positions."""
    scale = adata.uns["spatial"][adata.obs["sample"].iloc[0]]["scalefactors"]["microns_per_pixel"]
    positions = np.asarray(adata.obsm["spatial"]) * scale
    found = [np.flatnonzero(np.abs(positions - xy).max(axis=1) < 1e-2) for xy in batch["positions"].numpy()]
    return np.array([rows[0] for rows in found if len(rows) == 1]), np.array([len(rows) == 1 for rows in found])


@pytest.mark.parametrize("size_factors", ["all", "panel"])
def test_counts_are_those_of_the_panel_and_size_factors_those_of_the_normalization(adata, size_factors):
    others = [f"G{i:04d}" for i in range(4)]
    stp.pp.normalize(
        adata, method="log1p", size_factors=size_factors, panel=others if size_factors == "panel" else None
    )
    train = (adata.obs["patient"] != "P1").to_numpy()
    fit(adata, train)
    counts = np.asarray(adata[:, PANEL].layers["counts"].todense())
    whole = adata if size_factors == "all" else adata[:, others]
    depth = np.asarray(whole.layers["counts"].sum(axis=1)).ravel()
    assert len(SEEN) == 4
    checked = 0
    for batch in SEEN:
        rows, unique = rows_of(adata, batch)
        np.testing.assert_array_equal(batch["counts"][unique], counts[rows])
        np.testing.assert_allclose(batch["size_factor"][unique], depth[rows] / np.median(depth[train]), rtol=1e-6)
        checked += len(rows)
    assert checked > 50


def test_cross_validation_reads_the_same_counts(adata):
    stp.tl.cross_validate(adata, "spy", target=PANEL, baselines=False)
    training = [batch for batch in SEEN if "counts" in batch]
    assert len(training) == 12  # four sections of each of three folds
    assert all(batch["counts"].shape == batch.target.shape for batch in training)
    assert sum("counts" not in batch for batch in SEEN) == 6


def test_without_counts_there_is_an_error_that_says_what_to_do(adata):
    del adata.layers["counts"]
    before = adata.copy()
    with pytest.raises(KeyError, match="zinb=0"):
        fit(adata)
    assert "model" not in adata.uns["stpredict"]
    np.testing.assert_array_equal(adata.X.toarray(), before.X.toarray())
    fit(adata, hyperparameters={"zinb": 0})
    assert all("counts" not in batch for batch in SEEN)


def test_positions_have_to_be_known_in_micrometers(adata):
    for section in adata.uns["spatial"].values():
        del section["scalefactors"]["microns_per_pixel"]
    with pytest.raises(ValueError, match="microns_per_pixel|µm"):
        fit(adata)
    assert not SEEN


def test_a_prediction_knows_the_patients_of_the_training_set_from_strangers(adata):
    model = fit(adata, (adata.obs["patient"] != "P2").to_numpy())
    assert model.training.patients == ["P1", "P3"]
    SEEN.clear()
    stp.tl.predict(adata, model)
    codes = {int(batch.patient[0]) for batch in SEEN}
    assert codes == {0, 1, -1}
    for batch in SEEN:
        rows, _ = rows_of(adata, batch)
        patient = adata.obs["patient"].iloc[rows].mode()[0]
        assert batch.patient.unique().tolist() == [{"P1": 0, "P2": -1, "P3": 1}[patient]]
