"""Features that hold something of the answer, or of which nobody knows what they hold."""

from __future__ import annotations

from collections.abc import Callable

import anndata as ad
import numpy as np
import pytest

import stpredict as stp

SLOT = "X_color-texture"
Change = Callable[[ad.AnnData], str]


def values(adata: ad.AnnData) -> np.ndarray:
    return np.asarray(adata.X.toarray())


def components(adata: ad.AnnData) -> str:
    import scanpy as sc

    sc.pp.pca(adata, n_comps=10)
    return "X_pca"


def copied_components(adata: ad.AnnData) -> str:
    adata.obsm["X_mine"] = adata.obsm[components(adata)] * 2 + 1
    return "X_mine"


def components_in_a_recorded_slot(adata: ad.AnnData) -> str:
    components(adata)
    adata.obsm[SLOT] = np.concatenate([adata.obsm[SLOT][:, :-10], adata.obsm["X_pca"]], axis=1)
    return SLOT


def expression(adata: ad.AnnData) -> str:
    adata.obsm["X_x"] = values(adata)
    return "X_x"


def scaled_expression(adata: ad.AnnData) -> str:
    x = values(adata)
    adata.obsm["X_x"] = ((x - x.mean(axis=0)) / x.std(axis=0))[:, ::-1].copy()
    return "X_x"


def counts(adata: ad.AnnData) -> str:
    adata.obsm["X_c"] = adata.layers["counts"].toarray()
    return "X_c"


def one_gene_among_many(adata: ad.AnnData) -> str:
    adata.obsm["X_more"] = np.concatenate([adata.obsm[SLOT], -values(adata)[:, [3]]], axis=1)
    return "X_more"


def in_a_recorded_slot(adata: ad.AnnData) -> str:
    adata.obsm[SLOT] = np.concatenate([adata.obsm[SLOT][:, 16:], values(adata)], axis=1)
    return SLOT


def under_a_copied_record(adata: ad.AnnData) -> str:
    expression(adata)
    adata.uns["stpredict"]["X_x"] = dict(adata.uns["stpredict"][SLOT])
    return "X_x"


@pytest.mark.parametrize(
    "change",
    [
        components, copied_components, components_in_a_recorded_slot, expression, scaled_expression, counts,
        one_gene_among_many, in_a_recorded_slot, under_a_copied_record,
    ],
)  # fmt: skip
def test_the_measured_expression_is_no_feature(cohort: ad.AnnData, ask, change: Change) -> None:
    slot = change(cohort)
    for call in (
        lambda: ask.fitted(cohort, "P1", features=slot),
        lambda: stp.tl.cross_validate(cohort, ["ridge"], features=slot, **ask.quick),
        lambda: stp.tl.fit_folds(cohort, "ridge", 2, features=slot),
        lambda: stp.tl.cross_validate(cohort, {"a": {"model": "ridge", "features": slot}}, **ask.quick),
    ):
        with pytest.raises(ValueError, match=rf"expected features of pictures; found .* of obsm\['{slot}'\]"):
            call()


def scaled_over_all_sections(adata: ad.AnnData) -> str:
    adata.obsm["X_scaled"] = _scaled(adata)
    return "X_scaled"


def scaled_in_place(adata: ad.AnnData) -> str:
    adata.obsm[SLOT] = _scaled(adata)
    return SLOT


def _scaled(adata: ad.AnnData) -> np.ndarray:
    x = adata.obsm[SLOT].astype(float)
    return ((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9)).astype(np.float32)


def embedded_expression(adata: ad.AnnData) -> str:
    mixing = np.random.default_rng(0).normal(size=(16, 8))
    adata.obsm["X_embedded"] = np.tanh(values(adata) @ mixing / 9)
    return "X_embedded"


def random_numbers(adata: ad.AnnData) -> str:
    adata.obsm["X_f"] = np.random.default_rng(0).normal(size=(adata.n_obs, 5)).astype(np.float32)
    return "X_f"


