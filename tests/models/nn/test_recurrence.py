"""A gated linear recurrence, against a loop over its positions."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from stpredict.models.nn import _caduceus, _recurrence
from stpredict.models.nn._caduceus import Mamba
from stpredict.models.nn._recurrence import causal_convolution, kernel_for, linear_recurrence, selective_scan

N, WIDTH, STATE = 2, 3, 4


def looped(decay: Tensor, inputs: Tensor, start: Tensor) -> Tensor:
    states = []
    for a, b in zip(decay.unbind(1), inputs.unbind(1), strict=True):
        start = a * start + b
        states.append(start)
    return torch.stack(states, dim=1)


def drawn(length: int, *shape: int, low: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(length)
    decay, inputs = (torch.rand(N, length, *shape, generator=generator, dtype=torch.double) for _ in range(2))
    start = torch.rand(N, *shape, generator=generator, dtype=torch.double)
    return tuple(each.requires_grad_() for each in (low + decay, inputs - 0.5, start))  # type: ignore[return-value]


@pytest.mark.parametrize("length", [*range(1, 10), 16, 31])
def test_states_and_gradients_are_those_of_a_loop(length: int) -> None:
    tensors = drawn(length, WIDTH)
    worth = torch.randn(N, length, WIDTH, dtype=torch.double)
    results = []
    for function in (linear_recurrence, looped):
        states = function(*tensors)
        results.append((states, *torch.autograd.grad((states * worth).sum(), tensors)))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_decay_so_strong_that_its_products_underflow_is_exact() -> None:
    decay, inputs, start = (each.detach().float() for each in drawn(4096, WIDTH))
    decay = decay**20
    assert decay.log().sum(dim=1).max() < -1e4
    found = linear_recurrence(decay, inputs, start)
    torch.testing.assert_close(found, looped(decay, inputs, start), rtol=1e-5, atol=1e-6)


def scanned(length: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    values, step = (torch.randn(N, length, WIDTH, generator=generator) for _ in range(2))
    write, read = (torch.randn(N, length, STATE, generator=generator) for _ in range(2))
    return values, step.exp(), -torch.rand(WIDTH, STATE, generator=generator), write, read


def test_a_selective_scan_is_its_formula_and_goes_on_where_another_stopped() -> None:
    values, step, rate, write, read = scanned(11)
    state = torch.zeros(N, WIDTH, STATE)
    expected = []
    for t in range(11):
        state = (step[:, t, :, None] * rate).exp() * state
        state = state + step[:, t, :, None] * values[:, t, :, None] * write[:, t, None]
        expected.append((state * read[:, t, None]).sum(dim=2))
    start = torch.zeros(N, STATE, WIDTH)
    parts = []
    for at in (slice(0, 4), slice(4, 11)):
        found, start = selective_scan(values[:, at], step[:, at], rate, write[:, at], read[:, at], start)
        parts.append(found)
    torch.testing.assert_close(torch.cat(parts, dim=1), torch.stack(expected, dim=1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(start, state.transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_a_convolution_sees_the_places_before_it_and_none_behind() -> None:
    values, weight, bias = torch.randn(N, 9, WIDTH), torch.randn(WIDTH, 1, 4), torch.randn(WIDTH)
    known = torch.cat([torch.zeros(N, 3, WIDTH), values], dim=1)
    expected = torch.stack([(known[:, t : t + 4] * weight[:, 0].T).sum(dim=1) + bias for t in range(9)], dim=1)
    before, parts = torch.zeros(N, 3, WIDTH), []
    for at in (slice(0, 2), slice(2, 9)):  # fewer places than the convolution sees, and more
        found, before = causal_convolution(values[:, at], before, weight, bias)
        parts.append(found)
    torch.testing.assert_close(torch.cat(parts, dim=1), expected)
    torch.testing.assert_close(before, values[:, -3:])


def test_a_fused_kernel_is_taken_on_accelerators_where_it_is_installed_and_gives_the_same(monkeypatch) -> None:
    def selective_scan_fn(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False):
        """What mamba-ssm computes, with its arguments, and positions last."""
        assert D is z is delta_bias is None
        assert not delta_softplus
        calls.append(u.shape)
        values, step, write, read = (each.transpose(1, 2) for each in (u, delta, B, C))
        start = u.new_zeros(len(u), A.shape[1], A.shape[0])
        return selective_scan(values, step, A, write, read, start)[0].transpose(1, 2)

    calls: list[torch.Size] = []
    assert kernel_for(torch.device("cpu")) is None
    module = ModuleType("mamba_ssm.ops.selective_scan_interface")
    module.selective_scan_fn = selective_scan_fn  # type: ignore[attr-defined]
    for name in ("mamba_ssm", "mamba_ssm.ops"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    _recurrence._mamba_ssm.cache_clear()
    try:
        assert kernel_for(torch.device("cuda")) is selective_scan_fn
        assert kernel_for(torch.device("cpu")) is None
        torch.manual_seed(0)
        mamba, sequence = Mamba(5, STATE), torch.randn(N, 20, 5)
        kept = torch.rand(N, 20)
        for backwards in (False, True):
            expected = mamba(sequence, kept, 8, backwards=backwards)
            with monkeypatch.context() as patch:
                patch.setattr(_caduceus, "kernel_for", lambda device: selective_scan_fn)
                found = mamba(sequence, kept, 8, backwards=backwards)
            torch.testing.assert_close(found, expected)
        assert calls == [(N, 10, 20)] * 2  # the whole sequence at once
    finally:
        _recurrence._mamba_ssm.cache_clear()
