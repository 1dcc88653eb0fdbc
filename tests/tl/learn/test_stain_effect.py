from __future__ import annotations

import numpy as np
import pytest

import stpredict as stp
from stpredict.slots._provenance import read_record
from stpredict.tl.learn import _stain_effect as module


@pytest.fixture(scope="module")
def cohort():
    data = stp.datasets.synthetic_cohort(n_patients=3, n_sections=1, n_spots=24, n_genes=6, stain_shift=0.3)
    stp.pp.normalize(data)
    return data


@pytest.fixture(autouse=True)
def settings(tmp_path, monkeypatch):
    monkeypatch.setattr(stp.settings, "cache_dir", tmp_path / "cache")
    monkeypatch.setattr(stp.settings, "progress", False)


def test_references_are_of_training_patients_and_the_object_is_left(cohort, monkeypatch):
    """Every fold's features are made with the training patients of that fold, and no score is leaky."""
    adata = cohort.copy()
    seen = []
    original = module.cross_validate

    def spied(container, models, folds, **options):
        records = {label: read_record(container, spec["features"]) for label, spec in models.items()}
        test = set(container.obs["patient"][folds[0].test])
        seen.append((test, set(records["macenko"]["stain"]["patients"]), "stain" in records["as they are"]))
        return original(container, models, folds, **options)

    monkeypatch.setattr(module, "cross_validate", spied)
    effect = stp.tl.stain_effect(adata, "macenko", context=(1,))
    assert [test for test, _, _ in seen] == [{"P1"}, {"P2"}, {"P3"}]
    assert all(patients == {"P1", "P2", "P3"} - test and not plain for test, patients, plain in seen)
    assert set(effect.scores["model"]) == {"as they are", "macenko"}
    assert not effect.scores["leaky"].astype(bool).any()
    table = effect.comparison
    assert table["metric"].tolist() == ["pearson", "deviance_explained"]
    assert set(table["n_units"]) == {3}
    assert list(adata.obsm) == list(cohort.obsm)
    assert "stain" not in adata.uns["stpredict"]
    one = effect.scores.groupby(["model", "patient"])["pearson"].mean().unstack("model")
    assert table["difference"][0] == pytest.approx((one["macenko"] - one["as they are"]).mean())
    assert "macenko" in repr(effect)


def test_unknown_methods_and_divided_sections_are_refused(cohort):
    with pytest.raises(ValueError, match="methods"):
        stp.tl.stain_effect(cohort, "otsu")
    with pytest.raises(ValueError, match="whole sections"):
        stp.tl.stain_effect(cohort, splitter="blocks")
    half = np.arange(cohort.n_obs) % 2 == 0
    with pytest.raises(ValueError, match="both sides|patient"):
        stp.tl.stain_effect(cohort, splitter=[stp.cohorts.Fold("half", half, ~half)])
