"""Sentences of genes and their values, all genes at once, as one vector each."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.nn._attention import CrossEncoder

_LARGEST = 1 << 20  # values that quantiles are taken of


class Nudge(NamedTuple):
    """What is added to the embeddings of the genes (g, dim) and of the values (n, g, dim) of sentences."""

    gene: Tensor
    value: Tensor


class GeneSentences(nn.Module):
    r"""Tokens of genes :math:`e_g`, from their texts, and of values :math:`u(y)`, bound to each other and pooled by attention.

    .. math:: s = \mathrm{LN}(e_g + u(y) + e_g \odot \tanh(W u(y)))

    The product binds a value to its gene: a sum alone, pooled by a mean, is the same whichever gene has which value.

    Parameters
    ----------
    n_inputs
        Width of the texts of genes.
    dim
        Width of the tokens.
    n_bins
        Quantile bins of values, each with an embedding of its own beside that of the value itself.
    bind
        `"product"`: as above. `"concat"`: a layer on both side by side. `"none"`: their sum, pooled by its mean: a control that
        cannot know which gene has which value.
    n_latents, depth
        Learned queries that pool the tokens, and layers of that.
    heads, mlp
        Heads and width of the feed-forward (times `dim`) of the pooling.
    chunk
        Most pairs of a sentence and a gene whose tokens are held at once.
    """

    edges: Tensor

    def __init__(
        self,
        n_inputs: int,
        dim: int,
        n_bins: int,
        *,
        bind: Literal["product", "concat", "none"] = "product",
        n_latents: int = 1,
        depth: int = 1,
        heads: int = 8,
        mlp: float = 4.0,
        chunk: int = 2**14,
    ) -> None:
        super().__init__()
        self.how, self.chunk = bind, chunk
        self.text_proj = nn.Linear(n_inputs, dim)
        self.value_mlp = nn.Sequential(nn.Linear(1, dim // 2), nn.GELU(), nn.Linear(dim // 2, dim))
        self.value_bins = nn.Embedding(n_bins, dim)
        self.register_buffer("edges", torch.zeros(n_bins - 1))
        if bind == "none":
            return
        self.bind: nn.Module = nn.Linear(dim, dim)
        if bind == "concat":
            self.bind = nn.Sequential(nn.Linear(2 * dim, dim), nn.GELU(), nn.Linear(dim, dim))
        self.norm = nn.LayerNorm(dim)
        self.latents = nn.Parameter(0.02 * torch.randn(n_latents, dim))
        self.pool = CrossEncoder(dim, depth, heads, mlp)

    def take(self, values: Tensor) -> None:
        """Take the bins from values of the training set."""
        n = len(self.edges) + 1
        self.edges.copy_(quantiles(values, torch.arange(1, n) / n))

    def values(self, values: Tensor) -> Tensor:
        """Embed values (...) as (..., dim)."""
        small = values.sign() * values.abs().log1p()
        return self.value_mlp(small.unsqueeze(-1)) + self.value_bins(torch.bucketize(values.contiguous(), self.edges))

    def tokens(self, gene: Tensor, value: Tensor) -> Tensor:
        """Bind the embeddings of values (..., g, dim) to those of genes (g, dim)."""
        if self.how == "none":
            return gene + value
        if self.how == "concat":
            return self.norm(self.bind(torch.cat([gene.expand_as(value), value], dim=-1)))
        return self.norm(gene + value + gene * torch.tanh(self.bind(value)))

    def forward(self, texts: Tensor, values: Tensor, nudge: Nudge | None = None) -> Tensor:
        """Pool sentences of the same genes, whose texts (g, n_inputs) are given, with values (n, g): (n, dim).

        The tokens of at most `chunk` pairs are held at once, and made again on the way back where there are more: what
        comes out is the same, but for the order of sums.
        """
        if not len(values):
            return self.text_proj.weight.new_zeros(0, self.text_proj.out_features)
        return torch.cat([self._some(texts, *part) for part in self._rows(values, nudge)])

    def single(self, texts: Tensor, values: Tensor) -> Tensor:
        """Pool sentences of one gene each, of every gene (g, n_inputs) with each of its values (n, g): (n, g, dim)."""
        tokens = self.tokens(self.text_proj(texts), self.values(values))
        if self.how == "none":
            return tokens
        flat = tokens.flatten(0, -2).unsqueeze(1)
        return self._pooled(self.pool.in_parts(self._queries(len(flat)), [lambda: flat])).unflatten(0, values.shape)

    def _rows(self, values: Tensor, nudge: Nudge | None) -> list[tuple[Tensor, Nudge | None]]:
        """Sentences, at most `chunk` of them at a time."""
        if nudge is None:
            return [(part, None) for part in values.split(self.chunk)]
        parts = zip(values.split(self.chunk), nudge.value.split(self.chunk), strict=True)
        return [(part, Nudge(nudge.gene, own)) for part, own in parts]

    def _some(self, texts: Tensor, values: Tensor, nudge: Nudge | None) -> Tensor:
        n_genes = max(1, self.chunk // len(values))

        def tokens(genes: slice) -> Tensor:
            gene, value = self.text_proj(texts[genes]), self.values(values[:, genes])
            if nudge is not None:
                gene, value = gene + nudge.gene[genes], value + nudge.value[:, genes]
            return self.tokens(gene, value)

        parts: list[Callable[[], Tensor]] = [
            partial(tokens, slice(start, start + n_genes)) for start in range(0, len(texts), n_genes)
        ]
        recompute = len(parts) > 1 and torch.is_grad_enabled()
        if self.how == "none":
            return torch.stack([part().sum(dim=1) for part in parts]).sum(dim=0) / len(texts)
        return self._pooled(self.pool.in_parts(self._queries(len(values)), parts, recompute=recompute))

    def _queries(self, n: int) -> Tensor:
        return self.latents.expand(n, -1, -1)

    def _pooled(self, latents: Tensor) -> Tensor:
        return latents.mean(dim=1)


def quantiles(values: Tensor, levels: Tensor) -> Tensor:
    """Quantiles of many values at some levels, of evenly spaced ones among the sorted where there are very many."""
    ordered = values.flatten().float().sort().values
    step = -(-len(ordered) // _LARGEST)
    kept = ordered[step // 2 :: step]
    return torch.quantile(kept, levels.to(kept))


def swapped(values: Tensor, share: float) -> Tensor:
    """Exchange the values (n, g) of a share of the genes of each sentence among each other, at least those of two."""
    n, g = values.shape
    n_moved = min(g, max(2, round(share * g)))
    chosen = torch.rand(n, g).argsort(dim=1)[:, :n_moved].to(values.device)
    # A cycle of genes in a random order: each of them gets the value of another.
    return values.scatter(1, chosen, values.gather(1, chosen.roll(1, dims=1)))


def steepest(gradient: Tensor, embedding: Tensor, size: float) -> Tensor:
    """A step up a gradient (..., d), of each vector by a share `size` of its own length."""
    return size * embedding.norm(dim=-1, keepdim=True) * F.normalize(gradient, dim=-1)


def discriminator_loss(
    encoder: GeneSentences, discriminator: nn.Module, texts: Tensor, values: Tensor, false: Tensor, reversal: float
) -> Tensor:
    """Cross-entropy of telling tokens of genes with their own values from those with `false` ones.

    The encoder gets the gradient turned around, times `reversal`: it learns to hide what the discriminator learns to see.

    Parameters
    ----------
    encoder
        Makes the tokens.
    discriminator
        Maps tokens (n, g, dim) to logits (n, g, 1).
    texts, values, false
        (g, n_inputs), and (n, g) values, of which those that are the same in both count as true alone.
    reversal
        Factor of the gradient of the encoder.
    """
    gene, losses = encoder.text_proj(texts), []
    for own, label in ((values, 1.0), (false, 0.0)):
        tokens = encoder.tokens(gene, encoder.values(own))
        logits = discriminator(reversed_gradient(tokens, reversal)).squeeze(2)
        counts = torch.ones_like(own) if label else (own != values).to(own.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, label), reduction="none")
        losses.append((loss * counts).sum() / counts.sum().clamp_min(1))
    return torch.stack(losses).mean()


def reversed_gradient(values: Tensor, factor: float) -> Tensor:
    """Values as they are, whose gradient is turned around and multiplied by a factor."""
    return (1 + factor) * values.detach() - factor * values
