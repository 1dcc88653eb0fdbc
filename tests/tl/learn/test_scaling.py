"""How features are scaled where nobody says."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import stpredict as stp

AS_THEY_ARE = {"scaling": "global"}


def predicted(adata, model) -> np.ndarray:
    changed = stp.tl.predict(adata, model, copy=True)
    return np.asarray(stp.get.predicted(changed).X)


@pytest.fixture
def train(toy) -> np.ndarray:
    return (toy.obs["patient"] != "p0").to_numpy()


@pytest.mark.parametrize("network", ["ridge", "mlp"])
def test_features_of_spots_are_standardized_within_sections(toy, train, network) -> None:
    options = {"training": {"max_epochs": 2}} if network == "mlp" else {}
    model = stp.tl.fit(toy, network, train, **options)
    plain = stp.tl.fit(toy, network, train, features=AS_THEY_ARE, **options)
    assert (model.features["scaling"], plain.features["scaling"]) == ("section", "global")
    assert all(part.features["scaling"] == "section" for part in model.baselines.values() if part.features["slots"])
    # Another stain of a whole section changes nothing but for a model that takes features as they are.
    stained = toy.copy()
    section = (toy.obs["sample"] == toy.obs["sample"].iloc[0]).to_numpy()
    stained.obsm["X_toy"][section] = stained.obsm["X_toy"][section] * 3 - 7
    np.testing.assert_allclose(predicted(stained, model), predicted(toy, model), atol=1e-4)
    assert np.abs(predicted(stained, plain) - predicted(toy, plain)).max() > 0.1


def test_features_of_slides_are_taken_as_they_are(slides) -> None:
    for network in ("ridge", "he2rna"):
        training = {} if network == "ridge" else {"training": {"max_epochs": 1}}
        model = stp.tl.fit(slides, network, baselines=False, **training)
        assert model.features["scaling"] == "global"
    assert predicted(slides, stp.tl.fit(slides, "ridge", baselines=False)).std(axis=0).min() > 0


def test_few_observations_of_a_section_are_warned_about(toy, train) -> None:
    model = stp.tl.fit(toy, "ridge", train)
    few = toy[[*np.flatnonzero(train)[:9]]].copy()
    with pytest.warns(UserWarning, match="has 9 observations, by which its features are standardized"):
        stp.tl.predict(few, model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stp.tl.predict(toy, model)
        stp.tl.predict(few, stp.tl.fit(toy, "ridge", train, features=AS_THEY_ARE))
