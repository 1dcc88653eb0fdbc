"""Language models that networks reason with, and never train: by name, so that a saved network finds its own again."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from stpredict.core._device import seed_torch
from stpredict.models.nn._attention import TransformerEncoder

Factory = Callable[[], "tuple[Tensor, nn.Module | None]"]
_FACTORIES: dict[str, Factory] = {}
#: Name of the model that is drawn at random: for tests, and as the comparator of one that was trained.
RANDOM = "random"


def register_language_model(name: str, factory: Factory) -> None:
    """Enter a language model under a name, for networks such as `"gta"`.

    The weights of a model are saved with a network that reads it; the code is not, so that a process that loads the network
    has to enter the model again.

    Parameters
    ----------
    name
        Name, for `hyperparameters={"language_model": name}`.
    factory
        Function without arguments that returns the embeddings of the tokens (vocabulary, width), and a module from embedded
        tokens (n, n_tokens, width) and a mask (n, n_tokens), `True` where a token is none of padding, to states of the same
        shape; or `None` in place of the module, for embeddings alone.

    Returns
    -------
    `None`.

    Raises
    ------
    ValueError
        When the name is taken by another function.

    Examples
    --------
    >>> import torch, stpredict as stp
    >>> stp.models.register_language_model("toy", lambda: (torch.randn(50, 16), None))
    """
    if name == RANDOM or _FACTORIES.get(name, factory) is not factory:
        raise ValueError(f"expected a new name of a language model; found {name!r}, which is taken; choose another")
    _FACTORIES[name] = factory


class LanguageModel(nn.Module):
    """A frozen language model: no gradient reaches its weights, and it stays in evaluation mode.

    Parameters
    ----------
    name
        `"random"`, or a name of :func:`register_language_model`.
    width, depth, heads, vocabulary
        Sizes of the random one.
    seed
        Seed of its weights.

    Attributes
    ----------
    width
        Length of its states.
    """

    embedding: Tensor

    def __init__(self, name: str, *, width: int, depth: int, heads: int, vocabulary: int, seed: int) -> None:
        super().__init__()
        table, body = _random(width, depth, heads, vocabulary, seed) if name == RANDOM else _made(name)
        self.body = nn.Identity() if body is None else body
        self.register_buffer("embedding", table.detach().clone().float())
        self.plain = body is None
        self.width = int(table.shape[1])
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> LanguageModel:
        """Stay in evaluation mode, whatever is asked for."""
        return super().train(False)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """States (n, n_tokens, width) of embedded tokens, of which those outside the mask are padding."""
        if self.plain:  # nothing but embeddings: a token is told the mean of all
            share = mask[..., None] / mask.sum(dim=1, keepdim=True)[..., None].clamp_min(1)
            return tokens + (tokens * share).sum(dim=1, keepdim=True)
        found: Any = self.body(tokens, mask)
        if found.shape != tokens.shape:
            raise ValueError(
                f"expected a language model from tokens {tuple(tokens.shape)} to states of the same shape; found {tuple(found.shape)}"
            )
        return found


def _made(name: str) -> tuple[Tensor, nn.Module | None]:
    if name not in _FACTORIES:
        known = ", ".join([RANDOM, *sorted(_FACTORIES)])
        raise KeyError(
            f"expected a language model among {known}; found {name!r}; enter it with stp.models.register_language_model"
        )
    table, body = _FACTORIES[name]()
    if not isinstance(table, Tensor) or table.ndim != 2:
        raise TypeError(
            f"expected embeddings (vocabulary, width) of {name!r} as a tensor; found {type(table).__name__}"
        )
    return table, body


def _random(width: int, depth: int, heads: int, vocabulary: int, seed: int) -> tuple[Tensor, nn.Module]:
    """Embeddings and a transformer as they are drawn, the same for a seed whatever else was drawn."""
    with torch.random.fork_rng(devices=[]):
        seed_torch(seed)
        body = TransformerEncoder(width, depth, heads, 4.0)
        return torch.randn(vocabulary, width), body
