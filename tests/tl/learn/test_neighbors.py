"""Features of neighboring tiles: what is said of how they were made, and what they must not be."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp
from stpredict.models import get_model
from stpredict.slots._rows import rows_of
from stpredict.tl.learn._blocks import reach_um
from stpredict.tl.learn.inputs._features import Features
from stpredict.tl.learn.inputs._neighbors import Neighbors, in_units_of_sections
from stpredict.tl.learn.inputs._reader import Source

QUICK: dict[str, Any] = {
    "hyperparameters": "small", "training": {"max_epochs": 1, "patience": 0}, "baselines": False,
}  # fmt: skip


@pytest.fixture
def squares(toy: ad.AnnData) -> ad.AnnData:
    """Noise around every spot, with a record that somebody made it."""
    rng = np.random.default_rng(1)
    toy.obsm["X_toy_neighbors"] = rng.normal(size=(toy.n_obs, 25, 4)).astype(np.float32)
    toy.obsm["X_toy_neighbor_mask"] = np.ones((toy.n_obs, 25), dtype=bool)
    toy.uns["stpredict"]["X_toy_neighbors"] = {"encoder": "toy", "tile_um": 100.0}
    stp.pp.grid(toy)
    return toy


def fit(adata: ad.AnnData) -> stp.training.FittedModel:
    return stp.tl.fit(adata, "triplex", (adata.obs["patient"] != "p2").to_numpy(), **QUICK)


def marks(adata: ad.AnnData) -> set[str]:
    stp.tl.predict(adata, fit(adata))
    return set(adata.obs["predicted_leaky"][adata.obs["patient"] == "p2"].astype(str))


def test_what_nobody_recorded_makes_a_prediction_of_unknown_origin(squares: ad.AnnData) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert marks(squares) == {"False"}
    del squares.uns["stpredict"]["X_toy_neighbors"]
    with pytest.warns(UserWarning, match="wrote down how obsm\\['X_toy_neighbors'\\] was made"):
        assert marks(squares) == {"unknown"}


def test_a_measured_gene_in_the_middle_is_refused(squares: ad.AnnData) -> None:
    squares.obsm["X_toy_neighbors"][:, 12, 1] = 3 * squares.to_df()["G2"] - 1
    with pytest.raises(ValueError, match="measured gene G2 as feature 1 of obsm\\['X_toy_neighbors'\\]"):
        fit(squares)


@pytest.mark.parametrize(("name", "value"), [("encoder", "other"), ("tile_um", 50.0)])
def test_tiles_that_were_made_otherwise_than_the_features_are_refused(
    squares: ad.AnnData, name: str, value: Any
) -> None:
    squares.uns["stpredict"]["X_toy_neighbors"][name] = value
    with pytest.raises(
        ValueError, match=rf"made in the same way; found {name}: .* and {value!r}; run stp.pp.neighbor_"
    ):
        fit(squares)


@pytest.mark.parametrize("scaling", ["global", "section"])
def test_squares_are_in_the_units_of_the_features(squares: ad.AnnData, scaling: Any) -> None:
    """Where features are standardized within sections, a section that is stained otherwise gives the same inputs."""
    squares.obsm["X_toy_neighbors"][:, 12] = squares.obsm["X_toy"]
    squares.obsm["X_toy_neighbor_mask"][:, 3] = False

    def read(adata: ad.AnnData) -> tuple[np.ndarray, np.ndarray]:
        rows = rows_of(adata, np.ones(adata.n_obs, dtype=bool), sample_key="sample", patient_key="patient")
        source = Source(adata, adata, rows, None, ["X_toy"], scaling)
        found = Neighbors().read(source)
        assert not found["neighbors"][~found["neighbor_mask"]].any()
        return Features().read(source)["features"], found["neighbors"]

    features, neighbors = read(squares)
    np.testing.assert_allclose(neighbors[:, 12], features, rtol=1e-4, atol=1e-5)
    other = squares.copy()
    stained = (other.obs["sample"] == "s2").to_numpy()
    for slot in ("X_toy", "X_toy_neighbors"):
        other.obsm[slot][stained] = 3 * other.obsm[slot][stained] + 7
    same = np.allclose(read(other)[1], neighbors, rtol=1e-3, atol=1e-4)
    assert same == (scaling == "section")


def test_within_sections_the_units_are_those_of_the_training_side() -> None:
    rng = np.random.default_rng(0)
    values, mask = rng.normal(3, 2, (20, 9, 2)).astype(np.float32), rng.uniform(size=(20, 9)) < 0.9
    sample, by = np.repeat(["a", "b"], 10), np.arange(20) < 5
    scaled = in_units_of_sections(values, mask, sample, by)
    for rows, known in ((slice(0, 10), slice(0, 5)), (slice(10, 20), slice(10, 20))):
        mean, std = values[known, 4].mean(axis=0), values[known, 4].std(axis=0)
        wanted = np.where(mask[rows, :, None], (values[rows] - mean) / std, 0)
        np.testing.assert_allclose(scaled[rows], wanted, rtol=1e-4, atol=1e-4)


def test_what_a_network_sees_of_a_spot_is_as_wide_as_the_square(squares: ad.AnnData) -> None:
    info = get_model("triplex")
    task = SimpleNamespace(needs=info.reads(), slots=["X_toy"], info=info, options="small")
    assert reach_um(squares, task) is None  # nobody said how many tiles there are
    squares.uns["stpredict"]["X_toy_neighbors"]["grid"] = 5
    assert reach_um(squares, task) == 500


def test_a_grid_is_asked_for(squares: ad.AnnData) -> None:
    del squares.obs["grid_row"]
    with pytest.raises(KeyError, match="grid_row.*run stp.pp.grid"):
        fit(squares)


def test_drawings_are_asked_for(squares: ad.AnnData) -> None:
    with pytest.raises(KeyError, match="X_toy_edges.*run stp.pp.boundary_features\\(adata, 'toy'\\)"):
        stp.tl.fit(squares, "bg_triplex", **QUICK)
