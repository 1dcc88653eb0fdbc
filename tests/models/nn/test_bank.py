"""The bank of training spots that networks look up."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from stpredict.models.nn._bank import Bank

N, D, GENES = 60, 5, 3


def make(n=N, d=D, seed=0, integers=False):
    rng = np.random.default_rng(seed)
    keys = rng.integers(0, 3, (n, d)) if integers else rng.normal(size=(n, d))
    bank = Bank(d, GENES)
    patient = torch.tensor(np.arange(n) * 3 // n)
    section = torch.tensor(np.arange(n) * 6 // n)
    bank.fill(torch.tensor(keys).float(), torch.tensor(rng.normal(size=(n, GENES))).float(), patient, section)
    return bank


def brute_force(bank, queries, k, allowed):
    distance = np.sqrt(((queries.numpy()[:, None].astype(float) - bank.keys.numpy()[None]) ** 2).sum(axis=2))
    distance[~allowed] = np.inf
    order = np.argsort(distance, axis=1, kind="stable")[:, :k]
    return order, np.take_along_axis(distance, order, axis=1)


@pytest.mark.parametrize("chunk", [1, 7, 1000])
@pytest.mark.parametrize("integers", [False, True], ids=["distinct", "with ties"])
def test_equals_brute_force(chunk, integers):
    bank = make(integers=integers)
    queries = make(seed=1, integers=integers).keys
    patient = torch.arange(N) % 4 - 1
    allowed = (patient[:, None] != bank.patient[None]).numpy()
    index, distance = bank.nearest(queries, 4, patient=patient, chunk=chunk)
    wanted, wanted_distance = brute_force(bank, queries, 4, allowed)
    np.testing.assert_array_equal(index, wanted)
    np.testing.assert_allclose(distance, wanted_distance, rtol=1e-5)


def test_many_identical_keys_are_found_in_the_order_of_the_bank():
    bank = make(200)
    bank.keys[50:150] = bank.keys[50].clone()
    index, distance = bank.nearest(bank.keys[50:51], 5)
    assert index.tolist() == [[50, 51, 52, 53, 54]]
    assert (distance == 0).all()
    index, _ = bank.nearest(bank.keys[50:51], 5, section=bank.section[50:51])
    outside = [i for i in range(50, 150) if bank.section[i] != bank.section[50]]
    assert index.tolist() == [outside[:5]]


def test_far_from_the_origin_the_nearest_are_still_found():
    bank, queries = make(500, 3), make(40, 3, seed=1).keys + 300
    bank.keys += 300
    index, _ = bank.nearest(queries, 3)
    wanted, _ = brute_force(bank, queries, 3, np.ones((40, 500), dtype=bool))
    np.testing.assert_array_equal(index, wanted)


def test_nobody_finds_an_own_spot():
    bank = make()
    by_patient, _ = bank.nearest(bank.keys, 5, patient=bank.patient)
    assert (bank.patient[by_patient] != bank.patient[:, None]).all()
    by_section, _ = bank.nearest(bank.keys, 5, section=bank.section)
    assert (bank.section[by_section] != bank.section[:, None]).all()
    assert (bank.patient[by_section] == bank.patient[:, None]).any()
    anywhere, distance = bank.nearest(bank.keys, 1, patient=torch.full((N,), -1))
    assert (anywhere[:, 0] == torch.arange(N)).all()
    assert (distance == 0).all()


def test_where_few_are_left_the_rest_is_marked():
    bank = make(6)
    index, distance = bank.nearest(bank.keys, 5, patient=bank.patient)
    assert distance[:, :4].isfinite().all()
    assert distance[:, 4].isinf().all()
    assert (index[:, 4] == 0).all()
    _, distance = bank.nearest(bank.keys, 9)
    assert distance.isfinite().sum(dim=1).tolist() == [6] * 6


def test_errors():
    with pytest.raises(ValueError, match=r"empty retrieval bank; train the network with stp\.tl\.fit"):
        Bank(D, GENES).nearest(torch.zeros(1, D), 1)
    bank = make()
    with pytest.raises(ValueError, match=r"expected queries \(m, 5\); found \(2, 4\)"):
        bank.nearest(torch.zeros(2, 4), 1)
    bank.patient[:] = 0
    with pytest.raises(ValueError, match=r"another patient to look up; found none .* 60 spots of 1 patients"):
        bank.nearest(torch.zeros(2, D), 1, patient=torch.tensor([-1, 0]))
    before = bank.keys.clone()
    with pytest.raises(ValueError, match=r"expected values of shape \(2, 3\).*found \(2, 4\)"):
        bank.fill(torch.zeros(2, D), torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))
    assert torch.equal(bank.keys, before)


def test_contents_are_kept_and_do_not_follow_what_they_came_from():
    bank, other = make(), Bank(D, GENES)
    other.room({f"bank.{k}": v for k, v in bank.state_dict().items()}, "bank.")
    other.load_state_dict(bank.state_dict())
    assert len(other) == N
    queries = torch.randn(4, D)
    assert torch.equal(other.nearest(queries, 2)[0], bank.nearest(queries, 2)[0])
    keys = torch.randn(3, D, requires_grad=True)
    other.fill(keys, torch.zeros(3, GENES), torch.zeros(3, dtype=torch.long))
    assert not other.keys.requires_grad
    assert len(other) == 3
    assert (other.section == -1).all()
    assert other.nearest(queries, 2, section=torch.full((4,), -1))[1].isfinite().all()  # -1 is nobody's number
    with torch.no_grad():
        keys += 1
    assert not torch.equal(other.keys, keys)


def test_room_takes_no_width_from_a_bank_of_another_panel():
    bank, other = make(), Bank(D, GENES + 1)
    other.room({f"bank.{k}": v for k, v in bank.state_dict().items()}, "bank.")
    assert other.values.shape == (N, GENES + 1)
    with pytest.raises(RuntimeError, match="size mismatch"):
        other.load_state_dict(bank.state_dict())
    empty = Bank(D, GENES)
    empty.room({}, "bank.")
    assert len(empty) == 0


def test_a_large_bank_is_searched_within_little_memory(memory_grown_by):
    torch.manual_seed(0)
    bank = Bank(16, 1)
    bank.fill(torch.randn(50_000, 16), torch.zeros(50_000, 1), torch.arange(50_000) % 10)
    queries, found = torch.randn(3_000, 16), {}

    def search():
        found["index"], _ = bank.nearest(queries, 3, patient=torch.arange(3_000) % 11 - 1)

    assert memory_grown_by(search) < 0.4e9  # all distances at once take 0.6 GB
    rows = torch.tensor([0, 1, 2_999])
    exact = torch.cdist(queries[rows], bank.keys, compute_mode="donot_use_mm_for_euclid_dist")
    exact[bank.patient == rows[:, None] % 11 - 1] = torch.inf
    assert torch.equal(exact.topk(3, largest=False).indices, found["index"][rows])
