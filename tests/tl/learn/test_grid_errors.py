"""What dense maps, regions and outcomes refuse: the message, and an object left as it was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import stpredict as stp

SMALL = {"width": 4, "levels": 2, "mixer_depth": 1}
ONCE = {"max_epochs": 1, "patience": 0}


@pytest.fixture
def refused(frozen) -> Callable[..., None]:
    def check(adata, call, error, match) -> None:
        before = frozen(adata)
        with pytest.raises(error, match=match):
            call(adata)
        assert frozen(adata) == before

    return check


@pytest.fixture
def gridded(toy):
    stp.pp.grid(toy)
    return toy


def fit(adata, **options):
    options = {"hyperparameters": SMALL, "training": ONCE, "baselines": ()} | options
    return stp.tl.fit(adata, "hist", **options)


def test_two_observations_in_one_cell(gridded, refused) -> None:
    twins = gridded.copy()
    twins.obs.iloc[1, [twins.obs.columns.get_loc(k) for k in ("array_row", "array_col")]] = 0
    for key in ("grid_row", "grid_col"):
        del twins.obs[key]
    for copy in (False, True):
        refused(
            twins,
            lambda a, copy=copy: stp.pp.grid(a, copy=copy),
            ValueError,
            "one observation in each cell of section 's0'; found 'o0' and 'o1' in one",
        )
    model = fit(gridded)
    gridded.obs.loc["o1", ["grid_row", "grid_col"]] = gridded.obs.loc["o0", ["grid_row", "grid_col"]]
    for call in (fit, lambda a: stp.tl.predict(a, model), lambda a: stp.tl.attribution(a, model, "G0")):
        refused(gridded, call, ValueError, r"one observation in each cell of a section's grid; found 1 that share one")


def test_lattice_that_is_none(toy, refused) -> None:
    for key in ("array_row", "array_col"):
        del toy.obs[key]
    toy.obs["sample"] = toy.obs["patient"] = "s0"
    toy.obsm["spatial"] = np.random.default_rng(0).random((toy.n_obs, 2)) * 1000
    refused(toy, stp.pp.grid, ValueError, "square or hexagonal lattice of pixel positions in section 's0'; found dir")
    refused(toy, lambda a: stp.pp.grid(a, lattice="hex"), ValueError, "expected a hexagonal lattice")


def test_grid_smaller_than_the_depth_allows(gridded, refused) -> None:
    match = r"at least 16 cells along the longer side for levels=5; found 3 x 4; pass levels=3 or less"
    refused(gridded, lambda a: fit(a, hyperparameters={"width": 4, "mixer_depth": 1}), ValueError, match)
    model = fit(gridded, hyperparameters=SMALL | {"levels": 3})
    one = gridded[(gridded.obs["sample"] == "s0") & (gridded.obs[["grid_row", "grid_col"]] < 2).all(axis=1)].copy()
    for call in (lambda a: stp.tl.predict(a, model), lambda a: stp.tl.attribution(a, model, "G0")):
        refused(one, call, ValueError, r"at least 4 cells .* levels=3; found 2 x 2; pass levels=2 or less")


def test_class_absent_from_training(gridded, refused) -> None:
    train = (gridded.obs["patient"] != "p0").to_numpy()
    gridded.obs["region"] = np.where(train, np.where(gridded.obs["array_row"] > 0, "gland", "fat"), "tumor")
    refused(gridded, lambda a: fit(a, train=train, target="region"), ValueError, "found none of tumor")
    gridded.obs["tumor"] = ~train
    refused(gridded, lambda a: fit(a, train=train, target="tumor"), ValueError, "found none of True")


@pytest.mark.parametrize(
    ("target", "clinical", "found"),
    [
        (None, "time", "time"),
        (stp.targets.FollowUp("time", "event"), ["age", "event"], "event"),
        ("response", "response", "response"),
    ],
)
def test_outcome_among_the_covariates(refused, target, clinical, found: str) -> None:
    import anndata as ad
    import pandas as pd

    rng = np.random.default_rng(0)
    n = 40
    obs = pd.DataFrame(
        {
            "patient": [f"p{i}" for i in range(n)],
            "time": rng.exponential(size=n),
            "event": rng.random(n) < 0.6,
            "response": rng.random(n) < 0.5,
            "age": rng.normal(60, 10, n),
        },
        index=[f"s{i}" for i in range(n)],
    )
    slides = ad.AnnData(np.zeros((n, 1), np.float32), obs=obs)
    maps = {name: rng.normal(size=(2, 8, 8)) for name in obs.index}
    refused(
        slides,
        lambda a: stp.tl.fit_outcome(a, target, maps=maps, clinical=clinical),
        ValueError,
        f"known before the outcome; found {found}",
    )
