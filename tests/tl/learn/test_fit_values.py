"""Numbers of observations as the target: scores, fractions, proteins."""

from __future__ import annotations

import warnings
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import stpredict as stp
from stpredict.slots._prediction import prediction_frame
from stpredict.slots._values import read_values
from stpredict.targets import Values

QUICK: dict[str, Any] = {
    "ridge": {},
    "mlp": {"hyperparameters": {"hidden": 16, "dropout": 0.0}, "training": {"max_epochs": 40, "learning_rate": 0.02}},
    "hist": {
        "hyperparameters": {"width": 4, "levels": 1, "mixer_depth": 0}, "training": {"max_epochs": 4},
    },
    "egn": {"hyperparameters": {"hidden": 8, "layers": 1}, "training": {"max_epochs": 2}},
}  # fmt: skip


@pytest.fixture
def valued(toy: ad.AnnData) -> ad.AnnData:
    """Values that follow the features: fractions of three cell types, two scores, an area above 0, and no expression."""
    rng = np.random.default_rng(3)
    outputs = toy.obsm["X_toy"] @ rng.normal(size=(4, 3)) + 0.3 * rng.normal(size=(72, 3))
    share = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    share = np.array([rng.multinomial(10, row) for row in share]) / 10
    bare = ad.AnnData(obs=toy.obs.drop(columns="measured", errors="ignore"), uns={"spatial": toy.uns["spatial"]})
    bare.obsm["spatial"], bare.obsm["X_toy"] = toy.obsm["spatial"], toy.obsm["X_toy"]
    bare.uns["stpredict"] = {"X_toy": toy.uns["stpredict"]["X_toy"]}
    bare.obsm["fractions"] = pd.DataFrame(share, bare.obs_names, ["tumor", "stroma", "fat"])
    bare.obsm["scores"] = outputs[:, :2]
    bare.uns["scores_names"] = ["OPC", "hypoxia"]
    bare.obs["area"], bare.obs["age"] = np.exp(outputs[:, 0]), outputs[:, 1]
    return bare


def train_mask(adata: ad.AnnData) -> np.ndarray:
    return (adata.obs["patient"] != "p0").to_numpy()


@pytest.mark.parametrize("model", QUICK)
def test_fractions_sum_to_one_for_every_kind_of_network(valued: ad.AnnData, model: str) -> None:
    if model == "hist":
        stp.pp.grid(valued)
    fitted = stp.tl.fit(valued, model, train_mask(valued), target="fractions", **QUICK[model])
    assert fitted.target.to_dict()["link"] == "softmax"
    stp.tl.predict(valued, fitted)
    frame = prediction_frame(valued, "predicted")
    assert list(frame) == ["tumor", "stroma", "fat"]
    for slot in ("predicted", "predicted_baseline_mean"):
        values = valued.obsm[slot]
        assert values.min() >= 0
        np.testing.assert_allclose(values.sum(axis=1), 1, rtol=1e-5)
    # What knows nothing predicts the training mean of the fractions, and not that of their logarithms.
    known = valued.obsm["fractions"][train_mask(valued)]
    np.testing.assert_allclose(valued.obsm["predicted_baseline_mean"][0], known.mean(), rtol=1e-4)
    if model in {"ridge", "mlp"}:
        scores = (
            stp.tl.evaluate(valued[~train_mask(valued)].copy(), metrics=["pearson", "rmse"])
            .groupby("model")
            .mean(numeric_only=True)
        )
        assert scores.loc[model, "pearson"] > 0.5
        assert scores.loc[model, "rmse"] < scores.loc["mean", "rmse"]


