"""Rows with classes, and batches of whole sections."""

from __future__ import annotations

import numpy as np
import torch

from stpredict.models.nn._heads import class_probabilities, classification_loss, one_hot
from stpredict.training import ArraySet, Loader, fit_arrays, train_config
from stpredict.training._data import summarize
from stpredict.training._fit_arrays import _digest
from stpredict.training._loader import row_groups
from stpredict.training.targets import ClassTarget


def make(n: int = 60) -> ArraySet:
    rng = np.random.default_rng(0)
    features = rng.normal(size=(n, 4)).astype(np.float32)
    section = np.arange(n) * 6 // n
    label = (features[:, 0] > 0).astype(np.int64)
    label[::7] = -1
    return ArraySet(section, section // 2, {"features": features}, target=label, kind=ClassTarget("k", ("a", "b")))


def test_classes_become_columns() -> None:
    label = torch.tensor([0, 1, -1])
    two, three = one_hot(label, 1), one_hot(label, 3)
    assert two[:2, 0].tolist() == [0.0, 1.0]  # the second class is the one predicted
    assert three[:2].tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    assert torch.isnan(two[2]).all()
    assert torch.isnan(three[2]).all()


def test_the_loss_is_the_mean_over_known_classes() -> None:
    logits, label = torch.tensor([[0.5], [-1.0], [9.0]]), torch.tensor([1, 0, -1])
    expected = -(torch.sigmoid(logits[0, 0]).log() + torch.sigmoid(-logits[1, 0]).log()) / 2
    torch.testing.assert_close(classification_loss(logits, label), expected)
    several = torch.tensor([[1.0, 0.0, 0.5], [0.0, 2.0, 1.0], [9.0, 0.0, 0.0]])
    expected = -(several[0].log_softmax(0)[1] + several[1].log_softmax(0)[0]) / 2
    torch.testing.assert_close(classification_loss(several, label), expected)
    torch.testing.assert_close(class_probabilities(several).sum(dim=1), torch.ones(3))


def test_the_validation_correlation_is_taken_over_known_classes() -> None:
    config = train_config("mlp", {"max_epochs": 12, "learning_rate": 0.1, "monitor": "correlation", "refit": False})
    history = fit_arrays("mlp", make(), hyperparameters={"hidden": 16, "dropout": 0.0}, config=config).history
    assert history["validation_correlation"].max() > 0.7


def test_grids_come_as_several_whole_sections() -> None:
    data = make()
    groups = row_groups(data, "sections", 4)
    assert [len(np.unique(data.section[rows])) for rows in groups] == [4, 2]
    assert [len(np.unique(data.section[rows])) for rows in row_groups(data, "sections", 1)] == [1] * 6
    loader = Loader(data, "sections", batch_size=4, shuffle=True)
    orders = [[batch.section.unique().tolist() for batch in loader] for _ in range(3)]
    assert len(loader) == 2
    assert all(sorted(sum(order, [])) == list(range(6)) for order in orders)
    assert orders[0] != orders[1] or orders[1] != orders[2]
    assert all(len(batch) == 10 * len(batch.section.unique()) for batch in loader)


def test_networks_start_from_the_shares_of_the_classes() -> None:
    data = make()
    share = (np.bincount(data.target[data.target >= 0]) + 0.5) / ((data.target >= 0).sum() + 1)
    start = summarize(data).target_mean
    torch.testing.assert_close(torch.sigmoid(start), torch.tensor(share[1:]).float())
    data.kind = ClassTarget("k", ("a", "b", "c"))  # the third one is not there
    start = torch.softmax(summarize(data).target_mean, dim=0)
    torch.testing.assert_close(start[1] / start[0], torch.tensor(share[1] / share[0]).float())
    assert 0 < start[2] < 0.02


def test_other_classes_are_another_fit_to_continue() -> None:
    config, data = train_config("mlp"), make()
    digests = [_digest("mlp", {}, config, 0, part, None) for part in (data, make(), data.permuted(0))]
    assert digests[0] == digests[1] != digests[2]
