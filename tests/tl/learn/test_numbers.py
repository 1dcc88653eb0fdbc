"""Numbers that a model must not be fitted on, or that it must not be led astray by."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import stpredict as stp
from stpredict.slots._provenance import write_record

QUICK = {
    "mlp": {"training": {"max_epochs": 8, "learning_rate": 0.05}, "hyperparameters": {"hidden": 8, "dropout": 0.0}},
    "hist": {"training": {"max_epochs": 4}, "hyperparameters": {"width": 4, "levels": 1, "mixer_depth": 0}},
    "egn": {"training": {"max_epochs": 2}, "hyperparameters": {"hidden": 8, "layers": 1}},
    "bleep": {
        "training": {"max_epochs": 2},
        "hyperparameters": {"image_encoder": "features", "k": 3, "n_embedding": 8},
    },
}
MODELS = ["ridge", *QUICK]


def train_mask(adata: Any) -> np.ndarray:
    return (adata.obs["patient"] != "p2").to_numpy()


def fitted(adata: Any, model: str, **options: Any) -> Any:
    if model == "hist":
        stp.pp.grid(adata)
    return stp.tl.fit(adata, model, train_mask(adata), baselines=False, **QUICK.get(model, {}), **options)


def predicted(adata: Any, model: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stp.tl.predict(adata, model)
    return stp.get.predicted(adata).X


NEARLY = {
    "1 ± 1e-6, then 2": (lambda rng: 1 + 1e-6 * rng.normal(size=72), 2.0),
    "a constant, then 1e6": (lambda rng: np.full(72, 0.3), 1e6),
    "0, then -1e30": (lambda rng: np.zeros(72), -1e30),
    "-4e5 ± 1, then 0": (lambda rng: -4e5 + rng.normal(size=72), 0.0),
}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("case", NEARLY)
def test_what_hardly_varied_in_training_says_nothing_later(toy, model: str, case: str) -> None:
    make, later = NEARLY[case]
    column = make(np.random.default_rng(1))
    toy.obsm["X_toy"] = np.column_stack([toy.obsm["X_toy"], column]).astype(np.float32)
    network = fitted(toy, model)
    test = toy[~train_mask(toy)].copy()
    before = predicted(test, network)
    test.obsm["X_toy"][:, -1] = later
    np.testing.assert_allclose(predicted(test, network), before, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ["ridge", "mlp"])
@pytest.mark.parametrize("size", [1e-30, 1e-12, 1e12])
def test_the_unit_of_a_feature_does_not_matter(toy, model: str, size: float) -> None:
    other = toy.copy()
    other.obsm["X_toy"] = (toy.obsm["X_toy"].astype(np.float64) * size).astype(np.float32)
    plain, scaled = (predicted(each, fitted(each, model)) for each in (toy, other))
    assert plain.std(axis=0).min() > 0.01
    np.testing.assert_allclose(scaled, plain, rtol=2e-3, atol=2e-3)


def test_features_constant_within_sections_say_nothing_to_what_is_centered_on_them(toy) -> None:
    code = toy.obs["sample"].cat.codes if hasattr(toy.obs["sample"], "cat") else toy.obs["sample"].str[1:].astype(int)
    toy.obsm["X_toy"] = np.column_stack([toy.obsm["X_toy"], 5.0 * (-1.0) ** code.to_numpy()]).astype(np.float32)
    model = stp.tl.fit(toy, "ridge", train_mask(toy), hyperparameters={"center": "section"}, baselines=False)
    assert (model.network.weight[-1] == 0).all()
    assert (model.network.weight[0] != 0).all()


def test_a_feature_far_from_its_training_is_warned_about(toy) -> None:
    """It varied in training, by a thousandth; what is learned about it is taken as it is, and said."""
    column = 1 + 1e-3 * np.random.default_rng(1).normal(size=72)
    toy.obsm["X_toy"] = np.column_stack([toy.obsm["X_toy"], column]).astype(np.float32)
    for model in ("ridge", "mlp"):
        network = fitted(toy, model, features={"scaling": "global"})  # within its section it would be one of many
        test = toy[~train_mask(toy)].copy()
        predicted(test, network)
        test.obsm["X_toy"][3:5, -1] = 1e5
        with pytest.warns(
            UserWarning, match=rf"'{model}' predicts 2 of 24 observations more than 100 .*G\d: -?\d.*e\+"
        ):
            stp.tl.predict(test, network)
    toy.obsm["X_toy"][-1, -1] = 1e5
    with pytest.warns(UserWarning, match="'ridge' predicts 1 of 24"):
        stp.tl.cross_validate(
            toy, ["ridge"], features={"scaling": "global"}, metrics=["pearson"], baselines=False, ceiling=False
        )


def test_predictions_that_are_no_numbers_are_refused(toy, frozen) -> None:
    model = fitted(toy, "ridge")
    model.network.weight[0] = 3e38
    before = frozen(toy)
    with pytest.raises(ValueError, match="expected finite predictions of model 'ridge'; found NaN or infinity in"):
        stp.tl.predict(toy, model)
    assert frozen(toy) == before


FEATURES: dict[str, Callable[[np.ndarray], Any]] = {
    "half precision": lambda x: x.astype(np.float16),
    "objects": lambda x: x.astype(object),
    "booleans": lambda x: x > 0,
    "integers": lambda x: (10 * x).astype(np.int8),
    "sparse": sparse.csr_matrix,
    "frame": lambda x: pd.DataFrame(x, index=[f"o{i}" for i in range(len(x))]).astype("Float64"),
}
NO_NUMBERS: dict[str, tuple[Callable[[np.ndarray], Any], type[Exception], str]] = {
    "complex": (lambda x: x + 1j, TypeError, "complex numbers"),
    "text": (lambda x: x.astype(str).astype(object), TypeError, r"objects such as '.*' \(str\)"),
    "objects": (lambda x: np.where(x > 0, None, [[{}]]), TypeError, "objects such as {}"),
    "dates": (lambda x: (1e3 * x).astype("datetime64[s]"), TypeError, "datetime64"),
    "too large": (lambda x: x.astype(np.float64) * 1e300, ValueError, "float32"),
    "infinite": (lambda x: np.where(x > 1, np.inf, x), ValueError, "NaN or infinity"),
}


@pytest.mark.parametrize("kind", FEATURES)
def test_features_and_targets_of_any_number_type(toy, kind: str) -> None:
    features, layer = toy.obsm["X_toy"].copy(), np.asarray(toy.X).copy()
    toy.obsm["X_toy"], toy.layers["log"] = FEATURES[kind](features), FEATURES[kind](layer)
    if kind == "frame":
        toy.layers["log"] = layer.astype(np.float64)
    target = stp.targets.Expression(layer="log")
    model = stp.tl.fit(toy, "ridge", train_mask(toy), target=target, baselines=False)
    as_floats = lambda values: np.asarray(values.toarray() if sparse.issparse(values) else values, dtype=np.float32)
    toy.obsm["X_toy"], toy.layers["log"] = (as_floats(v) for v in (toy.obsm["X_toy"], toy.layers["log"]))
    same = stp.tl.fit(toy, "ridge", train_mask(toy), target=target, baselines=False)
    np.testing.assert_allclose(model.network.weight, same.network.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", NO_NUMBERS)
@pytest.mark.parametrize("where", ["features", "layer", "bag", "counts", "neighbors"])
def test_what_are_no_numbers_is_named(toy, slides, where: str, kind: str) -> None:
    make, error, message = NO_NUMBERS[kind]
    if where == "bag":
        values = make(slides.obsm["X_toy_bag"].reshape(24, -1)).reshape(slides.obsm["X_toy_bag"].shape)
        slides.obsm["X_toy_bag"] = values
        fit = lambda: stp.tl.fit(slides, "he2rna", baselines=False)
    elif where == "features":
        toy.obsm["X_toy"] = make(toy.obsm["X_toy"])
        fit = lambda: stp.tl.fit(toy, "ridge", baselines=False)
    elif where == "layer":
        toy.layers["log"] = make(np.asarray(toy.X))
        fit = lambda: stp.tl.fit(toy, "ridge", target=stp.targets.Expression(layer="log"), baselines=False)
    elif where == "counts":
        toy.X = make(np.asarray(toy.layers["counts"]))
        del toy.layers["counts"]
        fit = lambda: stp.pp.normalize(toy)
        message = {"infinite": "infinity"}.get(kind, message)
    else:
        from stpredict.tl.learn.inputs._neighbors import Neighbors
        from stpredict.tl.learn.inputs._reader import Source

        values = toy.obsm["X_toy"]
        toy.obsm["X_toy_neighbors"] = make(values)[:, None]
        toy.obsm["X_toy_neighbor_mask"] = np.ones((72, 1), dtype=bool)
        rows = type("Rows", (), {"index": np.arange(72)})()
        source = Source(data=toy, adata=toy, rows=rows, config=None, slots=["X_toy"], scaling="global")
        fit = lambda: Neighbors().read(source)
    with pytest.raises(error, match=message):
        fit()


def test_masks_of_complex_numbers_and_dates_are_no_booleans(toy) -> None:
    for values in (np.ones(72) + 0j, pd.date_range("2020", periods=72)):
        toy.obs["measured"] = values
        with pytest.raises(TypeError, match=r"expected obs\['measured'\] to be boolean"):
            stp.tl.fit(toy, "ridge", baselines=False)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.ones(24) + 1j, "complex"),
        (pd.date_range("2020", periods=24), "datetime64"),
        (pd.timedelta_range("1d", periods=24), "timedelta64"),
        (np.full(24, 1e300), "float32"),
        ([f"{i} days" for i in range(24)], "'0 days'"),
    ],
    ids=["complex", "dates", "spans", "too large", "text"],
)
def test_follow_up_that_is_no_number_is_named(slides, values: Any, message: str) -> None:
    slides.obs["time"] = values
    with pytest.raises(ValueError, match=rf"times in obs\['time'\].*{message}"):
        stp.tl.fit(slides, "sequoia", target=stp.targets.FollowUp())


def test_features_of_a_slides_tiles_are_read_by_the_same_door() -> None:
    import anndata as ad

    from stpredict.slots._features import feature_matrix

    tiles = ad.AnnData(np.ones((3, 2)) + 1j, obs=pd.DataFrame({"tile_id": [0, 1, 2]}, index=list("abc")))
    write_record(tiles, "X_toy", {"encoder": "toy"})
    with pytest.raises(TypeError, match="complex"):
        feature_matrix(tiles, "X_toy")
