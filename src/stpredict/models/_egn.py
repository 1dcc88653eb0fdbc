"""EGN: the spots of a section, guided by the measured expression of similar training spots of other patients."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from stpredict.models.base._batch import Batch, Prediction
from stpredict.models.base._predictor import Predictor
from stpredict.models.base._preset import Preset
from stpredict.models.base._registry import register
from stpredict.models.base._shape import Shape
from stpredict.models.nn._bank import Bank
from stpredict.models.nn._graph import mean_of_neighbors, spatial_neighbors
from stpredict.models.nn._heads import RegressionHead
from stpredict.models.nn._standardize import Standardize
from stpredict.models.nn._weighted import correlation_loss

_SLOPE = 0.2
_REACH = math.sqrt(2)  # pitches: the eight spots around one on a square array
_GATES = 4  # hidden units per gate score


@dataclass(frozen=True)
class EGNConfig:
    """Hyperparameters of `egn`.

    Attributes
    ----------
    hidden
        Width of spots and exemplars; a multiple of 4.
    layers
        Convolutions over spots, exemplars and between them.
    exemplars
        Training spots that are looked up for each spot: those with the nearest features.
    exemplar_neighbors
        Neighbors of an exemplar among those of the section, nearest in features and expression together.
    neighbors
        Neighbors of a spot at most, within the diagonal of the array's pitch.
    temperature
        Factor of the values whose softmax weights the exemplars of a spot in the last step.
    pcc
        Weight of 1 - Pearson's correlation of each gene over the section; 0 for none.
    same_patient
        Whether to look up spots of the query's own patient as well (never, in training, of its own section). A prediction for a
        training patient then rests on that patient's measurements, and must not be taken for one of a new patient.
    """

    hidden: int = 512
    layers: int = 4
    exemplars: int = 3
    exemplar_neighbors: int = 3
    neighbors: int = 5
    temperature: float = 0.1
    pcc: float = 0.5
    same_patient: bool = False

    def __post_init__(self) -> None:
        """Check what fits together."""
        if self.hidden < _GATES or self.hidden % _GATES:
            raise ValueError(f"expected hidden to be a multiple of {_GATES}; found hidden={self.hidden}")
        if self.exemplars < 1:
            raise ValueError(f"expected at least one exemplar; found exemplars={self.exemplars}")


@register(
    "egn",
    config=EGNConfig,
    description="Graph of the spots of a section and of similar training spots with their expression",
    paper="yang2024",
    license_of_reference="none",
)
class EGN(Predictor):
    """Frozen image features of a section's spots and of looked-up training spots, convolved over a graph of both.

    No spot looks up itself: in training, inner validation and prediction alike, the exemplars of a spot are those of
    other patients. Where all training spots are of one patient, they are those of other sections, in training and inner
    validation; at prediction for that patient there is none, which is an error.
    """

    draws = "sections"
    several_sections = False
    needs = frozenset({"features", "positions"})
    training_defaults = {"learning_rate": 5e-4, "max_epochs": 50, "refit": True}
    paper = Preset(
        {"exemplars": 6},
        {"max_epochs": 300, "patience": 300, "monitor": "correlation", "refit": False, "gradient_clip": 0.0},
    )
    own_tensors = (*Predictor.own_tensors, "bank.", "exemplar_expression.", "expression.")
    small = {"hidden": 64, "layers": 2}

    config: EGNConfig

    def __init__(self, config: EGNConfig, shape: Shape) -> None:
        super().__init__(config, shape)
        self.standardize = Standardize(shape.width("features"))
        self.bank = Bank(shape.width("features"), shape.n_outputs)
        hidden = config.hidden
        self.spot = nn.Linear(shape.width("features"), hidden, bias=False)
        # One linear map of features and expression side by side, in two parts.
        self.exemplar_features = nn.Linear(shape.width("features"), hidden, bias=False)
        self.exemplar_expression = nn.Linear(shape.n_outputs, hidden, bias=False)
        self.common = nn.Sequential(nn.LeakyReLU(_SLOPE), nn.Linear(hidden, hidden, bias=False), nn.LeakyReLU(_SLOPE))
        self.expression = nn.Linear(shape.n_outputs, hidden, bias=False)
        self.layers = nn.ModuleList(_Layer(hidden) for _ in range(config.layers))
        self.pool = _Pool(hidden, config.temperature)
        self.head = RegressionHead(hidden, shape.n_outputs)

    def remember(self, batches: Iterable[Batch]) -> None:
        """Fill the bank with the spots to be trained on.

        Raises
        ------
        ValueError
            When no spot could look up another.
        """
        self._fill(batches)
        only_sections = self.config.same_patient or len(self.bank.patient.unique()) == 1
        if only_sections and len(self.bank.section.unique()) == 1:
            raise ValueError(
                "expected training spots of several patients, or of several sections of one, so that no spot looks up "
                "itself; found one section, without what the inner validation holds out; train on more sections, or "
                "without inner validation: training={'patience': 0}"
            )

    def finish(self, batches: Iterable[Batch]) -> None:
        """Fill the bank with the whole training set."""
        self._fill(batches)

    def make_room(self, state: Mapping[str, Tensor]) -> None:
        """Size the bank like a saved one."""
        super().make_room(state)
        self.bank.room(state, "bank.")

    def exemplars(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Look up the exemplars of the spots of one section.

        Returns
        -------
        Indices (n, exemplars) into the bank, nearest first, and which of them exist.
        """
        patient: Tensor | None = batch.patient
        section: Tensor | None = None
        # Rows with a target are those of training and inner validation, whose sections have the numbers of the bank.
        from_training = batch.outputs() is not None
        if self.config.same_patient or (from_training and len(self.bank.patient.unique()) == 1):
            patient, section = None, batch.section if from_training else None
        index, distance = self.bank.nearest(
            self._standardized(batch), self.config.exemplars, patient=patient, section=section
        )
        return index, distance.isfinite()

    def forward(self, batch: Batch) -> Prediction:
        """Predict the spots of one section."""
        looked_up, exists = self.exemplars(batch)
        members, found = looked_up[exists].unique(return_inverse=True)
        refer = torch.zeros_like(looked_up)
        refer[exists] = found  # where there is none, the first, without weight

        features = self.bank.keys[members]
        values = (self.bank.values[members] - self.target_mean) / self.target_std
        spots = self.common(self.spot(self._standardized(batch)))
        exemplars = self.common(self.exemplar_features(features) + self.exemplar_expression(values))
        expression = self.expression(values)

        near = spatial_neighbors(batch["positions"], self.config.neighbors, reach=_REACH)
        close = _others(torch.cat([features, values], dim=1), self.config.exemplar_neighbors)
        edges = _Edges(*near, *close, refer, exists)
        for layer in self.layers:
            spots, exemplars = layer(spots, exemplars, expression, edges)
        return self.head(self.pool(spots, exemplars, edges), self.target_mean, self.target_std)

    def loss(self, prediction: Prediction, batch: Batch) -> dict[str, Tensor]:
        """Loss of the target and, weighted, 1 - correlation of each gene over the section."""
        expression = batch.outputs()
        assert expression is not None  # `remember` has refused anything else
        error = super().loss(prediction, batch)["total"]
        parts = {"total": error, "regression": error}
        if self.config.pcc > 0:
            scaled = prediction.mean / self.target_std, expression / self.target_std
            parts["pcc"] = correlation_loss(*scaled, batch.weight)
            parts["total"] = error + self.config.pcc * parts["pcc"]
        return parts

    def _standardized(self, batch: Batch) -> Tensor:
        return self.standardize(batch["features"])

    def _fill(self, batches: Iterable[Batch]) -> None:
        rows = list(batches)
        targets = [expression for batch in rows if (expression := batch.outputs()) is not None]
        if len(targets) < len(rows):
            raise ValueError(
                "expected measured expression to look up; found classes or outcomes; choose another model for these"
            )
        self.bank.fill(
            torch.cat([self._standardized(batch) for batch in rows]),
            torch.cat(targets),
            torch.cat([batch.patient for batch in rows]),
            torch.cat([batch.section for batch in rows]),
        )


