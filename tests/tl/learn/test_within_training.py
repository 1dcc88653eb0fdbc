"""Targets of sections of which only a part is trained on."""

from __future__ import annotations

import numpy as np
import pytest

import stpredict as stp

WAYS = {"residuals": {"method": "pearson_residuals"}, "median": {"method": "log1p", "target_sum": "median"}}


def weights(adata, train) -> np.ndarray:
    return stp.tl.fit(adata, "ridge", train, baselines=False).network.weight.numpy()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("thin", [False, True])
def test_no_count_of_other_spots_has_a_part(toy, way: str, thin: bool) -> None:
    """Other counts in the spots that are left out change nothing, bit for bit, although they change X."""
    from scipy import sparse

    train = (np.arange(72) % 12 < 7) & (toy.obs["patient"] != "p2").to_numpy()
    changed = toy.copy()
    changed.layers["counts"][~train] = 3 * changed.layers["counts"][~train][:, ::-1] + 1
    for adata in (toy, changed):
        if thin:
            adata.layers["counts"] = sparse.csr_matrix(adata.layers["counts"])
        stp.pp.normalize(adata, **WAYS[way])
    first = [np.asarray(a.X[:3].todense() if sparse.issparse(a.X) else a.X[:3]) for a in (toy, changed)]
    assert not np.array_equal(*first)
    np.testing.assert_array_equal(weights(toy, train), weights(changed, train))


@pytest.mark.parametrize("method", ["spatial_hvg", "mean"])
@pytest.mark.parametrize("way", WAYS)
def test_no_count_of_other_spots_has_a_part_in_the_selection(toy, way: str, method: str, monkeypatch) -> None:
    """Genes are selected on the same values, bit for bit, whatever the spots that are left out measured."""
    from stpredict.pp import _select_genes

    train = (np.arange(72) % 12 < 7) & (toy.obs["patient"] != "p2").to_numpy()
    changed = toy.copy()
    changed.layers["counts"][~train] = 3 * changed.layers["counts"][~train][:, ::-1] + 1
    seen, select = [], _select_genes.select_panel

    def spy(adata, method, rows, **options):
        seen.append(np.asarray(adata.X)[rows])
        return select(adata, method, rows, **options)

    monkeypatch.setattr(_select_genes, "select_panel", spy)
    panel = {"method": method, "n_genes": 3}
    models = []
    for adata in (toy, changed):
        stp.pp.normalize(adata, **WAYS[way])
        models.append(stp.tl.fit(adata, "ridge", train, target={"panel": panel}, baselines=False))
    np.testing.assert_array_equal(*seen)
    assert models[0].panel == models[1].panel
    np.testing.assert_array_equal(*(model.network.weight.numpy() for model in models))


@pytest.mark.parametrize("way", WAYS)
def test_whole_sections_are_those_of_x(toy, way: str) -> None:
    stp.pp.normalize(toy, **WAYS[way])
    whole = toy.obs["patient"].isin(["p0", "p1"]).to_numpy()
    alone = toy[whole].copy()
    alone.layers["counts"] = alone.layers["counts"] * 0  # nothing is read from there
    alone.obs["depth"] = toy.obs["depth"][whole]
    np.testing.assert_array_equal(weights(toy, whole), weights_of_values(alone, np.asarray(toy.X[whole])))


def weights_of_values(adata, values: np.ndarray) -> np.ndarray:
    adata.layers["mine"] = values
    target = stp.targets.Expression(layer="mine")
    return stp.tl.fit(adata, "ridge", target=target, baselines=False).network.weight.numpy()


def test_models_are_saved_with_their_unit_and_refuse_another(toy, tmp_path) -> None:
    train = (toy.obs["patient"] == "p0").to_numpy()
    for options in (*WAYS.values(), {"method": "pearson_residuals", "theta": 10, "clip": 3}):
        stp.pp.normalize(toy, **options)
        model = stp.tl.fit(toy, "ridge", train, baselines=False, path=tmp_path / "model")
        loaded = stp.training.FittedModel.load(tmp_path / "model")
        assert loaded.normalization == model.normalization
        assert {name: loaded.normalization[name] for name in options} == options
        assert "section_sums" not in loaded.normalization
        stp.tl.predict(toy, loaded)
        other = stp.pp.normalize(toy, method="log1p", copy=True)
        with pytest.raises(ValueError, match="expected the normalization of the model's training data"):
            stp.tl.predict(other, loaded)
    stp.pp.normalize(toy, method="pearson_residuals", theta=10)
    with pytest.raises(ValueError, match=r"'clip': 3.0.*'clip': None"):
        stp.tl.predict(toy, model)