CASES: dict[str, tuple[Any, list[str], str, tuple[float, float]]] = {
    "slot": ("scores", ["OPC", "hypoxia"], "identity", (-np.inf, np.inf)),
    "column": ("area", ["area"], "identity", (-np.inf, np.inf)),
    "columns": (["area", "age"], ["area", "age"], "identity", (-np.inf, np.inf)),
    "above zero": (Values("area", link="log", units="µm²"), ["area"], "log", (0, np.inf)),
    "each a fraction": (
        Values(obsm="fractions", columns=["fat", "tumor"], link="logit"), ["fat", "tumor"], "logit", (0, 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_one_call_knows_the_target_of_the_last(valued: ad.AnnData, tmp_path: Any, case: str) -> None:
    target, names, link, (low, high) = CASES[case]
    train = train_mask(valued)
    fitted = stp.tl.fit(valued, "ridge", train, target=target, path=tmp_path / "model")
    assert fitted.panel == names
    assert fitted.target.to_dict()["link"] == link
    stp.tl.predict(valued, tmp_path / "model")  # as it was saved
    values = valued.obsm["predicted"]
    assert low <= values.min()
    assert values.max() <= high
    found = stp.get.predicted(valued)
    assert list(found.var_names) == names
    assert found.var["measured"].all()
    slot = "obs" if fitted.target.to_dict()["slot"] == "obs" else valued.uns["stpredict"]["predicted"]["values_in"]
    truth = valued.obs[names] if slot == "obs" else read_values(valued, slot, names)
    np.testing.assert_allclose(found.layers["measured"], truth.to_numpy())
    table = stp.tl.evaluate(valued[~train].copy())
    part = table[(table["model"] == "ridge") & (table["sample"] == "s0")].set_index("gene")
    rows = (valued.obs["sample"] == "s0").to_numpy()
    for number, name in enumerate(names):
        r = np.corrcoef(values[rows, number], truth[name].to_numpy()[rows])[0, 1]
        assert part.loc[name, "pearson"] == pytest.approx(r, abs=1e-5)
    assert table["ceiling"].isna().all()
    assert table["pearson_given_depth"].isna().all()
    summary = stp.tl.summarize(table)
    assert set(summary["target"]) == {"obs" if slot == "obs" else f"obsm[{slot!r}]"}
    assert summary["r_over_ceiling"].isna().all()


def test_cross_validation_in_one_line(valued: ad.AnnData, tmp_path: Any) -> None:
    models = {"ridge": "ridge", "mlp": {"model": "mlp", **QUICK["mlp"]}}
    table = stp.tl.cross_validate(valued, models, target="fractions", metrics=["pearson", "rmse"])
    lines = {"ridge", "mlp", "mean", "ridge (permuted labels)", "ridge (smoothed)"}
    assert set(table["model"]) == lines
    summary = stp.tl.summarize(table).set_index("model")
    assert summary.loc["ridge", "pearson"] > 0.5 > summary.loc["ridge (permuted labels)", "pearson"]
    assert not table["leaky"].any()
    for key in table.attrs["keys"].values():
        assert valued.obsm[key].min() >= 0
        np.testing.assert_allclose(valued.obsm[key].sum(axis=1), 1, rtol=1e-5)
    valued.write_h5ad(tmp_path / "a.h5ad")
    again = stp.tl.evaluate(ad.read_h5ad(tmp_path / "a.h5ad"), "predicted_ridge", metrics=["pearson"])
    own = table[table["model"] == "ridge"]["pearson"].to_numpy()
    np.testing.assert_allclose(again[again["model"] == "ridge"]["pearson"], own)
    models_ = stp.tl.fit_folds(valued, "ridge", 3, target="fractions", baselines=["mean"])
    assert prediction_frame(valued, "predicted_baseline_mean").shape == (72, 3)
    stp.tl.predict(valued, models_)
    np.testing.assert_allclose(valued.obsm["predicted"].sum(axis=1), 1, rtol=1e-5)


def test_rows_with_a_gap_are_predicted_and_not_learned_from(valued: ad.AnnData) -> None:
    whole = valued.copy()
    frame = valued.obsm["fractions"].copy()
    gaps = np.arange(72) % 5 == 0
    frame.iloc[np.flatnonzero(gaps), 1] = np.nan
    frame.iloc[0] = np.nan
    valued.obsm["fractions"] = frame
    # What came in without counts says so of its expression, which is nothing to the values.
    valued.obs["measured"] = whole.obs["measured"] = False
    fitted = stp.tl.fit(valued, "ridge", target="fractions")
    without = stp.tl.fit(whole, "ridge", ~gaps, target="fractions")
    assert fitted.training.n_obs == int((~gaps).sum())
    np.testing.assert_array_equal(fitted.network.weight, without.network.weight)
    stp.tl.predict(valued, fitted)
    assert np.isfinite(valued.obsm["predicted"]).all()
    table = stp.tl.cross_validate(valued, ["ridge"], target="fractions", metrics=["pearson"], baselines=False)
    assert table.groupby("sample")["n_obs"].first().sum() == int((~gaps).sum())
    frame["fat"] = np.nan
    valued.obsm["fractions"] = frame
    with pytest.raises(ValueError, match=r"all values of obsm\['fractions'\]; found no value at all in fat"):
        stp.tl.fit(valued, "ridge", target="fractions")


KINDS: dict[str, Any] = {
    "half precision": lambda frame: frame.to_numpy().astype(np.float16),
    "sparse": lambda frame: sparse.csr_matrix(frame.to_numpy()),
    "nullable": lambda frame: frame.astype("Float32"),
    "objects": lambda frame: frame.to_numpy().astype(object),
}


@pytest.mark.parametrize("kind", KINDS)
def test_fractions_of_any_number_type(valued: ad.AnnData, kind: str) -> None:
    plain = stp.tl.fit(valued, "ridge", target="fractions", baselines=False)
    valued.obsm["fractions"] = KINDS[kind](valued.obsm["fractions"])
    valued.uns["fractions_names"] = ["tumor", "stroma", "fat"]
    other = stp.tl.fit(valued, "ridge", target="fractions", baselines=False)
    assert other.target.to_dict()["link"] == "softmax"
    assert other.panel == plain.panel
    np.testing.assert_allclose(
        other.network.weight, plain.network.weight, atol=2e-2 if kind == "half precision" else 1e-4
    )


def spoilt(column: str, value: Any, row: int = 40) -> Any:
    def change(adata: ad.AnnData) -> None:
        frame = adata.obsm["fractions"].copy()
        frame.iloc[row, frame.columns.get_loc(column)] = value
        adata.obsm["fractions"] = frame

    return change


def constant(adata: ad.AnnData) -> None:
    adata.obs["area"] = 2.5


FRACTIONS = Values(obsm="fractions", link="softmax")
REFUSED: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "negative": (spoilt("fat", -0.1), FRACTIONS, ValueError, r"between 0 and 1 .*1 others \(first: -0.1 in fat, observation 'o40'\)"),
    "above 1": (spoilt("fat", 1.5), FRACTIONS, ValueError, "first: 1.5 in fat"),
    "another sum": (spoilt("fat", 0.987), FRACTIONS, ValueError, r"sum to 1.*found 1 others.*observation 'o40'.*link='logit'"),
    "one alone": (None, Values(obsm="fractions", columns=["fat"], link="softmax"), ValueError, "found fat alone.*'logit'"),
    "below 0": (None, Values("age", link="log"), ValueError, r"at least 0 in obs\['age'\]"),
    "constant": (constant, "area", ValueError, r"values that differ in obs\['area'\]"),
    "infinite": (spoilt("fat", np.inf), "fractions", ValueError, "finite values"),
    "units": (None, Values(obsm="scores", units=["a"]), ValueError, "one for each of the 2 values; found 1"),
    "units by name": (None, Values(obsm="scores", units={"x": "a"}), ValueError, "OPC, hypoxia; found some of x"),
    "features": (None, Values(obsm="X_toy"), ValueError, r"found obsm\['X_toy'\] as features and as target"),
    "booleans": (lambda a: a.obs.insert(0, "yes", np.arange(72) % 2 > 0), ["yes"], TypeError, "found booleans.*Classes"),
    "nowhere": (None, Values(obsm="nowhere"), KeyError, "nowhere"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_a_target_is_named(valued: ad.AnnData, frozen: Any, case: str) -> None:
    change, target, error, message = REFUSED[case]
    if change is not None:
        change(valued)
    before = frozen(valued)
    for call in (stp.tl.fit, stp.tl.cross_validate):
        with pytest.raises(error, match=message):
            call(valued, "ridge", target=target, features="toy")
    assert frozen(valued) == before


def test_rows_that_do_not_sum_to_one_are_numbers(valued: ad.AnnData) -> None:
    spoilt("fat", 0.987)(valued)
    assert stp.tl.fit(valued, "ridge", target="fractions", baselines=False).target.to_dict()["link"] == "identity"
    train = np.arange(72) != 40  # fractions on the training side decide
    assert stp.tl.fit(valued, "ridge", train, target="fractions", baselines=False).target.to_dict()["link"] == "softmax"


def test_a_value_among_the_features_is_found(valued: ad.AnnData) -> None:
    valued.obsm["X_toy"] = np.column_stack([valued.obsm["X_toy"], 3 * valued.obs["area"] + 1]).astype(np.float32)
    with pytest.raises(ValueError, match=r"found the target area as feature 4 of obsm\['X_toy'\]"):
        stp.tl.fit(valued, "ridge", target="area")


def test_a_prediction_is_no_target(valued: ad.AnnData) -> None:
    stp.tl.predict(valued, stp.tl.fit(valued, "ridge", target="scores"))
    with pytest.raises(ValueError, match=r"measured in obsm\['predicted'\]; found a prediction of 'ridge'"):
        stp.tl.fit(valued, "ridge", target="predicted")


@pytest.mark.parametrize("model", ["bleep", "mclstexp"])
def test_networks_that_compare_expression_say_so(valued: ad.AnnData, model: str) -> None:
    options = {"hyperparameters": {"image_encoder": "features"}, "features": "toy"}
    for target in ("fractions", Values("area")):
        with pytest.raises(ValueError, match=rf"genes as the target of '{model}'.*found values"):
            stp.tl.fit(valued, model, target=target, **options)


def test_a_bank_of_values_is_that_of_the_training(valued: ad.AnnData) -> None:
    model = stp.tl.fit(valued, "egn", train_mask(valued), target="fractions", baselines=False, **QUICK["egn"])
    with pytest.raises(ValueError, match="a model of genes.*found one of values"):
        stp.tl.retrieval_bank(valued, model, ~train_mask(valued))


def test_the_likelihood_of_counts_is_left_out(cohort: ad.AnnData) -> None:
    cohort.obs["size"] = cohort.obsm["spatial"][:, 0]
    options = {"training": {"max_epochs": 1, "patience": 0}, "baselines": False}
    model = stp.tl.fit(cohort, "hist2st", target="size", hyperparameters="small", **options)
    assert model.network.config.zinb == 0
    assert model.network.needs == {"patches", "positions"}
    with pytest.raises(ValueError, match="expected zinb=0 for a target that is no expression"):
        stp.tl.fit(cohort, "hist2st", target="size", hyperparameters={"zinb": 0.1}, **options)


def test_models_of_different_targets_are_not_averaged(valued: ad.AnnData) -> None:
    valued.obsm["others"] = valued.obsm["fractions"] ** 2
    models = [stp.tl.fit(valued, "ridge", target=t, baselines=False) for t in ("fractions", "others")]
    with pytest.raises(ValueError, match="models of the same target"):
        stp.tl.predict(valued, models)


def test_values_are_of_no_gene_even_where_one_has_their_name(toy: ad.AnnData) -> None:
    toy.obsm["proteins"] = pd.DataFrame(toy.obsm["X_toy"][:, :2] ** 3 + 1, toy.obs_names, ["G1", "G2"])
    stp.tl.predict(toy, stp.tl.fit(toy, "ridge", target="proteins"))
    np.testing.assert_allclose(stp.get.predicted(toy).layers["measured"], toy.obsm["proteins"])
    table = stp.tl.evaluate(toy, baselines=False)
    assert set(table["target"]) == {"obsm['proteins']"}
    assert table["pearson_given_depth"].notna().all()  # there are counts, and values may carry depth as well
    for call in (
        lambda: stp.tl.pseudobulk(toy),
        lambda: stp.tl.de_overlap(toy, "sample", "s0", gene_sets={"a": ["G1", "G2"]}),
        lambda: stp.tl.evaluate(toy, layer="counts"),
        lambda: stp.tl.evaluate(toy, habits=["smoothed"]),
    ):
        with pytest.raises(ValueError, match="prediction of genes|no `layer=`|no habits for values"):
            call()
    stp.tl.predict(toy, stp.tl.fit(toy, "ridge"), key_added="genes")
    with pytest.raises(ValueError, match="predictions of one target"):
        stp.tl.evaluate(toy, ["predicted", "genes"])


def test_bounds_and_distances_are_of_the_values(valued: ad.AnnData) -> None:
    stp.tl.predict(valued, stp.tl.fit(valued, "ridge", train_mask(valued), target="scores"))
    test = valued[~train_mask(valued)].copy()
    held = (test.obs["sample"] == "s0").to_numpy()
    distances = stp.tl.emd(test)
    assert list(distances["gene"].unique()) == ["OPC", "hypoxia"]
    stp.tl.conformal(test, calibration=held, by="observation", level=0.8, allow_leakage=True)
    found = stp.get.predicted(test)
    inside = (found.layers["measured"] >= found.layers["lower"]) & (found.layers["measured"] <= found.layers["upper"])
    assert inside[~held].mean() > 0.5


def test_slides_are_compared_across_patients(slides: ad.AnnData) -> None:
    rng = np.random.default_rng(0)
    slides.obs["share"] = 1 / (1 + np.exp(-slides.obsm["X_toy_bag"][:, 0, 0])) * rng.uniform(0.98, 1, slides.n_obs)
    target = Values("share", link="logit")
    options = {"training": {"max_epochs": 3, "patience": 0}, "baselines": False}
    model = stp.tl.fit(slides, "he2rna", target=target, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        stp.tl.predict(slides, model)
    assert slides.obsm["predicted"].min() >= 0
    assert slides.obsm["predicted"].max() <= 1
    table = stp.tl.evaluate(slides, metrics=["pearson"], baselines=False)
    assert table["gene"].tolist() == ["share"]
    assert table["sample"].tolist() == ["all"]


def test_expression_that_scanpy_normalized_needs_no_counts(toy: ad.AnnData) -> None:
    bare = ad.AnnData(toy.X.copy(), obs=toy.obs, var=toy.var, uns={"log1p": {}, "spatial": toy.uns["spatial"]})
    bare.obsm["spatial"], bare.obsm["X_toy"] = toy.obsm["spatial"], toy.obsm["X_toy"]
    bare.uns["stpredict"] = {"X_toy": toy.uns["stpredict"]["X_toy"]}
    table = stp.tl.cross_validate(bare, ["ridge"], metrics=["pearson", "pearson_given_depth"])
    own = stp.tl.cross_validate(toy, ["ridge"], metrics=["pearson"], ceiling=False)
    found, expected = (each[each["model"] == "ridge"]["pearson"].to_numpy() for each in (table, own))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert table["pearson_given_depth"].isna().all()
    assert "ceiling" not in table


def test_joined_objects_keep_what_was_predicted(valued: ad.AnnData) -> None:
    stp.tl.predict(valued, stp.tl.fit(valued, "ridge", train_mask(valued), target="fractions"))
    parts = [valued[valued.obs["patient"] == name].copy() for name in ("p0", "p1")]
    joined = stp.concat(parts)
    assert "unit" not in stp.get.predicted(joined).var
    scores = [stp.tl.evaluate(part, metrics=["pearson"]) for part in parts]
    both = stp.tl.evaluate(joined, metrics=["pearson"])
    np.testing.assert_allclose(
        both.sort_values(["sample", "model", "gene"])["pearson"],
        pd.concat(scores).sort_values(["sample", "model", "gene"])["pearson"],
    )
    pairs = ["tumor", "fat"], ["fat", "stroma"]
    for part, names in zip(parts, pairs, strict=True):
        target = Values(obsm="fractions", columns=names, units={"fat": "%"})
        stp.tl.predict(part, stp.tl.fit(part, "ridge", target=target), key_added="some")
    assert stp.get.predicted(stp.concat(parts), "some").var["unit"].to_dict() == {"fat": "%"}
    joined = stp.get.predicted(stp.concat(parts, join="outer"), "some")
    assert joined.var["unit"].to_dict() == {"tumor": "", "fat": "%", "stroma": ""}
    stp.tl.predict(parts[1], stp.tl.fit(parts[1], "ridge", target=Values(obsm="scores")))
    with pytest.raises(
        ValueError, match=r"predictions of one target in obsm\['predicted'\]; found those of fractions, scores"
    ):
        stp.concat(parts)
