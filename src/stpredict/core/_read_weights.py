"""Reading weight files without ever unpickling objects."""

from __future__ import annotations

import struct
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING
from zipfile import BadZipFile

if TYPE_CHECKING:
    from torch import Tensor, nn

# What a truncated or foreign file makes zipfile and the restricted unpickler raise.
_DAMAGED = (
    ArithmeticError, AssertionError, AttributeError, BadZipFile, EOFError, LookupError, OSError, RuntimeError,
    TypeError, UnpicklingError, ValueError, struct.error,
)  # fmt: skip

_LARGEST = 1e12  # no training leaves such a weight; it overflows where it is multiplied by others


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dictionary from a safetensors file, or from a torch file restricted to tensors.

    Parameters
    ----------
    path
        File ending in `.safetensors`, or any other name for a file written by `torch.save`.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is truncated, damaged, or holds anything but tensors.
    """
    import torch

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"expected a weight file at {path}; found none")
    from safetensors import SafetensorError

    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (*_DAMAGED, SafetensorError) as error:
        raise ValueError(
            f"expected a complete weight file at {path}; found one that cannot be read ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else 'no message'}); copy or download it again"
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ValueError(f"expected a state dictionary of tensors in {path}; found {type(state).__name__}")
    return state


def check_finite_weights(state: dict[str, Tensor], path: str | Path) -> None:
    """Raise `ValueError` when a weight of a file is NaN, infinite or so large that it would make all outputs so."""
    broken = sorted(
        name for name, value in state.items() if value.is_floating_point() and not (value.abs() < _LARGEST).all()
    )
    if broken:
        raise ValueError(
            f"expected finite weights below {_LARGEST:.0e} in {path}; found others in {len(broken)} tensors (first: "
            f"{broken[0]}); copy or download it again"
        )


def load_into(network: nn.Module, state: dict[str, Tensor], what: str) -> None:
    """Give a network the tensors of its names; a state may hold others, and leave out the counters of batch norms.

    Parameters
    ----------
    network
        What to fill.
    state
        Tensors by name.
    what
        What they ought to be and where they are from, for the error.

    Raises
    ------
    ValueError
        When a tensor is missing or has another shape; the network is left as it was.
    """
    wanted = network.state_dict()
    missing = [k for k in wanted if k not in state and not k.endswith("num_batches_tracked")]
    wrong = [k for k in wanted if k in state and state[k].shape != wanted[k].shape]
    if missing or wrong:
        raise ValueError(
            f"expected the weights of {what}; "
            f"found {len(missing)} tensors missing and {len(wrong)} of another shape (first: {(missing + wrong)[0]})"
        )
    network.load_state_dict({k: state[k] for k in wanted if k in state}, strict=False)
