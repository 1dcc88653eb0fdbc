"""Programme scores of a real section, which has no counts."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

import stpredict as stp

DATA = Path(__file__).parents[3] / "shared" / "data" / "gbm_visium"
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"no real data at {DATA}")


def test_scores_of_a_section_without_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from gbm_scores import read_gbm

    adata = read_gbm(DATA, every=4)
    sys.modules.pop("gbm_scores")
    assert adata.shape == (len(adata), 0)
    assert 400 < len(adata) < 600
    assert not adata.obs["measured"].any()
    # 100 µm between neighbors.
    mpp = adata.uns["spatial"]["243_T"]["scalefactors"]["microns_per_pixel"]
    assert mpp == pytest.approx(1.16 / 0.24414, rel=0.02)
    with pytest.warns(UserWarning, match="much coarser"):
        stp.pp.image_features(adata)
    # The tissue at the left edge, where one programme is found, is told from its surroundings by its color.
    odd = (adata.obs["array_row"] // 8 % 2).to_numpy() == 1
    fold = stp.cohorts.Fold("stripes", odd, ~odd)
    target = stp.targets.Values(obsm="scores", link="logit")
    table = stp.tl.cross_validate(
        adata, ["ridge"], [fold], target=target, metrics=["pearson", "rmse"], allow_leakage=True
    )
    mean = table.groupby("model")["pearson"].mean()
    assert mean["ridge"] > 0.25
    assert table["ceiling"].isna().all()
    predicted = adata.obsm["predicted_ridge"][~odd]
    assert predicted.min() > 0
    assert predicted.max() < 1
    assert np.isnan(adata.obsm["predicted_ridge"][odd]).all()
    assert list(stp.get.predicted(adata, "predicted_ridge").var_names) == list(adata.obsm["scores"].columns)
