from __future__ import annotations

import numpy as np
import pytest
import torch

from stpredict.core._constant import TOLERANCE, constant


@pytest.mark.parametrize("scale", [1e-30, 1e-6, 1.0, 1e12])
@pytest.mark.parametrize("sign", [1, -1])
def test_only_the_spread_beside_the_size_counts(scale: float, sign: int) -> None:
    mean = sign * scale * np.ones(5)
    std = scale * np.array([0.0, 1e-9, 0.9 * TOLERANCE, 1.1 * TOLERANCE, 3.0])
    assert constant(std, mean).tolist() == [True, True, True, False, False]
    assert constant(torch.tensor(std), torch.tensor(mean)).tolist() == [True, True, True, False, False]


def test_zeros_are_constant_and_what_is_centered_on_zero_is_not() -> None:
    assert constant(np.array([0.0, 1e-30]), np.zeros(2)).tolist() == [True, False]


def test_rounding_of_a_constant_is_no_spread() -> None:
    for value in (0.1, 1 / 3, 1e7 + 0.1, -2.7e-20):
        values = np.full(100_003, value)
        assert constant(values.std(), values.mean())
        single = values.astype(np.float32) * np.float32(1) / np.float32(3) * np.float32(3)
        assert constant(single.std(dtype=np.float64), single.mean(dtype=np.float64))
