"""Hyperparameters of CoMTIP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from stpredict.core._validate import check_choice, check_positive

CELL_PX = 32  # side of a token of a tile


@dataclass(frozen=True)
class CoMTIPConfig:
    """Hyperparameters of `comtip`.

    Attributes
    ----------
    image
        What a spot is seen as. `"neighbors"`: a map of 5 x 5 tokens, frozen features of its tile and the tiles around it, read in
        the middle. `"patches"`: its tile, cut into tokens of 32 x 32 pixels, read by their mean. `"features"`: one token, of
        which nothing can be hidden.
    gene_table
        Table of genes in `varm`, the embeddings of their texts, see :func:`stpredict.pp.gene_table`.
    head
        What predicts the genes of the panel. `"mlp"`: a head on the embedding of the picture. `"query"`: a linear map of it that
        the embeddings of genes ask. `"grid"`: no head; every gene is predicted as genes never seen are.
    dim, depth, heads, mlp, dropout
        Width, layers, heads, width of the feed-forward (times `dim`) and dropout of the transformer on the tokens. The tokens
        of genes have the same width.
    n_embedding
        Width of the common space.
    masked
        Share of the tokens that are hidden, to be told from the others.
    bind
        How a gene and its value become a token, see :class:`~stpredict.models.nn._gene_sentences.GeneSentences`.
    paat
        Pair-aware adversarial training. `"swap"`: sentences with exchanged values are worse, and sentences that were moved a
        step against the contrast are as good. `"discriminator"`: one on tokens tells exchanged values, with reversed gradient.
    n_bins, n_grid
        Bins of values that have an embedding, and values that a gene never seen may have: quantiles of the training values.
    n_latents
        Learned queries that pool a sentence; one up to 2,000 genes, and 16 in two layers above, when `None`.
    n_genes, n_single
        Most genes of a sentence in training, which holds 1 to 50 % of the panel; and sentences of one gene beside it.
    swapped, step_size
        Share of the genes whose values are exchanged, and size of the step relative to the embeddings.
    mfm_weight, pair_weight, adversarial_weight
        Weights of hidden tokens, exchanged pairs (or the discriminator) and the step, beside the contrast.
    temperature
        What cosines are divided by at the start; it is learned, and stays at .01 or above.
    chunk
        Most pairs of a sentence and a gene whose tokens are held at once; it changes memory and speed only.
    shrink
        Pull predictions towards the training mean, gene by gene, by as much as held-out observations say.
    patch_um, patch_px
        Side of the patch in µm, and in pixels after resampling, a multiple of 32.
    symmetries
        Turn and mirror patches, or the map of tokens, at random in training.
    stain_jitter
        Largest relative change of the optical density of each stain of patches in training.
    """

    image: Literal["neighbors", "patches", "features"] = "neighbors"
    gene_table: str = "gene_table"
    head: Literal["mlp", "query", "grid"] = "mlp"
    dim: int = 512
    depth: int = 4
    heads: int = 8
    mlp: float = 4.0
    dropout: float = 0.1
    n_embedding: int = 256
    masked: float = 0.5
    bind: Literal["product", "concat", "none"] = "product"
    paat: Literal["swap", "discriminator"] = "swap"
    n_bins: int = 32
    n_grid: int = 32
    n_latents: int | None = None
    n_genes: int = 512
    n_single: int = 16
    swapped: float = 0.3
    step_size: float = 0.01
    mfm_weight: float = 1.0
    pair_weight: float = 0.5
    adversarial_weight: float = 0.5
    temperature: float = 0.07
    chunk: int = 2**14
    shrink: bool = True
    patch_um: float = 112.0
    patch_px: int = 224
    symmetries: bool = True
    stain_jitter: float = 0.05

    def __post_init__(self) -> None:
        """Check the choices and what fits together."""
        for name, choices in (
            ("image", ("neighbors", "patches", "features")),
            ("head", ("mlp", "query", "grid")),
            ("bind", ("product", "concat", "none")),
            ("paat", ("swap", "discriminator")),
        ):
            check_choice(getattr(self, name), choices, name)
        for name in ("n_embedding", "n_grid", "n_genes", "n_single", "temperature", "chunk", "step_size"):
            check_positive(getattr(self, name), name)
        if self.n_latents is not None:
            check_positive(self.n_latents, "n_latents")
        if self.n_bins < 2:
            raise ValueError(f"expected n_bins of at least 2; found {self.n_bins!r}")
        for name in ("masked", "swapped"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"expected {name} in 0–1; found {getattr(self, name)!r}")
        for name in ("mfm_weight", "pair_weight", "adversarial_weight"):
            if getattr(self, name) < 0:
                raise ValueError(f"expected {name} of at least 0; found {getattr(self, name)!r}")
        if self.image == "patches" and self.patch_px % CELL_PX:
            raise ValueError(f"expected patch_px to be a multiple of {CELL_PX}; found {self.patch_px!r}")
