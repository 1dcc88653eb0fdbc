"""GELU by a hyperbolic tangent, in both of its forms."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from stpredict.models.nn._tanh_gelu import TanhGelu


def test_both_forms_are_the_published_function_and_leave_their_input() -> None:
    values = torch.cat([torch.linspace(-8, 8, 3001), torch.tensor([-1e4, 0.0, 1e4])])
    before = values.clone()
    with torch.no_grad():
        quick = TanhGelu()(values)
    torch.testing.assert_close(quick, F.gelu(values, approximate="tanh"), rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(values, before, rtol=0, atol=0)
    learned = values.clone().requires_grad_()
    kept = TanhGelu()(learned)
    torch.testing.assert_close(kept, quick, rtol=1e-5, atol=2e-6)
    kept.sum().backward()
    wanted = values.clone().requires_grad_()
    F.gelu(wanted, approximate="tanh").sum().backward()
    torch.testing.assert_close(learned.grad, wanted.grad)
