"""Features of neighboring tiles: what is said of how they were made, and what they must not be."""

from __future__ import annotations

import warnings
from typing import Any

import anndata as ad
import numpy as np
import pytest

import stpredict as stp

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


def test_a_grid_is_asked_for(squares: ad.AnnData) -> None:
    del squares.obs["grid_row"]
    with pytest.raises(KeyError, match="grid_row.*run stp.pp.grid"):
        fit(squares)


def test_drawings_are_asked_for(squares: ad.AnnData) -> None:
    with pytest.raises(KeyError, match="X_toy_edges.*run stp.pp.boundary_features\\(adata, 'toy'\\)"):
        stp.tl.fit(squares, "bg_triplex", **QUICK)
