from __future__ import annotations

import numpy as np
import pytest
import torch

from stpredict.training import ArraySet, Loader, TrainConfig, WholeSections
from stpredict.training._data import summarize
from stpredict.training._validation import inner_sides, inner_split
from stpredict.training.targets import CountsTarget, ValueTarget


def make(patients: int = 3, sections: int = 2, spots: int = 5, seed: int = 0) -> ArraySet:
    rng = np.random.default_rng(seed)
    section = np.repeat(np.arange(patients * sections), spots)
    n = len(section)
    return ArraySet(
        section=section,
        patient=section // sections,
        inputs={
            "positions": rng.uniform(0, 100, (n, 2)).astype(np.float32),
            "features": np.arange(n, dtype=np.float32)[:, None],
            "patches": np.arange(n, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8),
        },
        target=rng.normal(size=(n, 2)).astype(np.float32),
    )


def epochs(loader: Loader, n: int = 2) -> list[list[list[int]]]:
    return [[batch["features"][:, 0].int().tolist() for batch in loader] for _ in range(n)]


def test_order_depends_on_seed_and_epoch_only() -> None:
    data = make()
    first = epochs(Loader(data, batch_size=7, shuffle=True, seed=3), 3)
    np.random.seed(99)  # noqa: NPY002 - the global state is what must not matter
    assert epochs(Loader(data, batch_size=7, shuffle=True, seed=3), 3) == first
    assert first[0] != first[1]
    assert epochs(Loader(data, batch_size=7, shuffle=True, seed=4))[0] != first[0]
    later = Loader(data, batch_size=7, shuffle=True, seed=3)
    later.epoch = 2
    assert epochs(later, 1)[0] == first[2]
    for epoch in first:
        assert sorted(sum(epoch, [])) == list(range(30))
    assert [len(batch) for batch in first[0]] == [7, 7, 7, 7, 2]


def test_without_shuffling_and_by_section() -> None:
    data = make()
    loader = Loader(data, batch_size=8)
    assert sum(epochs(loader, 1)[0], []) == list(range(30))
    assert len(loader) == 4
    sections = Loader(data, "sections", batch_size=1, shuffle=True, seed=1)
    assert len(sections) == 6
    for batch in sections:
        assert len(set(batch.section.tolist())) == 1
        assert len(batch) == 5


def test_shuffled_rows_of_one_section_at_a_time() -> None:
    data = make(spots=7)
    loader = Loader(data, "section_rows", batch_size=3, shuffle=True, seed=1)
    found = [(batch.section.tolist(), batch["features"][:, 0].int().tolist()) for batch in loader]
    assert len(loader) == len(found) == 6 * 3
    assert sorted(sum((rows for _, rows in found), [])) == list(range(42))
    assert all(len(set(section)) == 1 and len(rows) in (2, 3) for section, rows in found)
    order = [section[0] for section, _ in found]
    assert order != sorted(order)
    assert [rows for _, rows in found] != epochs(loader, 1)[0]
    assert any(rows != sorted(rows) for _, rows in found)
    still = Loader(data, "section_rows", batch_size=3)
    assert sum(epochs(still, 1)[0], []) == list(range(42))


def test_batches_hold_what_is_needed() -> None:
    data = make()
    batch = data.batch(np.array([4, 2]), frozenset({"patches"}))
    assert "features" not in batch
    assert batch["patches"].shape == (2, 3, 2, 2)
    assert batch["patches"][:, 0, 0, 0].tolist() == [4, 2]
    assert data.batch(np.array([1]))["features"].tolist() == [[1.0]]


def test_take_keeps_rows_together() -> None:
    data = make()
    part = data.take(np.arange(30) % 2 == 0).take(np.array([3, 1]))
    assert part["features"][:, 0].tolist() == [6, 2]
    assert part["patches"][np.array([0, 1])][:, 0, 0, 0].tolist() == [6, 2]
    assert (len(part), len(part["patches"])) == (2, 2)
    np.testing.assert_array_equal(part.target, data.target[[6, 2]])


def test_permuted_within_sections() -> None:
    data = make(spots=20)
    changed = data.permuted(1)
    np.testing.assert_array_equal(changed["features"], data["features"])
    assert not np.array_equal(changed.target, data.target)
    for code in range(6):
        rows = data.section == code
        np.testing.assert_array_equal(np.sort(changed.target[rows], axis=0), np.sort(data.target[rows], axis=0))
    # Rows stay whole: genes of an observation keep together.
    assert {tuple(row) for row in changed.target} == {tuple(row) for row in data.target}
    np.testing.assert_array_equal(changed.target, data.permuted(1).target)
    data.target = None
    with pytest.raises(ValueError, match="target to permute"):
        data.permuted(1)


