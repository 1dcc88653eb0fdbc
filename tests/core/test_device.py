from __future__ import annotations

import torch

from stpredict.core._device import seed_torch


def test_draws_are_those_of_torch() -> None:
    torch.manual_seed(7)
    wanted = torch.rand(3)
    seed_torch(7)
    assert torch.equal(torch.rand(3), wanted)


def test_nothing_is_done_for_accelerators_that_are_not_there(monkeypatch) -> None:
    called = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", called.append)
    seed_torch(7)
    assert called == []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    seed_torch(8)
    assert called == [8]
