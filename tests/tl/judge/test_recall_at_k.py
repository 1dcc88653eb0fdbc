"""Recall within patients and across them, in pools of one size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import stpredict as stp
from stpredict.slots._spread import spread_rows
from stpredict.tl.judge._recall_at_k import draw_pools

WITHIN, ACROSS = "within patients", "across patients"


def embedded(n: int = 120, n_patients: int = 3, shift: float = 0.0, noise: float = 2.0, seed: int = 0) -> Any:
    """Pairs that share something of their own, and as much of their patient as `shift` says."""
    import anndata as ad
    import pandas as pd

    rng = np.random.default_rng(seed)
    person = np.repeat(np.arange(n_patients), n)
    obs = pd.DataFrame(
        {"patient": [f"p{i}" for i in person], "sample": [f"p{i}_{j % 2}" for j, i in enumerate(person)]},
        index=[f"o{i}" for i in range(len(person))],
    )
    adata = ad.AnnData(obs=obs)
    shared = rng.normal(size=(len(person), 12)) + shift * rng.normal(size=(n_patients, 12))[person]
    for name in ("a", "b"):
        adata.obsm[name] = shared + noise * rng.normal(size=shared.shape)
    return adata


def line(table: Any, pool: str, direction: str = "image to genes") -> Any:
    return table[(table["pool"] == pool) & (table["direction"] == direction)].iloc[0]


def test_pools_hold_one_patient_or_all_alike() -> None:
    person = np.repeat([0, 1, 2], [50, 70, 33])
    within = draw_pools(person, 30, across=False, rng=np.random.default_rng(0))
    assert np.bincount(within[within >= 0]).tolist() == [30] * 4
    assert all(len(set(person[within == code])) == 1 for code in range(4))
    across = draw_pools(person, 20, across=True, rng=np.random.default_rng(0))
    counts = np.array([np.bincount(person[across == code], minlength=3) for code in range(across.max() + 1)])
    assert (counts.sum(axis=1) == 20).all()
    assert counts.min() == 6
    assert counts.max() == 7
    assert len(counts) == 33 // 6  # those who have most give the seventh


def test_random_embeddings_are_at_chance() -> None:
    adata = embedded(200, shift=0.0)
    adata.obsm["b"] = np.random.default_rng(9).normal(size=adata.obsm["b"].shape)
    table = stp.tl.recall_at_k(adata, "a", "b", n_boot=200)
    assert len(table) == 4
    for k in (1, 5, 10):
        chance = k / 200
        assert (table[f"chance@{k}"] == chance).all()
        assert (np.abs(table[f"recall@{k}"] - chance) < 3 * np.sqrt(chance * (1 - chance) / table["n_obs"])).all()
    across = table[table["pool"] == ACROSS]
    assert (np.abs(across["same_patient_wrong"] - across["same_patient_wrong_chance"]) < 0.08).all()
    assert table["leaky"].tolist() == ["unknown"] * 4


def test_a_shift_of_patients_raises_recall_across_them_and_not_within() -> None:
    """What tells patients apart finds the partner among other patients, and is of no use among one's own."""
    plain, shifted = (stp.tl.recall_at_k(embedded(240, shift=s), "a", "b", [5], n_boot=200) for s in (0.0, 3.0))
    for direction in ("image to genes", "genes to image"):
        before, after = (line(t, WITHIN, direction)["recall@5"] for t in (plain, shifted))
        assert after < before + 0.02
        before, after = (line(t, ACROSS, direction) for t in (plain, shifted))
        assert after["recall@5"] > 1.5 * before["recall@5"]
        assert after["same_patient_wrong"] > 0.9
        assert before["same_patient_wrong"] < 0.5


def test_rows_without_an_embedding_are_left_out_and_a_mask_chooses() -> None:
    adata = embedded(40)
    adata.obsm["b"][:10] = np.nan
    table = stp.tl.recall_at_k(adata, "a", "b", 5, rows=(adata.obs["patient"] != "p2").to_numpy(), n_boot=50)
    assert table["pool_size"].tolist() == [30] * 4
    assert table["n_patients"].tolist() == [2] * 4
    assert line(table, WITHIN)["n_obs"] == 60
    one = stp.tl.recall_at_k(adata, "a", "b", 5, rows=(adata.obs["patient"] == "p1").to_numpy(), n_boot=50)
    assert one["pool"].tolist() == [WITHIN] * 2
    assert one["recall@5_low"].isna().all()


def test_what_cannot_be_compared_is_refused() -> None:
    adata = embedded(10)
    with pytest.raises(KeyError, match=r"expected obsm\['c'\]"):
        stp.tl.recall_at_k(adata, "a", "c")
    with pytest.raises(ValueError, match="at least 11 observations"):
        stp.tl.recall_at_k(adata, "a", "b", pool_size=11)
    adata.obsm["c"] = adata.obsm["a"][:, :3]
    with pytest.raises(ValueError, match="one space"):
        stp.tl.recall_at_k(adata, "a", "c")
    adata.obsm["c"] = np.full((30, 12), np.nan)
    with pytest.raises(ValueError, match="finite values"):
        stp.tl.recall_at_k(adata, "a", "c")


@pytest.mark.parametrize("n", [5, 30, 31, 200])
def test_rows_are_spread_over_groups(n: int) -> None:
    group = np.array(list("a" * 100 + "b" * 10 + "c" * 70))
    kept = spread_rows(group, n, np.random.default_rng(0))
    assert len(kept) == min(n, 180)
    assert len(set(kept)) == len(kept)
    counts = {name: int((group[kept] == name).sum()) for name in "abc"}
    assert counts["b"] == {5: counts["b"]}.get(n, 10)
    assert abs(counts["a"] - counts["c"]) <= (1 if n < 200 else 30)
