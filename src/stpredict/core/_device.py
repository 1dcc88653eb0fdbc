"""Which device work runs on."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def resolve_device(device: str | torch.device | None = None) -> torch.device:
    """Return the device asked for, or the accelerator where there is one (`settings.device` is the default)."""
    import torch

    from stpredict.core._settings import settings

    name = str(device or settings.device)
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def seed_torch(seed: int) -> None:
    """Seed the generators of torch: the processor's, and those of the accelerators of this machine.

    `torch.manual_seed` does the same, but formats the stack for every kind of accelerator that was never used, to seed
    it later: on a machine without any, that takes 3 ms of each epoch.
    """
    import torch

    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(seed)
    if torch.backends.mps.is_available():
        torch.mps.manual_seed(seed)
