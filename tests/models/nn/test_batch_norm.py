"""Batch norm of few and small pictures."""

from __future__ import annotations

import torch

from stpredict.models.nn._batch_norm import BatchNorm2d
from stpredict.models.nn._densenet import DenseNet121
from stpredict.models.nn._resnet import ResNet50
from stpredict.models.nn._shufflenet import ShuffleNet


def test_batch_norm_of_a_single_value_uses_its_running_statistics():
    norm = BatchNorm2d(2)
    norm.running_mean.copy_(torch.tensor([1.0, 2.0]))
    maps = torch.tensor([2.0, 4.0]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(norm.train()(maps), norm.eval()(maps))
    assert norm.running_mean.tolist() == [1.0, 2.0]
    many = torch.randn(3, 2, 4, 4)
    torch.testing.assert_close(norm.train()(many), torch.nn.BatchNorm2d(2)(many))


def test_one_small_patch_is_a_batch_of_every_body() -> None:
    """An epoch may leave one spot for its last step."""
    for body in (DenseNet121, ResNet50):
        torch.manual_seed(0)
        assert body().train()(torch.randn(1, 3, 32, 32)).isfinite().all()
    assert all(maps.isfinite().all() for maps in ShuffleNet().train()(torch.randn(1, 3, 16, 16)))
