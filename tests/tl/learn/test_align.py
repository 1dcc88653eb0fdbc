"""Alignment, embeddings, and the ridge before and after it."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import stpredict as stp

QUICK = {"hyperparameters": {"n_embedding": 16, "depth": 1}, "training": {"max_epochs": 3, "patience": 0}}
WITHIN, ACROSS = "within patients", "across patients"


def donors(n_patients: int, n: int = 60, shift: float = 0.0, seed: int = 0) -> ad.AnnData:
    """Spots whose genes follow three of their features, and donors whose stain and genes are shifted together.

    A thicker section is darker and has more of some genes: one number per donor moves a color and a direction of the genes, in
    donors that were not in training as well.
    """
    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(n_patients), n)
    signal = rng.normal(size=(len(person), 3))
    thickness = shift * np.linspace(-1, 1, n_patients)[rng.permutation(n_patients)][person]
    effect, batch = np.random.default_rng(1).normal(size=(3, 10)), np.random.default_rng(2).normal(size=10)
    noise = rng.normal(size=(len(person), 10))
    genes = signal @ effect + thickness[:, None] * batch + 1.5 * noise
    features = np.concatenate([signal, thickness[:, None], np.zeros((len(person), 2))], axis=1)
    features += 0.5 * rng.normal(size=features.shape)
    obs = pd.DataFrame(
        {"patient": [f"p{i}" for i in person], "sample": [f"s{i}" for i in person]},
        index=[f"o{i}" for i in range(len(person))],
    )
    adata = ad.AnnData(genes.astype(np.float32), obs=obs, layers={"genes": genes.astype(np.float32)})
    adata.obsm["X_own"] = features.astype(np.float32)
    adata.obsm["spatial"] = rng.uniform(0, 1000, (len(person), 2))
    adata.uns["stpredict"] = {"X_own": {"encoder": "own"}}
    return adata


TARGET = stp.targets.Expression(layer="genes")


@pytest.mark.parametrize("objective", ["clip", "siglip"])
def test_a_shift_of_donors_raises_recall_across_them_and_not_within(objective: Any, record_property: Any) -> None:
    found = {}
    for shift in (0.0, 8.0):
        adata = donors(16, 100, shift=shift)
        test = adata.obs["patient"].isin([f"p{i}" for i in range(10, 16)]).to_numpy()
        training = {"max_epochs": 30, "patience": 0, "batch_size": 200, "learning_rate": 3e-3}
        options = {"n_embedding": 16, "depth": 1, "gene_dropout": 0.0}
        stp.tl.align(
            adata, {"slot": "X_own", "scaling": "global"}, "mlp", ~test,
            objective=objective, target=TARGET, hyperparameters=options, training=training,
        )  # fmt: skip
        table = stp.tl.recall_at_k(adata, k=5, rows=test, n_boot=50)
        assert set(table["leaky"]) == {False}
        found[shift] = table.groupby("pool").mean(numeric_only=True)
    plain, shifted = found.values()
    gain = shifted["recall@5"] - plain["recall@5"]
    record_property("printed", f"{objective}: recall@5 across {gain[ACROSS]:+.3f}, within {gain[WITHIN]:+.3f}")
    assert gain[ACROSS] > 0.08
    assert gain[WITHIN] < 0.03
    assert shifted.loc[ACROSS, "same_patient_wrong"] > plain.loc[ACROSS, "same_patient_wrong"] + 0.2
    assert abs(plain.loc[ACROSS, "same_patient_wrong"] - plain.loc[ACROSS, "same_patient_wrong_chance"]) < 0.1


def test_embeds_everything_and_says_whom_the_model_saw(toy: ad.AnnData) -> None:
    train = (toy.obs["patient"] != "p2").to_numpy()
    before = toy.copy()
    toy.obs["measured"] = np.arange(72) % 6 > 0
    model = stp.tl.align(toy, "X_toy", "pca", train & toy.obs["measured"].to_numpy(), **QUICK)
    assert model.training.patients == ["p0", "p1"]
    assert model.network.config.gene_encoder == "pca"
    image, genes = toy.obsm["aligned_image"], toy.obsm["aligned_genes"]
    assert image.shape == genes.shape == (72, 16)
    np.testing.assert_allclose(np.linalg.norm(image, axis=1), 1, atol=1e-5)
    assert (np.isnan(genes).all(axis=1) == ~toy.obs["measured"].to_numpy()).all()
    for side in ("image", "genes"):
        assert (toy.obs[f"aligned_{side}_leaky"].to_numpy() == train).all()
    other = before[~train].copy()
    copied = stp.tl.embed(other, model, key_added="again", copy=True)
    assert "again_image" not in other.obsm
    np.testing.assert_allclose(copied.obsm["again_image"], image[~train], atol=1e-5)
    bare = ad.AnnData(obs=other.obs, obsm=dict(other.obsm), uns=dict(other.uns))
    stp.tl.embed(bare, model)
    assert "aligned_genes" not in bare.obsm
    np.testing.assert_allclose(bare.obsm["aligned_image"], image[~train], atol=1e-5)


def test_a_saved_model_embeds_the_same(toy: ad.AnnData, tmp_path: Any) -> None:
    model = stp.tl.align(toy, "X_toy", path=tmp_path / "model", objective="siglip", batches="within", **QUICK)
    assert model.network.draws == "patient_rows"
    kept = toy.obsm["aligned_image"].copy(), toy.obsm["aligned_genes"].copy()
    stp.tl.embed(toy, tmp_path / "model")
    for side, values in zip(("image", "genes"), kept, strict=True):
        np.testing.assert_array_equal(toy.obsm[f"aligned_{side}"], values)


def test_an_embedding_of_genes_by_another_model(toy: ad.AnnData) -> None:
    """A frozen slot stands for the expression; rows without it are not trained on."""
    rng = np.random.default_rng(0)
    toy.obsm["X_genes"] = rng.normal(size=(72, 5)).astype(np.float32)
    toy.obsm["X_genes"][:3] = np.nan
    model = stp.tl.align(toy, "X_toy", "X_genes", **QUICK)
    assert (model.network.config.gene_encoder, model.target.kind, len(model.panel)) == ("identity", "values", 5)
    assert model.training.n_obs == 69
    assert np.isnan(toy.obsm["aligned_genes"]).any(axis=1).tolist() == [True] * 3 + [False] * 69


def test_other_contrastive_networks_embed_too(toy: ad.AnnData) -> None:
    options = {"image_encoder": "features", "n_embedding": 8}
    model = stp.tl.fit(toy, "bleep", hyperparameters=options, training=QUICK["training"], features="X_toy")
    stp.tl.embed(toy, model, key_added="b")
    assert toy.obsm["b_image"].shape == toy.obsm["b_genes"].shape == (72, 8)
    with pytest.raises(TypeError, match="one space"):
        stp.tl.embed(toy, stp.tl.fit(toy, "ridge", features="X_toy"))


def test_what_does_not_go_together_is_refused(toy: ad.AnnData) -> None:
    with pytest.raises(KeyError, match="'mlp', 'pca' or a slot"):
        stp.tl.align(toy, "X_toy", "drvi")
    with pytest.raises(ValueError, match="no target beside"):
        stp.tl.align(toy, "X_toy", "X_toy", target=["g0"])
    with pytest.raises(ValueError, match="objective as arguments"):
        stp.tl.align(toy, "X_toy", hyperparameters={"objective": "clip"})
    with pytest.raises(ValueError, match="objective to be one of 'clip', 'siglip'"):
        stp.tl.align(toy, "X_toy", objective="infonce")
    assert not [key for key in toy.obsm if key.startswith("aligned")]


def test_what_is_fitted_to_aligned_features_has_seen_whom_these_saw(toy: ad.AnnData) -> None:
    """Features that were aligned with the expression of a test patient give that away in any later split."""
    stp.tl.align(toy, "X_toy", train=(toy.obs["patient"] != "p2").to_numpy(), **QUICK)
    scores = stp.tl.cross_validate(
        toy, "ridge", features="aligned_image", metrics=["pearson"], baselines=False, ceiling=False
    )
    leaky = scores.groupby("patient", observed=True)["leaky"].agg(lambda marks: set(marks))
    assert leaky.to_dict() == {"p0": {True}, "p1": {True}, "p2": {False}}
    with pytest.warns(UserWarning, match="nobody wrote down"):
        stp.tl.fit(toy, "ridge", features="aligned_genes")