def _others(points: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Find the nearest other points of each of (n, d): indices (n, k) and which of them exist."""
    n = len(points)
    if n == 1:
        index = torch.zeros(1, k, dtype=torch.long, device=points.device)
        return index, torch.zeros_like(index, dtype=torch.bool)
    own = torch.arange(n, device=points.device)
    bank = Bank(points.shape[1], 0).to(points.device)
    bank.fill(points, points.new_zeros(n, 0), own)
    index, distance = bank.nearest(points, k, patient=own)
    return index, distance.isfinite()


@dataclass(frozen=True)
class _Edges:
    """Who is next to whom: lists (rows, k) of indices and which of them count.

    `near`: spots next to spots; `close`: exemplars next to exemplars; `refer`: exemplars of each spot.
    """

    near: Tensor
    near_valid: Tensor
    close: Tensor
    close_valid: Tensor
    refer: Tensor
    refer_valid: Tensor


class _Layer(nn.Module):
    """Spots from their neighbors and exemplars; exemplars from their neighbors and the spots that refer to them."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.of_spots = _SAGE(hidden)
        self.of_exemplars = _SAGE(hidden)
        self.bridge = _Bridge(hidden)

    def forward(self, spots: Tensor, exemplars: Tensor, expression: Tensor, edges: _Edges) -> tuple[Tensor, Tensor]:
        to_spots, to_exemplars = self.bridge(spots, exemplars, expression, edges)
        spots = (self.of_spots(spots, edges.near, edges.near_valid) + to_spots) / 2
        exemplars = (self.of_exemplars(exemplars, edges.close, edges.close_valid) + to_exemplars) / 2
        return F.leaky_relu(spots, _SLOPE), F.leaky_relu(exemplars, _SLOPE)


class _SAGE(nn.Module):
    """Linear maps of the value itself and of the mean of the neighbors, added."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.of_neighbors = nn.Linear(hidden, hidden)
        self.of_itself = nn.Linear(hidden, hidden, bias=False)

    def forward(self, values: Tensor, index: Tensor, valid: Tensor) -> Tensor:
        return self.of_neighbors(mean_of_neighbors(values, index, valid)) + self.of_itself(values)


class _Bridge(nn.Module):
    """Exemplar bridging: what a spot and its exemplars tell each other, gated by how they differ."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        n_gates = hidden // _GATES
        self.exemplar, self.spot, self.expression = (nn.Linear(hidden, hidden, bias=False) for _ in range(3))
        self.compare = nn.Linear(hidden, n_gates, bias=False)
        self.gate = nn.Sequential(nn.LeakyReLU(_SLOPE), nn.Linear(n_gates, 2 * n_gates))
        self.to_spot, self.to_exemplar = nn.Linear(hidden, hidden), nn.Linear(hidden, hidden)

    def forward(self, spots: Tensor, exemplars: Tensor, expression: Tensor, edges: _Edges) -> tuple[Tensor, Tensor]:
        refer, weight = edges.refer, edges.refer_valid.to(spots.dtype).unsqueeze(2)
        # What is told has gone through the same activation as what is compared; so it is in the published networks,
        # whose activation works in place.
        spots, exemplars = (F.leaky_relu(v, _SLOPE) for v in (self.spot(spots), self.exemplar(exemplars)))
        expression = self.expression(expression)
        scores = self.compare(exemplars)[refer] - self.compare(spots).unsqueeze(1)
        to_spot, to_exemplar = (weight * gate for gate in self.gate(scores).sigmoid().chunk(2, dim=2))
        here, there, measured = spots.unsqueeze(1), exemplars[refer], expression[refer]

        told_spots = _gated(to_spot, there, measured, here).sum(dim=1) / weight.sum(dim=1).clamp_min(1)
        messages = _gated(to_exemplar, here, there, measured).flatten(0, 1)
        total = _sum_by(refer.flatten(), messages, len(exemplars))
        degree = _sum_by(refer.flatten(), weight.flatten(0, 1), len(exemplars))
        return self.to_spot(told_spots), self.to_exemplar(total / degree.clamp_min(1))


def _sum_by(index: Tensor, values: Tensor, n: int) -> Tensor:
    """Sum the rows of values (m, d) with the same index, in full precision: (n, d)."""
    return values.new_zeros(n, values.shape[1], dtype=torch.float32).index_add(0, index, values.float())


def _gated(gate: Tensor, *parts: Tensor) -> Tensor:
    """Mean of three parts (n, k, hidden), gated group by group of their units side by side."""
    shape = gate.shape[:2]
    joined = torch.cat([part.expand(*shape, -1) for part in parts], dim=2)
    return (joined.unflatten(2, (gate.shape[2], -1)) * gate.unsqueeze(3)).flatten(2).unflatten(2, (3, -1)).mean(dim=2)


class _Pool(nn.Module):
    """Class-specific residual attention :cite:p:`zhu2021`: a spot and, unit by unit, the highest of its exemplars.

    The published softmax is over differences between exemplar and spot; the spot is the same for all of its exemplars
    and cancels.
    """

    def __init__(self, hidden: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.lin = nn.Linear(hidden, hidden)
        self.share = nn.Parameter(torch.tensor([0.1]))

    def forward(self, spots: Tensor, exemplars: Tensor, edges: _Edges) -> Tensor:
        values = exemplars[edges.refer]
        missing = ~edges.refer_valid.unsqueeze(2)
        weights = (self.temperature * values).masked_fill(missing, -torch.inf).softmax(dim=1)
        return self.lin(spots) + self.share * (weights * values).sum(dim=1)
