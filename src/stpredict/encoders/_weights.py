"""Weights of an encoder: from a file or the hub, checked against the network before they are used."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def download_weights(repository: str, filename: str, name: str) -> Path:
    """Return the path of a weight file of the Hugging Face hub, downloaded when it is not in the hub's cache.

    Raises
    ------
    RuntimeError
        When the repository is gated and access was not granted.
    FileNotFoundError
        When it cannot be reached (offline, `HF_HUB_OFFLINE=1`) and is not in the cache, or has no such file.
    """
    from stpredict.core._optional import optional_import

    hub = optional_import("huggingface_hub", "encoders")
    errors = optional_import("huggingface_hub.errors", "encoders")
    address = f"https://huggingface.co/{repository}"
    instead = f"or download {filename} from {address} elsewhere and pass `weights=PATH`"
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    try:
        return Path(hub.hf_hub_download(repository, filename, local_files_only=offline))
    except errors.GatedRepoError as error:
        raise RuntimeError(
            f"expected access to the gated weights of encoder {name!r} ({repository}); found none; accept its terms at "
            f"{address}, log in with `hf auth login`, {instead}"
        ) from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise FileNotFoundError(
            f"expected the weights of encoder {name!r} ({repository}, {filename}) on the hub or in its cache; found neither: "
            f"the hub is not reachable, or HF_HUB_OFFLINE is set; connect, {instead}"
        ) from error
    except errors.HfHubHTTPError as error:
        raise FileNotFoundError(
            f"expected {filename} in the hub repository {repository} for encoder {name!r}; the hub answered: "
            f"{str(error).splitlines()[0]}; check the name, {instead}"
        ) from error


def few(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (f", … ({len(names)} in all)" if len(names) > 4 else "")


def load_weights(
    network: nn.Module,
    state: Mapping[str, Tensor],
    name: str,
    *,
    remap: Callable[[dict[str, Tensor]], dict[str, Tensor]] | None = None,
    optional: Sequence[str] = (),
) -> None:
    """Load a state dictionary into a network after checking every key, shape and value.

    Parameters
    ----------
    network
        Changed in place, only when everything fits.
    state
        Tensors by name; a leading `module.` is taken off, half precision becomes float32.
    name
        Name of the encoder, for messages.
    remap
        Turns the keys of a published file into those of the network.
    optional
        Prefixes of keys that may be absent or superfluous (a classifier).

    Raises
    ------
    ValueError
        When keys are missing or superfluous, a shape differs, or a value is not finite.
    """
    import torch

    tensors = {key.removeprefix("module."): value for key, value in state.items()}
    if remap is not None:
        tensors = remap(tensors)
    spare = tuple(optional)
    expected = network.state_dict()
    counters = {key for key in expected if key.endswith("num_batches_tracked")}
    missing = sorted(key for key in set(expected) - set(tensors) - counters if not (spare and key.startswith(spare)))
    extra = sorted(key for key in set(tensors) - set(expected) if not (spare and key.startswith(spare)))
    if missing or extra:
        raise ValueError(
            f"expected the {len(expected)} tensors of encoder {name!r}; found {len(tensors)}"
            + (f"; missing {few(missing)}" if missing else "")
            + (f"; not part of it {few(extra)}" if extra else "")
            + "; these weights belong to another network"
        )
    shared = {key: value for key, value in tensors.items() if key in expected}
    shapes = [
        f"{key} {tuple(expected[key].shape)} (found {tuple(value.shape)})"
        for key, value in shared.items()
        if value.shape != expected[key].shape
    ]
    if [key for key in shapes if not (spare and key.startswith(spare))]:
        raise ValueError(
            f"expected, for encoder {name!r}, weights of shape {few(shapes)}; these belong to another size"
        )
    shared = {key: value for key, value in shared.items() if value.shape == expected[key].shape}
    broken = [key for key, value in shared.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise ValueError(f"expected finite weights for encoder {name!r}; found NaN or infinity in {few(broken)}")
    network.load_state_dict(
        {key: value.float() if value.is_floating_point() else value for key, value in shared.items()},
        strict=False,
        assign=True,
    )