def smoothed_expression_in_a_recorded_slot(adata: ad.AnnData) -> str:
    adata.obsm[SLOT] = np.tile(np.tanh(values(adata) - 2), (1, 10))[:, :153].astype(np.float32)
    return SLOT


def record_without_encoder(adata: ad.AnnData) -> str:
    random_numbers(adata)
    adata.uns["stpredict"]["X_f"] = {"microns_per_pixel": {}}
    return "X_f"


@pytest.mark.parametrize(
    "change",
    [
        scaled_over_all_sections, scaled_in_place, embedded_expression, random_numbers,
        smoothed_expression_in_a_recorded_slot, record_without_encoder,
    ],
)  # fmt: skip
def test_features_of_unknown_origin_make_marks_unknown(cohort: ad.AnnData, ask, change: Change) -> None:
    slot = change(cohort)
    with pytest.warns(UserWarning, match=rf"nobody wrote down how obsm\['{slot}'\] was made"):
        assert ask.validated(cohort, features=slot) == {"unknown"}
    with pytest.warns(UserWarning, match=r"stp.pp.image_features, or, if they come from pictures alone, record it"):
        model = ask.fitted(cohort, "P1", features=slot)
    assert model.training.feature_patients == ["unknown"]
    assert ask.predicted(ask.part(cohort, "P1"), model) == {True}
    assert ask.predicted(ask.part(cohort, "P2"), model) == {"unknown"}


@pytest.mark.parametrize("how", ["no record", "changed", "recorded"])
def test_bags_of_unrecorded_features_are_of_unknown_origin(how: str) -> None:
    import pandas as pd

    from stpredict.slots._content import seal_features
    from stpredict.tl.learn.inputs._origin import unrecorded

    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"sample": np.repeat(["a", "b"], 30), "patient": np.repeat(["P", "Q"], 30)}).astype(str)
    tiles = ad.AnnData(obs=obs.set_index(obs.index.astype(str)), obsm={"X_own": rng.normal(size=(60, 9)).astype("f4")})
    tiles.obsm["spatial"] = rng.normal(size=(60, 2))
    if how != "no record":
        record = {"encoder": "own", **seal_features(tiles.obsm["X_own"], tiles.obs["sample"])}
        tiles.uns["stpredict"] = {"X_own": record}
    if how == "changed":
        tiles.obsm["X_own"] = tiles.obsm["X_own"] - tiles.obsm["X_own"].mean(axis=0)
    bags = stp.pp.bag(tiles, "own", n_tokens=3)
    assert unrecorded(bags, ["X_own"]) == ([] if how == "recorded" else ["X_own"])


def test_features_of_pictures_are_clean(cohort: ad.AnnData, ask, recwarn: pytest.WarningsRecorder) -> None:
    assert ask.validated(cohort) == {False}
    assert ask.validated(cohort, features={"slot": SLOT, "scaling": "section"}) == {False}
    some = cohort[np.random.default_rng(0).permutation(cohort.n_obs)[:200]].copy()
    assert ask.validated(some) == {False}
    joined = ad.concat([cohort[:98].copy(), cohort[98:].copy()], uns_merge="first")
    assert ask.validated(joined) == {False}
    cohort.obsm["X_own"] = cohort.obsm[SLOT][:, ::3].copy()
    cohort.uns["stpredict"]["X_own"] = {"encoder": "of another program"}
    assert ask.validated(cohort, features="X_own") == {False}
    assert not [warning for warning in recwarn if "nobody wrote down" in str(warning.message)]


def test_expression_may_help_to_predict_what_people_annotated(cohort: ad.AnnData, ask) -> None:
    cohort.obs["high"] = values(cohort)[:, 0] > np.median(values(cohort)[:, 0])
    slot = expression(cohort)
    with pytest.warns(UserWarning, match="nobody wrote down"):
        model = stp.tl.fit(cohort, "mlp", features=slot, target="high", training={"max_epochs": 1})
    assert model.training.patients_seen == ["P1", "P2", "P3", "unknown"]
