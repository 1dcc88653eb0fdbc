"""The training set as arrays."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

import numpy as np
import torch

from stpredict.core._derangement import derangement
from stpredict.core._file_rows import FileBags, columns_of, in_files
from stpredict.core._file_squares import FileSquares
from stpredict.models import INPUTS, Batch, Panel, Sections, Summary
from stpredict.training._ragged import Ragged
from stpredict.training._shuffled import shuffled_outputs
from stpredict.training.targets import Target
from stpredict.training.targets._expression import moments, scales

#: Inputs that every batch holds where they are known: places do not depend on the network.
_ALWAYS = frozenset({"positions"})
_SUMMED = 256  # rows that give the moments of an input that is read when it is needed


class RowSource(Protocol):
    """Anything that gives values by row: an array, a memory map, or a stack of memory maps."""

    def __getitem__(self, index: Any) -> np.ndarray: ...

    def __len__(self) -> int: ...


@dataclass
class WholeSections:
    """Inputs that count all observations of sections, whichever rows are taken.

    Attributes
    ----------
    code
        (m,) int64 section of each observation, in the numbers of `ArraySet.section`.
    row
        (n,) int64 place of each row of the set among them.
    inputs
        Arrays (m, …) by name.
    """

    code: np.ndarray
    row: np.ndarray
    inputs: dict[str, np.ndarray]


@dataclass
class ArraySet:
    """Everything that networks read, row by row, without a container.

    Attributes
    ----------
    section, patient
        (n,) int64 codes.
    inputs
        Arrays or row sources (n, …) by the names of :data:`stpredict.models.INPUTS`; patches are (n, h, w, 3). Where rows
        have different numbers of values, as of nuclei, it is a :class:`Ragged`.
    target
        Values measured, see :class:`stpredict.models.Batch`; `None` where nothing was.
    kind
        What the target is; `None` for expression of genes without names.
    labeled
        (n,) bool, which rows were measured; all of them when `None`. The target of the others is not read.
    unit
        `"observation"`: spots, tiles, bins or cells of sections. `"slide"`: slides, which are compared with each other.
        `"gene"`: genes, which are compared with each other as well; their patients are chromosomes.
    whole
        Inputs of whole sections.
    genes
        Genes and their tables.
    identity
        (n,) int64, what tells a row from all others wherever it is: samples of networks that draw some depend on it. Their
        numbers here when `None`.
    n_primary
        Number of outputs that are wanted, the first ones, where the others are auxiliary; all of them when `None`.
    reach_um
        Side of the largest square that a row was read from, margin included: rows of a section that are nearer to each
        other share pixels. 0 where that is not known.
    """

    section: np.ndarray
    patient: np.ndarray
    inputs: dict[str, Any] = field(default_factory=dict)
    target: np.ndarray | None = None
    kind: Target | None = None
    labeled: np.ndarray | None = None
    unit: Literal["observation", "slide", "gene"] = "observation"
    whole: WholeSections | None = None
    genes: Panel = field(default_factory=Panel)
    identity: np.ndarray | None = None
    n_primary: int | None = None
    reach_um: float = 0.0

    def __post_init__(self) -> None:
        unknown = sorted(self.inputs.keys() - INPUTS.keys())
        if unknown:
            raise ValueError(f"expected inputs among {', '.join(INPUTS)}; found {', '.join(unknown)}")

    def __len__(self) -> int:
        return len(self.section)

    def __getitem__(self, name: str) -> Any:
        return self.inputs[name]

    def __contains__(self, name: str) -> bool:
        return name in self.inputs

    @property
    def widths(self) -> dict[str, int]:
        """Length of the last axis of every input that has a width."""
        arrays = {**self.inputs, **({} if self.whole is None else self.whole.inputs), **self.genes.tables}
        return {name: int(values.shape[-1]) for name, values in arrays.items() if INPUTS[name].width}

    @property
    def n_outputs(self) -> int:
        """Genes, classes or risks to predict."""
        if self.kind is not None:
            return len(self.kind.names)
        if self.target is None:
            raise ValueError("expected a measured target to train on; found none")
        return self.target.shape[1]

    def only_labeled(self) -> ArraySet:
        """The rows that were measured."""
        return self if self.labeled is None else replace(self.take(self.labeled), labeled=None)

    def outputs(self, index: np.ndarray) -> ArraySet:
        """The same rows with some of the genes that are predicted, in this order; every one of them is wanted."""
        if self.kind is None or self.target is None:
            raise ValueError("expected a target of genes whose kind is known; found none")
        names, tables = np.array(self.genes.names, dtype=object), self.genes.tables
        inputs = {n: columns_of(values, index) if n == "counts" else values for n, values in self.inputs.items()}
        return replace(
            self,
            inputs=inputs,
            target=self.kind.values_of(self.target, index),
            kind=self.kind.part(index),
            genes=Panel(tuple(names[index]), {n: t[index] for n, t in tables.items()}) if len(names) else self.genes,
            n_primary=None,
        )

    def only_primary(self) -> ArraySet:
        """The rows with the outputs that are wanted."""
        return self if self.n_primary is None else self.outputs(np.arange(self.n_primary))

    def take(self, index: np.ndarray) -> ArraySet:
        """Rows by integer index or mask."""
        index = np.flatnonzero(index) if index.dtype == bool else index
        return replace(
            self,
            section=self.section[index],
            patient=self.patient[index],
            inputs={name: _taken(values, index) for name, values in self.inputs.items()},
            target=None if self.target is None else _taken(self.target, index),
            labeled=None if self.labeled is None else self.labeled[index],
            whole=None if self.whole is None else replace(self.whole, row=self.whole.row[index]),
            identity=None if self.identity is None else self.identity[index],
        )

    def read_rows(self) -> ArraySet:
        """The same rows without what they are read from, but for files, which other processes read as well."""
        inputs = {
            name: values[np.arange(len(self))]
            if isinstance(values, TakenRows) and not in_files(values.source)
            else values
            for name, values in self.inputs.items()
        }
        return replace(self, inputs=inputs)

    def divided(self, train: np.ndarray, held_out: np.ndarray) -> tuple[ArraySet, ArraySet]:
        """Two parts, masks (n,), of sections that are on both sides: neither knows of the other.

        Inputs of whole sections are those of the part, and the sections of the second are others than those of the first.
        """
        own, held = self.take(train)._alone(), self.take(held_out)._alone()
        held.section = held.section + 1 + self.section.max()
        if held.whole is not None:
            held.whole = replace(held.whole, code=held.whole.code + 1 + self.section.max())
        return own, held

    def _alone(self) -> ArraySet:
        """The rows in sections that hold nothing but these."""
        if self.whole is None:
            return self
        members, whole = self.whole.row, self.whole
        inputs = {name: _taken(values, members) for name, values in whole.inputs.items()}
        return replace(self, whole=replace(whole, code=whole.code[members], row=np.arange(len(members)), inputs=inputs))

    def permuted(self, seed: int, *, by_output: bool = False) -> ArraySet:
        """The same inputs with what was measured shuffled: among the rows of each section, or of slides among patients.

        With `by_output` each output has a shuffle of its own over all rows, where outputs are separate measurements. Rows do
        not stay whole then, so that outputs that vary together do not err together, and no difference between sections is
        left to be learned.
        """
        if self.target is None:
            raise ValueError("expected a target to permute; found none")
        rng = np.random.default_rng(seed)
        _, first, patient = np.unique(self.patient, return_index=True, return_inverse=True)
        # Slides of a patient keep one profile: each patient gets that of another's first slide.
        slides = self.unit == "slide" and len(first) > 1
        if by_output and (self.kind is None or self.kind.separate):
            data = self.only_labeled()
            if data is not self:
                return data.permuted(seed, by_output=True)
            rows = first if slides else np.arange(len(self))
            source: Any = self.target.source if isinstance(self.target, TakenRows) else self.target
            if in_files(source):
                in_file = shuffled_outputs(self.target, rows, self.n_outputs, rng)
                shuffled: Any = TakenRows(in_file, patient) if slides else in_file
                return replace(self, target=shuffled)
            # Behind the outputs there may be more of the same: counts and their depths.
            values = np.array(in_memory(self.target)).reshape(len(self), -1, self.n_outputs)
            order = rng.random((len(rows), 1, self.n_outputs)).argsort(axis=0)
            values[rows] = np.take_along_axis(values[rows], order, axis=0)
            target = values.reshape(self.target.shape)
            return replace(self, target=target[first][patient] if slides else target)
        order = np.arange(len(self))
        if slides:
            order = rng.permutation(first)[patient]
        else:
            for code in np.unique(self.section):
                rows = np.flatnonzero(self.section == code)
                order[rows] = rng.permutation(rows)
        inputs = {k: _taken(v, order) if INPUTS[k].measured else v for k, v in self.inputs.items()}
        labeled = None if self.labeled is None else self.labeled[order]
        return replace(self, inputs=inputs, target=_taken(self.target, order), labeled=labeled)

    def with_permuted_tables(self, seed: int) -> ArraySet:
        """The same rows with the tables of genes permuted: what is known of each gene is what is known of another."""
        order = derangement(len(self.genes), seed)
        tables = {name: table[order] for name, table in self.genes.tables.items()}
        return replace(self, genes=replace(self.genes, tables=tables))

    def unmeasured(self) -> ArraySet:
        """What is known of rows to predict: nothing that was measured."""
        inputs = {name: values for name, values in self.inputs.items() if not INPUTS[name].measured}
        return replace(self, inputs=inputs, target=None, kind=None, labeled=None)

    def batch(self, index: np.ndarray, needs: frozenset[str] | None = None) -> Batch:
        """Tensors of some rows; only what is in `needs`, or everything."""

        def tensor(values: Any) -> torch.Tensor:
            return torch.from_numpy(np.ascontiguousarray(values[index]))

        wanted = self.inputs.keys() if needs is None else self.inputs.keys() & (needs | _ALWAYS)
        inputs = {name: tensor(self.inputs[name]) for name in self.inputs if name in wanted}
        if "patches" in inputs:
            inputs["patches"] = inputs["patches"].permute(0, 3, 1, 2)
        sections = None
        if self.whole is not None and (needs is None or needs & self.whole.inputs.keys()):
            members = np.flatnonzero(np.isin(self.whole.code, np.unique(self.section[index])))
            for name, values in self.whole.inputs.items():
                if needs is None or name in needs:
                    inputs[name] = torch.from_numpy(np.ascontiguousarray(values[members]))
            row = np.searchsorted(members, self.whole.row[index])
            sections = Sections(torch.from_numpy(self.whole.code[members]), torch.from_numpy(row))
        return Batch(
            section=tensor(self.section),
            patient=tensor(self.patient),
            inputs=inputs,
            target=None if self.target is None else tensor(self.target),
            kind=self.kind,
            labeled=None if self.labeled is None else tensor(self.labeled),
            sections=sections,
            identity=torch.from_numpy(np.arange(len(self))[index]) if self.identity is None else tensor(self.identity),
            reach_um=self.reach_um,
        )

    def digest(self) -> str:
        """Digest of everything in the set: no two sets that differ in anything share it."""
        digest = hashlib.sha256(json.dumps([self.unit, list(self.genes.names), self.n_primary, self.reach_um]).encode())
        if self.kind is not None:
            digest.update(json.dumps([self.kind.names, self.kind.to_dict()], sort_keys=True, default=str).encode())
        arrays: dict[str, Any] = {"section": self.section, "patient": self.patient, "target": self.target}
        arrays |= {"labeled": self.labeled, "identity": self.identity} | {
            f"input {name}": values for name, values in self.inputs.items()
        }
        arrays |= {f"genes {name}": values for name, values in self.genes.tables.items()}
        if self.whole is not None:
            arrays |= {"whole code": self.whole.code, "whole row": self.whole.row}
            arrays |= {f"whole {name}": values for name, values in self.whole.inputs.items()}
        for name, values in sorted(arrays.items()):
            if values is not None:
                digest.update(name.encode() + fingerprint(values).encode())
        return digest.hexdigest()


def _taken(values: Any, index: np.ndarray) -> Any:
    """Rows of an array, or a view of those of a row source."""
    if isinstance(values, Ragged | FileBags | FileSquares):
        return values.take(index)
    return values[index] if isinstance(values, np.ndarray) else TakenRows(values, index)


class TakenRows:
    """A view of some rows of a row source, without reading them."""

    def __init__(self, source: RowSource, index: np.ndarray) -> None:
        self.source, self.index = source, index
        if isinstance(source, TakenRows):
            self.source, self.index = source.source, source.index[index]

    def __getitem__(self, index: Any) -> np.ndarray:
        return self.source[self.index[index]]

    def __len__(self) -> int:
        return len(self.index)

    @property
    def shape(self) -> tuple[int, ...]:
        """Number of rows, and the shape of each."""
        return (len(self.index), *self.source.shape[1:])  # type: ignore[attr-defined]

    def columns_of(self, which: Any) -> TakenRows:
        """The same rows with some of the columns."""
        return TakenRows(columns_of(self.source, which), self.index)

    def fingerprint(self) -> str:
        """Digest of the source and of the rows taken."""
        return hashlib.sha256((fingerprint(self.source) + fingerprint(self.index)).encode()).hexdigest()


def in_memory(values: Any) -> np.ndarray:
    """An array as it is, or all rows of a row source."""
    return values if isinstance(values, np.ndarray) else np.asarray(values[np.arange(len(values))])


def fingerprint(values: Any) -> str:
    """Digest of an array, or what a row source says of itself; a source that says nothing is read."""
    if hasattr(values, "fingerprint"):
        return str(values.fingerprint())
    if not isinstance(values, np.ndarray):
        values = in_memory(values)
    array = np.ascontiguousarray(values)
    digest = hashlib.sha256(f"{array.dtype.str}{array.shape}".encode())
    digest.update(array.reshape(-1).view(np.uint8).data)  # its own memory: as bytes it would be copied
    return digest.hexdigest()


def summarize(data: ArraySet, needs: frozenset[str] = frozenset({"features"})) -> Summary:
    """Means and standard deviations of what a network reads, 0 for constants, and of the target, 1 for constants.

    Of inputs with padding, those over everything that is not padding.
    """
    if data.target is None:
        raise ValueError("expected a measured target to train on; found none")

    def tensors(pair: tuple[np.ndarray, np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = pair
        return torch.from_numpy(np.asarray(mean)).float(), torch.from_numpy(np.asarray(std)).float()

    lowest = None if data.kind is None else data.kind.lowest()
    target_mean, target_std = tensors(scales(data.target) if data.kind is None else data.kind.start(data.target))
    return Summary(
        len(data),
        target_mean,
        target_std,
        {name: tensors(moments(values)) for name, values in _columns(data, needs).items()},
        None if lowest is None else torch.from_numpy(lowest).float(),
    )


def _columns(data: ArraySet, needs: frozenset[str]) -> Mapping[str, np.ndarray]:
    """Values (…, d) of the inputs that have a width, without padding."""
    found: dict[str, Any] = {}
    for name, values in data.inputs.items():
        each = INPUTS[name]
        if each.width and name in needs:
            if each.sizes is not None:
                found[name] = values.every()
                continue
            if isinstance(values, FileBags | FileSquares) and each.mask is not None:
                found[name] = values.tokens(data.inputs[each.mask] > 0)
                continue
            if in_files(values.source if isinstance(values, TakenRows) else values):
                found[name] = values  # gone through block by block
                continue
            if not isinstance(values, np.ndarray):  # what is read when it is needed is known by some of its rows
                values = values[np.unique(np.linspace(0, len(values) - 1, _SUMMED).astype(int))]
            values = values if each.mask is None else values[data.inputs[each.mask] > 0]
            found[name] = values.reshape(math.prod(values.shape[:-1]), values.shape[-1])  # the last may be 0
    if data.whole is not None:
        mine = np.isin(data.whole.code, np.unique(data.section))
        wide = {n: v for n, v in data.whole.inputs.items() if INPUTS[n].width and n in needs}
        found |= {n: _taken(v, np.flatnonzero(mine)) for n, v in wide.items()}
    return found | {name: table for name, table in data.genes.tables.items() if name in needs}
