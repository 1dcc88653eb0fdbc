"""Rows that are bags: batches, shuffles, scales."""

from __future__ import annotations

import numpy as np
import torch

from stpredict.training import ArraySet, Loader
from stpredict.training._data import summarize

BAG = frozenset({"bag"})


def make(n: int = 10) -> ArraySet:
    rng = np.random.default_rng(0)
    bag = rng.normal(3, 2, size=(n, 4, 5)).astype(np.float32)
    size = np.full((n, 4), 2, dtype=np.float32)
    size[:3, 2:] = 0
    bag[size == 0] = 0
    return ArraySet(
        section=np.zeros(n, dtype=np.int64),
        patient=np.arange(n, dtype=np.int64) // 2,
        bag=bag,
        bag_size=size,
        target=np.arange(n, dtype=np.float32)[:, None] // 2,
    )


def test_batches_hold_bags_and_cover_every_row_once() -> None:
    data = make()
    loader = Loader(data, "bag", batch_size=4, needs=BAG, shuffle=True)
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    assert len(loader) == 3
    assert batches[0].bag.shape == (4, 4, 5)
    assert batches[0].bag_size.shape == (4, 4)
    assert batches[0].features is None
    seen = torch.cat([batch.bag[:, 0, 0] for batch in batches]).numpy()
    np.testing.assert_array_equal(np.sort(seen), np.sort(data.bag[:, 0, 0]))
    assert not np.array_equal(seen, data.bag[:, 0, 0])
    assert data.batch(np.arange(2), frozenset({"features"})).bag is None


def test_scales_leave_padding_out() -> None:
    data = make()
    summary = summarize(data, BAG)
    tokens = data.bag[data.bag_size > 0]
    assert len(tokens) == 34
    np.testing.assert_allclose(summary.feature_mean.numpy(), tokens.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(summary.feature_std.numpy(), tokens.std(axis=0), rtol=1e-5)


def test_permuted_labels_go_from_patient_to_patient() -> None:
    data = make(20)
    permuted = data.permuted(1)
    target, patient = permuted.target[:, 0], data.patient
    np.testing.assert_array_equal(target[::2], target[1::2])  # slides of a patient stay alike
    np.testing.assert_array_equal(np.sort(target), np.sort(data.target[:, 0]))
    assert (target != patient).mean() > 0.5
    np.testing.assert_array_equal(permuted.bag, data.bag)


def test_width_and_outputs_depend_on_what_is_asked_for() -> None:
    data = make()
    assert data.n_features(BAG) == 5
    assert data.n_features(frozenset({"features"})) == 0
    assert data.n_outputs == 1
    data.target = np.zeros((10, 7), dtype=np.float32)
    assert data.n_outputs == 7
    data.time = data.event = np.ones(10, dtype=np.float32)
    assert data.n_outputs == 1
    assert summarize(data, BAG).target_std.tolist() == [1.0]
