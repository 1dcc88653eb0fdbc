"""Networks on grids in the common path of fit and predict."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import stpredict as stp
from stpredict.slots._prediction import prediction_frame

SMALL = {"width": 4, "levels": 2, "mixer_depth": 1}
QUICK = {"max_epochs": 3}


@pytest.fixture
def gridded(toy):
    stp.pp.grid(toy)
    return toy


def test_rows_stay_observations(gridded, tmp_path) -> None:
    train = (gridded.obs["patient"] != "p0").to_numpy()
    stp.tl.fit(gridded, "hist", train, hyperparameters=SMALL, training=QUICK, path=tmp_path / "m")
    stp.tl.predict(gridded, tmp_path / "m")
    frame = prediction_frame(gridded, "predicted")
    assert frame.shape == gridded.shape
    order = np.random.default_rng(0).permutation(gridded.n_obs)
    other = gridded[order].copy()
    stp.tl.predict(other, tmp_path / "m", batch_size=4)
    pd.testing.assert_frame_equal(prediction_frame(other, "predicted").loc[frame.index], frame, rtol=1e-3, atol=1e-4)


def test_the_lattice_of_the_data_decides_the_symmetries(gridded) -> None:
    record = gridded.uns["stpredict"]["grid"]["lattice"]
    options = {"hyperparameters": SMALL, "training": {"max_epochs": 1}}
    assert stp.tl.fit(gridded, "hist", **options).network.config.lattice == "square"
    for name in record:
        record[name] = "hex"
    assert stp.tl.fit(gridded, "hist", **options).network.config.lattice == "hex"
    given = options | {"hyperparameters": SMALL | {"lattice": "square"}}
    assert stp.tl.fit(gridded, "hist", **given).network.config.lattice == "square"
    record["s0"] = "square"
    assert stp.tl.fit(gridded, "hist", **options).network.config.augment is False


def test_cross_validation_compares_grids_and_spots(gridded) -> None:
    models = {
        "hist": {"model": "hist", "hyperparameters": SMALL, "training": QUICK},
        "shuffled": {"model": "hist", "hyperparameters": SMALL | {"shuffle": True}, "training": QUICK},
        "ridge": "ridge",
    }
    scores = stp.tl.cross_validate(gridded, models, ceiling=False, metrics=("pearson",))
    assert {"hist", "shuffled", "ridge"} <= set(scores["model"])
    values = scores.pivot_table(index=["sample", "gene"], columns="model", values="pearson")
    assert not np.allclose(values["hist"], values["shuffled"])


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (lambda a: a.obs.pop("grid_row"), KeyError, r"stp.pp.grid\(adata\)"),
        (lambda a: setattr(a, "obs", a.obs.assign(grid_col=0)), ValueError, "one observation in each cell"),
    ],
)
def test_bad_cells_are_refused(gridded, frozen, change, error, match) -> None:
    change(gridded)
    before = frozen(gridded)
    with pytest.raises(error, match=match):
        stp.tl.fit(gridded, "hist", hyperparameters=SMALL)
    assert frozen(gridded) == before


def test_a_rare_class_is_predicted_with_confidence(gridded) -> None:
    """A head that starts at zero on positive values learns one sign for all weights: no probability passed one half."""
    gridded.obs["rare"] = gridded.obsm["X_toy"][:, 0] > 0.8
    assert 0.1 < gridded.obs["rare"].mean() < 0.35
    training = {"max_epochs": 60, "patience": 0, "batch_size": 2, "learning_rate": 3e-3}
    stp.tl.fit(gridded, "hist", target="rare", hyperparameters=SMALL | {"width": 16}, training=training)
    stp.tl.predict(gridded)
    probability = gridded.obs["rare_probability"]
    assert probability[gridded.obs["rare"]].mean() > 0.7
    assert probability[~gridded.obs["rare"]].mean() < 0.3
