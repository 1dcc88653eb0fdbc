"""Which positions of DNA a gene is read by."""

from __future__ import annotations

import numpy as np
import pytest

import stpredict as stp


@pytest.fixture(scope="module")
def genes():
    return stp.datasets.synthetic_genes(n_genes=16, width=64)


@pytest.fixture(scope="module")
def model(genes):
    options = {"dim": 4, "depth": 1, "d_state": 1, "expand": 1}
    return stp.tl.fit(
        genes.copy(), "seq2exp", target="expr", hyperparameters=options, training={"max_epochs": 1}, baselines=False
    )


def test_the_mask_is_that_of_the_network_and_rules_come_first(genes, model) -> None:
    genes = genes.copy()
    rules = np.zeros((16, 64), dtype=np.int8)
    rules[3, :10], rules[4, 50:55] = -1, 1
    genes.obsm["sequence_mask"] = rules
    stp.tl.regulatory_mask(genes, model, batch_size=5)
    mask, record = genes.obsm["regulatory_mask"], genes.uns["stpredict"]["regulatory_mask"]
    assert (mask.shape, mask.dtype) == ((16, 64), np.float16)
    assert (list(record["promoter"]), record["n_models"], record["model"]) == ([24, 40], 1, "seq2exp")
    assert (mask[:, 24:40] == 1).all()
    assert (mask[3, :10] == 0).all()
    assert (mask[4, 50:55] == 1).all()
    free = rules == 0
    free[:, 24:40] = False
    assert ((mask[free] > 0) & (mask[free] < 1)).all()
    expected = [mask[row, free[row]].mean(dtype=float) for row in range(16)]
    np.testing.assert_allclose(genes.obs["regulatory_mask_open"], expected, atol=1e-3)
    whole = stp.tl.regulatory_mask(genes, model, key_added="other", copy=True)
    np.testing.assert_allclose(whole.obsm["other"], mask, atol=1e-3)
    assert "other" not in genes.obsm


def test_of_several_models_the_mean_is_taken(genes, model) -> None:
    other = stp.tl.fit(
        genes.copy(), "seq2exp", target="expr", hyperparameters=vars(model.network.config),
        training={"max_epochs": 1, "learning_rate": 0.05}, baselines=False, seed=1,
    )  # fmt: skip
    masks = [
        stp.tl.regulatory_mask(genes, each, copy=True).obsm["regulatory_mask"].astype(float)
        for each in (model, other, [model, other])
    ]
    assert np.abs(masks[0] - masks[1]).max() > 1e-3
    np.testing.assert_allclose(masks[2], (masks[0] + masks[1]) / 2, atol=2e-3)


def test_a_network_without_a_mask_is_refused_and_nothing_is_written(toy, frozen) -> None:
    fitted = stp.tl.fit(toy, "ridge", baselines=False)
    before = frozen(toy)
    with pytest.raises(ValueError, match="reads sequences through a mask; found 'ridge'"):
        stp.tl.regulatory_mask(toy, fitted)
    assert frozen(toy) == before
