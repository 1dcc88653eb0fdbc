"""BG-TRIPLEX: TRIPLEX, whose tiles and neighbors are guided by edges and nuclei."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from stpredict.core._validate import check_choice
from stpredict.models._triplex import Triplex, TriplexConfig
from stpredict.models.base._batch import Batch
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.nn._attention import CrossEncoder
from stpredict.models.nn._branches import CENTER, SIDE, check_neighbors, masked_tokens, projection
from stpredict.models.nn._standardize import Standardize

_DRAWINGS = ("edges", "nuclei")


@dataclass(frozen=True)
class BGTriplexConfig(TriplexConfig):
    """Hyperparameters of `bg_triplex`: those of :class:`TriplexConfig`, and of the guidance.

    Attributes
    ----------
    guide_keys
        What the tokens of a spot's own tile look at: `"tokens"`, the drawings of all 25 tiles around it, nearer ones
        more at first; or `"single"`, the one of its own tile, among which nothing can be chosen.
    share_guide
        Whether the tile and the neighbors are guided by the same weights; these then know no places.
    """

    guide_keys: Literal["tokens", "single"] = "tokens"
    share_guide: bool = False

    def __post_init__(self) -> None:
        """Check what fits together."""
        super().__post_init__()
        if self.depth[0] < 1:
            raise ValueError(f"expected at least one layer of fusion, and so of guidance; found depth={self.depth}")
        check_choice(self.guide_keys, ("tokens", "single"), "guide_keys")


class Guide(nn.Module):
    """Add to tokens what they find among drawings, beyond what they would find in an empty one.

    Where all drawings are empty the tokens stay as they are. Layers have the sizes of the fusion.

    Parameters
    ----------
    dim, depth, heads, mlp
        See :class:`~stpredict.models.nn._attention.CrossEncoder`.
    dropout
        Dropout of what is added.
    **square
        Square whose cells the drawings are.
    """

    def __init__(self, dim: int, depth: int, heads: int, mlp: float, dropout: float, **square: Any) -> None:
        super().__init__()
        self.edges, self.nuclei = (CrossEncoder(dim, depth, heads, mlp, **square) for _ in _DRAWINGS)
        for encoder in (self.edges, self.nuclei):  # the last bias is the same with an empty drawing
            *_, last = (layer for layer in encoder.modules() if isinstance(layer, nn.Linear))
            last.register_parameter("bias", None)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor, drawings: dict[str, tuple[Tensor, Tensor]], mask: Tensor) -> Tensor:
        """Guide tokens (n, t, dim) by drawings (n, k, dim), each with an empty one (dim,), inside `mask` (n, k)."""
        added = torch.zeros_like(tokens)
        for name, (keys, empty) in drawings.items():
            encode = getattr(self, name)
            added = added + encode(tokens, keys, mask) - encode(tokens, empty.expand_as(keys))
        return tokens + self.dropout(added)


@register(
    "bg_triplex",
    config=BGTriplexConfig,
    description="TRIPLEX guided by drawings of the edges and nuclei in the 25 tiles around a spot",
    paper="qu2024",
    license_of_reference="none",
)
class BGTriplex(Triplex):
    """Tokens of the tile and of its neighbors look at drawings of edges and nuclei before they are fused.

    All four heads are supervised, those of the guided branches and of the section among them.
    """

    needs = Triplex.needs | {"edges", "nuclei", "boundary_mask"}
    #: Sizes of the published configuration, and what it does otherwise.
    presets = {
        "shipped": Preset(
            {
                "target": "patches", "dim": 512, "depth": (1, 5, 4), "heads": (4, 8, 4), "mlp": (4, 4, 4),
                "dropout": (0.4, 0.3, 0.3), "detach_teacher": False, "shrink": False, "standardize": False, "stain_jitter": 0.0,
                "guide_keys": "single", "share_guide": True,
            },
            {
                "optimizer": "adam", "learning_rate": 1e-4, "weight_decay": 0.0, "schedule": "step", "patience": 20,
                "batch_size": 1, "gradient_clip": 0.0,
            },
            250,
            dict.fromkeys(("neighbors", "section_features", "edges", "nuclei"), 512),
        )
    }  # fmt: skip
    published = None

    config: BGTriplexConfig

    def __init__(self, config: BGTriplexConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        dim = config.dim
        width = shape.width("features") if self.target_encoder is None else self.target_encoder.n_outputs
        self.target_linear = projection(width, dim)
        self.of_edges, self.of_nuclei = (Standardize(shape.width(name), of=name) for name in _DRAWINGS)
        self.edge_encoder, self.nuclei_encoder = (
            nn.Sequential(nn.Linear(shape.width(name), dim), nn.LayerNorm(dim)) for name in _DRAWINGS
        )
        sizes = (config.depth[0], config.heads[0], config.mlp[0], config.dropout[0])
        places = {} if config.share_guide else {"side": SIDE}
        self.guide_context = Guide(dim, *sizes, **places)
        self.guide_spot = None
        if not config.share_guide:
            self.guide_spot = Guide(dim, *sizes, **(places | {"centered": True} if self._sees_around else {}))

    @property
    def _sees_around(self) -> bool:
        return self.config.guide_keys == "tokens"

    def target_tokens(self, batch: Batch) -> Tensor:
        """Tokens (n, k, dim) of the spots' own tiles, guided."""
        tokens = super().target_tokens(batch)
        drawings, mask = self._drawings(batch)
        if not self._sees_around:
            middle = slice(CENTER, CENTER + 1)
            drawings = {name: (keys[:, middle], empty) for name, (keys, empty) in drawings.items()}
            mask = mask[:, middle]
        return (self.guide_spot or self.guide_context)(tokens, drawings, mask)

    def neighbor_tokens(self, batch: Batch) -> Tensor:
        """Tokens (n, 25, dim) of the tiles around the spots, guided, before they see each other; 0 outside the mask."""
        tokens = self.guide_context(super().neighbor_tokens(batch), *self._drawings(batch))
        return masked_tokens(tokens, batch["neighbor_mask"])

    def _drawings(self, batch: Batch) -> tuple[dict[str, tuple[Tensor, Tensor]], Tensor]:
        """Tokens (n, 25, dim) of both drawings, each with that of an empty one, and which tiles there are."""
        mask = batch["boundary_mask"]
        found = {}
        for name, units, encode in (
            ("edges", self.of_edges, self.edge_encoder), ("nuclei", self.of_nuclei, self.nuclei_encoder)
        ):  # fmt: skip
            check_neighbors(batch[name])
            values = masked_tokens(units(batch[name]), mask)
            found[name] = (encode(values), encode(torch.zeros_like(values[0, 0])))
        return found, mask