def test_each_output_by_a_shuffle_of_its_own_over_all_rows() -> None:
    data = make(spots=20)
    data.target += 10 * data.section[:, None]
    changed = data.permuted(1, by_output=True)
    np.testing.assert_array_equal(changed["features"], data["features"])
    np.testing.assert_array_equal(np.sort(changed.target, axis=0), np.sort(data.target, axis=0))
    means = [changed.target[data.section == code].mean() for code in range(6)]
    assert np.ptp(means) < 25  # 50 before
    kept = {tuple(row) for row in changed.target} & {tuple(row) for row in data.target}
    assert len(kept) < len(data) / 5
    np.testing.assert_array_equal(changed.target, data.permuted(1, by_output=True).target)
    data.labeled = np.arange(len(data)) % 2 == 0
    part = data.permuted(1, by_output=True)
    assert (len(part), part.labeled) == (len(data) // 2, None)
    assert np.isin(part.target, data.target[data.labeled]).all()


def test_a_count_keeps_its_depth_and_fractions_keep_their_rows() -> None:
    rng = np.random.default_rng(0)
    section = np.arange(30) // 15
    counts = rng.permutation(120).reshape(30, 4).astype(np.float32)
    target = np.concatenate([counts, counts + 1000], axis=1)
    kind = CountsTarget(tuple("abcd"), (0.1,) * 4)
    changed = ArraySet(section, section, target=target, kind=kind).permuted(0, by_output=True).target
    np.testing.assert_array_equal(changed[:, 4:] - changed[:, :4], 1000)
    assert (changed[:, :4] != counts).mean() > 0.8
    assert (np.sort(changed[:, :4], axis=0) == np.sort(counts, axis=0)).all()
    fractions = rng.dirichlet(np.ones(3), 30).astype(np.float32)
    kind = ValueTarget.of(("x", "y", "z"), "softmax", fractions, ("", "", ""), "shares")
    changed = ArraySet(section, section, target=fractions, kind=kind).permuted(0, by_output=True).target
    assert {tuple(row) for row in changed} == {tuple(row) for row in fractions}


def test_inner_split_by_patient_section_stripe() -> None:
    data = make(patients=5)
    held_out, unit = inner_split(data, 0.4, seed=0)
    assert unit == "patient"
    assert len(set(data.patient[held_out])) == 2
    assert not set(data.patient[held_out]) & set(data.patient[~held_out])
    assert any(not np.array_equal(inner_split(data, 0.4, seed=s)[0], held_out) for s in range(1, 5))

    one = make(patients=1, sections=3)
    held_out, unit = inner_split(one, 0.01, seed=0)
    assert unit == "section"
    assert len(set(one.section[held_out])) == 1

    single = make(patients=1, sections=1, spots=20)
    held_out, unit = inner_split(single, 0.25, seed=0)
    assert unit == "stripe"
    assert held_out.sum() == 5
    along = int(np.ptp(single["positions"], axis=0).argmax())
    assert single["positions"][held_out, along].min() > single["positions"][~held_out, along].max()

    held_out, unit = inner_split(make(patients=1, sections=1, spots=3), 0.2, seed=0)
    assert unit == "none"
    assert not held_out.any()


@pytest.mark.parametrize("reach", [0.0, 15.0])
def test_a_stripe_lies_behind_a_buffer(reach: float) -> None:
    data = make(patients=1, sections=1, spots=80)
    data.reach_um = reach
    train, validation, unit = inner_sides(data, 0.25, seed=0)
    assert validation is not None
    assert (unit, len(validation)) == ("stripe", 20)
    gap = np.abs(train["positions"][:, None] - validation["positions"]).max(axis=2).min()
    assert gap >= reach
    near = np.abs(data["positions"][:, None] - validation["positions"]).max(axis=2).min(axis=1)
    assert len(train) == (60 if reach == 0 else (near >= reach).sum())
    assert not set(train.section) & set(validation.section)


def test_whole_sections_are_divided_too() -> None:
    data = make(patients=1, sections=1, spots=80)
    data.reach_um = 15.0
    everyone = np.arange(100, dtype=np.float32)[:, None]  # with rows that are not in the set
    data.whole = WholeSections(np.zeros(100, dtype=np.int64), np.arange(80) + 10, {"section_features": everyone})
    for part in inner_sides(data, 0.25, seed=0)[:2]:
        assert part is not None
        seen = part.batch(np.arange(len(part)), frozenset({"section_features", "features"}))
        assert torch.equal(seen["section_features"], seen["features"] + 10)
        assert seen.sections is not None
        assert torch.equal(seen.sections.code, seen.section)


def test_unmeasured_rows_near_a_stripe_are_not_looked_at_either() -> None:
    data = make(patients=1, sections=1, spots=80)
    data.labeled, data.reach_um = np.arange(80) % 2 == 0, 15.0
    train, validation, _ = inner_sides(data, 0.25, seed=0)
    assert validation is not None
    assert 0 < (~train.labeled).sum() < 40
    assert np.abs(train["positions"][:, None] - validation["positions"]).max(axis=2).min() >= 15


def test_a_buffer_that_leaves_too_little_holds_out_nothing() -> None:
    data = make(patients=1, sections=1, spots=80)
    data.reach_um = 70.0
    train, validation, unit = inner_sides(data, 0.25, seed=0)
    assert (train, validation, unit) == (data, None, "none")


def test_patients_and_sections_need_no_buffer() -> None:
    for sizes in ({"patients": 5}, {"patients": 1, "sections": 3}):
        data = make(**sizes)
        data.reach_um = 1000.0
        train, validation, _ = inner_sides(data, 0.4, seed=0)
        assert validation is not None
        assert len(train) + len(validation) == len(data)


def test_something_is_always_left_to_train_on() -> None:
    held_out, _ = inner_split(make(patients=2), 0.99, seed=0)
    assert 0 < held_out.sum() < 20


def test_summary_of_constant_columns() -> None:
    data = make()
    data.target[:, 1] = 7
    summary = summarize(data)
    np.testing.assert_allclose(summary.target_mean, data.target.mean(axis=0), rtol=1e-5)
    assert summary.target_std[1] == 1
    assert summary.moments["features"][1][0].item() == pytest.approx(data["features"].std(), rel=1e-5)


def test_train_config() -> None:
    config = TrainConfig().updated({"max_epochs": 3})
    assert (config.max_epochs, TrainConfig().max_epochs) == (3, 200)
    with pytest.raises(TypeError, match=r"max_epochs, batch_size.*found epochs, lr"):
        config.updated({"lr": 1, "epochs": 2})
    assert TrainConfig(**config.to_dict()) == config
